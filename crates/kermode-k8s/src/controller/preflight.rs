//! Checks at startup that Dataplanes and the kinds that the engine watches can be listed. A missing permission or
//! CustomResourceDefinition ends the process with a message; otherwise a watch would retry forever.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kermode_crds::{ContainerPatch, Dataplane, Mesh, MeshTrafficPermission};
use kermode_model::VIRTUAL_IPS_CONFIG_MAP;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::failure::describe;

/// Kinds that cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct PreflightError {
    problems: Vec<String>,
}

/// Checks that Dataplanes and the kinds that the engine watches can be listed. Of ConfigMaps, only the one with virtual IPs
/// is checked, and only if services have virtual IPs.
///
/// # Errors
/// Fails if any kind cannot be listed. The error names all such kinds and the reasons.
pub async fn check(
    client: &Client,
    system_namespace: &str,
    has_virtual_ips: bool,
) -> Result<(), PreflightError> {
    let mut results = vec![
        check_kind::<Pod>(Api::all(client.clone())).await,
        check_kind::<Service>(Api::all(client.clone())).await,
        check_kind::<EndpointSlice>(Api::all(client.clone())).await,
        check_kind::<Namespace>(Api::all(client.clone())).await,
        check_kind::<Node>(Api::all(client.clone())).await,
        check_kind::<ReplicaSet>(Api::all(client.clone())).await,
        check_kind::<Job>(Api::all(client.clone())).await,
        check_kind::<Mesh>(Api::all(client.clone())).await,
        check_kind::<Dataplane>(Api::all(client.clone())).await,
        check_kind::<MeshTrafficPermission>(Api::namespaced(client.clone(), system_namespace)).await,
        check_kind::<ContainerPatch>(Api::namespaced(client.clone(), system_namespace)).await,
    ];
    if has_virtual_ips {
        let name = format!("metadata.name={VIRTUAL_IPS_CONFIG_MAP}");
        let api = Api::<ConfigMap>::namespaced(client.clone(), system_namespace);
        results.push(check_listing(api, ListParams::default().fields(&name)).await);
    }
    let problems: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(PreflightError { problems })
    }
}

async fn check_kind<K>(api: Api<K>) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    check_listing(api, ListParams::default()).await
}

async fn check_listing<K>(api: Api<K>, parameters: ListParams) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let failure = format!("{} cannot be listed", K::plural(&()));
    // Lists metadata only, so that an object that cannot be decoded does not prevent the start.
    api.list_metadata(&parameters.limit(1))
        .await
        .map(drop)
        .map_err(|error| describe(&failure, &error))
}
