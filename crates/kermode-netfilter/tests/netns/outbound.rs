//! Tests of outgoing connections. Rules are numbered as in docs/reference/transparent-proxying.md#rules.

use kermode_netfilter::{DnsRedirect, PortSet, TrafficConfig, virtual_network};

use crate::lab::{APP, NetnsLab, POD, POD_V6, PROXY, Transport, request_from};

#[test]
fn connections_of_the_application_are_redirected_with_their_original_destination() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(
        lab.tcp(APP, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
    assert_eq!(
        lab.tcp(APP, "[fd02::1]:80"),
        "outbound to [fd02::1]:80 from fd02::2"
    );
    assert_eq!(
        lab.tcp(0, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2",
        "connections of root are redirected too"
    );
}

#[test]
fn rule_1_excluded_outbound_ports_reach_the_server() {
    let mut config = TrafficConfig::default();
    config.outbound.excluded_ports = PortSet::from_iter([(443, 443), (2000, 2010)]);
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.tcp(APP, "10.1.2.1:2000"), "server from 10.1.2.2");
    assert_eq!(lab.tcp(APP, "[fd02::1]:443"), "server from fd02::2");
    assert_eq!(
        lab.tcp(APP, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
}

#[test]
fn rule_2_the_inbound_listener_reaches_the_application_from_its_own_source() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    let from = |source, target| request_from(&lab.pod, PROXY, Transport::Tcp, Some(source), target);
    assert_eq!(from("127.0.0.6:0", POD), "app from 127.0.0.6");
    assert_eq!(from("[::6]:0", POD_V6), "app from ::6");
}

#[test]
fn rule_3_the_proxy_calling_the_pod_itself_goes_through_the_inbound_listener() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(lab.tcp(PROXY, POD), "inbound to 10.1.1.2:8080 from 10.1.1.2");
    assert_eq!(
        lab.tcp(PROXY, POD_V6),
        "inbound-v6 to [fd01::2]:8080 from fd01::2"
    );
}

#[test]
fn rule_3_holds_for_gateways_too() {
    let mut config = TrafficConfig::default();
    config.inbound.enabled = false;
    assert_eq!(
        NetnsLab::new(&config).tcp(PROXY, POD),
        "inbound to 10.1.1.2:8080 from 10.1.1.2"
    );
}

#[test]
fn rule_4_the_application_reaches_itself_without_the_proxy() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(lab.tcp(APP, POD), "app from 10.1.1.2");
    assert_eq!(lab.tcp(APP, POD_V6), "app from fd01::2");
}

#[test]
fn rule_5_the_proxys_connections_reach_the_server() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(lab.tcp(PROXY, "10.1.2.1:80"), "server from 10.1.2.2");
    assert_eq!(lab.tcp(PROXY, "[fd02::1]:80"), "server from fd02::2");
}

#[test]
fn rule_7_connections_to_localhost_are_not_redirected() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    for uid in [APP, PROXY] {
        assert_eq!(lab.tcp(uid, "127.0.0.1:8080"), "app from 127.0.0.1");
        assert_eq!(lab.tcp(uid, "[::1]:8080"), "app from ::1");
    }
}

#[test]
fn proxy_uid_above_65535_is_distinguished() {
    let config = TrafficConfig {
        proxy_uid: 70000,
        ..TrafficConfig::default()
    };
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.tcp(70000, "10.1.2.1:80"), "server from 10.1.2.2");
    // 70000 modulo 65536: detects truncation of UIDs to 16 bits.
    assert_eq!(
        lab.tcp(4464, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
}

#[test]
fn traffic_of_a_virtual_network_counts_as_outbound() {
    let config = TrafficConfig {
        virtual_networks: vec![virtual_network("--vnet", "eth+:10.1.1.0/24").expect("valid")],
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.client("10.1.2.1:80"), "outbound to 10.1.2.1:80 from 10.1.1.1");
    assert_eq!(lab.client(POD), "inbound to 10.1.1.2:8080 from 10.1.1.1");
    assert_eq!(lab.client_udp("10.1.2.1:53"), "dns");
}
