//! The CNI plugin: one operation for one pod.

mod add;
mod check;
mod environment;
mod network;
mod pods;
mod protocol;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use kermode_cni::conflist::SUPPORTED_VERSIONS;

use environment::Environment;
use network::NetworkConfig;
use pods::ApiServer;
use protocol::{CniCommand, Failure};

/// Largest accepted network configuration. The result of the previous plugins is part of it.
const MAX_INPUT: u64 = 4 * 1024 * 1024;

/// Runs the operation that the environment names.
pub(crate) fn main() -> ExitCode {
    let mut input = String::new();
    let read = io::stdin()
        .take(MAX_INPUT)
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
    let command = CniCommand::parse(environment.command.as_deref())?;
    match command {
        CniCommand::Version => return Ok(protocol::version_response(&network::version_of(input))),
        // The rules are deleted with the network namespace.
        CniCommand::Ignored => return Ok(String::new()),
        CniCommand::Add | CniCommand::Check | CniCommand::Status => {}
    }
    let network = NetworkConfig::parse(input)?;
    if !SUPPORTED_VERSIONS.contains(&network.cni_version.as_str()) {
        return Err(Failure::incompatible(&network.cni_version));
    }
    let pods = ApiServer::new(&network.kubernetes.kubeconfig);
    match command {
        CniCommand::Add => {
            add::add(environment, &network, &pods)?;
            Ok(network.result().to_string())
        }
        CniCommand::Check => check::check(environment, &network, &pods).map(|()| String::new()),
        CniCommand::Status | CniCommand::Version | CniCommand::Ignored => {
            check::status(&network).map(|()| String::new())
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
