//! `make bench-webhook`: latency, throughput, CPU time and memory of `kuma-cp`'s injection webhook.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::config::Config;
use kermode_bench::control_plane::ControlPlane;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::https::Connector;
use kermode_bench::process::Process;
use kermode_bench::webhook::load::{LoadGenerator, Round, RoundEnd};
use kermode_bench::webhook::reviews::{self, Expected, NAMESPACE};

/// Namespace of the Pods that are not injected.
const NAMESPACE_WITHOUT_INJECTION: &str = "plain";
/// Number of different AdmissionReviews, sent in turn.
const REVIEWS: usize = 64;
/// Number of reviews before the measurements.
const WARM_UP_REVIEWS: usize = 20_000;
/// Maximum memory growth over [`MeasurementPlan::growth_reviews`], in KiB. With 1,000,000 reviews, this is about 1 byte
/// per review, which allocator noise explains.
const MAX_GROWTH_KIB: f64 = 1024.0;

/// Numbers and durations of the measurements.
struct MeasurementPlan {
    /// Number of rounds of each measurement.
    rounds: usize,
    /// Length of a round.
    round_length: Duration,
    /// Number of reviews over which memory growth is measured.
    growth_reviews: usize,
}

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
    let api_server = ApiServer::up("bench-webhook", &config)?;
    api_server.apply(&namespaces())?;
    let control_plane = ControlPlane::start(&api_server, &config, &[])?;
    let plan = if config.quick {
        MeasurementPlan {
            rounds: 5,
            round_length: Duration::from_secs(2),
            growth_reviews: 100_000,
        }
    } else {
        MeasurementPlan {
            rounds: 7,
            round_length: Duration::from_secs(5),
            growth_reviews: 1_000_000,
        }
    };
    // One thread, so that the load generator leaves the other cores to the control plane.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(&control_plane, &plan))?;
    let met = figures.write(&config.checkout.target.join("bench/webhook.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns manifests of a namespace with injection and one without.
fn namespaces() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{kuma.io/sidecar-injection: enabled}}}}\n\
         ---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE_WITHOUT_INJECTION}}}\n"
    )
}

async fn measure(control_plane: &ControlPlane, plan: &MeasurementPlan) -> Result<Figures> {
    let server = control_plane.process()?;
    let connector = Connector::new(control_plane.webhook_address, &control_plane.ca_pem)?;
    let mut figures = Figures::default();
    let injected = reviews::make(NAMESPACE, REVIEWS)?;
    let mut many_connections =
        LoadGenerator::open(&connector, 16, injected.clone(), Expected::Injected).await?;
    add_memory_figure(&mut figures, "resident memory before", server.resident_bytes()?);
    many_connections
        .round(&server, RoundEnd::Reviews(WARM_UP_REVIEWS))
        .await?;

    let mut one_connection = LoadGenerator::open(&connector, 1, injected, Expected::Injected).await?;
    let p99_target = Target::AtMost(2.0);
    let rounds_of_one =
        with_realtime_priority(&server, run_rounds(&mut one_connection, &server, plan)).await?;
    add_load_figures(&mut figures, "1 connection", &rounds_of_one, p99_target);
    let rounds_of_many = run_rounds(&mut many_connections, &server, plan).await?;
    add_load_figures(&mut figures, "16 connections", &rounds_of_many, Target::None);

    let not_injected = reviews::make(NAMESPACE_WITHOUT_INJECTION, REVIEWS)?;
    let mut without_injection = LoadGenerator::open(&connector, 1, not_injected, Expected::Skipped).await?;
    let rounds = run_rounds(&mut without_injection, &server, plan).await?;
    let cpu = rounds.iter().map(Round::cpu_micros_per_review).collect();
    figures.add("not injected: CPU time per review", &cpu, "us", Target::None);
    measure_growth(&mut figures, &mut many_connections, &server, plan.growth_reviews).await?;
    Ok(figures)
}

/// Runs a measurement while the server and this process have real-time priority, so that other work on the machine does
/// not dominate the p99 latency.
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

async fn run_rounds(
    load: &mut LoadGenerator,
    server: &Process,
    plan: &MeasurementPlan,
) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        rounds.push(load.round(server, RoundEnd::Elapsed(plan.round_length)).await?);
    }
    Ok(rounds)
}

fn add_load_figures(figures: &mut Figures, load_name: &str, rounds: &[Round], p99_target: Target) {
    let values = |value: fn(&Round) -> f64| rounds.iter().map(value).collect();
    let mut add = |figure: &str, samples, unit, target| {
        figures.add(&format!("{load_name}: {figure}"), &samples, unit, target);
    };
    add(
        "latency p50",
        values(|round| round.latency_millis(0.5)),
        "ms",
        Target::None,
    );
    add(
        "latency p99",
        values(|round| round.latency_millis(0.99)),
        "ms",
        p99_target,
    );
    add(
        "throughput",
        values(Round::reviews_per_second),
        "reviews/s",
        Target::None,
    );
    add(
        "CPU time per review",
        values(Round::cpu_micros_per_review),
        "us",
        Target::None,
    );
    let target = Target::AtLeast(5000.0);
    add(
        "reviews per second of CPU time",
        values(Round::reviews_per_cpu_second),
        "reviews/s",
        target,
    );
}

/// Measures the memory growth over many reviews.
async fn measure_growth(
    figures: &mut Figures,
    load: &mut LoadGenerator,
    server: &Process,
    reviews: usize,
) -> Result<()> {
    print_line(&format!("memory over {reviews} reviews ..."));
    let before = server.resident_bytes()?;
    load.round(server, RoundEnd::Reviews(reviews)).await?;
    let after = server.resident_bytes()?;
    add_memory_figure(figures, "resident memory after", after);
    let growth = kib(after) - kib(before);
    let name = format!("memory growth over {reviews} reviews");
    figures.add(
        &name,
        &[growth].into_iter().collect(),
        "KiB",
        Target::AtMost(MAX_GROWTH_KIB),
    );
    Ok(())
}

fn add_memory_figure(figures: &mut Figures, figure: &str, bytes: u64) {
    let mebibytes = [kib(bytes) / 1024.0].into_iter().collect();
    figures.add(figure, &mebibytes, "MiB", Target::None);
}

#[allow(
    clippy::cast_precision_loss,
    reason = "memory is far below 2^53 bytes, up to which a float is exact"
)]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
