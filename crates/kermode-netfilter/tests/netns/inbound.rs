//! Tests of incoming connections. A response begins with the name of the simulated server that received the connection:
//! `inbound` or `inbound-v6` of the simulated proxy, `app` (the application) or `server`.

use kermode_netfilter::{PortSet, TrafficConfig};

use crate::lab::{APP_ADDRESS, APP_ADDRESS_V6, NetnsLab};

#[test]
fn received_connections_are_redirected_with_their_original_destination() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    assert_eq!(
        lab.client_tcp(APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.1"
    );
    assert_eq!(
        lab.client_tcp(APP_ADDRESS_V6),
        "inbound-v6 to [fd01::2]:8080 from fd01::1"
    );
    assert_eq!(
        lab.client_tcp("10.1.1.2:1"),
        "inbound to 10.1.1.2:1 from 10.1.1.1",
        "a port on which no application listens is redirected too"
    );
}

#[test]
fn excluded_inbound_ports_reach_the_application() {
    let mut config = TrafficConfig::default();
    config.inbound.excluded_ports = PortSet::from_iter([(1, 2), (8080, 8080)]);
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(lab.client_tcp(APP_ADDRESS), "app from 10.1.1.1");
    assert_eq!(lab.client_tcp(APP_ADDRESS_V6), "app from fd01::1");
    assert_eq!(
        lab.client_tcp("10.1.1.2:9000"),
        "inbound to 10.1.1.2:9000 from 10.1.1.1",
        "a port that is not excluded is redirected"
    );
}

#[test]
fn received_connections_of_a_gateway_are_not_redirected() {
    let mut config = TrafficConfig::default();
    config.inbound.enabled = false;
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(lab.client_tcp(APP_ADDRESS), "app from 10.1.1.1");
    assert_eq!(lab.client_tcp(APP_ADDRESS_V6), "app from fd01::1");
}

#[test]
fn ipv6_may_share_the_port_of_ipv4() {
    let mut config = TrafficConfig::default();
    config.inbound.port_v6 = Some(config.inbound.port);
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(
        lab.client_tcp(APP_ADDRESS_V6),
        "inbound to [fd01::2]:8080 from fd01::1"
    );
}

#[test]
fn ipv6_is_not_redirected_without_an_inbound_port_for_ipv6() {
    let mut config = TrafficConfig::default();
    config.inbound.port_v6 = None;
    let lab = NetnsLab::with_rules(&config);
    assert_eq!(
        lab.client_tcp(APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.1"
    );
    assert_eq!(lab.client_tcp(APP_ADDRESS_V6), "app from fd01::1");
    assert_eq!(
        lab.pod_tcp(crate::lab::APP_UID, "[fd02::1]:80"),
        "server from fd02::2",
        "outgoing connections over IPv6 are not redirected either"
    );
}
