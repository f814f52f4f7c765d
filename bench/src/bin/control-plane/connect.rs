//! All sidecars at once: how soon they have their configuration, what that takes, and what it does to admissions.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kermode_bench::figures::{Target, say};
use kermode_bench::https::Endpoint;
use kermode_bench::sidecars::fleet::Fleet;
use kermode_bench::spread::quantile;
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

use super::bench::{Bench, MIB, PATIENCE};

/// Between reviews.
const PACE: Duration = Duration::from_millis(10);
/// One response for each of clusters, endpoints and listeners.
const RESPONSES: u64 = 3;

impl Bench<'_> {
    /// Connects all sidecars to a control plane that has not served any.
    pub(super) async fn connect(&mut self) -> Result<Fleet> {
        let alone = self.process.resident()?;
        self.add("resident memory before", &[mib(alone)], "MiB", Target::None);
        let scout = self.fleet(1)?;
        scout.complete(PATIENCE).await?;
        // Whatever else comes by itself.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let each = scout.sent();
        scout.stop().await;
        ensure!(
            each.responses == RESPONSES,
            "the configuration comes in {} responses, of which clients here understand {RESPONSES}",
            each.responses
        );
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let kib = each.bytes as f64 / 1024.0;
        self.add("configuration of one", &[kib], "KiB", Target::None);

        let (fleet, took, cpu) = self.all_at_once().await?;
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

    /// Connects them again, while the API server asks about Pods.
    pub(super) async fn reconnect(&mut self, fleet: Fleet) -> Result<Fleet> {
        fleet.stop().await;
        self.settle().await?;
        let endpoint = Endpoint::new(self.control_plane.webhooks, &self.control_plane.ca_pem)?;
        let reviewing = tokio::spawn(review(endpoint));
        // The first reviews pay for what later ones find.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        let (fleet, took, _) = self.all_at_once().await?;
        let ended = Instant::now();
        reviewing.abort();
        let during = match reviewing.await {
            Ok(failed) => return Err(failed.err().unwrap_or_else(|| anyhow::anyhow!("no more reviews"))),
            Err(_) => REVIEWED.with_borrow_mut(std::mem::take),
        };
        let mut during: Vec<f64> = during
            .into_iter()
            .filter(|(asked, _)| (begun..ended).contains(asked))
            .map(|(_, latency)| latency)
            .collect();
        during.sort_by(f64::total_cmp);
        self.add(
            "convergence of all, reconnecting, under reviews",
            &[took],
            "s",
            Target::None,
        );
        say(&format!("  {} reviews meanwhile", during.len()));
        for (figure, place) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let figure = format!("webhook meanwhile {figure}");
            self.add(&figure, &[quantile(&during, place)], "ms", Target::None);
        }
        Ok(fleet)
    }

    pub(super) fn memory(&mut self, fleet: &Fleet) -> Result<()> {
        ensure!(
            fleet.is_complete(),
            "sidecars were cut off: {:?}",
            fleet.failures()
        );
        let resident = self.process.resident()?;
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let sidecars = self.size() as f64;
        let most = 60.0 + 20.0 * sidecars / 1024.0;
        let most = if self.size() == 10_000 {
            most.min(300.0)
        } else {
            most
        };
        self.add(
            "resident memory with all",
            &[mib(resident)],
            "MiB",
            Target::AtMost(most),
        );
        Ok(())
    }

    /// The sidecars, the time until all are configured and the control plane's CPU time for it.
    async fn all_at_once(&mut self) -> Result<(Fleet, f64, f64)> {
        let (start, before) = (Instant::now(), self.process.cpu()?);
        let fleet = self.fleet(self.size())?;
        let last = fleet.complete(PATIENCE).await?;
        let took = (last - start).as_secs_f64();
        let cpu = self.process.cpu()?.saturating_sub(before).as_secs_f64();
        if !fleet.failures().is_empty() {
            say(&format!("  attempts that failed: {:?}", fleet.failures()));
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

thread_local! {
    /// When each review was asked for and how many milliseconds its answer took.
    static REVIEWED: std::cell::RefCell<Vec<(Instant, f64)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Asks at a steady pace, each question on its own time, until aborted.
async fn review(endpoint: Endpoint) -> Result<()> {
    let reviews = reviews::make(NAMESPACE, 64)?;
    let mut connection = endpoint.connect().await?;
    let mut pace = tokio::time::interval(PACE);
    for number in 0.. {
        let due = pace.tick().await.into_std();
        let review = &reviews[number % reviews.len()];
        let answer = connection
            .post("/inject-sidecar?timeout=10s", review.body.clone())
            .await?;
        review.check(&answer, Expected::Injected)?;
        // From when it should have been asked: while one waits, those behind it wait too.
        let latency = due.elapsed().as_secs_f64() * 1000.0;
        REVIEWED.with_borrow_mut(|reviewed| reviewed.push((due, latency)));
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
