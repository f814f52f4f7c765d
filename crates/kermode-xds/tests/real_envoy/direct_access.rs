//! Direct access with the real Envoy: clusters on demand, and a listener of which only the matcher changes.
//!
//! Connections are not redirected here, so the destination of a connection is a loopback address and the port of the
//! listener itself. The tests change two things in the generated resources for this reason: the listener does not close
//! connections to its own port, and the clusters connect to backends at other addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::MatcherType;
use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, ResourceKind, generate, names};
use kermode_model::{Dataplane, Mesh, ObjectKey, ServiceName, TransparentProxying};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::control_plane::ControlPlane;
use crate::envoy::Envoy;
use crate::resources::{Backend, encode, free_port};

/// Pods of the test, which have the addresses 127.0.0.2 and so on at the port of the listener.
struct Pods {
    port: u16,
    backend_ports: Vec<u16>,
    _backends: Vec<Backend>,
}

impl Pods {
    async fn start() -> Self {
        let mut backends = Vec::new();
        for name in ["first", "second"] {
            backends.push(Backend::start(name).await);
        }
        Self {
            port: free_port(),
            backend_ports: backends.iter().map(|backend| backend.port).collect(),
            _backends: backends,
        }
    }

    fn address(&self, pod: usize) -> SocketAddr {
        let last = u8::try_from(pod + 2).expect("a small number");
        (Ipv4Addr::new(127, 0, 0, last), self.port).into()
    }

    fn cluster_name(&self, pod: usize) -> String {
        names::direct_access(self.address(pod))
    }

    /// Returns the listener and the clusters for direct access to some of the Pods.
    fn resources(&self, pods: &[usize]) -> Vec<Resource> {
        let addresses = pods.iter().map(|pod| self.address(*pod)).collect();
        let clusters = pods.iter().map(|pod| self.cluster(*pod));
        std::iter::once(self.listener(&addresses))
            .chain(clusters)
            .collect()
    }

    fn listener(&self, addresses: &BTreeSet<SocketAddr>) -> Resource {
        let dataplane = Dataplane {
            key: ObjectKey::new("shop", "web-0"),
            mesh: "default".into(),
            address: IpAddr::from(Ipv4Addr::LOCALHOST),
            additional_addresses: Vec::new(),
            inbounds: Vec::new(),
            gateway: None,
            transparent_proxying: Some(TransparentProxying {
                redirect_port_inbound: 1,
                redirect_port_inbound_v6: None,
                redirect_port_outbound: self.port,
                direct_access_services: vec!["*".into()],
                reachable_services: Vec::new(),
            }),
            admin_port: None,
            probes: None,
            metrics: None,
        };
        let on_demand = OnDemandAddresses {
            direct_access: Some(addresses),
            virtual_ips: None,
        };
        let resource = generate::on_demand_listeners(&dataplane, on_demand).remove(0);
        let mut listener = Listener::decode(resource.body).expect("a listener");
        let matcher = listener.filter_chain_matcher.as_mut().expect("a matcher");
        let Some(MatcherType::MatcherList(list)) = &mut matcher.matcher_type else {
            panic!("not a list: {matcher:?}");
        };
        let own_port = format!("{:?}", self.port.to_string());
        list.matchers
            .retain(|matcher| !format!("{matcher:?}").contains(&own_port));
        encode(ResourceKind::Listener, &resource.name, &listener)
    }

    fn cluster(&self, pod: usize) -> Resource {
        let backend = SocketAddr::from((Ipv4Addr::LOCALHOST, self.backend_ports[pod]));
        let no_services = std::iter::empty::<&ServiceName>();
        let generated = generate::direct_access_cluster(&Mesh::new("default"), backend, no_services);
        let name = self.cluster_name(pod);
        let cluster = Cluster {
            name: name.clone(),
            ..Cluster::decode(generated.body).expect("a cluster")
        };
        Resource {
            on_demand: generated.on_demand,
            ..encode(ResourceKind::Cluster, &name, &cluster)
        }
    }

    /// Connects to a Pod. Returns the received text, which is empty if Envoy has no cluster for the connection.
    async fn call(&self, pod: usize) -> String {
        let mut stream = TcpStream::connect(self.address(pod)).await.expect("a connection");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }
}

async fn start(pods: &Pods, selected: &[usize]) -> (ControlPlane, Envoy) {
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(pods.resources(selected));
    let envoy = Envoy::start(control_plane.address()).await;
    envoy
        .wait_until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    (control_plane, envoy)
}

#[tokio::test]
async fn envoy_requests_the_cluster_of_an_address_with_the_first_connection_to_it() {
    let pods = Pods::start().await;
    let (_control_plane, envoy) = start(&pods, &[0, 1]).await;
    assert_eq!(envoy.clusters().await, [""; 0]);
    assert_eq!(pods.call(1).await, "second");
    assert_eq!(envoy.clusters().await, [pods.cluster_name(1)]);
    assert_eq!(pods.call(0).await, "first");
    assert_eq!(pods.call(0).await, "first");
    assert_eq!(
        envoy.stat("cluster_manager.cluster_added").await,
        3,
        "with the control plane's own"
    );
}

#[tokio::test]
async fn open_connection_survives_a_change_of_the_addresses() {
    let mut pods = Pods::start().await;
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    pods.backend_ports[0] = backend.local_addr().expect("an address").port();
    let (control_plane, envoy) = start(&pods, &[0]).await;
    let mut client = TcpStream::connect(pods.address(0)).await.expect("a connection");
    let (mut server, _) = backend.accept().await.expect("a connection");
    control_plane.publish_proxy(pods.resources(&[0, 1]));
    envoy
        .wait_for_stat("listener_manager.listener_in_place_updated", 1)
        .await;
    assert_eq!(pods.call(1).await, "second");
    server.write_all(b"still open").await.expect("an open connection");
    let mut received = [0; 10];
    client
        .read_exact(&mut received)
        .await
        .expect("an open connection");
    assert_eq!(&received, b"still open");
    assert_eq!(
        envoy.stat("listener_manager.total_filter_chains_draining").await,
        0
    );
}

#[tokio::test]
async fn cluster_of_a_deleted_pod_disappears_and_a_new_pod_with_the_address_is_reachable() {
    let pods = Pods::start().await;
    let (control_plane, envoy) = start(&pods, &[0, 1]).await;
    assert_eq!(pods.call(0).await, "first");
    control_plane.publish_proxy(pods.resources(&[1]));
    envoy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    assert_eq!(envoy.clusters().await, [""; 0]);
    envoy
        .wait_for_stat("listener_manager.listener_in_place_updated", 1)
        .await;
    assert_eq!(pods.call(0).await, "", "nothing listens at the address itself");
    control_plane.publish_proxy(pods.resources(&[0, 1]));
    envoy
        .wait_for_stat("listener_manager.listener_in_place_updated", 2)
        .await;
    assert_eq!(pods.call(0).await, "first");
}
