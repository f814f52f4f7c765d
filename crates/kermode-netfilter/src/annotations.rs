//! Reads the settings of transparent proxying from the annotations of an injected Pod
//! (docs/reference/injection.md#annotations-written). The CNI plugin uses this module.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use kermode_model::{annotation, notation};

use crate::exclusion::Transport;
use crate::parse::{
    ParseProblem, SettingError, parse_inbound_port_v6, parse_number, parse_ports, parse_uid_exclusions,
    parse_virtual_networks,
};
use crate::{DnsRedirect, InboundRedirect, OutboundRedirect, TrafficConfig};

type Annotations = BTreeMap<String, String>;

impl TrafficConfig {
    /// Reads the settings of an injected Pod. A missing annotation stands for the value in [`TrafficConfig::default`].
    ///
    /// `kuma-init` gets the same settings from its arguments: the injector derives the arguments from the annotations.
    ///
    /// # Errors
    /// When the value of an annotation is invalid. The error names the annotation, its value and the remedy.
    pub fn from_annotations(annotations: &Annotations) -> Result<Self, SettingError> {
        let reader = Reader(annotations);
        Ok(Self {
            proxy_uid: reader
                .read(annotation::SIDECAR_UID, parse_uid)?
                .unwrap_or(Self::DEFAULT_PROXY_UID),
            inbound: read_inbound(&reader)?,
            outbound: read_outbound(&reader)?,
            dns: read_dns(&reader)?,
            virtual_networks: reader
                .read(annotation::VIRTUAL_NETWORKS, parse_virtual_networks)?
                .unwrap_or_default(),
        })
    }
}

fn read_inbound(reader: &Reader<'_>) -> Result<InboundRedirect, SettingError> {
    let port_v6 = match reader.read(annotation::IP_FAMILY_MODE, mode_includes_ipv6)? {
        Some(false) => None,
        Some(true) | None => reader
            .read(
                annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
                parse_inbound_port_v6,
            )?
            .unwrap_or(Some(InboundRedirect::DEFAULT_PORT_V6)),
    };
    Ok(InboundRedirect {
        enabled: !reader.read(annotation::GATEWAY, is_gateway)?.unwrap_or(false),
        port: reader
            .read(annotation::TRANSPARENT_PROXYING_INBOUND_PORT, parse_port)?
            .unwrap_or(InboundRedirect::DEFAULT_PORT),
        port_v6,
        excluded_ports: reader
            .read(annotation::EXCLUDE_INBOUND_PORTS, parse_ports)?
            .unwrap_or_default(),
    })
}

fn read_outbound(reader: &Reader<'_>) -> Result<OutboundRedirect, SettingError> {
    let mut uid_exclusions = Vec::new();
    for (key, transport) in [
        (annotation::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS, None),
        (
            annotation::EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS,
            Some(Transport::Tcp),
        ),
        (
            annotation::EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS,
            Some(Transport::Udp),
        ),
    ] {
        let exclusions = reader.read(key, |key, value| parse_uid_exclusions(key, transport, value))?;
        uid_exclusions.extend(exclusions.unwrap_or_default());
    }
    Ok(OutboundRedirect {
        port: reader
            .read(annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT, parse_port)?
            .unwrap_or(OutboundRedirect::DEFAULT_PORT),
        excluded_ports: reader
            .read(annotation::EXCLUDE_OUTBOUND_PORTS, parse_ports)?
            .unwrap_or_default(),
        uid_exclusions,
    })
}

fn read_dns(reader: &Reader<'_>) -> Result<Option<DnsRedirect>, SettingError> {
    let is_enabled = match reader.read(annotation::BUILTIN_DNS, parse_boolean)? {
        None => reader.read(annotation::BUILTIN_DNS_DEPRECATED, parse_boolean)?,
        present => present,
    };
    if is_enabled != Some(true) {
        return Ok(None);
    }
    let redirect_port = match reader.read(annotation::BUILTIN_DNS_PORT, parse_port)? {
        None => reader.read(annotation::BUILTIN_DNS_PORT_DEPRECATED, parse_port)?,
        present => present,
    };
    Ok(Some(DnsRedirect::all(
        redirect_port.unwrap_or(DnsRedirect::DEFAULT_PORT),
    )))
}

/// Largest accepted size of an annotation, in bytes. It bounds the number of rules: an exclusion of 2 bytes becomes
/// several rules.
const MAX_VALUE_LENGTH: usize = 4096;

/// Number of bytes of a larger annotation that its error quotes.
const QUOTED_LENGTH: usize = 64;

/// Reads annotations by key.
struct Reader<'a>(&'a Annotations);

impl Reader<'_> {
    /// Parses the annotation with `parse`, which receives key and value. Returns `None` if the annotation is missing.
    /// Rejects a value of more than [`MAX_VALUE_LENGTH`] bytes.
    fn read<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str, &str) -> Result<T, SettingError>,
    ) -> Result<Option<T>, SettingError> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        if value.len() > MAX_VALUE_LENGTH {
            return Err(too_long(key, value));
        }
        parse(key, value).map(Some)
    }
}

fn too_long(key: &str, value: &str) -> SettingError {
    let problem = format!(
        "the value has {} bytes, more than {MAX_VALUE_LENGTH}",
        value.len()
    );
    let beginning = &value[..value.floor_char_boundary(QUOTED_LENGTH)];
    ParseProblem::new(problem, "merge items to ranges").for_setting(key, beginning)
}

fn parse_boolean(key: &str, value: &str) -> Result<bool, SettingError> {
    notation::boolean(value).ok_or_else(|| wrong_value(key, value, "use enabled or disabled"))
}

/// Whether the value of `kuma.io/gateway` makes the Pod a gateway.
fn is_gateway(key: &str, value: &str) -> Result<bool, SettingError> {
    match annotation::parse_gateway(value) {
        Ok(identity) => Ok(identity.is_some()),
        Err(_) => Err(wrong_value(key, value, "use enabled, provided or disabled")),
    }
}

/// Parses the IP family mode. Returns whether the mode includes IPv6. For `false`, the caller sets
/// [`InboundRedirect::port_v6`] to `None`, which disables the interception of IPv6 in both directions.
fn mode_includes_ipv6(key: &str, value: &str) -> Result<bool, SettingError> {
    match value {
        "dualstack" => Ok(true),
        "ipv4" => Ok(false),
        _ => Err(wrong_value(key, value, "use dualstack or ipv4")),
    }
}

fn parse_port(key: &str, value: &str) -> Result<NonZeroU16, SettingError> {
    parse_number(value).ok_or_else(|| unparsable(key, value, "use a port from 1 to 65535"))
}

/// Parses a UID. The kernel uses the highest number, 4294967295, for the absence of a UID: no socket has this owner.
fn parse_uid(key: &str, value: &str) -> Result<u32, SettingError> {
    parse_number(value)
        .filter(|uid| *uid != u32::MAX)
        .ok_or_else(|| unparsable(key, value, "use a UID, a number from 0 to 4294967294"))
}

/// Returns an error with Kuma's text for a value that is not one of the allowed words.
fn wrong_value(key: &str, value: &str, remedy: &'static str) -> SettingError {
    ParseProblem::new(format!("annotation {key:?} has wrong value {value:?}"), remedy).for_setting(key, value)
}

/// Returns an error with Kuma's text for a value that is not a valid number.
fn unparsable(key: &str, value: &str, remedy: &'static str) -> SettingError {
    ParseProblem::new(format!("failed to parse annotation {key:?}"), remedy).for_setting(key, value)
}

#[cfg(test)]
mod tests;
