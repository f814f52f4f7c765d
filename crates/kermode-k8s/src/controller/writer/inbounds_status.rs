//! The leader's part of a Dataplane's status: the number of its inbounds, and whether all inbounds are ready.

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kermode_crds::{DataplaneStatus, InboundsStatus, condition};
use kermode_model::{Dataplane, ObjectKey};

use super::WriterInner;
use super::observed::StatusHash;
use crate::controller::status::{DesiredStatus, StatusSource, WriteOutcome};

impl WriterInner {
    /// Returns the status to write; `None` if the observed status is up to date, or if the Dataplane does not exist.
    pub(super) fn status_to_write(&self, key: &ObjectKey) -> Option<DataplaneStatus> {
        let desired = self.source.desired(key)?;
        let observed = self.observed.lock().get(key)?.status.clone();
        changed_status(&desired.dataplane, observed.as_ref(), Timestamp::now())
    }
}

impl StatusSource for WriterInner {
    fn desired_status<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, kube::Result<Option<DesiredStatus>>> {
        let desired = self.status_to_write(key).map(|status| DesiredStatus {
            status,
            resource_version: None,
        });
        Box::pin(std::future::ready(Ok(desired)))
    }

    fn on_write_outcome(&self, key: &ObjectKey, outcome: WriteOutcome) {
        let WriteOutcome::Written(observed) = outcome else {
            return;
        };
        let has_changed = self.update_observed(key, observed);
        if has_changed {
            // The written object may contain changes that another client of the API server has made meanwhile. The
            // next reconciliation compares all fields.
            self.queue.push(key.clone());
        }
    }
}

/// Returns the status of a Dataplane; `None` if it equals the observed status.
fn changed_status(
    dataplane: &Dataplane,
    observed: Option<&StatusHash>,
    now: Timestamp,
) -> Option<DataplaneStatus> {
    let inbounds = InboundsStatus::from(dataplane);
    let is_ready = inbounds.ready == inbounds.total;
    let observed_condition = observed.and_then(|observed| observed.ready_condition.as_ref());
    let unchanged_condition = observed_condition.filter(|(was_ready, _)| *was_ready == is_ready);
    let last_transition =
        unchanged_condition.map_or(Time(now), |(_, last_transition)| last_transition.clone());
    let condition = ready_condition(&inbounds, is_ready, last_transition);
    let desired = StatusHash::new(&inbounds, Some(&condition));
    if observed.is_some_and(|observed| desired.hash == observed.hash) {
        return None;
    }
    Some(DataplaneStatus {
        inbounds: Some(inbounds),
        sidecar: None,
        conditions: vec![condition],
    })
}

fn ready_condition(inbounds: &InboundsStatus, is_ready: bool, last_transition: Time) -> Condition {
    let (reason, message) = if is_ready {
        ("InboundsReady", "All inbounds may receive traffic.".to_owned())
    } else {
        let unready = inbounds.total - inbounds.ready;
        let message = format!(
            "{unready} of {} inbounds receive no traffic: their container or the sidecar is not ready, or the Pod \
             terminates.",
            inbounds.total
        );
        ("InboundsNotReady", message)
    };
    Condition {
        type_: condition::READY.to_owned(),
        status: if is_ready { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: last_transition,
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use kermode_model::{Inbound, tag};

    use super::*;

    fn mk_dataplane(is_ready: bool) -> Dataplane {
        Dataplane {
            key: ObjectKey::new("ns", "pod"),
            mesh: "default".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            additional_addresses: Vec::new(),
            inbounds: vec![Inbound {
                port: 80,
                tags: [(tag::SERVICE.into(), "web_ns_svc_80".into())].into(),
                ready: Some(is_ready),
            }],
            gateway: None,
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn observed(status: &DataplaneStatus) -> StatusHash {
        StatusHash::new(
            status.inbounds.as_ref().expect("the status has inbounds"),
            status.conditions.first(),
        )
    }

    #[test]
    fn status_that_is_up_to_date_is_not_written() {
        let first = changed_status(&mk_dataplane(true), None, at(1)).expect("the first status");
        assert_eq!(
            changed_status(&mk_dataplane(true), Some(&observed(&first)), at(2)),
            None
        );
    }

    #[test]
    fn condition_keeps_its_transition_time_until_its_status_changes() {
        let first = changed_status(&mk_dataplane(true), None, at(1)).expect("the first status");
        let mut two_inbounds = mk_dataplane(true);
        two_inbounds.inbounds.push(two_inbounds.inbounds[0].clone());
        let second = changed_status(&two_inbounds, Some(&observed(&first)), at(2))
            .expect("a status with another number of inbounds");
        assert_eq!(second.conditions[0].last_transition_time, Time(at(1)));
        let third = changed_status(&mk_dataplane(false), Some(&observed(&second)), at(3))
            .expect("a status with another condition");
        assert_eq!(third.conditions[0].last_transition_time, Time(at(3)));
        assert_eq!(third.conditions[0].status, "False");
    }
}
