//! `--validate-only`: checks that the CNI plugin's rules redirect the traffic of this pod.
//!
//! A check that is not possible counts as failed: a pod that bypasses the mesh is worse than a pod that does not start.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kermode_netfilter::{CheckError, CheckOutcome, IpFamilies, TrafficConfig, check_redirect};

const REMEDY: &str = "check that the CNI plugin kuma-cni runs on this node: its installer redirects the pod";

/// Pause between two checks.
const PAUSE: Duration = Duration::from_millis(500);

/// Checks the redirection until it works. `patience` is the time in which the installer of the CNI plugin may still
/// apply the rules. Returns a success message. An error about the traffic of the pod names the remedy.
pub(crate) fn validate(config: &TrafficConfig, step_timeout: Duration, patience: Duration) -> Result<String> {
    let start = Instant::now();
    let mut is_first = true;
    loop {
        let error = match check(config, step_timeout) {
            Ok(Validation::Redirected(message)) => return Ok(message),
            Ok(Validation::NotRedirected(error)) => error,
            Err(error) => return Err(error),
        };
        if start.elapsed() >= patience {
            bail!(error);
        }
        if is_first {
            // A failure to print to a closed standard error is ignored.
            let _ = writeln!(
                io::stderr(),
                "kuma-init: {error}; waiting {} s for kuma-cni to redirect it",
                patience.as_secs()
            );
        }
        is_first = false;
        thread::sleep(PAUSE);
    }
}

/// Result of one check.
enum Validation {
    /// The success message.
    Redirected(String),
    /// The text of the problem, which the installer of the CNI plugin may repair.
    NotRedirected(String),
}

fn check(config: &TrafficConfig, step_timeout: Duration) -> Result<Validation> {
    let families = IpFamilies::detect(config);
    match check_redirect(config, families, step_timeout) {
        Ok(CheckOutcome::Redirected(targets)) => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            Ok(Validation::Redirected(format!(
                "Transparent proxy validated: connections to {} reach port {}.",
                targets.join(" and "),
                config.outbound.port
            )))
        }
        Ok(CheckOutcome::NotPossible(reason)) => {
            bail!("cannot check that traffic of this pod is redirected to the proxy: {reason}; {REMEDY}")
        }
        Err(CheckError::NotRedirected { target, port, source }) => Ok(Validation::NotRedirected(format!(
            "traffic of this pod is not redirected to the proxy: a connection to {target} did not reach port {port} \
             ({source}); {REMEDY}"
        ))),
        Err(error @ CheckError::Listen { .. }) => Err(error.into()),
    }
}
