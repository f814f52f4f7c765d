//! `kumactl version`.

use anyhow::Result;

use crate::output;

/// Version of this build, and the default tag of the images.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version.
pub(crate) fn run() -> Result<()> {
    output::print_result(&format!("Client: Kermode {VERSION}\n"))
}
