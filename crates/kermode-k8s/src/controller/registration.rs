//! Maintains the `caBundle` of the webhook registrations. The API server cannot call a webhook without its `caBundle`.
//!
//! The manifests contain no `caBundle`. Applying the manifests keeps the `caBundle` of an existing registration, but a
//! new or replaced registration has none.
//!
//! Only the leader writes. While the CA of the control plane rotates, replicas with different clocks, or with different
//! reads of the Secrets, have different roots for some time. They would overwrite each other's `caBundle`.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use super::failure::describe;
use super::lease::while_leading;
use super::roots::RootsReceiver;
use super::watch::watch_config;

/// Name of the MutatingWebhookConfiguration.
pub const MUTATING: &str = "kuma-admission-mutating-webhook-configuration";
/// Name of the ValidatingWebhookConfiguration.
pub const VALIDATING: &str = "kuma-validating-webhook-configuration";

/// Pause between attempts to write a registration. Short, because Pods of labelled namespaces are denied until a write
/// succeeds.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A webhook registration: a MutatingWebhookConfiguration or a ValidatingWebhookConfiguration.
trait Registration {
    /// Returns the client configurations of all webhooks: the parts of the registration that contain `caBundle`.
    fn client_configs(&self) -> Vec<&WebhookClientConfig>;
}

/// Implements [`Registration`] for the two kinds, which have the same fields but no common type.
macro_rules! registration {
    ($kind:ty) => {
        impl Registration for $kind {
            fn client_configs(&self) -> Vec<&WebhookClientConfig> {
                let webhooks = self.webhooks.iter().flatten();
                webhooks.map(|webhook| &webhook.client_config).collect()
            }
        }
    };
}

registration!(MutatingWebhookConfiguration);
registration!(ValidatingWebhookConfiguration);

/// While this replica leads, watches both registrations and sets their `caBundle` to the roots of the control plane,
/// which may change. Runs until the future is dropped.
pub async fn maintain_ca_bundles(client: Client, roots: RootsReceiver, is_leader: watch::Receiver<bool>) {
    while_leading(is_leader, || async {
        let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
        let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
        futures::join!(
            maintain_ca_bundle(mutating, MUTATING, roots.clone()),
            maintain_ca_bundle(validating, VALIDATING, roots.clone()),
        );
    })
    .await;
}

async fn maintain_ca_bundle<K>(api: Api<K>, name: &'static str, mut roots: RootsReceiver)
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watch_config().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    loop {
        let current = tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(registration)) => Some(registration),
                Some(Err(error)) => {
                    tracing::warn!(name, %error, "webhook registration cannot be watched; retrying");
                    continue;
                }
            },
            Ok(()) = roots.changed() => None,
        };
        set_ca_bundle(&api, name, current, &mut roots).await;
    }
}

/// Sets the `caBundle` of each webhook whose `caBundle` is missing or wrong. `current` is the registration, or `None` if
/// the registration has to be read. Retries until the write succeeds or is no longer needed.
async fn set_ca_bundle<K>(api: &Api<K>, name: &str, mut current: Option<K>, roots: &mut RootsReceiver)
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    loop {
        if current.is_none() {
            current = match api.get_opt(name).await {
                Ok(None) => return,
                Ok(found) => found,
                Err(error) => {
                    let failure = format!("webhook registration {name} cannot be read");
                    tracing::warn!("{}; retrying", describe(&failure, &error));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
        }
        let ca_pem = roots.borrow_and_update().clone();
        let Some(patch) = current
            .take()
            .and_then(|registration| ca_bundle_patch(&registration, ca_pem.as_bytes()))
        else {
            return;
        };
        match api
            .patch(name, &PatchParams::default(), &Patch::<()>::Json(patch))
            .await
        {
            Ok(_) => return tracing::info!(name, "caBundle of the webhook registration set"),
            Err(error) => {
                let failure = format!("caBundle of webhook registration {name} cannot be set");
                tracing::warn!("{}; retrying", describe(&failure, &error));
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Returns the patch that sets each missing or wrong `caBundle`; `None` if every `caBundle` is right.
fn ca_bundle_patch<K: Registration + Resource>(registration: &K, ca_pem: &[u8]) -> Option<json_patch::Patch> {
    let bundle = k8s_openapi::ByteString(ca_pem.to_vec());
    let operations: Vec<_> = registration
        .client_configs()
        .into_iter()
        .enumerate()
        .filter(|(_, config)| config.ca_bundle.as_ref().is_none_or(|ca| ca.0 != ca_pem))
        .map(|(index, _)| {
            json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    // The patch names webhooks by index, so it must fail if the registration has changed since it was read.
    let version = registration.resource_version().unwrap_or_default();
    let version_check = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    let patch = std::iter::once(version_check).chain(operations).collect();
    serde_json::from_value(serde_json::Value::Array(patch))
        .inspect_err(
            |error| tracing::error!(name = registration.name_any(), %error, "caBundle patch cannot be built"),
        )
        .ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use http::Method;
    use parking_lot::Mutex;
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::super::test_api_server;
    use super::*;

    /// Returns a client of an API server with one webhook registration of each kind, and the names and new values of the
    /// `caBundle` fields that the API server is asked to write. Watch requests never end.
    fn mk_client() -> (Client, mpsc::UnboundedReceiver<(String, Value)>) {
        let (sender, writes) = mpsc::unbounded_channel();
        let client_configs: Arc<Mutex<HashMap<&str, Value>>> = Arc::default();
        let client = test_api_server::client("default", move |request| {
            let path = request.uri.path();
            let name = if path.contains("/mutating") {
                MUTATING
            } else {
                VALIDATING
            };
            if request.method == Method::PATCH {
                let bundle = request.body[1]["value"].clone();
                client_configs
                    .lock()
                    .insert(name, json!({"caBundle": bundle.clone()}));
                // The test may have dropped the receiver.
                let _ = sender.send((name.to_owned(), bundle));
            }
            let client_config = client_configs.lock().get(name).cloned();
            let registration = json!({
                "metadata": {"name": name, "resourceVersion": "1"},
                "webhooks": [{"name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": client_config.unwrap_or_else(|| json!({}))}],
            });
            if request.method == Method::GET && !path.ends_with(name) {
                test_api_server::list(&[registration])
            } else {
                (200, registration)
            }
        });
        (client, writes)
    }

    /// Returns the next write of each registration, sorted by name.
    async fn next_writes(writes: &mut mpsc::UnboundedReceiver<(String, Value)>) -> [(String, Value); 2] {
        let mut written = [
            writes.recv().await.expect("a write"),
            writes.recv().await.expect("a write"),
        ];
        written.sort_by(|one, other| one.0.cmp(&other.0));
        written
    }

    /// Returns the writes that set the `caBundle` of both registrations to these roots.
    fn writes_of(roots: &str) -> [(String, Value); 2] {
        let value = json!(k8s_openapi::ByteString(roots.as_bytes().to_vec()));
        [MUTATING, VALIDATING].map(|name| (name.to_owned(), value.clone()))
    }

    #[tokio::test]
    async fn ca_bundles_follow_the_roots() {
        let (client, mut writes) = mk_client();
        let (sender, roots) = watch::channel(Arc::from("old"));
        let (_leader_sender, is_leader) = watch::channel(true);
        let maintaining = tokio::spawn(maintain_ca_bundles(client, roots, is_leader));
        for roots in ["old", "old and new", "new"] {
            sender.send_replace(roots.into());
            assert_eq!(next_writes(&mut writes).await, writes_of(roots));
        }
        maintaining.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_writes_ca_bundles() {
        let (client, mut writes) = mk_client();
        let (sender, roots) = watch::channel(Arc::from("first"));
        let (leader_sender, is_leader) = watch::channel(false);
        let maintaining = tokio::spawn(maintain_ca_bundles(client, roots, is_leader));
        let idle = Duration::from_mins(1);
        for (as_follower, as_leader) in [("first", "second"), ("third", "fourth")] {
            sender.send_replace(as_follower.into());
            let early = tokio::time::timeout(idle, writes.recv()).await;
            assert!(early.is_err(), "a follower wrote {early:?}");
            leader_sender.send_replace(true);
            assert_eq!(next_writes(&mut writes).await, writes_of(as_follower));
            sender.send_replace(as_leader.into());
            assert_eq!(next_writes(&mut writes).await, writes_of(as_leader));
            leader_sender.send_replace(false);
        }
        maintaining.abort();
    }
}
