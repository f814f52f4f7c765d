//! `dnsperf`, which sends queries and measures their latency.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Number of queried names.
const NAMES: usize = 100;
/// Rate of queries under load. All servers can answer more queries per second.
const RATE: &str = "4000";

/// Source of queries.
pub(super) struct Load {
    /// File with one query in each line.
    queries: PathBuf,
}

/// Result of a run of `dnsperf`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    completed: f64,
    lost: f64,
    latency_seconds: f64,
}

impl Load {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let queries = folder.join("queries");
        let mut text = String::new();
        for number in 0..NAMES {
            writeln!(text, "service-{number}.demo.svc.cluster.local A")?;
        }
        fs::write(&queries, text)?;
        Ok(Self { queries })
    }

    /// Queries each name once.
    pub(super) fn warm_up(&self, port: u16) -> Result<()> {
        self.dnsperf(port, &["-q", "1", "-n", "1"]).map(|_| ())
    }

    /// Sends one query after the other. Returns the mean latency in milliseconds.
    pub(super) fn measure_latency(&self, port: u16, duration: Duration) -> Result<f64> {
        let seconds = duration.as_secs().to_string();
        let outcome = self.dnsperf(port, &["-q", "1", "-l", &seconds])?;
        Ok(outcome.latency_seconds * 1000.0)
    }

    /// Sends queries at [`RATE`] from 10 sockets. Returns the number of answered queries.
    pub(super) fn run(&self, port: u16, duration: Duration) -> Result<f64> {
        let seconds = duration.as_secs().to_string();
        let outcome = self.dnsperf(port, &["-q", "50", "-c", "10", "-Q", RATE, "-l", &seconds])?;
        Ok(outcome.completed)
    }

    fn dnsperf(&self, port: u16, arguments: &[&str]) -> Result<Outcome> {
        let output = Command::new("dnsperf")
            .args(["-s", "127.0.0.1", "-p", &port.to_string(), "-e", "-d"])
            .arg(&self.queries)
            .args(arguments)
            .output()
            .context("dnsperf cannot be started: install the Debian package dnsperf")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let outcome =
            parse(&text).with_context(|| format!("unexpected output of dnsperf: {text}{errors}"))?;
        // A few lost queries do not change the figures, and a busy machine may lose some.
        ensure!(
            outcome.lost <= 0.001 * outcome.completed,
            "queries were lost: {text}"
        );
        Ok(outcome)
    }
}

/// Parses the statistics of `dnsperf`.
fn parse(text: &str) -> Option<Outcome> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Outcome {
        completed: value("Queries completed:")?,
        lost: value("Queries lost:")?,
        latency_seconds: value("Average Latency (s):")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_dnsperf_are_parsed() {
        let text = "Statistics:\n\n  Queries sent:         2\n  Queries completed:    2 (100.00%)\n  Queries lost:         0 (0.00%)\n\n  \
                    Average Latency (s):  0.000125 (min 0.000100, max 0.000150)\n";
        let expected = Outcome {
            completed: 2.0,
            lost: 0.0,
            latency_seconds: 0.000_125,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Statistics:\n"), None);
    }
}
