//! End of the application of a classic sidecar, as the control plane reports it.

use nix::sys::signal::Signal;

use crate::MTLS;
use crate::agent::{Agent, is_running};
use crate::control_plane::ControlPlane;

/// Token of the proxy.
const TOKEN: &str = "first-token";
/// Drain time that is longer than a test waits for the end of the agent.
const LONG_DRAIN: (&str, &str) = ("KUMA_DATAPLANE_DRAIN_TIME", "1h");

#[tokio::test]
async fn classic_sidecar_ends_without_an_error_when_its_application_has_ended() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, TOKEN, &[LONG_DRAIN]).await;
    agent.wait_for_ready_status(200).await;
    let envoy = agent.envoy_pid().await;
    control_plane.end_application();
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
    assert!(!is_running(envoy));
}

#[tokio::test]
async fn end_of_the_application_during_an_outage_is_reported_after_the_outage() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, TOKEN, &[LONG_DRAIN]).await;
    agent.wait_for_ready_status(200).await;
    control_plane.disconnect();
    control_plane.end_application();
    agent
        .eventually("the call is lost", async || {
            let is_lost = agent
                .log()
                .contains("waiting for the end of the application failed");
            is_lost.then_some(())
        })
        .await;
    control_plane.reconnect();
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn native_sidecar_is_ended_by_the_kubelet_only() {
    let control_plane = ControlPlane::start(MTLS).await;
    let overrides = [LONG_DRAIN, ("KUMA_DATAPLANE_NATIVE_SIDECAR", "true")];
    control_plane.end_application();
    let mut agent = Agent::start(&control_plane, TOKEN, &overrides).await;
    agent.wait_for_ready_status(200).await;
    agent.send_signal(Signal::SIGTERM);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
    assert!(
        !agent.log().contains("the application has ended"),
        "{}",
        agent.log()
    );
}
