//! Tests of outgoing connections. `rule_N` in the name of a test stands for rule N of the outbound chain in
//! docs/reference/transparent-proxying.md#rules.

use kermode_netfilter::{DnsRedirect, PortSet, TrafficConfig, parse_virtual_network};

use crate::lab::{APP_ADDRESS, APP_ADDRESS_V6, APP_UID, NetnsLab, PROXY_UID, Transport, request_from};

#[test]
fn connections_of_the_application_are_redirected_with_their_original_destination() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(
        lab.pod_tcp(APP_UID, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
    assert_eq!(
        lab.pod_tcp(APP_UID, "[fd02::1]:80"),
        "outbound to [fd02::1]:80 from fd02::2"
    );
    assert_eq!(
        lab.pod_tcp(0, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2",
        "connections of root are redirected too"
    );
}

#[test]
fn rule_1_excluded_outbound_ports_reach_the_server() {
    let mut config = TrafficConfig::default();
    config.outbound.excluded_ports = PortSet::from_iter([(443, 443), (2000, 2010)]);
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(lab.pod_tcp(APP_UID, "10.1.2.1:2000"), "server from 10.1.2.2");
    assert_eq!(lab.pod_tcp(APP_UID, "[fd02::1]:443"), "server from fd02::2");
    assert_eq!(
        lab.pod_tcp(APP_UID, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
}

#[test]
fn rule_2_connections_of_the_inbound_listener_reach_the_application() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    let proxy_tcp = |source, target| request_from(&lab.pod, PROXY_UID, Transport::Tcp, Some(source), target);
    // The inbound listener connects to the application from these source addresses.
    assert_eq!(proxy_tcp("127.0.0.6:0", APP_ADDRESS), "app from 127.0.0.6");
    assert_eq!(proxy_tcp("[::6]:0", APP_ADDRESS_V6), "app from ::6");
}

#[test]
fn rule_3_connections_of_the_proxy_to_its_own_pod_go_to_the_inbound_listener() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(
        lab.pod_tcp(PROXY_UID, APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.2"
    );
    assert_eq!(
        lab.pod_tcp(PROXY_UID, APP_ADDRESS_V6),
        "inbound-v6 to [fd01::2]:8080 from fd01::2"
    );
}

#[test]
fn rule_3_applies_to_delegated_gateways_too() {
    let mut config = TrafficConfig::default();
    config.inbound.enabled = false;
    assert_eq!(
        NetnsLab::with_rules(&config).pod_tcp(PROXY_UID, APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.2"
    );
}

#[test]
fn rule_4_connections_of_the_proxy_reach_the_server() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(lab.pod_tcp(PROXY_UID, "10.1.2.1:80"), "server from 10.1.2.2");
    assert_eq!(lab.pod_tcp(PROXY_UID, "[fd02::1]:80"), "server from fd02::2");
}

#[test]
fn rule_5_the_application_reaches_itself_without_the_proxy() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(lab.pod_tcp(APP_UID, APP_ADDRESS), "app from 10.1.1.2");
    assert_eq!(lab.pod_tcp(APP_UID, APP_ADDRESS_V6), "app from fd01::2");
}

#[test]
fn connections_to_localhost_are_not_redirected() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    for uid in [APP_UID, PROXY_UID] {
        assert_eq!(lab.pod_tcp(uid, "127.0.0.1:8080"), "app from 127.0.0.1");
        assert_eq!(lab.pod_tcp(uid, "[::1]:8080"), "app from ::1");
    }
}

#[test]
fn proxy_uid_above_65535_is_not_truncated() {
    let config = TrafficConfig {
        proxy_uid: 70000,
        ..TrafficConfig::default()
    };
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(lab.pod_tcp(70000, "10.1.2.1:80"), "server from 10.1.2.2");
    // 4464 is 70000 modulo 65536: a rule with a truncated proxy UID would take these connections for the proxy's.
    assert_eq!(
        lab.pod_tcp(4464, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
}

#[test]
fn connections_that_the_pod_forwards_are_not_intercepted() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    lab.forward_from_client();
    assert_eq!(lab.client_tcp("10.1.2.1:80"), "server from 10.1.2.2");
    assert_eq!(lab.client_tcp("[fd02::1]:80"), "server from fd02::2");
    assert_eq!(
        lab.client_tcp(APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.1",
        "a connection to the Pod itself is intercepted"
    );
}

#[test]
fn traffic_from_a_virtual_network_to_other_networks_counts_as_outbound() {
    let config = TrafficConfig {
        virtual_networks: vec![parse_virtual_network("--vnet", "eth+:10.1.1.0/24").expect("a valid network")],
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(
        lab.client_tcp("10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.1.1"
    );
    assert_eq!(
        lab.client_tcp(APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.1"
    );
    assert_eq!(lab.client_udp("10.1.2.1:53"), "dns");
}
