//! Copies of programs with their shared libraries, as in the images (`cluster/kermode_cluster/libraries.py`).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Copies a program of this machine, its libraries and its dynamic loader to a folder.
///
/// # Errors
/// When `ldd` fails, or a file cannot be copied.
pub fn copy_with_libraries(program: &Path, folder: &Path) -> Result<()> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    ensure!(output.status.success(), "ldd {} fails", program.display());
    let libraries = String::from_utf8(output.stdout)?;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.map(Path::new).chain([program]) {
        let name = file
            .file_name()
            .with_context(|| format!("{} has no name", file.display()))?;
        fs::copy(file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}
