//! CNI plugin that sets up transparent proxying in a pod's network namespace, instead of the init container.
//!
//! ```text
//! environment, stdin ──config, network──▶ request ──▶ pod from the API ──decision──▶ annotations ──netfilter──▶ rules
//! ```
//!
//! The container runtime executes it once for each pod and operation, chained after the plugin that creates the
//! interfaces. Only ADD has an effect: the rules are deleted with the pod's network namespace.

mod add;
mod config;
mod decision;
mod network;
mod pods;
mod protocol;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::config::Environment;
use crate::network::Network;
use crate::pods::ApiServer;
use crate::protocol::{CniCommand, Failure, SUPPORTED_VERSIONS};

fn main() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin().read_to_string(&mut input);
    let version = network::version_of(&input);
    let outcome = read.map_err(|error| Failure::io(&format!("cannot read standard input: {error}")));
    match outcome.and_then(|_| run(&Environment::read(), &input)) {
        Ok(output) => print(&output),
        Err(failure) => {
            print(&failure.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

/// Runs the operation. Returns the output, which is empty for operations without a result.
fn run(environment: &Environment, input: &str) -> Result<String, Failure> {
    match CniCommand::parse(environment.command.as_deref())? {
        CniCommand::Version => Ok(protocol::versions(&network::version_of(input))),
        CniCommand::Add => {
            let network = Network::parse(input)?;
            if !SUPPORTED_VERSIONS.contains(&network.cni_version.as_str()) {
                return Err(Failure::incompatible(&network.cni_version));
            }
            add::add(
                environment,
                &network,
                &ApiServer::new(&network.kubernetes.kubeconfig),
            )?;
            Ok(network.result().to_string())
        }
        CniCommand::Ignored => Ok(String::new()),
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
