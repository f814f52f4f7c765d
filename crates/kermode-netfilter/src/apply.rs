//! Applies rules to the kernel with `nft`, in the network namespace of the calling thread.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Child;

use crate::ruleset::EXEMPT_SOURCE_V6;
use crate::{IpFamilies, Nft, RuleSet, TrafficConfig, ipv6};

/// Result of [`set_up`].
#[derive(Clone, Debug)]
pub struct AppliedRules {
    /// Intercepted IP families.
    pub families: IpFamilies,
    /// Rules in force.
    pub rules: RuleSet,
    /// Message for the log about a problem that does not prevent the rules from being in force.
    pub warning: Option<String>,
}

/// Failure to apply rules. The previous rules remain in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// `nft` does not exist or cannot be executed.
    #[error("cannot run {path}: {source}; use an image that contains nft (the images of this project do)", path = path.display())]
    Run {
        /// Path of the program.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The kernel does not permit this process to change rules.
    #[error(
        "the kernel denied the change of rules: {stderr}; give the container the capability NET_ADMIN and run it as user 0"
    )]
    Permission {
        /// Errors that `nft` printed.
        stderr: String,
    },
    /// The kernel lacks a feature.
    #[error(
        "the kernel does not support the rules: {stderr}; load the modules nf_tables, nft_chain_nat, nft_redir, \
         nft_ct and nft_fib_inet on the node (Linux 5.2 or later)"
    )]
    Kernel {
        /// Errors that `nft` printed.
        stderr: String,
    },
    /// Any other error of `nft`.
    #[error("nft rejected the rules: {stderr}")]
    Rejected {
        /// Errors that `nft` printed.
        stderr: String,
    },
}

/// Builds the rules for the network namespace of the calling thread and applies them, in place of the rules of an
/// earlier call.
///
/// IPv6 is intercepted if the settings have an inbound IPv6 port and an interface other than loopback has an IPv6
/// address.
///
/// # Errors
/// When the rules cannot be applied. The previous rules then remain in force.
pub fn set_up(config: &TrafficConfig, nft: &Nft) -> Result<AppliedRules, ApplyError> {
    let families = IpFamilies::detect(config);
    let rules = RuleSet::new(config, families);
    nft.apply(&rules)?;
    let warning = match families {
        IpFamilies::V4 => None,
        IpFamilies::DualStack => ipv6::add_to_loopback(EXEMPT_SOURCE_V6).err().map(|error| {
            format!("cannot add {EXEMPT_SOURCE_V6}/128 to lo: {error}; inbound IPv6 traffic does not reach the application")
        }),
    };
    Ok(AppliedRules {
        families,
        rules,
        warning,
    })
}

// === impl IpFamilies ===

impl IpFamilies {
    /// Returns the families to intercept in the network namespace of the calling thread.
    pub fn detect(config: &TrafficConfig) -> Self {
        let intercepts_ipv6 = config.inbound.port_v6.is_some() && ipv6::is_available();
        if intercepts_ipv6 {
            Self::DualStack
        } else {
            Self::V4
        }
    }
}

// === impl Nft ===

impl Nft {
    /// Creates the table `kuma_mesh`, or replaces it. Either is one transaction.
    ///
    /// A new Pod has no table. The kernel needs several milliseconds to delete even an empty table, so the rules are
    /// first applied without a deletion.
    ///
    /// # Errors
    /// When the rules cannot be applied. The previous rules then remain in force.
    pub fn apply(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        match self.run(&["-f", "-"], &rules.to_new_table())? {
            None => Ok(()),
            Some(stderr) if reports_existing_table(&stderr) => self.replace(rules),
            Some(stderr) => Err(ApplyError::from_stderr(&stderr)),
        }
    }

    fn replace(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        let errors = self.run(&["-f", "-"], &rules.to_string())?;
        errors.map_or(Ok(()), |stderr| Err(ApplyError::from_stderr(&stderr)))
    }

    /// Validates the rules without applying them.
    ///
    /// # Errors
    /// When `nft` or the kernel rejects the rules.
    pub fn check(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        let errors = self.run(&["-c", "-f", "-"], &rules.to_string())?;
        errors.map_or(Ok(()), |stderr| Err(ApplyError::from_stderr(&stderr)))
    }

    /// Returns whether the table `kuma_mesh` exists in the network namespace of the calling thread.
    ///
    /// The kernel only checks whether the table could be deleted. A list of the table would load all its rules.
    ///
    /// # Errors
    /// When `nft` cannot be run, or the kernel does not tell whether the table exists.
    pub fn has_rules(&self) -> Result<bool, ApplyError> {
        let output = self
            .start(&["-c", "delete", "table", "inet", "kuma_mesh"])
            .and_then(Child::wait_with_output)
            .map_err(|source| self.run_error(source))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(true)
        } else if reports_missing_table(&stderr) {
            Ok(false)
        } else {
            Err(ApplyError::from_stderr(&stderr))
        }
    }

    fn run_error(&self, source: io::Error) -> ApplyError {
        ApplyError::Run {
            path: self.path().to_owned(),
            source,
        }
    }

    /// Runs `nft` with an input. Returns the errors that it prints if it fails.
    fn run(&self, arguments: &[&str], input: &str) -> Result<Option<String>, ApplyError> {
        let run_error = |source| self.run_error(source);
        let mut process = self.start(arguments).map_err(run_error)?;
        // Dropping stdin ends the input of nft. A write error is reported only if nft succeeds: the errors that nft
        // prints are more specific.
        let write_result = process
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = process.wait_with_output().map_err(run_error)?;
        if !output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        write_result.map_err(run_error)?;
        Ok(None)
    }
}

/// Returns whether `nft` reports that the table does not exist. The second text is that of a network namespace with a
/// table of a similar name.
fn reports_missing_table(stderr: &str) -> bool {
    stderr.lines().any(|line| {
        line.starts_with("Error: Could not process rule: No such file or directory")
            || line.starts_with("Error: No such file or directory; did you mean table")
    })
}

/// Returns whether `nft` reports that the table exists already.
fn reports_existing_table(stderr: &str) -> bool {
    stderr.contains("Error: Could not process rule: File exists")
}

// === impl ApplyError ===

impl ApplyError {
    fn from_stderr(stderr: &str) -> Self {
        let stderr = first_errors(stderr);
        let mentions = |text: &str| stderr.contains(text);
        if mentions("Operation not permitted") || mentions("Permission denied") {
            Self::Permission { stderr }
        } else if mentions("No such file or directory")
            || mentions("not supported")
            || mentions("Unable to initialize Netlink")
        {
            // The kernel reports a missing module as a missing file.
            Self::Kernel { stderr }
        } else {
            Self::Rejected { stderr }
        }
    }
}

/// Returns the first error lines of nft, joined by `; `, without the input that nft quotes below each error. If no line
/// mentions an error, returns the first lines.
fn first_errors(stderr: &str) -> String {
    /// Maximum number of reported lines.
    const MAX_LINES: usize = 3;
    let lines: Vec<_> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut errors: Vec<_> = lines
        .iter()
        // Matches `Error` and `error`.
        .filter(|line| line.contains("rror"))
        .copied()
        .take(MAX_LINES)
        .collect();
    if errors.is_empty() {
        errors = lines.into_iter().take(MAX_LINES).collect();
    }
    if errors.is_empty() {
        "no message".to_owned()
    } else {
        errors.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_a_missing_program() {
        let error = Nft::at("/nonexistent/nft")
            .apply(&mk_rules())
            .expect_err("the program does not exist")
            .to_string();
        assert!(error.contains("/nonexistent/nft"), "{error}");
    }

    #[test]
    fn errors_of_nft_are_classified() {
        let error = ApplyError::from_stderr(
            "/dev/stdin:1:1-2: Error: Could not process rule: Operation not permitted\ntable inet kuma_mesh\n^^^^\n",
        );
        assert!(matches!(error, ApplyError::Permission { .. }));
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
        // The output of nft if the kernel lacks an expression of a rule.
        let error = ApplyError::from_stderr(
            "/dev/stdin:1:9-23: Error: Could not process rule: No such file or directory\nfib daddr type local\n^^^^\n",
        );
        assert!(matches!(error, ApplyError::Kernel { .. }));
        for module in ["nft_redir", "nft_fib_inet"] {
            assert!(error.to_string().contains(module), "{error}");
        }
        let error = ApplyError::from_stderr("Error: syntax error, unexpected newline");
        assert!(matches!(error, ApplyError::Rejected { .. }), "{error}");
        assert!(ApplyError::from_stderr("").to_string().contains("no message"));
    }

    #[test]
    fn only_the_error_about_the_table_means_that_the_table_does_not_exist() {
        for missing in [
            "Error: Could not process rule: No such file or directory\ndelete table inet kuma_mesh\n  ^^^^\n",
            "Error: No such file or directory; did you mean table ‘kuma_mesh2’ in family inet?\n",
        ] {
            assert!(reports_missing_table(missing), "{missing}");
        }
        for other in [
            "",
            "Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: Operation not permitted\n",
            "mnl.c:60: Unable to initialize Netlink socket: Protocol not supported\n",
            "nft: error while loading shared libraries: libmnl.so.0: cannot open shared object file: No such file or directory\n",
        ] {
            assert!(!reports_missing_table(other), "{other}");
        }
    }

    fn mk_rules() -> RuleSet {
        RuleSet::new(&TrafficConfig::default(), IpFamilies::V4)
    }
}
