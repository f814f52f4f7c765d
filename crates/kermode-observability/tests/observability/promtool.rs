//! Prometheus' tool for rules.

use std::path::{Path, PathBuf};
use std::process::Command;

use kermode_checkout::{Checkout, variable};

/// Runs promtool in a folder. Returns its standard output. Panics with all of its output if it fails.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(path())
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("promtool runs");
    assert!(
        output.status.success(),
        "promtool {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the path of promtool: `$KERMODE_PROMTOOL`, or by default the one in the cache directory.
fn path() -> PathBuf {
    let in_cache = || Checkout::find().expect("a checkout").cache.join("tools/promtool");
    let path = variable("KERMODE_PROMTOOL").map_or_else(in_cache, PathBuf::from);
    assert!(
        path.exists(),
        "no promtool at {}: run `PYTHONPATH=cluster python3 -m kermode_cluster promtool`, or set KERMODE_PROMTOOL",
        path.display()
    );
    path
}
