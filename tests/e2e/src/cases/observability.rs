//! Debug endpoints and metrics of the control plane, after earlier tests have created data.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::Value;

use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;
use crate::world::{APP, CONTROL_PLANE, SYSTEM, World};

/// Metric that counts complete endpoint removals.
const REMOVALS: &str = "kuma_cp_xds_endpoint_removal_acknowledgement_seconds_count";

/// Metrics of each stage, and whether the earlier tests must have increased them.
const METRICS: [(&str, bool); 14] = [
    ("kuma_cp_engine_lag_seconds_count", true),
    ("kuma_cp_engine_work_seconds_count", true),
    ("kuma_cp_engine_waiting_messages", false),
    ("kuma_cp_xds_resources_encoded_total", true),
    ("kuma_cp_xds_resources_changed_total", true),
    ("kuma_cp_xds_responses_total{kind=\"Endpoints\"}", true),
    (
        "kuma_cp_xds_acknowledgement_seconds_count{kind=\"Endpoints\"}",
        true,
    ),
    ("kuma_cp_xds_connected_proxies", true),
    ("kuma_cp_xds_streams_refused_total", false),
    ("kuma_cp_xds_endpoint_removal_acknowledgement_seconds_count", true),
    ("kuma_cp_xds_endpoint_removals_open", false),
    ("kuma_cp_certificate_requests_total{result=\"Issued\"}", true),
    ("kuma_cp_admission_reviews_total{", true),
    ("kuma_cp_dataplane_writes_total", true),
];

pub(super) async fn debug_endpoints_are_reachable_only_by_port_forward(world: &World) -> Result<Note> {
    world.deployed().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let debug = world.cluster.kubectl.forward(SYSTEM, &target, 5684).await?;
    let client = format!("{}.{APP}", world.pod(APP, "client").await?);
    let proxies: Value = serde_json::from_str(&debug.get("/debug/proxies").await?)?;
    let configuration = &proxies[&client]["configuration"];
    ensure!(
        configuration["acknowledged"].is_string(),
        "the client has acknowledged no configuration: {proxies}"
    );
    let path = format!("/debug/resources?proxy={client}");
    let resources: Value = serde_json::from_str(&debug.get(&path).await?)?;
    let clusters = resources["Cluster"].as_array().map_or(0, Vec::len);
    ensure!(
        clusters > 0,
        "the client's configuration has no clusters: {resources}"
    );
    let config: Value = serde_json::from_str(&debug.get("/debug/config").await?)?;
    ensure!(config["diagnostics"]["debugPort"] == 5684, "{config}");
    debug.get("/debug/removals").await?;

    let url = format!("http://{}:5684/debug/config", control_plane_address(world).await?);
    let kubectl = &world.cluster.kubectl;
    let pod = world.pod(APP, "client").await?;
    let failure = demo::get_expecting_failure(kubectl, APP, &pod, &url).await?;
    Ok(format!("{clusters} clusters; from a Pod: {failure}"))
}

pub(super) async fn every_stage_has_metrics(world: &World) -> Result<Note> {
    world.deployed().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = world.cluster.kubectl.forward(SYSTEM, &target, 5680).await?;
    let deleted = world.pod(APP, "server").await?;
    world.pods(APP).delete(&deleted, &DeleteParams::default()).await?;
    let text = wait_for("an acknowledged removal", Duration::from_secs(30), async || {
        let text = diagnostics.get("/metrics").await?;
        Ok(done_if(value(&text, REMOVALS) > Some(0.0), text, || {
            format!("{REMOVALS} is 0 after the deletion of {deleted}")
        }))
    })
    .await?;
    for (metric, increased) in METRICS {
        let value =
            value(&text, metric).with_context(|| format!("metric {metric} does not exist:\n{text}"))?;
        ensure!(value > 0.0 || !increased, "{metric} is {value}");
    }
    let took = value(&text, "kuma_cp_xds_endpoint_removal_acknowledgement_seconds_sum");
    Ok(format!("acknowledged after {:.3} s", took.unwrap_or_default()))
}

/// Returns the largest value of a metric.
fn value(text: &str, metric: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| line.starts_with(metric));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .reduce(f64::max)
}

async fn control_plane_address(world: &World) -> Result<String> {
    let pods = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let pod = pods.first().context("no control plane is ready")?;
    Ok(ip(pod).with_context(|| pod.name_any())?.to_owned())
}
