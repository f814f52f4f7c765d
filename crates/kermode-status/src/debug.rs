//! Converts the status of a sidecar to the response of `/debug/proxies`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kermode_crds::{ConfigurationStatus, RejectionStatus, SidecarStatus};
use kermode_protocol::debug::{Configuration, ConnectedProxy, Rejection};

/// Returns the response for one connected proxy. The response has the same JSON as the status, with sorted keys.
pub(crate) fn connected_proxy(sidecar: SidecarStatus) -> ConnectedProxy {
    let ConfigurationStatus {
        sent,
        acknowledged,
        last_rejection,
    } = sidecar.configuration;
    ConnectedProxy {
        configuration: Configuration {
            acknowledged,
            last_rejection: last_rejection.map(rejection),
            sent,
        },
        control_plane: sidecar.control_plane,
        envoy_version: sidecar.envoy_version,
        version: sidecar.version,
    }
}

fn rejection(status: RejectionStatus) -> Rejection {
    Rejection {
        kind: status.kind,
        message: status.message,
        resources: status.resources,
        time: rfc3339(&status.time),
    }
}

/// Formats a time as the API server does.
fn rfc3339(time: &Time) -> String {
    let value = serde_json::to_value(time).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn json_equals_the_json_of_the_status() {
        let with_rejection = SidecarStatus {
            version: "0.1.0".to_owned(),
            envoy_version: "1.40.0".to_owned(),
            control_plane: "cp-1".to_owned(),
            configuration: ConfigurationStatus {
                sent: "9".to_owned(),
                acknowledged: "7".to_owned(),
                last_rejection: Some(RejectionStatus {
                    time: Time(Timestamp::from_millisecond(1_767_225_600_123).unwrap()),
                    kind: "Listener".to_owned(),
                    resources: vec!["inbound:10.0.0.1:80".to_owned()],
                    message: "no such filter".to_owned(),
                }),
            },
        };
        for status in [SidecarStatus::default(), with_rejection] {
            let sorted_json = serde_json::json!(status).to_string();
            assert_eq!(
                serde_json::to_string(&connected_proxy(status)).unwrap(),
                sorted_json
            );
        }
    }
}
