//! `kumactl install chart`: writes the Helm chart.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kermode_install::chart;

/// Flags of `kumactl install chart`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChartArgs {
    /// Folder of the chart. Missing folders are created, and existing files of the same names are replaced.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

/// Writes all files of the chart.
pub(super) fn write(args: &ChartArgs) -> Result<()> {
    for (path, text) in chart::files() {
        let path = args.output.join(path);
        let folder = path.parent().unwrap_or(&args.output);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
