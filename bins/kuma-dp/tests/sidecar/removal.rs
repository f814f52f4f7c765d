//! Drain mode `acknowledged`: the drain ends with the removal of the endpoint, as the control plane reports it.

use kermode_protocol::removals::WatchRemovalResponse;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::MTLS;
use crate::agent::Agent;
use crate::control_plane::ControlPlane;

/// Status of a removal that every proxy has acknowledged.
pub(crate) const COMPLETE: WatchRemovalResponse = WatchRemovalResponse {
    removed: true,
    unacknowledged_by: 0,
    took_ms: 7,
    other_replicas: Vec::new(),
    covers_all_proxies: true,
};

#[tokio::test]
async fn acknowledged_drain_lasts_until_every_replica_has_reported_the_removal_as_complete() {
    let control_plane = ControlPlane::start(MTLS).await;
    let overrides = [
        ("KUMA_DATAPLANE_DRAIN_MODE", "acknowledged"),
        ("KUMA_DATAPLANE_DRAIN_TIME", "1h"),
    ];
    let mut agent = Agent::start(&control_plane, "first-token", &overrides).await;
    agent.wait_for_ready_status(200).await;
    agent.send_signal(Signal::SIGTERM);
    agent.wait_for_ready_status(503).await;
    let logged = async |text: &str, count: usize| {
        let condition = format!("the agent logs `{text}` {count} times");
        agent
            .eventually(&condition, async || {
                (agent.log().matches(text).count() >= count).then_some(())
            })
            .await;
    };
    // The watch ends with the first status that it takes for a complete removal, so a later status that is logged shows
    // that the earlier one was not taken for that.
    let pending = |unacknowledged_by| WatchRemovalResponse {
        unacknowledged_by,
        ..COMPLETE
    };
    // The control plane is of an older version.
    logged("Unimplemented", 1).await;
    control_plane.report_removal(Ok(pending(3)));
    logged("proxies=3", 1).await;
    control_plane.report_removal(Ok(WatchRemovalResponse {
        covers_all_proxies: false,
        ..COMPLETE
    }));
    logged("proxies=0", 1).await;
    // The other replica does not respond: nothing listens at its address.
    control_plane.report_removal(Ok(WatchRemovalResponse {
        other_replicas: vec!["127.0.0.3:1".to_owned()],
        ..COMPLETE
    }));
    logged("replica=replica 127.0.0.3:1", 1).await;
    logged("proxies=0", 2).await;
    control_plane.report_removal(Err(Code::DataLoss));
    logged("DataLoss", 1).await;
    control_plane.report_removal(Ok(pending(5)));
    logged("proxies=5", 1).await;

    control_plane.report_removal(Ok(COMPLETE));
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}
