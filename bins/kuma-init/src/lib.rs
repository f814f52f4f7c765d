//! Sets up transparent proxying in a pod: arguments → settings → rules in the kernel → a check that they work.
//!
//! Runs as the init container `kuma-init` before anything else of the pod, as user 0 with `NET_ADMIN`; or, where the
//! CNI plugin makes the rules, as `kuma-validation` with the check alone, as a user without any privilege.

mod cli;
mod settings;
mod validation;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use kermode_netfilter::{Checked, IpFamilies, Nft, RuleSet, TrafficConfig, check_redirect, set_up};

use crate::cli::Cli;

const FAILED: &str = "failed to setup transparent proxy";
/// Each step of the check is a matter of microseconds, on a busy node of milliseconds.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);

/// Does what the command line of this process asks for; 0 for success, 1 for any failure.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(&one_line(&error)),
        Err(help_or_version) => {
            // Nothing is left to do when standard output is gone.
            let _ = help_or_version.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// The settings that arguments ask for.
///
/// # Errors
/// With what the program says of arguments that it refuses.
pub fn traffic_config(arguments: &[&str]) -> anyhow::Result<TrafficConfig> {
    let cli = Cli::try_parse_from(["kuma-init"].iter().chain(arguments))?;
    settings::read(&cli).context(FAILED)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.validate_only {
        let config = settings::read(cli).context("cannot check the transparent proxy")?;
        return say(validation::validate(&config, CHECK_DEADLINE)?);
    }
    let config = settings::read(cli).context(FAILED)?;
    if cli.dry_run {
        let rules = RuleSet::new(&config, IpFamilies::detect(&config));
        return say(format_args!("{rules}# Dry run: nothing was changed."));
    }
    apply(cli, &config).context(FAILED)?;
    say("Transparent proxy set up successfully, you can now run kuma-dp using transparent-proxy.")
}

fn apply(cli: &Cli, config: &TrafficConfig) -> anyhow::Result<()> {
    let nft = cli.nft.as_ref().map_or_else(Nft::default, Nft::at);
    let start = Instant::now();
    let applied = set_up(config, &nft)?;
    let elapsed = start.elapsed();
    if cli.verbose {
        say(format_args!(
            "{}# applied by {} in {elapsed:.1?}",
            applied.rules,
            nft.path().display()
        ))?;
    }
    if let Some(warning) = applied.warning {
        say(format_args!("# warning: {warning}"))?;
    }
    match check_redirect(config, applied.families, CHECK_DEADLINE)? {
        Checked::Redirected(targets) if cli.verbose => say(format_args!(
            "# checked: connections to {targets:?} reach port {}",
            config.outbound.port
        )),
        Checked::Redirected(_) => Ok(()),
        Checked::Untried(reason) => say(format_args!("# warning: the redirect was not checked: {reason}")),
    }
}

fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn fail(text: &str) -> ExitCode {
    // Nobody reads it when standard error is gone; the exit code still says it.
    let _ = writeln!(io::stderr(), "kuma-init: {text}");
    ExitCode::FAILURE
}

/// The cause alone: a container's log is no place for a usage text.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let cause: Vec<_> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    let cause = cause.join(" ");
    format!(
        "{}; see kuma-init --help",
        cause.strip_prefix("error: ").unwrap_or(&cause)
    )
}
