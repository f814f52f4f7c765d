//! Cost of an idle control plane, and propagation and cost of changes: single changes, status writes that affect no
//! configuration, and replacements of Pods at a steady rate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kermode_bench::figures::{Target, print_line};
use kermode_bench::sidecars::expected_changes::ExpectedChanges;
use kermode_bench::sidecars::fleet::Fleet;
use kermode_bench::sidecars::objects::{BenchPod, PodWriter};
use kermode_bench::spread::quantile;

use super::bench::{Bench, MIB, TIMEOUT};

/// Pause after the last sidecar has received a change. The ACKs arrive during the pause.
const ACK_PAUSE: Duration = Duration::from_millis(300);
/// Interval between replacements.
const REPLACEMENT_INTERVAL: Duration = Duration::from_millis(100);

/// Change of a Pod that adds an endpoint to the configuration of every sidecar, or removes one from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Unready,
    Ready,
    Deleted,
    /// A Pod gets its deletion timestamp, as at the start of its termination.
    Terminating,
    /// A Pod that was created without a status becomes ready. Its endpoint is added only then.
    Created,
}

/// Measurements of the changes of one kind.
#[derive(Default)]
struct ChangeMeasurements {
    /// Median lag of each change, in milliseconds. A lag is the time until one sidecar has received the change.
    p50: Vec<f64>,
    /// 99th percentile of the lags of each change, in milliseconds.
    p99: Vec<f64>,
    /// Highest lag of each change, in milliseconds.
    max: Vec<f64>,
    /// CPU time of the control plane for all changes, in milliseconds.
    cpu: f64,
    /// Bytes that all sidecars received because of all changes.
    bytes: f64,
    /// Responses that all sidecars received because of all changes.
    responses: f64,
}

#[allow(clippy::cast_precision_loss, reason = "the counts are small")]
impl Bench<'_> {
    /// Measures a control plane while nothing changes.
    pub(super) async fn measure_idle(&mut self, fleet: &Fleet) -> Result<()> {
        self.wait_until_writes_stop().await?;
        let cpu_before = self.process.cpu_time()?;
        let received_before = fleet.received();
        tokio::time::sleep(self.plan.idle_time).await;
        let cpu = self.process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64();
        let percent = 100.0 * cpu / self.plan.idle_time.as_secs_f64();
        self.add("CPU when idle", &[percent], "% of a core", Target::AtMost(0.1));
        let responses = (fleet.received().responses - received_before.responses) as f64;
        self.add("responses when idle", &[responses], "", Target::AtMost(0.0));
        let resident = self.process.resident_bytes()? as f64;
        self.add(
            "resident memory when idle",
            &[resident / MIB],
            "MiB",
            Target::None,
        );
        Ok(())
    }

    /// Measures changes one at a time.
    pub(super) async fn measure_changes(&mut self, fleet: &Fleet) -> Result<()> {
        let repetitions = self.plan.repetitions;
        let mut flips = ChangeMeasurements::default();
        // Each Pod becomes unready and then ready.
        for number in 0..repetitions {
            let change = if number % 2 == 0 {
                Change::Unready
            } else {
                Change::Ready
            };
            let pod = self.objects.pod(number / 2);
            self.measure_change(fleet, &pod, change, &mut flips).await?;
        }
        self.add_change_figures("readiness flip", &flips);
        let (mut deletions, mut creations) = (ChangeMeasurements::default(), ChangeMeasurements::default());
        for _ in 0..repetitions {
            let (old, new) = self.objects.replacement()?;
            self.measure_change(fleet, &old, Change::Deleted, &mut deletions)
                .await?;
            self.objects.pod_writer().create(&new).await?;
            tokio::time::sleep(ACK_PAUSE).await;
            self.measure_change(fleet, &new, Change::Created, &mut creations)
                .await?;
        }
        self.add_change_figures("Pod deletion", &deletions);
        self.add_change_figures("Pod creation", &creations);
        self.measure_terminations(fleet).await
    }

    /// Measures terminations: the time until all sidecars have received the removal of the endpoint, and the time from
    /// the publication of the removal until all have acknowledged it, which a terminating sidecar may wait for.
    async fn measure_terminations(&mut self, fleet: &Fleet) -> Result<()> {
        let mut terminations = ChangeMeasurements::default();
        let (sum_before, count_before) = self.acknowledgements()?;
        for _ in 0..self.plan.repetitions {
            let (old, new) = self.objects.replacement()?;
            self.measure_change(fleet, &old, Change::Terminating, &mut terminations)
                .await?;
            let writer = self.objects.pod_writer();
            writer.delete(&old).await?;
            writer.create_ready(&new).await?;
            tokio::time::sleep(ACK_PAUSE).await;
        }
        self.add_change_figures("Pod termination", &terminations);
        let (sum, count) = self.acknowledgements()?;
        ensure!(
            count > count_before,
            "the control plane has counted no acknowledged removal"
        );
        self.add(
            "Pod termination: mean time until all have acknowledged",
            &[1000.0 * (sum - sum_before) / (count - count_before)],
            "ms",
            Target::None,
        );
        Ok(())
    }

    /// Returns the sum of the times from the publications of endpoint removals until all sidecars had acknowledged them,
    /// in seconds, and the number of these removals.
    fn acknowledgements(&self) -> Result<(f64, f64)> {
        let metric = |suffix: &str| {
            let name = format!("kuma_cp_xds_endpoint_removal_acknowledgement_seconds_{suffix}");
            self.control_plane.metric(&name)
        };
        Ok((metric("sum")?, metric("count")?))
    }

    /// Changes a Pod, waits until all sidecars have received the change, and records it in `measurements`.
    async fn measure_change(
        &self,
        fleet: &Fleet,
        pod: &BenchPod,
        change: Change,
        measurements: &mut ChangeMeasurements,
    ) -> Result<()> {
        let cpu_before = self.process.cpu_time()?;
        let received_before = fleet.received();
        let is_addition = matches!(change, Change::Ready | Change::Created);
        // Added before the write, because the lag begins here and includes the request to the API server.
        let expected =
            self.expected_changes
                .add(&pod.service_resource_name(), &pod.ip(), is_addition, fleet.size());
        let writer = self.objects.pod_writer();
        match change {
            Change::Unready => writer.set_ready(pod, false).await?,
            Change::Ready | Change::Created => writer.set_ready(pod, true).await?,
            Change::Deleted => writer.delete(pod).await?,
            Change::Terminating => writer.terminate(pod).await?,
        }
        let lags = self.expected_changes.wait(&expected, TIMEOUT).await?;
        tokio::time::sleep(ACK_PAUSE).await;
        measurements.p50.push(quantile(&lags, 0.5));
        measurements.p99.push(quantile(&lags, 0.99));
        measurements.max.push(quantile(&lags, 1.0));
        let cpu = self.process.cpu_time()?.saturating_sub(cpu_before);
        measurements.cpu += cpu.as_secs_f64() * 1000.0;
        measurements.bytes += (fleet.received().bytes - received_before.bytes) as f64;
        measurements.responses += (fleet.received().responses - received_before.responses) as f64;
        Ok(())
    }

    fn add_change_figures(&mut self, change: &str, measurements: &ChangeMeasurements) {
        let sidecars = self.sidecar_count();
        let p99_target = match sidecars {
            ..=1_000 => Target::AtMost(30.0),
            10_000 => Target::AtMost(200.0),
            _ => Target::None,
        };
        self.add(&format!("{change} p50"), &measurements.p50, "ms", Target::None);
        self.add(&format!("{change} p99"), &measurements.p99, "ms", p99_target);
        self.add(&format!("{change} max"), &measurements.max, "ms", Target::None);
        let changes = measurements.max.len() as f64;
        let cpu_target = if sidecars <= 1_000 {
            Target::AtMost(10.0)
        } else {
            Target::None
        };
        self.add(
            &format!("{change}: CPU time"),
            &[measurements.cpu / changes],
            "ms",
            cpu_target,
        );
        let sidecar_changes = changes * sidecars as f64;
        self.add(
            &format!("{change}: responses per sidecar"),
            &[measurements.responses / sidecar_changes],
            "",
            Target::None,
        );
        self.add(
            &format!("{change}: bytes per sidecar"),
            &[measurements.bytes / sidecar_changes],
            "B",
            Target::None,
        );
    }

    /// Returns the number of resources that the control plane has encoded so far.
    fn encodings(&self) -> Result<f64> {
        self.control_plane.metric("kuma_cp_xds_resources_encoded_total")
    }

    /// Measures heartbeats: writes of Pod statuses that affect no configuration.
    pub(super) async fn measure_heartbeats(&mut self, fleet: &Fleet) -> Result<()> {
        let cpu_before = self.process.cpu_time()?;
        let received_before = fleet.received();
        let encodings_before = self.encodings()?;
        let count = self.plan.heartbeats;
        self.objects.heartbeats(count).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let cpu = self.process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64() * 1e6 / count as f64;
        let responses = (fleet.received().responses - received_before.responses) as f64;
        let encodings = self.encodings()? - encodings_before;
        self.add(
            &format!("responses caused by {count} status-only writes"),
            &[responses],
            "",
            Target::AtMost(0.0),
        );
        self.add(
            &format!("encodings caused by {count} status-only writes"),
            &[encodings],
            "",
            Target::AtMost(0.0),
        );
        self.add("CPU time per status-only write", &[cpu], "us", Target::None);
        Ok(())
    }

    /// Measures replacements of Pods at a steady rate.
    pub(super) async fn measure_churn(&mut self, fleet: &Fleet) -> Result<()> {
        let cpu_before = self.process.cpu_time()?;
        let received_before = fleet.received();
        let start = Instant::now();
        let mut ticks = tokio::time::interval(REPLACEMENT_INTERVAL);
        let mut running = FuturesUnordered::new();
        let mut lags = Vec::new();
        while start.elapsed() < self.plan.churn_time {
            tokio::select! {
                _ = ticks.tick() => {
                    let (old, new) = self.objects.replacement()?;
                    running.push(replace(self.objects.pod_writer(), self.expected_changes.clone(), fleet.size(), old, new));
                }
                Some(replaced) = running.next() => lags.push(replaced?),
            }
        }
        while let Some(replaced) = running.next().await {
            lags.push(replaced?);
        }
        let seconds = start.elapsed().as_secs_f64();
        let cores = self.process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64() / seconds;
        print_line(&format!("  {} replacements in {seconds:.1} s", lags.len()));
        let mut lags = lags.concat();
        lags.sort_by(f64::total_cmp);
        for (quantile_name, at) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            self.add(
                &format!("10 replacements/s: lag {quantile_name}"),
                &[quantile(&lags, at)],
                "ms",
                Target::None,
            );
        }
        self.add("10 replacements/s: CPU", &[cores], "cores", Target::AtMost(1.0));
        let mib_per_second = (fleet.received().bytes - received_before.bytes) as f64 / MIB / seconds;
        self.add(
            "10 replacements/s: sent",
            &[mib_per_second],
            "MiB/s",
            Target::None,
        );
        ensure!(
            fleet.all_configured(),
            "not all sidecars are connected and configured; failures of connections: {:?}",
            fleet.failures()
        );
        let resident = self.process.resident_bytes()? as f64 / MIB;
        self.add("resident memory at the end", &[resident], "MiB", Target::None);
        Ok(())
    }
}

/// Deletes a Pod and creates another Pod. Returns the lags of both changes at all sidecars, in milliseconds.
async fn replace(
    writer: PodWriter,
    expected_changes: Arc<ExpectedChanges>,
    sidecars: usize,
    old: BenchPod,
    new: BenchPod,
) -> Result<Vec<f64>> {
    let removal = expected_changes.add(&old.service_resource_name(), &old.ip(), false, sidecars);
    writer.delete(&old).await?;
    writer.create(&new).await?;
    let addition = expected_changes.add(&new.service_resource_name(), &new.ip(), true, sidecars);
    writer.set_ready(&new, true).await?;
    let mut lags = expected_changes.wait(&removal, TIMEOUT).await?;
    lags.extend(expected_changes.wait(&addition, TIMEOUT).await?);
    Ok(lags)
}
