//! Sets up transparent proxying in a Pod: reads settings from arguments, applies rules, and checks the redirection.
//!
//! The program runs in the init container `kuma-init`, as user 0 with `NET_ADMIN`. If the CNI plugin applies the rules,
//! the program runs in the init container `kuma-validation` instead, as an unprivileged user, and only checks the
//! redirection.

mod cli;
mod settings;
mod validation;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use kermode_netfilter::{CheckOutcome, IpFamilies, Nft, RuleSet, TrafficConfig, check_redirect, set_up};

use crate::cli::Cli;

/// Beginning of every error about the setup of the redirection, as in Kuma.
const SETUP_FAILED: &str = "failed to setup transparent proxy";
/// Timeout of each step of the check: connecting, accepting and reading. A step takes microseconds, on a busy node
/// milliseconds.
const CHECK_STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the program with the arguments of this process. Returns exit code 0 for success and 1 for any failure.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(&in_one_line(&error)),
        Err(help_or_version) => {
            // A failure to print to a closed standard output is ignored.
            let _ = help_or_version.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Converts arguments to settings, for tests of other crates.
///
/// # Errors
/// When an argument is invalid.
pub fn traffic_config(arguments: &[&str]) -> anyhow::Result<TrafficConfig> {
    let cli = Cli::try_parse_from(["kuma-init"].iter().chain(arguments))?;
    settings::read(&cli).context(SETUP_FAILED)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.validate_only {
        let config = settings::read(cli).context("cannot check the transparent proxy")?;
        let patience = Duration::from_secs(cli.wait_for_redirection);
        return print(validation::validate(&config, CHECK_STEP_TIMEOUT, patience)?);
    }
    let config = settings::read(cli).context(SETUP_FAILED)?;
    if cli.dry_run {
        let rules = RuleSet::new(&config, IpFamilies::detect(&config));
        return print(format_args!("{rules}# Dry run: nothing was changed."));
    }
    apply_and_check(cli, &config).context(SETUP_FAILED)?;
    print("Transparent proxy set up successfully, you can now run kuma-dp using transparent-proxy.")
}

fn apply_and_check(cli: &Cli, config: &TrafficConfig) -> anyhow::Result<()> {
    let nft = cli.nft.as_ref().map_or_else(Nft::default, Nft::at);
    let start = Instant::now();
    let applied = set_up(config, &nft)?;
    let elapsed = start.elapsed();
    if cli.verbose {
        print(format_args!(
            "{}# applied by {} in {elapsed:.1?}",
            applied.rules,
            nft.path().display()
        ))?;
    }
    if let Some(warning) = applied.warning {
        print(format_args!("# warning: {warning}"))?;
    }
    match check_redirect(config, applied.families, CHECK_STEP_TIMEOUT)? {
        CheckOutcome::Redirected(targets) if cli.verbose => print(format_args!(
            "# checked: connections to {targets:?} reach port {}",
            config.outbound.port
        )),
        CheckOutcome::Redirected(_) => Ok(()),
        CheckOutcome::NotPossible(reason) => print(format_args!(
            "# warning: the redirection was not checked: {reason}"
        )),
    }
}

fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn fail(text: &str) -> ExitCode {
    // A failure to print to a closed standard error is ignored; the exit code still reports the failure.
    let _ = writeln!(io::stderr(), "kuma-init: {text}");
    ExitCode::FAILURE
}

/// Returns the error of an invalid argument in one line, without clap's usage text.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    let cause = lines.join(" ");
    format!(
        "{}; see kuma-init --help",
        cause.strip_prefix("error: ").unwrap_or(&cause)
    )
}
