//! The text forms that flags and annotations share. Every refusal names the setting, its value and the remedy.

use std::net::IpAddr;
use std::num::{NonZeroU16, ParseIntError};
use std::str::FromStr;

use kermode_model::notation;

use crate::exclusion::Transport;
use crate::interval::Number;
use crate::{Intervals, PortSet, UidExclusion, VirtualNetwork};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({key} {value:?}: {remedy})")]
pub struct SettingError {
    /// The flag or the annotation's key.
    pub key: String,
    /// The text given.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: &'static str,
}

/// What is wrong with a value, before it is known which setting it belongs to.
#[derive(Clone, Debug)]
pub(crate) struct ParseProblem {
    text: String,
    remedy: &'static str,
}

impl ParseProblem {
    pub(crate) fn new(text: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            text: text.into(),
            remedy,
        }
    }

    pub(crate) fn of(self, key: &str, value: &str) -> SettingError {
        SettingError {
            key: key.to_owned(),
            value: value.to_owned(),
            problem: self.text,
            remedy: self.remedy,
        }
    }

    fn prefixed(self, prefix: &str) -> Self {
        Self {
            text: format!("{prefix}: {}", self.text),
            ..self
        }
    }
}

/// Reads a comma list of ports and ranges of ports, as `--exclude-inbound-ports` and the annotation
/// `traffic.kuma.io/exclude-inbound-ports` take it. Empty text is an empty list.
pub fn ports(key: &str, value: &str) -> Result<PortSet, SettingError> {
    numbers(value, |range, number| {
        let text = format!("values or range {range} failed validation: value {number}, is not valid uint16");
        ParseProblem::new(
            text,
            "write a list of ports and ranges, for instance 443,8000-8010",
        )
    })
    .map_err(|problem| problem.prefixed("parsing excluded ports failed").of(key, value))
}

/// Reads the exclusions of UIDs of one setting, items separated by `;`.
///
/// `transport` is that of the setting (`…-tcp-ports-for-uids`, `…-udp-ports-for-uids`); without one the items are of
/// the general form that names its protocols.
pub fn uid_exclusions(
    key: &str,
    transport: Option<Transport>,
    value: &str,
) -> Result<Vec<UidExclusion>, SettingError> {
    let mut exclusions = Vec::new();
    for item in value.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (read, what) = match transport {
            Some(transport @ Transport::Tcp) => (
                UidExclusion::for_transport(transport, item).map(|one| vec![one]),
                "TCP ports for UIDs",
            ),
            Some(transport @ Transport::Udp) => (
                UidExclusion::for_transport(transport, item).map(|one| vec![one]),
                "UDP ports for UIDs",
            ),
            None => (UidExclusion::general(item), "ports for uids"),
        };
        let prefix = || format!("parsing excluded outbound {what} failed");
        exclusions.extend(read.map_err(|problem| problem.prefixed(&prefix()).of(key, value))?);
    }
    Ok(exclusions)
}

/// Reads the port that inbound IPv6 connections are redirected to; 0 turns the interception of IPv6 off.
pub fn inbound_port_v6(key: &str, value: &str) -> Result<Option<NonZeroU16>, SettingError> {
    let port: u16 = number(value).ok_or_else(|| {
        ParseProblem::new(
            "not a port",
            "write a number from 1 to 65535, or 0 to leave IPv6 alone",
        )
        .of(key, value)
    })?;
    Ok(NonZeroU16::new(port))
}

/// Reads `interface:CIDR`, for instance `docker0:172.17.0.0/16` or `br+:fd00::/64`.
pub fn virtual_network(key: &str, value: &str) -> Result<VirtualNetwork, SettingError> {
    read_virtual_network(value).ok_or_else(|| {
        ParseProblem::new(
            "not a virtual network",
            "write interface:CIDR, for instance docker0:172.17.0.0/16",
        )
        .of(key, value)
    })
}

fn read_virtual_network(value: &str) -> Option<VirtualNetwork> {
    // IFNAMSIZ is 16 with the closing zero byte. The characters are checked since the name ends up in a rule's text.
    const LONGEST_NAME: usize = 15;
    let (interface, network) = value.trim().split_once(':')?;
    let stem = interface.strip_suffix('+').unwrap_or(interface);
    let legal = |character: char| character.is_ascii_alphanumeric() || "._-@".contains(character);
    if stem.is_empty() || interface.len() > LONGEST_NAME || !stem.chars().all(legal) {
        return None;
    }
    let (address, prefix) = network.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = number(prefix)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then(|| VirtualNetwork {
        interface: interface.to_owned(),
        address,
        prefix,
    })
}

/// Parses a decimal number with optional blanks around it.
pub(crate) fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Option<T> {
    notation::number(text.trim()).ok()
}

/// Reads a comma list of numbers and ranges `a-b`. `problem` is told the item and the part of it that is bad.
pub(crate) fn numbers<T: Number>(
    text: &str,
    problem: impl Fn(&str, &str) -> ParseProblem,
) -> Result<Intervals<T>, ParseProblem> {
    let ranges: Result<Vec<_>, ParseProblem> = notation::list(text)
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.trim(), last.trim());
            let start = number(first).ok_or_else(|| problem(item, first))?;
            let end = number(last).ok_or_else(|| problem(item, last))?;
            if start > end {
                return Err(ParseProblem::new(
                    format!("range {item} ends before it starts"),
                    "write the lower number first",
                ));
            }
            Ok((start, end))
        })
        .collect();
    Ok(ranges?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_a_list_with_blanks_ranges_and_empty_items() {
        let set = ports("--exclude-inbound-ports", " 22, 8000-8010 ,,443").expect("legal");
        assert_eq!(set.to_string(), "{ 22, 443, 8000-8010 }");
        assert!(ports("--exclude-inbound-ports", "").expect("legal").is_empty());
    }

    #[test]
    fn a_bad_port_is_refused_with_setting_value_and_remedy() {
        let error = ports("traffic.kuma.io/exclude-inbound-ports", "22,http")
            .expect_err("refused")
            .to_string();
        assert_eq!(
            error,
            "parsing excluded ports failed: values or range http failed validation: value http, is not valid uint16 \
             (traffic.kuma.io/exclude-inbound-ports \"22,http\": write a list of ports and ranges, for instance 443,8000-8010)"
        );
        for bad in ["65536", "-1", "+1", "1-", "20-10", "1 2", "0x10"] {
            assert!(ports("key", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_zero_for_ipv6_means_off() {
        assert_eq!(inbound_port_v6("key", "0"), Ok(None));
        assert_eq!(inbound_port_v6("key", "15010"), Ok(NonZeroU16::new(15010)));
        assert!(inbound_port_v6("key", "").is_err());
    }

    #[test]
    fn virtual_networks_are_read_for_both_families() {
        let network = virtual_network("--vnet", "br+:172.18.0.0/16").expect("legal");
        assert_eq!((network.interface.as_str(), network.prefix), ("br+", 16));
        assert!(
            virtual_network("--vnet", "iface:::1/64")
                .expect("legal")
                .address
                .is_ipv6()
        );
        for bad in [
            "172.18.0.0/16",
            "br:172.18.0.0",
            "br:172.18.0.0/33",
            ":10.0.0.0/8",
            "+:10.0.0.0/8",
            "a\"b:10.0.0.0/8",
            "b+r:10.0.0.0/8",
        ] {
            assert!(virtual_network("--vnet", bad).is_err(), "{bad}");
        }
    }
}
