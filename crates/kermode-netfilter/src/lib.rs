//! Transparent proxying: settings to rules to text, and applying them.
//!
//! ```text
//! flags, annotations ──parse──▶ TrafficConfig ──RuleSet::new──▶ rules as data ──Display──▶ text ──Nft::apply──▶ kernel
//! ```
//!
//! Everything up to the text is pure. `kuma-init` and `kuma-cni` both go through [`set_up`], so that a pod is
//! treated alike whichever of them prepares it (BEHAVIOUR section 4).

mod annotations;
mod apply;
mod check;
mod config;
mod exclusion;
mod interval;
mod ipv6;
mod nft;
mod parse;
mod ruleset;

pub use apply::{Applied, ApplyError, Nft, set_up};
pub use check::{CheckError, Checked, check_redirect};
pub use config::{DnsRedirect, DnsServers, InboundRedirect, OutboundRedirect, TrafficConfig, VirtualNetwork};
pub use exclusion::{Transport, UidExclusion};
pub use interval::{Intervals, PortSet, UidSet};
pub use ipv6::is_available as ipv6_is_available;
pub use parse::{SettingError, inbound_port_v6, ports, uid_exclusions, virtual_network};
pub use ruleset::{Chain, ChainName, Hook, IpFamilies, Match, Rule, RuleSet, Verdict};
