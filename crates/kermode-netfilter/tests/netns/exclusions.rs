//! Tests of UID exclusions that are given by annotations. Each simulated server of the lab responds with its name:
//! `server` if the traffic is excluded, and `outbound` or `dns` if the traffic is redirected to the sidecar.

use kermode_netfilter::TrafficConfig;

use crate::lab::{APP_UID, NetnsLab};

fn mk_lab(annotations: &[(&str, &str)]) -> NetnsLab {
    let dns = [("kuma.io/builtin-dns", "enabled")];
    let pairs = dns
        .iter()
        .chain(annotations)
        .map(|&(key, value)| (key.to_owned(), value.to_owned()));
    NetnsLab::with_rules(&TrafficConfig::from_annotations(&pairs.collect()).expect("valid annotations"))
}

const TCP_KEY: &str = "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids";
const UDP_KEY: &str = "traffic.kuma.io/exclude-outbound-udp-ports-for-uids";
/// The setting for both protocols: its items may name protocols.
const GENERAL_KEY: &str = "traffic.kuma.io/exclude-outbound-ports-for-uids";

/// Returns whether TCP connections of a user reach the server instead of the sidecar, over IPv4 and over IPv6.
fn reaches_server(lab: &NetnsLab, uid: u32, port: u16) -> [bool; 2] {
    let reaches = |target: String| lab.pod_tcp(uid, &target).starts_with("server from ");
    [
        reaches(format!("10.1.2.1:{port}")),
        reaches(format!("[fd02::1]:{port}")),
    ]
}

#[test]
fn example_from_kumas_documentation_excludes_one_port_of_one_user() {
    let lab = mk_lab(&[(TCP_KEY, "443:1234"), (UDP_KEY, "53:1234")]);
    assert_eq!(reaches_server(&lab, 1234, 443), [true; 2]);
    assert_eq!(
        reaches_server(&lab, 1234, 80),
        [false; 2],
        "another port of the excluded user"
    );
    assert_eq!(
        reaches_server(&lab, APP_UID, 443),
        [false; 2],
        "the same port of another user"
    );
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_eq!(lab.pod_udp(1234, server), "server");
        assert_eq!(lab.pod_udp(APP_UID, server), "dns");
        assert!(
            lab.pod_tcp(1234, server).starts_with("dns "),
            "TCP 53 is not excluded by the UDP annotation"
        );
    }
}

#[test]
fn exclusion_of_one_protocol_does_not_affect_the_other_protocol() {
    let lab = mk_lab(&[(TCP_KEY, "53:1234")]);
    assert_eq!(lab.pod_udp(1234, "10.1.2.1:53"), "dns");
    assert_eq!(reaches_server(&lab, 1234, 53), [true; 2]);
}

#[test]
fn lists_and_ranges_of_ports_and_uids_are_excluded() {
    let lab = mk_lab(&[(TCP_KEY, "80,440-450:103,106-108;*:1000660000-1000669999")]);
    for uid in [103, 106, 108] {
        assert_eq!(
            (reaches_server(&lab, uid, 80), reaches_server(&lab, uid, 443)),
            ([true; 2], [true; 2]),
            "{uid}"
        );
        assert_eq!(reaches_server(&lab, uid, 2000), [false; 2], "{uid}");
    }
    assert_eq!(reaches_server(&lab, 105, 80), [false; 2]);
    assert_eq!(reaches_server(&lab, 1_000_665_432, 2000), [true; 2]);
    assert_eq!(reaches_server(&lab, 1_000_670_000, 2000), [false; 2]);
}

#[test]
fn uids_above_65535_are_not_truncated() {
    let lab = mk_lab(&[(TCP_KEY, "443:70000"), (UDP_KEY, "53:70000")]);
    assert_eq!(reaches_server(&lab, 70000, 443), [true; 2]);
    assert_eq!(lab.pod_udp(70000, "10.1.2.1:53"), "server");
    assert_eq!(reaches_server(&lab, 70000 % 65536, 443), [false; 2]);
}

#[test]
fn uids_without_protocols_and_ports_cover_both_protocols_and_all_ports() {
    let lab = mk_lab(&[(GENERAL_KEY, "1234")]);
    assert_eq!(
        (reaches_server(&lab, 1234, 80), reaches_server(&lab, 1234, 53)),
        ([true; 2], [true; 2])
    );
    assert_eq!(lab.pod_udp(1234, "10.1.2.1:53"), "server");
}
