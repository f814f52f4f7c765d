//! `make bench-webhook`: latency, throughput, CPU time and memory of `kuma-cp`'s injection webhook.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::https::Endpoint;
use kermode_bench::process::Process;
use kermode_bench::webhook::load::{Load, Round, Until};
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

/// Number of different reviews, sent in turn.
const REVIEWS: usize = 64;
/// Number of reviews before the measurements.
const WARM_UP: usize = 20_000;
/// Target of the memory growth over a long run, in KiB: less than 2 bytes a review, which allocator noise explains.
const MAX_GROWTH: f64 = 1024.0;

/// Scope of the measurements.
struct Effort {
    /// Number of rounds of each measurement.
    rounds: usize,
    /// Length of a round.
    round: Duration,
    /// Number of reviews over which memory growth is measured.
    growth: usize,
}

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.target.join("bench"))?;
    let api_server = ApiServer::up("bench-webhook", &config)?;
    api_server.apply(&namespaces())?;
    let control_plane = ControlPlane::start(&api_server, &config, &[])?;
    let effort = if config.quick {
        Effort {
            rounds: 5,
            round: Duration::from_secs(2),
            growth: 100_000,
        }
    } else {
        Effort {
            rounds: 7,
            round: Duration::from_secs(5),
            growth: 1_000_000,
        }
    };
    // One thread, so that the load leaves the other cores to the control plane.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(&control_plane, &effort))?;
    let met = figures.write(&config.target.join("bench/webhook.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns manifests of a namespace with injection and one without.
fn namespaces() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{kuma.io/sidecar-injection: enabled}}}}\n\
         ---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: plain}}\n"
    )
}

async fn measure(control_plane: &ControlPlane, effort: &Effort) -> Result<Figures> {
    let server = control_plane.process()?;
    let endpoint = Endpoint::new(control_plane.webhooks, &control_plane.ca_pem)?;
    let mut figures = Figures::default();
    let injected = reviews::make(NAMESPACE, REVIEWS)?;
    let mut many = Load::open(&endpoint, 16, injected.clone(), Expected::Injected).await?;
    memory(&mut figures, "resident memory before", server.resident()?);
    many.round(&server, Until::Count(WARM_UP)).await?;

    let mut one = Load::open(&endpoint, 1, injected, Expected::Injected).await?;
    let latency = Target::AtMost(2.0);
    let rounds_of_one = with_realtime_priority(&server, rounds(&mut one, &server, effort)).await?;
    report(&mut figures, "1 connection", &rounds_of_one, latency);
    let rounds_of_many = rounds(&mut many, &server, effort).await?;
    report(&mut figures, "16 connections", &rounds_of_many, Target::None);

    let plain = reviews::make("plain", REVIEWS)?;
    let mut skipped = Load::open(&endpoint, 1, plain, Expected::Skipped).await?;
    let skipped = rounds(&mut skipped, &server, effort).await?;
    let cpu = skipped.iter().map(Round::cpu).collect();
    figures.add("not injected: CPU time of a review", &cpu, "us", Target::None);
    growth(&mut figures, &mut many, &server, effort.growth).await?;
    Ok(figures)
}

/// Runs a measurement with real-time priority: otherwise other work on the machine would dominate the slowest percent.
async fn with_realtime_priority<T>(server: &Process, work: impl Future<Output = Result<T>>) -> Result<T> {
    let processes = [server.clone(), Process::new(std::process::id())?];
    if !processes.iter().all(|process| process.set_realtime(true)) {
        print_line("chrt is missing or not permitted: other work on the machine adds to the latencies");
    }
    let result = work.await;
    for process in processes {
        process.set_realtime(false);
    }
    result
}

async fn rounds(load: &mut Load, server: &Process, effort: &Effort) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for _ in 0..effort.rounds {
        rounds.push(load.round(server, Until::Elapsed(effort.round)).await?);
    }
    Ok(rounds)
}

fn report(figures: &mut Figures, load: &str, rounds: &[Round], p99: Target) {
    let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect();
    let mut add = |figure: &str, rounds, unit, target| {
        figures.add(&format!("{load}: {figure}"), &rounds, unit, target);
    };
    add("latency p50", of(|round| round.latency(0.5)), "ms", Target::None);
    add("latency p99", of(|round| round.latency(0.99)), "ms", p99);
    add("throughput", of(Round::throughput), "reviews/s", Target::None);
    add("CPU time of a review", of(Round::cpu), "us", Target::None);
    let per_core = Target::AtLeast(5000.0);
    add(
        "reviews of a second of CPU time",
        of(Round::per_core),
        "reviews/s",
        per_core,
    );
}

async fn growth(figures: &mut Figures, load: &mut Load, server: &Process, reviews: usize) -> Result<()> {
    print_line(&format!("memory over {reviews} reviews ..."));
    let before = server.resident()?;
    load.round(server, Until::Count(reviews)).await?;
    let after = server.resident()?;
    memory(figures, "resident memory after", after);
    let growth = kib(after) - kib(before);
    let name = format!("growth over {reviews} reviews");
    figures.add(
        &name,
        &[growth].into_iter().collect(),
        "KiB",
        Target::AtMost(MAX_GROWTH),
    );
    Ok(())
}

fn memory(figures: &mut Figures, figure: &str, bytes: u64) {
    let rounds = [kib(bytes) / 1024.0].into_iter().collect();
    figures.add(figure, &rounds, "MiB", Target::None);
}

#[allow(
    clippy::cast_precision_loss,
    reason = "memory is far below what a float holds"
)]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
