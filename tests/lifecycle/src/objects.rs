//! Objects of the application, as JSON: the same in the mesh and in the plain namespace, except for the labels and
//! annotations that the settings give.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Application, Plan, Protocol, name};

/// Name of the servers' Deployment, Service, PodDisruptionBudget and container, and their label `app`.
pub(crate) const SERVER: &str = "server";
/// Name of the clients' Deployment, and their label `app`.
pub(crate) const CLIENT: &str = "client";

/// Labels and annotations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Returns a namespace.
pub(crate) fn namespace(name: &str, marks: &Marks) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": marks.labels, "annotations": marks.annotations},
    })
}

/// Returns the servers' Service.
pub(crate) fn service(
    namespace: &str,
    protocols: &[Protocol],
    app_protocols: &BTreeMap<String, String>,
) -> Value {
    let ports = protocols.iter().map(|protocol| {
        let name = protocol.port_name();
        json!({
            "name": name,
            "port": protocol.port(),
            "targetPort": protocol.port(),
            "appProtocol": app_protocols.get(name).map_or(name, String::as_str),
        })
    });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVER, "namespace": namespace},
        "spec": {"selector": {"app": SERVER}, "ports": ports.collect::<Vec<_>>()},
    })
}

/// Returns a PodDisruptionBudget that keeps one server.
pub(crate) fn disruption_budget(namespace: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": SERVER, "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": SERVER}}},
    })
}

/// Returns the servers' Deployment. Its containers have no preStop hook.
pub(crate) fn servers(
    namespace: &str,
    image: &str,
    application: Application,
    marks: &Marks,
    plan: &Plan,
) -> Value {
    let mut args = vec![
        "server".to_owned(),
        format!("--on-sigterm={}", name(application)),
        format!("--delay={}ms", plan.delay.as_millis()),
    ];
    // The server reports the requests in progress at its end in the order of these flags.
    args.extend(http_protocols().map(|protocol| format!("--listen=0.0.0.0:{}", protocol.port())));
    args.push(format!("--echo-listen=0.0.0.0:{}", Protocol::Tcp.port()));
    let ports = http_protocols().chain([Protocol::Tcp]);
    let ports = ports.map(|protocol| json!({"name": protocol.port_name(), "containerPort": protocol.port()}));
    let container = json!({
        "name": SERVER,
        "image": image,
        "args": args,
        "ports": ports.collect::<Vec<_>>(),
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": Protocol::Http1.port()}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
    });
    let mut deployment = deployment(namespace, SERVER, plan.replicas, &[container], marks);
    deployment["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": plan.surge, "maxUnavailable": 0}});
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = plan.grace_period.into();
    deployment
}

/// Returns the protocols over which servers respond to requests, in the order of their listeners.
pub(crate) fn http_protocols() -> impl Iterator<Item = Protocol> {
    [Protocol::Http1, Protocol::Http2, Protocol::Grpc].into_iter()
}

/// Returns the clients' Deployment: one Pod with a container for each protocol.
pub(crate) fn clients(namespace: &str, image: &str, marks: &Marks, plan: &Plan) -> Value {
    let containers: Vec<_> = plan
        .protocols
        .iter()
        .map(|protocol| {
            json!({
                "name": protocol.client_container(),
                "image": image,
                "args": client_args(namespace, *protocol, plan),
                "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
            })
        })
        .collect();
    deployment(namespace, CLIENT, 1, &containers, marks)
}

fn client_args(namespace: &str, protocol: Protocol, plan: &Plan) -> Vec<String> {
    let host = format!("{SERVER}.{namespace}.svc:{}", protocol.port());
    let mut args = match protocol {
        Protocol::Tcp => vec!["echo-client".to_owned(), host],
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            let path = if protocol == Protocol::Grpc {
                "grpc.health.v1.Health/Check"
            } else {
                ""
            };
            vec![
                "client".to_owned(),
                format!("http://{host}/{path}"),
                format!("--interval={}us", 1_000_000 / plan.rate.max(1)),
                format!("--protocol={}", name(protocol)),
                "--keep-alive".to_owned(),
            ]
        }
    };
    args.push(format!("--connections={}", plan.connections));
    args.push(format!("--listen=0.0.0.0:{}", protocol.counters_port()));
    args
}

fn deployment(namespace: &str, app: &str, replicas: i32, containers: &[Value], marks: &Marks) -> Value {
    let mut labels = marks.labels.clone();
    labels.insert("app".to_owned(), app.to_owned());
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": app}},
            "template": {
                "metadata": {"labels": labels, "annotations": marks.annotations},
                "spec": {"containers": containers},
            },
        },
    })
}
