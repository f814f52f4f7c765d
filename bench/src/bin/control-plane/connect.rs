//! Simultaneous connection of all sidecars: time and cost until they have their configuration (the *convergence*, which
//! is *cold* at the first connection), and the latency of the admission webhook meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kermode_bench::figures::{Target, print_line};
use kermode_bench::https::Connector;
use kermode_bench::sidecars::fleet::Fleet;
use kermode_bench::spread::quantile;
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

use super::bench::{Bench, MIB, TIMEOUT};

/// Interval between reviews.
const REVIEW_INTERVAL: Duration = Duration::from_millis(10);
/// Part of the target of the control plane's memory that does not depend on the number of sidecars, in MiB.
const BASE_MEMORY: f64 = 60.0;
/// Part of the target of the control plane's memory for each sidecar, in MiB.
const MEMORY_PER_SIDECAR: f64 = 20.0 / 1024.0;
/// Upper bound of the target of the control plane's memory with 10,000 sidecars, in MiB.
const MAX_MEMORY_OF_10_000: f64 = 300.0;
/// Number of responses of an initial configuration: clusters, endpoints and listeners.
const INITIAL_RESPONSES: u64 = 3;

impl Bench<'_> {
    /// Connects one sidecar, disconnects it, and then connects all sidecars.
    pub(super) async fn measure_connect(&mut self) -> Result<Fleet> {
        let resident_without_sidecars = self.process.resident_bytes()?;
        self.add(
            "resident memory without sidecars",
            &[mib(resident_without_sidecars)],
            "MiB",
            Target::None,
        );
        let fleet_of_one = self.start_fleet(1)?;
        fleet_of_one.wait_until_configured(TIMEOUT).await?;
        // A further response would arrive within this time.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let received = fleet_of_one.received();
        fleet_of_one.stop().await;
        ensure!(
            received.responses == INITIAL_RESPONSES,
            "the initial configuration took {} responses instead of {INITIAL_RESPONSES}",
            received.responses
        );
        #[allow(
            clippy::cast_precision_loss,
            reason = "far below 2^53, up to which a float is exact"
        )]
        let kib = received.bytes as f64 / 1024.0;
        self.add("initial configuration of a sidecar", &[kib], "KiB", Target::None);

        let (fleet, seconds, cpu_seconds) = self.connect_all().await?;
        let expected_resources = received.resources * fleet.size() as u64;
        ensure!(
            fleet.received().resources >= expected_resources,
            "{} of {expected_resources} resources were received",
            fleet.received().resources
        );
        let target = if self.sidecar_count() == 1_000 {
            Target::AtMost(2.0)
        } else {
            Target::None
        };
        self.add("cold convergence of all", &[seconds], "s", target);
        self.add(
            "CPU time of the cold convergence",
            &[cpu_seconds],
            "s",
            Target::None,
        );
        Ok(fleet)
    }

    /// Reconnects all sidecars while AdmissionReviews are sent to the webhook.
    pub(super) async fn measure_reconnect(&mut self, fleet: Fleet) -> Result<Fleet> {
        fleet.stop().await;
        self.wait_until_writes_stop().await?;
        let connector = Connector::new(self.control_plane.webhook_address, &self.control_plane.ca_pem)?;
        let sender = ReviewSender::start(connector)?;
        // The first reviews warm up the webhook.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started_at = Instant::now();
        let (fleet, seconds, _) = self.connect_all().await?;
        let reconnect_period = started_at..Instant::now();
        let reviews = sender.stop()?.into_iter();
        let reviews = reviews.filter(|review| reconnect_period.contains(&review.due_at));
        let mut latencies: Vec<f64> = reviews.map(|review| review.latency).collect();
        latencies.sort_by(f64::total_cmp);
        self.add(
            "convergence of all while they reconnect and reviews are sent",
            &[seconds],
            "s",
            Target::None,
        );
        print_line(&format!("  {} reviews during the reconnection", latencies.len()));
        for (quantile_name, fraction) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let figure = format!("webhook latency during the reconnection {quantile_name}");
            self.add(&figure, &[quantile(&latencies, fraction)], "ms", Target::None);
        }
        Ok(fleet)
    }

    /// Measures the memory of a control plane that serves all sidecars.
    pub(super) fn measure_memory(&mut self, fleet: &Fleet) -> Result<()> {
        ensure!(
            fleet.all_configured(),
            "not all sidecars are connected and configured; failures of connections: {:?}",
            fleet.failures()
        );
        let resident = self.process.resident_bytes()?;
        #[allow(
            clippy::cast_precision_loss,
            reason = "far below 2^53, up to which a float is exact"
        )]
        let sidecars = self.sidecar_count() as f64;
        let mut target = BASE_MEMORY + MEMORY_PER_SIDECAR * sidecars;
        if self.sidecar_count() == 10_000 {
            target = target.min(MAX_MEMORY_OF_10_000);
        }
        self.add(
            "resident memory with all",
            &[mib(resident)],
            "MiB",
            Target::AtMost(target),
        );
        Ok(())
    }

    /// Connects all sidecars. Returns the fleet, the seconds until all sidecars are configured, and the control plane's
    /// CPU time in seconds.
    async fn connect_all(&mut self) -> Result<(Fleet, f64, f64)> {
        let start = Instant::now();
        let cpu_before = self.process.cpu_time()?;
        let fleet = self.start_fleet(self.sidecar_count())?;
        let configured_at = fleet.wait_until_configured(TIMEOUT).await?;
        let seconds = (configured_at - start).as_secs_f64();
        let cpu = self.process.cpu_time()?.saturating_sub(cpu_before);
        if !fleet.failures().is_empty() {
            print_line(&format!("  failed connections: {:?}", fleet.failures()));
        }
        Ok((fleet, seconds, cpu.as_secs_f64()))
    }

    /// Starts the first `size` sidecars.
    fn start_fleet(&self, size: usize) -> Result<Fleet> {
        let control_plane = &self.control_plane;
        let sidecars = &self.sidecars[..size];
        Fleet::start(
            control_plane.dp_server_address,
            &control_plane.ca_pem,
            sidecars,
            &self.expected_changes,
        )
    }
}

/// Thread that sends AdmissionReviews at a steady rate. On the thread of the simulated sidecars, the reviews would be
/// delayed.
struct ReviewSender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<AnsweredReview>>>,
}

/// An AdmissionReview whose response has arrived.
struct AnsweredReview {
    due_at: Instant,
    /// Milliseconds from the due time to the response.
    latency: f64,
}

impl ReviewSender {
    fn start(connector: Connector) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_requested = stop.clone();
        let thread = std::thread::spawn(move || runtime.block_on(send_reviews(connector, &stop_requested)));
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<Vec<AnsweredReview>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that sends reviews panicked"))?
    }
}

async fn send_reviews(connector: Connector, stop_requested: &AtomicBool) -> Result<Vec<AnsweredReview>> {
    let reviews = reviews::make(NAMESPACE, 64)?;
    let mut connection = connector.connect().await?;
    let mut ticks = tokio::time::interval(REVIEW_INTERVAL);
    let mut sent = Vec::new();
    while !stop_requested.load(Ordering::Relaxed) {
        let due_at = ticks.tick().await.into_std();
        let review = &reviews[sent.len() % reviews.len()];
        let response = connection
            .post("/inject-sidecar?timeout=10s", review.body.clone())
            .await?;
        review.check(&response, Expected::Injected)?;
        // Measured from the due time, because a slow review delays the following ones.
        sent.push(AnsweredReview {
            due_at,
            latency: due_at.elapsed().as_secs_f64() * 1000.0,
        });
    }
    Ok(sent)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "far below 2^53, up to which a float is exact"
)]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
