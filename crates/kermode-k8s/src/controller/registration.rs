//! Maintains the `caBundle` of the webhook registrations. The API server cannot call a webhook without its `caBundle`.
//!
//! The manifests contain no `caBundle`. Applying the manifests keeps the `caBundle` of an existing registration, but a
//! new or replaced registration has none.

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

use super::failure::describe;
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

/// Watches both registrations and sets their `caBundle` to the CA (PEM). Runs until the future is dropped.
pub async fn maintain_ca_bundles(client: Client, ca_pem: Vec<u8>) {
    futures::join!(
        maintain_ca_bundle::<MutatingWebhookConfiguration>(Api::all(client.clone()), MUTATING, &ca_pem),
        maintain_ca_bundle::<ValidatingWebhookConfiguration>(Api::all(client), VALIDATING, &ca_pem),
    );
}

async fn maintain_ca_bundle<K>(api: Api<K>, name: &'static str, ca_pem: &[u8])
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watch_config().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    while let Some(event) = events.next().await {
        match event {
            Ok(registration) => set_ca_bundle(&api, registration, ca_pem).await,
            Err(error) => tracing::warn!(name, %error, "webhook registration cannot be watched; retrying"),
        }
    }
}

/// Sets the `caBundle` of each webhook whose `caBundle` is missing or wrong. Retries until the write succeeds or is no
/// longer needed.
async fn set_ca_bundle<K>(api: &Api<K>, registration: K, ca_pem: &[u8])
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = registration.name_any();
    let mut current = Some(registration);
    while let Some(patch) = current
        .as_ref()
        .and_then(|registration| ca_bundle_patch(registration, ca_pem))
    {
        match api
            .patch(&name, &PatchParams::default(), &Patch::<()>::Json(patch))
            .await
        {
            Ok(_) => return tracing::info!(name, "caBundle of the webhook registration set"),
            Err(error) => {
                tracing::warn!(
                    "{}; retrying",
                    describe(
                        &format!("caBundle of webhook registration {name} cannot be set"),
                        &error
                    )
                );
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        // The registration may have changed. If it cannot be read, the same patch is retried.
        if let Ok(latest) = api.get_opt(&name).await {
            current = latest;
        }
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
