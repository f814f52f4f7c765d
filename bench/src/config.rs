//! Configuration of the benchmarks, the only module that reads the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Paths and scope of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Root of the repository.
    pub repository: PathBuf,
    /// Cargo's output folder.
    pub target: PathBuf,
    /// Folder of the cluster tool's files.
    pub cache: PathBuf,
    /// Whether to run fewer and shorter rounds.
    pub quick: bool,
    /// Sizes that replace the benchmark's default sizes; empty for the default.
    pub sizes: Vec<usize>,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// When neither `KERMODE_CACHE` nor `HOME` is set, or `SIZES` is malformed.
    #[allow(
        clippy::disallowed_methods,
        reason = "the only module of the benchmarks that reads the environment"
    )]
    pub fn read() -> Result<Self> {
        let non_empty_variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let repository = repository.context("the benchmarks are not in bench/")?.to_owned();
        let cache = match non_empty_variable("KERMODE_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => {
                PathBuf::from(non_empty_variable("HOME").context("neither KERMODE_CACHE nor HOME is set")?)
                    .join(".cache/kermode")
            }
        };
        Ok(Self {
            target: non_empty_variable("CARGO_TARGET_DIR")
                .map_or_else(|| repository.join("target"), PathBuf::from),
            repository,
            cache,
            sizes: non_empty_variable("SIZES")
                .map(|sizes| sizes.split(',').map(str::parse).collect())
                .transpose()
                .context("SIZES is not a comma-separated list of numbers")?
                .unwrap_or_default(),
            quick: non_empty_variable("QUICK").is_some_and(|value| value != "0"),
        })
    }

    /// Returns the path of a program's release build, which the images contain as well.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target.join(triple).join("release").join(name)
    }
}
