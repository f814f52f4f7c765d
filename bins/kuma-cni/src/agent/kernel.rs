//! Checks that the node can redirect traffic.

use kermode_cni::Problem;
use kermode_netfilter::{DnsRedirect, IpFamilies, Nft, RuleSet, TrafficConfig};

use crate::namespace;

/// Checks that the kernel accepts the rules, in a network namespace that exists only for this check.
pub(super) fn check(nft: &Nft) -> Result<(), Problem> {
    let config = TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    namespace::run_in_new(|| nft.apply(&rules))
        .map_err(|error| Problem::Kernel(format!("a network namespace cannot be created: {error}")))?
        .map_err(|error| Problem::Kernel(error.to_string()))
}
