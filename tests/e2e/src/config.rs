//! What the tests read from their environment; nothing else looks there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Longer than the lease lasts and than connections are kept without an answer; not so long that Kubernetes takes the node
/// for dead and then needs a minute to forget that.
const OUTAGE: Duration = Duration::from_secs(30);

/// Where things are and what is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Root of the repository.
    pub(crate) repository: PathBuf,
    /// Cargo's output folder, in which the image builder leaves programs and images.
    pub(crate) target: PathBuf,
    /// The cluster tool's folder.
    pub(crate) cache: PathBuf,
    /// Leave the cluster up.
    pub(crate) keep: bool,
    /// How long the API server is away in the test of that.
    pub(crate) outage: Duration,
}

impl Config {
    /// Reads the environment.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the tests read their environment"
    )]
    pub(crate) fn read() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = sources
            .ancestors()
            .nth(2)
            .context("the tests are not in tests/e2e")?
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
                Some(seconds) => Duration::from_secs(seconds.parse().context("KERMODE_E2E_OUTAGE: seconds")?),
                None => OUTAGE,
            },
        })
    }

    /// Sees that these are the only tests on a cluster, for as long as the result is kept: two would remove each
    /// other's objects.
    ///
    /// # Errors
    /// When others run.
    pub(crate) fn alone(&self, cluster: &str) -> Result<File> {
        let folder = self.cache.join("locks");
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(format!("{cluster}-tests.lock")))?;
        lock.try_lock().with_context(|| {
            format!("other tests run on cluster {cluster}: choose another with --cluster")
        })?;
        Ok(lock)
    }

    /// A released program, as it is in the images.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target.join(triple).join("release").join(name)
    }
}
