//! `make bench-webhook`: latency, throughput, CPU time and memory of the injection webhook of a real `kuma-cp`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::figures::{Figures, Target, say};
use kermode_bench::https::Endpoint;
use kermode_bench::process::Process;
use kermode_bench::webhook::load::{Load, Round, Until};
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

/// Asked about in turn.
const REVIEWS: usize = 64;
/// Reviews before anything is measured.
const WARM_UP: usize = 20_000;
/// Memory that may come and go by chance over a long run, in KiB: less than 2 bytes a review.
const NO_GROWTH: f64 = 1024.0;

/// How much is measured.
struct Effort {
    rounds: usize,
    round: Duration,
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
    // One thread: what the load takes of the machine should not be more than it needs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(&control_plane, &effort))?;
    let met = figures.write(&config.target.join("bench/webhook.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One whose Pods are injected, one whose Pods are not.
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
    let rounds_of_one = undisturbed(&server, rounds(&mut one, &server, effort)).await?;
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

/// Measures without waiting for other work of the machine, which would be most of the slowest percent.
async fn undisturbed<T>(server: &Process, work: impl Future<Output = Result<T>>) -> Result<T> {
    let both = [server.clone(), Process::new(std::process::id())?];
    if !both.iter().all(|process| process.prefer(true)) {
        say("other work of the machine is part of the latencies: chrt is not there or not allowed");
    }
    let result = work.await;
    for process in both {
        process.prefer(false);
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
    say(&format!("memory over {reviews} reviews ..."));
    let before = server.resident()?;
    load.round(server, Until::Count(reviews)).await?;
    let after = server.resident()?;
    memory(figures, "resident memory after", after);
    let grown = kib(after) - kib(before);
    let name = format!("growth over {reviews} reviews");
    figures.add(
        &name,
        &[grown].into_iter().collect(),
        "KiB",
        Target::AtMost(NO_GROWTH),
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
