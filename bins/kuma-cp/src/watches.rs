//! Starts the watches: which kinds, what is kept of each, and where it goes.

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_crds::{ContainerPatch, Mesh, MeshTrafficPermission, annotation};
use kermode_k8s::controller::watch::{Conversion, decoded, follow, watch_config};
use kermode_k8s::convert::facts::{NamespaceFacts, OwnerFacts, OwnerKind, PodFacts, ServiceFacts};
use kermode_model::{DEFAULT_MESH, MeshName, TrafficPermission};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use crate::engine::{Message, Told};

/// One watch, to be run until the engine has gone.
pub(crate) type Watch = BoxFuture<'static, ()>;

/// The watches of everything the engine reads.
pub(crate) fn all(client: &Client, system_namespace: &str, sink: &mpsc::Sender<Told>) -> Vec<Watch> {
    let sink = || sink.clone();
    let api = || client.clone();
    vec![
        Box::pin(follow(
            "namespaces",
            watcher(Api::<Namespace>::all(api()), watch_config()),
            |namespace: Namespace| Conversion::Keep(NamespaceFacts::from(&namespace)),
            |update| Message::Namespace(update).into(),
            sink(),
        )),
        Box::pin(follow(
            "meshes",
            watcher(Api::<DeserializeGuard<Mesh>>::all(api()), watch_config()),
            |mesh| decoded("meshes", mesh, |mesh| usable_mesh(&mesh)),
            |update| Message::Mesh(update).into(),
            sink(),
        )),
        Box::pin(follow(
            "meshtrafficpermissions",
            watcher(
                Api::<DeserializeGuard<MeshTrafficPermission>>::namespaced(api(), system_namespace),
                watch_config(),
            ),
            |permission| {
                decoded("meshtrafficpermissions", permission, |permission| {
                    usable_permission(&permission)
                })
            },
            |update| Message::Permission(update).into(),
            sink(),
        )),
        Box::pin(follow(
            "containerpatches",
            watcher(
                Api::<DeserializeGuard<ContainerPatch>>::namespaced(api(), system_namespace),
                watch_config(),
            ),
            |patch| {
                decoded("containerpatches", patch, |patch: ContainerPatch| {
                    Conversion::Keep(patch.spec)
                })
            },
            |update| Message::ContainerPatch(update).into(),
            sink(),
        )),
        // Only who owns them matters, and their status changes with every Pod: metadata is all that is fetched.
        Box::pin(follow(
            "replicasets",
            watcher(Api::<PartialObjectMeta<ReplicaSet>>::all(api()), watch_config()),
            |object: PartialObjectMeta<ReplicaSet>| {
                let object = ReplicaSet {
                    metadata: object.metadata,
                    ..ReplicaSet::default()
                };
                Some(OwnerFacts::from(&object))
                    .filter(|facts| facts.owner.is_some())
                    .into()
            },
            |update| Message::Owner(OwnerKind::ReplicaSet, update).into(),
            sink(),
        )),
        Box::pin(follow(
            "jobs",
            watcher(Api::<PartialObjectMeta<Job>>::all(api()), watch_config()),
            |object: PartialObjectMeta<Job>| {
                let object = Job {
                    metadata: object.metadata,
                    ..Job::default()
                };
                Some(OwnerFacts::from(&object))
                    .filter(|facts| facts.owner.is_some())
                    .into()
            },
            |update| Message::Owner(OwnerKind::Job, update).into(),
            sink(),
        )),
        Box::pin(follow(
            "services",
            watcher(Api::<Service>::all(api()), watch_config()),
            |service: Service| Conversion::Keep(ServiceFacts::from(&service)),
            |update| Message::Service(update).into(),
            sink(),
        )),
        Box::pin(follow(
            "pods",
            watcher(Api::<Pod>::all(api()), watch_config()),
            |pod: Pod| Some(PodFacts::from(&pod)).filter(PodFacts::is_injected).into(),
            |update| Message::Pod(update).into(),
            sink(),
        )),
    ]
}

fn usable_mesh(mesh: &Mesh) -> Conversion<kermode_model::Mesh> {
    match kermode_model::Mesh::try_from(mesh) {
        Ok(mesh) => Conversion::Keep(mesh),
        Err(error) => {
            tracing::warn!(mesh = mesh.name_any(), "Mesh not used as it is now: {error}");
            Conversion::Invalid
        }
    }
}

fn usable_permission(permission: &MeshTrafficPermission) -> Conversion<(MeshName, TrafficPermission)> {
    let mesh = permission
        .labels()
        .get(annotation::MESH)
        .map_or(DEFAULT_MESH, String::as_str);
    match TrafficPermission::try_from(permission) {
        Ok(permission) => Conversion::Keep((MeshName::from(mesh), permission)),
        Err(error) => {
            tracing::warn!(
                name = permission.name_any(),
                "MeshTrafficPermission not used as it is now: {error}"
            );
            Conversion::Invalid
        }
    }
}
