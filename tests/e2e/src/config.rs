//! Configuration of a test run.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use kermode_checkout::{Checkout, is_on, variable};

/// Default length of an outage of the API server. It exceeds the duration of the leader's Lease and the timeout of dead
/// connections.
const DEFAULT_OUTAGE: Duration = Duration::from_secs(30);

/// Paths and options of a test run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Paths of the checkout.
    pub(crate) checkout: Checkout,
    /// Whether the cluster stays up after the tests.
    pub(crate) keep_cluster: bool,
    /// Length of the outage in the test that stops the API server. In the test that stops etcd, the outage lasts a
    /// third of this time.
    pub(crate) outage: Duration,
}

impl Config {
    /// Reads the environment variables.
    pub(crate) fn read() -> Result<Self> {
        Ok(Self {
            checkout: Checkout::find()?,
            keep_cluster: is_on("KERMODE_KEEP"),
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

    /// Locks a cluster for this run. The lock is held until the returned file is dropped. Two runs on one cluster would
    /// delete each other's objects.
    ///
    /// # Errors
    /// Another run holds the lock.
    pub(crate) fn lock(&self, cluster: &str) -> Result<File> {
        let folder = self.checkout.cache.join("locks");
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(format!("{cluster}-tests.lock")))?;
        lock.try_lock().with_context(|| {
            format!("cluster {cluster} is used by another run: select another cluster with --cluster")
        })?;
        Ok(lock)
    }
}
