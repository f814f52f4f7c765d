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

/// Largest accepted network configuration in bytes. The result of the previous plugins is part of it.
const MAX_INPUT: u64 = 4 * 1024 * 1024;

/// Runs the operation that the environment names.
pub(crate) fn main() -> ExitCode {
    let input = read_input(io::stdin());
    let version = network::version_of(input.as_deref().unwrap_or_default());
    match run(&Environment::read(), input, &version) {
        Ok(output) => print(&output),
        Err(failure) => {
            print(&failure.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

fn read_input(input: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(&format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        let details = format!("standard input has more than {MAX_INPUT} bytes");
        return Err(Failure::configuration(&details));
    }
    String::from_utf8(bytes)
        .map_err(|error| Failure::configuration(&format!("standard input is not UTF-8: {error}")))
}

/// Runs the operation. `version` is the version of the specification that the input names. Returns the output, which is
/// empty for operations without a result.
fn run(environment: &Environment, input: Result<String, Failure>, version: &str) -> Result<String, Failure> {
    let command = CniCommand::parse(environment.command.as_deref())?;
    match command {
        CniCommand::Version => return Ok(protocol::version_response(version)),
        // The rules are deleted with the network namespace.
        CniCommand::Ignored => return Ok(String::new()),
        CniCommand::Add | CniCommand::Check | CniCommand::Status => {}
    }
    let network = NetworkConfig::parse(&input?)?;
    if !SUPPORTED_VERSIONS.contains(&network.cni_version.as_str()) {
        return Err(Failure::incompatible(&network.cni_version));
    }
    let pods = ApiServer::new(&network.kubernetes.kubeconfig);
    match command {
        CniCommand::Add => {
            add::add(environment, &network, &pods)?;
            Ok(network.result())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_up_to_the_limit_is_read_and_other_input_is_rejected_with_a_reason() {
        let limit = usize::try_from(MAX_INPUT).expect("a size");
        let largest = vec![b' '; limit];
        assert_eq!(read_input(largest.as_slice()).map(|text| text.len()), Ok(limit));
        let too_large = read_input(io::repeat(b' ')).expect_err("too large");
        assert!(
            too_large.to_string().contains("more than 4194304 bytes"),
            "{too_large}"
        );
        // The limit cuts no character.
        let characters = "é".repeat(limit);
        let too_large = read_input(characters.as_bytes()).expect_err("too large");
        assert!(
            too_large.to_string().contains("more than 4194304 bytes"),
            "{too_large}"
        );
        let not_utf8 = read_input(&b"\xff"[..]).expect_err("not UTF-8");
        assert!(not_utf8.to_string().contains("not UTF-8"), "{not_utf8}");
    }

    #[test]
    fn pod_is_deleted_whatever_the_input_and_the_arguments_are() {
        let environment = |command: &str| Environment {
            command: Some(command.to_owned()),
            arguments: "K8S_POD_NAMESPACE=..;K8S_POD_NAME=/".into(),
            ..Environment::default()
        };
        let invalid = || Err(Failure::configuration("invalid"));
        for command in ["DEL", "GC"] {
            assert_eq!(run(&environment(command), invalid(), "1.0.0"), Ok(String::new()));
        }
        let network = r#"{"cniVersion":"1.0.0","kubernetes":{"kubeconfig":"/nonexistent"}}"#;
        for command in ["ADD", "CHECK"] {
            assert_eq!(run(&environment(command), invalid(), "1.0.0"), invalid());
            let failure =
                run(&environment(command), Ok(network.to_owned()), "1.0.0").expect_err("no such pod");
            assert!(failure.to_string().contains("CNI_ARGS"), "{failure}");
        }
        let unknown = run(
            &environment("ADD"),
            Ok(network.replace("1.0.0", "9.0.0")),
            "9.0.0",
        );
        let unknown = unknown.expect_err("an unknown version").to_json("9.0.0");
        assert!(unknown.contains(r#""code":1,"#), "{unknown}");
    }
}
