//! The control plane under test, and the numbers and durations of the measurements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::dataplane::requests::Requests;
use kermode_bench::dataplane::watch::DataplaneWatch;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::process::Process;
use kermode_bench::sidecars::expected_changes::ExpectedChanges;
use kermode_bench::sidecars::objects::{BenchObjects, Sidecar};
use kermode_bench::spread::Spread;
use kube::Client;

/// Timeout of each wait.
pub(super) const TIMEOUT: Duration = Duration::from_mins(10);
/// Number of bytes in a mebibyte.
pub(super) const MIB: f64 = 1024.0 * 1024.0;
/// Minimum number of Services.
const MIN_SERVICES: usize = 50;
/// Number of Pods of each Service, if this results in more than [`MIN_SERVICES`] Services.
const PODS_PER_SERVICE: usize = 20;

/// Numbers and durations of the measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeasurementPlan {
    /// Number of changes of each kind.
    pub(super) repetitions: usize,
    /// Length of the measurement without changes.
    pub(super) idle_time: Duration,
    /// Number of status updates that affect no configuration.
    pub(super) heartbeats: usize,
    /// Length of the measurement of replacements at a steady rate.
    pub(super) churn_time: Duration,
}

/// A control plane, the objects that it watches, and the figures of the measurements.
pub(super) struct Bench<'f> {
    /// Simulated sidecars, one for each Pod. Spare Pods, which changes delete and replace, have none.
    pub(super) sidecars: Vec<Sidecar>,
    pub(super) objects: BenchObjects,
    pub(super) client: Client,
    pub(super) control_plane: ControlPlane,
    /// Process of the control plane.
    pub(super) process: Process,
    pub(super) expected_changes: Arc<ExpectedChanges>,
    pub(super) plan: MeasurementPlan,
    figures: &'f mut Figures,
    // Must be the last field: fields are dropped in order, and the other fields use the API server.
    _api_server: ApiServer,
}

// === impl MeasurementPlan ===

impl MeasurementPlan {
    pub(super) fn new(quick: bool) -> Self {
        if quick {
            Self {
                repetitions: 10,
                idle_time: Duration::from_secs(10),
                heartbeats: 2_000,
                churn_time: Duration::from_secs(10),
            }
        } else {
            Self {
                repetitions: 20,
                idle_time: Duration::from_mins(1),
                heartbeats: 10_000,
                churn_time: Duration::from_secs(30),
            }
        }
    }
}

// === impl Bench ===

impl<'f> Bench<'f> {
    /// Creates the Pods, starts the control plane and waits until it has written all Dataplanes.
    pub(super) async fn start(
        config: &Config,
        sidecar_count: usize,
        plan: MeasurementPlan,
        figures: &'f mut Figures,
    ) -> Result<Self> {
        let service_count = MIN_SERVICES.max(sidecar_count / PODS_PER_SERVICE);
        print_line(&format!("{sidecar_count} sidecars, {service_count} Services ..."));
        let api_server = ApiServer::up("bench-control-plane", config)?;
        api_server.apply(NAMESPACE_WITH_INJECTION)?;
        let client = api_server.client().await?;
        let start = Instant::now();
        let objects = BenchObjects::create(&client, service_count, sidecar_count).await?;
        let sidecars = objects.sidecars().await?;
        print_line(&format!(
            "  Pods and tokens created in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        let control_plane = ControlPlane::start(&api_server, config, &[])?;
        let dataplanes = DataplaneWatch::start(client.clone());
        dataplanes.wait_for_count(objects.pod_count(), TIMEOUT).await?;
        drop(dataplanes);
        let process = control_plane.process()?;
        let bench = Self {
            sidecars,
            objects,
            client,
            control_plane,
            process,
            expected_changes: Arc::default(),
            plan,
            figures,
            _api_server: api_server,
        };
        bench.wait_until_writes_stop().await?;
        Ok(bench)
    }

    pub(super) fn sidecar_count(&self) -> usize {
        self.sidecars.len()
    }

    /// Adds a figure with the values of its rounds.
    pub(super) fn add(&mut self, figure: &str, rounds: &[f64], unit: &'static str, target: Target) {
        let figure = format!("{} sidecars: {figure}", self.sidecar_count());
        let rounds: Spread = rounds.iter().copied().collect();
        self.figures.add(&figure, &rounds, unit, target);
    }

    /// Waits until the control plane has written no Dataplane for two seconds.
    pub(super) async fn wait_until_writes_stop(&self) -> Result<()> {
        let mut writes = Requests::read(&self.client).await?.writes("dataplanes");
        let mut quiet_seconds = 0;
        while quiet_seconds < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let writes_now = Requests::read(&self.client).await?.writes("dataplanes");
            quiet_seconds = if writes_now == writes {
                quiet_seconds + 1
            } else {
                0
            };
            writes = writes_now;
        }
        Ok(())
    }
}

/// Manifest of the namespace of the Pods in the AdmissionReviews that the benchmark sends to the webhook.
const NAMESPACE_WITH_INJECTION: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {kuma.io/sidecar-injection: enabled}}\n";
