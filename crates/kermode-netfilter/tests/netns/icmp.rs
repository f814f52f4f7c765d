//! Test of ICMP, which the rules do not redirect.

use kermode_netfilter::{DnsRedirect, TrafficConfig};

use crate::lab::NetnsLab;

#[test]
fn echo_requests_of_the_pod_and_to_the_pod_get_a_response() {
    let lab = NetnsLab::with_rules(&TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    });
    for server in ["10.1.2.1", "fd02::1"] {
        assert_eq!(lab.pod_ping(server), "ping", "{server}");
    }
    for pod in ["10.1.1.2", "fd01::2"] {
        assert_eq!(lab.client_ping(pod), "ping", "{pod}");
    }
}
