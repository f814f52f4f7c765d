//! The CNI operations CHECK and STATUS.

use super::add;
use super::environment::Environment;
use super::network::NetworkConfig;
use super::pods::PodLookup;
use super::protocol::Failure;
use crate::namespace;

/// Checks that a pod that gets rules has rules.
pub(super) fn check(
    environment: &Environment,
    network: &NetworkConfig,
    pods: &impl PodLookup,
) -> Result<(), Failure> {
    let Some((namespace, name)) = network.pod_with_rules(environment)? else {
        return Ok(());
    };
    let pod = pods
        .find(namespace, name)
        .map_err(|error| Failure::retryable(&format!("cannot get pod {namespace}/{name}: {error}")))?;
    if kuma_cni::decision::skip_reason(&pod).is_some() {
        return Ok(());
    }
    let path = environment.network_namespace()?;
    let has_rules = namespace::run_in(path, || network.nft().has_rules())
        .map_err(|error| add::not_entered(path, &error))?
        .map_err(|error| Failure::rules(&error.to_string()))?;
    if has_rules {
        Ok(())
    } else {
        Err(Failure::rules_missing(&format!(
            "pod {namespace}/{name} has no rules; delete the pod, so that its owner replaces it"
        )))
    }
}

/// Checks that an ADD can succeed: the kubeconfig and `nft` exist. The API server is not called, because the runtime
/// declares the whole node as not ready if STATUS fails.
pub(super) fn status(network: &NetworkConfig) -> Result<(), Failure> {
    let nft = network.nft();
    for path in [network.kubernetes.kubeconfig.as_path(), nft.path()] {
        if !path.exists() {
            return Err(Failure::unavailable(&format!(
                "{} does not exist; check that the installer of kuma-cni runs on this node",
                path.display()
            )));
        }
    }
    Ok(())
}
