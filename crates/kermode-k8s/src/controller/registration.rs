//! Keeps the `caBundle` of our webhook registrations right: they are installed without one, and whoever applies
//! the manifests again must not cut the API server off from the control plane.

use std::fmt::Debug;

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

/// Name of the MutatingWebhookConfiguration.
pub const MUTATING: &str = "kuma-admission-mutating-webhook-configuration";
/// Name of the ValidatingWebhookConfiguration.
pub const VALIDATING: &str = "kuma-validating-webhook-configuration";

/// A registration whose webhooks have client configurations.
trait Registration {
    fn client_configs(&self) -> Vec<&WebhookClientConfig>;
}

impl Registration for MutatingWebhookConfiguration {
    fn client_configs(&self) -> Vec<&WebhookClientConfig> {
        self.webhooks
            .iter()
            .flatten()
            .map(|webhook| &webhook.client_config)
            .collect()
    }
}

impl Registration for ValidatingWebhookConfiguration {
    fn client_configs(&self) -> Vec<&WebhookClientConfig> {
        self.webhooks
            .iter()
            .flatten()
            .map(|webhook| &webhook.client_config)
            .collect()
    }
}

/// Watches both registrations and puts the CA (PEM) wherever it is missing or wrong. Runs until dropped.
pub async fn keep(client: Client, ca_pem: Vec<u8>) {
    futures::join!(
        keep_one::<MutatingWebhookConfiguration>(Api::all(client.clone()), MUTATING, &ca_pem),
        keep_one::<ValidatingWebhookConfiguration>(Api::all(client), VALIDATING, &ca_pem),
    );
}

async fn keep_one<K>(api: Api<K>, name: &'static str, ca_pem: &[u8])
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    while let Some(event) = events.next().await {
        match event {
            Ok(registration) => put_right(&api, &registration, ca_pem).await,
            Err(error) => tracing::warn!(name, %error, "webhook registration cannot be watched; retrying"),
        }
    }
}

async fn put_right<K>(api: &Api<K>, registration: &K, ca_pem: &[u8])
where
    K: Registration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = registration.name_any();
    let wrong = |config: &WebhookClientConfig| config.ca_bundle.as_ref().is_none_or(|ca| ca.0 != ca_pem);
    let configs = registration.client_configs().into_iter().enumerate();
    let bundle = k8s_openapi::ByteString(ca_pem.to_vec());
    let operations: Vec<_> = configs
        .filter(|(_, config)| wrong(config))
        .map(|(index, _)| {
            json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
        })
        .collect();
    if operations.is_empty() {
        return;
    }
    // Guards against webhooks that were added or reordered since: then the watch brings the new ones.
    let version = registration.resource_version().unwrap_or_default();
    let mut patch = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    patch.extend(operations);
    let patch = match serde_json::from_value(patch.into()) {
        Ok(patch) => Patch::<()>::Json(patch),
        Err(error) => return tracing::error!(name, %error, "caBundle patch cannot be built"),
    };
    match api.patch(&name, &PatchParams::default(), &patch).await {
        Ok(_) => tracing::info!(name, "caBundle put right"),
        Err(error) => tracing::warn!(
            "{}",
            describe(&format!("caBundle of {name} cannot be set"), &error)
        ),
    }
}
