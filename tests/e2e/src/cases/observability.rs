//! Debug endpoints and metrics of the control plane.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::Value;

use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, DEBUG_PORT, DIAGNOSTICS_PORT, Fixture, SYSTEM_NAMESPACE};
use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;

/// Metric that counts complete endpoint removals.
const COMPLETE_REMOVALS: &str = "kuma_cp_xds_endpoint_removal_acknowledgement_seconds_count";

/// For each metric: the prefix of its series, and whether the highest value of these series must be above 0.
const METRICS: [(&str, bool); 14] = [
    ("kuma_cp_engine_lag_seconds_count", true),
    ("kuma_cp_engine_work_seconds_count", true),
    ("kuma_cp_engine_waiting_watch_events", false),
    ("kuma_cp_xds_resources_encoded_total", true),
    ("kuma_cp_xds_resources_changed_total", true),
    ("kuma_cp_xds_responses_total{kind=\"Endpoints\"}", true),
    (
        "kuma_cp_xds_acknowledgement_seconds_count{kind=\"Endpoints\"}",
        true,
    ),
    ("kuma_cp_xds_connected_proxies", true),
    ("kuma_cp_xds_streams_failed_total", false),
    (COMPLETE_REMOVALS, true),
    ("kuma_cp_xds_endpoint_removals_open", false),
    ("kuma_cp_certificate_requests_total{result=\"Issued\"}", true),
    ("kuma_cp_admission_reviews_total{", true),
    ("kuma_cp_dataplane_writes_total", true),
];

pub(super) async fn page_shows_the_application_by_port_forward(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let kubectl = &fixture.cluster.kubectl;
    // The replica that serves the client's sidecar: the others show it as not connected.
    let replica = wait_for(
        "the replica of the client's sidecar",
        Duration::from_mins(1),
        async || {
            let path = "jsonpath={.status.sidecar.controlPlane}";
            let arguments = ["-n", APP_NAMESPACE, "get", "dataplane", &client, "-o", path];
            let name = kubectl.run(&arguments).await?;
            Ok(done_if(!name.is_empty(), name, || {
                "the status names no replica".to_owned()
            }))
        },
    )
    .await?;
    let page = kubectl
        .port_forward(SYSTEM_NAMESPACE, &format!("pod/{replica}"), DEBUG_PORT)
        .await?;
    ensure!(page.get("/page/").await?.contains("<title>Kermode</title>"));
    let path = format!("/page/api/dataplanes?namespace={APP_NAMESPACE}&text={client}");
    let list: Value = serde_json::from_str(&page.get(&path).await?)?;
    ensure!(
        list["names"][0] == format!("{APP_NAMESPACE}/{client}"),
        "the client is missing: {list}"
    );
    let path = format!("/page/api/dataplane?name={APP_NAMESPACE}/{client}");
    let detail: Value = serde_json::from_str(&page.get(&path).await?)?;
    ensure!(
        detail["proxy"]["configuration"]["acknowledged"].is_string(),
        "the client's sidecar has acknowledged no configuration: {detail}"
    );
    let certificates: Value = serde_json::from_str(&page.get("/page/api/certificates").await?)?;
    let count = certificates.as_array().map_or(0, Vec::len);
    ensure!(
        count >= 2,
        "the CA and the certificate of the servers are missing: {certificates}"
    );
    let decisions: Value = serde_json::from_str(&page.get("/page/api/decisions").await?)?;
    ensure!(decisions.is_array(), "no list of decisions: {decisions}");
    Ok(format!(
        "state {}, {count} certificates, {} decisions",
        detail["state"],
        decisions.as_array().map_or(0, Vec::len)
    ))
}

pub(super) async fn debug_endpoints_are_reachable_only_by_port_forward(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let debug = fixture
        .cluster
        .kubectl
        .port_forward(SYSTEM_NAMESPACE, &target, DEBUG_PORT)
        .await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let client_proxy = format!("{client}.{APP_NAMESPACE}");
    let proxies: Value = serde_json::from_str(&debug.get("/debug/proxies").await?)?;
    let configuration = &proxies[&client_proxy]["configuration"];
    ensure!(
        configuration["acknowledged"].is_string(),
        "the client's sidecar has acknowledged no configuration: {proxies}"
    );
    let path = format!("/debug/resources?proxy={client_proxy}");
    let resources: Value = serde_json::from_str(&debug.get(&path).await?)?;
    let cluster_count = resources["Cluster"].as_array().map_or(0, Vec::len);
    ensure!(
        cluster_count > 0,
        "the client's configuration has no clusters: {resources}"
    );
    let config: Value = serde_json::from_str(&debug.get("/debug/config").await?)?;
    ensure!(
        config["diagnostics"]["debugPort"] == DEBUG_PORT,
        "the debug port is not {DEBUG_PORT}: {config}"
    );
    debug.get("/debug/removals").await?;

    let url = format!(
        "http://{}:{DEBUG_PORT}/debug/config",
        replica_address(fixture).await?
    );
    let kubectl = &fixture.cluster.kubectl;
    let failure = demo::get_expecting_failure(kubectl, APP_NAMESPACE, &client, &url).await?;
    Ok(format!(
        "{cluster_count} clusters; a request from a Pod to /debug/config failed: {failure}"
    ))
}

pub(super) async fn every_stage_has_metrics(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = fixture
        .cluster
        .kubectl
        .port_forward(SYSTEM_NAMESPACE, &target, DIAGNOSTICS_PORT)
        .await?;
    let deleted_pod = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    fixture
        .pods(APP_NAMESPACE)
        .delete(&deleted_pod, &DeleteParams::default())
        .await?;
    let text = wait_for(
        "a complete endpoint removal",
        Duration::from_secs(30),
        async || {
            let text = diagnostics.get("/metrics").await?;
            Ok(done_if(
                max_value(&text, COMPLETE_REMOVALS) > Some(0.0),
                text,
                || format!("{COMPLETE_REMOVALS} is 0 after the deletion of {deleted_pod}"),
            ))
        },
    )
    .await?;
    for (prefix, must_be_positive) in METRICS {
        let value =
            max_value(&text, prefix).with_context(|| format!("no series begins with {prefix}:\n{text}"))?;
        ensure!(
            value > 0.0 || !must_be_positive,
            "the highest value of the series {prefix}… is {value}, but must be above 0"
        );
    }
    let total_seconds = max_value(&text, "kuma_cp_xds_endpoint_removal_acknowledgement_seconds_sum");
    Ok(format!(
        "the times until each endpoint removal was complete add up to {:.3} s",
        total_seconds.unwrap_or_default()
    ))
}

/// Returns the highest value of the series that begin with `prefix`.
fn max_value(text: &str, prefix: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| line.starts_with(prefix));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .reduce(f64::max)
}

/// Returns the IP address of a replica.
async fn replica_address(fixture: &Fixture) -> Result<String> {
    let pods = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let pod = pods.first().context("no replica of the control plane is ready")?;
    Ok(ip(pod)?.to_owned())
}
