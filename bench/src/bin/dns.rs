//! `make bench-dns`: what the sidecar's DNS adds to the latency of a query and to its CPU time, beside the cluster's DNS
//! alone. Queries that the sidecar answers from its cache and queries that it forwards are measured apart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kermode_bench::config::Config;
use kermode_bench::dns::{Durations, Lab, Sample, Way};
use kermode_bench::figures::{Figures, Target};
use kermode_bench::spread::Spread;
use kermode_checkout::variable;

/// Maximum latency that the sidecar adds, in milliseconds.
const MAX_ADDED_MS: f64 = 0.2;
/// Maximum CPU time of the sidecar for a query, as a multiple of the CPU time of CoreDNS for a query without a sidecar.
const MAX_CPU_RATIO: f64 = 1.2;
/// Maximum resident memory of `kuma-dp`, in MB.
const MAX_MEMORY_MB: f64 = 10.0;

/// Samples of all ways in one round.
struct Round {
    direct: Sample,
    hit: Sample,
    miss: Sample,
}

/// Selects a sample of a round.
type SampleOf = fn(&Round) -> Sample;

fn main() -> Result<()> {
    let config = Config::read()?;
    let bench = config.checkout.target.join("bench");
    std::fs::create_dir_all(&bench)?;
    let core_dns = variable("KERMODE_COREDNS").context("KERMODE_COREDNS is not set: run make bench-dns")?;
    let kuma_dp = config.checkout.release_binary("kuma-dp");
    let folder = tempfile::tempdir()?;
    let lab = Lab::start(Path::new(&core_dns), &kuma_dp, folder.path())?;
    let (count, durations) = if config.quick {
        (5, durations(1, 3))
    } else {
        (11, durations(2, 5))
    };
    let mut rounds = Vec::new();
    // The ways alternate, so that a change of the machine's load affects all of them.
    for _ in 0..count {
        rounds.push(Round {
            direct: lab.measure(Way::Direct, durations)?,
            hit: lab.measure(Way::Hit, durations)?,
            miss: lab.measure(Way::Miss, durations)?,
        });
    }
    let mut figures = Figures::default();
    add_figures(&mut figures, &rounds);
    #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
    let memory = lab.caching_agent().resident_bytes()? as f64 / 1e6;
    let memory = std::iter::once(memory).collect();
    figures.add(
        "kuma-dp: resident memory",
        &memory,
        "MB",
        Target::AtMost(MAX_MEMORY_MB),
    );
    let met = figures.write(&bench.join("dns.json"))?;
    ensure!(met, "a target is missed");
    Ok(())
}

fn durations(latency: u64, load: u64) -> Durations {
    Durations {
        latency: Duration::from_secs(latency),
        load: Duration::from_secs(load),
    }
}

fn add_figures(figures: &mut Figures, rounds: &[Round]) {
    let values = |value: &dyn Fn(&Round) -> f64| rounds.iter().map(value).collect::<Spread>();
    let mut add = |figure: &str, unit, target, value: &dyn Fn(&Round) -> f64| {
        figures.add(figure, &values(value), unit, target);
    };
    add("CoreDNS alone: latency", "ms", Target::None, &|round| {
        round.direct.latency_ms
    });
    add(
        "CoreDNS alone: CPU time per query",
        "µs",
        Target::None,
        &|round| round.direct.core_dns_us,
    );
    let ways: [(&str, SampleOf); 2] = [
        ("sidecar, cached", |round| round.hit),
        ("sidecar, forwarded", |round| round.miss),
    ];
    for (name, sample) in ways {
        let of = |figure: &str| format!("{name}: {figure}");
        let added = Target::AtMost(MAX_ADDED_MS);
        add(&of("latency beyond CoreDNS"), "ms", added, &|round| {
            sample(round).latency_ms - round.direct.latency_ms
        });
        add(
            &of("CPU time of kuma-dp per query"),
            "µs",
            Target::None,
            &|round| sample(round).agent_us,
        );
        let ratio = Target::AtMost(MAX_CPU_RATIO);
        add(&of("CPU of kuma-dp / CoreDNS alone"), "times", ratio, &|round| {
            sample(round).agent_us / round.direct.core_dns_us
        });
        add(
            &of("CPU of both / CoreDNS alone"),
            "times",
            Target::None,
            &|round| (sample(round).agent_us + sample(round).core_dns_us) / round.direct.core_dns_us,
        );
    }
}
