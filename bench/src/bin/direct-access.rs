//! `make bench-direct-access`: what direct access to 10, 100 and 1,000 Pods costs an Envoy, in Kermode's form and in
//! Kuma's form, beside an Envoy without direct access. Calls are made in Kermode's form only.

use anyhow::{Context as _, Result};
use kermode_bench::config::Config;
use kermode_bench::direct_access::{CallCosts, Costs, Form, measure};
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::spread::Spread;
use kermode_checkout::variable;

/// Maximum memory for a Pod that is not called: its entry in the configuration of the listener, and in the matcher.
const UNUSED_POD_KIB: f64 = 1.0;
/// Maximum memory for a called Pod, its open connection included.
const USED_POD_KIB: f64 = 150.0;

#[tokio::main]
async fn main() -> Result<()> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
    let envoy =
        variable("KERMODE_ENVOY").context("KERMODE_ENVOY is not set: run make bench-direct-access")?;
    let sizes: &[usize] = match &config.sizes {
        sizes if !sizes.is_empty() => sizes,
        _ => &[10, 100, 1_000],
    };
    let rounds = if config.quick { 3 } else { 9 };
    let mut figures = Figures::default();
    for pods in sizes.iter().copied() {
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        // The forms alternate, so that a change of the machine's load affects all of them.
        for _ in 0..rounds {
            for (form, samples) in [Form::None, Form::OnDemand, Form::Listeners]
                .into_iter()
                .zip(&mut samples)
            {
                samples.push(measure(envoy.as_ref(), form, pods).await?);
            }
        }
        let [without, on_demand, listeners] = &samples;
        print_line(&format!("--- {pods} Pods"));
        add(&mut figures, pods, "on demand", without, on_demand, true);
        add(&mut figures, pods, "listeners", without, listeners, false);
    }
    let met = figures.write(&config.checkout.target.join("bench/direct-access.json"))?;
    anyhow::ensure!(met, "a target is missed");
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn add(figures: &mut Figures, pods: usize, form: &str, without: &[Costs], with: &[Costs], has_targets: bool) {
    let target = |target| if has_targets { target } else { Target::None };
    let mut add = |figure: &str, values: Spread, unit, target| {
        figures.add(&format!("{pods} Pods, {form}: {figure}"), &values, unit, target);
    };
    let of = |value: fn(&Costs) -> f64| with.iter().map(value).collect::<Spread>();
    let increases = |value: fn(&Costs) -> f64, divisor: f64| {
        let pairs = without.iter().zip(with);
        pairs
            .map(|(without, with)| (value(with) - value(without)) / divisor)
            .collect::<Spread>()
    };
    add(
        "listeners",
        of(|costs| costs.listeners as f64),
        "",
        target(Target::AtMost(1.0)),
    );
    add(
        "clusters",
        of(|costs| costs.clusters as f64),
        "",
        target(Target::AtMost(0.0)),
    );
    let kib = |costs: &Costs| costs.configuration_bytes as f64 / 1024.0;
    add("configuration", of(kib), "KiB", Target::None);
    let per_pod = 1024.0 * pods as f64;
    let limit = if pods >= 1_000 {
        Target::AtMost(UNUSED_POD_KIB)
    } else {
        Target::None
    };
    add(
        "allocated for each Pod before a call",
        increases(|costs| costs.allocated, per_pod),
        "KiB",
        target(limit),
    );
    add(
        "resident beyond no direct access",
        increases(|costs| costs.resident, 1024.0),
        "KiB",
        Target::None,
    );
    let calls: Vec<CallCosts> = with.iter().filter_map(|costs| costs.calls).collect();
    if calls.is_empty() {
        return;
    }
    let of_calls = |value: fn(&CallCosts) -> f64| calls.iter().map(value).collect::<Spread>();
    add(
        "allocated for each called Pod",
        of_calls(|calls| calls.allocated_per_pod / 1024.0),
        "KiB",
        target(Target::AtMost(USED_POD_KIB)),
    );
    add(
        "first call",
        of_calls(|calls| calls.first.as_secs_f64() * 1e3),
        "ms",
        Target::None,
    );
    add(
        "later call",
        of_calls(|calls| calls.later.as_secs_f64() * 1e3),
        "ms",
        Target::None,
    );
}
