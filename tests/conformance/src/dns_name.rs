//! Suite `page-examples`, kind `dns-name`: names that `kuma-dp` resolves.

use anyhow::Result;

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `dns-name`.
pub(crate) struct DnsName;

const NO_MESH_NAMES: &str = "kuma-dp does not resolve .mesh names yet (docs/design.md#mesh-dns-names)";

impl Runner for DnsName {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["dns-name"]
    }

    fn run(&self, _: &Case<'_>) -> Result<Outcome> {
        Ok(Outcome::Skipped(NO_MESH_NAMES.to_owned()))
    }
}
