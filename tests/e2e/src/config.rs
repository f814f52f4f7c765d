//! Configuration of a test run. Only this module reads environment variables.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Default length of an outage of the API server. It exceeds the duration of the leader's Lease and the timeout of dead
/// connections. It is too short for Kubernetes to mark the node as unreachable, from which the node would take a minute
/// to recover.
const DEFAULT_OUTAGE: Duration = Duration::from_secs(30);

/// Paths and options of a test run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Root of the repository.
    pub(crate) repository: PathBuf,
    /// Cargo's output folder, which contains the programs and images.
    pub(crate) target: PathBuf,
    /// Folder in which the cluster tool (`cluster/`) keeps downloads and running clusters.
    pub(crate) cache: PathBuf,
    /// Whether the cluster stays up after the tests.
    pub(crate) keep: bool,
    /// Length of the outage of the API server, in the test that stops it. The outage of etcd lasts a third of it.
    pub(crate) outage: Duration,
}

impl Config {
    /// Reads the environment variables.
    #[allow(
        clippy::disallowed_methods,
        reason = "only this module of the tests reads environment variables"
    )]
    pub(crate) fn read() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = sources
            .ancestors()
            .nth(2)
            .context("the crate is not in tests/e2e")?
            .to_owned();
        let cache = match variable("KERMODE_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(variable("HOME").context("neither KERMODE_CACHE nor HOME is set")?)
                .join(".cache/kermode"),
        };
        Ok(Self {
            target: variable("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from),
            repository,
            cache,
            keep: variable("KERMODE_KEEP").is_some_and(|value| value != "0"),
            outage: match variable("KERMODE_E2E_OUTAGE") {
                Some(seconds) => Duration::from_secs(
                    seconds
                        .parse()
                        .context("KERMODE_E2E_OUTAGE is not a number of seconds")?,
                ),
                None => DEFAULT_OUTAGE,
            },
        })
    }

    /// Locks a cluster for this run until the returned file is dropped. Two runs on one cluster would delete each
    /// other's objects.
    ///
    /// # Errors
    /// Another run holds the lock.
    pub(crate) fn lock(&self, cluster: &str) -> Result<File> {
        let folder = self.cache.join("locks");
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(format!("{cluster}-tests.lock")))?;
        lock.try_lock().with_context(|| {
            format!("cluster {cluster} is used by another run: select another cluster with --cluster")
        })?;
        Ok(lock)
    }

    /// Returns the path of a program of the release build from which the images are made.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target.join(triple).join("release").join(name)
    }
}
