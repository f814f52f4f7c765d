//! Tests of applying rules, and of the check of the redirection. The response to a connection names the listener of the
//! lab that received the connection: `outbound`, `inbound` and `inbound-v6` of the simulated proxy, `app` or `server`.

use std::time::{Duration, Instant};

use kermode_netfilter::{
    CheckError, CheckOutcome, DnsRedirect, IpFamilies, Nft, PortSet, RuleSet, TrafficConfig, check_redirect,
    set_up,
};

use crate::golden;
use crate::lab::{APP_ADDRESS, APP_ADDRESS_V6, APP_UID, Namespace, NetnsLab};

/// Timeout of each step of the check.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

fn list_rules(lab: &NetnsLab) -> String {
    lab.pod.command("nft", &["-s", "list", "ruleset"], "")
}

#[test]
fn rules_of_every_golden_test_are_accepted_by_the_real_nft() {
    let namespace = Namespace::new();
    for case in golden::cases() {
        let checked = namespace.run(|| Nft::default().check(&case.rules()));
        assert!(checked.is_ok(), "{}: {checked:?}", case.golden_path().display());
    }
}

#[test]
fn extreme_values_of_annotations_are_accepted_by_the_real_nft() {
    let namespace = Namespace::new();
    let every_second = |count: u32| {
        let numbers: Vec<_> = (0..count).map(|number| (number * 2).to_string()).collect();
        numbers.join(",")
    };
    let ports = every_second(900);
    let uids = format!("*:{}", every_second(900));
    let zeros = "0;".repeat(2048);
    for (key, value) in [
        ("kuma.io/sidecar-uid", "4294967294"),
        ("kuma.io/transparent-proxying-outbound-port", "65535"),
        ("traffic.kuma.io/exclude-inbound-ports", "0,0-65535,1,65535"),
        ("traffic.kuma.io/exclude-inbound-ports", ports.as_str()),
        ("traffic.kuma.io/exclude-outbound-ports", " ,, 3-4 ,2-3,\t5,, "),
        ("traffic.kuma.io/exclude-outbound-ports-for-uids", "0-4294967295"),
        (
            "traffic.kuma.io/exclude-outbound-ports-for-uids",
            "4294967295;*:*:0;tcp,udp,*:0:7",
        ),
        ("traffic.kuma.io/exclude-outbound-ports-for-uids", zeros.as_str()),
        (
            "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids",
            uids.as_str(),
        ),
        (
            "traffic.kuma.io/exclude-outbound-udp-ports-for-uids",
            "0-65535:0-4294967295",
        ),
        (
            "traffic.kuma.io/virtual-networks",
            "lo:0.0.0.0/0,a:::/0,a:::/0,b@._-0123456789:10.1.2.3/8",
        ),
        (
            "traffic.kuma.io/virtual-networks",
            "fourteen-bytes+:::ffff:1.2.3.4/96",
        ),
    ] {
        let annotations = [("kuma.io/builtin-dns", "enabled"), (key, value)];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = TrafficConfig::from_annotations(&annotations.into()).expect("a valid value");
        let rules = RuleSet::new(&config, IpFamilies::DualStack);
        let checked = namespace.run(|| Nft::default().check(&rules));
        assert!(checked.is_ok(), "{key} {value:.80}: {checked:?}");
    }
}

#[test]
fn applying_the_same_rules_twice_changes_nothing() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    let rules_after_first_call = list_rules(&lab);
    lab.apply(&TrafficConfig::default());
    assert_eq!(list_rules(&lab), rules_after_first_call);
    assert_eq!(
        lab.pod_tcp(APP_UID, "10.1.2.1:80"),
        "outbound to 10.1.2.1:80 from 10.1.2.2"
    );
}

#[test]
fn applying_replaces_earlier_rules_and_does_not_change_other_tables() {
    let lab = NetnsLab::without_rules();
    let other_table = "table inet other {\n\tchain output {\n\t\ttype filter hook output priority filter; policy accept;\n\t\ttcp dport 9 drop\n\t}\n}\n";
    lab.pod.command("nft", &["-f", "-"], other_table);
    lab.apply(&TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    });
    let mut config = TrafficConfig::default();
    config.outbound.excluded_ports = PortSet::single(80);
    lab.apply(&config);
    assert_eq!(
        lab.pod_udp(APP_UID, "10.1.2.1:53"),
        "server",
        "the second call of `apply` removes the DNS rules of the first"
    );
    assert_eq!(lab.pod_tcp(APP_UID, "10.1.2.1:80"), "server from 10.1.2.2");
    assert!(list_rules(&lab).contains(other_table), "{}", list_rules(&lab));
}

#[test]
fn rejected_rules_change_nothing() {
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    let before = list_rules(&lab);
    // Other chains jump to the last chain, so the rules without it are invalid.
    let mut broken = RuleSet::new(&TrafficConfig::default(), IpFamilies::V4);
    broken.chains.pop();
    let result = lab.pod.run(|| Nft::default().apply(&broken));
    assert!(result.is_err(), "nft accepted a jump to a missing chain");
    assert_eq!(list_rules(&lab), before);
}

#[test]
fn rules_are_found_without_a_change_of_them() {
    let lab = NetnsLab::without_rules();
    let has_rules = || lab.pod.run(|| Nft::default().has_rules());
    assert!(matches!(has_rules(), Ok(false)), "{:?}", has_rules());
    lab.pod
        .command("nft", &["add", "table", "inet", "kuma_mesh2"], "");
    assert!(
        matches!(has_rules(), Ok(false)),
        "a table of a similar name: {:?}",
        has_rules()
    );
    lab.apply(&TrafficConfig::default());
    let before = list_rules(&lab);
    assert!(matches!(has_rules(), Ok(true)), "{:?}", has_rules());
    assert_eq!(list_rules(&lab), before);
}

#[test]
fn failure_of_nft_does_not_count_as_missing_rules() {
    // This program fails without an error about the table.
    let result = Nft::at("/bin/false").has_rules();
    assert!(result.is_err(), "{result:?}");
}

#[test]
fn pod_without_ipv6_gets_ipv4_rules_only() {
    let lab = NetnsLab::without_ipv6();
    let applied = lab.apply(&TrafficConfig::default());
    assert_eq!(applied.families, IpFamilies::V4);
    assert_eq!(
        lab.client_tcp(APP_ADDRESS),
        "inbound to 10.1.1.2:8080 from 10.1.1.1"
    );
    assert_eq!(lab.pod_tcp(APP_UID, "[::1]:8080"), "app from ::1");
    // Applying rules for IPv6 adds the address `::6` to the loopback interface.
    let addresses = lab.pod.command("ip", &["-6", "addr", "show", "lo"], "");
    assert!(!addresses.contains("::6/128"), "{addresses}");
}

#[test]
fn ipv6_is_redirected_if_the_pod_has_an_ipv6_address() {
    let lab = NetnsLab::without_rules();
    assert_eq!(
        lab.client_tcp(APP_ADDRESS_V6),
        "app from fd01::1",
        "without rules"
    );
    assert_eq!(
        lab.apply(&TrafficConfig::default()).families,
        IpFamilies::DualStack
    );
    assert_eq!(
        lab.client_tcp(APP_ADDRESS_V6),
        "inbound-v6 to [fd01::2]:8080 from fd01::1"
    );
}

/// Creates a pod without a proxy, because the check itself listens on the proxy's outbound port.
fn pod_without_proxy() -> Namespace {
    let pod = Namespace::new();
    pod.ip("link add eth0 type veth peer name eth1");
    pod.ip("link set eth0 up");
    pod.ip("link set eth1 up");
    pod.ip("addr add 10.1.1.2/24 dev eth0");
    pod.ip("route add default via 10.1.1.1");
    pod.ip("addr add fd01::2/64 dev eth0 nodad");
    pod.ip("-6 route add default via fd01::1");
    pod
}

#[test]
fn check_succeeds_for_both_ip_families() {
    let pod = pod_without_proxy();
    let config = TrafficConfig::default();
    let checked = pod.run(|| {
        let applied = set_up(&config, &Nft::default()).expect("the rules are accepted");
        check_redirect(&config, applied.families, STEP_TIMEOUT)
    });
    assert!(
        matches!(&checked, Ok(CheckOutcome::Redirected(targets)) if targets.len() == 2),
        "{checked:?}"
    );
}

#[test]
fn check_without_rules_fails() {
    let pod = pod_without_proxy();
    let checked = pod.run(|| {
        check_redirect(
            &TrafficConfig::default(),
            IpFamilies::V4,
            Duration::from_millis(300),
        )
    });
    assert!(
        matches!(checked, Err(CheckError::NotRedirected { .. })),
        "{checked:?}"
    );
}

#[test]
fn check_that_is_not_possible_gives_the_reason() {
    // The simulated proxy of the lab listens on port 15001.
    let lab = NetnsLab::with_rules(&TrafficConfig::default());
    let port_in_use = lab
        .pod
        .run(|| check_redirect(&TrafficConfig::default(), IpFamilies::V4, STEP_TIMEOUT));
    assert!(
        matches!(&port_in_use, Ok(CheckOutcome::NotPossible(reason)) if reason.contains("15001")),
        "{port_in_use:?}"
    );
    // The test runs as root.
    let config = TrafficConfig {
        proxy_uid: 0,
        ..TrafficConfig::default()
    };
    let own_uid_is_proxy_uid = lab
        .pod
        .run(|| check_redirect(&config, IpFamilies::V4, STEP_TIMEOUT));
    assert!(
        matches!(&own_uid_is_proxy_uid, Ok(CheckOutcome::NotPossible(reason)) if reason.contains("UID 0")),
        "{own_uid_is_proxy_uid:?}"
    );
    let isolated = Namespace::new();
    let no_route = isolated.run(|| check_redirect(&TrafficConfig::default(), IpFamilies::V4, STEP_TIMEOUT));
    assert!(
        matches!(&no_route, Ok(CheckOutcome::NotPossible(reason)) if reason.contains("route")),
        "{no_route:?}"
    );
}

/// Prints durations, which should be below 20 ms. The test does not assert this, because the machine may be busy.
#[test]
fn time_of_applying_rules_is_printed() {
    let lab = NetnsLab::without_rules();
    let config = TrafficConfig {
        dns: Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT)),
        ..TrafficConfig::default()
    };
    let mut times: Vec<_> = (0..11)
        .map(|_| {
            let start = Instant::now();
            lab.apply(&config);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "rules applied: best {:.1?}, median {:.1?}, worst {:.1?}",
        times[0], times[5], times[10]
    );
}
