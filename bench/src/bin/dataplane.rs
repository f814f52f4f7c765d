//! `make bench-dataplane`: a real `kuma-cp` beside an API server with many injected Pods and no kubelet: how soon all
//! have their Dataplanes, what that costs, how soon a change of readiness is followed, and what is written for nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::dataplane::notes::Notes;
use kermode_bench::dataplane::population::{self, pod_key};
use kermode_bench::dataplane::requests::Requests;
use kermode_bench::figures::{Figures, Target, say};
use kermode_bench::process::Process;
use kermode_bench::spread::{Spread, quantile};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Status updates that no Dataplane has anything of.
const BEATS: usize = 10_000;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(5);
/// Between changes of readiness, so that each is measured alone.
const PACE: Duration = Duration::from_millis(40);

/// Rounds that changes of readiness are counted in.
const ROUNDS: usize = 5;
/// How many Services are changed.
const SERVICE_CHANGES: usize = 100;

const MB: f64 = 1_000_000.0;
/// What the control plane may use without Pods, and for each, in bytes.
const BASE: f64 = 60.0 * MB;
const PER_POD: f64 = 4_000.0;

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.target.join("bench"))?;
    let (sizes, turns): (&[usize], usize) = if config.quick {
        (&[1_000], 500)
    } else {
        (&[1_000, 10_000], 2_000)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut figures = Figures::default();
    for pods in sizes.iter().copied() {
        say(&format!("{pods} pods over {} services ...", population::SERVICES));
        runtime.block_on(measure(&config, pods, turns, &mut figures))?;
    }
    let met = figures.write(&config.target.join("bench/dataplane.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'f> {
    client: Client,
    pods: usize,
    figures: &'f mut Figures,
}

async fn measure(config: &Config, pods: usize, turns: usize, figures: &mut Figures) -> Result<()> {
    let api_server = ApiServer::up("bench-dataplane", config)?;
    let client = connect(&api_server).await?;
    let mut bench = Bench {
        client,
        pods,
        figures,
    };
    let start = Instant::now();
    population::make(&bench.client, pods).await?;
    say(&format!(
        "  the Pods were made in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let (control_plane, notes) = bench.start(&api_server, config).await?;
    let process = control_plane.process()?;
    bench.memory(&process)?;
    let mut preferred = api_server.processes()?;
    preferred.extend([process.clone(), Process::new(std::process::id())?]);
    let all_preferred = preferred.iter().all(|process| process.prefer(true));
    if !all_preferred {
        say("  other work of the machine is part of the latencies: chrt is not there or not allowed");
    }
    let measured = bench.readiness(&notes, &process, turns).await;
    for process in preferred {
        process.prefer(false);
    }
    measured?;
    bench.services(&control_plane, &process).await?;
    bench.beats(&notes, &process).await
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

async fn connect(api_server: &ApiServer) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(api_server.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl Bench<'_> {
    fn add(&mut self, figure: &str, value: f64, unit: &'static str, target: Target) {
        self.add_rounds(figure, &[value].into_iter().collect(), unit, target);
    }

    fn add_rounds(&mut self, figure: &str, rounds: &Spread, unit: &'static str, target: Target) {
        let figure = format!("{} pods: {figure}", self.pods);
        self.figures.add(&figure, rounds, unit, target);
    }

    /// From the start of a control plane that finds all Pods to the last Dataplane.
    async fn start(&mut self, api_server: &ApiServer, config: &Config) -> Result<(ControlPlane, Notes)> {
        let start = Instant::now();
        let control_plane = ControlPlane::start(api_server, config, &[])?;
        let ready = start.elapsed();
        let notes = Notes::start(self.client.clone());
        let last = notes.until(self.pods, PATIENCE).await?;
        notes.until_counted(self.pods, PATIENCE).await?;
        let counted = start.elapsed();
        let requests = Requests::read(&self.client).await?;
        self.add(
            "manifests applied and kuma-cp ready",
            ready.as_secs_f64(),
            "s",
            Target::None,
        );
        let all = (last - start).saturating_sub(ready);
        self.add(
            "from ready until all Dataplanes exist",
            all.as_secs_f64(),
            "s",
            Target::None,
        );
        self.add(
            "from ready until all have their status",
            counted.saturating_sub(ready).as_secs_f64(),
            "s",
            Target::None,
        );
        let calls = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let each = Target::AtMost(number(self.pods));
        self.add(
            "writes of Dataplanes",
            calls(requests.of("dataplanes", "APPLY")),
            "calls",
            each,
        );
        self.add(
            "writes of their status",
            calls(requests.of("dataplanes/status", "APPLY")),
            "calls",
            Target::None,
        );
        self.add("Events", calls(requests.writes("events")), "calls", Target::None);
        let cpu = control_plane.process()?.cpu()?.as_secs_f64();
        self.add("CPU time of kuma-cp until then", cpu, "s", Target::None);
        // The same at every size, if no step looks at all Pods for each.
        let each = cpu * 1000.0 / number(self.pods);
        self.add("the same a Pod", each, "ms", Target::None);
        Ok((control_plane, notes))
    }

    fn memory(&mut self, process: &Process) -> Result<()> {
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let (resident, pods) = (process.resident()? as f64, self.pods as f64);
        let target = Target::AtMost((BASE + PER_POD * pods) / MB);
        self.add("resident memory of kuma-cp", resident / MB, "MB", target);
        Ok(())
    }

    /// From the request that changes the Pod's readiness to the Dataplane's change in a watch: the API server's own
    /// time for the Pod, for the Dataplane and for two watches is in it.
    async fn readiness(&mut self, notes: &Notes, process: &Process, turns: usize) -> Result<()> {
        let before = process.cpu()?;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let turns = round * turns / ROUNDS..(round + 1) * turns / ROUNDS;
            rounds.push(self.round(notes, turns).await?);
        }
        let target = if self.pods <= 1_000 {
            Target::AtMost(50.0)
        } else {
            Target::None
        };
        let of = |place: f64| rounds.iter().map(|sorted| quantile(sorted, place)).collect();
        let (half, most): (Spread, Spread) = (of(0.5), of(0.99));
        self.add_rounds("readiness to Dataplane p50", &half, "ms", Target::None);
        self.add_rounds("readiness to Dataplane p99", &most, "ms", target);
        let cpu = process.cpu()?.saturating_sub(before).as_secs_f64() * 1000.0;
        let turns = f64::from(u32::try_from(turns).context("too many turns")?);
        self.add("CPU time of kuma-cp a change", cpu / turns, "ms", Target::None);
        Ok(())
    }

    /// Sorted latencies of changes of readiness, in milliseconds.
    async fn round(&self, notes: &Notes, turns: std::ops::Range<usize>) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(turns.len());
        for turn in turns {
            let number = turn % self.pods;
            let ready = (turn / self.pods) % 2 == 1;
            let (_, name) = pod_key(number);
            let asked = Instant::now();
            population::set_ready(&self.client, number, ready).await?;
            let turned = notes.until_ready(&name, ready, PATIENCE).await?;
            latencies.push(turned.saturating_duration_since(asked).as_secs_f64() * 1000.0);
            tokio::time::sleep(PACE).await;
        }
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }

    /// What a change of a Service costs: the Pods that it selects, however many others there are.
    async fn services(&mut self, control_plane: &ControlPlane, process: &Process) -> Result<()> {
        self.settle().await?;
        let selected = number(self.pods) / number(population::SERVICES);
        let conversions = || control_plane.metric("kuma_cp_engine_conversions_total");
        let writes = async |client: &Client| -> Result<u64> {
            Ok(Requests::read(client).await?.of("dataplanes", "APPLY"))
        };
        let (before, converted, cpu) = (writes(&self.client).await?, conversions()?, process.cpu()?);
        for service in 0..SERVICE_CHANGES {
            population::set_protocol(&self.client, service, "http2").await?;
        }
        self.settle().await?;
        let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1000.0;
        let changes = number(SERVICE_CHANGES);
        let written = f64::from(u32::try_from(writes(&self.client).await? - before)?);
        let converted = conversions()? - converted;
        let exactly = Target::AtMost(selected);
        ensure!(
            written >= selected * changes && converted >= selected * changes,
            "not all Dataplanes follow the Services: {converted} conversions, {written} writes"
        );
        let what = format!("conversions a change of a Service that selects {selected}");
        self.add(&what, converted / changes, "pods", exactly);
        self.add(
            "writes of Dataplanes such a change",
            written / changes,
            "calls",
            exactly,
        );
        self.add(
            "CPU time of kuma-cp a Pod of such a change",
            cpu / changes / selected,
            "ms",
            Target::None,
        );
        Ok(())
    }

    /// What is written because of updates that change nothing.
    async fn beats(&mut self, notes: &Notes, process: &Process) -> Result<()> {
        // The statuses of the changes before are written by now, or soon.
        self.settle().await?;
        let (requests, cpu) = (Requests::read(&self.client).await?, process.cpu()?);
        let start = Instant::now();
        let client = self.client.clone();
        let pods = self.pods;
        population::all((0..BEATS).map(|beat| {
            let client = client.clone();
            async move { population::beat(&client, beat % pods, beat).await }
        }))
        .await?;
        say(&format!(
            "  {BEATS} status updates in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        // A change that comes after all of them shows that they have been dealt with.
        let last = self.pods - 1;
        let (_, name) = pod_key(last);
        population::set_ready(&self.client, last, false).await?;
        notes.until_ready(&name, false, PATIENCE).await?;
        self.settle().await?;
        let after = Requests::read(&self.client).await?;
        let writes = after.writes("dataplanes") - requests.writes("dataplanes");
        let events = after.writes("events") - requests.writes("events");
        ensure!(
            writes >= 2,
            "the last change was not written with its status: {writes} writes"
        );
        let caused = f64::from(u32::try_from(writes - 2 + events)?);
        self.add(
            "writes caused by 10000 status-only updates",
            caused,
            "calls",
            Target::AtMost(0.0),
        );
        let cpu = (process.cpu()?.saturating_sub(cpu)).as_secs_f64() * 1_000_000.0;
        let beats = f64::from(u32::try_from(BEATS)?);
        self.add(
            "CPU time of kuma-cp such an update",
            cpu / beats,
            "us",
            Target::None,
        );
        Ok(())
    }

    /// Until nothing has been written for a second.
    async fn settle(&self) -> Result<()> {
        let mut before = Requests::read(&self.client).await?.writes("dataplanes");
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Requests::read(&self.client).await?.writes("dataplanes");
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }
}
