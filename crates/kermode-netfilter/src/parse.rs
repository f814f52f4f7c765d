//! Parsers of the values of flags and annotations. Errors name the setting, its value and the remedy.

use std::net::IpAddr;
use std::num::{NonZeroU16, ParseIntError};
use std::str::FromStr;

use kermode_model::notation;

use crate::exclusion::Transport;
use crate::interval::Number;
use crate::{Intervals, PortSet, UidExclusion, VirtualNetwork};

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({key} {value:?}: {remedy})")]
pub struct SettingError {
    /// Name of the flag, or key of the annotation.
    pub key: String,
    /// Value of the setting, or its beginning if the value is too long.
    pub value: String,
    /// Description of the problem.
    pub problem: String,
    /// Remedy.
    pub remedy: &'static str,
}

/// Problem of a value, without the name of its setting.
#[derive(Clone, Debug)]
pub(crate) struct ParseProblem {
    text: String,
    remedy: &'static str,
}

impl ParseProblem {
    /// Creates a problem. Control characters of `text`, which may quote a part of the value, are escaped.
    pub(crate) fn new(text: impl Into<String>, remedy: &'static str) -> Self {
        let mut text = text.into();
        if text.contains(char::is_control) {
            let escape = |character: char| {
                if character.is_control() {
                    character.escape_default().to_string()
                } else {
                    character.to_string()
                }
            };
            text = text.chars().map(escape).collect();
        }
        Self { text, remedy }
    }

    /// Adds key and value of the setting.
    pub(crate) fn for_setting(self, key: &str, value: &str) -> SettingError {
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

/// Parses a comma-separated list of ports and ranges, such as the value of `--exclude-inbound-ports` or of the
/// annotation `traffic.kuma.io/exclude-inbound-ports`. An empty string is an empty list.
///
/// # Errors
/// When an item is not a port or a range of ports.
pub fn parse_ports(key: &str, value: &str) -> Result<PortSet, SettingError> {
    parse_numbers(value, |item, invalid_part| {
        let text =
            format!("values or range {item} failed validation: value {invalid_part}, is not valid uint16");
        ParseProblem::new(
            text,
            "write a list of ports and ranges, for instance 443,8000-8010",
        )
    })
    .map_err(|problem| {
        problem
            .prefixed("parsing excluded ports failed")
            .for_setting(key, value)
    })
}

/// Parses the UID exclusions of one setting, separated by `;`.
///
/// `transport` is the protocol of the setting `…-tcp-ports-for-uids` or `…-udp-ports-for-uids`. `transport` is `None`
/// for the setting `…-ports-for-uids`, whose items have the form `[protocols:][ports:]uids`.
///
/// # Errors
/// When an item is malformed.
pub fn parse_uid_exclusions(
    key: &str,
    transport: Option<Transport>,
    value: &str,
) -> Result<Vec<UidExclusion>, SettingError> {
    let subject = match transport {
        Some(Transport::Tcp) => "TCP ports for UIDs",
        Some(Transport::Udp) => "UDP ports for UIDs",
        None => "ports for uids",
    };
    let mut exclusions = Vec::new();
    for item in value.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let parsed = match transport {
            Some(transport) => {
                UidExclusion::parse_for_transport(transport, item).map(|exclusion| vec![exclusion])
            }
            None => UidExclusion::parse_general(item),
        };
        exclusions.extend(parsed.map_err(|problem| {
            problem
                .prefixed(&format!("parsing excluded outbound {subject} failed"))
                .for_setting(key, value)
        })?);
    }
    Ok(exclusions)
}

/// Parses the port that inbound IPv6 connections are redirected to; 0 disables the interception of IPv6.
///
/// # Errors
/// When the value is not a number from 0 to 65535.
pub fn parse_inbound_port_v6(key: &str, value: &str) -> Result<Option<NonZeroU16>, SettingError> {
    let port: u16 = parse_number(value).ok_or_else(|| {
        ParseProblem::new(
            "not a port",
            "write a number from 1 to 65535, or 0 to disable the interception of IPv6",
        )
        .for_setting(key, value)
    })?;
    Ok(NonZeroU16::new(port))
}

/// Parses `interface:CIDR`, for instance `docker0:172.17.0.0/16` or `br+:fd00::/64`.
///
/// # Errors
/// When the name of the interface or the network is malformed.
pub fn parse_virtual_network(key: &str, value: &str) -> Result<VirtualNetwork, SettingError> {
    try_parse_virtual_network(value).map_err(|reason| {
        ParseProblem::new(
            format!("not a virtual network: {reason}"),
            "write interface:CIDR, for instance docker0:172.17.0.0/16",
        )
        .for_setting(key, value)
    })
}

/// Parses a comma-separated list of virtual networks.
///
/// # Errors
/// When an item is malformed.
pub(crate) fn parse_virtual_networks(key: &str, value: &str) -> Result<Vec<VirtualNetwork>, SettingError> {
    notation::list(value)
        .map(|item| parse_virtual_network(key, item))
        .collect()
}

/// Parses a virtual network. Returns the reason if the value is malformed.
fn try_parse_virtual_network(value: &str) -> Result<VirtualNetwork, String> {
    /// Maximum length of an interface name: IFNAMSIZ is 16, including the terminating zero byte.
    const MAX_NAME_LENGTH: usize = 15;
    let (interface, network) = value.trim().split_once(':').ok_or("it names no interface")?;
    let name = interface.strip_suffix('+').unwrap_or(interface);
    // The name becomes part of the text for nft, so it must not contain quotes.
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "._-@".contains(character);
    if name.is_empty() || interface.len() > MAX_NAME_LENGTH || !name.chars().all(is_allowed) {
        return Err(format!(
            "{interface:?} is not an interface, a name of up to {MAX_NAME_LENGTH} letters, digits and ._-@"
        ));
    }
    let (address, prefix_length) = network.split_once('/').ok_or("it has no length of the prefix")?;
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is not an IP address"))?;
    let max_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    let prefix_length = parse_number(prefix_length)
        .filter(|length| *length <= max_prefix_length)
        .ok_or_else(|| {
            format!(
                "the length {prefix_length:?} of the prefix is not a number from 0 to {max_prefix_length}"
            )
        })?;
    Ok(VirtualNetwork {
        interface: interface.to_owned(),
        address,
        prefix_length,
    })
}

/// Parses a decimal number with optional surrounding whitespace.
pub(crate) fn parse_number<T: FromStr<Err = ParseIntError>>(text: &str) -> Option<T> {
    notation::number(text.trim()).ok()
}

/// Parses a comma-separated list of numbers and ranges `first-last`. `mk_problem` receives an invalid item and the part
/// of the item that is not a number.
pub(crate) fn parse_numbers<T: Number>(
    text: &str,
    mk_problem: impl Fn(&str, &str) -> ParseProblem,
) -> Result<Intervals<T>, ParseProblem> {
    let ranges: Result<Vec<_>, ParseProblem> = notation::list(text)
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.trim(), last.trim());
            let start = parse_number(first).ok_or_else(|| mk_problem(item, first))?;
            let end = parse_number(last).ok_or_else(|| mk_problem(item, last))?;
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
    fn list_of_ports_may_contain_whitespace_ranges_and_empty_items() {
        let set = parse_ports("--exclude-inbound-ports", " 22, 8000-8010 ,,443").expect("valid ports");
        assert_eq!(set.to_string(), "{ 22, 443, 8000-8010 }");
        assert!(
            parse_ports("--exclude-inbound-ports", "")
                .expect("valid ports")
                .is_empty()
        );
    }

    #[test]
    fn error_of_a_bad_port_names_the_setting_its_value_and_the_remedy() {
        let error = parse_ports("traffic.kuma.io/exclude-inbound-ports", "22,http")
            .expect_err("a port is malformed")
            .to_string();
        assert_eq!(
            error,
            "parsing excluded ports failed: values or range http failed validation: value http, is not valid uint16 \
             (traffic.kuma.io/exclude-inbound-ports \"22,http\": write a list of ports and ranges, for instance 443,8000-8010)"
        );
        for bad in ["65536", "-1", "+1", "1-", "20-10", "1 2", "0x10"] {
            assert!(parse_ports("key", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_0_disables_ipv6() {
        assert_eq!(parse_inbound_port_v6("key", "0"), Ok(None));
        assert_eq!(parse_inbound_port_v6("key", "15010"), Ok(NonZeroU16::new(15010)));
        assert!(parse_inbound_port_v6("key", "").is_err());
    }

    #[test]
    fn virtual_networks_of_both_families_are_parsed() {
        let network = parse_virtual_network("--vnet", "br+:172.18.0.0/16").expect("a valid network");
        assert_eq!((network.interface.as_str(), network.prefix_length), ("br+", 16));
        // The interface `iface` and the address `::1`.
        assert!(
            parse_virtual_network("--vnet", "iface:::1/64")
                .expect("a valid network")
                .address
                .is_ipv6()
        );
        for (bad, reason) in [
            ("172.18.0.0/16", "it names no interface"),
            ("br:172.18.0.0", "no length of the prefix"),
            (
                "br:172.18.0.0/33",
                "the length \"33\" of the prefix is not a number from 0 to 32",
            ),
            ("br:fd00::/129", "from 0 to 128"),
            ("br:10.0.0.0/٨", "of the prefix"),
            ("br:10.0.0.0/+8", "of the prefix"),
            ("br:10.0.0/8", "\"10.0.0\" is not an IP address"),
            ("br:fe80::1%eth0/64", "is not an IP address"),
            (":10.0.0.0/8", "\"\" is not an interface"),
            ("+:10.0.0.0/8", "\"+\" is not an interface"),
            ("a\"b:10.0.0.0/8", "is not an interface"),
            ("b+r:10.0.0.0/8", "is not an interface"),
            ("br\n:10.0.0.0/8", "\"br\\n\" is not an interface"),
            ("sixteen-letters-:10.0.0.0/8", "is not an interface"),
        ] {
            let error = parse_virtual_network("--vnet", bad).expect_err(bad);
            assert_eq!((error.key.as_str(), error.value.as_str()), ("--vnet", bad));
            assert!(error.problem.contains(reason), "{bad}: {error}");
        }
    }
}
