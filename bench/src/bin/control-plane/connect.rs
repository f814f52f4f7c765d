//! Simultaneous connection of all sidecars: time and cost until they have their configuration, and the latency of the
//! admission webhook meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kermode_bench::figures::{Target, print_line};
use kermode_bench::https::Endpoint;
use kermode_bench::sidecars::fleet::Fleet;
use kermode_bench::spread::quantile;
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

use super::bench::{Bench, MIB, TIMEOUT};

/// Interval between reviews.
const PACE: Duration = Duration::from_millis(10);
/// Number of responses of an initial configuration: clusters, endpoints and listeners.
const RESPONSES: u64 = 3;

impl Bench<'_> {
    /// Connects all sidecars to a control plane that has not served any before.
    pub(super) async fn connect(&mut self) -> Result<Fleet> {
        let alone = self.process.resident()?;
        self.add("resident memory before", &[mib(alone)], "MiB", Target::None);
        let first = self.fleet(1)?;
        first.complete(TIMEOUT).await?;
        // Wait for unexpected further responses.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let each = first.sent();
        first.stop().await;
        ensure!(
            each.responses == RESPONSES,
            "the initial configuration took {} responses instead of {RESPONSES}",
            each.responses
        );
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let kib = each.bytes as f64 / 1024.0;
        self.add("configuration of one", &[kib], "KiB", Target::None);

        let (fleet, took, cpu) = self.connect_all().await?;
        let resources = each.resources * fleet.size() as u64;
        ensure!(
            fleet.sent().resources >= resources,
            "{} of {resources} resources were sent",
            fleet.sent().resources
        );
        let target = if self.size() == 1_000 {
            Target::AtMost(2.0)
        } else {
            Target::None
        };
        self.add("cold convergence of all", &[took], "s", target);
        self.add("CPU time of that", &[cpu], "s", Target::None);
        Ok(fleet)
    }

    /// Reconnects all sidecars while Pods are reviewed.
    pub(super) async fn reconnect(&mut self, fleet: Fleet) -> Result<Fleet> {
        fleet.stop().await;
        self.settle().await?;
        let endpoint = Endpoint::new(self.control_plane.webhooks, &self.control_plane.ca_pem)?;
        let reviewing = Reviewing::start(endpoint)?;
        // Warms up the webhook.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started_at = Instant::now();
        let (fleet, took, _) = self.connect_all().await?;
        let meanwhile = started_at..Instant::now();
        let reviewed = reviewing.stop()?;
        let during = reviewed.into_iter().filter(|(due, _)| meanwhile.contains(due));
        let mut during: Vec<f64> = during.map(|(_, latency)| latency).collect();
        during.sort_by(f64::total_cmp);
        self.add(
            "convergence of all, reconnecting, under reviews",
            &[took],
            "s",
            Target::None,
        );
        print_line(&format!("  {} reviews meanwhile", during.len()));
        for (figure, at) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let figure = format!("webhook meanwhile {figure}");
            self.add(&figure, &[quantile(&during, at)], "ms", Target::None);
        }
        Ok(fleet)
    }

    pub(super) fn memory(&mut self, fleet: &Fleet) -> Result<()> {
        ensure!(
            fleet.is_complete(),
            "sidecars are disconnected; failures: {:?}",
            fleet.failures()
        );
        let resident = self.process.resident()?;
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let sidecars = self.size() as f64;
        let limit = 60.0 + 20.0 * sidecars / 1024.0;
        let limit = if self.size() == 10_000 {
            limit.min(300.0)
        } else {
            limit
        };
        self.add(
            "resident memory with all",
            &[mib(resident)],
            "MiB",
            Target::AtMost(limit),
        );
        Ok(())
    }

    /// Connects all sidecars. Returns them, the time until all are configured and the control plane's CPU time, in seconds.
    async fn connect_all(&mut self) -> Result<(Fleet, f64, f64)> {
        let (start, before) = (Instant::now(), self.process.cpu()?);
        let fleet = self.fleet(self.size())?;
        let last = fleet.complete(TIMEOUT).await?;
        let took = (last - start).as_secs_f64();
        let cpu = self.process.cpu()?.saturating_sub(before).as_secs_f64();
        if !fleet.failures().is_empty() {
            print_line(&format!("  failed attempts: {:?}", fleet.failures()));
        }
        Ok((fleet, took, cpu))
    }

    fn fleet(&self, size: usize) -> Result<Fleet> {
        let control_plane = &self.control_plane;
        let sidecars = &self.sidecars[..size];
        Fleet::start(
            control_plane.proxies,
            &control_plane.ca_pem,
            sidecars,
            &self.probes,
        )
    }
}

/// Sends reviews at a steady rate, on its own thread, so that the simulated sidecars do not delay them.
struct Reviewing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Reviewed>>,
}

/// Due time and latency in milliseconds of each review.
type Reviewed = Vec<(Instant, f64)>;

impl Reviewing {
    fn start(endpoint: Endpoint) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || runtime.block_on(review(endpoint, &stopped)));
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<Reviewed> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that sends reviews panicked"))?
    }
}

async fn review(endpoint: Endpoint, stop: &AtomicBool) -> Result<Reviewed> {
    let reviews = reviews::make(NAMESPACE, 64)?;
    let mut connection = endpoint.connect().await?;
    let mut pace = tokio::time::interval(PACE);
    let mut reviewed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = pace.tick().await.into_std();
        let review = &reviews[reviewed.len() % reviews.len()];
        let response = connection
            .post("/inject-sidecar?timeout=10s", review.body.clone())
            .await?;
        review.check(&response, Expected::Injected)?;
        // Measured from the due time, because a slow review delays the following ones.
        reviewed.push((due, due.elapsed().as_secs_f64() * 1000.0));
    }
    Ok(reviewed)
}

#[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
