//! CNI plugin that sets up transparent proxying in a pod's network namespace, instead of the init container.
//!
//! ```text
//! CNI_ARGS ──environment──▶ pod's name ──pods──▶ Pod ──decision──▶ annotations ──netfilter──▶ nftables rules
//! stdin ──network──▶ kubeconfig, by which `pods` reaches the API server
//! ```
//!
//! The words within the arrows are modules.
//!
//! The container runtime executes the plugin once for each pod and operation, chained after the plugin that creates the
//! interfaces. Only ADD has an effect: the rules are deleted with the pod's network namespace.

mod add;
mod decision;
mod environment;
mod network;
mod pods;
mod protocol;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::environment::Environment;
use crate::network::NetworkConfig;
use crate::pods::ApiServer;
use crate::protocol::{CniCommand, Failure, SUPPORTED_VERSIONS};

fn main() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin()
        .read_to_string(&mut input)
        .map_err(|error| Failure::io(&format!("cannot read standard input: {error}")));
    match read.and_then(|_| run(&Environment::read(), &input)) {
        Ok(output) => print(&output),
        Err(failure) => {
            print(&failure.to_json(&network::version_of(&input)));
            ExitCode::FAILURE
        }
    }
}

/// Runs the operation. Returns the output, which is empty for operations without a result.
fn run(environment: &Environment, input: &str) -> Result<String, Failure> {
    match CniCommand::parse(environment.command.as_deref())? {
        CniCommand::Version => Ok(protocol::version_response(&network::version_of(input))),
        CniCommand::Add => {
            let network = NetworkConfig::parse(input)?;
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
