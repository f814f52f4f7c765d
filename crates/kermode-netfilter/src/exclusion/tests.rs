//! Tests of the grammar of UID exclusions and of the parser's error texts.

use crate::exclusion::Transport::{Tcp, Udp};
use crate::parse::parse_uid_exclusions;

const TCP_KEY: &str = "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids";

/// Parses a value of the setting for TCP. Returns the ports and the UIDs of each exclusion.
fn parse_tcp(value: &str) -> Vec<(String, String)> {
    let exclusions = parse_uid_exclusions(TCP_KEY, Some(Tcp), value).expect("valid exclusions");
    exclusions
        .iter()
        .map(|exclusion| (exclusion.ports.to_string(), exclusion.uids.to_string()))
        .collect()
}

fn parse_tcp_error(value: &str) -> String {
    parse_uid_exclusions(TCP_KEY, Some(Tcp), value)
        .expect_err("the exclusion is malformed")
        .to_string()
}

/// Returns the error of a value of the setting for both protocols, TCP and UDP. Items of this setting may name
/// protocols.
fn parse_both_error(value: &str) -> String {
    parse_uid_exclusions("--exclude-outbound-ports-for-uids", None, value)
        .expect_err("the exclusion is malformed")
        .to_string()
}

#[test]
fn example_from_kumas_documentation_excludes_one_port_for_one_user() {
    assert_eq!(parse_tcp("443:1234"), [("443".to_owned(), "1234".to_owned())]);
}

#[test]
fn ports_and_uids_may_be_lists_and_ranges() {
    assert_eq!(
        parse_tcp("1900,1902,1000-2000:103,104,106-108; 443 : 70000"),
        [
            ("1000-2000".to_owned(), "{ 103-104, 106-108 }".to_owned()),
            ("443".to_owned(), "70000".to_owned())
        ]
    );
}

#[test]
fn uids_are_32_bits_wide() {
    let (_, uids) = &parse_tcp("443:1000660000-4294967294")[0];
    assert_eq!(uids, "1000660000-4294967294");
    assert!(parse_tcp_error("443:4294967296").contains("value 4294967296, is not valid uint32"));
}

#[test]
fn star_means_all_ports() {
    let (ports, _) = &parse_tcp("*:1234")[0];
    assert_eq!(ports, "1-65535");
}

#[test]
fn items_of_the_setting_for_both_protocols_may_omit_protocols_and_ports() {
    let parse_both = |value| {
        let exclusions =
            parse_uid_exclusions("--exclude-outbound-ports-for-uids", None, value).expect("valid exclusions");
        exclusions
            .iter()
            .map(|exclusion| (exclusion.transport, exclusion.ports.to_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        parse_both("123"),
        [(Tcp, "1-65535".to_owned()), (Udp, "1-65535".to_owned())]
    );
    assert_eq!(
        parse_both("53:1-2"),
        [(Tcp, "53".to_owned()), (Udp, "53".to_owned())]
    );
    assert_eq!(parse_both("udp::5"), [(Udp, "1-65535".to_owned())]);
    assert_eq!(parse_both("tcp,udp:*:5;tcp:7:8").len(), 3);
}

#[test]
fn errors_have_kumas_texts_and_name_the_setting() {
    let error = parse_tcp_error("a3000-5000:1");
    assert!(
        error.starts_with(
            "parsing excluded outbound TCP ports for UIDs failed: values or range a3000-5000 failed validation: \
             value a3000, is not valid uint16"
        ),
        "{error}"
    );
    assert!(
        error.contains(TCP_KEY) && error.contains("\"a3000-5000:1\""),
        "{error}"
    );
    let prefix = "parsing excluded outbound ports for uids failed: ";
    for (value, text) in [
        (
            "a3000-5000:1",
            "values or range 'a3000-5000' failed validation: value 'a3000', is not valid uint16",
        ),
        ("3000-5000:1:*", "can't use wildcard '*' for uids"),
        (
            "3000-5000:1:1,2,3",
            "uid entry invalid:'1,2,3', it should either be a single item or a range",
        ),
        ("http:1:1", "protocol 'http' is invalid or unsupported"),
    ] {
        let error = parse_both_error(value);
        assert!(error.contains(&format!("{prefix}{text}")), "{error}");
    }
}

#[test]
fn malformed_items_are_rejected() {
    for malformed in [
        "443", "443:", ":1234", "443:1:2", "443:*", "443:a", "20-10:1", "443:9-1",
    ] {
        parse_tcp_error(malformed);
    }
    for malformed in ["tcp:1:2:3", "tcp:443:", "*"] {
        parse_both_error(malformed);
    }
}
