//! Operation ADD: applies the rules of one pod, or skips it.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use kermode_netfilter::{Nft, TrafficConfig, set_up};
use nix::sched::{CloneFlags, setns};

use crate::config::Environment;
use crate::decision::{PodSummary, skip_reason};
use crate::network::Network;
use crate::pods::PodLookup;
use crate::protocol::Failure;

/// Maximum number of attempts to get the pod. The pod exists before its sandbox, but the API server may be unavailable.
const MAX_ATTEMPTS: u32 = 30;
/// Pause between attempts to get the pod.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Applies the rules of the pod that the environment names.
pub(crate) fn add(
    environment: &Environment,
    network: &Network,
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
    let pod = find_with_retries(pods, namespace, name, RETRY_PAUSE)?;
    if skip_reason(&pod).is_some() {
        return Ok(());
    }
    let config = TrafficConfig::from_annotations(&pod.annotations)
        .map_err(|error| Failure::annotations(&format!("pod {namespace}/{name}: {error}")))?;
    let path = environment.network_namespace.as_deref();
    let path = path.ok_or_else(|| Failure::environment("CNI_NETNS is not set"))?;
    let nft = network.nft.as_ref().map_or_else(Nft::default, Nft::at);
    apply_in(path, &config, &nft)
}

fn find_with_retries(
    pods: &impl PodLookup,
    namespace: &str,
    name: &str,
    pause: Duration,
) -> Result<PodSummary, Failure> {
    let mut attempt = 1;
    loop {
        match pods.find(namespace, name) {
            Ok(pod) => return Ok(pod),
            Err(error) if attempt == MAX_ATTEMPTS => {
                return Err(Failure::retryable(&format!(
                    "{error:#} (after {MAX_ATTEMPTS} attempts)"
                )));
            }
            Err(_) => thread::sleep(pause),
        }
        attempt += 1;
    }
}

/// Applies the rules in a separate thread, because a thread cannot leave a network namespace that it has entered.
fn apply_in(path: &Path, config: &TrafficConfig, nft: &Nft) -> Result<(), Failure> {
    let enter_and_apply = || {
        let enter = || setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
        enter().map_err(|error| {
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

#[cfg(test)]
mod tests;
