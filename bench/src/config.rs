//! Configuration of the benchmarks.

use anyhow::{Context, Result};
use kermode_checkout::{Checkout, is_on, variable};

/// Paths and scope of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Paths of the checkout.
    pub checkout: Checkout,
    /// Whether to run fewer and shorter rounds.
    pub quick: bool,
    /// Numbers of sidecars or clients that replace the benchmark's default numbers; empty for the default numbers.
    pub sizes: Vec<usize>,
}

impl Config {
    /// Reads the environment variables.
    ///
    /// # Errors
    /// When neither `KERMODE_CACHE` nor `HOME` is set, or `SIZES` is malformed.
    pub fn read() -> Result<Self> {
        Ok(Self {
            checkout: Checkout::find()?,
            sizes: variable("SIZES")
                .map(|sizes| sizes.split(',').map(str::parse).collect())
                .transpose()
                .context("SIZES is not a comma-separated list of numbers")?
                .unwrap_or_default(),
            quick: is_on("QUICK"),
        })
    }
}
