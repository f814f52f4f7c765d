//! The state of the installation, for the log, the readiness probe and Events.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kermode_cni::Problem;
use kube::runtime::events::EventType;

use super::events::Events;

/// Text of the state in which the plugin is installed.
const INSTALLED: &str = "kuma-cni is installed on this node";

/// File with the state, which the readiness probe reads.
pub(super) struct StateFile {
    path: PathBuf,
    /// Text of the last reported state.
    last: String,
    /// Whether the file has this text.
    is_written: bool,
}

impl StateFile {
    /// Uses the file at a path.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            last: String::new(),
            is_written: false,
        }
    }

    /// Reports the result of an installation: changes in the log, a new state also in the file and as an Event.
    pub(super) fn report(&mut self, result: &Result<Vec<String>, Problem>, events: &Events) {
        let text = match result {
            Ok(changes) => {
                for change in changes {
                    tracing::info!("{change}");
                }
                INSTALLED.to_owned()
            }
            Err(problem) => problem.to_string(),
        };
        if text == self.last {
            if !self.is_written {
                self.is_written = fs::write(&self.path, &text).is_ok();
            }
            return;
        }
        let written = fs::write(&self.path, &text);
        self.is_written = written.is_ok();
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "state not written; the readiness probe fails");
        }
        match result {
            Ok(_) => {
                tracing::info!("{text}");
                events.about_installer(EventType::Normal, "PluginInstalled", &text);
            }
            Err(problem) => {
                tracing::error!("{text}");
                events.about_installer(EventType::Warning, problem.reason(), &text);
            }
        }
        self.last = text;
    }

    /// Removes the file, so that the readiness probe fails.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Prints the state. Succeeds if the plugin is installed.
    pub(super) fn print(&self) -> ExitCode {
        let state = fs::read_to_string(&self.path).unwrap_or_else(|_| "kuma-cni is starting".to_owned());
        let is_installed = state == INSTALLED;
        // The kubelet shows the text in its Event about the failed probe.
        let _ = writeln!(io::stdout(), "{state}");
        if is_installed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
