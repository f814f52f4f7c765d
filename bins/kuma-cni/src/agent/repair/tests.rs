//! Tests of repairs in real network namespaces. They require root.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

#[allow(dead_code, reason = "other tests use the rest of the module")]
#[path = "../../../../../crates/kermode-netfilter/tests/netns/lab/namespace.rs"]
mod lab;

use lab::Namespace;

fn mk_pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "cart-1", "namespace": "shop", "uid": "uid-1",
            "annotations": {"kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "70000"},
        },
        "spec": {
            "initContainers": [{"name": "kuma-validation"}],
            "containers": [{"name": "kuma-sidecar"}, {"name": "app"}],
        },
        "status": {"phase": "Pending", "podIPs": [{"ip": "10.1.1.2"}, {"ip": "fd01::2"}]},
    });
    change(&mut pod);
    serde_json::from_value(pod).expect("a Pod")
}

/// Creates a folder in which each network namespace has a file.
fn mk_folder(namespaces: &[&Namespace]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (index, namespace) in namespaces.iter().enumerate() {
        symlink(namespace.path(), folder.path().join(format!("cni-{index}"))).expect("a link");
    }
    folder
}

/// Returns the networks in a folder of namespaces, without records of the container runtime.
fn mk_sandboxes(namespaces: &Path) -> Sandboxes {
    Sandboxes::new(namespaces.join("results"), namespaces.to_owned())
}

fn mk_namespace(address: &str) -> Namespace {
    let namespace = Namespace::new();
    namespace.ip("link add eth0 type veth peer name eth1");
    namespace.ip(&format!("addr add {address} dev eth0"));
    namespace
}

fn rules(namespace: &Namespace) -> String {
    namespace.command("nft", &["list", "ruleset"], "")
}

#[test]
fn pod_without_rules_gets_the_rules_of_its_annotations_and_other_pods_get_none() {
    let (other, pod) = (mk_namespace("10.1.1.3/24"), mk_namespace("10.1.1.2/24"));
    let folder = mk_folder(&[&other, &pod]);
    // The runtime has not mounted the namespace of another Pod yet.
    std::fs::write(folder.path().join("cni-new"), "").expect("a file");
    let candidate = candidate(mk_pod(|_| {})).expect("a candidate");
    let nft = Nft::at("/usr/sbin/nft");
    assert_eq!(
        repair(&mk_sandboxes(folder.path()), &candidate, &nft),
        Ok(Outcome::Repaired)
    );
    assert!(rules(&pod).contains("meta skuid 70000 return"), "{}", rules(&pod));
    assert_eq!(rules(&other), "");
    assert_eq!(
        repair(&mk_sandboxes(folder.path()), &candidate, &nft),
        Ok(Outcome::HasRules)
    );
}

#[test]
fn pod_is_found_by_each_of_its_addresses() {
    let pod = mk_namespace("fd01::2/64");
    let folder = mk_folder(&[&pod]);
    let candidate = candidate(mk_pod(|_| {})).expect("a candidate");
    let nft = Nft::at("/usr/sbin/nft");
    assert_eq!(
        repair(&mk_sandboxes(folder.path()), &candidate, &nft),
        Ok(Outcome::Repaired)
    );
}

#[test]
fn pod_without_network_namespace_and_pod_with_wrong_annotations_are_reported() {
    let folder = mk_folder(&[&mk_namespace("10.1.1.3/24")]);
    let nft = Nft::at("/usr/sbin/nft");
    let unknown = candidate(mk_pod(|_| {})).expect("a candidate");
    assert_eq!(
        repair(&mk_sandboxes(folder.path()), &unknown, &nft),
        Ok(Outcome::NoNamespace)
    );
    let wrong = candidate(mk_pod(|pod| {
        pod["metadata"]["annotations"]["kuma.io/sidecar-uid"] = "root".into();
    }));
    let error = repair(&mk_sandboxes(folder.path()), &wrong.expect("a candidate"), &nft)
        .expect_err("a wrong annotation");
    assert!(error.contains("kuma.io/sidecar-uid"), "{error}");
}

#[test]
fn only_injected_pods_with_a_network_of_their_own_are_candidates() {
    assert!(candidate(mk_pod(|_| {})).is_some());
    for (reason, pod) in [
        (
            "hostNetwork",
            mk_pod(|pod| pod["spec"]["hostNetwork"] = true.into()),
        ),
        (
            "finished",
            mk_pod(|pod| pod["status"]["phase"] = "Succeeded".into()),
        ),
        (
            "without a phase",
            mk_pod(|pod| pod["status"]["phase"] = Value::Null),
        ),
        (
            "not injected",
            mk_pod(|pod| pod["metadata"]["annotations"] = json!({})),
        ),
        (
            "kuma-init applies its rules",
            mk_pod(|pod| pod["spec"]["initContainers"][0]["name"] = "kuma-init".into()),
        ),
    ] {
        assert!(candidate(pod).is_none(), "{reason}");
    }
}

fn mk_repairer(namespaces: &Path) -> Repairer {
    let excluded = vec!["kube-system".to_owned()];
    Repairer::new(mk_sandboxes(namespaces), excluded, Nft::at("/usr/sbin/nft"))
}

#[test]
fn pod_of_an_excluded_namespace_is_not_redirected() {
    let folder = mk_folder(&[]);
    let mut repairer = mk_repairer(folder.path());
    let excluded = mk_pod(|pod| pod["metadata"]["namespace"] = "kube-system".into());
    assert_eq!(repairer.handle(Event::InitApply(excluded)), []);
    assert_eq!(repairer.retry(), [], "the pod is tried");
}

#[test]
fn pod_whose_namespace_appears_later_is_redirected_by_a_retry_and_the_delay_reported_once() {
    let folder = mk_folder(&[]);
    let mut repairer = mk_repairer(folder.path());
    assert_eq!(repairer.handle(Event::InitApply(mk_pod(|_| {}))), []);
    let reports = repairer.retry();
    assert!(
        matches!(&reports[..], [report] if !report.is_redirected && report.note.contains("no network namespace in /")),
        "{reports:?}"
    );
    assert_eq!(repairer.retry(), [], "the same problem again");
    let pod = mk_namespace("10.1.1.2/24");
    symlink(pod.path(), folder.path().join("cni-late")).expect("a link");
    assert_eq!(
        repairer.handle(Event::Apply(mk_pod(|_| {}))),
        [],
        "an update without a new address"
    );
    let reports = repairer.retry();
    assert!(
        matches!(&reports[..], [report] if report.is_redirected),
        "{reports:?}"
    );
    assert!(rules(&pod).contains("kuma_mesh"));
    pod.command("nft", &["flush", "ruleset"], "");
    assert_eq!(repairer.retry(), []);
    assert_eq!(rules(&pod), "", "a pod that has had rules is not checked again");
}

#[test]
fn corrected_annotation_is_used_by_the_next_retry() {
    let pod = mk_namespace("10.1.1.2/24");
    let folder = mk_folder(&[&pod]);
    let mut repairer = mk_repairer(folder.path());
    let with_uid = |uid: &str| {
        let uid = uid.to_owned();
        Event::Apply(mk_pod(move |pod| {
            pod["metadata"]["annotations"]["kuma.io/sidecar-uid"] = uid.into();
        }))
    };
    let reports = repairer.handle(with_uid(&"x".repeat(4000)));
    assert_eq!(reports.len(), 1);
    assert!(
        reports[0].note.contains("kuma.io/sidecar-uid"),
        "{}",
        reports[0].note
    );
    assert_eq!(reports[0].note.len(), 1024, "the length is bounded");
    assert_eq!(repairer.retry(), []);
    assert_eq!(repairer.handle(with_uid("70000")), []);
    let reports = repairer.retry();
    assert!(
        matches!(&reports[..], [report] if report.is_redirected),
        "{reports:?}"
    );
}

#[test]
fn pods_that_have_ended_are_gone_or_listed_anew_are_forgotten() {
    let folder = mk_folder(&[]);
    let mut repairer = mk_repairer(folder.path());
    let gone = [
        Event::Apply(mk_pod(|pod| pod["status"]["phase"] = "Succeeded".into())),
        Event::Delete(mk_pod(|_| {})),
        Event::Init,
    ];
    for event in gone {
        repairer.handle(Event::Apply(mk_pod(|_| {})));
        assert_eq!(repairer.pods.len(), 1);
        repairer.handle(event);
        assert_eq!(repairer.pods.len(), 0);
    }
}

#[test]
fn new_address_leads_to_a_check_at_once() {
    let pod = mk_namespace("10.1.1.9/24");
    let folder = mk_folder(&[&pod]);
    let mut repairer = mk_repairer(folder.path());
    assert_eq!(repairer.handle(Event::Apply(mk_pod(|_| {}))), []);
    let moved = mk_pod(|pod| pod["status"]["podIPs"] = json!([{"ip": "10.1.1.9"}]));
    let reports = repairer.handle(Event::Apply(moved));
    assert!(
        matches!(&reports[..], [report] if report.is_redirected),
        "{reports:?}"
    );
}

/// Writes the record of the container runtime about a network of the pod.
fn record(folder: &Path, namespace: &str, address: &str) {
    let results = folder.join("results");
    fs::create_dir_all(&results).expect("a folder");
    let content = json!({
        "ifName": "eth0", "cniArgs": [["K8S_POD_UID", "uid-1"]],
        "result": {
            "interfaces": [{"name": "eth0", "sandbox": format!("/var/run/netns/{namespace}")}],
            "ips": [{"address": address}],
        },
    });
    fs::write(
        results.join(format!("pods-{namespace}-eth0")),
        content.to_string(),
    )
    .expect("a file");
}

#[test]
fn network_that_the_runtime_has_recorded_is_redirected_before_the_status_has_its_address() {
    for (reason, phase, addresses) in [
        ("a new pod", "Pending", json!([])),
        (
            "after a reboot of the node",
            "Running",
            json!([{"ip": "10.1.1.2"}]),
        ),
        (
            "after a reboot, reported again",
            "Pending",
            json!([{"ip": "10.1.1.2"}]),
        ),
    ] {
        let (other, pod) = (mk_namespace("10.1.1.2/24"), mk_namespace("10.1.1.9/24"));
        let folder = mk_folder(&[&other]);
        let mut repairer = mk_repairer(folder.path());
        let status = json!({"phase": phase, "podIPs": addresses});
        let before = Event::Apply(mk_pod(|pod| {
            pod["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.1.1.2"}]});
        }));
        assert_eq!(repairer.handle(before), [], "{reason}");
        // The record of the network before the reboot.
        record(folder.path(), "cni-gone", "10.1.1.2/24");
        assert_eq!(repairer.search(), [], "{reason}");
        record(folder.path(), "cni-7", "10.1.1.9/24");
        symlink(pod.path(), folder.path().join("cni-7")).expect("a link");
        let event = Event::Apply(mk_pod(|pod| pod["status"] = status));
        let mut reports = repairer.search();
        reports.extend(repairer.handle(event));
        assert!(
            matches!(&reports[..], [report] if report.is_redirected),
            "{reason}: {reports:?}"
        );
        assert!(rules(&pod).contains("kuma_mesh"), "{reason}");
        assert_eq!(rules(&other), "", "{reason}: the former address of the pod");
        assert_eq!(repairer.search(), [], "{reason}: a network that was checked");
    }
}

#[test]
fn former_address_of_a_pod_leads_to_no_other_pod_if_the_runtime_records_networks() {
    let other = mk_namespace("10.1.1.2/24");
    let folder = mk_folder(&[&other]);
    // The record of the former network remains. The network of the other Pod is not recorded yet.
    record(folder.path(), "cni-gone", "10.1.1.2/24");
    let mut repairer = mk_repairer(folder.path());
    assert_eq!(repairer.search(), []);
    assert_eq!(repairer.handle(Event::Apply(mk_pod(|_| {}))), []);
    assert_eq!(repairer.retry(), [], "the Pod has no network yet");
    assert_eq!(rules(&other), "");
}

#[test]
fn running_pod_whose_status_has_no_address_gets_no_rules() {
    let pod = mk_namespace("10.1.1.2/24");
    let folder = mk_folder(&[&pod]);
    record(folder.path(), "cni-0", "10.1.1.2/24");
    let mut repairer = mk_repairer(folder.path());
    let running = mk_pod(|pod| pod["status"] = json!({"phase": "Running", "podIPs": []}));
    assert_eq!(repairer.handle(Event::Apply(running)), []);
    assert_eq!(repairer.search(), []);
    assert_eq!(repairer.retry(), []);
    assert_eq!(rules(&pod), "");
}

#[test]
fn new_pod_without_an_address_is_redirected_once_the_runtime_has_recorded_its_network() {
    let pod = mk_namespace("10.1.1.9/24");
    let folder = mk_folder(&[&pod]);
    let mut repairer = mk_repairer(folder.path());
    let new = mk_pod(|pod| pod["status"] = json!({"phase": "Pending", "podIPs": []}));
    assert_eq!(repairer.handle(Event::Apply(new)), []);
    assert_eq!(repairer.search(), []);
    record(folder.path(), "cni-0", "10.1.1.9/24");
    let reports = repairer.search();
    assert!(
        matches!(&reports[..], [report] if report.is_redirected),
        "{reports:?}"
    );
    assert!(rules(&pod).contains("kuma_mesh"));
}

#[test]
fn pod_that_runs_in_the_recorded_network_gets_no_rules() {
    let pod = mk_namespace("10.1.1.2/24");
    let folder = mk_folder(&[&pod]);
    record(folder.path(), "cni-0", "10.1.1.2/24");
    let mut repairer = mk_repairer(folder.path());
    let running = mk_pod(|pod| pod["status"]["phase"] = "Running".into());
    assert_eq!(repairer.handle(Event::Apply(running)), []);
    assert_eq!(repairer.search(), []);
    assert_eq!(repairer.retry(), []);
    assert_eq!(rules(&pod), "");
}

#[test]
fn namespace_of_a_record_without_its_address_gets_no_rules() {
    let other = mk_namespace("10.1.1.3/24");
    let folder = mk_folder(&[&other]);
    record(folder.path(), "cni-0", "10.1.1.2/24");
    let mut repairer = mk_repairer(folder.path());
    assert_eq!(repairer.handle(Event::Apply(mk_pod(|_| {}))), []);
    assert_eq!(repairer.search(), []);
    let reports = repairer.retry();
    assert!(
        matches!(&reports[..], [report] if !report.is_redirected),
        "{reports:?}"
    );
    assert_eq!(rules(&other), "");
}
