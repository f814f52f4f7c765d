//! Checks at start that everything to be watched can be watched, so that a missing permission or
//! CustomResourceDefinition stops the start with a sentence instead of leaving a watch to retry forever.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_crds::{ContainerPatch, Dataplane, Mesh, MeshTrafficPermission};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::failure::describe;

/// What was found missing at start.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct PreflightError {
    problems: Vec<String>,
}

/// Lists one object of each kind that the control plane watches.
///
/// # Errors
/// With every kind that cannot be listed, and why.
pub async fn check(client: &Client, system_namespace: &str) -> Result<(), PreflightError> {
    let all = || client.clone();
    let results = [
        probe::<Pod>(Api::all(all())).await,
        probe::<Service>(Api::all(all())).await,
        probe::<Namespace>(Api::all(all())).await,
        probe::<ReplicaSet>(Api::all(all())).await,
        probe::<Job>(Api::all(all())).await,
        probe::<Mesh>(Api::all(all())).await,
        probe::<Dataplane>(Api::all(all())).await,
        probe::<MeshTrafficPermission>(Api::namespaced(all(), system_namespace)).await,
        probe::<ContainerPatch>(Api::namespaced(all(), system_namespace)).await,
    ];
    let problems: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(PreflightError { problems })
    }
}

async fn probe<K>(api: Api<K>) -> Result<(), String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let what = format!("{} cannot be listed", K::plural(&()));
    // Metadata only: an object that cannot be decoded is the watch's business, not a reason to stay down.
    api.list_metadata(&ListParams::default().limit(1))
        .await
        .map(drop)
        .map_err(|error| describe(&what, &error))
}
