//! The CNI operation ADD: applies the rules of one pod, or skips the pod.

use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kermode_netfilter::{Nft, TrafficConfig, set_up};
use kuma_cni::decision::{PodSummary, skip_reason};

use super::environment::Environment;
use super::network::NetworkConfig;
use super::pods::PodLookup;
use super::protocol::Failure;
use crate::namespace;

/// Time after which no further attempt to get the pod begins. The kubelet waits 4 minutes for a sandbox, or twice its
/// setting `runtimeRequestTimeout`. After a failure, it pauses for 10 to 15 s, even if the API server is back meanwhile.
const RETRY_BUDGET: Duration = Duration::from_secs(100);
/// Pause between attempts to get the pod.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Applies the rules of the pod that the environment names. Does nothing if the environment names no pod, or if the pod
/// is skipped.
pub(super) fn add(
    environment: &Environment,
    network: &NetworkConfig,
    pods: &impl PodLookup,
) -> Result<(), Failure> {
    let Some((namespace, name)) = network.pod_with_rules(environment)? else {
        return Ok(());
    };
    let pod = find_with_retries(pods, namespace, name, RETRY_PAUSE, Instant::now)?;
    if skip_reason(&pod).is_some() {
        return Ok(());
    }
    let config = TrafficConfig::from_annotations(&pod.annotations)
        .map_err(|error| Failure::annotations(&format!("pod {namespace}/{name}: {error}")))?;
    apply_in_namespace(environment.network_namespace()?, &config, &network.nft())
}

fn find_with_retries(
    pods: &impl PodLookup,
    namespace: &str,
    name: &str,
    pause: Duration,
    now: impl Fn() -> Instant,
) -> Result<PodSummary, Failure> {
    let deadline = now() + RETRY_BUDGET;
    let mut attempts = 0;
    loop {
        let error = match pods.find(namespace, name) {
            Ok(pod) => return Ok(pod),
            Err(error) => error,
        };
        attempts += 1;
        let details = format!("cannot get pod {namespace}/{name}: {error} (attempt {attempts})");
        if !error.is_transient() {
            return Err(Failure::lookup(&details));
        }
        if now() >= deadline {
            return Err(Failure::retryable(&details));
        }
        thread::sleep(pause);
    }
}

fn apply_in_namespace(path: &Path, config: &TrafficConfig, nft: &Nft) -> Result<(), Failure> {
    let applied = namespace::run_in(path, || set_up(config, nft))
        .map_err(|error| not_entered(path, &error))?
        .map_err(|error| Failure::rules(&error.to_string()))?;
    if let Some(warning) = applied.warning {
        // The log of the container runtime contains the standard error of plugins.
        let _ = writeln!(io::stderr(), "kuma-cni: {warning}");
    }
    Ok(())
}

/// Returns the failure to enter a network namespace.
pub(super) fn not_entered(path: &Path, error: &io::Error) -> Failure {
    Failure::io(&format!(
        "cannot enter the network namespace {}: {error}",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
