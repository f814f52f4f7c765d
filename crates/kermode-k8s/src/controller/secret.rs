//! Reads, creates and watches Secrets of the control plane.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ListParams, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::failure::{describe, is_conflict};
use super::watch::watch_config;

/// Contents of a Secret by key.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// Metadata of a Secret.
#[derive(Clone, Debug, Default)]
pub struct SecretMetadata {
    /// UID, for Events.
    pub uid: Option<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Failure to read, list or create Secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(String);

/// Reads a Secret; `None` if it does not exist.
///
/// # Errors
/// When the request fails; the message names the Secret.
pub async fn get(client: &Client, namespace: &str, name: &str) -> Result<Option<SecretData>, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| {
        SecretError(describe(
            &format!("Secret {namespace}/{name} cannot be read"),
            &error,
        ))
    })?;
    Ok(found.map(contents))
}

/// Reads the metadata of a Secret; `None` if it does not exist.
///
/// # Errors
/// When the request fails; the message names the Secret.
pub async fn get_metadata(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<SecretMetadata>, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_metadata_opt(name).await.map_err(|error| {
        SecretError(describe(
            &format!("Secret {namespace}/{name} cannot be read"),
            &error,
        ))
    })?;
    Ok(found.map(|found| SecretMetadata {
        uid: found.metadata.uid,
        annotations: found.metadata.annotations.unwrap_or_default(),
    }))
}

/// Reads a Secret, or creates it with the contents that `create` returns. If another replica creates the Secret
/// concurrently, returns the contents of that Secret.
///
/// # Errors
/// When a request fails; the message names the Secret.
pub async fn get_or_create(
    client: &Client,
    namespace: &str,
    name: &str,
    secret_type: &str,
    create: impl FnOnce() -> SecretData + Send,
) -> Result<SecretData, SecretError> {
    get_or_create_owned(client, namespace, name, secret_type, None, create).await
}

/// Like [`get_or_create`], for a Secret that Kubernetes deletes with its `owner`, if any.
///
/// # Errors
/// When a request fails; the message names the Secret.
pub async fn get_or_create_owned(
    client: &Client,
    namespace: &str,
    name: &str,
    secret_type: &str,
    owner: Option<OwnerReference>,
    create: impl FnOnce() -> SecretData + Send,
) -> Result<SecretData, SecretError> {
    if let Some(found) = get(client, namespace, name).await? {
        return Ok(found);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failure = |failed_step: &str, error: &kube::Error| {
        SecretError(describe(
            &format!("Secret {namespace}/{name} cannot be {failed_step}"),
            error,
        ))
    };
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "kuma-cp".to_owned(),
            )])),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(secret_type.to_owned()),
        data: Some(
            create()
                .into_iter()
                .map(|(key, value)| (key, ByteString(value)))
                .collect(),
        ),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(secret) => Ok(contents(secret)),
        Err(error) if is_conflict(&error) => api
            .get(name)
            .await
            .map(contents)
            .map_err(|error| failure("read", &error)),
        Err(error) => Err(failure("created", &error)),
    }
}

/// Reads all Secrets of a type. Returns their contents by name.
///
/// # Errors
/// When the request fails; the message names the namespace.
pub async fn list(
    client: &Client,
    namespace: &str,
    secret_type: &str,
) -> Result<BTreeMap<String, SecretData>, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let listed = api
        .list(&ListParams::default().fields(&format!("type={secret_type}")))
        .await;
    let listed = listed.map_err(|error| {
        SecretError(describe(
            &format!("Secrets of namespace {namespace} cannot be listed"),
            &error,
        ))
    })?;
    let contents_by_name = listed
        .items
        .into_iter()
        .map(|secret| (secret.name_any(), contents(secret)));
    Ok(contents_by_name.collect())
}

/// Returns a stream that yields when a Secret of a type may have changed. Watches metadata only.
pub fn changes(client: &Client, namespace: &str, secret_type: &str) -> impl Stream<Item = ()> + Send + use<> {
    changes_of_selected(client, namespace, format!("type={secret_type}"))
}

/// Returns a stream that yields when the Secret of a name may have changed. Watches metadata only.
pub fn changes_of_name(
    client: &Client,
    namespace: &str,
    name: &str,
) -> impl Stream<Item = ()> + Send + use<> {
    changes_of_selected(client, namespace, format!("metadata.name={name}"))
}

fn changes_of_selected(
    client: &Client,
    namespace: &str,
    selector: String,
) -> impl Stream<Item = ()> + Send + use<> {
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
    let config = watch_config().fields(&selector);
    watcher(api, config).default_backoff().filter_map(move |event| {
        std::future::ready(match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Ok(_) => Some(()),
            Err(error) => {
                tracing::warn!(selector, %error, "Secrets cannot be watched; retrying");
                None
            }
        })
    })
}

fn contents(secret: Secret) -> SecretData {
    secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect()
}
