//! `make bench-soak`: memory, descriptors and threads of `kuma-dp` over 1,000 reconnections to the control plane, while
//! Pods of the mesh are replaced all the time. Takes a quarter of an hour.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::process::Process;
use kermode_bench::spread::Spread;
use kermode_bench::start::{Lab, Milestone};
use kermode_bench::unstable_network::UnstableNetwork;
use kermode_checkout::variable;

/// Number of Services of the mesh, with two Pods each.
const SERVICES: usize = 50;
/// Interval between two replacements of a Pod.
const REPLACEMENT_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of a reconnection.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Interval between two looks at the log.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The values before this part of the reconnections are no baseline: caches and buffers still fill.
const WARM_UP_DIVISOR: u64 = 5;

/// Maximum resident memory, in MB.
const MAX_MEMORY_MB: f64 = 10.0;
/// Maximum growth of the resident memory after the warm-up, in MB. The allocator keeps some freed pages.
const MAX_GROWTH_MB: f64 = 0.5;
/// Maximum number of descriptors: two for each connection of the DNS, some ten for the others.
const MAX_DESCRIPTORS: f64 = 64.0;
/// Maximum number of threads: the main thread, and threads that read files.
const MAX_THREADS: f64 = 16.0;

/// Use of resources at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    connections: u64,
    memory_mb: f64,
    descriptors: f64,
    threads: f64,
}

/// Log of the sidecar, which has a line for each stream of configuration that it opened.
struct StreamLog {
    reader: BufReader<File>,
    /// Last line, as far as it is written.
    line: String,
}

// === impl Sample ===

impl Sample {
    fn read(process: &Process, connections: u64) -> Result<Self> {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(Self {
            connections,
            memory_mb: process.resident_bytes()? as f64 / 1e6,
            descriptors: process.descriptor_count()? as f64,
            threads: process.thread_count()? as f64,
        })
    }
}

// === impl StreamLog ===

impl StreamLog {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            reader: BufReader::new(file),
            line: String::new(),
        })
    }

    /// Waits until the sidecar has opened another stream of configuration.
    async fn wait_for_next(&mut self) -> Result<()> {
        let started_at = Instant::now();
        while !self.read_to_next()? {
            ensure!(
                started_at.elapsed() < TIMEOUT,
                "the sidecar does not reconnect within {TIMEOUT:?}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Reads the log until the next line about a stream; returns whether there is one.
    fn read_to_next(&mut self) -> Result<bool> {
        while self.reader.read_line(&mut self.line)? > 0 && self.line.ends_with('\n') {
            let line = std::mem::take(&mut self.line);
            if Milestone::FirstResponse.is_shown_by(&line) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    let bench = config.checkout.target.join("bench");
    std::fs::create_dir_all(&bench)?;
    let envoy = variable("KERMODE_ENVOY").context("KERMODE_ENVOY is not set: run make bench-soak")?;
    let reconnections = if config.quick { 100 } else { 1_000 };
    let mut lab = Lab::start(&config, envoy.into(), "bench-soak", SERVICES).await?;
    let samples = soak(&mut lab, reconnections, &bench.join("soak.log")).await?;
    let mut figures = Figures::default();
    add_figures(&mut figures, &samples, reconnections);
    let targets_met = figures.write(&bench.join("soak.json"))?;
    Ok(if targets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Breaks the connection of a sidecar this often, and replaces Pods meanwhile. Returns the use of resources over time.
async fn soak(lab: &mut Lab, reconnections: u64, log: &Path) -> Result<Vec<Sample>> {
    let target = lab.control_plane.dp_server_address;
    let network = UnstableNetwork::start(lab.host(), target).await?;
    // Another thread serves the network meanwhile.
    let sidecar = tokio::task::block_in_place(|| lab.run(network.address, log))?;
    let process = sidecar.agent()?;
    let started_at = Instant::now();
    let mut last_replacement = started_at;
    let mut samples = Vec::new();
    let mut streams = StreamLog::open(log)?;
    streams.wait_for_next().await?;
    while network.connection_count() < reconnections {
        network.break_connections();
        streams.wait_for_next().await?;
        if last_replacement.elapsed() >= REPLACEMENT_INTERVAL {
            last_replacement = Instant::now();
            let (old, new) = lab.objects.replacement()?;
            lab.objects.pod_writer().delete(&old).await?;
            lab.objects.pod_writer().create_ready(&new).await?;
        }
        samples.push(Sample::read(&process, network.connection_count())?);
        if samples.len() % 50 == 0 {
            print_sample(started_at, samples.last());
        }
    }
    print_sample(started_at, samples.last());
    Ok(samples)
}

fn print_sample(started_at: Instant, sample: Option<&Sample>) {
    let Some(Sample {
        connections,
        memory_mb,
        descriptors,
        threads,
    }) = sample
    else {
        return;
    };
    let seconds = started_at.elapsed().as_secs();
    print_line(&format!(
        "{seconds:>5} s  {connections:>5} connections  {memory_mb:>5.2} MB  {descriptors:>3} descriptors  {threads:>2} threads"
    ));
}

fn add_figures(figures: &mut Figures, samples: &[Sample], reconnections: u64) {
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Spread>();
    let max = |value: fn(&Sample) -> f64| {
        let maximum = samples.iter().map(value).fold(0.0, f64::max);
        [maximum].into_iter().collect::<Spread>()
    };
    let memory = |sample: &Sample| sample.memory_mb;
    figures.add("kuma-dp: resident memory", &of(memory), "MB", Target::None);
    figures.add(
        "kuma-dp: highest resident memory",
        &max(memory),
        "MB",
        Target::AtMost(MAX_MEMORY_MB),
    );
    // The median of the first samples after the warm-up, and of the last ones.
    let after = |start: u64, end: u64| {
        let samples = samples
            .iter()
            .filter(|sample| (start..end).contains(&sample.connections));
        samples.map(memory).collect::<Spread>().median()
    };
    let part = reconnections / WARM_UP_DIVISOR;
    let growth = after(reconnections - part, u64::MAX) - after(part, 2 * part);
    figures.add(
        "kuma-dp: growth of the memory after the warm-up",
        &[growth].into_iter().collect(),
        "MB",
        Target::AtMost(MAX_GROWTH_MB),
    );
    let descriptors = max(|sample| sample.descriptors);
    figures.add(
        "kuma-dp: most descriptors",
        &descriptors,
        "",
        Target::AtMost(MAX_DESCRIPTORS),
    );
    let threads = max(|sample| sample.threads);
    figures.add("kuma-dp: most threads", &threads, "", Target::AtMost(MAX_THREADS));
}
