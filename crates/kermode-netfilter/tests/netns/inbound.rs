//! Tests of incoming connections.

use kermode_netfilter::{PortSet, TrafficConfig};

use crate::lab::{NetnsLab, POD, POD_V6};

#[test]
fn received_connections_are_redirected_with_their_original_destination() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(lab.client(POD), "inbound to 10.1.1.2:8080 from 10.1.1.1");
    assert_eq!(lab.client(POD_V6), "inbound-v6 to [fd01::2]:8080 from fd01::1");
    assert_eq!(
        lab.client("10.1.1.2:1"),
        "inbound to 10.1.1.2:1 from 10.1.1.1",
        "a port without listener"
    );
}

#[test]
fn excluded_inbound_ports_reach_the_application() {
    let mut config = TrafficConfig::default();
    config.inbound.excluded_ports = PortSet::from_iter([(1, 2), (8080, 8080)]);
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.client(POD), "app from 10.1.1.1");
    assert_eq!(lab.client(POD_V6), "app from fd01::1");
    assert_eq!(
        lab.client("10.1.1.2:9000"),
        "inbound to 10.1.1.2:9000 from 10.1.1.1"
    );
}

#[test]
fn received_connections_of_a_gateway_are_not_intercepted() {
    let mut config = TrafficConfig::default();
    config.inbound.enabled = false;
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.client(POD), "app from 10.1.1.1");
    assert_eq!(lab.client(POD_V6), "app from fd01::1");
}

#[test]
fn ipv6_may_share_the_port_of_ipv4() {
    let mut config = TrafficConfig::default();
    config.inbound.port_v6 = Some(config.inbound.port);
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.client(POD_V6), "inbound to [fd01::2]:8080 from fd01::1");
}

#[test]
fn ipv6_is_not_intercepted_without_a_port() {
    let mut config = TrafficConfig::default();
    config.inbound.port_v6 = None;
    let lab = NetnsLab::new(&config);
    assert_eq!(lab.client(POD), "inbound to 10.1.1.2:8080 from 10.1.1.1");
    assert_eq!(lab.client(POD_V6), "app from fd01::1");
    assert_eq!(lab.tcp(crate::lab::APP, "[fd02::1]:80"), "server from fd02::2");
}
