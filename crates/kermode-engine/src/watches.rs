//! Watches of the API server. Each watch converts the objects of one kind and sends the results to the engine.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kermode_crds::{ContainerPatch, Mesh, MeshTrafficPermission};
use kermode_k8s::controller::watch::{Conversion, Update, convert_if_decoded, follow, watch_config};
use kermode_k8s::convert::facts::{
    EndpointSliceFacts, IntermediateFacts, IntermediateKind, NOT_DERIVED_FROM_SELECTOR, NamespaceFacts,
    NodeFacts, PodFacts, ServiceFacts,
};
use kermode_k8s::virtual_ips::{self, LineProblem, Table};
use kermode_model::{MeshName, TrafficPermission, VIRTUAL_IPS_CONFIG_MAP, VirtualIpRange, VirtualIps};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::events::{ObjectUpdate, WatchEvent, WatchKind};

/// Number of invalid lines of a ConfigMap that the log contains.
const MAX_LOGGED_PROBLEMS: usize = 3;

/// Future that runs one watch while it is polled.
pub type Watch = BoxFuture<'static, ()>;

/// Settings of the watches.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Namespace of the control plane.
    pub system_namespace: &'a str,
    /// Range of virtual IPs; `None` if services have no virtual IPs.
    pub virtual_ip_range: Option<VirtualIpRange>,
}

/// Returns all watches of the engine. They send their events to `sink`.
pub fn all(client: &Client, settings: &Settings<'_>, sink: &mpsc::Sender<WatchEvent>) -> Vec<Watch> {
    let kinds = WatchKind::ALL.iter();
    kinds.map(|kind| watch(*kind, client, settings, sink)).collect()
}

fn watch(
    kind: WatchKind,
    client: &Client,
    settings: &Settings<'_>,
    sink: &mpsc::Sender<WatchEvent>,
) -> Watch {
    let client = client.clone();
    let builder = WatchBuilder { kind, sink };
    let system_namespace = settings.system_namespace;
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
        WatchKind::Permissions => builder.permissions(client, system_namespace),
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
        WatchKind::ConfigMaps => builder.config_maps(client, settings),
    }
}

/// Reads the ConfigMap with virtual IPs. Logs the lines that it ignores.
fn convert_config_map(config_map: &ConfigMap, range: VirtualIpRange) -> BTreeMap<MeshName, VirtualIps> {
    let texts = virtual_ips::texts_of(config_map).into_iter();
    let read = |(mesh, text): (MeshName, String)| {
        let (table, problems) = Table::parse(&text, range);
        log_problems(&mesh, &problems);
        (mesh, table.virtual_ips())
    };
    texts.map(read).collect()
}

fn log_problems(mesh: &MeshName, problems: &[LineProblem]) {
    if problems.is_empty() {
        return;
    }
    let first: Vec<_> = problems
        .iter()
        .take(MAX_LOGGED_PROBLEMS)
        .map(ToString::to_string)
        .collect();
    tracing::warn!(
        %mesh,
        "entry {mesh} of ConfigMap {VIRTUAL_IPS_CONFIG_MAP} has {} invalid lines, which are ignored; the leader restores the \
         virtual IPs of services in use: {}",
        problems.len(),
        first.join("; ")
    );
}

/// Builds the watch of one kind.
struct WatchBuilder<'a> {
    kind: WatchKind,
    sink: &'a mpsc::Sender<WatchEvent>,
}

impl WatchBuilder<'_> {
    fn permissions(&self, client: Client, system_namespace: &str) -> Watch {
        let kind = self.kind.name();
        self.build(
            Api::<DeserializeGuard<MeshTrafficPermission>>::namespaced(client, system_namespace),
            move |permission| {
                convert_if_decoded(kind, permission, |permission| convert_permission(&permission))
            },
            ObjectUpdate::Permission,
        )
    }

    /// Without virtual IPs, only the end of an empty list is reported.
    fn config_maps(&self, client: Client, settings: &Settings<'_>) -> Watch {
        let Some(range) = settings.virtual_ip_range else {
            let sink = self.sink.clone();
            return Box::pin(async move {
                // The engine ends with the process.
                let _ = sink.send(ObjectUpdate::VirtualIps(Update::Synced).into()).await;
                std::future::pending::<()>().await;
            });
        };
        let config = watch_config().fields(&format!("metadata.name={VIRTUAL_IPS_CONFIG_MAP}"));
        self.build_with(
            config,
            Api::<ConfigMap>::namespaced(client, settings.system_namespace),
            move |config_map| Conversion::Keep(convert_config_map(&config_map, range)),
            ObjectUpdate::VirtualIps,
        )
    }

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

    #[test]
    fn config_map_yields_the_valid_virtual_ips_of_each_mesh() {
        let text =
            "240.0.0.1 web\n240.0.0.2 worker unused-since=2026-11-30T02:31:00Z\n10.0.0.1 outside\nnonsense\n";
        let data = [
            ("default", text),
            ("other", "nonsense"),
            ("empty", ""),
            ("No mesh", text),
        ];
        let config_map = ConfigMap {
            data: Some(data.map(|(mesh, text)| (mesh.to_owned(), text.to_owned())).into()),
            ..ConfigMap::default()
        };
        let expected = [("web", [240, 0, 0, 1]), ("worker", [240, 0, 0, 2])];
        let expected = expected.map(|(service, ip)| (service.into(), ip.into()));
        let expected = [
            ("default", VirtualIps::from(expected)),
            ("empty", VirtualIps::new()),
            ("other", VirtualIps::new()),
        ];
        assert_eq!(
            convert_config_map(&config_map, VirtualIpRange::default()),
            expected.map(|(mesh, ips)| (mesh.into(), ips)).into()
        );
    }

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
        let settings = Settings {
            system_namespace: "system",
            virtual_ip_range: Some(VirtualIpRange::default()),
        };
        let watches = all(&client, &settings, &sink);
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
