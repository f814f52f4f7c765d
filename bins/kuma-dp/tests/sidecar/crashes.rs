//! Tests of crashes of Envoy, with and without a control plane, and of reconnections to the control plane.

use crate::agent::{Agent, is_running};
use crate::control_plane::ControlPlane;
use crate::{MTLS, presented_certificate};

/// Content of the token file of `kuma-dp`.
const TOKEN: &str = "first-token";

/// Returns the number of occurrences of a text in the log of `kuma-dp`.
fn count_in_log(agent: &Agent, text: &str) -> usize {
    agent.log().matches(text).count()
}

#[tokio::test]
async fn restarted_envoy_serves_with_its_certificate_without_a_control_plane() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, TOKEN, &[]).await;
    let before_crash = agent
        .eventually("the inbound presents the certificate", async || {
            presented_certificate(&control_plane).await
        })
        .await;
    agent.wait_for_ready_status(200).await;

    control_plane.disconnect();
    agent.crash_envoy().await;
    let after_crash = agent
        .eventually(
            "the inbound of the restarted Envoy presents the certificate",
            async || presented_certificate(&control_plane).await,
        )
        .await;
    assert!(
        before_crash == after_crash,
        "the certificate changed without a control plane"
    );
    agent.wait_for_ready_status(200).await;

    control_plane.reconnect();
    // The first request for each type is a subscription: one to clusters, one to listeners.
    let subscriptions = agent
        .eventually("the control plane receives subscriptions", async || {
            let mut requests = control_plane.received();
            requests.retain(|request| request.response_nonce.is_empty());
            (requests.len() >= 2).then_some(requests)
        })
        .await;
    for request in &subscriptions[..2] {
        assert!(
            !request.initial_resource_versions.is_empty(),
            "the request lists no initial resource versions: {request:?}"
        );
    }
    assert!(subscriptions[0].node.is_some());
    assert!(presented_certificate(&control_plane).await.is_some());
    // Neither the log nor a file contains the private key.
    let log = agent.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(agent.files_containing("PRIVATE KEY"), [""; 0]);
}

#[tokio::test]
async fn envoy_keeps_its_streams_while_the_agent_reconnects() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, TOKEN, &[]).await;
    agent.wait_for_ready_status(200).await;
    // The agent has connected once. Each iteration ends the connection, after which the agent connects again.
    for expected_connections in 2..4 {
        control_plane.disconnect();
        agent
            .eventually("the stream is lost", async || {
                (count_in_log(&agent, "no ADS stream to the control plane") >= expected_connections - 1)
                    .then_some(())
            })
            .await;
        control_plane.reconnect();
        agent
            .eventually("the stream is reopened", async || {
                (count_in_log(&agent, "connected to the control plane") == expected_connections).then_some(())
            })
            .await;
    }
    let (_, statistics) = agent
        .admin_request("GET", "/stats?filter=kuma_dp.upstream_(cx_total|rq_total)")
        .await
        .unwrap();
    // Envoy has opened one connection to the agent, and three streams: ADS and two secrets. No stream was reopened.
    assert!(statistics.contains("upstream_cx_total: 1"), "{statistics}");
    assert!(statistics.contains("upstream_rq_total: 3"), "{statistics}");
}

#[tokio::test]
async fn restarted_envoy_is_configured_by_the_control_plane() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, TOKEN, &[]).await;
    agent.wait_for_ready_status(200).await;
    agent.crash_envoy().await;
    agent
        .eventually(
            "the inbound of the restarted Envoy presents the certificate",
            async || presented_certificate(&control_plane).await,
        )
        .await;
    assert_eq!(
        count_in_log(&agent, "Envoy receives the cached configuration"),
        0,
        "{}",
        agent.log()
    );
}

#[tokio::test]
async fn kuma_dp_ends_with_the_exit_code_of_envoy_after_a_crash_loop() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/envoy-that-crashes");
    let control_plane = ControlPlane::start(MTLS).await;
    let overrides = [("KUMA_DATAPLANE_RUNTIME_BINARY_PATH", program)];
    let mut agent = Agent::start(&control_plane, TOKEN, &overrides).await;
    // 42 is the exit code of `envoy-that-crashes`.
    assert_eq!(agent.wait_for_end().await.code(), Some(42));
    assert_eq!(count_in_log(&agent, "it is restarted with"), 5);
    assert_eq!(
        count_in_log(&agent, "crashed 6 times in a row and is not restarted"),
        1
    );
}

#[tokio::test]
async fn signal_ends_a_sidecar_whose_envoy_was_restarted() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, TOKEN, &[]).await;
    agent.wait_for_ready_status(200).await;
    agent.crash_envoy().await;
    agent.wait_for_ready_status(200).await;
    let envoy = agent.envoy_pid().await;
    agent.send_signal(nix::sys::signal::Signal::SIGTERM);
    agent.wait_for_ready_status(503).await;
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
    assert!(!is_running(envoy));
}

#[tokio::test]
async fn sidecar_serves_restarts_envoy_and_ends_while_the_disk_is_full() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start_with_full_disk(&control_plane, TOKEN).await;
    agent.wait_for_ready_status(200).await;
    agent.crash_envoy().await;
    agent.wait_for_ready_status(200).await;
    assert!(presented_certificate(&control_plane).await.is_some());
    agent.send_signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}
