//! Tests of UID exclusions, from annotations to the accepting server.

use kermode_netfilter::TrafficConfig;

use crate::lab::{APP, NetnsLab};

fn lab(annotations: &[(&str, &str)]) -> NetnsLab {
    let dns = [("kuma.io/builtin-dns", "enabled")];
    let pairs = dns
        .iter()
        .chain(annotations)
        .map(|&(key, value)| (key.to_owned(), value.to_owned()));
    NetnsLab::new(&TrafficConfig::from_annotations(&pairs.collect()).expect("valid"))
}

const TCP: &str = "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids";
const UDP: &str = "traffic.kuma.io/exclude-outbound-udp-ports-for-uids";
const BOTH: &str = "traffic.kuma.io/exclude-outbound-ports-for-uids";

fn reaches_server(lab: &NetnsLab, uid: u32, port: u16) -> [bool; 2] {
    let server = |target: String| lab.tcp(uid, &target).starts_with("server from ");
    [
        server(format!("10.1.2.1:{port}")),
        server(format!("[fd02::1]:{port}")),
    ]
}

#[test]
fn example_of_the_manual_page_excludes_an_init_container() {
    let lab = lab(&[(TCP, "443:1234"), (UDP, "53:1234")]);
    assert_eq!(reaches_server(&lab, 1234, 443), [true; 2]);
    assert_eq!(
        reaches_server(&lab, 1234, 80),
        [false; 2],
        "another port of the user"
    );
    assert_eq!(
        reaches_server(&lab, APP, 443),
        [false; 2],
        "another user of the port"
    );
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_eq!(lab.udp(1234, server), "server");
        assert_eq!(lab.udp(APP, server), "dns");
        assert!(
            lab.tcp(1234, server).starts_with("dns "),
            "TCP 53 is not excluded by the UDP annotation"
        );
    }
}

#[test]
fn exclusion_of_one_protocol_does_not_affect_the_other() {
    let lab = lab(&[(TCP, "53:1234")]);
    assert_eq!(lab.udp(1234, "10.1.2.1:53"), "dns");
    assert_eq!(reaches_server(&lab, 1234, 53), [true; 2]);
}

#[test]
fn lists_and_ranges_of_ports_and_uids_are_excluded() {
    let lab = lab(&[(TCP, "80,440-450:103,106-108;*:1000660000-1000669999")]);
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
fn uids_above_65535_are_distinguished() {
    let lab = lab(&[(TCP, "443:70000"), (UDP, "53:70000")]);
    assert_eq!(reaches_server(&lab, 70000, 443), [true; 2]);
    assert_eq!(lab.udp(70000, "10.1.2.1:53"), "server");
    assert_eq!(reaches_server(&lab, 70000 % 65536, 443), [false; 2]);
}

#[test]
fn general_form_covers_both_protocols_and_all_ports() {
    let lab = lab(&[(BOTH, "1234")]);
    assert_eq!(
        (reaches_server(&lab, 1234, 80), reaches_server(&lab, 1234, 53)),
        ([true; 2], [true; 2])
    );
    assert_eq!(lab.udp(1234, "10.1.2.1:53"), "server");
}
