//! An example mesh, for tests of the page in a browser and for its benchmark.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kermode_admission::{DecisionKind, RecentDecisions};
use kermode_authorities::Expiries;
use kermode_model::view::{MeshView, ServiceAddresses};
use kermode_model::{
    Action, CertificateAuthority, DEFAULT_MESH, Dataplane, Inbound, Mesh, MeshName, Mtls, MtlsMode,
    ObjectKey, PermissionRule, Principal, ServiceName, TrafficPermission, tag,
};
use kermode_protocol::debug::{Configuration, ConnectedProxy, Rejection};
use kermode_status::ProxySummary;
use parking_lot::RwLock;

use crate::{ProxySource, Sources, ViewSource};

/// Number of Dataplanes of a service.
const DATAPLANES_PER_SERVICE: usize = 10;
/// Number of services of a namespace.
const SERVICES_PER_NAMESPACE: usize = 10;

/// Example mesh. Of 50 Dataplanes, one rejects its configuration, and one is not connected.
#[derive(Debug, Default)]
pub struct Example {
    view: RwLock<MeshView>,
    decisions: RecentDecisions,
    expiries: Expiries,
}

impl Example {
    /// Creates a STRICT mesh with this number of Dataplanes, at most 65,536. Each service permits the service before it.
    pub fn new(dataplanes: usize) -> Arc<Self> {
        let example = Self::default();
        let message = "Mesh \"new\" not found: create the Mesh, or correct the annotation kuma.io/mesh";
        let decisions = &example.decisions;
        decisions.add(
            DecisionKind::Injected,
            "NamespaceLabel",
            "team-00",
            "service-000-",
            "",
        );
        decisions.add(
            DecisionKind::Denied,
            "MeshNotFound",
            "team-00",
            "service-001-",
            message,
        );
        let not_after = SystemTime::now() + Duration::from_hours(20);
        example
            .expiries
            .set_workload(&key(0), not_after, SystemTime::now());
        {
            let mut view = example.view.write();
            view.upsert_mesh(Mesh {
                mtls: Some(Mtls {
                    backend: "ca-1".to_owned(),
                    mode: MtlsMode::Strict,
                    authority: CertificateAuthority::Builtin,
                    certificate_lifetime: Duration::from_hours(24),
                }),
                ..Mesh::new(DEFAULT_MESH)
            });
            for number in 0..dataplanes {
                view.upsert_dataplane(dataplane(number, true));
            }
            for service in 1..dataplanes.div_ceil(DATAPLANES_PER_SERVICE) {
                view.set_addresses(&service_name(service), Some(ServiceAddresses::default()));
                permit_previous(&mut view, service);
            }
        }
        Arc::new(example)
    }

    /// Returns the sources of the page.
    pub fn sources(self: &Arc<Self>) -> Sources {
        Sources {
            replica: "kuma-control-plane-example".into(),
            view: self.clone(),
            proxies: Arc::new(ExampleProxies(self.clone())),
            decisions: self.decisions.clone(),
            expiries: self.expiries.clone(),
        }
    }

    /// Makes the inbound of a Dataplane ready or not ready.
    pub fn set_ready(&self, number: usize, is_ready: bool) {
        self.view.write().upsert_dataplane(dataplane(number, is_ready));
    }
}

/// Returns the namespace and the name of a Dataplane.
fn key(number: usize) -> ObjectKey {
    let service = number / DATAPLANES_PER_SERVICE;
    let namespace = format!("team-{:02}", service / SERVICES_PER_NAMESPACE);
    ObjectKey::new(
        namespace,
        format!("service-{service:03}-{}", number % DATAPLANES_PER_SERVICE),
    )
}

fn service_name(service: usize) -> ServiceName {
    let namespace = format!("team-{:02}", service / SERVICES_PER_NAMESPACE);
    ServiceName::of_port(&format!("service-{service:03}"), &namespace, 80)
}

fn dataplane(number: usize, is_ready: bool) -> Dataplane {
    let service: Arc<str> = service_name(number / DATAPLANES_PER_SERVICE).as_str().into();
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    let tags = [
        (tag::SERVICE.into(), service),
        (tag::PROTOCOL.into(), "http".into()),
        ("version".into(), "v1".into()),
    ];
    Dataplane {
        key: key(number),
        mesh: MeshName::new(DEFAULT_MESH),
        address: [10, 1, high, low].into(),
        additional_addresses: Vec::new(),
        inbounds: vec![Inbound {
            port: 8080,
            tags: tags.into(),
            ready: Some(is_ready),
        }],
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

/// Permits the service before `service` to call it.
fn permit_previous(view: &mut MeshView, service: usize) {
    let name: Arc<str> = service_name(service).as_str().into();
    let permission = TrafficPermission {
        target: [(tag::SERVICE.into(), name)].into(),
        rules: vec![PermissionRule {
            from: Principal {
                service: Some(service_name(service - 1)),
                tags: [].into(),
            },
            action: Action::Allow,
        }],
    };
    let key = ObjectKey::new("kong-mesh-system", format!("permission-{service:03}"));
    view.upsert_permission(&key, &MeshName::new(DEFAULT_MESH), permission);
}

impl ViewSource for Example {
    fn with_view(&self, read: &mut dyn FnMut(&MeshView)) {
        read(&self.view.read());
    }
}

/// Proxies of the example, whose states follow from the names of the Dataplanes.
struct ExampleProxies(Arc<Example>);

impl ProxySource for ExampleProxies {
    fn summaries(&self) -> HashMap<ObjectKey, ProxySummary> {
        let view = self.0.view.read();
        let keys = view.dataplanes().map(|dataplane| &dataplane.key);
        keys.filter_map(|key| Some((key.clone(), self.summary(key)?)))
            .collect()
    }

    fn summary(&self, key: &ObjectKey) -> Option<ProxySummary> {
        let is = |service: &str, replica: &str| key.name.ends_with(replica) && key.name.contains(service);
        (!is("0-", "-7") && !is("5-", "-7")).then(|| ProxySummary {
            sent: 12,
            acknowledged: 12,
            rejected_resources: usize::from(is("0-", "-3") || is("5-", "-3")),
        })
    }

    fn proxy(&self, key: &ObjectKey) -> Option<ConnectedProxy> {
        let summary = self.summary(key)?;
        let last_rejection = (summary.rejected_resources > 0).then(|| Rejection {
            kind: "Listener".to_owned(),
            message: "Error adding listener: <b>no such filter</b>".to_owned(),
            resources: vec!["inbound:10.1.0.3:8080".to_owned()],
            time: "2026-01-01T00:00:00Z".to_owned(),
        });
        Some(ConnectedProxy {
            configuration: Configuration {
                acknowledged: summary.acknowledged.to_string(),
                last_rejection,
                sent: summary.sent.to_string(),
            },
            control_plane: "kuma-control-plane-example".to_owned(),
            envoy_version: "1.40.0".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
