//! DNS queries.

use kermode_netfilter::{DnsRedirect, DnsServers, TrafficConfig, uid_exclusions};

use crate::lab::{APP, NetnsLab, PROXY, Transport, ask_from};

fn with_dns(dns: DnsRedirect) -> TrafficConfig {
    TrafficConfig {
        dns: Some(dns),
        ..TrafficConfig::default()
    }
}

fn all() -> DnsRedirect {
    DnsRedirect::all(DnsRedirect::DEFAULT_PORT)
}

#[test]
fn an_applications_queries_go_to_the_proxy_and_the_proxys_own_to_the_server() {
    let lab = NetnsLab::new(&with_dns(all()));
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_eq!(lab.udp(APP, server), "dns");
        assert_eq!(lab.udp(PROXY, server), "server");
        assert!(
            lab.tcp(APP, server).starts_with("dns to "),
            "{}",
            lab.tcp(APP, server)
        );
        assert!(
            lab.tcp(PROXY, server).starts_with("server from "),
            "{}",
            lab.tcp(PROXY, server)
        );
    }
}

#[test]
fn queries_to_localhost_go_to_the_proxy_too() {
    let lab = NetnsLab::new(&with_dns(all()));
    for server in ["127.0.0.1:53", "[::1]:53"] {
        assert_eq!(lab.udp(APP, server), "dns");
        assert!(
            lab.tcp(APP, server).starts_with("dns to "),
            "{}",
            lab.tcp(APP, server)
        );
    }
}

#[test]
fn other_udp_is_left_alone() {
    let lab = NetnsLab::new(&with_dns(all()));
    assert_eq!(lab.udp(APP, "10.1.2.1:443"), "server");
    assert_eq!(lab.udp(APP, "[fd02::1]:443"), "server");
}

#[test]
fn without_dns_settings_queries_over_udp_are_left_alone() {
    let lab = NetnsLab::new(&TrafficConfig::default());
    assert_eq!(lab.udp(APP, "10.1.2.1:53"), "server");
    assert_eq!(
        lab.tcp(APP, "10.1.2.1:53"),
        "outbound to 10.1.2.1:53 from 10.1.2.2"
    );
}

#[test]
fn only_listed_servers_are_redirected_when_there_is_a_list() {
    let servers = ["10.1.2.9", "fd02::1"]
        .map(|text| text.parse().expect("address"))
        .to_vec();
    let lab = NetnsLab::new(&with_dns(DnsRedirect {
        servers: DnsServers::Only(servers),
        ..all()
    }));
    assert_eq!(lab.udp(APP, "10.1.2.9:53"), "dns");
    assert_eq!(lab.udp(APP, "[fd02::1]:53"), "dns");
    assert_eq!(lab.udp(APP, "10.1.2.1:53"), "server");
    assert_eq!(lab.udp(PROXY, "[fd02::1]:53"), "server");
    // Rule 7 of the outbound chain, which no other test meets: rule 4 leaves port 53 out.
    assert!(
        lab.tcp(APP, "127.0.0.1:53").contains("refused"),
        "nobody listens, and it goes nowhere else"
    );
    assert!(
        lab.tcp(APP, "[::1]:53").contains("refused"),
        "nobody listens, and it goes nowhere else"
    );
}

/// The application's query and the proxy's own have the same addresses and ports in turn.
fn proxys_answer_after_the_applications(lab: &NetnsLab) -> String {
    let query = |uid| {
        ask_from(
            &lab.pod,
            uid,
            Transport::Udp,
            Some("10.1.2.2:40000"),
            "10.1.2.1:53",
        )
    };
    assert_eq!(query(APP), "dns");
    query(PROXY)
}

#[test]
fn the_proxys_query_does_not_collide_with_a_redirected_one() {
    assert_eq!(
        proxys_answer_after_the_applications(&NetnsLab::new(&with_dns(all()))),
        "server"
    );
}

/// Shows that the test above can fail: this is what the zones are for.
#[test]
fn without_zones_the_proxys_query_collides_with_a_redirected_one() {
    let lab = NetnsLab::new(&with_dns(DnsRedirect {
        split_conntrack_zones: false,
        ..all()
    }));
    assert_eq!(proxys_answer_after_the_applications(&lab), "dns");
}

#[test]
fn a_query_of_an_excluded_user_does_not_collide_with_a_redirected_one() {
    let mut config = with_dns(all());
    config.outbound.excluded_uids = uid_exclusions("key", None, "udp:53:1234").expect("legal");
    let lab = NetnsLab::new(&config);
    let query = |uid| {
        ask_from(
            &lab.pod,
            uid,
            Transport::Udp,
            Some("10.1.2.2:40000"),
            "10.1.2.1:53",
        )
    };
    assert_eq!((query(1234), query(APP)), ("server".to_owned(), "dns".to_owned()));
}

#[test]
fn a_stateful_firewall_in_the_pod_knows_the_answers_to_queries_that_were_not_redirected() {
    let mut config = with_dns(all());
    config.outbound.excluded_uids = uid_exclusions("key", None, "udp:53:1234").expect("legal");
    let lab = NetnsLab::new(&config);
    let firewall = "table inet firewall {
        chain input {
            type filter hook input priority filter; policy accept;
            iifname != \"lo\" udp sport 53 ct state new drop
        }
    }
    ";
    lab.pod.command("nft", &["-f", "-"], firewall);
    for server in ["10.1.2.1:53", "[fd02::1]:53"] {
        assert_eq!(lab.udp(PROXY, server), "server");
        assert_eq!(lab.udp(1234, server), "server");
    }
}
