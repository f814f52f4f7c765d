//! Summary of a sidecar: what Envoy says about itself, and the status of its Dataplane.

use kermode_crds::annotation;
use serde::Serialize;
use serde_json::Value;

use super::{Certificates, Clusters, InspectError, Statistics, json, text};
use crate::explanation::{Line, Section, lines_text};
use crate::{observed, sidecar};

/// Summary of a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Namespace and name of the Dataplane.
    pub dataplane: String,
    /// Facts by topic.
    pub sections: Vec<Section>,
}

impl Summary {
    /// Path of Envoy's admin interface.
    pub const PATH: &'static str = "/server_info";

    /// Formats the summary for people.
    pub fn to_text(&self) -> String {
        let mut text = format!("Dataplane {}\n", self.dataplane);
        for section in &self.sections {
            text.push('\n');
            text.push_str(&lines_text(
                &[Line::new(section.title).with(section.lines.clone())],
                0,
            ));
        }
        text
    }
}

/// Summarizes a sidecar. `dataplane` is its Dataplane, if it exists; `server_info` is Envoy's response to
/// [`Summary::PATH`].
///
/// # Errors
/// If the response is not JSON.
pub fn summary(
    name: String,
    dataplane: Option<&Value>,
    server_info: &[u8],
    certificates: &Certificates,
    clusters: &Clusters,
    statistics: &Statistics,
) -> Result<Summary, InspectError> {
    let server_info = json(Summary::PATH, server_info)?;
    let mut sections = vec![Section {
        title: "Envoy",
        lines: envoy(&server_info, certificates, clusters, statistics),
    }];
    let lines = match dataplane {
        Some(dataplane) => {
            let mesh = Line::new(format!("mesh: {}", text(dataplane, "mesh")));
            [vec![mesh], sidecar::lines(dataplane, false)].concat()
        }
        None => vec![Line::new(
            "the Dataplane does not exist: the control plane has not written it, or the Pod cannot be converted; \
             kumactl explain pod names the reason",
        )],
    };
    sections.push(Section {
        title: "Control plane",
        lines,
    });
    Ok(Summary {
        dataplane: name,
        sections,
    })
}

fn envoy(
    server_info: &Value,
    certificates: &Certificates,
    clusters: &Clusters,
    statistics: &Statistics,
) -> Vec<Line> {
    let mut lines = vec![Line::new(format!(
        "state {}, running for {}",
        text(server_info, "state"),
        text(server_info, "uptime_current_epoch")
    ))];
    for certificate in certificates.identities() {
        let details = certificate.uris.iter().map(Line::new);
        let line = format!(
            "certificate {} expires at {}, in {}",
            certificate.serial,
            certificate.expires,
            certificate.remaining()
        );
        lines.push(Line::new(line).with(details));
    }
    if certificates.identities().next().is_none() {
        lines.push(Line::new(
            "no certificate: mTLS of the mesh is off, or no certificate was issued",
        ));
    }
    let endpoints = clusters.0.iter().flat_map(|cluster| &cluster.endpoints);
    let unhealthy = endpoints.clone().filter(|endpoint| !endpoint.healthy).count();
    lines.push(Line::new(format!(
        "{} clusters with {} endpoints, of which {unhealthy} get no requests",
        clusters.0.len(),
        endpoints.count()
    )));
    let traffic = statistics.traffic();
    let sum = |number: fn(&super::Traffic) -> u64| traffic.iter().map(number).sum::<u64>();
    lines.push(Line::new(format!(
        "{} requests since the start, {} responses 5xx, {} denied",
        sum(|traffic| traffic.requests),
        sum(|traffic| traffic.server_errors),
        sum(|traffic| traffic.denied),
    )));
    lines
}

/// Returns the port of Envoy's admin interface of a Pod, from the annotation that the injector writes.
///
/// # Errors
/// If the Pod has no sidecar or does not run. The text names the remedy.
pub fn admin_port(pod: &Value) -> Result<u16, NoSidecar> {
    let name = observed::Reference::to(pod).to_string();
    let containers = ["/spec/containers", "/spec/initContainers"];
    let mut containers = containers.iter().flat_map(|pointer| observed::list(pod, pointer));
    if !containers.any(|container| container["name"] == SIDECAR) {
        return Err(NoSidecar::Missing { name });
    }
    let phase = observed::text(pod, "/status/phase");
    if phase != "Running" && phase != "Pending" {
        return Err(NoSidecar::NotRunning {
            name,
            phase: if phase.is_empty() { "unknown" } else { phase }.to_owned(),
        });
    }
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut statuses = statuses.iter().flat_map(|pointer| observed::list(pod, pointer));
    let runs = statuses.any(|status| status["name"] == SIDECAR && status["state"]["running"].is_object());
    if !runs {
        return Err(NoSidecar::NotStarted { name });
    }
    let annotations = &pod["metadata"]["annotations"];
    let port = annotations[annotation::ENVOY_ADMIN_PORT].as_str();
    Ok(port
        .and_then(|port| port.parse().ok())
        .unwrap_or(kermode_model::Dataplane::DEFAULT_ADMIN_PORT))
}

/// Name of the sidecar's container.
const SIDECAR: &str = "kuma-sidecar";

/// Reason why the sidecar of a Pod cannot be inspected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSidecar {
    /// The Pod has no sidecar.
    #[error(
        "{name} has no container kuma-sidecar, so it has no sidecar; kumactl explain pod names the reason"
    )]
    Missing {
        /// Kind, namespace and name.
        name: String,
    },
    /// The Pod has ended.
    #[error("{name} does not run: status.phase is {phase}; inspect a Pod that runs")]
    NotRunning {
        /// Kind, namespace and name.
        name: String,
        /// The phase.
        phase: String,
    },
    /// The container of the sidecar does not run.
    #[error("container kuma-sidecar of {name} does not run; kumactl explain pod names the reason")]
    NotStarted {
        /// Kind, namespace and name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: &str, phase: &str, state: &str) -> Value {
        json!({
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "web-0", "annotations": {"kuma.io/envoy-admin-port": "9902"}},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": container}]},
            "status": {"phase": phase, "initContainerStatuses": [{"name": container, "state": {state: {}}}]},
        })
    }

    #[test]
    fn admin_port_of_a_native_sidecar_is_that_of_the_annotation() {
        assert_eq!(admin_port(&pod("kuma-sidecar", "Running", "running")), Ok(9902));
    }

    #[test]
    fn pod_without_a_running_sidecar_is_named_with_the_reason() {
        let error = |pod: &Value| admin_port(pod).expect_err("no sidecar").to_string();
        assert!(
            error(&pod("other", "Running", "running"))
                .starts_with("Pod shop/web-0 has no container kuma-sidecar")
        );
        assert!(error(&pod("kuma-sidecar", "Succeeded", "terminated")).contains("status.phase is Succeeded"));
        assert!(error(&pod("kuma-sidecar", "Pending", "waiting")).contains("does not run"));
    }

    #[test]
    fn summary_names_state_certificate_endpoints_and_the_missing_dataplane() {
        let server_info = json!({"state": "LIVE", "uptime_current_epoch": "61s"}).to_string();
        let clusters = json!({"cluster_statuses": [{"name": "web", "host_statuses": [
            {"health_status": {"failed_outlier_check": true}}, {"health_status": {}},
        ]}]});
        let summary = summary(
            "shop/web-0".to_owned(),
            None,
            server_info.as_bytes(),
            &Certificates::default(),
            &Clusters::parse(clusters.to_string().as_bytes()).expect("clusters"),
            &Statistics::parse(b"cluster.localhost_80.upstream_rq_completed: 3\n"),
        );
        let text = summary.expect("a summary").to_text();
        for expected in [
            "state LIVE, running for 61s",
            "no certificate: mTLS of the mesh is off",
            "1 clusters with 2 endpoints, of which 1 get no requests",
            "3 requests since the start, 0 responses 5xx, 0 denied",
            "the Dataplane does not exist",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in {text}");
        }
    }
}
