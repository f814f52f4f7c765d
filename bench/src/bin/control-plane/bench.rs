//! The control plane under test and the scope of the measurements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::dataplane::notes::DataplaneWatch;
use kermode_bench::dataplane::requests::Requests;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::process::Process;
use kermode_bench::sidecars::population::{Population, Sidecar};
use kermode_bench::sidecars::probes::Probes;
use kermode_bench::spread::Spread;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Timeout of any single step.
pub(super) const TIMEOUT: Duration = Duration::from_mins(10);
/// Bytes of a mebibyte.
pub(super) const MIB: f64 = 1024.0 * 1024.0;
/// Minimum number of Services, for small numbers of Pods.
const MIN_SERVICES: usize = 50;
/// Number of Pods of each Service, unless that gives fewer Services than the minimum.
const PODS_PER_SERVICE: usize = 20;

/// Scope of the measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Number of changes of each kind.
    pub(super) repetitions: usize,
    /// Length of the measurement without changes.
    pub(super) idle: Duration,
    /// Number of status updates that affect no configuration.
    pub(super) heartbeats: usize,
    /// Length of the measurement of replacements at a steady rate.
    pub(super) churn: Duration,
}

/// A control plane with many Pods.
pub(super) struct Bench<'f> {
    pub(super) sidecars: Vec<Sidecar>,
    pub(super) population: Population,
    pub(super) client: Client,
    pub(super) control_plane: ControlPlane,
    pub(super) process: Process,
    pub(super) probes: Arc<Probes>,
    pub(super) effort: Effort,
    figures: &'f mut Figures,
    // Dropped last, because the other fields use it.
    _api_server: ApiServer,
}

// === impl Effort ===

impl Effort {
    pub(super) fn of(quick: bool) -> Self {
        let [idle, churn] = if quick { [10, 10] } else { [60, 30] };
        Self {
            repetitions: if quick { 10 } else { 20 },
            idle: Duration::from_secs(idle),
            heartbeats: if quick { 2_000 } else { 10_000 },
            churn: Duration::from_secs(churn),
        }
    }
}

// === impl Bench ===

impl<'f> Bench<'f> {
    /// Creates the Pods, starts the control plane and waits until it has written all Dataplanes.
    pub(super) async fn start(
        config: &Config,
        sidecars: usize,
        effort: Effort,
        figures: &'f mut Figures,
    ) -> Result<Self> {
        let services = MIN_SERVICES.max(sidecars / PODS_PER_SERVICE);
        print_line(&format!("{sidecars} sidecars, {services} Services ..."));
        let api_server = ApiServer::up("bench-control-plane", config)?;
        api_server.apply(INJECTED)?;
        let kubeconfig = Kubeconfig::read_from(api_server.kubeconfig())?;
        let kubeconfig =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(kubeconfig)?;
        let start = Instant::now();
        let population = Population::make(&client, services, sidecars).await?;
        let simulated = population.sidecars().await?;
        print_line(&format!(
            "  Pods and tokens created in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        let control_plane = ControlPlane::start(&api_server, config, &[])?;
        let dataplanes = DataplaneWatch::start(client.clone());
        dataplanes.until(population.size(), TIMEOUT).await?;
        drop(dataplanes);
        let process = control_plane.process()?;
        let bench = Self {
            sidecars: simulated,
            population,
            client,
            control_plane,
            process,
            probes: Arc::default(),
            effort,
            figures,
            _api_server: api_server,
        };
        bench.settle().await?;
        Ok(bench)
    }

    pub(super) fn size(&self) -> usize {
        self.sidecars.len()
    }

    pub(super) fn add(&mut self, figure: &str, rounds: &[f64], unit: &'static str, target: Target) {
        let figure = format!("{} sidecars: {figure}", self.size());
        let rounds: Spread = rounds.iter().copied().collect();
        self.figures.add(&figure, &rounds, unit, target);
    }

    /// Waits until the control plane has written no Dataplane for two seconds.
    pub(super) async fn settle(&self) -> Result<()> {
        let mut before = Requests::read(&self.client).await?.writes("dataplanes");
        let mut quiet_seconds = 0;
        while quiet_seconds < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Requests::read(&self.client).await?.writes("dataplanes");
            quiet_seconds = if now == before { quiet_seconds + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }
}

/// Namespace of the Pods in the AdmissionReviews.
const INJECTED: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {kuma.io/sidecar-injection: enabled}}\n";
