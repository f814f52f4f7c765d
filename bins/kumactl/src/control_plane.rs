//! Reads of the control plane's own objects and settings in a cluster, for the commands that predict its decisions.
//!
//! An object that the user may not read is left out, with the reason.

use anyhow::{Context, Result};
use kermode_config::Config;
use kermode_crds::annotation::SYSTEM_NAMESPACE;
use kermode_explain::Unread;
use kermode_install::{CONFIG_FILE, CONFIG_MAP};
use kermode_manifests::documents;
use serde_json::Value;

use crate::cluster::{ClusterClient, ClusterError, Resource, Selection};

/// Label selector of the control plane's Pods.
pub(crate) const REPLICAS: &str = "app=kuma-control-plane";

/// Objects of one kind, or the reason why they could not be read.
pub(crate) type Found = Result<(Vec<Value>, Option<Unread>), ClusterError>;

/// Reads the configuration of the control plane from its ConfigMap. `environment` returns the value of a variable of the
/// control plane's container.
pub(crate) fn config_of(config_map: &Value, environment: impl Fn(&str) -> Option<String>) -> Result<Config> {
    let text = config_map["data"][CONFIG_FILE].as_str();
    let text = text.with_context(|| format!("ConfigMap {CONFIG_MAP} has no entry {CONFIG_FILE}"))?;
    let documents = documents::parse(text)?;
    let content = documents
        .first()
        .map_or(Value::Null, |document| document.value.clone());
    Ok(Config::load_content(
        &format!("ConfigMap {CONFIG_MAP}"),
        &content,
        environment,
    )?)
}

/// Returns the namespace of the control plane: the one with the label, else the default of an installation.
pub(crate) async fn system_namespace(client: &ClusterClient) -> Result<String, ClusterError> {
    let labels = format!("{SYSTEM_NAMESPACE}=true");
    let selection = Selection {
        labels: &labels,
        ..Selection::default()
    };
    let (namespaces, _) = list(client, Resource::NAMESPACE, selection).await?;
    let name = namespaces
        .first()
        .and_then(|namespace| namespace["metadata"]["name"].as_str());
    Ok(name.map_or_else(|| Config::default().system_namespace().to_owned(), str::to_owned))
}

/// Reads the configuration from the ConfigMap, and from the environment of the Deployment's containers.
pub(crate) fn config_in_cluster(config_map: &Value, deployment: Option<&Value>) -> Result<Config> {
    let containers =
        deployment.and_then(|object| object["spec"]["template"]["spec"]["containers"].as_array());
    let variables: Vec<&Value> = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container["env"].as_array().into_iter().flatten())
        .collect();
    config_of(config_map, |name| {
        let mut variables = variables.iter().rev();
        let variable = variables.find(|variable| variable["name"] == name)?;
        variable["value"].as_str().map(str::to_owned)
    })
}

/// Reads an object that may be missing.
pub(crate) async fn get(
    client: &ClusterClient,
    resource: Resource,
    namespace: Option<&str>,
    name: &str,
) -> Found {
    let object = client.get_opt(&resource, namespace, name);
    // The future is large, and commands wait for many of them at the same time.
    let objects = Box::pin(async { object.await.map(|object| object.into_iter().collect()) });
    optional(resource, objects).await
}

/// Reads the selected objects of a resource.
pub(crate) async fn list(client: &ClusterClient, resource: Resource, selection: Selection<'_>) -> Found {
    optional(resource, Box::pin(client.list(&resource, selection))).await
}

/// Returns the objects, or the reason why the user cannot read this resource. Other errors, such as an API server that
/// cannot be reached, end the command.
async fn optional(
    resource: Resource,
    objects: impl Future<Output = Result<Vec<Value>, ClusterError>>,
) -> Found {
    match objects.await {
        Ok(objects) => Ok((objects, None)),
        Err(error) if error.is_about_one_resource() => Ok((
            Vec::new(),
            Some(Unread {
                kind: resource.kind,
                reason: error.to_string(),
            }),
        )),
        Err(error) => Err(error),
    }
}
