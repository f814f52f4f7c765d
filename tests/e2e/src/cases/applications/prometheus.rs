//! Prometheus, which scrapes Pods by their IPs.

use anyhow::{Result, ensure};

use crate::fixture::{APPLICATIONS_NAMESPACE, Fixture};
use crate::harness::application::{
    Application, Service, TIMEOUT, check_that_outsiders_get_no_response, with_applications,
};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

const PROMETHEUS: Application = Application {
    name: "prometheus",
    workload: "deployment/prometheus",
    manifests: include_str!("../../../manifests/applications/prometheus.yaml"),
    images: &["nginx", "prometheus"],
    client_image: "prometheus",
    services: &[Service {
        name: "prometheus_e2e-applications_svc_9090",
        probe: "promtool query instant http://prometheus.e2e-applications:9090 'vector(1)' | grep '=> 1'",
    }],
};

/// Number of scraped Pods.
const TARGETS: usize = 3;
/// Identities of both ends of a scrape.
const IDENTITIES: [&str; 2] = [
    "By=spiffe://default/metrics_e2e-applications_svc_8080",
    "URI=spiffe://default/prometheus_e2e-applications_svc_9090",
];

/// Lets Prometheus scrape every Pod with mTLS, then a Pod that replaces one of them.
pub(super) async fn check_prometheus(fixture: &Fixture) -> Result<Note> {
    with_applications(fixture, &[&PROMETHEUS], async || {
        let scraped = wait_for_scrapes(fixture, &[]).await?;
        for series in query(fixture, "identity").await? {
            for identity in IDENTITIES {
                ensure!(series.contains(identity), "{identity} is missing: {series}");
            }
        }
        check_that_outsiders_get_no_response(fixture, &[&PROMETHEUS]).await?;
        let pods = fixture.ready_pods(APPLICATIONS_NAMESPACE, "metrics").await?;
        let deleted = pods
            .first()
            .and_then(|pod| pod.metadata.name.as_deref())
            .unwrap_or_default();
        let namespace = format!("--namespace={APPLICATIONS_NAMESPACE}");
        fixture
            .cluster
            .kubectl
            .run(&["delete", "pod", deleted, &namespace])
            .await?;
        wait_for_scrapes(fixture, &scraped).await?;
        Ok(format!(
            "{TARGETS} Pods scraped by IP, then the replacement of one"
        ))
    })
    .await
}

/// Waits until the last scrape of each Pod has succeeded, and the Pods are not those of `former`. Returns the Pods, as
/// addresses.
async fn wait_for_scrapes(fixture: &Fixture, former: &[String]) -> Result<Vec<String>> {
    wait_for("a scrape of every Pod", TIMEOUT, async || {
        let mut series = query(fixture, "up").await?;
        series.sort();
        let are_up = series.len() == TARGETS && series.iter().all(|series| series.contains("=> 1 "));
        let scraped: Vec<_> = series.iter().filter_map(|series| instance(series)).collect();
        let is_complete = are_up && scraped != former;
        Ok(done_if(is_complete, scraped, || format!("{series:?}")))
    })
    .await
}

/// Returns the address of the Pod that a time series belongs to.
fn instance(series: &str) -> Option<String> {
    let (_, rest) = series.split_once("instance=\"")?;
    rest.split_once('"').map(|(instance, _)| instance.to_owned())
}

/// Returns the current time series of an expression, one for each line.
async fn query(fixture: &Fixture, expression: &str) -> Result<Vec<String>> {
    let command = format!("promtool query instant http://prometheus.e2e-applications:9090 '{expression}'");
    let output = PROMETHEUS.client(fixture, &command).await?;
    Ok(output.lines().map(str::to_owned).collect())
}
