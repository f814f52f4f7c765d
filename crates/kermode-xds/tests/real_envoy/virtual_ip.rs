//! Virtual IPs with the real Envoy: clusters on demand, services whose virtual IP changes, and the upgrade of a listener
//! to virtual IPs.
//!
//! Connections are not redirected here, so a virtual IP is a loopback address, at the port of the listener itself. The
//! tests change three things in the generated resources for this reason: the listener does not close connections to its
//! own port, it selects the filter chain for virtual IPs for every connection, and the resources for a virtual IP are
//! named after the port of the listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::MatcherType;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Outcome;
use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, ResourceKind, generate, names};
use kermode_model::view::{AddressPosition, Endpoint, Service, ServiceAddresses};
use kermode_model::{
    Dataplane, Mesh, ObjectKey, Protocol, ServiceName, Tags, TransparentProxying, VIRTUAL_IP_PORT,
    VirtualIpRange,
};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::control_plane::ControlPlane;
use crate::envoy::Envoy;
use crate::resources::{Backend, cluster, encode, endpoints, free_port};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Two services, `first` and `second`, each with one endpoint, which sends the name of the service.
struct Services {
    port: u16,
    backends: Vec<(&'static str, Backend)>,
}

impl Services {
    async fn start() -> Self {
        let mut backends = Vec::new();
        for name in ["first", "second"] {
            backends.push((name, Backend::start(name).await));
        }
        Self {
            port: free_port(),
            backends,
        }
    }

    fn cluster_name(&self, ip: Ipv4Addr) -> String {
        names::virtual_ip((ip, self.port).into())
    }

    /// Returns the listener, and the resources of the services with these virtual IPs.
    fn resources(&self, virtual_ips: [Option<Ipv4Addr>; 2]) -> Vec<Resource> {
        let services = self.backends.iter().zip(virtual_ips);
        let of_services = services.flat_map(|((name, backend), ip)| self.of_service(name, backend.port, ip));
        let listener = self.listener(Some(VirtualIpRange::default()));
        std::iter::once(listener).chain(of_services).collect()
    }

    fn listener(&self, virtual_ips: Option<VirtualIpRange>) -> Resource {
        let on_demand = OnDemandAddresses {
            direct_access: None,
            virtual_ips,
        };
        let resource = generate::on_demand_listeners(&mk_dataplane(self.port), on_demand).remove(0);
        let mut listener = Listener::decode(resource.body).expect("a listener");
        let own_chain = format!(":{}", self.port);
        listener
            .filter_chains
            .retain(|chain| !chain.name.ends_with(&own_chain));
        if let Some(matcher) = &mut listener.filter_chain_matcher {
            let Some(MatcherType::MatcherList(list)) = &mut matcher.matcher_type else {
                panic!("not a list: {matcher:?}");
            };
            let own_port = format!("{:?}", self.port.to_string());
            list.matchers
                .retain(|matcher| !format!("{matcher:?}").contains(&own_port));
            matcher.on_no_match = Some(Box::new(to_chain(names::VIRTUAL_IP)));
        }
        encode(ResourceKind::Listener, &resource.name, &listener)
    }

    fn of_service(&self, name: &str, backend_port: u16, virtual_ip: Option<Ipv4Addr>) -> Vec<Resource> {
        let endpoint = Endpoint {
            dataplane: ObjectKey::new("shop", name),
            position: AddressPosition::Only,
            tags: Tags::new(),
            protocol: Protocol::Http,
            ready: true,
        };
        let service = Service {
            addresses: ServiceAddresses {
                headless: true,
                ..ServiceAddresses::default()
            },
            endpoints: [((Ipv4Addr::LOCALHOST, backend_port).into(), endpoint)].into(),
            virtual_ip,
            ..Service::default()
        };
        let resources = generate::service(&Mesh::new("default"), &ServiceName::from(name), &service);
        let of_virtual_ip = resources
            .into_iter()
            .filter(|resource| resource.name.starts_with(names::VIRTUAL_IP));
        of_virtual_ip.map(|resource| self.at_listener(resource)).collect()
    }

    /// Renames a resource for a virtual IP after the port of the listener.
    fn at_listener(&self, resource: Resource) -> Resource {
        let suffix = format!(":{VIRTUAL_IP_PORT}");
        let prefix = resource.name.strip_suffix(&suffix).expect("the port");
        let name = format!("{prefix}:{}", self.port);
        let renamed = match resource.kind {
            ResourceKind::Cluster => {
                let mut cluster = Cluster::decode(resource.body).expect("a cluster");
                cluster.name.clone_from(&name);
                let eds = cluster.eds_cluster_config.as_mut().expect("the EDS settings");
                assert_eq!(*eds.service_name, *resource.name);
                eds.service_name.clone_from(&name);
                encode(ResourceKind::Cluster, &name, &cluster)
            }
            kind => {
                let mut endpoints = ClusterLoadAssignment::decode(resource.body).expect("endpoints");
                endpoints.cluster_name.clone_from(&name);
                encode(kind, &name, &endpoints)
            }
        };
        // The generated version of endpoints also depends on their cluster.
        Resource {
            on_demand: resource.on_demand,
            version: resource.version,
            ..renamed
        }
    }

    /// Connects to a virtual IP. Returns the received text, which is empty if Envoy has no cluster for the connection.
    async fn call(&self, ip: Ipv4Addr) -> String {
        let address = SocketAddr::from((ip, self.port));
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    /// Calls a virtual IP until the response is `text`, because Envoy gets changes of endpoints asynchronously.
    async fn wait_for(&self, ip: Ipv4Addr, text: &str) {
        let until = async {
            while self.call(ip).await != text {
                tokio::task::yield_now().await;
            }
        };
        let result = tokio::time::timeout(std::time::Duration::from_mins(1), until).await;
        assert!(result.is_ok(), "no response {text} from {ip}");
    }
}

fn mk_dataplane(redirect_port_outbound: u16) -> Dataplane {
    Dataplane {
        key: ObjectKey::new("shop", "web-0"),
        mesh: "default".into(),
        address: IpAddr::from(Ipv4Addr::LOCALHOST),
        additional_addresses: Vec::new(),
        inbounds: Vec::new(),
        gateway: None,
        transparent_proxying: Some(TransparentProxying {
            redirect_port_inbound: 1,
            redirect_port_inbound_v6: None,
            redirect_port_outbound,
            direct_access_services: Vec::new(),
            reachable_services: Vec::new(),
        }),
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

fn to_chain(name: &str) -> OnMatch {
    let name = StringValue { value: name.into() };
    let action = TypedExtensionConfig {
        name: "filter_chain".into(),
        typed_config: Some(Any {
            type_url: "type.googleapis.com/google.protobuf.StringValue".into(),
            value: name.encode_to_vec(),
        }),
    };
    OnMatch {
        on_match: Some(Outcome::Action(action)),
        ..Default::default()
    }
}

async fn start(services: &Services, virtual_ips: [Option<Ipv4Addr>; 2]) -> (ControlPlane, Envoy) {
    start_with(services.resources(virtual_ips)).await
}

async fn start_with(resources: Vec<Resource>) -> (ControlPlane, Envoy) {
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(resources);
    let envoy = Envoy::start(control_plane.address()).await;
    envoy
        .wait_until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    (control_plane, envoy)
}

/// A connection through Envoy.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    async fn open(address: SocketAddr, backend: &TcpListener) -> Self {
        let client = TcpStream::connect(address).await.expect("a connection");
        let (server, _) = backend.accept().await.expect("a connection");
        Self { client, server }
    }

    async fn check(&mut self) {
        self.server.write_all(b"data").await.expect("an open connection");
        let mut received = [0; 4];
        let read = self.client.read_exact(&mut received).await;
        read.expect("an open connection");
        assert_eq!(&received, b"data");
    }
}

#[tokio::test]
async fn envoy_requests_the_cluster_of_a_virtual_ip_with_the_first_connection_to_it() {
    let services = Services::start().await;
    let (_control_plane, envoy) = start(&services, [Some(A), Some(B)]).await;
    assert_eq!(envoy.clusters().await, [""; 0]);
    assert_eq!(services.call(B).await, "second");
    assert_eq!(envoy.clusters().await, [services.cluster_name(B)]);
    assert_eq!(services.call(A).await, "first");
    assert_eq!(services.call(A).await, "first");
}

#[tokio::test]
async fn changed_virtual_ips_lead_to_the_services_that_have_them_now() {
    let services = Services::start().await;
    let (control_plane, envoy) = start(&services, [Some(A), None]).await;
    assert_eq!(services.call(A).await, "first");
    // The service has another virtual IP. Its former cluster disappears.
    control_plane.publish_proxy(services.resources([Some(B), None]));
    envoy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert_eq!(services.call(B).await, "first");
    assert_eq!(envoy.clusters().await, [services.cluster_name(B)]);
    // Another service has the former virtual IP.
    control_plane.publish_proxy(services.resources([Some(B), Some(A)]));
    services.wait_for(A, "second").await;
    // Two services have exchanged their virtual IPs.
    control_plane.publish_proxy(services.resources([Some(A), Some(B)]));
    services.wait_for(A, "first").await;
    services.wait_for(B, "second").await;
    for stat in [
        "listener_manager.lds.update_rejected",
        "cluster_manager.cds.update_rejected",
    ] {
        assert_eq!(envoy.stat(stat).await, 0, "{stat}");
    }
}

#[tokio::test]
async fn open_connections_survive_the_upgrade_of_the_listener_to_virtual_ips_and_the_rollback() {
    let services = Services::start().await;
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let backend_port = backend.local_addr().expect("an address").port();
    let resources = |virtual_ips: Option<VirtualIpRange>| {
        let listener = services.listener(virtual_ips);
        // The cluster for passthrough has the name of the listener. This one has an endpoint, in place of the original
        // destination.
        let passthrough = [
            cluster(&listener.name, 1),
            endpoints(&listener.name, &[backend_port]),
        ];
        let of_service = services.of_service("held", backend_port, virtual_ips.map(|_| A));
        of_service
            .into_iter()
            .chain(passthrough)
            .chain([listener])
            .collect()
    };
    let address = SocketAddr::from((A, services.port));
    let (control_plane, envoy) = start_with(resources(None)).await;
    let mut passed_through = Connection::open(address, &backend).await;
    control_plane.publish_proxy(resources(Some(VirtualIpRange::default())));
    envoy
        .wait_for_stat("listener_manager.listener_in_place_updated", 1)
        .await;
    passed_through.check().await;
    let mut to_virtual_ip = Connection::open(address, &backend).await;
    assert_eq!(envoy.stat("tcp.virtual_ip.downstream_cx_total").await, 1);
    control_plane.publish_proxy(resources(None));
    envoy
        .wait_for_stat("listener_manager.listener_in_place_updated", 2)
        .await;
    passed_through.check().await;
    // Envoy keeps the connection until its drain time is over.
    to_virtual_ip.check().await;
    Connection::open(address, &backend).await.check().await;
    assert_eq!(envoy.stat("tcp.virtual_ip.downstream_cx_total").await, 1);
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
}
