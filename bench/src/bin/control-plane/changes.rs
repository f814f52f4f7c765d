//! Propagation and cost of changes: one at a time, at a steady rate, irrelevant ones, and none at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kermode_bench::figures::{Target, print_line};
use kermode_bench::sidecars::fleet::Fleet;
use kermode_bench::sidecars::population::{Member, Pods};
use kermode_bench::sidecars::probes::Probes;
use kermode_bench::spread::quantile;

use super::bench::{Bench, MIB, TIMEOUT};

/// Pause after the last sidecar has received a change, in which the ACKs arrive.
const ACK_PAUSE: Duration = Duration::from_millis(300);
/// Interval between replacements.
const PACE: Duration = Duration::from_millis(100);

/// Change of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Unready,
    Ready,
    Deleted,
    Created,
}

/// Measurements of the changes of one kind.
#[derive(Default)]
struct Rounds {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    cpu: f64,
    bytes: f64,
    responses: f64,
}

#[allow(clippy::cast_precision_loss, reason = "counts far below what a float holds")]
impl Bench<'_> {
    /// Measures an idle control plane.
    pub(super) async fn idle(&mut self, fleet: &Fleet) -> Result<()> {
        self.settle().await?;
        let (before, sent) = (self.process.cpu()?, fleet.sent());
        tokio::time::sleep(self.effort.idle).await;
        let cpu = self.process.cpu()?.saturating_sub(before).as_secs_f64();
        let percent = 100.0 * cpu / self.effort.idle.as_secs_f64();
        self.add("CPU when idle", &[percent], "% of a core", Target::AtMost(0.1));
        let responses = (fleet.sent().responses - sent.responses) as f64;
        self.add("responses when idle", &[responses], "", Target::AtMost(0.0));
        let resident = self.process.resident()? as f64;
        self.add(
            "resident memory after that",
            &[resident / MIB],
            "MiB",
            Target::None,
        );
        Ok(())
    }

    /// Measures changes one at a time.
    pub(super) async fn changes(&mut self, fleet: &Fleet) -> Result<()> {
        let repetitions = self.effort.repetitions;
        let mut flips = Rounds::default();
        for number in 0..repetitions {
            let change = if number % 2 == 0 {
                Change::Unready
            } else {
                Change::Ready
            };
            let member = self.population.member(number / 2);
            self.round(fleet, &member, change, &mut flips).await?;
        }
        self.report("readiness flip", &flips);
        let (mut deletions, mut creations) = (Rounds::default(), Rounds::default());
        for _ in 0..repetitions {
            let (old, new) = self.population.replacement()?;
            self.round(fleet, &old, Change::Deleted, &mut deletions).await?;
            self.population.pods().create(&new).await?;
            tokio::time::sleep(ACK_PAUSE).await;
            self.round(fleet, &new, Change::Created, &mut creations).await?;
        }
        self.report("Pod deletion", &deletions);
        self.report("Pod creation", &creations);
        Ok(())
    }

    async fn round(&self, fleet: &Fleet, member: &Member, change: Change, rounds: &mut Rounds) -> Result<()> {
        let (cpu, sent) = (self.process.cpu()?, fleet.sent());
        let present = matches!(change, Change::Ready | Change::Created);
        // Latency includes the request to the API server.
        let probe = self
            .probes
            .begin(&member.resource(), &member.ip(), present, fleet.size());
        let pods = self.population.pods();
        match change {
            Change::Unready => pods.set_ready(member, false).await?,
            Change::Ready | Change::Created => pods.set_ready(member, true).await?,
            Change::Deleted => pods.delete(member).await?,
        }
        let lags = self.probes.finish(&probe, TIMEOUT).await?;
        tokio::time::sleep(ACK_PAUSE).await;
        rounds.p50.push(quantile(&lags, 0.5));
        rounds.p99.push(quantile(&lags, 0.99));
        rounds.max.push(quantile(&lags, 1.0));
        rounds.cpu += self.process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1000.0;
        rounds.bytes += (fleet.sent().bytes - sent.bytes) as f64;
        rounds.responses += (fleet.sent().responses - sent.responses) as f64;
        Ok(())
    }

    fn report(&mut self, change: &str, rounds: &Rounds) {
        let size = self.size();
        let p99 = match size {
            ..=1_000 => Target::AtMost(30.0),
            10_000 => Target::AtMost(200.0),
            _ => Target::None,
        };
        self.add(&format!("{change} p50"), &rounds.p50, "ms", Target::None);
        self.add(&format!("{change} p99"), &rounds.p99, "ms", p99);
        self.add(&format!("{change} max"), &rounds.max, "ms", Target::None);
        let number = rounds.max.len() as f64;
        let cpu = if size <= 1_000 {
            Target::AtMost(10.0)
        } else {
            Target::None
        };
        self.add(&format!("{change}: CPU time"), &[rounds.cpu / number], "ms", cpu);
        let sidecar_changes = number * size as f64;
        self.add(
            &format!("{change}: responses a sidecar"),
            &[rounds.responses / sidecar_changes],
            "",
            Target::None,
        );
        self.add(
            &format!("{change}: bytes a sidecar"),
            &[rounds.bytes / sidecar_changes],
            "B",
            Target::None,
        );
    }

    /// Measures updates that affect no configuration.
    pub(super) async fn heartbeats(&mut self, fleet: &Fleet) -> Result<()> {
        let (before, sent) = (self.process.cpu()?, fleet.sent());
        let encoded = self.control_plane.metric("kuma_cp_xds_resources_encoded_total")?;
        let number = self.effort.heartbeats;
        self.population.heartbeats(number).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let cpu = self.process.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / number as f64;
        let responses = (fleet.sent().responses - sent.responses) as f64;
        let encoded = self.control_plane.metric("kuma_cp_xds_resources_encoded_total")? - encoded;
        self.add(
            &format!("responses by {number} status-only writes"),
            &[responses],
            "",
            Target::AtMost(0.0),
        );
        self.add(
            &format!("encodings by {number} status-only writes"),
            &[encoded],
            "",
            Target::AtMost(0.0),
        );
        self.add("CPU time of such a write", &[cpu], "us", Target::None);
        Ok(())
    }

    /// Measures replacements of Pods at a steady rate.
    pub(super) async fn churn(&mut self, fleet: &Fleet) -> Result<()> {
        let (before, sent) = (self.process.cpu()?, fleet.sent());
        let (start, mut pace) = (Instant::now(), tokio::time::interval(PACE));
        let (mut running, mut lags) = (FuturesUnordered::new(), Vec::new());
        while start.elapsed() < self.effort.churn {
            tokio::select! {
                _ = pace.tick() => {
                    let (old, new) = self.population.replacement()?;
                    running.push(replace(self.population.pods(), self.probes.clone(), fleet.size(), old, new));
                }
                Some(lag) = running.next() => lags.push(lag?),
            }
        }
        while let Some(lag) = running.next().await {
            lags.push(lag?);
        }
        let took = start.elapsed().as_secs_f64();
        let cores = self.process.cpu()?.saturating_sub(before).as_secs_f64() / took;
        let number = lags.len() as f64;
        print_line(&format!("  {number} replacements in {took:.1} s"));
        let mut all = lags.concat();
        all.sort_by(f64::total_cmp);
        for (figure, at) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            self.add(
                &format!("10 replacements/s: lag {figure}"),
                &[quantile(&all, at)],
                "ms",
                Target::None,
            );
        }
        self.add("10 replacements/s: CPU", &[cores], "cores", Target::AtMost(1.0));
        let mib = (fleet.sent().bytes - sent.bytes) as f64 / MIB / took;
        self.add("10 replacements/s: sent", &[mib], "MiB/s", Target::None);
        ensure!(
            fleet.is_complete(),
            "sidecars are disconnected; failures: {:?}",
            fleet.failures()
        );
        let resident = self.process.resident()? as f64 / MIB;
        self.add("resident memory at the end", &[resident], "MiB", Target::None);
        Ok(())
    }
}

/// Deletes a Pod and creates another one. Returns the lag of both changes at each sidecar, in milliseconds.
async fn replace(
    pods: Pods,
    probes: Arc<Probes>,
    sidecars: usize,
    old: Member,
    new: Member,
) -> Result<Vec<f64>> {
    let removal = probes.begin(&old.resource(), &old.ip(), false, sidecars);
    pods.delete(&old).await?;
    pods.create(&new).await?;
    let addition = probes.begin(&new.resource(), &new.ip(), true, sidecars);
    pods.set_ready(&new, true).await?;
    let mut lags = probes.finish(&removal, TIMEOUT).await?;
    lags.extend(probes.finish(&addition, TIMEOUT).await?);
    Ok(lags)
}
