//! One proxy as this replica sees it: what its streams have reported, and the status made of that. No IO.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kermode_crds::{ConfigurationStatus, DataplaneStatus, RejectionStatus, SidecarStatus, condition};
use kermode_protocol::ads::Versions;
use kermode_xds::server::{Numbers, Progress, Report};

/// The longest explanation of Envoy's that is kept, in characters.
const MAX_MESSAGE: usize = 1024;
/// How many refused resources are named.
const MAX_NAMES: usize = 10;

/// A proxy that is, or was a moment ago, connected.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    /// The newest stream, while it is open.
    stream: Option<u64>,
    versions: Versions,
    progress: Progress,
    /// Newer than those of the progress.
    numbers: Arc<Numbers>,
    last_rejection: Option<RejectionStatus>,
    connection_turned: Timestamp,
    acceptance_turned: Timestamp,
    /// When the status was written last.
    pub(super) written: Option<Instant>,
}

/// How soon people should see what a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// It changed nothing.
    None,
    /// It changed what they wait for.
    Matters,
    /// The proxy may come back in a moment.
    Gone,
    /// It changed numbers.
    Versions,
}

impl Proxy {
    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn on_report(&mut self, stream: u64, report: &Report<'_>, now: Timestamp) -> Urgency {
        if self.stream.is_some_and(|newest| newest > stream) {
            return Urgency::None;
        }
        match report {
            Report::Connected(versions, numbers) => {
                if self.stream.is_none() {
                    self.connection_turned = now;
                }
                self.stream = Some(stream);
                self.versions = versions.clone();
                self.numbers = numbers.clone();
                self.progress = Progress::default();
                self.acceptance_turned = now;
                Urgency::Matters
            }
            Report::Progress(progress) => self.on_progress(*progress, now),
            Report::Rejected {
                kind,
                resources,
                message,
            } => {
                self.last_rejection = Some(RejectionStatus {
                    time: Time(now),
                    kind: (*kind).to_owned(),
                    resources: resources
                        .iter()
                        .take(MAX_NAMES)
                        .map(|name| (*name).to_owned())
                        .collect(),
                    message: message.chars().take(MAX_MESSAGE).collect(),
                });
                Urgency::Matters
            }
            Report::Disconnected => {
                self.stream = None;
                self.connection_turned = now;
                Urgency::Gone
            }
        }
    }

    fn on_progress(&mut self, progress: Progress, now: Timestamp) -> Urgency {
        let before = std::mem::replace(&mut self.progress, progress);
        let turned = (before.refused == 0) != (progress.refused == 0);
        let first = before.acknowledged == 0 && progress.acknowledged != 0;
        if turned {
            self.acceptance_turned = now;
        }
        if turned || first {
            Urgency::Matters
        } else {
            Urgency::Versions
        }
    }

    /// The fields of the status that this replica writes.
    pub(super) fn status(&self, instance: &str) -> DataplaneStatus {
        let version = |number: u64| {
            if number == 0 {
                String::new()
            } else {
                number.to_string()
            }
        };
        let (sent, acknowledged) = self.numbers.read();
        DataplaneStatus {
            inbounds: None,
            sidecar: Some(SidecarStatus {
                version: self.versions.agent.clone(),
                envoy_version: self.versions.envoy.clone(),
                control_plane: if self.is_connected() {
                    instance.to_owned()
                } else {
                    String::new()
                },
                configuration: ConfigurationStatus {
                    sent: version(sent),
                    acknowledged: version(acknowledged),
                    last_rejection: self.last_rejection.clone(),
                },
            }),
            conditions: vec![self.connected(instance), self.accepted()],
        }
    }

    fn connected(&self, instance: &str) -> Condition {
        let (reason, message) = if self.is_connected() {
            (
                "StreamOpen",
                format!("The sidecar gets its configuration from {instance}."),
            )
        } else {
            let message = "The sidecar has no stream to the control plane; it goes on with what it has. \
                           Its log says why it does not come back.";
            ("StreamClosed", message.to_owned())
        };
        let turned = self.connection_turned;
        mk_condition(
            condition::CONNECTED,
            Some(self.is_connected()),
            reason,
            message,
            turned,
        )
    }

    fn accepted(&self) -> Condition {
        let Progress {
            acknowledged,
            refused,
            ..
        } = self.progress;
        let (holds, reason, message) = match (refused, &self.last_rejection) {
            (1.., Some(rejection)) => (
                Some(false),
                "Rejected",
                format!(
                    "Envoy refuses {refused} resources as they are now, last {} {}: {}",
                    rejection.kind,
                    rejection.resources.join(", "),
                    rejection.message
                ),
            ),
            (1.., None) => (
                Some(false),
                "Rejected",
                format!("Envoy refuses {refused} resources."),
            ),
            (0, _) if acknowledged == 0 => (
                None,
                "NothingAcknowledged",
                "The sidecar has not answered its first configuration yet.".to_owned(),
            ),
            (0, _) => (
                Some(true),
                "Acknowledged",
                "The sidecar has applied what it was sent.".to_owned(),
            ),
        };
        mk_condition(
            condition::CONFIGURATION_ACCEPTED,
            holds,
            reason,
            message,
            self.acceptance_turned,
        )
    }
}

fn mk_condition(
    type_: &str,
    holds: Option<bool>,
    reason: &str,
    message: String,
    turned: Timestamp,
) -> Condition {
    let status = match holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(turned),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn connected() -> Proxy {
        let mut proxy = Proxy::default();
        let versions = Versions {
            agent: "0.1.0".to_owned(),
            envoy: "1.40.0".to_owned(),
        };
        assert_eq!(
            proxy.on_report(1, &Report::Connected(versions, Arc::default()), at(1)),
            Urgency::Matters
        );
        proxy
    }

    fn progress(sent: u64, acknowledged: u64, refused: usize) -> Report<'static> {
        Report::Progress(Progress {
            sent,
            acknowledged,
            refused,
        })
    }

    fn statuses(proxy: &Proxy) -> Vec<String> {
        let conditions = proxy.status("cp-1").conditions;
        conditions
            .into_iter()
            .map(|condition| format!("{}={}", condition.type_, condition.status))
            .collect()
    }

    #[test]
    fn the_first_acknowledgement_matters_and_later_ones_are_numbers() {
        let mut proxy = connected();
        assert_eq!(
            statuses(&proxy),
            ["Connected=True", "ConfigurationAccepted=Unknown"]
        );
        assert_eq!(proxy.on_report(1, &progress(7, 0, 0), at(2)), Urgency::Versions);
        assert_eq!(proxy.on_report(1, &progress(7, 7, 0), at(2)), Urgency::Matters);
        assert_eq!(proxy.on_report(1, &progress(9, 9, 0), at(3)), Urgency::Versions);
        assert_eq!(statuses(&proxy), ["Connected=True", "ConfigurationAccepted=True"]);
        proxy.numbers = Arc::new(Numbers::from(Progress {
            sent: 11,
            acknowledged: 10,
            refused: 0,
        }));
        let sidecar = proxy.status("cp-1").sidecar.expect("a sidecar");
        assert_eq!(
            (
                sidecar.configuration.sent.as_str(),
                sidecar.configuration.acknowledged.as_str()
            ),
            ("11", "10"),
            "those of the moment, whether they were told or not"
        );
        assert_eq!(sidecar.version, "0.1.0");
    }

    #[test]
    fn a_rejection_stays_on_record_after_it_is_healed() {
        let mut proxy = connected();
        let rejected = Report::Rejected {
            kind: "Listener",
            resources: &["inbound:10.0.0.1:80"],
            message: "no such filter",
        };
        assert_eq!(proxy.on_report(1, &rejected, at(2)), Urgency::Matters);
        assert_eq!(proxy.on_report(1, &progress(2, 0, 1), at(2)), Urgency::Matters);
        assert_eq!(statuses(&proxy)[1], "ConfigurationAccepted=False");
        assert_eq!(proxy.on_report(1, &progress(3, 3, 0), at(5)), Urgency::Matters);
        assert_eq!(statuses(&proxy)[1], "ConfigurationAccepted=True");
        let status = proxy.status("cp-1");
        assert_eq!(status.conditions[1].last_transition_time, Time(at(5)));
        let last = status
            .sidecar
            .and_then(|sidecar| sidecar.configuration.last_rejection);
        assert_eq!(last.expect("on record").message, "no such filter");
    }

    #[test]
    fn the_end_of_an_older_stream_says_nothing() {
        let mut proxy = connected();
        let again = Report::Connected(Versions::default(), Arc::default());
        proxy.on_report(2, &again, at(2));
        assert_eq!(proxy.on_report(1, &Report::Disconnected, at(3)), Urgency::None);
        assert!(proxy.is_connected());
        assert_eq!(proxy.on_report(2, &Report::Disconnected, at(4)), Urgency::Gone);
        assert_eq!(statuses(&proxy)[0], "Connected=False");
        let sidecar = proxy.status("cp-1").sidecar.expect("a sidecar");
        assert_eq!(sidecar.control_plane, "", "nobody serves it");
    }
}
