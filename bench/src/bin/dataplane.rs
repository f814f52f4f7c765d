//! `make bench-dataplane`: `kuma-cp` beside an API server with many injected Pods and no kubelet. Measures time and cost
//! until all have their Dataplanes, the latency of a readiness change, and writes caused by irrelevant updates.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::dataplane::notes::DataplaneWatch;
use kermode_bench::dataplane::population::{self, pod_key};
use kermode_bench::dataplane::requests::Requests;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::process::Process;
use kermode_bench::spread::{Spread, quantile};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Number of status updates that do not affect a Dataplane.
const HEARTBEATS: usize = 10_000;
/// Timeout of any single step.
const TIMEOUT: Duration = Duration::from_mins(5);
/// Pause between readiness changes, so that each is measured alone.
const PACE: Duration = Duration::from_millis(40);

/// Number of rounds that the readiness changes are divided into.
const ROUNDS: usize = 5;
/// Number of changes of Services.
const SERVICE_CHANGES: usize = 100;

/// Bytes of a megabyte.
const MB: f64 = 1_000_000.0;
/// Target of the control plane's memory without Pods, in bytes.
const BASE: f64 = 60.0 * MB;
/// Target of the control plane's memory for each Pod, in bytes.
const PER_POD: f64 = 4_000.0;

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.target.join("bench"))?;
    let (sizes, flips): (&[usize], usize) = if config.quick {
        (&[1_000], 500)
    } else {
        (&[1_000, 10_000], 2_000)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut figures = Figures::default();
    for pods in sizes.iter().copied() {
        print_line(&format!("{pods} Pods of {} Services ...", population::SERVICES));
        runtime.block_on(measure(&config, pods, flips, &mut figures))?;
    }
    let met = figures.write(&config.target.join("bench/dataplane.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'f> {
    client: Client,
    pods: usize,
    figures: &'f mut Figures,
}

async fn measure(config: &Config, pods: usize, flips: usize, figures: &mut Figures) -> Result<()> {
    let api_server = ApiServer::up("bench-dataplane", config)?;
    let client = connect(&api_server).await?;
    let mut bench = Bench {
        client,
        pods,
        figures,
    };
    let start = Instant::now();
    population::make(&bench.client, pods).await?;
    print_line(&format!(
        "  Pods created in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let (control_plane, watch) = bench.start(&api_server, config).await?;
    let process = control_plane.process()?;
    bench.memory(&process)?;
    let mut processes = api_server.processes()?;
    processes.extend([process.clone(), Process::new(std::process::id())?]);
    let all_realtime = processes.iter().all(|process| process.set_realtime(true));
    if !all_realtime {
        print_line("  chrt is missing or not permitted: other work on the machine adds to the latencies");
    }
    let outcome = bench.readiness(&watch, &process, flips).await;
    for process in processes {
        process.set_realtime(false);
    }
    outcome?;
    bench.services(&control_plane, &process).await?;
    bench.heartbeats(&watch, &process).await
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
        let figure = format!("{} Pods: {figure}", self.pods);
        self.figures.add(&figure, rounds, unit, target);
    }

    /// Starts the control plane and waits until every Pod has a Dataplane with a status.
    async fn start(
        &mut self,
        api_server: &ApiServer,
        config: &Config,
    ) -> Result<(ControlPlane, DataplaneWatch)> {
        let start = Instant::now();
        let control_plane = ControlPlane::start(api_server, config, &[])?;
        let ready = start.elapsed();
        let watch = DataplaneWatch::start(self.client.clone());
        let last = watch.until(self.pods, TIMEOUT).await?;
        watch.until_counted(self.pods, TIMEOUT).await?;
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
        // Independent of the number of Pods unless some step is quadratic.
        let each = cpu * 1000.0 / number(self.pods);
        self.add("the same a Pod", each, "ms", Target::None);
        Ok((control_plane, watch))
    }

    fn memory(&mut self, process: &Process) -> Result<()> {
        #[allow(clippy::cast_precision_loss, reason = "far below what a float holds")]
        let (resident, pods) = (process.resident()? as f64, self.pods as f64);
        let target = Target::AtMost((BASE + PER_POD * pods) / MB);
        self.add("resident memory of kuma-cp", resident / MB, "MB", target);
        Ok(())
    }

    /// Measures the time from the request that changes a Pod's readiness to the Dataplane's change in a watch. It includes the
    /// API server's time for both writes and both watches.
    async fn readiness(&mut self, watch: &DataplaneWatch, process: &Process, flips: usize) -> Result<()> {
        let before = process.cpu()?;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let flips = round * flips / ROUNDS..(round + 1) * flips / ROUNDS;
            rounds.push(self.round(watch, flips).await?);
        }
        let target = if self.pods <= 1_000 {
            Target::AtMost(50.0)
        } else {
            Target::None
        };
        let of = |at: f64| rounds.iter().map(|sorted| quantile(sorted, at)).collect();
        let (p50, p99): (Spread, Spread) = (of(0.5), of(0.99));
        self.add_rounds("readiness to Dataplane p50", &p50, "ms", Target::None);
        self.add_rounds("readiness to Dataplane p99", &p99, "ms", target);
        let cpu = process.cpu()?.saturating_sub(before).as_secs_f64() * 1000.0;
        let flips = f64::from(u32::try_from(flips).context("the number of changes exceeds u32")?);
        self.add("CPU time of kuma-cp a change", cpu / flips, "ms", Target::None);
        Ok(())
    }

    /// Returns the sorted latencies of readiness changes, in milliseconds.
    async fn round(&self, watch: &DataplaneWatch, flips: std::ops::Range<usize>) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(flips.len());
        for flip in flips {
            let number = flip % self.pods;
            let ready = (flip / self.pods) % 2 == 1;
            let (_, name) = pod_key(number);
            let requested_at = Instant::now();
            population::set_ready(&self.client, number, ready).await?;
            let changed_at = watch.until_ready(&name, ready, TIMEOUT).await?;
            latencies.push(changed_at.saturating_duration_since(requested_at).as_secs_f64() * 1000.0);
            tokio::time::sleep(PACE).await;
        }
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }

    /// Measures that a change of a Service costs only the Pods that it selects.
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
        let at_most_selected = Target::AtMost(selected);
        ensure!(
            written >= selected * changes && converted >= selected * changes,
            "not all Dataplanes were updated after the Services changed: {converted} conversions, {written} writes"
        );
        let figure = format!("conversions a change of a Service that selects {selected}");
        self.add(&figure, converted / changes, "Pods", at_most_selected);
        self.add(
            "writes of Dataplanes such a change",
            written / changes,
            "calls",
            at_most_selected,
        );
        self.add(
            "CPU time of kuma-cp a Pod of such a change",
            cpu / changes / selected,
            "ms",
            Target::None,
        );
        Ok(())
    }

    /// Measures writes caused by updates that affect no Dataplane.
    async fn heartbeats(&mut self, watch: &DataplaneWatch, process: &Process) -> Result<()> {
        // Wait until the statuses of the earlier changes are written.
        self.settle().await?;
        let (requests, cpu) = (Requests::read(&self.client).await?, process.cpu()?);
        let start = Instant::now();
        let client = self.client.clone();
        let pods = self.pods;
        population::all((0..HEARTBEATS).map(|number| {
            let client = client.clone();
            async move { population::heartbeat(&client, number % pods, number).await }
        }))
        .await?;
        print_line(&format!(
            "  {HEARTBEATS} status updates in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        // A relevant change after the updates shows that all of them were processed.
        let last = self.pods - 1;
        let (_, name) = pod_key(last);
        population::set_ready(&self.client, last, false).await?;
        watch.until_ready(&name, false, TIMEOUT).await?;
        self.settle().await?;
        let after = Requests::read(&self.client).await?;
        let writes = after.writes("dataplanes") - requests.writes("dataplanes");
        let events = after.writes("events") - requests.writes("events");
        ensure!(
            writes >= 2,
            "the last change and its status were not both written: {writes} writes"
        );
        let caused = f64::from(u32::try_from(writes - 2 + events)?);
        self.add(
            "writes caused by 10000 status-only updates",
            caused,
            "calls",
            Target::AtMost(0.0),
        );
        let cpu = (process.cpu()?.saturating_sub(cpu)).as_secs_f64() * 1_000_000.0;
        let updates = f64::from(u32::try_from(HEARTBEATS)?);
        self.add(
            "CPU time of kuma-cp such an update",
            cpu / updates,
            "us",
            Target::None,
        );
        Ok(())
    }

    /// Waits until no Dataplane was written for a second.
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
