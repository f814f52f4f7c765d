//! Tests of the checks with objects of a small cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use kermode_explain::{ObservedCluster, PodReviewer, Unread};
use kermode_model::KubernetesVersion;
use serde_json::{Value, json};

use super::*;

const NAMESPACE: &str = "kong-mesh-system";
/// Time of the API server: 2026-12-01T00:00:00Z.
const NOW: u64 = 1_796_083_200;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn node(name: &str, kernel: &str, kubelet: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"nodeInfo": {
        "operatingSystem": "linux", "architecture": "amd64", "kernelVersion": kernel, "kubeletVersion": kubelet,
        "containerRuntimeVersion": "containerd://2.1.4",
    }}})
}

fn node_lease(node: &str, renewed: &str, written: &str) -> Value {
    json!({"kind": "Lease", "metadata": {"namespace": "kube-node-lease", "name": node, "managedFields": [
        {"time": written, "fieldsV1": {"f:spec": {"f:renewTime": {}}}},
        {"time": "2026-12-01T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
    ]}, "spec": {"renewTime": renewed}})
}

/// Returns the certificate of a CA that was created a day ago, encoded as in an object.
fn encoded_certificate() -> String {
    let created = now() - Duration::from_hours(24);
    let authority = kermode_identity::ServingAuthority::generate(created).expect("an authority");
    base64::engine::general_purpose::STANDARD.encode(authority.certificate_pem())
}

fn registration(kind: &str, name: &str) -> Value {
    json!({"kind": kind, "metadata": {"name": name}, "webhooks": [
        {"name": "w", "failurePolicy": "Fail", "clientConfig": {"caBundle": encoded_certificate()}},
    ]})
}

fn control_plane_pod(name: &str, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"image": image}]}})
}

/// Returns a cluster with a healthy control plane and no application.
fn healthy() -> Facts {
    let image = "r.example/kuma-cp:0.1.0";
    let objects = vec![
        node("a", "6.8.0-45-generic", "v1.34.4"),
        node_lease("a", "2026-11-30T23:59:55.2Z", "2026-11-30T23:59:55Z"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"kuma.io/sidecar-injection": "enabled"}}}),
        json!({
            "kind": "Deployment", "metadata": {"namespace": NAMESPACE, "name": "kuma-control-plane"},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": image}]}}},
            "status": {"readyReplicas": 1},
        }),
        json!({
            "kind": "Lease", "metadata": {"namespace": NAMESPACE, "name": LEASE},
            "spec": {"holderIdentity": "cp-0_12", "renewTime": "2026-11-30T23:59:58.1Z"},
        }),
        registration(
            "MutatingWebhookConfiguration",
            "kuma-admission-mutating-webhook-configuration",
        ),
        registration(
            "ValidatingWebhookConfiguration",
            "kuma-validating-webhook-configuration",
        ),
    ];
    Facts {
        kumactl_version: "0.1.0".to_owned(),
        api_server_version: Some(KubernetesVersion::new(1, 34)),
        clocks: Some(Clocks {
            local: now() + Duration::from_secs(3),
            api_server: now(),
        }),
        serves_admission_registrations: Some(true),
        cluster: ObservedCluster {
            objects,
            is_live: true,
            config_is_known: true,
            control_plane_pods: Some(vec![control_plane_pod("cp-0", image)]),
            ..ObservedCluster::default()
        },
        dry_run: DryRun::Injected,
        missing_definitions: Ok(Vec::new()),
        census: Some(Ok(Census::default())),
        ..Facts::default()
    }
}

fn object_mut<'a>(facts: &'a mut Facts, kind: &str, name: &str) -> &'a mut Value {
    let mut objects = facts.cluster.objects.iter_mut();
    let object = objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    object.expect("the object")
}

fn remove(facts: &mut Facts, kind: &str) {
    facts.cluster.objects.retain(|object| object["kind"] != kind);
}

fn ids(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.id).collect()
}

/// Returns the ids of the findings about a changed cluster.
fn ids_after(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = healthy();
    change(&mut facts);
    ids(&check_mesh(&facts, now()))
}

#[test]
fn healthy_cluster_passes_all_checks() {
    let report = check_mesh(&healthy(), now());
    assert_eq!(ids(&report), [""; 0]);
    let is_passed = |check: &Check| check.outcome == CheckOutcome::Passed;
    assert!(report.checks.iter().all(is_passed), "{:#?}", report.checks);
    let before = check_before_installation(&healthy());
    assert_eq!(ids(&before), [""; 0]);
}

#[test]
fn each_fault_of_the_cluster_is_found() {
    let version =
        |facts: &mut Facts, minor| facts.api_server_version = Some(KubernetesVersion::new(1, minor));
    assert_eq!(ids_after(|facts| version(facts, 27)), ["ApiServerTooOld"]);
    assert_eq!(
        ids_after(|facts| version(facts, 28)),
        ["NativeSidecarsUnsupported"]
    );
    let missing = Ok(vec!["meshes.kuma.io".to_owned()]);
    assert_eq!(
        ids_after(|facts| facts.missing_definitions = missing),
        ["DefinitionMissing"]
    );
    let info = |facts: &mut Facts, key: &str, value: &str| {
        object_mut(facts, "Node", "a")["status"]["nodeInfo"][key] = value.into();
    };
    assert_eq!(
        ids_after(|facts| info(facts, "kernelVersion", "4.18.0-372.el8.x86_64")),
        ["KernelTooOld"]
    );
    assert_eq!(ids_after(|facts| info(facts, "kernelVersion", "5.2.1")), [""; 0]);
    assert_eq!(
        ids_after(|facts| info(facts, "architecture", "riscv64")),
        ["ArchitectureUnsupported"]
    );
    assert_eq!(
        ids_after(|facts| info(facts, "kubeletVersion", "v1.28.9")),
        ["KubeletTooOld"]
    );
    assert_eq!(
        ids_after(|facts| info(facts, "operatingSystem", "windows")),
        ["NoLinuxNode"]
    );
}

#[test]
fn clocks_are_compared_with_that_of_the_api_server() {
    let local = |seconds: u64| {
        ids_after(|facts| {
            facts.clocks = Some(Clocks {
                local: now() - Duration::from_secs(seconds),
                api_server: now(),
            });
        })
    };
    assert_eq!(local(30), [""; 0]);
    assert_eq!(local(31), ["LocalClockDiffers"]);
    let node = |renewed: &str| {
        ids_after(|facts| {
            object_mut(facts, "Lease", "a")["spec"]["renewTime"] = renewed.into();
        })
    };
    // The API server has recorded the write at 23:59:55.
    assert_eq!(node("2026-12-01T00:00:24.9Z"), [""; 0]);
    assert_eq!(node("2026-12-01T00:00:26Z"), ["NodeClockDiffers"]);
    assert_eq!(node("2026-11-30T23:54:54Z"), ["NodeClockWrong"]);
}

#[test]
fn each_fault_of_the_control_plane_is_found() {
    assert_eq!(
        ids_after(|facts| remove(facts, "Deployment")),
        ["ControlPlaneMissing"]
    );
    let deployment = |facts: &mut Facts, pointer: &str, value: Value| {
        let deployment = object_mut(facts, "Deployment", "kuma-control-plane");
        *deployment.pointer_mut(pointer).expect("the field") = value;
    };
    assert_eq!(
        ids_after(|facts| deployment(facts, "/status/readyReplicas", 0.into())),
        ["ControlPlaneNotReady"]
    );
    assert_eq!(
        ids_after(|facts| deployment(facts, "/spec/replicas", 2.into())),
        ["ReplicasNotReady"]
    );
    let other_image = "/spec/template/spec/containers/0/image";
    assert_eq!(
        ids_after(|facts| deployment(facts, other_image, "r.example/kuma-cp:0.2.0".into())),
        ["VersionOfKumactlDiffers"]
    );
    let second = control_plane_pod("cp-1", "r.example/kuma-cp:0.2.0");
    assert_eq!(
        ids_after(|facts| facts
            .cluster
            .control_plane_pods
            .as_mut()
            .expect("Pods")
            .push(second)),
        ["ReplicasDiffer"]
    );
    let lease = |key: &str, value: &str| {
        ids_after(|facts| object_mut(facts, "Lease", LEASE)["spec"][key] = value.into())
    };
    assert_eq!(lease("holderIdentity", "cp-00_12"), ["LeaderMissing"]);
    assert_eq!(lease("holderIdentity", ""), ["LeaderMissing"]);
    assert_eq!(lease("renewTime", "2026-11-30T23:58:59Z"), ["LeaderMissing"]);
    assert_eq!(
        ids_after(|facts| remove(facts, "ValidatingWebhookConfiguration")),
        ["WebhooksMissing"]
    );
    let mutating = "kuma-admission-mutating-webhook-configuration";
    assert_eq!(
        ids_after(|facts| {
            object_mut(facts, "MutatingWebhookConfiguration", mutating)["webhooks"][0]["clientConfig"] =
                json!({});
        }),
        ["WebhookWithoutCa"]
    );
    for (dry_run, id) in [
        (DryRun::NotInjected, "WebhookNotCalled"),
        (DryRun::Denied("m".to_owned()), "PodDenied"),
        (DryRun::Unreachable("m".to_owned()), "WebhookUnreachable"),
    ] {
        assert_eq!(ids_after(|facts| facts.dry_run = dry_run), [id]);
    }
}

#[test]
fn cni_plugin_is_required_by_the_settings_and_ready_on_each_linux_node() {
    let enable = |facts: &mut Facts| facts.cluster.config.runtime.kubernetes.injector.cni_enabled = true;
    assert_eq!(ids_after(enable), ["CniMissing"]);
    let with_status = |wanted: u64, ready: u64| {
        ids_after(|facts| {
            enable(facts);
            facts.cluster.objects.push(json!({
                "kind": "DaemonSet", "metadata": {"namespace": CNI.1, "name": CNI.0},
                "status": {"desiredNumberScheduled": wanted, "numberReady": ready},
            }));
        })
    };
    assert_eq!(with_status(1, 1), [""; 0]);
    assert_eq!(with_status(1, 0), ["CniNotReady"]);
    assert_eq!(with_status(0, 0), ["CniNotOnNode"]);
}

#[test]
fn container_patches_that_fail_or_are_missing_are_found() {
    let patch = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "ContainerPatch",
        "metadata": {"namespace": NAMESPACE, "name": "p"},
        "spec": {"sidecarPatch": [{"op": "remove", "path": "/livenessProbe/none"}]},
    });
    let found = ids_after(|facts| {
        facts.cluster.objects.push(patch);
        let injector = &mut facts.cluster.config.runtime.kubernetes.injector;
        injector.container_patches = vec!["p".to_owned(), "gone".to_owned()];
    });
    assert_eq!(found, ["ContainerPatchFails", "ContainerPatchMissing"]);
}

#[test]
fn missing_permissions_are_grouped_by_resource_and_namespace() {
    let mut facts = healthy();
    for (verb, namespace, is_allowed) in [
        ("create", None, false),
        ("patch", None, false),
        ("create", Some(NAMESPACE.to_owned()), true),
    ] {
        facts.permissions.push(Permission {
            verb,
            resource: "clusterroles.rbac.authorization.k8s.io".to_owned(),
            namespace,
            is_allowed,
        });
    }
    let report = check_before_installation(&facts);
    assert_eq!(ids(&report), ["PermissionMissing"]);
    assert_eq!(
        report.findings[0].problem,
        "the user of the kubeconfig may not create and patch them"
    );
    facts.permissions.clear();
    facts.serves_admission_registrations = Some(false);
    assert_eq!(ids(&check_before_installation(&facts)), ["AdmissionUnavailable"]);
}

#[test]
fn pods_and_dataplanes_are_grouped_by_namespace() {
    let mut facts = healthy();
    facts
        .cluster
        .config
        .runtime
        .kubernetes
        .injector
        .native_sidecars_supported = true;
    let mut census = Census::default();
    let pod = |name: &str, annotations: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
            "spec": {"containers": [{"name": "app", "image": "a"}]},
            "status": {"podIP": "192.0.2.1", "phase": "Running"},
        })
    };
    let reviewer = PodReviewer::new(&facts.cluster).expect("objects");
    for index in 0..7 {
        let plain = pod(&format!("plain-{index}"), json!({}));
        census.add_pod(&reviewer, &plain).expect("a Pod");
    }
    let denied = pod("denied", json!({"kuma.io/container-patches": "gone"}));
    census.add_pod(&reviewer, &denied).expect("a Pod");
    let meshed = pod("meshed", json!({"kuma.io/sidecar-injected": "true"}));
    census.add_pod(&reviewer, &meshed).expect("a Pod");
    let mut ended = pod("ended", json!({}));
    ended["status"]["phase"] = "Succeeded".into();
    census.add_pod(&reviewer, &ended).expect("a Pod");
    let dataplane = |name: &str, connected: &str, accepted: &str| {
        json!({"metadata": {"namespace": "shop", "name": name}, "status": {
            "conditions": [
                {"type": "Connected", "status": connected, "reason": "R", "message": "m"},
                {"type": "ConfigurationAccepted", "status": accepted, "reason": "R", "message": "m"},
            ],
            "sidecar": {"version": "0.0.9"},
        }})
    };
    census.add_dataplane(&dataplane("web", "False", "False"));
    census.add_dataplane(&dataplane("ended", "False", "True"));
    drop(reviewer);
    facts.census = Some(Ok(census));
    let report = check_mesh(&facts, now());
    let found: BTreeSet<&str> = ids(&report).into_iter().collect();
    let expected = [
        "PodsNotInjected",
        "PodsWouldBeDenied",
        "SidecarsOutdated",
        "SidecarsDisconnected",
        "ConfigurationRejected",
        "DataplanesMissing",
        "VersionOfSidecarsDiffers",
    ];
    assert_eq!(found, expected.into_iter().collect());
    let problem = |id: &str| {
        let finding = report.findings.iter().find(|finding| finding.id == id);
        finding.expect("the finding").problem.as_str()
    };
    let plain = problem("PodsNotInjected");
    assert!(
        plain.starts_with(
            "7 Pods have no sidecar, and would get one today: plain-0, plain-1, plain-2, plain-3, plain-4 and 2 more"
        ),
        "{plain}"
    );
    assert!(problem("SidecarsDisconnected").starts_with("1 sidecars"));
    assert_eq!(
        problem("DataplanesMissing"),
        "1 Pods with a sidecar and an IP have no Dataplane: meshed"
    );
}

#[test]
fn certificates_are_checked_at_the_time_of_the_api_server() {
    let ids_at = |time: SystemTime, certificate: &str| {
        ids_after(|facts| {
            facts.clocks = Some(Clocks {
                local: time,
                api_server: time,
            });
            for kind in [
                "MutatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
                "Lease",
            ] {
                remove(facts, kind);
                facts.cluster.unread.push(Unread {
                    kind,
                    reason: "r".to_owned(),
                });
            }
            facts.cluster.objects.push(json!({
                "kind": "Secret", "metadata": {"namespace": NAMESPACE, "name": "default.ca-builtin-cert-ca-1"},
                "data": {"value": certificate},
            }));
        })
    };
    let certificate = encoded_certificate();
    let years = |years: u64| now() + Duration::from_hours(24 * 365 * years);
    assert_eq!(ids_at(now(), &certificate), [""; 0]);
    assert_eq!(ids_at(years(9), &certificate), ["CertificateExpires"]);
    assert_eq!(ids_at(years(11), &certificate), ["CertificateInvalid"]);
    assert_eq!(ids_at(now(), "YQ=="), ["CertificateInvalid"]);
}

#[test]
fn secrets_of_the_first_ca_are_read_unless_the_ca_was_rotated() {
    let mesh = |name: &str, backend: &str| json!({"metadata": {"name": name}, "spec": {"mtls": {"enabledBackend": backend}}});
    let meshes = [mesh("a", "ca-1"), mesh("b", "ca-1"), mesh("c", "")];
    let secrets = [
        "a.ca-builtin-cert-ca-1",
        "a.ca-builtin-key-ca-1",
        "b.ca-builtin-cert-ca-1",
        "b.ca-builtin-rotation-ca-1.1",
        "kuma-control-plane-ca",
    ];
    let found = certificate_secrets(meshes.iter(), &secrets.map(str::to_owned));
    assert_eq!(found, ["a.ca-builtin-cert-ca-1"]);
}

#[test]
fn permissions_are_those_to_create_and_change_each_kind_of_an_installation() {
    let objects = kermode_install::Installation::new(NAMESPACE)
        .objects()
        .expect("objects");
    let permissions = required_permissions(&objects);
    let names: BTreeSet<String> = permissions
        .iter()
        .map(|permission| {
            let Permission {
                verb,
                resource,
                namespace,
                ..
            } = permission;
            format!("{verb} {resource} {}", namespace.as_deref().unwrap_or("-"))
        })
        .collect();
    for expected in [
        "create namespaces -",
        "patch customresourcedefinitions.apiextensions.k8s.io -",
        "create mutatingwebhookconfigurations.admissionregistration.k8s.io -",
        "create rolebindings.rbac.authorization.k8s.io kong-mesh-system",
        "patch deployments.apps kong-mesh-system",
    ] {
        assert!(names.contains(expected), "{expected} is missing in {names:?}");
    }
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {}});
    assert_eq!(
        required_permissions(&[policy])[0].resource,
        "networkpolicies.networking.k8s.io"
    );
}

#[test]
fn summary_of_the_control_plane_names_the_parts_that_are_not_checked() {
    let summary = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        let report = check_mesh(&facts, now());
        let check = report.checks.iter().find(|check| check.name == "control plane");
        check.expect("the check").summary.clone()
    };
    let unread = |facts: &mut Facts, kind| {
        let reason = format!("no permission for {kind}");
        facts.cluster.unread.push(Unread { kind, reason });
    };
    let complete = "1 of 1 replicas ready, version 0.1.0";
    assert_eq!(summary(&|_| ()), complete);
    assert_eq!(
        summary(&|facts| unread(facts, "Lease")),
        format!("{complete}; leader not checked: no permission for Lease")
    );
    let without_pods = summary(&|facts| {
        facts.cluster.control_plane_pods = None;
        unread(facts, "Pod");
    });
    assert_eq!(
        without_pods,
        format!("{complete}; leader and images of the replicas not checked: no permission for Pod")
    );
}

#[test]
fn check_without_readable_objects_is_left_out_with_the_reason() {
    let mut facts = healthy();
    facts.census = Some(Err("no permission for Pods".to_owned()));
    for kind in ["Node", "Deployment", "ContainerPatch", "DaemonSet"] {
        remove(&mut facts, kind);
        facts.cluster.unread.push(Unread {
            kind,
            reason: "no permission".to_owned(),
        });
    }
    let report = check_mesh(&facts, now());
    assert_eq!(ids(&report), [""; 0]);
    let left_out: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.outcome == CheckOutcome::NotChecked)
        .map(|check| check.name)
        .collect();
    assert_eq!(
        left_out,
        [
            "nodes",
            "control plane",
            "CNI plugin",
            "ContainerPatches",
            "Pods",
            "sidecars"
        ]
    );
}
