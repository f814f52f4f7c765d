//! `--validate-only`: checks that the CNI plugin's rules redirect the traffic of this pod.
//!
//! A check that is not possible counts as failed: a pod that bypasses the mesh is worse than a pod that does not start.

use std::time::Duration;

use anyhow::{Result, bail};
use kermode_netfilter::{CheckError, CheckOutcome, IpFamilies, TrafficConfig, check_redirect};

const REMEDY: &str = "check that the CNI plugin kuma-cni runs on this node, then recreate the pod";

/// Returns a success message. An error about the traffic of the pod names the remedy.
pub(crate) fn validate(config: &TrafficConfig, step_timeout: Duration) -> Result<String> {
    let families = IpFamilies::detect(config);
    match check_redirect(config, families, step_timeout) {
        Ok(CheckOutcome::Redirected(targets)) => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            Ok(format!(
                "Transparent proxy validated: connections to {} reach port {}.",
                targets.join(" and "),
                config.outbound.port
            ))
        }
        Ok(CheckOutcome::NotPossible(reason)) => {
            bail!("cannot check that traffic of this pod is redirected to the proxy: {reason}; {REMEDY}")
        }
        Err(CheckError::NotRedirected { target, port, source }) => bail!(
            "traffic of this pod is not redirected to the proxy: a connection to {target} did not reach port {port} \
             ({source}); {REMEDY}"
        ),
        Err(error @ CheckError::Listen { .. }) => Err(error.into()),
    }
}
