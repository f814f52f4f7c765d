//! Tests of reading settings from annotations.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::{IpFamilies, PortSet, RuleSet};

fn read(pairs: &[(&str, &str)]) -> Result<TrafficConfig, SettingError> {
    let annotations = pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    TrafficConfig::from_annotations(&annotations)
}

#[test]
fn settings_without_annotations_are_the_defaults() {
    assert_eq!(read(&[]), Ok(TrafficConfig::default()));
}

#[test]
fn annotations_replace_the_defaults() {
    let config = read(&[
        (annotation::GATEWAY, "enabled"),
        (annotation::SIDECAR_UID, "70000"),
        (annotation::TRANSPARENT_PROXYING_INBOUND_PORT, "25204"),
        (annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT, "25206"),
        (annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT, "25100"),
        (annotation::BUILTIN_DNS, "enabled"),
        (annotation::BUILTIN_DNS_PORT, "25053"),
        (annotation::EXCLUDE_INBOUND_PORTS, "12000"),
        (annotation::EXCLUDE_OUTBOUND_PORTS, "11000"),
        (annotation::EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS, "53:1234;54:1234"),
        (annotation::EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS, "443:1234"),
        // All ports of both transports for UID 0.
        (annotation::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS, "0"),
        (
            annotation::VIRTUAL_NETWORKS,
            "docker0:172.17.0.0/16, br-+:fd00:17::/64",
        ),
    ])
    .expect("valid annotations");
    let port = |number| NonZeroU16::new(number).expect("a port other than 0");
    assert_eq!(config.proxy_uid, 70000);
    assert_eq!(
        config.inbound,
        InboundRedirect {
            enabled: false,
            port: port(25204),
            port_v6: Some(port(25206)),
            excluded_ports: PortSet::single(12000)
        }
    );
    assert_eq!(
        (config.outbound.port, config.outbound.excluded_ports),
        (port(25100), PortSet::single(11000))
    );
    let transports_and_ports: Vec<_> = config
        .outbound
        .uid_exclusions
        .iter()
        .map(|exclusion| (exclusion.transport, exclusion.ports.to_string()))
        .collect();
    let (tcp, udp) = (Transport::Tcp, Transport::Udp);
    let expected = [
        (tcp, "1-65535"),
        (udp, "1-65535"),
        (tcp, "443"),
        (udp, "53"),
        (udp, "54"),
    ];
    assert_eq!(
        transports_and_ports,
        expected.map(|(transport, ports)| (transport, ports.to_owned()))
    );
    assert_eq!(config.dns, Some(DnsRedirect::all(port(25053))));
    let networks: Vec<_> = config
        .virtual_networks
        .iter()
        .map(|network| {
            format!(
                "{} {}/{}",
                network.interface, network.address, network.prefix_length
            )
        })
        .collect();
    assert_eq!(networks, ["docker0 172.17.0.0/16", "br-+ fd00:17::/64"]);
}

#[test]
fn inbound_v6_port_0_and_ip_family_mode_ipv4_disable_ipv6() {
    assert_eq!(
        read(&[(annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT, "0")])
            .expect("valid annotations")
            .inbound
            .port_v6,
        None
    );
    assert_eq!(
        read(&[(annotation::IP_FAMILY_MODE, "ipv4")])
            .expect("valid annotations")
            .inbound
            .port_v6,
        None
    );
    assert!(
        read(&[(annotation::IP_FAMILY_MODE, "dualstack")])
            .expect("valid annotations")
            .inbound
            .port_v6
            .is_some()
    );
}

#[test]
fn deprecated_dns_keys_apply_if_the_current_keys_are_absent() {
    let config = read(&[
        (annotation::BUILTIN_DNS_DEPRECATED, "true"),
        (annotation::BUILTIN_DNS_PORT_DEPRECATED, "1053"),
    ])
    .expect("valid annotations");
    assert_eq!(config.dns.expect("redirection of DNS").port.get(), 1053);
    assert_eq!(
        read(&[
            (annotation::BUILTIN_DNS_DEPRECATED, "true"),
            (annotation::BUILTIN_DNS, "disabled")
        ])
        .expect("valid annotations")
        .dns,
        None
    );
}

#[test]
fn error_of_a_wrong_value_names_key_and_value() {
    let error = read(&[(annotation::GATEWAY, "yes please")])
        .expect_err("the value is wrong")
        .to_string();
    assert!(
        error.contains("annotation \"kuma.io/gateway\" has wrong value \"yes please\""),
        "{error}"
    );
    for (key, value) in [
        (annotation::SIDECAR_UID, "root"),
        (annotation::TRANSPARENT_PROXYING_INBOUND_PORT, "0"),
        (annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT, "65536"),
        (annotation::BUILTIN_DNS, "on"),
        (annotation::VIRTUAL_NETWORKS, "172.18.0.0/16"),
    ] {
        let error = read(&[(key, value)]).expect_err("the value is wrong").to_string();
        assert!(error.contains(key) && error.contains(value), "{error}");
    }
}

#[test]
fn highest_uid_is_accepted_and_numbers_out_of_range_are_rejected() {
    let config = read(&[(annotation::SIDECAR_UID, "4294967294")]).expect("a valid UID");
    assert_eq!(config.proxy_uid, 4_294_967_294);
    // In system calls, 4294967295 is -1 and stands for no UID.
    for bad in ["4294967295", "4294967296", "-1"] {
        let error = read(&[(annotation::SIDECAR_UID, bad)])
            .expect_err("the number is not a UID")
            .to_string();
        assert!(error.contains("from 0 to 4294967294"), "{bad}: {error}");
    }
}

#[test]
fn value_of_more_than_4096_bytes_is_rejected_and_its_beginning_quoted() {
    let keys = [
        annotation::EXCLUDE_INBOUND_PORTS,
        annotation::EXCLUDE_OUTBOUND_PORTS,
        annotation::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS,
        annotation::EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS,
        annotation::EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS,
        annotation::VIRTUAL_NETWORKS,
        annotation::SIDECAR_UID,
    ];
    for key in keys {
        let value = "é".repeat(2049);
        let error = read(&[(key, &value)]).expect_err("the value is too long");
        assert_eq!(error.problem, "the value has 4098 bytes, more than 4096");
        assert_eq!(error.value, "é".repeat(32), "{key}");
        assert!(error.to_string().contains("merge items to ranges"), "{error}");
    }
    let config = read(&[(annotation::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS, &"0;".repeat(2048))]);
    assert_eq!(config.expect("4096 bytes").outbound.uid_exclusions.len(), 4096);
}

/// The annotations whose values become parts of rules.
const RULE_KEYS: [&str; 11] = [
    annotation::SIDECAR_UID,
    annotation::TRANSPARENT_PROXYING_INBOUND_PORT,
    annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
    annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT,
    annotation::BUILTIN_DNS_PORT,
    annotation::EXCLUDE_INBOUND_PORTS,
    annotation::EXCLUDE_OUTBOUND_PORTS,
    annotation::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS,
    annotation::EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS,
    annotation::EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS,
    annotation::VIRTUAL_NETWORKS,
];

/// Parts of values, valid ones and others.
const PIECES: [&str; 28] = [
    ",",
    ",",
    ";",
    ";",
    ":",
    ":",
    "-",
    "*",
    " ",
    "\t",
    "\n",
    "\0",
    "+",
    "/",
    "\"",
    "{ }",
    "\u{663}",
    "\u{a0}",
    "\u{200b}",
    "0",
    "00",
    "1-2",
    "tcp:",
    "udp:1:2",
    "docker0:10.0.0.0/8",
    "br-+:fd00::/64",
    "99999999999999999999",
    "#",
];

/// Generates values that are nearly valid.
fn any_value() -> impl Strategy<Value = String> {
    let number = prop_oneof![any::<u16>().prop_map(u32::from), any::<u32>()];
    let piece = prop_oneof![
        2 => number.prop_map(|number| number.to_string()),
        3 => select(PIECES.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(|character| character.to_string()),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn value_is_rejected_with_its_key_or_becomes_rules_without_foreign_text(
        key in select(RULE_KEYS.to_vec()),
        value in any_value(),
    ) {
        match read(&[(annotation::BUILTIN_DNS, "true"), (key, &value)]) {
            Err(error) => {
                prop_assert_eq!(error.key.as_str(), key);
                prop_assert!(value.contains(&error.value));
                prop_assert!(!error.to_string().contains(char::is_control), "{}", error);
            }
            Ok(config) => {
                let text = RuleSet::new(&config, IpFamilies::DualStack).to_string();
                let is_known = |character: char| character.is_ascii_graphic() || " \t\n".contains(character);
                prop_assert!(text.chars().all(is_known), "{}", text);
                for line in text.lines() {
                    prop_assert_eq!(line.matches('"').count() % 2, 0, "{}", line);
                    prop_assert!(!line.contains('#') && line.matches(';').count() % 2 == 0, "{}", line);
                }
            }
        }
    }
}
