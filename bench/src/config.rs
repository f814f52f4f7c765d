//! What benchmarks read from their environment; nothing else looks there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where things are and what is wanted.
#[derive(Clone, Debug)]
pub struct Config {
    /// Root of the repository.
    pub repository: PathBuf,
    /// Cargo's output folder.
    pub target: PathBuf,
    /// The cluster tool's folder.
    pub cache: PathBuf,
    /// Short, for a first impression.
    pub quick: bool,
    /// Sizes to measure at, instead of the benchmark's own.
    pub sizes: Vec<usize>,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// When there is no home to look for the cluster tool's folder in.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where benchmarks read their environment"
    )]
    pub fn read() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let repository = repository.context("the benchmarks are not in bench/")?.to_owned();
        let cache = match variable("KERMODE_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(variable("HOME").context("neither KERMODE_CACHE nor HOME is set")?)
                .join(".cache/kermode"),
        };
        Ok(Self {
            target: variable("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from),
            repository,
            cache,
            sizes: variable("SIZES")
                .map(|sizes| sizes.split(',').map(str::parse).collect())
                .transpose()
                .context("SIZES has to be numbers with commas between")?
                .unwrap_or_default(),
            quick: variable("QUICK").is_some_and(|value| value != "0"),
        })
    }

    /// A released program, as it is in the images.
    pub fn program(&self, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target.join(triple).join("release").join(name)
    }
}
