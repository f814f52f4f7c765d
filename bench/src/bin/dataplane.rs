//! `make bench-dataplane`: `kuma-cp` beside an API server with many injected Pods and no kubelet. Measures time and
//! cost until all Pods have their Dataplanes, the latency of a readiness change, the cost of a changed Service, and
//! writes caused by updates that affect no Dataplane.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::dataplane::objects::{self, pod_key};
use kermode_bench::dataplane::requests::Requests;
use kermode_bench::dataplane::watch::DataplaneWatch;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::process::Process;
use kermode_bench::spread::{Spread, quantile};
use kube::Client;

/// Number of Pod status updates that affect no Dataplane.
const HEARTBEATS: usize = 10_000;
/// Timeout of each wait.
const TIMEOUT: Duration = Duration::from_mins(5);
/// Pause between readiness changes, so that each is measured alone.
const CHANGE_PAUSE: Duration = Duration::from_millis(40);

/// Number of rounds that the readiness changes (`flips`) are divided into.
const ROUNDS: usize = 5;
/// Number of changes of Services.
const SERVICE_CHANGES: usize = 100;

/// Number of bytes in a megabyte.
const MB: f64 = 1_000_000.0;
/// Target of the control plane's memory without Pods, in bytes.
const BASE_MEMORY: f64 = 60.0 * MB;
/// Target of the control plane's memory for each Pod, in bytes.
const MEMORY_PER_POD: f64 = 4_000.0;

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
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
        print_line(&format!("{pods} Pods of {} Services ...", objects::SERVICES));
        runtime.block_on(measure(&config, pods, flips, &mut figures))?;
    }
    let targets_met = figures.write(&config.checkout.target.join("bench/dataplane.json"))?;
    Ok(if targets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// An API server with many Pods, and the figures of the measurements.
struct Bench<'f> {
    client: Client,
    /// Number of Pods.
    pods: usize,
    figures: &'f mut Figures,
}

async fn measure(config: &Config, pods: usize, flips: usize, figures: &mut Figures) -> Result<()> {
    let api_server = ApiServer::up("bench-dataplane", config)?;
    let client = api_server.client().await?;
    let mut bench = Bench {
        client,
        pods,
        figures,
    };
    let start = Instant::now();
    objects::create_all(&bench.client, pods).await?;
    print_line(&format!(
        "  Pods created in {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    let (control_plane, watch) = bench.start_control_plane(&api_server, config).await?;
    let process = control_plane.process()?;
    bench.measure_memory(&process)?;
    let mut processes = api_server.processes()?;
    processes.extend([process.clone(), Process::new(std::process::id())?]);
    let all_realtime = processes.iter().all(|process| process.set_realtime(true));
    if !all_realtime {
        print_line("  chrt is missing or not permitted: other work on the machine adds to the latencies");
    }
    let outcome = bench.measure_readiness(&watch, &process, flips).await;
    for process in processes {
        process.set_realtime(false);
    }
    outcome?;
    bench.measure_services(&control_plane, &process).await?;
    bench.measure_heartbeats(&watch, &process).await
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
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
    async fn start_control_plane(
        &mut self,
        api_server: &ApiServer,
        config: &Config,
    ) -> Result<(ControlPlane, DataplaneWatch)> {
        let start = Instant::now();
        let control_plane = ControlPlane::start(api_server, config, &[])?;
        let until_ready = start.elapsed();
        let watch = DataplaneWatch::start(self.client.clone());
        let last_created_at = watch.wait_for_count(self.pods, TIMEOUT).await?;
        watch.wait_for_statuses(self.pods, TIMEOUT).await?;
        let until_all_statuses = start.elapsed();
        let requests = Requests::read(&self.client).await?;
        self.add(
            "manifests applied and kuma-cp ready",
            until_ready.as_secs_f64(),
            "s",
            Target::None,
        );
        let until_all_exist = (last_created_at - start).saturating_sub(until_ready);
        self.add(
            "from ready until all Dataplanes exist",
            until_all_exist.as_secs_f64(),
            "s",
            Target::None,
        );
        self.add(
            "from ready until all have their status",
            until_all_statuses.saturating_sub(until_ready).as_secs_f64(),
            "s",
            Target::None,
        );
        let figure_of = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let one_for_each_pod = Target::AtMost(to_f64(self.pods));
        self.add(
            "writes of Dataplanes",
            figure_of(requests.count("dataplanes", "APPLY")),
            "calls",
            one_for_each_pod,
        );
        self.add(
            "writes of Dataplane statuses",
            figure_of(requests.count("dataplanes/status", "APPLY")),
            "calls",
            Target::None,
        );
        self.add(
            "Events",
            figure_of(requests.writes("events")),
            "calls",
            Target::None,
        );
        let cpu = control_plane.process()?.cpu_time()?.as_secs_f64();
        self.add(
            "CPU time of kuma-cp until all have their status",
            cpu,
            "s",
            Target::None,
        );
        // This figure is higher with more Pods if the CPU time grows faster than the number of Pods.
        let per_pod = cpu * 1000.0 / to_f64(self.pods);
        self.add("CPU time of kuma-cp per Pod", per_pod, "ms", Target::None);
        Ok((control_plane, watch))
    }

    fn measure_memory(&mut self, process: &Process) -> Result<()> {
        #[allow(
            clippy::cast_precision_loss,
            reason = "far below 2^53, up to which a float is exact"
        )]
        let (resident, pods) = (process.resident_bytes()? as f64, self.pods as f64);
        let target = Target::AtMost((BASE_MEMORY + MEMORY_PER_POD * pods) / MB);
        self.add("resident memory of kuma-cp", resident / MB, "MB", target);
        Ok(())
    }

    /// Measures the time from the request that changes a Pod's readiness until a watch delivers the changed Dataplane.
    /// This time includes the API server's work for the writes and watches of both objects.
    async fn measure_readiness(
        &mut self,
        watch: &DataplaneWatch,
        process: &Process,
        flips: usize,
    ) -> Result<()> {
        let cpu_before = process.cpu_time()?;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let flips_of_round = round * flips / ROUNDS..(round + 1) * flips / ROUNDS;
            rounds.push(self.flip_latencies(watch, flips_of_round).await?);
        }
        let target = if self.pods <= 1_000 {
            Target::AtMost(50.0)
        } else {
            Target::None
        };
        let quantiles = |at: f64| rounds.iter().map(|sorted| quantile(sorted, at)).collect();
        let (p50, p99): (Spread, Spread) = (quantiles(0.5), quantiles(0.99));
        self.add_rounds("readiness to Dataplane p50", &p50, "ms", Target::None);
        self.add_rounds("readiness to Dataplane p99", &p99, "ms", target);
        let cpu = process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64() * 1000.0;
        let flips = f64::from(u32::try_from(flips).context("the number of changes exceeds u32")?);
        self.add("CPU time of kuma-cp per change", cpu / flips, "ms", Target::None);
        Ok(())
    }

    /// Changes the readiness of a Pod for each number in `flips`. Returns the sorted latencies in milliseconds.
    async fn flip_latencies(
        &self,
        watch: &DataplaneWatch,
        flips: std::ops::Range<usize>,
    ) -> Result<Vec<f64>> {
        let mut latencies = Vec::with_capacity(flips.len());
        for flip in flips {
            let pod = flip % self.pods;
            // Pods are ready at first; each pass over all Pods flips them.
            let ready = (flip / self.pods) % 2 == 1;
            let (_, name) = pod_key(pod);
            let requested_at = Instant::now();
            objects::set_ready(&self.client, pod, ready).await?;
            let changed_at = watch.wait_for_readiness(&name, ready, TIMEOUT).await?;
            latencies.push(changed_at.saturating_duration_since(requested_at).as_secs_f64() * 1000.0);
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }

    /// Measures whether a change of a Service causes work only for the Pods that the Service selects.
    async fn measure_services(&mut self, control_plane: &ControlPlane, process: &Process) -> Result<()> {
        self.wait_until_writes_stop().await?;
        let pods_per_service = to_f64(self.pods) / to_f64(objects::SERVICES);
        let conversions = || control_plane.metric("kuma_cp_engine_conversions_total");
        let writes = async |client: &Client| -> Result<u64> {
            Ok(Requests::read(client).await?.count("dataplanes", "APPLY"))
        };
        let writes_before = writes(&self.client).await?;
        let conversions_before = conversions()?;
        let cpu_before = process.cpu_time()?;
        for service in 0..SERVICE_CHANGES {
            objects::set_protocol(&self.client, service, "http2").await?;
        }
        self.wait_until_writes_stop().await?;
        let cpu = process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64() * 1000.0;
        let changes = to_f64(SERVICE_CHANGES);
        let written = f64::from(u32::try_from(writes(&self.client).await? - writes_before)?);
        let converted = conversions()? - conversions_before;
        let at_most_pods_per_service = Target::AtMost(pods_per_service);
        ensure!(
            written >= pods_per_service * changes && converted >= pods_per_service * changes,
            "not all Dataplanes were updated after the Services changed: {converted} conversions, {written} writes"
        );
        let figure = format!("conversions per change of a Service that selects {pods_per_service} Pods");
        self.add(
            &figure,
            converted / changes,
            "conversions",
            at_most_pods_per_service,
        );
        self.add(
            "writes of Dataplanes per change of a Service",
            written / changes,
            "calls",
            at_most_pods_per_service,
        );
        self.add(
            "CPU time of kuma-cp per selected Pod and change of a Service",
            cpu / changes / pods_per_service,
            "ms",
            Target::None,
        );
        Ok(())
    }

    /// Measures writes caused by updates that affect no Dataplane.
    async fn measure_heartbeats(&mut self, watch: &DataplaneWatch, process: &Process) -> Result<()> {
        // Waits for the writes that earlier changes cause.
        self.wait_until_writes_stop().await?;
        let requests_before = Requests::read(&self.client).await?;
        let cpu_before = process.cpu_time()?;
        let start = Instant::now();
        let client = self.client.clone();
        let pods = self.pods;
        objects::run_all((0..HEARTBEATS).map(|number| {
            let client = client.clone();
            async move { objects::heartbeat(&client, number % pods, number).await }
        }))
        .await?;
        print_line(&format!(
            "  {HEARTBEATS} status updates in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
        // The Dataplane of a later readiness change shows that the control plane has processed all updates.
        let last_pod = self.pods - 1;
        let (_, name) = pod_key(last_pod);
        objects::set_ready(&self.client, last_pod, false).await?;
        watch.wait_for_readiness(&name, false, TIMEOUT).await?;
        self.wait_until_writes_stop().await?;
        let requests = Requests::read(&self.client).await?;
        let writes = requests.writes("dataplanes") - requests_before.writes("dataplanes");
        let events = requests.writes("events") - requests_before.writes("events");
        ensure!(
            writes >= 2,
            "the last readiness change must cause at least 2 writes, but caused {writes}"
        );
        // The last change accounts for two writes, of the Dataplane and of its status.
        let caused = f64::from(u32::try_from(writes - 2 + events)?);
        self.add(
            "writes caused by 10000 status-only updates",
            caused,
            "calls",
            Target::AtMost(0.0),
        );
        let cpu = process.cpu_time()?.saturating_sub(cpu_before).as_secs_f64() * 1_000_000.0;
        let updates = f64::from(u32::try_from(HEARTBEATS)?);
        self.add(
            "CPU time of kuma-cp per status-only update",
            cpu / updates,
            "us",
            Target::None,
        );
        Ok(())
    }

    /// Waits until the control plane has written no Dataplane for a second.
    async fn wait_until_writes_stop(&self) -> Result<()> {
        let mut writes = Requests::read(&self.client).await?.writes("dataplanes");
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let writes_now = Requests::read(&self.client).await?.writes("dataplanes");
            if writes_now == writes {
                return Ok(());
            }
            writes = writes_now;
        }
    }
}
