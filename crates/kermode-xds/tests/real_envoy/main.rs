//! The ADS server against the Envoy that Kermode ships: updates, removals, rejections and reconnects.
//!
//! The fetch timeout of endpoints is disabled. If the server fails to send the endpoints of a changed cluster, the cluster
//! never finishes warming and its test fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail like assertions"
)]

mod control_plane;
mod envoy;
mod resources;

use control_plane::{ControlPlane, ReportedStatus};
use envoy::Envoy;
use resources::{Backend, broken_cluster, cluster, endpoints, free_port, http_listener, route, tcp_listener};

#[tokio::test]
async fn envoy_does_not_become_live_before_its_proxy_is_known() {
    let plane = ControlPlane::start().await;
    plane.share("web", vec![cluster("web", 1), endpoints("web", &[])]);
    let envoy = Envoy::start(plane.address()).await;
    plane
        .until("Envoy is connected", |status| status.connected == 1)
        .await;
    let state = envoy.state().await;
    assert!(
        state.ends_with("INITIALIZING"),
        "Envoy became live without configuration: {state}"
    );
    plane.publish_proxy(Vec::new());
    envoy
        .until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    assert_eq!(envoy.clusters().await, ["web"]);
}

#[tokio::test]
async fn envoy_without_configuration_becomes_live() {
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    let envoy = Envoy::start(plane.address()).await;
    envoy
        .until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
}

#[tokio::test]
async fn traffic_follows_endpoints_and_clusters() {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let port = free_port();
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    plane.share(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[first.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    let envoy = Envoy::start(plane.address()).await;
    envoy.until_text(port, "first").await;

    plane.share(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[second.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.until_text(port, "second").await;

    // Envoy rebuilds the cluster without requesting its endpoints again.
    plane.share(
        "web",
        vec![
            cluster("web", 2),
            endpoints("web", &[second.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.until_stat("cluster_manager.cluster_modified", 1).await;
    envoy.until_stat("cluster_manager.warming_clusters", 0).await;
    envoy.until_text(port, "second").await;
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected").await, 0);
}

#[tokio::test]
async fn no_request_goes_to_an_endpoint_whose_removal_is_acknowledged() {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let port = free_port();
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    let listener = || tcp_listener("web", port, "web");
    plane.share(
        "web",
        vec![cluster("web", 1), endpoints("web", &[first.port]), listener()],
    );
    plane.add_endpoint("first");
    let envoy = Envoy::start(plane.address()).await;
    envoy.until_text(port, "first").await;
    plane
        .until("every response is acknowledged", ReportedStatus::settled)
        .await;

    plane.share(
        "web",
        vec![cluster("web", 1), endpoints("web", &[second.port]), listener()],
    );
    plane.remove_endpoint("first").await;
    assert_eq!(envoy.first_text(port).await, "second");
}

#[tokio::test]
async fn new_service_is_usable_as_soon_as_its_listener_exists() {
    let backend = Backend::start("hello").await;
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    let envoy = Envoy::start(plane.address()).await;
    envoy
        .until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    let names = (0..20)
        .map(|i| (format!("s{i}"), free_port()))
        .collect::<Vec<_>>();
    for (name, port) in &names {
        let resources = vec![
            cluster(name, 1),
            endpoints(name, &[backend.port]),
            tcp_listener(name, *port, name),
        ];
        plane.share(name, resources);
    }
    for (name, port) in &names {
        // The first connection that the listener accepts reaches the backend, so its cluster exists.
        assert_eq!(envoy.first_text(*port).await, "hello", "{name}");
    }
}

#[tokio::test]
async fn removed_resources_are_removed_from_envoy() {
    let backend = Backend::start("hello").await;
    let port = free_port();
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    plane.share(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    plane.share("api", vec![cluster("api", 1), endpoints("api", &[])]);
    let envoy = Envoy::start(plane.address()).await;
    envoy.until_text(port, "hello").await;
    plane.share("web", Vec::new());
    envoy.until_stat("cluster_manager.cluster_removed", 1).await;
    envoy.until_stat("listener_manager.listener_removed", 1).await;
    assert_eq!(envoy.clusters().await, ["api"]);

    // Removed and created again, with endpoints that Envoy had before.
    plane.share(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.until_text(port, "hello").await;
}

#[tokio::test]
async fn invalid_resource_is_reported_and_delays_nothing() {
    let backend = Backend::start("hello").await;
    let port = free_port();
    let plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    plane.share(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    plane.share("bad", vec![broken_cluster("bad")]);
    let envoy = Envoy::start(plane.address()).await;
    envoy.until_text(port, "hello").await;
    plane
        .until("the invalid resource is rejected", |status| {
            status.invalid == 1 && status.settled()
        })
        .await;
    let rejections = plane.status().rejected;
    assert!(
        rejections
            .iter()
            .any(|(names, message)| names == &["bad"] && message.contains("EDS")),
        "{rejections:?}"
    );

    // Another change does not make the server send the invalid resource again.
    plane.share("api", vec![cluster("api", 1), endpoints("api", &[])]);
    envoy
        .until("the other cluster exists", "/clusters?format=json", |text| {
            text.contains("\"api\"")
        })
        .await;
    assert_eq!(plane.status().rejected, rejections);

    plane.share("bad", vec![cluster("bad", 1), endpoints("bad", &[])]);
    plane
        .until("the corrected resource is accepted", |status| status.invalid == 0)
        .await;
    envoy
        .until("the corrected cluster exists", "/clusters?format=json", |text| {
            text.contains("\"bad\"")
        })
        .await;
}

#[tokio::test]
async fn reconnecting_envoy_gets_only_differences() {
    let backend = Backend::start("hello").await;
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let service = |name: &str, port: u16, revision: u32| {
        vec![
            cluster(name, revision),
            endpoints(name, &[backend.port]),
            tcp_listener(name, port, name),
        ]
    };
    let mut plane = ControlPlane::start().await;
    plane.publish_proxy(Vec::new());
    for (name, port) in ["same", "changed", "gone"].iter().zip(&ports) {
        plane.share(name, service(name, *port, 1));
    }
    let envoy = Envoy::start(plane.address()).await;
    for port in &ports {
        envoy.until_text(*port, "hello").await;
    }
    let listeners_before = envoy.stat("listener_manager.listener_create_success").await;

    plane.stop().await;
    plane.share("changed", service("changed", ports[1], 2));
    plane.share("gone", Vec::new());
    assert_eq!(
        envoy.first_text(ports[2]).await,
        "hello",
        "Envoy keeps its configuration without a control plane"
    );
    plane.restart().await;
    envoy.until_stat("cluster_manager.cluster_removed", 1).await;
    envoy.until_stat("cluster_manager.cluster_modified", 1).await;
    envoy.until_stat("cluster_manager.warming_clusters", 0).await;
    envoy.until_stat("listener_manager.listener_removed", 1).await;
    plane
        .until("every response is acknowledged", ReportedStatus::settled)
        .await;
    for port in &ports[..2] {
        envoy.until_text(*port, "hello").await;
    }
    assert_eq!(envoy.stat("cluster_manager.cluster_modified").await, 1);
    assert_eq!(
        envoy.stat("cluster_manager.cluster_added").await,
        1 + 3,
        "the cluster of the control plane, and three services"
    );
    assert_eq!(
        envoy.stat("listener_manager.listener_create_success").await,
        listeners_before
    );
}

#[tokio::test]
async fn changed_route_of_a_listener_takes_effect() {
    let port = free_port();
    let plane = ControlPlane::start().await;
    plane.publish_proxy(vec![
        http_listener("web", port, "web-route"),
        route("web-route", "one"),
    ]);
    let envoy = Envoy::start(plane.address()).await;
    envoy.until_page(port, "one").await;
    plane.publish_proxy(vec![
        http_listener("web", port, "web-route"),
        route("web-route", "two"),
    ]);
    envoy.until_page(port, "two").await;
}
