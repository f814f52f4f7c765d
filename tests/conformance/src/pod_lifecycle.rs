//! Suite `pod-lifecycle`, run with the index: the Dataplanes that must exist, and the sidecars that must quit.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_k8s::convert::dataplane_object;
use kermode_k8s::convert::facts::{NamespaceFacts, PodFacts, ServiceFacts};
use kermode_k8s::index::Index;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::pod_to_dataplane::{comparable, decode};
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct PodLifecycle;

impl Runner for PodLifecycle {
    fn suite(&self) -> &'static str {
        "pod-lifecycle"
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "reconcile" | "event-filter" => count_quit_requests(case),
            "reconcile-pod" => compare_desired_dataplanes(case),
            other => bail!("unknown kind {other:?}"),
        }
    }
}

/// Counts the sidecars that must quit because all other containers of the Pod have completed. If the case says that the
/// Dataplane of the Pod exists, this function adds the annotation, the sidecar and the IP that a Pod with a Dataplane
/// needs.
fn count_quit_requests(case: &Case<'_>) -> Result<Outcome> {
    let mut pod = case.at("/inputs/pod").clone();
    let mut index = Index::default();
    let mut quit_requests = 0;
    if !pod.is_null() {
        if case.decode("/inputs/dataplaneExists")? {
            pod["metadata"]["annotations"] = json!({"kuma.io/sidecar-injected": "true"});
            add_sidecar(&mut pod);
            pod["status"]["podIP"] = json!("192.0.2.1");
        }
        quit_requests = index
            .apply_pod(PodFacts::from(&decode::<Pod>(&pod)?))
            .sidecars_to_quit
            .len();
    }
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: json!({"quitRequests": quit_requests}),
    })
}

/// Compares the Dataplanes that must exist according to the index with the expected Dataplanes.
fn compare_desired_dataplanes(case: &Case<'_>) -> Result<Outcome> {
    let mut index = Index::default();
    index.apply_namespace(NamespaceFacts::from(&decode::<Namespace>(
        case.at("/inputs/namespace"),
    )?));
    for service in case.decode::<Vec<Value>>("/inputs/services")? {
        index.apply_service(ServiceFacts::from(&decode::<Service>(&service)?));
    }
    let mut pod = case.at("/inputs/pod").clone();
    if !pod.is_null() {
        add_sidecar(&mut pod);
        index.apply_pod(PodFacts::from(&decode::<Pod>(&pod)?));
    }
    let desired = index
        .all_desired()
        .map(|entry| serde_json::to_value(dataplane_object(entry.dataplane, entry.pod_uid)));
    let desired = desired.collect::<Result<Vec<_>, _>>()?;
    let expected: Vec<Value> = case.decode("/expected/dataplanes")?;
    Ok(Outcome::Compared {
        expected: expected.iter().map(comparable_with_metadata).collect(),
        actual: desired.iter().map(comparable_with_metadata).collect(),
    })
}

/// Adds the container of the sidecar to a Pod without it. Kuma recognizes an injected Pod by its annotation, so the
/// corpus has injected Pods without a sidecar.
fn add_sidecar(pod: &mut Value) {
    let is_sidecar = |container: &Value| container["name"] == "kuma-sidecar";
    if let Some(containers) = pod["spec"]["containers"].as_array_mut()
        && !containers.iter().any(is_sidecar)
    {
        containers.push(json!({"name": "kuma-sidecar"}));
    }
}

/// Returns a Dataplane with its metadata, normalized for the comparison.
fn comparable_with_metadata(dataplane: &Value) -> Value {
    let mut result = comparable(dataplane);
    result["metadata"] = dataplane["metadata"].clone();
    result
}
