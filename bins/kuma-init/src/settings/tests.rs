//! Tests of converting arguments to settings, and of error texts.

use clap::Parser;
use kermode_netfilter::{DnsRedirect, TrafficConfig};

use super::*;

fn parse(arguments: &[&str]) -> anyhow::Result<TrafficConfig> {
    let cli = Cli::try_parse_from(["kuma-init"].iter().chain(arguments))?;
    read(&cli)
}

fn error(arguments: &[&str]) -> String {
    format!("{:#}", parse(arguments).expect_err("the arguments are invalid"))
}

/// The arguments have the form of docs/reference/injection.md#rendered-containers. Two flags have an empty value.
#[test]
fn arguments_of_the_injector_are_accepted() {
    let config = parse(&[
        "--redirect-outbound-port",
        "15001",
        "--redirect-inbound=true",
        "--redirect-inbound-port",
        "15006",
        "--redirect-inbound-port-v6",
        "15010",
        "--kuma-dp-uid",
        "5678",
        "--exclude-inbound-ports",
        "",
        "--exclude-outbound-ports",
        "",
        "--verbose",
        "--skip-resolv-conf",
        "--exclude-outbound-tcp-ports-for-uids",
        "443:1234",
        "--exclude-outbound-udp-ports-for-uids",
        "53:1234",
        "--exclude-outbound-udp-ports-for-uids",
        "54:1234",
        "--redirect-all-dns-traffic",
        "--redirect-dns-port",
        "15053",
        "--experimental-transparent-proxy-engine",
    ])
    .expect("valid arguments");
    assert_eq!(config.outbound.uid_exclusions.len(), 3);
    let expected = TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    let without_exclusions = TrafficConfig {
        outbound: OutboundRedirect {
            uid_exclusions: Vec::new(),
            ..config.outbound
        },
        ..config
    };
    assert_eq!(without_exclusions, expected);
}

#[test]
fn inbound_redirection_can_be_disabled() {
    let config = parse(&["--redirect-inbound=false", "--kuma-dp-uid", "12345"]).expect("valid arguments");
    assert!(!config.inbound.enabled);
    assert_eq!(config.proxy_uid, 12345);
}

#[test]
fn port_0_and_mode_ipv4_disable_the_redirection_of_inbound_ipv6() {
    let port_v6 = |arguments: &[&str]| parse(arguments).expect("valid arguments").inbound.port_v6;
    assert_eq!(
        port_v6(&["--kuma-dp-uid=1", "--redirect-inbound-port-v6", "0"]),
        None
    );
    assert_eq!(port_v6(&["--kuma-dp-uid=1", "--ip-family-mode", "ipv4"]), None);
    assert!(port_v6(&["--kuma-dp-uid=1", "--ip-family-mode", "dualstack"]).is_some());
}

#[test]
fn user_of_the_proxy_may_be_given_by_name_and_must_be_given() {
    assert_eq!(
        parse(&["--kuma-dp-user", "root"])
            .expect("valid arguments")
            .proxy_uid,
        0
    );
    assert!(error(&["--kuma-dp-user", "no-such-user"]).contains("--kuma-dp-uid"));
    assert_eq!(error(&[]), "--kuma-dp-user or --kuma-dp-uid should be supplied");
}

/// The kernel reserves the number 4294967295, `(uid_t) -1`: it stands for no user.
#[test]
fn reserved_uid_is_rejected() {
    let config = parse(&["--kuma-dp-uid=4294967294"]).expect("valid arguments");
    assert_eq!(config.proxy_uid, 4_294_967_294);
    assert!(error(&["--kuma-dp-uid=4294967295"]).contains("0..4294967295"));
}

#[test]
fn both_dns_flags_together_are_rejected() {
    let message = error(&[
        "--kuma-dp-user",
        "root",
        "--redirect-dns",
        "--redirect-all-dns-traffic",
    ]);
    assert_eq!(
        message,
        "one of --redirect-dns or --redirect-all-dns-traffic should be specified"
    );
}

#[test]
fn error_about_an_invalid_value_names_the_flag() {
    for flag in [
        "--exclude-inbound-ports",
        "--exclude-outbound-ports",
        "--exclude-outbound-udp-ports-for-uids",
    ] {
        let message = error(&["--kuma-dp-uid=1", flag, "http"]);
        assert!(
            message.contains(flag) && message.contains("\"http\""),
            "{message}"
        );
    }
    assert!(error(&["--kuma-dp-uid=1", "--redirect-dns-port=0"]).contains("--redirect-dns-port"));
}

#[test]
fn name_servers_of_both_families_are_read() {
    let text = "search a b\n# nameserver 1.1.1.1\nnameserver 10.96.0.10\n nameserver\tfe80::1%eth0 # x\nnameserver bad\n";
    let expected: Vec<IpAddr> = vec![
        "10.96.0.10".parse().expect("a valid address"),
        "fe80::1".parse().expect("a valid address"),
    ];
    assert_eq!(name_servers(text), expected);
}
