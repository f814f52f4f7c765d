//! Command line, compatible with Kuma's `kumactl install transparent-proxy`
//! (docs/reference/transparent-proxying.md#command-line). The injector writes the arguments of the init container.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use kermode_netfilter::{DnsRedirect, InboundRedirect, OutboundRedirect};

/// Sets up transparent proxying in a pod.
#[derive(Debug, Parser)]
#[command(name = "kuma-init", version, max_term_width = 110)]
#[allow(clippy::struct_excessive_bools, reason = "independent flags")]
pub(crate) struct Cli {
    /// Port that outbound connections are redirected to
    #[arg(long, value_name = "PORT", default_value_t = OutboundRedirect::DEFAULT_PORT)]
    pub(crate) redirect_outbound_port: NonZeroU16,

    /// Whether inbound connections are redirected
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(crate) redirect_inbound: bool,

    /// Port that inbound connections are redirected to
    #[arg(long, value_name = "PORT", default_value_t = InboundRedirect::DEFAULT_PORT)]
    pub(crate) redirect_inbound_port: NonZeroU16,

    /// Port that inbound IPv6 connections are redirected to; 0 disables the redirection of IPv6 in both directions
    #[arg(long, value_name = "PORT", default_value_t = InboundRedirect::DEFAULT_PORT_V6.to_string())]
    pub(crate) redirect_inbound_port_v6: String,

    /// IP families that are redirected: dualstack or ipv4
    #[arg(long, value_name = "MODE", default_value = "dualstack", value_parser = ["dualstack", "ipv4"])]
    pub(crate) ip_family_mode: String,

    /// UID of the proxy, whose own connections to other hosts are not redirected
    // The kernel uses 4294967295 for the absence of a UID.
    #[arg(
        long,
        value_name = "UID",
        conflicts_with = "kuma_dp_user",
        value_parser = clap::value_parser!(u32).range(..i64::from(u32::MAX))
    )]
    pub(crate) kuma_dp_uid: Option<u32>,

    /// Name of the proxy's user, instead of its UID
    #[arg(long, value_name = "NAME")]
    pub(crate) kuma_dp_user: Option<String>,

    /// Inbound ports that are not redirected: a comma-separated list of ports and ranges
    #[arg(long, value_name = "PORTS", default_value = "")]
    pub(crate) exclude_inbound_ports: String,

    /// Outbound ports that are not redirected: a comma-separated list of ports and ranges
    #[arg(long, value_name = "PORTS", default_value = "")]
    pub(crate) exclude_outbound_ports: String,

    /// TCP ports that are not redirected for certain UIDs, as ports:uids; may be repeated
    #[arg(long, value_name = "PORTS:UIDS")]
    pub(crate) exclude_outbound_tcp_ports_for_uids: Vec<String>,

    /// UDP ports that are not redirected for certain UIDs, as ports:uids; may be repeated
    #[arg(long, value_name = "PORTS:UIDS")]
    pub(crate) exclude_outbound_udp_ports_for_uids: Vec<String>,

    /// Ports that are not redirected for certain UIDs, as [protocols:][ports:]uids; may be repeated
    #[arg(long, value_name = "[PROTOCOLS:][PORTS:]UIDS")]
    pub(crate) exclude_outbound_ports_for_uids: Vec<String>,

    /// Redirect the DNS queries that are sent to the servers in /etc/resolv.conf
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) redirect_dns: bool,

    /// Redirect all DNS queries
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) redirect_all_dns_traffic: bool,

    /// Port that DNS queries are redirected to
    #[arg(long, value_name = "PORT", default_value_t = DnsRedirect::DEFAULT_PORT)]
    pub(crate) redirect_dns_port: NonZeroU16,

    /// Do not separate the proxy's own DNS queries from redirected queries by connection tracking zones
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) skip_dns_conntrack_zone_split: bool,

    /// Virtual network whose traffic counts as outbound, as interface:CIDR; may be repeated
    #[arg(long, value_name = "INTERFACE:CIDR")]
    pub(crate) vnet: Vec<String>,

    /// Print the applied rules and the time it took to apply them
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) verbose: bool,

    /// Change nothing; check that the rules of the CNI plugin redirect the pod's traffic, and fail if they do not
    #[arg(long, conflicts_with = "dry_run", default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) validate_only: bool,

    /// With --validate-only: time in seconds in which the check is repeated while traffic is not redirected
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) wait_for_redirection: u64,

    /// Print the rules and change nothing
    #[arg(long, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) dry_run: bool,

    /// Path of nft [default: nft beside this program, else /usr/sbin/nft]
    #[arg(long, value_name = "PATH")]
    pub(crate) nft: Option<PathBuf>,

    /// Accepted and ignored: /etc/resolv.conf is never written
    #[arg(long, hide = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) skip_resolv_conf: bool,

    /// Accepted and ignored: there is only one engine
    #[arg(long, hide = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, default_value_t = false, action = ArgAction::Set)]
    pub(crate) experimental_transparent_proxy_engine: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
