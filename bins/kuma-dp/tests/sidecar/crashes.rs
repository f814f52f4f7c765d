//! Envoy crashes, the control plane goes away, and both at once: traffic goes on with what there was.

use crate::agent::{Agent, is_running};
use crate::control_plane::ControlPlane;
use crate::{MTLS, presented};

/// How often a line of the log appears.
fn lines(agent: &Agent, text: &str) -> usize {
    agent.log().matches(text).count()
}

#[tokio::test]
async fn an_envoy_that_crashes_without_a_control_plane_serves_again_with_its_certificate() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first", &[]).await;
    let first = agent
        .eventually("the inbound presents the certificate", async || {
            presented(&control_plane).await
        })
        .await;
    agent.until_ready_is(200).await;

    control_plane.go_away();
    agent.crash_envoy().await;
    let second = agent
        .eventually("the inbound presents the certificate again", async || {
            presented(&control_plane).await
        })
        .await;
    assert!(first == second, "another certificate, without a control plane");
    agent.until_ready_is(200).await;

    control_plane.come_back();
    let resumed = agent
        .eventually("the control plane is asked", async || {
            let heard = control_plane.heard();
            let subscriptions = heard
                .into_iter()
                .filter(|request| request.response_nonce.is_empty());
            Some(subscriptions.collect::<Vec<_>>()).filter(|heard| heard.len() >= 2)
        })
        .await;
    for request in &resumed[..2] {
        assert!(
            !request.initial_resource_versions.is_empty(),
            "all of it is asked for again: {request:?}"
        );
    }
    assert!(resumed[0].node.is_some());
    assert!(presented(&control_plane).await.is_some());
    // The private key was never written anywhere.
    let log = agent.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(agent.files_with("PRIVATE KEY"), [""; 0]);
}

#[tokio::test]
async fn envoy_does_not_notice_that_control_planes_come_and_go() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first", &[]).await;
    agent.until_ready_is(200).await;
    for times in 2..4 {
        control_plane.go_away();
        agent
            .eventually("the stream is lost", async || {
                (lines(&agent, "no stream from the control plane") + 1 >= times).then_some(())
            })
            .await;
        control_plane.come_back();
        agent
            .eventually("another stream", async || {
                (lines(&agent, "connected to the control plane") == times).then_some(())
            })
            .await;
    }
    let (_, statistics) = agent
        .ask("GET", "/stats?filter=kuma_dp.upstream_(cx_total|rq_total)")
        .await
        .unwrap();
    // ADS and two secrets, each on the stream that it began with, on one connection.
    assert!(statistics.contains("upstream_cx_total: 1"), "{statistics}");
    assert!(statistics.contains("upstream_rq_total: 3"), "{statistics}");
}

#[tokio::test]
async fn an_envoy_that_crashes_with_a_control_plane_is_served_by_it() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first", &[]).await;
    agent.until_ready_is(200).await;
    agent.crash_envoy().await;
    agent
        .eventually("the inbound presents the certificate again", async || {
            presented(&control_plane).await
        })
        .await;
    assert_eq!(
        lines(&agent, "Envoy gets the configuration that it had before"),
        0,
        "{}",
        agent.log()
    );
}

#[tokio::test]
async fn an_envoy_that_crashes_again_and_again_ends_kuma_dp_with_its_code_and_a_sentence() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/envoy-that-crashes");
    let control_plane = ControlPlane::start(MTLS).await;
    let changes = [("KUMA_DATAPLANE_RUNTIME_BINARY_PATH", program)];
    let mut agent = Agent::start(&control_plane, "first", &changes).await;
    assert_eq!(agent.ended().await.code(), Some(42));
    assert_eq!(lines(&agent, "it is started again"), 5);
    assert_eq!(
        lines(&agent, "crashed 6 times in a row and is not started again"),
        1
    );
}

#[tokio::test]
async fn a_signal_ends_the_sidecar_whose_envoy_was_started_again() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, "first", &[]).await;
    agent.until_ready_is(200).await;
    agent.crash_envoy().await;
    agent.until_ready_is(200).await;
    let envoy = agent.envoy_pid().await;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    agent.until_ready_is(503).await;
    assert_eq!(agent.ended().await.code(), Some(0));
    assert!(!is_running(envoy));
}
