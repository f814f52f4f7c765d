//! Transparent proxying: converts settings to nftables rules and applies them.
//!
//! ```text
//! flags, annotations ──parse──▶ TrafficConfig ──RuleSet::new──▶ rules ──Display──▶ nft text ──Nft::apply──▶ kernel
//! ```
//!
//! All stages before `Nft::apply` are pure. `kuma-init` and `kuma-cni` both call [`set_up`], so both configure a Pod in
//! the same way (docs/design.md#one-redirection-engine).

mod annotations;
mod apply;
mod check;
mod config;
mod exclusion;
mod interval;
mod ipv6;
mod nft;
mod parse;
mod program;
mod ruleset;

pub use apply::{AppliedRules, ApplyError, set_up};
pub use check::{CheckError, CheckOutcome, check_redirect};
pub use config::{DnsRedirect, DnsServers, InboundRedirect, OutboundRedirect, TrafficConfig, VirtualNetwork};
pub use exclusion::{Transport, UidExclusion};
pub use interval::{Intervals, PortSet, UidSet};
pub use ipv6::is_available as ipv6_is_available;
pub use parse::{
    SettingError, parse_inbound_port_v6, parse_ports, parse_uid_exclusions, parse_virtual_network,
};
pub use program::Nft;
pub use ruleset::{Chain, ChainName, Hook, IpFamilies, Match, Rule, RuleSet, Verdict};
