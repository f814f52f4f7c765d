//! Suite `page-examples`, kind `dns-name`: names of Pods of headless services, resolved against the Service and the Pod of
//! the case.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Service};
use kermode_k8s::convert::facts::{PodFacts, ServiceFacts};
use kermode_k8s::index::Index;
use kermode_model::{DEFAULT_MESH, Mesh, ObjectKey};
use kermode_names::{Resolution, resolve};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `dns-name`.
pub(crate) struct DnsName;

impl Runner for DnsName {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["dns-name"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let (index, pod) = index(case)?;
        let dataplane = index.view().dataplane(&pod).context("the Pod has no Dataplane")?;
        let names = case.at("/expected/names").as_array().context("no names")?;
        let resolves_to = |name: &Value| {
            let name = name.as_str().unwrap_or_default();
            match resolve(index.view(), dataplane, name) {
                Resolution::Pod(addresses) => json!(addresses),
                other => json!(format!("{other:?}")),
            }
        };
        let address = json!([case.at("/inputs/pod/ip")]);
        // With `anyOf`, one of the names has to exist.
        let is_any_enough = *case.at("/expected/anyOf") == json!(true);
        let actual: Vec<_> = names.iter().map(resolves_to).collect();
        let actual = match actual.iter().find(|actual| is_any_enough && **actual == address) {
            Some(_) => vec![address.clone(); names.len()],
            None => actual,
        };
        Ok(Outcome::Compared {
            expected: json!(vec![address; names.len()]),
            actual: json!(actual),
        })
    }
}

/// Returns an index with the Service and the Pod of the case, and the key of the Pod.
fn index(case: &Case<'_>) -> Result<(Index, ObjectKey)> {
    let (service, pod) = (case.at("/inputs/service"), case.at("/inputs/pod"));
    let (namespace, name) = (&service["namespace"], &pod["name"]);
    let labels = json!({"app": "case"});
    let pod_object: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels,
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"containers": [{"name": "app"}, {"name": "kuma-sidecar"}]},
        "status": {"podIP": pod["ip"], "phase": "Running"},
    }))?;
    let service_object: Service = serde_json::from_value(json!({
        "metadata": {"name": service["name"], "namespace": namespace},
        "spec": {
            "selector": labels, "clusterIP": service["clusterIP"],
            "ports": [{"port": service["port"], "targetPort": case.at("/expected/port")}],
        },
    }))?;
    let mut index = Index::default();
    index.apply_mesh(Mesh::new(DEFAULT_MESH));
    index.apply_service(ServiceFacts::from(&service_object));
    index.apply_pod(PodFacts::from(&pod_object));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok((index, ObjectKey::new(text(namespace), text(name))))
}
