//! State of one proxy, updated by the reports of its streams, and its conversion to the status of a Dataplane. No IO.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kermode_crds::{ConfigurationStatus, DataplaneStatus, RejectionStatus, SidecarStatus, condition};
use kermode_protocol::ads::Versions;
use kermode_xds::server::{ConfigurationVersions, Progress, Report};

/// Maximum number of characters of Envoy's error message that the status contains.
const MAX_MESSAGE_LENGTH: usize = 1024;
/// Maximum number of rejected resources that the status names.
const MAX_REJECTED_NAMES: usize = 10;

/// State of a connected proxy, or of a disconnected proxy until its status is written.
#[derive(Debug, Default)]
pub(super) struct ProxyState {
    /// Number of the newest stream; `None` if this stream has ended.
    stream: Option<u64>,
    /// Versions of the agent and of Envoy.
    versions: Versions,
    /// Last reported progress of the newest stream.
    progress: Progress,
    /// Current versions of the newest stream's configuration. May be newer than the versions in `progress`.
    configuration_versions: Arc<ConfigurationVersions>,
    last_rejection: Option<RejectionStatus>,
    /// Time of the last change of the condition `Connected`.
    connection_changed_at: Timestamp,
    /// Time of the last change of the condition `ConfigurationAccepted`.
    acceptance_changed_at: Timestamp,
    /// Time of the last write of the status, or of the last attempt that found no Dataplane.
    pub(super) written_at: Option<Instant>,
    /// Whether the writer has received the status of the disconnected proxy, and no report has arrived since then. The
    /// proxy is removed when the write succeeds.
    pub(super) is_writing_last_status: bool,
}

/// Versions and rejections of a connected proxy, without text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxySummary {
    /// Newest version of the configuration that was sent; 0 for none.
    pub sent: u64,
    /// Newest version that was acknowledged as a whole; 0 for none.
    pub acknowledged: u64,
    /// Number of resources whose current version Envoy rejects.
    pub rejected_resources: usize,
}

/// How urgently the status is written to the API server after a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// No write is needed.
    None,
    /// The connection or the acceptance of the configuration changed.
    Soon,
    /// The proxy disconnected and may reconnect.
    Disconnected,
    /// Only configuration versions changed.
    Versions,
}

impl ProxyState {
    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns the summary; `None` if the proxy is not connected.
    pub(super) fn summary(&self) -> Option<ProxySummary> {
        self.is_connected().then(|| {
            let (sent, acknowledged) = self.configuration_versions.peek();
            ProxySummary {
                sent,
                acknowledged,
                rejected_resources: self.progress.rejected_resources,
            }
        })
    }

    /// Applies a report. Ignores reports of streams older than the newest stream.
    pub(super) fn on_report(&mut self, stream: u64, report: &Report<'_>, now: Timestamp) -> Urgency {
        if self.stream.is_some_and(|newest| newest > stream) {
            return Urgency::None;
        }
        self.is_writing_last_status = false;
        match report {
            Report::Connected(versions, configuration_versions) => {
                if self.stream.is_none() {
                    self.connection_changed_at = now;
                }
                self.stream = Some(stream);
                self.versions = versions.clone();
                self.configuration_versions = configuration_versions.clone();
                self.progress = Progress::default();
                self.acceptance_changed_at = now;
                Urgency::Soon
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
                        .take(MAX_REJECTED_NAMES)
                        .map(|name| (*name).to_owned())
                        .collect(),
                    message: message.chars().take(MAX_MESSAGE_LENGTH).collect(),
                });
                Urgency::Soon
            }
            Report::Disconnected => {
                self.stream = None;
                self.connection_changed_at = now;
                Urgency::Disconnected
            }
        }
    }

    fn on_progress(&mut self, progress: Progress, now: Timestamp) -> Urgency {
        let before = std::mem::replace(&mut self.progress, progress);
        let has_acceptance_changed = (before.rejected_resources == 0) != (progress.rejected_resources == 0);
        let is_first_acknowledgement = before.acknowledged == 0 && progress.acknowledged != 0;
        // The first acknowledgement ends the status Unknown of the condition.
        if has_acceptance_changed || is_first_acknowledgement {
            self.acceptance_changed_at = now;
            Urgency::Soon
        } else {
            Urgency::Versions
        }
    }

    /// Returns the status fields that this replica writes; `replica` is its name.
    pub(super) fn status(&self, replica: &str) -> DataplaneStatus {
        // 0 means that no version has been sent or acknowledged.
        let version = |number: u64| {
            if number == 0 {
                String::new()
            } else {
                number.to_string()
            }
        };
        let (sent, acknowledged) = self.configuration_versions.read();
        DataplaneStatus {
            inbounds: None,
            sidecar: Some(SidecarStatus {
                version: self.versions.agent.clone(),
                envoy_version: self.versions.envoy.clone(),
                control_plane: if self.is_connected() {
                    replica.to_owned()
                } else {
                    String::new()
                },
                configuration: ConfigurationStatus {
                    sent: version(sent),
                    acknowledged: version(acknowledged),
                    last_rejection: self.last_rejection.clone(),
                },
            }),
            conditions: vec![self.connected_condition(replica), self.accepted_condition()],
        }
    }

    fn connected_condition(&self, replica: &str) -> Condition {
        let (reason, message) = if self.is_connected() {
            (
                "StreamOpen",
                format!("The sidecar receives its configuration from replica {replica}."),
            )
        } else {
            let message = "The sidecar has no stream to the control plane and keeps its last configuration. \
                           See the log of the sidecar for the reason.";
            ("StreamClosed", message.to_owned())
        };
        new_condition(
            condition::CONNECTED,
            Some(self.is_connected()),
            reason,
            message,
            self.connection_changed_at,
        )
    }

    fn accepted_condition(&self) -> Condition {
        let Progress {
            acknowledged,
            rejected_resources,
            ..
        } = self.progress;
        let (is_true, reason, message) = match (rejected_resources, &self.last_rejection) {
            (1.., Some(rejection)) => (
                Some(false),
                "Rejected",
                format!(
                    "Envoy rejects the current versions of {rejected_resources} resources. Last rejection: {} {}: {}",
                    rejection.kind,
                    rejection.resources.join(", "),
                    rejection.message
                ),
            ),
            (1.., None) => (
                Some(false),
                "Rejected",
                format!("Envoy rejects {rejected_resources} resources."),
            ),
            (0, _) if acknowledged == 0 => (
                None,
                "NothingAcknowledged",
                "The sidecar has not acknowledged its first configuration yet.".to_owned(),
            ),
            (0, _) => (
                Some(true),
                "Acknowledged",
                "The sidecar has acknowledged its configuration.".to_owned(),
            ),
        };
        new_condition(
            condition::CONFIGURATION_ACCEPTED,
            is_true,
            reason,
            message,
            self.acceptance_changed_at,
        )
    }
}

fn new_condition(
    type_: &str,
    is_true: Option<bool>,
    reason: &str,
    message: String,
    changed_at: Timestamp,
) -> Condition {
    let status = match is_true {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(changed_at),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn mk_connected_proxy() -> ProxyState {
        let mut proxy = ProxyState::default();
        let versions = Versions {
            agent: "0.1.0".to_owned(),
            envoy: "1.40.0".to_owned(),
        };
        assert_eq!(
            proxy.on_report(1, &Report::Connected(versions, Arc::default()), at(1)),
            Urgency::Soon
        );
        proxy
    }

    fn mk_progress(sent: u64, acknowledged: u64, rejected_resources: usize) -> Report<'static> {
        Report::Progress(Progress {
            sent,
            acknowledged,
            rejected_resources,
        })
    }

    fn condition_statuses(proxy: &ProxyState) -> Vec<String> {
        let conditions = proxy.status("cp-1").conditions;
        conditions
            .into_iter()
            .map(|condition| format!("{}={}", condition.type_, condition.status))
            .collect()
    }

    #[test]
    fn only_the_first_acknowledgement_is_urgent() {
        let mut proxy = mk_connected_proxy();
        assert_eq!(
            condition_statuses(&proxy),
            ["Connected=True", "ConfigurationAccepted=Unknown"]
        );
        assert_eq!(
            proxy.on_report(1, &mk_progress(7, 0, 0), at(2)),
            Urgency::Versions
        );
        assert_eq!(proxy.on_report(1, &mk_progress(7, 7, 0), at(2)), Urgency::Soon);
        assert_eq!(
            proxy.on_report(1, &mk_progress(9, 9, 0), at(3)),
            Urgency::Versions
        );
        assert_eq!(
            condition_statuses(&proxy),
            ["Connected=True", "ConfigurationAccepted=True"]
        );
        proxy.configuration_versions = Arc::new(ConfigurationVersions::from(Progress {
            sent: 11,
            acknowledged: 10,
            rejected_resources: 0,
        }));
        let sidecar = proxy.status("cp-1").sidecar.expect("a sidecar");
        assert_eq!(
            (
                sidecar.configuration.sent.as_str(),
                sidecar.configuration.acknowledged.as_str()
            ),
            ("11", "10"),
            "the status has the current versions, not the versions of the last report"
        );
        assert_eq!(sidecar.version, "0.1.0");
    }

    #[test]
    fn rejection_is_kept_after_the_resource_is_accepted() {
        let mut proxy = mk_connected_proxy();
        let rejected = Report::Rejected {
            kind: "Listener",
            resources: &["inbound:10.0.0.1:80"],
            message: "no such filter",
        };
        assert_eq!(proxy.on_report(1, &rejected, at(2)), Urgency::Soon);
        assert_eq!(proxy.on_report(1, &mk_progress(2, 0, 1), at(2)), Urgency::Soon);
        assert_eq!(condition_statuses(&proxy)[1], "ConfigurationAccepted=False");
        assert_eq!(proxy.on_report(1, &mk_progress(3, 3, 0), at(5)), Urgency::Soon);
        assert_eq!(condition_statuses(&proxy)[1], "ConfigurationAccepted=True");
        let status = proxy.status("cp-1");
        assert_eq!(status.conditions[1].last_transition_time, Time(at(5)));
        let last = status
            .sidecar
            .and_then(|sidecar| sidecar.configuration.last_rejection);
        assert_eq!(last.expect("a rejection").message, "no such filter");
    }

    #[test]
    fn first_acknowledgement_is_a_transition_of_the_condition() {
        let mut proxy = mk_connected_proxy();
        assert_eq!(condition_statuses(&proxy)[1], "ConfigurationAccepted=Unknown");
        proxy.on_report(1, &mk_progress(2, 0, 0), at(3));
        proxy.on_report(1, &mk_progress(2, 2, 0), at(7));
        assert_eq!(condition_statuses(&proxy)[1], "ConfigurationAccepted=True");
        assert_eq!(
            proxy.status("cp-1").conditions[1].last_transition_time,
            Time(at(7))
        );
    }

    #[test]
    fn end_of_an_older_stream_changes_nothing() {
        let mut proxy = mk_connected_proxy();
        let reconnected = Report::Connected(Versions::default(), Arc::default());
        proxy.on_report(2, &reconnected, at(2));
        assert_eq!(proxy.on_report(1, &Report::Disconnected, at(3)), Urgency::None);
        assert!(proxy.is_connected());
        assert_eq!(
            proxy.on_report(2, &Report::Disconnected, at(4)),
            Urgency::Disconnected
        );
        assert_eq!(condition_statuses(&proxy)[0], "Connected=False");
        let sidecar = proxy.status("cp-1").sidecar.expect("a sidecar");
        assert_eq!(sidecar.control_plane, "", "a disconnected proxy has no replica");
    }
}
