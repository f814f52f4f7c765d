//! Puts the rules into the kernel, in the network namespace of the calling thread.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ruleset::PASSTHROUGH_SOURCE_V6;
use crate::{IpFamilies, RuleSet, TrafficConfig, ipv6};

/// The tool that hands the text to the kernel.
#[derive(Clone, Debug)]
pub struct Nft {
    path: PathBuf,
}

/// What [`set_up`] did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The families that are intercepted.
    pub families: IpFamilies,
    /// The rules in effect.
    pub rules: RuleSet,
    /// What did not work but leaves interception whole, as a sentence.
    pub warning: Option<String>,
}

/// Why no rule was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tool is not there or cannot be run.
    #[error("cannot run {path}: {source}; use an image that contains nft (the images of this project do)", path = path.display())]
    Run {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process may not change rules.
    #[error(
        "the kernel refused to change rules: {stderr}; give the container the capability NET_ADMIN and run it as user 0"
    )]
    Permission {
        /// The tool's words.
        stderr: String,
    },
    /// The kernel lacks something.
    #[error(
        "the kernel does not know what the rules need: {stderr}; load the modules nf_tables, nft_chain_nat, nft_redir and \
         nft_ct on the node (Linux 5.2 or later)"
    )]
    Kernel {
        /// The tool's words.
        stderr: String,
    },
    /// Anything else the tool said.
    #[error("nft refused the rules: {stderr}")]
    Refused {
        /// The tool's words.
        stderr: String,
    },
}

/// Makes the rules for this network namespace and puts them in place of those of an earlier call.
///
/// IPv6 is intercepted when the settings have a port for it and an interface other than loopback has an address.
pub fn set_up(config: &TrafficConfig, nft: &Nft) -> Result<Applied, ApplyError> {
    let families = IpFamilies::detect(config);
    let rules = RuleSet::new(config, families);
    nft.apply(&rules)?;
    let warning = match families {
        IpFamilies::V4 => None,
        IpFamilies::DualStack => ipv6::add_to_loopback(PASSTHROUGH_SOURCE_V6).err().map(|error| {
            format!("cannot add {PASSTHROUGH_SOURCE_V6}/128 to lo: {error}; inbound IPv6 will not reach the application")
        }),
    };
    Ok(Applied {
        families,
        rules,
        warning,
    })
}

// === impl IpFamilies ===

impl IpFamilies {
    /// What is to be intercepted in the network namespace of the calling thread.
    pub fn detect(config: &TrafficConfig) -> Self {
        let dual_stack = config.inbound.port_v6.is_some() && ipv6::is_available();
        if dual_stack { Self::DualStack } else { Self::V4 }
    }
}

// === impl Nft ===

impl Default for Nft {
    /// The one beside the running program, else that of the system.
    fn default() -> Self {
        let own = std::env::current_exe()
            .ok()
            .map(|program| program.with_file_name("nft"));
        let path = own
            .filter(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from("/usr/sbin/nft"));
        Self { path }
    }
}

impl Nft {
    /// The tool at that path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the tool is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces our table by these rules, all or nothing.
    pub fn apply(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        self.run(&["-f", "-"], rules)
    }

    /// Has the kernel check the rules without changing anything.
    pub fn check(&self, rules: &RuleSet) -> Result<(), ApplyError> {
        self.run(&["-c", "-f", "-"], rules)
    }

    fn run(&self, arguments: &[&str], rules: &RuleSet) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Run {
            path: self.path.clone(),
            source,
        };
        let mut process = Command::new(&self.path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        // Closed by the end of this statement, so that nft sees the end of its input. When it has ended early, its own
        // words say more than the broken pipe.
        let written = process
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(rules.to_string().as_bytes()));
        let output = process.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            return Err(ApplyError::from_stderr(&String::from_utf8_lossy(&output.stderr)));
        }
        written.map_err(failed)
    }
}

// === impl ApplyError ===

impl ApplyError {
    fn from_stderr(stderr: &str) -> Self {
        let stderr = first_errors(stderr);
        let says = |text: &str| stderr.contains(text);
        if says("Operation not permitted") || says("Permission denied") {
            Self::Permission { stderr }
        } else if says("No such file or directory")
            || says("not supported")
            || says("Unable to initialize Netlink")
        {
            Self::Kernel { stderr }
        } else {
            Self::Refused { stderr }
        }
    }
}

/// The error lines of nft, without the pieces of input it quotes; at most a few, since one cause repeats for each rule.
fn first_errors(stderr: &str) -> String {
    const KEPT: usize = 3;
    let lines: Vec<_> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut errors: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("rror"))
        .copied()
        .take(KEPT)
        .collect();
    if errors.is_empty() {
        errors = lines.into_iter().take(KEPT).collect();
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
    fn a_missing_tool_is_named() {
        let error = Nft::at("/nonexistent/nft")
            .apply(&rules())
            .expect_err("refused")
            .to_string();
        assert!(error.contains("/nonexistent/nft"), "{error}");
    }

    #[test]
    fn the_tools_words_become_a_cause_and_a_remedy() {
        let error = ApplyError::from_stderr(
            "/dev/stdin:1:1-2: Error: Could not process rule: Operation not permitted\ntable inet kuma_mesh\n^^^^\n",
        );
        assert!(matches!(error, ApplyError::Permission { .. }));
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
        let error = ApplyError::from_stderr("Error: Could not process rule: No such file or directory");
        assert!(error.to_string().contains("nft_redir"), "{error}");
        let error = ApplyError::from_stderr("Error: syntax error, unexpected newline");
        assert!(matches!(error, ApplyError::Refused { .. }), "{error}");
        assert!(ApplyError::from_stderr("").to_string().contains("no message"));
    }

    fn rules() -> RuleSet {
        RuleSet::new(&TrafficConfig::default(), IpFamilies::V4)
    }
}
