//! Tests of single writes to the index.

use kermode_model::{Tags, tag};
use serde_json::{Value, json};

use super::builders::{
    key, mk_endpoint_slice, mk_namespace, mk_pod, mk_replica_set, mk_service, pod_json, read_pod,
};
use super::*;

fn web_labels() -> Value {
    json!({"app": "web"})
}

fn http_port() -> Value {
    json!([{"port": 80, "targetPort": "http", "appProtocol": "http"}])
}

fn touched_service(name: &str) -> Touched {
    Touched::Service("default".into(), name.into())
}

/// Returns the service of a Pod's first inbound.
fn service_name_of(index: &Index, pod: &str) -> Option<String> {
    let desired = index.desired(&key(pod))?;
    let inbound = desired.dataplane.inbounds.first()?;
    Some(inbound.tags.get(tag::SERVICE)?.to_string())
}

fn upserted_pods(changes: &Changes) -> Vec<&str> {
    let names = changes.dataplanes.iter().filter_map(|change| match change {
        DataplaneChange::Upsert { dataplane, .. } => Some(&*dataplane.key.name),
        _ => None,
    });
    names.collect()
}

#[test]
fn pod_without_a_sidecar_is_ignored() {
    let mut index = Index::default();
    let mut pod = pod_json("web-1", "10.0.0.1", web_labels());
    // Without the annotation `kuma.io/sidecar-injected`, the Pod has no sidecar.
    pod["metadata"]["annotations"] = json!({});
    assert!(index.apply_pod(read_pod(&pod)).is_empty());
    assert_eq!(index.view().dataplanes().count(), 0);
}

#[test]
fn inbounds_of_a_pod_are_derived_from_the_service_that_selects_it() {
    let mut index = Index::default();
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    assert_eq!(
        service_name_of(&index, "web-1").as_deref(),
        Some("web-1_demo_svc")
    );

    let changes = index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    assert_eq!(
        service_name_of(&index, "web-1").as_deref(),
        Some("web_demo_svc_80")
    );
    assert_eq!(
        changes.touched,
        [
            touched_service("web-1_demo_svc"),
            touched_service("web_demo_svc_80"),
            Touched::Dataplane(key("web-1"))
        ]
    );
    let service = index.view().service_at(([10, 96, 0, 1], 80).into());
    assert_eq!(service, Some(&"web_demo_svc_80".into()));

    index.remove_service(&key("web"));
    assert_eq!(
        service_name_of(&index, "web-1").as_deref(),
        Some("web-1_demo_svc")
    );
    assert_eq!(index.view().service_at(([10, 96, 0, 1], 80).into()), None);
}

#[test]
fn change_of_a_service_converts_only_pods_that_the_old_or_new_version_selects() {
    let mut index = Index::default();
    for number in 0..1000 {
        let app = if number < 3 { "a" } else { "b" };
        let ip = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        index.apply_pod(mk_pod(
            &format!("pod-{number}"),
            &ip,
            json!({"app": app, "env": "prod"}),
        ));
    }
    let conversions_before = index.conversions();
    index.apply_service(mk_service(
        "a",
        "10.96.0.1",
        json!({"app": "a", "env": "prod"}),
        http_port(),
    ));
    assert_eq!(index.conversions() - conversions_before, 3);
    index.apply_service(mk_service(
        "a",
        "10.96.0.1",
        json!({"app": "nothing"}),
        http_port(),
    ));
    assert_eq!(index.conversions() - conversions_before, 6);
    index.apply_service(mk_service(
        "c",
        "10.96.0.2",
        json!({"app": "c", "env": "prod"}),
        http_port(),
    ));
    assert_eq!(index.conversions() - conversions_before, 6);
}

#[test]
fn change_of_a_namespace_converts_only_pods_without_a_mesh_annotation() {
    let mut index = Index::default();
    let mut annotated = pod_json("with-annotation", "10.0.0.1", web_labels());
    annotated["metadata"]["annotations"]["kuma.io/mesh"] = json!("own");
    index.apply_pod(read_pod(&annotated));
    index.apply_pod(mk_pod("without-annotation", "10.0.0.2", web_labels()));
    let conversions_before = index.conversions();
    let changes = index.apply_namespace(mk_namespace("demo", Some("payments")));
    assert_eq!(index.conversions() - conversions_before, 1);
    assert_eq!(upserted_pods(&changes), ["without-annotation"]);
    assert_eq!(index.view().dataplanes_of(&"payments".into()).count(), 1);
}

#[test]
fn owner_that_is_listed_after_its_pods_determines_their_service_name() {
    let mut index = Index::default();
    let mut pod = pod_json("web-5d4f-abc", "10.0.0.1", web_labels());
    pod["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": "web-5d4f", "controller": true, "uid": "", "apiVersion": "apps/v1"}]);
    index.apply_pod(read_pod(&pod));
    assert_eq!(
        service_name_of(&index, "web-5d4f-abc").as_deref(),
        Some("web-5d4f_demo_svc")
    );
    let changes = index.apply_intermediate(mk_replica_set("web-5d4f", Some("web")));
    assert_eq!(upserted_pods(&changes), ["web-5d4f-abc"]);
    assert_eq!(
        service_name_of(&index, "web-5d4f-abc").as_deref(),
        Some("web_demo_svc")
    );
    assert!(
        index
            .apply_intermediate(mk_replica_set("web-5d4f", Some("web")))
            .is_empty()
    );
}

#[test]
fn change_of_readiness_touches_only_the_service() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let mut pod = pod_json("web-1", "10.0.0.1", web_labels());
    pod["status"]["containerStatuses"][0]["ready"] = json!(false);
    let changes = index.apply_pod(read_pod(&pod));
    assert_eq!(changes.touched, [touched_service("web_demo_svc_80")]);
    assert_eq!(upserted_pods(&changes), ["web-1"]);
}

#[test]
fn change_of_a_permission_touches_only_inbounds_that_the_old_or_new_version_selects() {
    let mut index = Index::default();
    for (number, app) in [(1, "web"), (2, "web"), (3, "db")] {
        let labels = json!({"app": app});
        index.apply_service(mk_service(
            app,
            &format!("10.96.0.{number}"),
            labels.clone(),
            http_port(),
        ));
        index.apply_pod(mk_pod(
            &format!("{app}-{number}"),
            &format!("10.0.0.{number}"),
            labels,
        ));
    }
    let mk_permission = |service: &str| TrafficPermission {
        target: Tags::from([(tag::SERVICE.into(), service.into())]),
        rules: Vec::new(),
    };
    let (permission, mesh) = (ObjectKey::new("system", "one"), MeshName::from("default"));
    let inbound = |pod: &str| Touched::Inbound(key(pod), 8080);
    let added = index.apply_permission(&permission, &mesh, mk_permission("web_demo_svc_80"));
    assert_eq!(added.touched, [inbound("web-1"), inbound("web-2")]);
    let edited = index.apply_permission(&permission, &mesh, mk_permission("db_demo_svc_80"));
    assert_eq!(
        edited.touched,
        [inbound("db-3"), inbound("web-1"), inbound("web-2")]
    );
    let moved = index.apply_permission(&permission, &"other".into(), mk_permission("db_demo_svc_80"));
    assert_eq!(moved.touched, [inbound("db-3")]);
    assert!(index.remove_permission(&permission).is_empty());
}

#[test]
fn pod_that_becomes_invalid_keeps_its_last_valid_dataplane_with_current_health() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));

    let mut pod = pod_json("web-1", "10.0.0.1", web_labels());
    pod["metadata"]["annotations"]["kuma.io/envoy-admin-port"] = json!("nonsense");
    let changes = index.apply_pod(read_pod(&pod));
    assert_eq!(changes.touched, []);
    assert!(matches!(&*changes.dataplanes, [DataplaneChange::Failed { .. }]));
    assert_eq!(
        service_name_of(&index, "web-1").as_deref(),
        Some("web_demo_svc_80")
    );
    assert_eq!(index.conversion_errors().count(), 1);

    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let changes = index.apply_pod(read_pod(&pod));
    assert_eq!(changes.touched, [touched_service("web_demo_svc_80")]);
    assert_eq!(
        upserted_pods(&changes),
        ["web-1"],
        "a failure must be reported once"
    );
    let web = index.view().service(&"default".into(), &"web_demo_svc_80".into());
    assert_eq!(web.map(|web| web.ready_endpoints().count()), Some(0));
}

#[test]
fn service_with_too_many_ports_does_not_change_the_dataplanes_of_its_pods() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let dataplane_before = index
        .desired(&key("web-1"))
        .map(|desired| desired.dataplane.clone());
    let ports: Vec<_> = (1..=256).map(|port| json!({"port": port})).collect();
    let changes = index.apply_service(mk_service("many", "10.96.0.2", web_labels(), json!(ports)));
    let [
        DataplaneChange::Upsert {
            dataplane, warnings, ..
        },
    ] = &*changes.dataplanes
    else {
        panic!("{changes:?}");
    };
    assert_eq!(Some(dataplane), dataplane_before.as_ref());
    assert_eq!(warnings.len(), 1);
    assert_eq!(changes.touched, [], "no Envoy resource may change");
}

#[test]
fn pod_does_not_get_the_dataplane_of_an_earlier_pod_of_the_same_name() {
    let mut index = Index::default();
    index.apply_pod(mk_pod("web-0", "10.0.0.1", web_labels()));
    let mut pod = pod_json("web-0", "10.0.0.2", web_labels());
    pod["metadata"]["uid"] = json!("another");
    let changes = index.apply_pod(read_pod(&pod));
    assert_eq!(upserted_pods(&changes), ["web-0"]);
    assert_eq!(
        index.desired(&key("web-0")).map(|desired| &**desired.pod_uid),
        Some("another")
    );

    pod["metadata"]["uid"] = json!("yet another");
    pod["metadata"]["annotations"]["kuma.io/envoy-admin-port"] = json!("nonsense");
    let changes = index.apply_pod(read_pod(&pod));
    assert!(matches!(
        &*changes.dataplanes,
        [DataplaneChange::Delete(_), DataplaneChange::Failed { .. }]
    ));
    assert_eq!(index.pod_identity(&key("web-0")), None);
}

#[test]
fn error_of_an_earlier_pod_of_the_same_name_is_reported_again() {
    let mut index = Index::default();
    let mut pod = pod_json("web-0", "10.0.0.1", web_labels());
    pod["metadata"]["annotations"]["kuma.io/envoy-admin-port"] = json!("nonsense");
    for uid in ["first", "second"] {
        pod["metadata"]["uid"] = json!(uid);
        let changes = index.apply_pod(read_pod(&pod));
        assert!(
            matches!(&*changes.dataplanes, [DataplaneChange::Failed { pod_uid, .. }] if **pod_uid == *uid),
            "{:?}",
            changes.dataplanes
        );
    }
}

#[test]
fn dataplane_of_a_failed_pod_is_deleted() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    assert!(index.pod_identity(&key("web-1")).is_some());
    let mut failed = pod_json("web-1", "10.0.0.1", web_labels());
    failed["status"]["phase"] = json!("Failed");
    let changes = index.apply_pod(read_pod(&failed));
    assert_eq!(changes.dataplanes, [DataplaneChange::Delete(key("web-1"))]);
    assert_eq!(index.pod_identity(&key("web-1")), None);

    index.apply_pod(mk_pod("web-2", "10.0.0.1", web_labels()));
    failed["metadata"]["labels"]["more"] = json!("labels");
    index.apply_pod(read_pod(&failed));
    let web = index.view().service(&"default".into(), &"web_demo_svc_80".into());
    let endpoints = web.map(|web| web.ready_endpoints().count());
    assert_eq!(endpoints, Some(1), "the endpoint of the newer Pod must remain");
}

/// Returns the JSON of a Pod with the label `app: <app>` that was created `second` seconds after midnight.
fn pod_json_created_at(name: &str, ip: &str, app: &str, second: u8) -> Value {
    let mut pod = pod_json(name, ip, json!({"app": app}));
    pod["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
    pod
}

/// Makes an index with the Services `web` and `old`, which select the Pods with the same value of the label `app`.
fn mk_index_of_web_and_old() -> Index {
    let mut index = Index::default();
    for (name, cluster_ip) in [("web", "10.96.0.1"), ("old", "10.96.0.2")] {
        let labels = json!({"app": name});
        index.apply_service(mk_service(name, cluster_ip, labels, http_port()));
    }
    index
}

/// Returns the names of the Pods that are endpoints of a Service.
fn endpoints_of(index: &Index, service: &str) -> Vec<String> {
    let name = format!("{service}_demo_svc_80");
    let service = index.view().service(&"default".into(), &name.as_str().into());
    let endpoints = service.into_iter().flat_map(|service| service.endpoints.values());
    endpoints
        .map(|endpoint| endpoint.dataplane.name.to_string())
        .collect()
}

#[test]
fn late_change_and_removal_of_an_old_pod_do_not_affect_the_pod_that_has_its_ip_now() {
    // The old Pod belongs to the Service of the new Pod, or to another Service. The index gets the old Pod before the
    // new Pod, or late: only after the new Pod.
    for (app, is_late) in [("web", false), ("web", true), ("old", false), ("old", true)] {
        let mut index = mk_index_of_web_and_old();
        let mut old = pod_json_created_at("old-1", "10.0.0.1", app, 1);
        let new = pod_json_created_at("web-1", "10.0.0.1", "web", 2);
        if !is_late {
            index.apply_pod(read_pod(&old));
            assert_eq!(endpoints_of(&index, app), ["old-1"]);
        }
        index.apply_pod(read_pod(&new));
        for status in [
            json!([{"name": "app", "ready": false}]),
            json!([{"name": "app", "ready": true}]),
        ] {
            old["status"]["containerStatuses"] = status;
            let changes = index.apply_pod(read_pod(&old));
            assert!(!changes.touched.contains(&touched_service("web_demo_svc_80")));
            assert_eq!(endpoints_of(&index, "web"), ["web-1"], "{app} {is_late}");
            assert_eq!(endpoints_of(&index, "old"), [""; 0], "{app} {is_late}");
        }
        let desired = index.desired(&key("old-1")).expect("a Dataplane");
        assert_eq!(desired.dataplane.inbounds[0].ready, Some(false));
        let changes = index.remove_pod(&key("old-1"));
        assert!(!changes.touched.contains(&touched_service("web_demo_svc_80")));
        assert_eq!(endpoints_of(&index, "web"), ["web-1"], "{app} {is_late}");
    }
}

#[test]
fn ip_returns_to_a_pod_when_the_other_pod_loses_it() {
    let losses_of_the_ip: [fn(&mut Index); 3] = [
        |index| {
            index.remove_pod(&key("web-1"));
        },
        |index| {
            index.apply_pod(read_pod(&pod_json_created_at("web-1", "10.0.0.2", "web", 2)));
        },
        |index| {
            let mut terminating = pod_json_created_at("web-1", "10.0.0.1", "web", 2);
            terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
            index.apply_pod(read_pod(&terminating));
        },
    ];
    for lose_ip in losses_of_the_ip {
        let mut index = mk_index_of_web_and_old();
        index.apply_pod(read_pod(&pod_json_created_at("old-1", "10.0.0.1", "old", 1)));
        index.apply_pod(read_pod(&pod_json_created_at("web-1", "10.0.0.1", "web", 2)));
        assert_eq!(endpoints_of(&index, "old"), [""; 0]);
        lose_ip(&mut index);
        assert_eq!(endpoints_of(&index, "old"), ["old-1"]);
        let desired = index.desired(&key("old-1")).expect("a Dataplane");
        assert_eq!(desired.dataplane.inbounds[0].ready, Some(true));
    }
}

#[test]
fn pod_whose_second_ip_belongs_to_a_newer_pod_is_no_endpoint() {
    let mut index = mk_index_of_web_and_old();
    let mut old = pod_json_created_at("old-1", "10.0.0.1", "old", 1);
    old["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    index.apply_pod(read_pod(&old));
    index.apply_pod(read_pod(&pod_json_created_at("web-1", "fd00::1", "web", 2)));
    assert_eq!(endpoints_of(&index, "old"), [""; 0]);
    assert_eq!(endpoints_of(&index, "web"), ["web-1"]);
}

#[test]
fn pod_that_got_its_ip_later_has_it_although_it_was_created_earlier() {
    let mut index = mk_index_of_web_and_old();
    index.apply_pod(read_pod(&pod_json_created_at("old-1", "10.0.0.1", "old", 2)));
    let mut restarted = pod_json_created_at("web-1", "10.0.0.1", "web", 1);
    restarted["status"]["conditions"] = json!([{
        "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "2026-01-01T00:00:03Z",
    }]);
    index.apply_pod(read_pod(&restarted));
    assert_eq!(endpoints_of(&index, "old"), [""; 0]);
    assert_eq!(endpoints_of(&index, "web"), ["web-1"]);
}

/// A Pod whose condition `Ready` is false, with the status of its native sidecar, and the readiness of the application.
fn pod_with_native_sidecar(sidecar: &Value, application_is_ready: bool) -> PodFacts {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}});
    let mut pod = pod_json("web-1", "10.0.0.1", web_labels());
    pod["spec"]["initContainers"] = json!([{"name": "kuma-sidecar", "restartPolicy": "Always"}]);
    pod["spec"]["containers"] = json!([{"name": "app", "ports": [{"containerPort": 8080}]}]);
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    pod["status"]["containerStatuses"] =
        json!([{"name": "app", "ready": application_is_ready, "started": true, "state": running}]);
    let mut status = json!({"name": "kuma-sidecar", "ready": false, "state": running});
    status
        .as_object_mut()
        .expect("a status")
        .extend(sidecar.as_object().cloned().expect("a part of a status"));
    pod["status"]["initContainerStatuses"] = json!([status]);
    read_pod(&pod)
}

/// Applies the states of a Pod one after the other. Returns whether its inbound is ready in the last one.
fn is_ready_after(states: impl IntoIterator<Item = PodFacts>) -> bool {
    let mut index = mk_index_of_web_and_old();
    for state in states {
        index.apply_pod(state);
    }
    let dataplane = index.view().dataplane(&key("web-1")).expect("a Dataplane");
    dataplane.inbounds[0].ready == Some(true)
}

#[test]
fn pod_stays_ready_until_a_restarted_kubelet_has_probed_the_sidecar() {
    let not_started = || pod_with_native_sidecar(&json!({"started": false}), true);
    let not_ready = || pod_with_native_sidecar(&json!({"started": true}), true);
    let application_not_ready = || pod_with_native_sidecar(&json!({"started": false}), false);
    let ready = || pod_with_native_sidecar(&json!({"started": true, "ready": true}), true);
    let restarted = || {
        let state = json!({"running": {"startedAt": "2026-01-01T00:00:09Z"}});
        pod_with_native_sidecar(&json!({"started": true, "state": state}), true)
    };
    let stopped = || pod_with_native_sidecar(&json!({"state": {"waiting": {}}}), true);
    let of_another_pod = || PodFacts {
        uid: "another".into(),
        ..not_ready()
    };
    assert!(is_ready_after([not_started()]));
    assert!(is_ready_after([not_started(), not_ready()]));
    assert!(is_ready_after([not_started(), not_ready(), not_ready()]));
    assert!(is_ready_after([application_not_ready(), not_ready()]));
    assert!(!is_ready_after([not_started(), application_not_ready()]));
    assert!(!is_ready_after([not_ready()]));
    assert!(!is_ready_after([not_started(), restarted()]));
    assert!(!is_ready_after([not_started(), stopped(), not_ready()]));
    assert!(!is_ready_after([not_started(), ready(), not_ready()]));
    assert!(!is_ready_after([not_started(), of_another_pod()]));
}

#[test]
fn identity_of_a_pod_is_its_service_account_and_uid() {
    let mut index = Index::default();
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let identity = index.pod_identity(&key("web-1")).expect("the Pod exists");
    assert_eq!(
        (identity.service_account, identity.uid),
        ("robot", "uid-of-web-1")
    );
    index.remove_pod(&key("web-1"));
    assert_eq!(index.pod_identity(&key("web-1")), None);
}

#[test]
fn sidecar_of_a_finished_job_is_added_to_sidecars_to_quit_once() {
    let mut index = Index::default();
    let mut pod = pod_json("job-1", "10.0.0.1", json!({}));
    pod["spec"]["restartPolicy"] = json!("Never");
    let sidecar = json!({"name": "kuma-sidecar", "ready": true, "state": {"running": {}}});
    let app = |state: Value| json!({"name": "app", "ready": false, "state": state});
    pod["status"]["containerStatuses"] = json!([sidecar, app(json!({"running": {}}))]);
    assert_eq!(index.apply_pod(read_pod(&pod)).sidecars_to_quit, []);
    pod["status"]["containerStatuses"] = json!([sidecar, app(json!({"terminated": {"exitCode": 0}}))]);
    assert_eq!(index.apply_pod(read_pod(&pod)).sidecars_to_quit.len(), 1);
    pod["metadata"]["labels"] = json!({"some": "label"});
    assert_eq!(index.apply_pod(read_pod(&pod)).sidecars_to_quit, []);
}

#[test]
fn dual_stack_service_is_found_by_each_of_its_cluster_ips() {
    let mut index = Index::default();
    let mut facts = mk_service("web", "10.96.0.1", web_labels(), http_port());
    facts.cluster_ips = ["10.96.0.1", "fd00::1"]
        .map(|ip| ip.parse().expect("an IP"))
        .into();
    index.apply_service(facts);
    for address in ["10.96.0.1:80", "[fd00::1]:80"] {
        let address = address.parse().expect("an address");
        assert_eq!(index.view().service_at(address), Some(&"web_demo_svc_80".into()));
    }
}

#[test]
fn equal_labels_of_two_pods_share_one_allocation() {
    let mut index = Index::default();
    index.apply_pod(mk_pod("a", "10.0.0.1", web_labels()));
    index.apply_pod(mk_pod("b", "10.0.0.2", web_labels()));
    let label = |name: &str| index.pod(&key(name)).and_then(|pod| pod.labels.get("app"));
    let (Some(a), Some(b)) = (label("a"), label("b")) else {
        panic!("both Pods exist");
    };
    assert!(Arc::ptr_eq(a, b));
}

#[test]
fn index_is_empty_after_all_objects_are_removed() {
    let mut index = Index::default();
    index.apply_namespace(mk_namespace("demo", None));
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    index.apply_intermediate(mk_replica_set("web", None));
    index.remove_pod(&key("web-1"));
    index.remove_service(&key("web"));
    index.remove_namespace("demo");
    index.remove_intermediate(&mk_replica_set("web", None).id);
    assert!(index.lookups.is_empty() && index.pods_by_intermediate.is_empty() && index.services.is_empty());
    assert!(index.ip_claims.is_empty());
    assert_eq!(index.view().services(&"default".into()).count(), 0);
}

/// Returns the endpoints of a service that come from EndpointSlices: address, identity, and whether it is ready.
fn slice_endpoints(index: &Index, service: &str) -> Vec<(String, Option<String>, bool)> {
    let service = index.view().service(&"default".into(), &service.into());
    let endpoints = service.into_iter().flat_map(|service| &service.slice_endpoints);
    endpoints
        .map(|(address, endpoint)| {
            let identity = endpoint.identity.as_ref().map(ToString::to_string);
            (address.to_string(), identity, endpoint.ready)
        })
        .collect()
}

#[test]
fn endpoints_of_a_service_without_selector_have_the_identity_of_the_inbound_at_their_address() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_service(mk_service(
        "leader",
        "10.96.0.2",
        json!({}),
        json!([{"port": 80, "name": "x"}]),
    ));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let endpoints = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["192.168.0.1"], "conditions": {"ready": false}},
    ]);
    // The second port belongs to no port of the Service.
    let ports = json!([{"name": "x", "port": 8080}, {"name": "y", "port": 9090}]);
    let slice = mk_endpoint_slice("leader-1", "leader", ports, endpoints);
    let changes = index.apply_endpoint_slice(slice.clone());
    assert_eq!(changes.touched, [touched_service("leader_demo_svc_80")]);
    let expected = [
        (
            "10.0.0.1:8080".to_owned(),
            Some("web_demo_svc_80".to_owned()),
            true,
        ),
        ("192.168.0.1:8080".to_owned(), None, false),
    ];
    assert_eq!(slice_endpoints(&index, "leader_demo_svc_80"), expected);
    assert!(index.apply_endpoint_slice(slice).is_empty());

    // A Service with endpoints outside of the mesh only is no service of the mesh.
    index.remove_pod(&key("web-1"));
    assert_eq!(slice_endpoints(&index, "leader_demo_svc_80"), []);
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    assert_eq!(slice_endpoints(&index, "leader_demo_svc_80"), expected);
    let changes = index.remove_endpoint_slice(&key("leader-1"));
    assert_eq!(changes.touched, [touched_service("leader_demo_svc_80")]);
    assert_eq!(slice_endpoints(&index, "leader_demo_svc_80"), []);
}

#[test]
fn endpoint_slice_of_a_service_with_selector_is_ignored() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    let slice = mk_endpoint_slice("web-1", "web", json!([{"port": 8080}]), endpoints);
    assert!(index.apply_endpoint_slice(slice).is_empty());
}

#[test]
fn change_of_a_pod_outside_of_endpoint_slices_touches_no_service_without_selector() {
    let mut index = Index::default();
    index.apply_service(mk_service("web", "10.96.0.1", web_labels(), http_port()));
    index.apply_service(mk_service(
        "leader",
        "10.96.0.2",
        json!({}),
        json!([{"port": 80}]),
    ));
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    index.apply_endpoint_slice(mk_endpoint_slice(
        "leader-1",
        "leader",
        json!([{"port": 8080}]),
        endpoints,
    ));
    let changes = index.apply_pod(mk_pod("web-2", "10.0.0.2", web_labels()));
    assert_eq!(
        changes.touched,
        [
            touched_service("web_demo_svc_80"),
            Touched::Dataplane(key("web-2"))
        ]
    );
}

#[test]
fn service_in_use_keeps_its_virtual_ip_until_another_one_is_stored_or_another_service_has_it() {
    let mut index = mk_index_of_web_and_old();
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    let ip = |last: u8| std::net::Ipv4Addr::new(240, 0, 0, last);
    let store = |index: &mut Index, stored: &[(&str, u8)]| {
        let stored = stored.iter().map(|(name, last)| ((*name).into(), ip(*last)));
        index.apply_virtual_ips([("default".into(), stored.collect())].into())
    };
    let virtual_ip = |index: &Index| {
        let mesh = "default".into();
        let mut services = index.view().services(&mesh);
        let (_, service) = services.find(|(name, _)| name.as_str() == "web_demo_svc_80")?;
        service.virtual_ip
    };
    store(&mut index, &[("web_demo_svc_80", 1)]);
    assert!(
        index.apply_virtual_ips([].into()).is_empty(),
        "the ConfigMap is deleted"
    );
    assert!(store(&mut index, &[]).is_empty(), "the line is deleted");
    assert_eq!(virtual_ip(&index), Some(ip(1)));
    store(&mut index, &[("web_demo_svc_80", 2)]);
    assert_eq!(virtual_ip(&index), Some(ip(2)));
    store(&mut index, &[("other_demo_svc_80", 2)]);
    assert_eq!(virtual_ip(&index), None);
    store(&mut index, &[("web_demo_svc_80", 3)]);
    index.remove_pod(&key("web-1"));
    store(&mut index, &[]);
    index.apply_pod(mk_pod("web-1", "10.0.0.1", web_labels()));
    assert_eq!(
        virtual_ip(&index),
        None,
        "a service that is not in use keeps no address"
    );
}
