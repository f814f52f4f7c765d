//! Objects of `kumactl explain --file`.

use anyhow::{Result, bail};
use kermode_explain::ObservedCluster;
use kermode_install::CONFIG_MAP;
use kermode_manifests::documents;
use serde_json::{Value, json};

use super::{ObjectName, SourceArgs};
use crate::cluster::Resource;
use crate::control_plane::config_of;
use crate::inject::config::{self, ConfigArgs};

/// Kinds without a namespace.
const CLUSTER_SCOPED: [Resource; 4] = [
    Resource::NAMESPACE,
    Resource::NODE,
    Resource::MESH,
    Resource::MUTATING_WEBHOOKS,
];

/// Reads the objects and the configuration of the control plane. Objects without a namespace get `default_namespace`.
pub(super) fn read(source: &SourceArgs, default_namespace: &str) -> Result<ObservedCluster> {
    let mut objects = Vec::new();
    for file in &source.file {
        objects.extend(documents::objects(&documents::read(file)?));
    }
    observed(objects, source, default_namespace)
}

/// Returns the objects with the configuration of the control plane: of the flag, else of the ConfigMap among the objects.
pub(super) fn observed(
    mut objects: Vec<Value>,
    source: &SourceArgs,
    default_namespace: &str,
) -> Result<ObservedCluster> {
    for object in &mut objects {
        set_namespace(object, default_namespace);
    }
    let config_args = ConfigArgs {
        config: source.config.clone(),
        kubernetes_version: source.kubernetes_version.clone(),
    };
    let mut config = config::load(&config_args)?;
    let config_map = objects.iter().find(|object| {
        object["kind"] == Resource::CONFIG_MAP.kind && object["metadata"]["name"] == CONFIG_MAP
    });
    if let (None, Some(config_map)) = (&source.config, config_map) {
        let injector = config.injector().clone();
        config = config_of(config_map, |_| None)?;
        let settings = &mut config.runtime.kubernetes.injector;
        settings.native_sidecars_supported = injector.native_sidecars_supported;
        settings.sleep_hooks_supported = injector.sleep_hooks_supported;
    }
    Ok(ObservedCluster {
        config_is_known: source.config.is_some() || config_map.is_some(),
        objects,
        config,
        ..ObservedCluster::default()
    })
}

/// Returns the only object of a kind.
///
/// # Errors
/// If there is none, or more than one.
pub(super) fn only_object(cluster: &ObservedCluster, kind: &str) -> Result<ObjectName> {
    let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let names: Vec<ObjectName> = cluster
        .of_kind(kind)
        .map(|object| ObjectName {
            namespace: text(object, "namespace"),
            name: text(object, "name"),
        })
        .collect();
    match <[ObjectName; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(names) if names.is_empty() => bail!("the files contain no {kind}"),
        Err(names) => {
            let names: Vec<String> = names
                .iter()
                .map(|object| format!("{}/{}", object.namespace, object.name))
                .collect();
            bail!(
                "the files contain several objects of kind {kind}; name one of them: {}",
                names.join(", ")
            )
        }
    }
}

fn set_namespace(object: &mut Value, default_namespace: &str) {
    let is_cluster_scoped = CLUSTER_SCOPED
        .iter()
        .any(|resource| object["kind"] == resource.kind);
    if is_cluster_scoped {
        return;
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata
            .entry("namespace")
            .or_insert_with(|| json!(default_namespace));
    }
}
