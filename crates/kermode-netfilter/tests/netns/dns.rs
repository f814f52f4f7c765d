//! Tests of the redirection of DNS queries.

use kermode_netfilter::{DnsRedirect, DnsServers, TrafficConfig, parse_uid_exclusions};

use crate::lab::{APP_UID, NetnsLab, PROXY_UID, Transport, request_from};

/// UID whose DNS queries over UDP some tests exclude from redirection, with [`DNS_EXCLUSION`].
const EXCLUDED_UID: u32 = 1234;
/// Exclusion of the DNS queries of [`EXCLUDED_UID`].
const DNS_EXCLUSION: &str = "udp:53:1234";

fn with_dns(dns: DnsRedirect) -> TrafficConfig {
    TrafficConfig {
        dns: Some(dns),
        ..TrafficConfig::default()
    }
}

/// Returns settings that redirect the queries to all servers.
fn all_queries() -> DnsRedirect {
    DnsRedirect::all(DnsRedirect::DEFAULT_PORT)
}

#[test]
fn queries_of_the_application_go_to_the_proxy_and_those_of_the_proxy_to_the_server() {
    let lab = NetnsLab::with_rules(&with_dns(all_queries()));
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_redirected(&lab, server);
        assert_eq!(lab.pod_udp(PROXY_UID, server), "server");
        assert!(
            lab.pod_tcp(PROXY_UID, server).starts_with("server from "),
            "{}",
            lab.pod_tcp(PROXY_UID, server)
        );
    }
}

#[test]
fn queries_to_localhost_go_to_the_proxy() {
    let lab = NetnsLab::with_rules(&with_dns(all_queries()));
    for server in ["127.0.0.1:53", "[::1]:53"] {
        assert_redirected(&lab, server);
    }
}

/// Asserts that queries of the application over UDP and TCP reach the proxy. The responses of the proxy start with
/// `dns`, those of the server with `server`.
fn assert_redirected(lab: &NetnsLab, server: &str) {
    assert_eq!(lab.pod_udp(APP_UID, server), "dns");
    assert!(
        lab.pod_tcp(APP_UID, server).starts_with("dns to "),
        "{}",
        lab.pod_tcp(APP_UID, server)
    );
}

#[test]
fn other_udp_traffic_is_not_redirected() {
    let lab = NetnsLab::with_rules(&with_dns(all_queries()));
    assert_eq!(lab.pod_udp(APP_UID, "10.1.2.1:443"), "server");
    assert_eq!(lab.pod_udp(APP_UID, "[fd02::1]:443"), "server");
}

#[test]
fn queries_over_udp_are_not_redirected_without_dns_settings() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(lab.pod_udp(APP_UID, "10.1.2.1:53"), "server");
    // Queries over TCP are redirected like all outbound TCP connections.
    assert_eq!(
        lab.pod_tcp(APP_UID, "10.1.2.1:53"),
        "outbound to 10.1.2.1:53 from 10.1.2.2"
    );
}

#[test]
fn only_queries_to_listed_servers_are_redirected() {
    let servers = ["10.1.2.9", "fd02::1"]
        .map(|text| text.parse().expect("an address"))
        .to_vec();
    let lab = NetnsLab::with_rules(&with_dns(DnsRedirect {
        servers: DnsServers::Only(servers),
        ..all_queries()
    }));
    assert_eq!(lab.pod_udp(APP_UID, "10.1.2.9:53"), "dns");
    assert_eq!(lab.pod_udp(APP_UID, "[fd02::1]:53"), "dns");
    assert_eq!(lab.pod_udp(APP_UID, "10.1.2.1:53"), "server");
    assert_eq!(lab.pod_udp(PROXY_UID, "[fd02::1]:53"), "server");
    // Only rule 7 of docs/reference/transparent-proxying.md#rules (connections to localhost) prevents the redirection
    // of these connections: rule 5 (other connections on loopback) does not apply to port 53.
    assert!(
        lab.pod_tcp(APP_UID, "127.0.0.1:53").contains("refused"),
        "a connection to a port without listener must not be redirected"
    );
    assert!(
        lab.pod_tcp(APP_UID, "[::1]:53").contains("refused"),
        "a connection to a port without listener must not be redirected"
    );
}

/// Sends a query from a fixed source port, so that the queries of two UIDs collide in connection tracking.
fn query_from_fixed_port(lab: &NetnsLab, uid: u32) -> String {
    request_from(
        &lab.pod,
        uid,
        Transport::Udp,
        Some("10.1.2.2:40000"),
        "10.1.2.1:53",
    )
}

/// Returns the response to the proxy's query after a query of the application.
fn proxy_response_after_application_query(lab: &NetnsLab) -> String {
    assert_eq!(query_from_fixed_port(lab, APP_UID), "dns");
    query_from_fixed_port(lab, PROXY_UID)
}

#[test]
fn query_of_the_proxy_does_not_collide_with_a_redirected_query() {
    assert_eq!(
        proxy_response_after_application_query(&NetnsLab::with_rules(&with_dns(all_queries()))),
        "server"
    );
}

/// Shows that queries of the proxy need a connection tracking zone of their own (`split_conntrack_zones`), and that the
/// previous test would detect a collision.
#[test]
fn query_of_the_proxy_collides_with_a_redirected_query_without_zones() {
    let lab = NetnsLab::with_rules(&with_dns(DnsRedirect {
        split_conntrack_zones: false,
        ..all_queries()
    }));
    assert_eq!(proxy_response_after_application_query(&lab), "dns");
}

#[test]
fn redirected_query_does_not_collide_with_a_query_of_an_excluded_uid() {
    let mut config = with_dns(all_queries());
    config.outbound.uid_exclusions =
        parse_uid_exclusions("key", None, DNS_EXCLUSION).expect("valid exclusions");
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(query_from_fixed_port(&lab, EXCLUDED_UID), "server");
    assert_eq!(query_from_fixed_port(&lab, APP_UID), "dns");
}

#[test]
fn stateful_firewall_accepts_responses_to_queries_that_were_not_redirected() {
    let mut config = with_dns(all_queries());
    config.outbound.uid_exclusions =
        parse_uid_exclusions("key", None, DNS_EXCLUSION).expect("valid exclusions");
    let lab = NetnsLab::with_rules(&config);
    let firewall = "table inet firewall {
        chain input {
            type filter hook input priority filter; policy accept;
            iifname != \"lo\" udp sport 53 ct state new drop
        }
    }
    ";
    lab.pod.command("nft", &["-f", "-"], firewall);
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_eq!(lab.pod_udp(PROXY_UID, server), "server");
        assert_eq!(lab.pod_udp(EXCLUDED_UID, server), "server");
    }
}
