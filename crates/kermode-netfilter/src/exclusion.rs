//! Exclusion of the traffic of certain users from interception, and its text forms `ports:uids` and
//! `[protocols:][ports:]uids` (docs/reference/transparent-proxying.md#exclusions).

use crate::interval::Number;
use crate::parse::{ParseProblem, parse_numbers};
use crate::{PortSet, UidSet};

/// Traffic of certain users that is not intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UidExclusion {
    /// Transport protocol.
    pub transport: Transport,
    /// Destination ports.
    pub ports: PortSet,
    /// UIDs of the sockets' owners.
    pub uids: UidSet,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl UidExclusion {
    /// Parses `ports:uids`, an item of `traffic.kuma.io/exclude-outbound-tcp-ports-for-uids` or its UDP equivalent.
    ///
    /// Both parts are lists of numbers and ranges; `*` means all ports. This parser accepts `*` and UIDs above 65535;
    /// Kuma 2.1 rejects both.
    pub(crate) fn parse_for_transport(transport: Transport, item: &str) -> Result<Self, ParseProblem> {
        let Some((ports, uids)) = item.split_once(':').filter(|(_, uids)| !uids.contains(':')) else {
            return Err(ParseProblem::new(
                "value contains too many \":\" or none - format for excluding ports by UIDs ports:uids",
                "write for instance 443:1234",
            ));
        };
        Ok(Self {
            transport,
            ports: parse_excluded_ports(ports, Quote::No)?,
            uids: parse_excluded_uids(uids, Quote::No)?,
        })
    }

    /// Parses `[protocols:][ports:]uids`, an item of `traffic.kuma.io/exclude-outbound-ports-for-uids` (Kuma 2.5 and
    /// later). `uids` is one number or one range.
    pub(crate) fn parse_general(item: &str) -> Result<Vec<Self>, ParseProblem> {
        let fields: Vec<_> = item.split(':').map(str::trim).collect();
        let (protocols, ports, uids) = match fields[..] {
            [uids] => ("", "", uids),
            [ports, uids] => ("", ports, uids),
            [protocols, ports, uids] => (protocols, ports, uids),
            _ => {
                return Err(ParseProblem::new(
                    format!("invalid format: '{item}' has more than three parts"),
                    "write [protocols:][ports:]uids, for instance tcp:443:1234",
                ));
            }
        };
        if uids.contains(',') {
            return Err(ParseProblem::new(
                format!("uid entry invalid:'{uids}', it should either be a single item or a range"),
                "repeat the setting for each UID",
            ));
        }
        let uids = parse_excluded_uids(uids, Quote::Yes)?;
        let ports = parse_excluded_ports(if ports.is_empty() { "*" } else { ports }, Quote::Yes)?;
        let transports = parse_excluded_transports(protocols)?;
        Ok(transports
            .into_iter()
            .map(|transport| Self {
                transport,
                ports: ports.clone(),
                uids: uids.clone(),
            })
            .collect())
    }
}

/// Whether an error text quotes values. Kuma's texts quote only the values of the form `[protocols:][ports:]uids`.
#[derive(Clone, Copy)]
enum Quote {
    No,
    Yes,
}

impl Quote {
    fn around(self, text: &str) -> String {
        match self {
            Self::No => text.to_owned(),
            Self::Yes => format!("'{text}'"),
        }
    }
}

/// Parses the ports of an exclusion; `*` means all ports.
fn parse_excluded_ports(text: &str, quote: Quote) -> Result<PortSet, ParseProblem> {
    if text.trim() == "*" {
        return Ok(PortSet::from_iter([(1, u16::MAX)]));
    }
    let ports = parse_numbers(text, |range, value| {
        not_a_number::<u16>(range, value, quote, "ports are 443, 8000-8010 or *")
    })?;
    if ports.is_empty() {
        return Err(ParseProblem::new(
            "no port given",
            "write ports:uids, for instance 443:1234",
        ));
    }
    Ok(ports)
}

fn parse_excluded_uids(text: &str, quote: Quote) -> Result<UidSet, ParseProblem> {
    if text.trim() == "*" {
        return Err(ParseProblem::new(
            "can't use wildcard '*' for uids",
            "name the UIDs, for instance 1234 or 1000-2000",
        ));
    }
    let uids = parse_numbers(text, |range, value| {
        not_a_number::<u32>(
            range,
            value,
            quote,
            "UIDs are numbers or ranges, for instance 1234 or 1000-2000",
        )
    })?;
    if uids.is_empty() {
        return Err(ParseProblem::new(
            "no UID given",
            "write ports:uids, for instance 443:1234",
        ));
    }
    Ok(uids)
}

fn not_a_number<T: Number>(range: &str, value: &str, quote: Quote, remedy: &'static str) -> ParseProblem {
    let range = quote.around(range);
    let value = quote.around(value);
    ParseProblem::new(
        format!(
            "values or range {range} failed validation: value {value}, is not valid {}",
            T::TYPE_NAME
        ),
        remedy,
    )
}

/// Parses the protocols of an exclusion; an empty text and `*` mean both TCP and UDP.
fn parse_excluded_transports(text: &str) -> Result<Vec<Transport>, ParseProblem> {
    let mut transports = Vec::new();
    for name in text.split(',').map(str::trim) {
        let transports_of_name: &[Transport] = match name.to_ascii_lowercase().as_str() {
            "" | "*" => &[Transport::Tcp, Transport::Udp],
            "tcp" => &[Transport::Tcp],
            "udp" => &[Transport::Udp],
            _ => {
                let problem = format!("protocol '{name}' is invalid or unsupported");
                return Err(ParseProblem::new(problem, "protocols are tcp, udp or *"));
            }
        };
        for transport in transports_of_name {
            if !transports.contains(transport) {
                transports.push(*transport);
            }
        }
    }
    Ok(transports)
}

#[cfg(test)]
mod tests;
