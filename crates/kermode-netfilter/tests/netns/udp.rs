//! Test of UDP to a Service. The rules redirect only the DNS queries.

use kermode_netfilter::{DnsRedirect, TrafficConfig};

use crate::lab::{APP_UID, CLUSTER_IP, CLUSTER_IP_V6, NetnsLab, PROXY_UID};

#[test]
fn datagram_to_a_cluster_ip_reaches_the_server_and_gets_its_response() {
    let with_dns = TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    for config in [TrafficConfig::default(), with_dns] {
        let lab = NetnsLab::with_rules(&config);
        lab.translate_cluster_ips();
        for target in [format!("{CLUSTER_IP}:443"), format!("[{CLUSTER_IP_V6}]:443")] {
            for uid in [APP_UID, 0, PROXY_UID] {
                assert_eq!(lab.pod_udp(uid, &target), "server", "{target} as user {uid}");
            }
        }
    }
}
