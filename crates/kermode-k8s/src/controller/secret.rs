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
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
    let config = watch_config().fields(&format!("type={secret_type}"));
    let secret_type = secret_type.to_owned();
    watcher(api, config).default_backoff().filter_map(move |event| {
        std::future::ready(match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Ok(_) => Some(()),
            Err(error) => {
                tracing::warn!(type_ = secret_type, %error, "Secrets cannot be watched; retrying");
                None
            }
        })
    })
}

/// Returns a stream that yields the contents of a Secret whenever they may have changed; `None` if the Secret does not
/// exist.
pub fn follow(
    client: &Client,
    namespace: &str,
    name: &str,
) -> impl Stream<Item = Option<SecretData>> + Send + use<> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config = watch_config().fields(&format!("metadata.name={name}"));
    let name = name.to_owned();
    // Contents of the Secret in the list that the watch is receiving.
    let mut listed = None;
    watcher(api, config).default_backoff().filter_map(move |event| {
        std::future::ready(match event {
            Ok(watcher::Event::Init) => {
                listed = None;
                None
            }
            Ok(watcher::Event::InitApply(secret)) => {
                listed = Some(contents(secret));
                None
            }
            Ok(watcher::Event::InitDone) => Some(listed.take()),
            Ok(watcher::Event::Apply(secret)) => Some(Some(contents(secret))),
            Ok(watcher::Event::Delete(_)) => Some(None),
            Err(error) => {
                tracing::warn!(name, %error, "Secret cannot be watched; retrying");
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
