//! The ADS server against the Envoy that Kermode ships: updates, removals, rejections and reconnects.
//!
//! Envoy's timeout for fetching endpoints is disabled. If the server fails to send the endpoints of a changed cluster,
//! the cluster never finishes warming and the test fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail like assertions"
)]

mod control_plane;
mod direct_access;
mod envoy;
mod resources;
mod virtual_ip;

use control_plane::{ControlPlane, ReportedStatus};
use envoy::Envoy;
use resources::{Backend, broken_cluster, cluster, endpoints, free_port, http_listener, route, tcp_listener};

#[tokio::test]
async fn envoy_does_not_become_live_before_the_own_resources_of_its_proxy_are_published() {
    let control_plane = ControlPlane::start().await;
    control_plane.publish_service("web", vec![cluster("web", 1), endpoints("web", &[])]);
    let envoy = Envoy::start(control_plane.address()).await;
    control_plane
        .wait_until("Envoy is connected", |status| status.open_streams == 1)
        .await;
    let state = envoy.state().await;
    assert!(
        state.ends_with("INITIALIZING"),
        "Envoy must wait for its configuration: {state}"
    );
    control_plane.publish_proxy(Vec::new());
    envoy
        .wait_until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    assert_eq!(envoy.clusters().await, ["web"]);
}

#[tokio::test]
async fn envoy_becomes_live_with_an_empty_configuration() {
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    let envoy = Envoy::start(control_plane.address()).await;
    envoy
        .wait_until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
}

#[tokio::test]
async fn traffic_follows_changed_endpoints_and_clusters() {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let port = free_port();
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[first.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    let envoy = Envoy::start(control_plane.address()).await;
    envoy.wait_for_text(port, "first").await;

    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[second.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.wait_for_text(port, "second").await;

    // Revision 2 of the cluster: Envoy replaces the cluster without requesting its endpoints again.
    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 2),
            endpoints("web", &[second.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.wait_for_stat("cluster_manager.cluster_modified", 1).await;
    envoy.wait_for_stat("cluster_manager.warming_clusters", 0).await;
    envoy.wait_for_text(port, "second").await;
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected").await, 0);
}

#[tokio::test]
async fn no_request_goes_to_an_endpoint_whose_removal_is_acknowledged() {
    let (first, second) = (Backend::start("first").await, Backend::start("second").await);
    let port = free_port();
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    let listener = || tcp_listener("web", port, "web");
    control_plane.publish_service(
        "web",
        vec![cluster("web", 1), endpoints("web", &[first.port]), listener()],
    );
    control_plane.add_endpoint("first");
    let envoy = Envoy::start(control_plane.address()).await;
    envoy.wait_for_text(port, "first").await;
    control_plane
        .wait_until("every response is acknowledged", ReportedStatus::is_settled)
        .await;

    control_plane.publish_service(
        "web",
        vec![cluster("web", 1), endpoints("web", &[second.port]), listener()],
    );
    control_plane.wait_for_endpoint_removal("first").await;
    assert_eq!(envoy.first_text(port).await, "second");
}

#[tokio::test]
async fn new_service_is_usable_as_soon_as_its_listener_exists() {
    let backend = Backend::start("hello").await;
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    let envoy = Envoy::start(control_plane.address()).await;
    envoy
        .wait_until("Envoy is live", "/ready", |text| text.trim() == "LIVE")
        .await;
    let services = (0..20)
        .map(|i| (format!("s{i}"), free_port()))
        .collect::<Vec<_>>();
    for (name, port) in &services {
        let resources = vec![
            cluster(name, 1),
            endpoints(name, &[backend.port]),
            tcp_listener(name, *port, name),
        ];
        control_plane.publish_service(name, resources);
    }
    for (name, port) in &services {
        // The first connection that the listener accepts must reach the backend, so the cluster must exist by then.
        assert_eq!(envoy.first_text(*port).await, "hello", "{name}");
    }
}

#[tokio::test]
async fn removed_resources_disappear_from_envoy_and_can_be_created_again() {
    let backend = Backend::start("hello").await;
    let port = free_port();
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    control_plane.publish_service("api", vec![cluster("api", 1), endpoints("api", &[])]);
    let envoy = Envoy::start(control_plane.address()).await;
    envoy.wait_for_text(port, "hello").await;
    control_plane.publish_service("web", Vec::new());
    envoy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    envoy.wait_for_stat("listener_manager.listener_removed", 1).await;
    assert_eq!(envoy.clusters().await, ["api"]);

    // The service is created again, with the endpoints that Envoy had before.
    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    envoy.wait_for_text(port, "hello").await;
}

#[tokio::test]
async fn invalid_resource_is_reported_and_does_not_delay_other_resources() {
    let backend = Backend::start("hello").await;
    let port = free_port();
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    control_plane.publish_service(
        "web",
        vec![
            cluster("web", 1),
            endpoints("web", &[backend.port]),
            tcp_listener("web", port, "web"),
        ],
    );
    control_plane.publish_service("bad", vec![broken_cluster("bad")]);
    let envoy = Envoy::start(control_plane.address()).await;
    envoy.wait_for_text(port, "hello").await;
    control_plane
        .wait_until("the invalid resource is rejected", |status| {
            status.rejected_resources == 1 && status.is_settled()
        })
        .await;
    let rejections = control_plane.status().rejections;
    assert!(
        rejections
            .iter()
            .any(|(names, message)| names == &["bad"] && message.contains("EDS")),
        "{rejections:?}"
    );

    // Another change does not make the server send the invalid resource again.
    control_plane.publish_service("api", vec![cluster("api", 1), endpoints("api", &[])]);
    envoy
        .wait_until("cluster api exists", "/clusters?format=json", |text| {
            text.contains("\"api\"")
        })
        .await;
    assert_eq!(control_plane.status().rejections, rejections);

    control_plane.publish_service("bad", vec![cluster("bad", 1), endpoints("bad", &[])]);
    control_plane
        .wait_until("the corrected resource is accepted", |status| {
            status.rejected_resources == 0
        })
        .await;
    envoy
        .wait_until(
            "the corrected cluster bad exists",
            "/clusters?format=json",
            |text| text.contains("\"bad\""),
        )
        .await;
}

#[tokio::test]
async fn reconnecting_envoy_gets_only_differences() {
    let backend = Backend::start("hello").await;
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let resources = |name: &str, port: u16, revision: u32| {
        vec![
            cluster(name, revision),
            endpoints(name, &[backend.port]),
            tcp_listener(name, port, name),
        ]
    };
    let mut control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(Vec::new());
    for (name, port) in ["same", "changed", "gone"].iter().zip(&ports) {
        control_plane.publish_service(name, resources(name, *port, 1));
    }
    let envoy = Envoy::start(control_plane.address()).await;
    for port in &ports {
        envoy.wait_for_text(*port, "hello").await;
    }
    let created_listeners_before = envoy.stat("listener_manager.listener_create_success").await;

    control_plane.stop().await;
    control_plane.publish_service("changed", resources("changed", ports[1], 2));
    control_plane.publish_service("gone", Vec::new());
    assert_eq!(
        envoy.first_text(ports[2]).await,
        "hello",
        "Envoy must keep its configuration without a control plane"
    );
    control_plane.restart().await;
    envoy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    envoy.wait_for_stat("cluster_manager.cluster_modified", 1).await;
    envoy.wait_for_stat("cluster_manager.warming_clusters", 0).await;
    envoy.wait_for_stat("listener_manager.listener_removed", 1).await;
    control_plane
        .wait_until("every response is acknowledged", ReportedStatus::is_settled)
        .await;
    for port in &ports[..2] {
        envoy.wait_for_text(*port, "hello").await;
    }
    assert_eq!(envoy.stat("cluster_manager.cluster_modified").await, 1);
    assert_eq!(
        envoy.stat("cluster_manager.cluster_added").await,
        1 + 3,
        "only the clusters of the control plane and of three services may be added"
    );
    assert_eq!(
        envoy.stat("listener_manager.listener_create_success").await,
        created_listeners_before
    );
}

#[tokio::test]
async fn changed_route_of_a_listener_takes_effect() {
    let port = free_port();
    let control_plane = ControlPlane::start().await;
    control_plane.publish_proxy(vec![
        http_listener("web", port, "web-route"),
        route("web-route", "one"),
    ]);
    let envoy = Envoy::start(control_plane.address()).await;
    envoy.wait_for_page(port, "one").await;
    control_plane.publish_proxy(vec![
        http_listener("web", port, "web-route"),
        route("web-route", "two"),
    ]);
    envoy.wait_for_page(port, "two").await;
}
