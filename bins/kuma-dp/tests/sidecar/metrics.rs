//! Scrapes of a sidecar by Prometheus: in plain text at the Pod's IP, in a mesh with strict mTLS.

use crate::MTLS;
use crate::agent::Agent;
use crate::control_plane::{ControlPlane, POD_IP, free_address};
use crate::probes::probe;

/// Returns the value of a series in a response.
fn value(response: &str, series: &str) -> Option<f64> {
    let line = response.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[tokio::test]
async fn scrape_shows_metrics_of_envoy_the_connection_and_the_certificate() {
    let port = free_address(POD_IP).await.port();
    let control_plane = ControlPlane::start_with_metrics(MTLS, port).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    let connected = "kuma_dp_control_plane_connected ";
    let text = agent
        .eventually("a scrape", async || {
            let (status, response) = probe(port, "/metrics", "").await?;
            (status == 200).then_some(response)
        })
        .await;
    assert_eq!(value(&text, connected), Some(1.0), "{text}");
    assert_eq!(value(&text, "envoy_server_live{} "), Some(1.0), "{text}");
    let start = value(&text, "kuma_dp_certificate_start_timestamp_seconds ").unwrap();
    let expiry = value(&text, "kuma_dp_certificate_expiry_timestamp_seconds ").unwrap();
    assert!(expiry - start >= 24.0 * 3600.0, "from {start} to {expiry}");
    // The rest of Envoy's admin interface is not reachable.
    let (status, _) = probe(port, "/config_dump", "").await.unwrap();
    assert_eq!(status, 404);

    control_plane.disconnect();
    agent
        .eventually("a scrape without the control plane", async || {
            let (_, response) = probe(port, "/metrics", "").await?;
            (value(&response, connected) == Some(0.0)).then_some(())
        })
        .await;
    control_plane.reconnect();
    agent
        .eventually("a scrape with the control plane", async || {
            let (_, response) = probe(port, "/metrics", "").await?;
            (value(&response, connected) == Some(1.0)).then_some(())
        })
        .await;
}
