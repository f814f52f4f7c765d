//! Third stage of injection: renders the containers as JSON (docs/reference/injection.md#rendered-containers).

mod env;
pub(crate) mod init;
mod sidecar;
mod token;

use serde_json::{Map, Value, json};

pub(crate) use self::sidecar::sidecar;
pub(crate) use self::token::{TokenAndRoots, is_token_mount, token_and_roots};
use crate::pod::PodResources;
use crate::settings::{ResourceAmounts, Resources};

/// Renders an emptyDir volume of at most 10 MB.
pub(crate) fn small_empty_dir(name: &str) -> Value {
    json!({"name": name, "emptyDir": {"sizeLimit": "10M"}})
}

/// Renders the requests and limits of a container. A resource in `pod_resources` is omitted: all containers share the
/// Pod's amount of this resource, and the API server rejects a container whose amount exceeds the Pod's amount.
fn resources(resources: &Resources, pod_resources: PodResources<'_>) -> Value {
    json!({"requests": amounts(&resources.requests, pod_resources), "limits": amounts(&resources.limits, pod_resources)})
}

/// Renders the amounts that are not empty and not in `pod_resources`.
fn amounts(amounts: &ResourceAmounts, pod_resources: PodResources<'_>) -> Value {
    let rendered = [("cpu", &amounts.cpu), ("memory", &amounts.memory)]
        .into_iter()
        .filter(|(name, quantity)| !quantity.is_empty() && !pod_resources.contains(name))
        .map(|(name, quantity)| (name.to_owned(), Value::from(quantity.as_str())));
    Value::Object(rendered.collect::<Map<_, _>>())
}

/// Renders a security context that Pod Security `restricted` accepts, for a container that does not run as root.
fn restricted_context(user: u32, group: u32) -> Value {
    json!({
        "runAsUser": user,
        "runAsGroup": group,
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}
