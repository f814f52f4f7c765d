//! The CNI operation ADD: applies the rules of one pod, or skips the pod.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kermode_netfilter::{Nft, TrafficConfig, set_up};
use nix::sched::{CloneFlags, setns};

use crate::decision::{PodSummary, skip_reason};
use crate::environment::Environment;
use crate::network::NetworkConfig;
use crate::pods::PodLookup;
use crate::protocol::Failure;

/// Time after which no further attempt to get the pod begins. The kubelet waits at least 2 minutes for the runtime, and
/// then requests a sandbox again.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// Pause between attempts to get the pod.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Applies the rules of the pod that the environment names. Does nothing if the environment names no pod, or if the pod
/// is skipped.
pub(crate) fn add(
    environment: &Environment,
    network: &NetworkConfig,
    pods: &impl PodLookup,
) -> Result<(), Failure> {
    let Some((namespace, name)) = environment.pod() else {
        return Ok(());
    };
    if network
        .kubernetes
        .exclude_namespaces
        .iter()
        .any(|excluded| excluded == namespace)
    {
        return Ok(());
    }
    let pod = find_with_retries(pods, namespace, name, RETRY_PAUSE, Instant::now)?;
    if skip_reason(&pod).is_some() {
        return Ok(());
    }
    let config = TrafficConfig::from_annotations(&pod.annotations)
        .map_err(|error| Failure::annotations(&format!("pod {namespace}/{name}: {error}")))?;
    let network_namespace = environment
        .network_namespace
        .as_deref()
        .ok_or_else(|| Failure::environment("CNI_NETNS is not set"))?;
    let nft = network.nft.as_ref().map_or_else(Nft::default, Nft::at);
    apply_in_namespace(network_namespace, &config, &nft)
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

/// Applies the rules in a separate thread, because entering a network namespace moves the calling thread into it.
fn apply_in_namespace(path: &Path, config: &TrafficConfig, nft: &Nft) -> Result<(), Failure> {
    let enter_and_apply = || {
        enter_namespace(path).map_err(|error| {
            Failure::io(&format!(
                "cannot enter the network namespace {}: {error}",
                path.display()
            ))
        })?;
        set_up(config, nft).map_err(|error| Failure::rules(&error.to_string()))
    };
    let applied = thread::scope(|scope| scope.spawn(enter_and_apply).join());
    applied
        .unwrap_or_else(|_| Err(Failure::rules("the thread that applies the rules panicked")))
        .map(|_| ())
}

/// Moves the calling thread into the network namespace.
fn enter_namespace(path: &Path) -> io::Result<()> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;
