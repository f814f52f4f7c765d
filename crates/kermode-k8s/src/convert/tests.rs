//! Unit tests of conversion: errors, warnings, health and details that the golden tests do not cover.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_model::{ApplicationProbe, MAX_PROBES, ProbeProtocol, Protocol, tag};
use serde_json::{Value, json};

use super::facts::{NamespaceFacts, OwnerRef, PodFacts, ServiceFacts};
use super::*;

fn mk_pod(spec: &Value, status: &Value, annotations: &Value) -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web-1",
            "namespace": "demo",
            "labels": {"app": "web", "kuma.io/mine": "x", "k8s.kuma.io/namespace": "elsewhere", "empty": ""},
            "annotations": annotations,
        },
        "spec": spec,
        "status": status,
    }))
    .expect("a Pod");
    PodFacts::from(&pod)
}

fn running_status(container_statuses: &Value) -> Value {
    json!({"podIP": "10.0.0.1", "phase": "Running", "containerStatuses": container_statuses})
}

fn annotated_pod(annotations: Value) -> PodFacts {
    mk_pod(
        &json!({"containers": [{"name": "app"}]}),
        &running_status(&json!([])),
        &annotations,
    )
}

fn mk_service(name: &str, ports: &Value) -> ServiceFacts {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1", "ports": ports},
    }))
    .expect("a Service");
    ServiceFacts::from(&service)
}

fn try_convert(pod: &PodFacts, services: &[ServiceFacts]) -> Result<Option<Converted>, ConvertError> {
    let services = selecting_services(services, pod);
    convert(pod, &services, None, None, &ConvertSettings::default())
}

fn converted(pod: &PodFacts, services: &[ServiceFacts]) -> Converted {
    try_convert(pod, services)
        .expect("the Pod is valid")
        .expect("the Pod has a Dataplane")
}

fn health_of_port(pod: &PodFacts, target: u16) -> Option<bool> {
    let service = mk_service("web", &json!([{"port": 80, "targetPort": target}]));
    converted(pod, &[service]).dataplane.inbounds[0].ready
}

fn warnings_of(pod: &PodFacts, services: &[ServiceFacts]) -> Vec<String> {
    let warnings = converted(pod, services).warnings;
    warnings.iter().map(ToString::to_string).collect()
}

fn service_names(pod: &PodFacts, services: &[ServiceFacts]) -> Vec<String> {
    let names = converted(pod, services).dataplane.services();
    names.iter().map(ToString::to_string).collect()
}

fn error_and_field(pod: &PodFacts) -> (String, String) {
    let error = try_convert(pod, &[]).expect_err("an invalid Pod");
    (error.to_string(), error.field())
}

// Lifecycle

#[test]
fn finished_pod_and_pod_without_ip_have_no_dataplane() {
    for status in [
        json!({"podIP": "10.0.0.1", "phase": "Succeeded"}),
        json!({"podIP": "10.0.0.1", "phase": "Failed"}),
        json!({"podIP": "10.0.0.1", "phase": "Failed", "reason": "Evicted"}),
        json!({"podIP": "10.0.0.1", "phase": "Failed", "containerStatuses": [{"name": "app", "ready": true}]}),
        json!({"phase": "Running"}),
    ] {
        let pod = mk_pod(&json!({"containers": [{"name": "app"}]}), &status, &json!({}));
        assert_eq!(try_convert(&pod, &[]), Ok(None), "{status}");
    }
}

#[test]
fn pod_is_injected_only_if_it_has_both_the_annotation_and_a_sidecar() {
    let variables = json!([{"name": "KUMA_CONTROL_PLANE_URL"}, {"name": "KUMA_DATAPLANE_MESH"}]);
    let annotation = json!({"kuma.io/sidecar-injected": "true"});
    for (spec, has_sidecar) in [
        (json!({"containers": [{"name": "web"}]}), false),
        (
            json!({"containers": [{"name": "web"}], "initContainers": [{"name": "kuma-init"}]}),
            false,
        ),
        (
            json!({"containers": [{"name": "web", "env": [variables[0]]}]}),
            false,
        ),
        (
            json!({"containers": [{"name": "web"}, {"name": "kuma-sidecar"}]}),
            true,
        ),
        (
            json!({"containers": [{"name": "web"}, {"name": "renamed", "env": variables}]}),
            true,
        ),
        (
            json!({"containers": [], "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}]}),
            true,
        ),
    ] {
        let pod = |annotations: &Value| mk_pod(&spec, &running_status(&json!([])), annotations);
        assert_eq!(pod(&annotation).is_injected(), has_sidecar, "{spec}");
        assert!(!pod(&json!({"kuma.io/sidecar-injected": "false"})).is_injected());
        assert!(!pod(&json!({})).is_injected());
    }
}

#[test]
fn terminating_pod_is_unready_with_and_without_a_service() {
    let statuses = json!([{"name": "app", "ready": true}, {"name": "kuma-sidecar", "ready": true}]);
    let spec = json!({"containers": [{"name": "app"}, {"name": "kuma-sidecar"}]});
    let mut pod = mk_pod(&spec, &running_status(&statuses), &json!({}));
    assert_eq!(health_of_port(&pod, 8080), Some(true));
    pod.is_terminating = true;
    assert_eq!(health_of_port(&pod, 8080), Some(false));
    assert_eq!(converted(&pod, &[]).dataplane.inbounds[0].ready, Some(false));
}

#[test]
fn dual_stack_pod_has_its_ipv6_address_only_if_ipv6_is_redirected() {
    let v6_port = "kuma.io/transparent-proxying-inbound-v6-port";
    let mode = "kuma.io/transparent-proxying-ip-family-mode";
    for (annotation, addresses) in [
        (None, vec!["10.0.0.1", "fd00::1"]),
        (Some((v6_port, "15010")), vec!["10.0.0.1", "fd00::1"]),
        (Some((v6_port, "0")), vec!["10.0.0.1"]),
        (Some((mode, "ipv4")), vec!["10.0.0.1"]),
    ] {
        let status = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        let annotations: Value = annotation
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        let pod = mk_pod(&json!({"containers": [{"name": "app"}]}), &status, &annotations);
        let dataplane = converted(&pod, &[]).dataplane;
        let found: Vec<_> = dataplane.addresses().map(|address| address.to_string()).collect();
        assert_eq!(found, addresses, "{annotation:?}");
    }
}

#[test]
fn address_of_a_dual_stack_pod_is_its_first_ip() {
    let status = json!({"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]});
    let pod = mk_pod(&json!({"containers": [{"name": "app"}]}), &status, &json!({}));
    let expected: IpAddr = "fd00::1".parse().expect("an IP");
    assert_eq!(converted(&pod, &[]).dataplane.address, expected);
}

// Health

#[test]
fn inbound_is_unready_until_the_sidecar_is_ready() {
    let spec = json!({"containers": [{"name": "kuma-sidecar"}, {"name": "app"}]});
    let statuses = json!([{"name": "kuma-sidecar", "ready": false}, {"name": "app", "ready": true}]);
    assert_eq!(
        health_of_port(&mk_pod(&spec, &running_status(&statuses), &json!({})), 8080),
        Some(false)
    );
}

#[test]
fn health_of_a_native_sidecar_is_read_from_the_init_containers() {
    let spec = json!({
        "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}, {"name": "setup"}],
        "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
    });
    for ready in [true, false] {
        let status = json!({
            "podIP": "10.0.0.1",
            "initContainerStatuses": [{"name": "kuma-sidecar", "ready": ready}, {"name": "setup", "ready": false}],
            "containerStatuses": [{"name": "app", "ready": true}],
        });
        assert_eq!(
            health_of_port(&mk_pod(&spec, &status, &json!({})), 8080),
            Some(ready)
        );
    }
}

#[test]
fn undeclared_port_is_ready_only_if_all_containers_are_ready() {
    let spec =
        json!({"containers": [{"name": "app"}, {"name": "helper", "ports": [{"containerPort": 9090}]}]});
    for (app, helper) in [(true, true), (true, false), (false, true)] {
        let statuses = json!([{"name": "app", "ready": app}, {"name": "helper", "ready": helper}]);
        let pod = mk_pod(&spec, &running_status(&statuses), &json!({}));
        assert_eq!(health_of_port(&pod, 8080), Some(app && helper));
        assert_eq!(
            health_of_port(&pod, 9090),
            Some(helper),
            "a declared port must have the health of its container"
        );
    }
}

#[test]
fn undeclared_port_of_a_single_container_has_the_health_of_the_container() {
    let spec = json!({"containers": [{"name": "app", "ports": [{"containerPort": 9090}]}]});
    let statuses = json!([{"name": "app", "ready": false}]);
    assert_eq!(
        health_of_port(&mk_pod(&spec, &running_status(&statuses), &json!({})), 8080),
        Some(false)
    );
}

#[test]
fn condition_ready_of_the_pod_overrides_container_statuses() {
    let spec = json!({
        "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}, {"name": "helper"}],
    });
    for (condition, containers_ready, expected) in [
        (Some("True"), true, true),
        // On a dead node, the node controller writes the condition, and the container statuses keep their old values.
        // A readiness gate that is not fulfilled has the same effect.
        (Some("False"), true, false),
        (Some("Unknown"), true, false),
        // The condition and the container statuses may differ for a moment. EndpointSlices follow the condition.
        (Some("True"), false, true),
        (None, true, true),
        (None, false, false),
    ] {
        let mut status = running_status(&json!([
            {"name": "app", "ready": containers_ready}, {"name": "helper", "ready": containers_ready},
        ]));
        status["initContainerStatuses"] = json!([{"name": "kuma-sidecar", "ready": true}]);
        status["conditions"] = json!([{"type": "ContainersReady", "status": "True"}]);
        if let Some(condition) = condition {
            let ready = json!({"type": "Ready", "status": condition});
            status["conditions"].as_array_mut().expect("a list").push(ready);
        }
        let pod = mk_pod(&spec, &status, &json!({}));
        let case = format!("{condition:?} {containers_ready}");
        assert_eq!(
            health_of_port(&pod, 8080),
            Some(expected),
            "declared port: {case}"
        );
        assert_eq!(
            health_of_port(&pod, 8081),
            Some(expected),
            "undeclared port: {case}"
        );
        assert_eq!(
            converted(&pod, &[]).dataplane.inbounds[0].ready,
            Some(expected),
            "service-less: {case}"
        );
    }
}

/// Returns whether an inbound is ready while the Pod's condition `Ready` is false. `change` changes the Pod as a restarted
/// kubelet reports it: the native sidecar runs as long as the application, and counts as not started.
fn health_after_a_restart_of_the_kubelet(change: impl FnOnce(&mut Value, &mut Value)) -> Option<bool> {
    let state = |started_at| json!({"running": {"startedAt": started_at}});
    let mut spec = json!({
        "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
    });
    let mut status = running_status(&json!([
        {"name": "app", "ready": true, "started": true, "state": state("2026-11-30T12:00:01Z")},
    ]));
    status["initContainerStatuses"] = json!([
        {"name": "kuma-sidecar", "ready": false, "started": false, "state": state("2026-11-30T12:00:01Z")},
    ]);
    status["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    change(&mut spec, &mut status);
    health_of_port(&mk_pod(&spec, &status, &json!({})), 8080)
}

#[test]
fn pod_stays_ready_while_a_restarted_kubelet_has_not_probed_the_sidecar() {
    assert_eq!(health_after_a_restart_of_the_kubelet(|_, _| {}), Some(true));
    for list in ["initContainerStatuses", "containerStatuses"] {
        let restart = |_: &mut Value, status: &mut Value| status[list][0]["restartCount"] = json!(1);
        assert_eq!(
            health_after_a_restart_of_the_kubelet(restart),
            Some(true),
            "{list}"
        );
    }
}

#[test]
fn pod_is_unready_unless_only_a_restart_of_the_kubelet_explains_it() {
    type Change = fn(&mut Value, &mut Value);
    let changes: [(&str, Change); 10] = [
        ("the application is not ready", |_, status| {
            status["containerStatuses"][0]["ready"] = json!(false);
        }),
        ("the sidecar has restarted", |_, status| {
            status["initContainerStatuses"][0]["state"]["running"]["startedAt"] =
                json!("2026-11-30T12:00:02Z");
        }),
        ("the application has restarted after the sidecar", |_, status| {
            status["initContainerStatuses"][0]["restartCount"] = json!(1);
            status["containerStatuses"][0]["restartCount"] = json!(1);
        }),
        ("the sidecar does not run", |_, status| {
            status["initContainerStatuses"][0]["state"] = json!({"waiting": {}});
        }),
        ("the sidecar has started", |_, status| {
            status["initContainerStatuses"][0]["started"] = json!(true);
        }),
        ("the sidecar is classic", |spec, _| {
            spec["initContainers"][0]["restartPolicy"] = Value::Null;
        }),
        ("the Pod has a readiness gate", |spec, _| {
            spec["readinessGates"] = json!([{"conditionType": "example.com/gate"}]);
        }),
        ("the node is unreachable", |_, status| {
            status["conditions"][0]["status"] = json!("Unknown");
        }),
        ("another native sidecar is not ready", |spec, status| {
            let containers = spec["initContainers"].as_array_mut().expect("a list");
            containers.push(json!({"name": "log-shipper", "restartPolicy": "Always"}));
            let statuses = status["initContainerStatuses"].as_array_mut().expect("a list");
            statuses.push(json!({"name": "log-shipper", "ready": false}));
        }),
        ("a container has no status", |spec, _| {
            let containers = spec["containers"].as_array_mut().expect("a list");
            containers.push(json!({"name": "helper"}));
        }),
    ];
    for (case, change) in changes {
        assert_eq!(
            health_after_a_restart_of_the_kubelet(change),
            Some(false),
            "{case}"
        );
    }
}

#[test]
fn terminating_pod_is_unready_although_its_condition_ready_is_true() {
    let mut status = running_status(&json!([{"name": "app", "ready": true}]));
    status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let mut pod = mk_pod(&json!({"containers": [{"name": "app"}]}), &status, &json!({}));
    assert_eq!(health_of_port(&pod, 8080), Some(true));
    pod.is_terminating = true;
    assert_eq!(health_of_port(&pod, 8080), Some(false));
}

#[test]
fn facts_of_pods_that_differ_in_irrelevant_status_fields_are_equal() {
    let spec = json!({"containers": [{"name": "app"}]});
    let mut first = running_status(&json!([{"name": "app", "ready": true, "restartCount": 0}]));
    first["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let mut later =
        running_status(&json!([{"name": "app", "ready": true, "restartCount": 7, "image": "other"}]));
    later["conditions"] = json!([
        {"type": "Initialized", "status": "True"},
        {"type": "Ready", "status": "True", "lastProbeTime": "2026-01-01T00:00:00Z"},
    ]);
    assert_eq!(
        mk_pod(&spec, &first, &json!({})),
        mk_pod(&spec, &later, &json!({}))
    );
}

// Ports and tags

#[test]
fn labels_set_neither_reserved_nor_generated_tags_and_need_no_value() {
    let pod = annotated_pod(json!({}));
    let service = mk_service("web", &json!([{"port": 80}]));
    for inbound in [
        converted(&pod, &[]).dataplane.inbounds.remove(0),
        converted(&pod, &[service]).dataplane.inbounds.remove(0),
    ] {
        assert_eq!(inbound.tags[tag::K8S_NAMESPACE].as_ref(), "demo");
        assert_eq!(inbound.tags["app"].as_ref(), "web");
        assert!(!inbound.tags.contains_key("kuma.io/mine"));
        assert_eq!(inbound.tags["empty"].as_ref(), "");
    }
}

#[test]
fn named_target_port_must_be_declared_for_tcp() {
    let spec = json!({"containers": [
        {"name": "a", "ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}]},
        {"name": "b", "ports": [{"containerPort": 54, "name": "dns"}, {"containerPort": 80, "name": "http"}]},
    ]});
    let pod = mk_pod(&spec, &running_status(&json!([])), &json!({}));
    let ports = json!([{"port": 1, "targetPort": "dns"}, {"port": 2, "targetPort": "nope"}]);
    let Converted { dataplane, warnings } = converted(&pod, &[mk_service("web", &ports)]);
    assert_eq!(
        dataplane
            .inbounds
            .iter()
            .map(|inbound| inbound.port)
            .collect::<Vec<_>>(),
        [54]
    );
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "Port 2 of Service demo/web has targetPort \"nope\", but no container declares a TCP port of that name; \
             the Service's port is ignored. Name the port in spec.containers[*].ports, or use its number as targetPort."
        ]
    );
}

#[test]
fn target_port_that_the_sidecar_uses_yields_no_inbound_and_a_warning() {
    let probe = json!({"httpGet": {"port": 9000, "path": "/8080/live"}});
    let spec = json!({"containers": [{"name": "app", "livenessProbe": probe}]});
    let annotations = json!({
        "kuma.io/virtual-probes": "enabled", "kuma.io/virtual-probes-port": "9000",
        "kuma.io/transparent-proxying": "enabled",
        "kuma.io/transparent-proxying-inbound-port": "15006", "kuma.io/transparent-proxying-outbound-port": "15001",
    });
    let services = [
        mk_service("admin", &json!([{"port": 9901}])),
        mk_service(
            "redirected",
            &json!([{"port": 1, "targetPort": 15006}, {"port": 2, "targetPort": 15001}]),
        ),
        mk_service(
            "web",
            &json!([{"port": 80, "targetPort": 9000}, {"port": 81, "targetPort": 8080}]),
        ),
    ];
    let pod = mk_pod(&spec, &running_status(&json!([])), &annotations);
    assert_eq!(service_names(&pod, &services), ["web_demo_svc_81"]);
    let warnings = warnings_of(&pod, &services);
    let texts = [
        "targetPort 9901, which the sidecar uses for its admin interface",
        "Service demo/admin selects a Pod of the mesh but yields no inbound: the sidecar itself uses port 9901",
        "targetPort 15006, which the sidecar uses for its redirected inbound connections",
        "targetPort 15001, which the sidecar uses for its redirected outbound connections",
        "Service demo/redirected selects a Pod of the mesh but yields no inbound: the sidecar itself uses port 15006",
        "Port 80 of Service demo/web has targetPort 9000, which the sidecar uses for its virtual probes",
    ];
    assert_eq!(warnings.len(), texts.len(), "{warnings:#?}");
    for (warning, text) in warnings.iter().zip(texts) {
        assert!(warning.contains(text), "{warning}");
    }
}

#[test]
fn target_port_of_virtual_probes_yields_an_inbound_if_the_pod_has_no_probes() {
    let annotations = json!({"kuma.io/virtual-probes": "enabled", "kuma.io/virtual-probes-port": "9000"});
    let spec = json!({"containers": [{"name": "app"}]});
    let pod = mk_pod(&spec, &running_status(&json!([])), &annotations);
    let service = mk_service("web", &json!([{"port": 80, "targetPort": 9000}]));
    assert_eq!(service_names(&pod, &[service]), ["web_demo_svc_80"]);
}

#[test]
fn service_without_inbounds_leaves_the_pod_its_other_services_or_makes_it_service_less() {
    let pod = mk_pod(
        &json!({"containers": [{"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]}]}),
        &running_status(&json!([])),
        &json!({}),
    );
    let udp = json!({"port": 53, "protocol": "UDP", "targetPort": 53});
    let web = mk_service("web", &json!([udp, {"port": 80, "targetPort": "http"}]));
    assert_eq!(
        warnings_of(&pod, std::slice::from_ref(&web)),
        Vec::<String>::new()
    );
    let mut headless = mk_service("bad", &json!([]));
    headless.is_headless = true;
    headless.cluster_ips = Box::default();
    for (bad, reason, is_usual) in [
        (headless, "it has no ports.", true),
        (mk_service("bad", &json!(null)), "it has no ports.", true),
        (
            mk_service("bad", &json!([udp])),
            "none of its ports is a TCP port",
            true,
        ),
        (
            mk_service("bad", &json!([{"port": 53, "protocol": "SCTP"}])),
            "none of its ports is a TCP port",
            true,
        ),
        (
            mk_service(
                "bad",
                &json!([{"port": 80, "targetPort": "htpp"}, {"port": 81, "targetPort": "adm"}]),
            ),
            "no container declares a TCP port named \"htpp\" or \"adm\".",
            false,
        ),
    ] {
        assert_eq!(
            service_names(&pod, std::slice::from_ref(&bad)),
            ["web-1_demo_svc"],
            "{bad:?}"
        );
        assert_eq!(
            service_names(&pod, &[bad.clone(), web.clone()]),
            ["web_demo_svc_80"],
            "{bad:?}"
        );
        let warnings = converted(&pod, &[bad]).warnings;
        let warning = warnings.last().expect("a warning");
        assert!(
            warning.to_string().starts_with("Service demo/bad selects a Pod"),
            "{warning}"
        );
        assert!(warning.to_string().contains(reason), "{warning}");
        assert_eq!(
            (warning.reason(), warning.is_usual()),
            ("ServiceWithoutInbound", is_usual)
        );
        assert!(matches!(warning.subject(), WarningSubject::Service(..)));
    }
}

#[test]
fn gateway_whose_service_yields_no_inbound_is_named_like_a_service_less_pod() {
    let pod = annotated_pod(json!({"kuma.io/gateway": "enabled"}));
    let services = [mk_service(
        "edge",
        &json!([{"port": 80, "targetPort": "nosuchport"}]),
    )];
    let gateway = converted(&pod, &services).dataplane.gateway.expect("a gateway");
    assert_eq!(&*gateway.tags[tag::SERVICE], "web-1_demo_svc");
}

#[test]
fn service_with_too_many_ports_displaces_no_other_service() {
    let mk_ports = |count: u16| json!((1..=count).map(|port| json!({"port": port})).collect::<Vec<_>>());
    let pod = annotated_pod(json!({}));
    let inbound_count =
        |pod: &PodFacts, services: &[ServiceFacts]| converted(pod, services).dataplane.inbounds.len();
    let (a, z) = (mk_service("a", &mk_ports(200)), mk_service("z", &mk_ports(56)));
    assert_eq!(inbound_count(&pod, &[a.clone(), z.clone()]), 256);
    assert_eq!(warnings_of(&pod, &[a.clone(), z.clone()]), Vec::<String>::new());
    let b = mk_service("b", &mk_ports(57));
    assert_eq!(inbound_count(&pod, &[a.clone(), b.clone(), z.clone()]), 57 + 56);
    assert_eq!(
        warnings_of(&pod, &[a.clone(), b, z]),
        [
            "Service demo/a selects a Pod of the mesh but yields no inbound: with its 200 ports, the Services of the Pod \
          have more than the 256 inbounds of a Dataplane, and Services with fewer ports come first. Narrow the \
          selectors of Services, or exclude Services from the mesh by annotation \"kuma.io/ignore: enabled\". The Pod \
          keeps the inbounds of its other Services; without any, its service is named after its workload."
        ]
    );
    assert_eq!(
        service_names(&pod, &[mk_service("a", &mk_ports(257))]),
        ["web-1_demo_svc"]
    );
    // A gateway has no inbounds, so the limit does not concern its Services.
    let gateway = annotated_pod(json!({"kuma.io/gateway": "enabled"}));
    let services = [a, mk_service("b", &mk_ports(257))];
    assert_eq!(warnings_of(&gateway, &services), Vec::<String>::new());
}

#[test]
fn conflicting_protocols_cause_a_warning_and_the_most_specific_protocol_is_used() {
    let pod = annotated_pod(json!({}));
    let services = [
        mk_service(
            "a",
            &json!([{"port": 80, "targetPort": 8080, "appProtocol": "tcp"}]),
        ),
        mk_service(
            "b",
            &json!([{"port": 81, "targetPort": 8080, "appProtocol": "grpc"}]),
        ),
        mk_service(
            "c",
            &json!([{"port": 82, "targetPort": 8080}, {"port": 83, "targetPort": 8081}]),
        ),
    ];
    let Converted { dataplane, warnings } = converted(&pod, &services);
    assert_eq!(dataplane.inbounds.len(), 4);
    let [ConvertWarning::ProtocolConflict { port, used, declared }] = &*warnings else {
        panic!("expected one conflict: {warnings:?}");
    };
    assert_eq!((*port, *used, declared.len()), (8080, Protocol::Grpc, 2));
    assert!(
        warnings[0]
            .to_string()
            .contains("a_demo_svc_80: tcp, b_demo_svc_81: grpc")
    );
}

#[test]
fn equal_protocols_cause_no_warning() {
    let pod = annotated_pod(json!({}));
    let services = [
        mk_service(
            "a",
            &json!([{"port": 80, "targetPort": 8080, "appProtocol": "http"}]),
        ),
        mk_service(
            "b",
            &json!([{"port": 81, "targetPort": 8080, "appProtocol": "http"}]),
        ),
    ];
    assert_eq!(converted(&pod, &services).warnings, []);
}

#[test]
fn ignored_external_and_selectorless_services_and_services_of_other_namespaces_select_no_pod() {
    let pod = annotated_pod(json!({}));
    let mut external = mk_service("external", &json!([{"port": 80}]));
    external.is_external_name = true;
    let mut without_selector = mk_service("without-selector", &json!([{"port": 80}]));
    without_selector.selector = facts::Pairs::default();
    let mut ignored = mk_service("ignored", &json!([{"port": 80}]));
    ignored.annotations = [("kuma.io/ignore".into(), "enabled".into())]
        .into_iter()
        .collect();
    let mut other_namespace = mk_service("other-namespace", &json!([{"port": 80}]));
    other_namespace.key.namespace = "other".into();
    let services = [external, without_selector, ignored, other_namespace];
    assert_eq!(selecting_services(&services, &pod), Vec::<&ServiceFacts>::new());
}

#[test]
fn invalid_ignore_annotation_causes_a_warning_and_has_no_effect() {
    let mut service = mk_service("web", &json!([{"port": 80}]));
    service.annotations = [("kuma.io/ignore".into(), "yes".into())].into_iter().collect();
    let Converted { dataplane, warnings } = converted(&annotated_pod(json!({})), &[service]);
    assert!(!dataplane.inbounds[0].is_placeholder());
    assert!(
        warnings[0]
            .to_string()
            .contains("annotation \"kuma.io/ignore\" has wrong value \"yes\"")
    );
}

#[test]
fn mesh_annotation_of_the_pod_overrides_the_annotation_of_the_namespace() {
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {"name": "demo", "annotations": {"kuma.io/mesh": "payments"}}
    }))
    .expect("a Namespace");
    let namespace = NamespaceFacts::from(&namespace);
    let mesh = |pod: &PodFacts, namespace| mesh_of(pod, namespace).to_string();
    assert_eq!(
        mesh(&annotated_pod(json!({"kuma.io/mesh": "own"})), Some(&namespace)),
        "own"
    );
    assert_eq!(
        mesh(&annotated_pod(json!({"kuma.io/mesh": ""})), Some(&namespace)),
        "payments"
    );
    assert_eq!(mesh(&annotated_pod(json!({})), None), "default");
}

#[test]
fn service_less_pod_is_named_after_its_workload_or_after_itself() {
    let pod = annotated_pod(json!({}));
    let service_name = |workload: Option<&OwnerRef>| {
        let converted = convert(&pod, &[], None, workload, &ConvertSettings::default());
        converted
            .expect("the Pod is valid")
            .expect("the Pod has a Dataplane")
            .dataplane
            .services()[0]
            .to_string()
    };
    assert_eq!(
        service_name(Some(&OwnerRef::new("Deployment", "web"))),
        "web_demo_svc"
    );
    assert_eq!(service_name(None), "web-1_demo_svc");
}

#[test]
fn provided_gateway_is_named_after_its_workload_regardless_of_its_services() {
    let pod = annotated_pod(json!({"kuma.io/gateway": "provided"}));
    let metrics = mk_service("edge-metrics", &json!([{"port": 10254}]));
    let unmatched = mk_service("edge", &json!([{"port": 80, "targetPort": "nosuchport"}]));
    for services in [vec![], vec![metrics], vec![unmatched]] {
        let services = selecting_services(&services, &pod);
        for kind in [
            "Deployment",
            "DaemonSet",
            "StatefulSet",
            "ReplicaSet",
            "CronJob",
            "Rollout",
        ] {
            let workload = OwnerRef::new(kind, "edge");
            let converted = convert(
                &pod,
                &services,
                None,
                Some(&workload),
                &ConvertSettings::default(),
            );
            let dataplane = converted
                .expect("the Pod is valid")
                .expect("a Dataplane")
                .dataplane;
            assert_eq!(dataplane.inbounds, []);
            assert_eq!(
                dataplane.gateway.expect("a gateway").tags,
                [(tag::GATEWAY_SERVICE.into(), "edge_demo_svc".into())].into(),
                "{kind}"
            );
        }
    }
}

#[test]
fn provided_gateway_without_workload_is_named_after_its_service_or_after_itself() {
    let pod = annotated_pod(json!({"kuma.io/gateway": "provided"}));
    let service_name =
        |services: &[ServiceFacts]| converted(&pod, services).dataplane.services()[0].to_string();
    assert_eq!(
        service_name(&[mk_service("web", &json!([{"port": 80}]))]),
        "web_demo_svc_80"
    );
    assert_eq!(service_name(&[]), "web-1_demo_svc");
}

// Annotations

#[test]
fn error_of_an_invalid_annotation_names_its_key_and_field() {
    let cases = [
        (
            json!({"kuma.io/transparent-proxying": "enabled"}),
            "transparent proxying inbound port has to be set in transparent mode",
            "metadata.annotations[\"kuma.io/transparent-proxying-inbound-port\"]",
        ),
        (
            json!({"kuma.io/transparent-proxying": "enabled", "kuma.io/transparent-proxying-inbound-port": "15006"}),
            "transparent proxying outbound port has to be set in transparent mode",
            "metadata.annotations[\"kuma.io/transparent-proxying-outbound-port\"]",
        ),
        (
            json!({"kuma.io/transparent-proxying": "yes"}),
            "annotation \"kuma.io/transparent-proxying\" has wrong value \"yes\"",
            "metadata.annotations[\"kuma.io/transparent-proxying\"]",
        ),
        (
            json!({"kuma.io/gateway": "builtin"}),
            "invalid delegated gateway type 'builtin'; \"kuma.io/gateway\" may be enabled, provided or disabled",
            "metadata.annotations[\"kuma.io/gateway\"]",
        ),
        (
            json!({"kuma.io/envoy-admin-port": "70000"}),
            "failed to parse annotation \"kuma.io/envoy-admin-port\": \"70000\" is not a port number from 0 to 65535: \
             number too large to fit in target type",
            "metadata.annotations[\"kuma.io/envoy-admin-port\"]",
        ),
    ];
    for (annotations, text, field) in cases {
        assert_eq!(
            error_and_field(&annotated_pod(annotations)),
            (text.to_owned(), field.to_owned())
        );
    }
}

#[test]
fn list_of_direct_access_services_is_trimmed_and_port_0_disables_ipv6_redirection() {
    let pod = annotated_pod(json!({
        "kuma.io/transparent-proxying": "enabled",
        "kuma.io/transparent-proxying-inbound-port": "15006",
        "kuma.io/transparent-proxying-inbound-v6-port": "0",
        "kuma.io/transparent-proxying-outbound-port": "15001",
        "kuma.io/direct-access-services": "a_demo_svc_80, b_demo_svc_80,",
    }));
    let proxying = converted(&pod, &[])
        .dataplane
        .transparent_proxying
        .expect("transparent proxying is enabled");
    assert_eq!(
        proxying.direct_access_services,
        ["a_demo_svc_80", "b_demo_svc_80"]
    );
    assert_eq!(proxying.redirect_port_inbound_v6, None);
}

#[test]
fn application_probes_are_derived_from_virtual_probes_without_duplicates() {
    let virtual_probe = |path: &str| json!({"httpGet": {"port": 9000, "path": path}});
    let spec = json!({
        "initContainers": [{
            "name": "agent", "restartPolicy": "Always",
            "startupProbe": virtual_probe("/8282/started"), "readinessProbe": virtual_probe("/grpc/8283/a.Health"),
        }],
        "containers": [
            {"name": "kuma-sidecar", "readinessProbe": {"httpGet": {"port": 9000, "path": "/ready"}}},
            {"name": "app", "livenessProbe": virtual_probe("/8080/live"),
             "readinessProbe": virtual_probe("/8080/live"),
             "startupProbe": {"tcpSocket": {"port": 8080}},
             "lifecycle": {"postStart": virtual_probe("/8080/started"),
                           "preStop": virtual_probe("/https/8443/drain?now=1")}},
            {"name": "other", "readinessProbe": virtual_probe("/9090/"), "startupProbe": virtual_probe("/tcp/9090"),
             "livenessProbe": {"httpGet": {"port": 8081, "path": "/not/virtual"}}},
            {"name": "without-virtual-probes",
             "livenessProbe": {"httpGet": {"port": 9000, "path": "/1/other-host", "host": "10.0.0.1"}},
             "readinessProbe": {"httpGet": {"port": 9000, "path": "/1/tls", "scheme": "HTTPS"}}},
        ],
    });
    let annotations = json!({"kuma.io/virtual-probes": "enabled", "kuma.io/virtual-probes-port": "9000"});
    let pod = mk_pod(&spec, &running_status(&json!([])), &annotations);
    let Converted { dataplane, warnings } = converted(&pod, &[]);
    let endpoints = dataplane.probes.expect("virtual probes are enabled").endpoints;
    let http = |port, path| ApplicationProbe::new(ProbeProtocol::Http, port, path);
    assert_eq!(
        endpoints,
        [
            http(8080, "/live"),
            http(8080, "/started"),
            ApplicationProbe::new(ProbeProtocol::Https, 8443, "/drain?now=1"),
            http(9090, "/"),
            ApplicationProbe::new(ProbeProtocol::Tcp, 9090, ""),
            ApplicationProbe::new(ProbeProtocol::Grpc, 8283, "a.Health"),
            http(8282, "/started"),
        ]
    );
    assert_eq!(warnings, []);
}

#[test]
fn dataplane_has_a_limited_number_of_virtual_probes() {
    let probe = |port: usize| json!({"httpGet": {"port": 9000, "path": format!("/tcp/{port}")}});
    let container = |index: usize| json!({"name": format!("c{index}"), "livenessProbe": probe(index + 1)});
    let containers: Vec<_> = (0..MAX_PROBES + 3).map(container).collect();
    let annotations = json!({"kuma.io/virtual-probes": "enabled", "kuma.io/virtual-probes-port": "9000"});
    let spec = json!({"containers": containers});
    let Converted { dataplane, warnings } =
        converted(&mk_pod(&spec, &running_status(&json!([])), &annotations), &[]);
    let endpoints = dataplane.probes.expect("virtual probes are enabled").endpoints;
    assert_eq!(endpoints.len(), MAX_PROBES);
    assert_eq!(warnings, [ConvertWarning::TooManyProbes { skipped: 3 }]);
    let text = warnings[0].to_string();
    assert!(text.starts_with("The Pod has 503 probes"), "{text}");
}

#[test]
fn metrics_port_that_is_in_use_causes_a_warning_that_names_the_annotation() {
    let spec = json!({"containers": [{"name": "a"}]});
    let warnings_for = |port: &str| {
        let annotations = json!({"prometheus.metrics.kuma.io/port": port});
        let pod = mk_pod(&spec, &running_status(&json!([])), &annotations);
        let service = mk_service("web", &json!([{"port": 8080}]));
        let warnings = converted(&pod, &[service]).warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let text = |port, used| {
        format!(
            "Port {port} of annotation \"prometheus.metrics.kuma.io/port\" is already {used}, so the sidecar serves no \
             metrics. Set the annotation to a free port."
        )
    };
    assert_eq!(warnings_for("8080"), [text(8080, "the port of an inbound")]);
    let admin = "the port of the sidecar's admin interface";
    assert_eq!(warnings_for("9901"), [text(9901, admin)]);
    assert!(warnings_for("5670").is_empty());
}

#[test]
fn probe_that_was_not_rewritten_is_skipped_with_a_warning_that_names_the_field() {
    let request = json!({"httpGet": {"port": 9000, "path": "/ready"}});
    let spec = json!({
        "initContainers": [{"name": "i", "restartPolicy": "Always", "lifecycle": {"preStop": request}}],
        "containers": [{"name": "a"}, {"name": "b", "readinessProbe": request}],
    });
    let annotations = json!({"kuma.io/virtual-probes": "enabled", "kuma.io/virtual-probes-port": "9000"});
    let pod = mk_pod(&spec, &running_status(&json!([])), &annotations);
    let Converted { dataplane, warnings } = converted(&pod, &[]);
    assert_eq!(
        dataplane.probes.expect("virtual probes are enabled").endpoints,
        []
    );
    let fields: Vec<_> = warnings
        .iter()
        .map(|warning| match warning {
            ConvertWarning::ProbePath { field, .. } => field.as_str(),
            other => panic!("unexpected warning: {other}"),
        })
        .collect();
    assert_eq!(
        fields,
        [
            "spec.containers[1].readinessProbe",
            "spec.initContainers[0].lifecycle.preStop"
        ]
    );
}

// Jobs

#[test]
fn native_sidecar_must_not_quit() {
    let terminated = json!([{"name": "job", "state": {"terminated": {"exitCode": 0}}}]);
    let mut status = running_status(&terminated);
    status["initContainerStatuses"] = json!([{"name": "kuma-sidecar", "state": {"running": {}}}]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}],
        "containers": [{"name": "job"}],
    });
    assert!(!completion::sidecar_must_quit(&mk_pod(
        &spec,
        &status,
        &json!({})
    )));
}

#[test]
fn sidecar_must_quit_only_if_no_container_will_be_restarted() {
    let must_quit = |policy: &str, exit_code: i32| {
        let statuses = json!([
            {"name": "kuma-sidecar", "state": {"running": {}}},
            {"name": "job", "state": {"terminated": {"exitCode": exit_code}}},
        ]);
        let spec =
            json!({"restartPolicy": policy, "containers": [{"name": "kuma-sidecar"}, {"name": "job"}]});
        completion::sidecar_must_quit(&mk_pod(&spec, &running_status(&statuses), &json!({})))
    };
    assert!(!must_quit("OnFailure", 1));
    assert!(must_quit("OnFailure", 0));
    assert!(must_quit("Never", 1));
    assert!(!must_quit("Always", 0));
}

#[test]
fn sidecar_must_quit_only_after_containers_that_restart_rules_do_not_restart() {
    let must_quit = |pod_policy: &str, exit_code: i32| {
        let statuses = json!([
            {"name": "kuma-sidecar", "state": {"running": {}}},
            {"name": "trainer", "state": {"terminated": {"exitCode": exit_code}}},
            {"name": "uploader", "state": {"terminated": {"exitCode": 0}}},
        ]);
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
        let spec = json!({"restartPolicy": pod_policy, "containers": [
            {"name": "kuma-sidecar"},
            {"name": "trainer", "restartPolicy": "Never", "restartPolicyRules": [rule]},
            {"name": "uploader", "restartPolicy": "OnFailure"},
        ]});
        completion::sidecar_must_quit(&mk_pod(&spec, &running_status(&statuses), &json!({})))
    };
    assert!(!must_quit("Never", 42));
    assert!(must_quit("Never", 1));
    // The policy of the trainer takes the place of that of the Pod.
    assert!(must_quit("OnFailure", 1));
    // The kubelet would restart the sidecar, which has no policy of its own.
    assert!(!must_quit("Always", 1));
}
