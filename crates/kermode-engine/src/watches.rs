//! Watches of the API server. Each watch converts the objects of one kind and sends the results to the engine.

use std::fmt::Debug;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kermode_crds::{ContainerPatch, Mesh, MeshTrafficPermission};
use kermode_k8s::controller::watch::{Conversion, Update, convert_if_decoded, follow, watch_config};
use kermode_k8s::convert::facts::{
    EndpointSliceFacts, IntermediateFacts, IntermediateKind, NOT_DERIVED_FROM_SELECTOR, NamespaceFacts,
    NodeFacts, PodFacts, ServiceFacts,
};
use kermode_model::{MeshName, TrafficPermission};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::events::{ObjectUpdate, WatchEvent, WatchKind};

/// Future that runs one watch while it is polled.
pub type Watch = BoxFuture<'static, ()>;

/// Returns all watches of the engine. They send their events to `sink`.
pub fn all(client: &Client, system_namespace: &str, sink: &mpsc::Sender<WatchEvent>) -> Vec<Watch> {
    let kinds = WatchKind::ALL.iter();
    kinds
        .map(|kind| watch(*kind, client, system_namespace, sink))
        .collect()
}

fn watch(kind: WatchKind, client: &Client, system_namespace: &str, sink: &mpsc::Sender<WatchEvent>) -> Watch {
    let client = client.clone();
    let builder = WatchBuilder { kind, sink };
    match kind {
        WatchKind::Namespaces => builder.build(
            Api::<Namespace>::all(client),
            |namespace| Conversion::Keep(NamespaceFacts::from(&namespace)),
            ObjectUpdate::Namespace,
        ),
        WatchKind::Nodes => builder.build(
            Api::<Node>::all(client),
            |node| NodeFacts::of(&node).into(),
            ObjectUpdate::Node,
        ),
        WatchKind::Meshes => builder.build(
            Api::<DeserializeGuard<Mesh>>::all(client),
            move |mesh| convert_if_decoded(kind.name(), mesh, |mesh| convert_mesh(&mesh)),
            ObjectUpdate::Mesh,
        ),
        WatchKind::Permissions => builder.build(
            Api::<DeserializeGuard<MeshTrafficPermission>>::namespaced(client, system_namespace),
            move |permission| {
                convert_if_decoded(kind.name(), permission, |permission| {
                    convert_permission(&permission)
                })
            },
            ObjectUpdate::Permission,
        ),
        WatchKind::ContainerPatches => builder.build(
            Api::<DeserializeGuard<ContainerPatch>>::namespaced(client, system_namespace),
            move |patch| convert_if_decoded(kind.name(), patch, |patch| Conversion::Keep(patch.spec)),
            ObjectUpdate::ContainerPatch,
        ),
        // Only the owner references of ReplicaSets and Jobs are read, so only their metadata is requested.
        WatchKind::ReplicaSets => builder.build(
            Api::<PartialObjectMeta<ReplicaSet>>::all(client),
            |object| {
                convert_intermediate(&ReplicaSet {
                    metadata: object.metadata,
                    ..ReplicaSet::default()
                })
            },
            |update| ObjectUpdate::Intermediate(IntermediateKind::ReplicaSet, update),
        ),
        WatchKind::Jobs => builder.build(
            Api::<PartialObjectMeta<Job>>::all(client),
            |object| {
                convert_intermediate(&Job {
                    metadata: object.metadata,
                    ..Job::default()
                })
            },
            |update| ObjectUpdate::Intermediate(IntermediateKind::Job, update),
        ),
        WatchKind::Services => builder.build(
            Api::<Service>::all(client),
            |service| Conversion::Keep(ServiceFacts::from(&service)),
            ObjectUpdate::Service,
        ),
        // Kubernetes derives most EndpointSlices from Services and Pods, which the engine watches anyway. So only the
        // other EndpointSlices are watched.
        WatchKind::EndpointSlices => builder.build_with(
            watch_config().labels(NOT_DERIVED_FROM_SELECTOR),
            Api::<EndpointSlice>::all(client),
            |slice| EndpointSliceFacts::of(&slice).into(),
            ObjectUpdate::EndpointSlice,
        ),
        WatchKind::Pods => builder.build(
            Api::<Pod>::all(client),
            // A Pod that is not injected is not relevant.
            |pod| Some(PodFacts::from(&pod)).filter(PodFacts::is_injected).into(),
            ObjectUpdate::Pod,
        ),
    }
}

/// Builds the watch of one kind.
struct WatchBuilder<'a> {
    kind: WatchKind,
    sink: &'a mpsc::Sender<WatchEvent>,
}

impl WatchBuilder<'_> {
    /// Builds a watch that converts each object by `convert`, wraps each update by `wrap`, and sends the result to the
    /// engine.
    fn build<K, T>(
        &self,
        api: Api<K>,
        convert: impl Fn(K) -> Conversion<T> + Send + 'static,
        wrap: impl Fn(Update<T>) -> ObjectUpdate + Send + 'static,
    ) -> Watch
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        self.build_with(watch_config(), api, convert, wrap)
    }

    /// Like [`Self::build`], with another configuration of the watch.
    fn build_with<K, T>(
        &self,
        config: watcher::Config,
        api: Api<K>,
        convert: impl Fn(K) -> Conversion<T> + Send + 'static,
        wrap: impl Fn(Update<T>) -> ObjectUpdate + Send + 'static,
    ) -> Watch
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        T: Send + 'static,
    {
        Box::pin(follow(
            self.kind.name(),
            watcher(api, config),
            convert,
            move |update| WatchEvent::from(wrap(update)),
            self.sink.clone(),
        ))
    }
}

/// Converts a ReplicaSet or Job, which may stand between a Pod and its top controller. An object without an owner is
/// not relevant.
fn convert_intermediate<K>(object: &K) -> Conversion<IntermediateFacts>
where
    for<'a> IntermediateFacts: From<&'a K>,
{
    Some(IntermediateFacts::from(object))
        .filter(|facts| facts.owner.is_some())
        .into()
}

fn convert_mesh(mesh: &Mesh) -> Conversion<kermode_model::Mesh> {
    match kermode_model::Mesh::try_from(mesh) {
        Ok(mesh) => Conversion::Keep(mesh),
        Err(error) => {
            tracing::warn!(
                mesh = mesh.name_any(),
                "Mesh is invalid; its last valid version stays in use: {error}"
            );
            Conversion::Invalid
        }
    }
}

fn convert_permission(permission: &MeshTrafficPermission) -> Conversion<(MeshName, TrafficPermission)> {
    let mesh = MeshName::from(permission.mesh());
    match TrafficPermission::try_from(permission) {
        Ok(permission) => Conversion::Keep((mesh, permission)),
        Err(error) => {
            tracing::warn!(
                name = permission.name_any(),
                "MeshTrafficPermission is invalid; its last valid version stays in use: {error}"
            );
            Conversion::Invalid
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn only_metadata_of_replica_sets_and_jobs_is_requested() {
        let (sender, mut requests) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let accepted = request.headers().get(ACCEPT).cloned();
            // The test may have dropped the receiver.
            let _ = sender.send((request.uri().path().to_owned(), accepted));
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let client = Client::new(service, "default");
        let (sink, _events) = mpsc::channel(1);
        let watches = all(&client, "system", &sink);
        let count = watches.len();
        let watching = tokio::spawn(futures::future::join_all(watches));
        for _ in 0..count {
            let (path, accepted) = requests.recv().await.expect("a request of each watch");
            let accepted = accepted.as_ref().and_then(|value| value.to_str().ok());
            let requests_only_metadata =
                accepted.is_some_and(|value| value.contains("as=PartialObjectMetadata"));
            let needs_only_metadata = path.ends_with("/replicasets") || path.ends_with("/jobs");
            assert_eq!(
                requests_only_metadata, needs_only_metadata,
                "{path}: {accepted:?}"
            );
        }
        watching.abort();
    }
}
