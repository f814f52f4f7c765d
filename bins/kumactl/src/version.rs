//! `kumactl version`.

use anyhow::Result;

use crate::output;

/// The version of this build; also the tag of the images that it installs.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version.
pub(crate) fn run() -> Result<()> {
    output::result(&format!("Client: Kermode {VERSION}\n"))
}
