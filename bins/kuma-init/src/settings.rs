//! Converts arguments to settings. Reads the user database for `--kuma-dp-user`, and `/etc/resolv.conf` for
//! `--redirect-dns`.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context, bail};
use kermode_netfilter::{
    DnsRedirect, DnsServers, InboundRedirect, OutboundRedirect, SettingError, TrafficConfig, Transport,
    UidExclusion, parse_inbound_port_v6, parse_ports, parse_uid_exclusions, parse_virtual_network,
};
use nix::unistd::User;

use crate::cli::Cli;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Converts all arguments. Errors name the invalid argument.
pub(crate) fn read(cli: &Cli) -> anyhow::Result<TrafficConfig> {
    let networks: Result<_, _> = cli
        .vnet
        .iter()
        .map(|text| parse_virtual_network("--vnet", text))
        .collect();
    Ok(TrafficConfig {
        proxy_uid: proxy_uid(cli)?,
        inbound: inbound(cli)?,
        outbound: outbound(cli)?,
        dns: dns(cli)?,
        virtual_networks: networks?,
    })
}

fn proxy_uid(cli: &Cli) -> anyhow::Result<u32> {
    if let Some(uid) = cli.kuma_dp_uid {
        return Ok(uid);
    }
    let Some(name) = &cli.kuma_dp_user else {
        bail!("--kuma-dp-user or --kuma-dp-uid should be supplied");
    };
    let user = User::from_name(name).with_context(|| format!("cannot look up --kuma-dp-user {name:?}"))?;
    let user = user.with_context(|| {
        format!("--kuma-dp-user {name:?} does not exist in this image; use --kuma-dp-uid")
    })?;
    Ok(user.uid.as_raw())
}

fn inbound(cli: &Cli) -> Result<InboundRedirect, SettingError> {
    let port_v6 = parse_inbound_port_v6("--redirect-inbound-port-v6", &cli.redirect_inbound_port_v6)?;
    Ok(InboundRedirect {
        enabled: cli.redirect_inbound,
        port: cli.redirect_inbound_port,
        port_v6: port_v6.filter(|_| cli.ip_family_mode != "ipv4"),
        excluded_ports: parse_ports("--exclude-inbound-ports", &cli.exclude_inbound_ports)?,
    })
}

fn outbound(cli: &Cli) -> Result<OutboundRedirect, SettingError> {
    Ok(OutboundRedirect {
        port: cli.redirect_outbound_port,
        excluded_ports: parse_ports("--exclude-outbound-ports", &cli.exclude_outbound_ports)?,
        uid_exclusions: uid_exclusions(cli)?,
    })
}

fn uid_exclusions(cli: &Cli) -> Result<Vec<UidExclusion>, SettingError> {
    let mut exclusions = Vec::new();
    for (flag, transport, values) in [
        (
            "--exclude-outbound-ports-for-uids",
            None,
            &cli.exclude_outbound_ports_for_uids,
        ),
        (
            "--exclude-outbound-tcp-ports-for-uids",
            Some(Transport::Tcp),
            &cli.exclude_outbound_tcp_ports_for_uids,
        ),
        (
            "--exclude-outbound-udp-ports-for-uids",
            Some(Transport::Udp),
            &cli.exclude_outbound_udp_ports_for_uids,
        ),
    ] {
        for value in values {
            exclusions.extend(parse_uid_exclusions(flag, transport, value)?);
        }
    }
    Ok(exclusions)
}

fn dns(cli: &Cli) -> anyhow::Result<Option<DnsRedirect>> {
    let servers = match (cli.redirect_dns, cli.redirect_all_dns_traffic) {
        (false, false) => return Ok(None),
        (false, true) => DnsServers::All,
        (true, false) => {
            let text =
                fs::read_to_string(RESOLV_CONF).with_context(|| format!("cannot read {RESOLV_CONF}"))?;
            DnsServers::Only(name_servers(&text))
        }
        (true, true) => bail!("one of --redirect-dns or --redirect-all-dns-traffic should be specified"),
    };
    let split_conntrack_zones = !cli.skip_dns_conntrack_zone_split;
    Ok(Some(DnsRedirect {
        port: cli.redirect_dns_port,
        servers,
        split_conntrack_zones,
    }))
}

/// Returns the name servers in the text of resolv.conf(5). The zone of an IPv6 address (`%eth0`) is dropped, because
/// rules match only addresses.
fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|value| value.split_whitespace().next()?.split('%').next());
    addresses.filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
