//! The checkout that a test or benchmark runs from: paths, environment variables, and the tool for local clusters
//! (`cluster/`).

mod libraries;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub use libraries::copy_with_libraries;

/// Paths of the checkout.
#[derive(Clone, Debug)]
pub struct Checkout {
    /// Root of the repository.
    pub repository: PathBuf,
    /// Cargo's output folder: `CARGO_TARGET_DIR`, or `target` in the repository.
    pub target: PathBuf,
    /// Folder of the cluster tool's builds and clusters: `KERMODE_CACHE`, or `~/.cache/kermode`.
    pub cache: PathBuf,
}

/// Returns the value of an environment variable; `None` if the variable is unset or empty.
#[allow(
    clippy::disallowed_methods,
    reason = "tests and benchmarks read the environment only by this function"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether an environment variable has a value other than `0`.
pub fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| value != "0")
}

impl Checkout {
    /// Finds the checkout that this crate was built from.
    ///
    /// # Errors
    /// When neither `KERMODE_CACHE` nor `HOME` is set.
    pub fn find() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
        let repository = repository
            .context("the crate kermode-checkout is not in tests/checkout")?
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
        })
    }

    /// Returns the path of a program's release build. The images contain these builds.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        self.target.join(triple).join("release").join(name)
    }

    /// Returns the path of a program that the cluster tool builds for tests: by default, the build in the cache directory;
    /// otherwise the value of the variable `KERMODE_<NAME>`.
    ///
    /// # Errors
    /// When the program was not built. The error names the command that builds it.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let variable_name = format!("KERMODE_{}", name.to_uppercase());
        let path =
            variable(&variable_name).map_or_else(|| self.cache.join("tools").join(name), PathBuf::from);
        ensure!(
            path.exists(),
            "no {name} at {}: run `PYTHONPATH=cluster python3 -m kermode_cluster {name}`, or set {variable_name}",
            path.display()
        );
        Ok(path)
    }

    /// Returns the folder in which the cluster tool keeps a cluster.
    pub fn cluster_folder(&self, name: &str) -> PathBuf {
        self.cache.join("clusters").join(name)
    }

    /// Returns a command that runs the cluster tool. The tool prints its errors to the standard error.
    pub fn cluster_tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("python3");
        command
            .args(["-m", "kermode_cluster"])
            .args(arguments)
            .env("PYTHONPATH", self.repository.join("cluster"));
        command
    }
}
