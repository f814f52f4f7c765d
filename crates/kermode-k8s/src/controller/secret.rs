//! Secrets that the control plane makes once and all replicas share.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};

use super::failure::{describe, is_conflict};

/// Contents of a Secret by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The Secret could be neither read nor made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(String);

/// Reads a Secret, or makes it from what `create` returns. When several replicas try at once, one wins and all
/// return what it made.
///
/// # Errors
/// When the API server refuses; the text names the Secret.
pub async fn get_or_create(
    client: &Client,
    namespace: &str,
    name: &str,
    kind: &str,
    create: impl FnOnce() -> Data + Send,
) -> Result<Data, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |verb: &str, error: &kube::Error| {
        SecretError(describe(
            &format!("Secret {namespace}/{name} cannot be {verb}"),
            error,
        ))
    };
    if let Some(secret) = api.get_opt(name).await.map_err(|error| failed("read", &error))? {
        return Ok(data(secret));
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "kuma-cp".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some(kind.to_owned()),
        data: Some(
            create()
                .into_iter()
                .map(|(key, value)| (key, ByteString(value)))
                .collect(),
        ),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(secret) => Ok(data(secret)),
        Err(error) if is_conflict(&error) => api
            .get(name)
            .await
            .map(data)
            .map_err(|error| failed("read", &error)),
        Err(error) => Err(failed("created", &error)),
    }
}

fn data(secret: Secret) -> Data {
    secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect()
}
