//! Statuses of permissions, and their writes to an API server in memory.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Service;
use kermode_k8s::convert::facts::ServiceFacts;
use kermode_model::Mesh;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;

/// Returns a permission for the service `web` with rules for these clients.
fn mk_permission(mesh: &str, clients: &[&str]) -> Value {
    let rule = |client: &&str| json!({"targetRef": {"kind": "MeshService", "name": client}, "default": {"action": "Allow"}});
    json!({
        "apiVersion": "kuma.io/v1alpha1",
        "kind": "MeshTrafficPermission",
        "metadata": {"name": "p", "namespace": "system", "generation": 3, "labels": {"kuma.io/mesh": mesh}},
        "spec": {
            "targetRef": {"kind": "MeshService", "name": "web_shop_svc_80"},
            "from": clients.iter().map(rule).collect::<Vec<_>>(),
        },
    })
}

fn mk_service(name: &str) -> ServiceFacts {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"ports": [{"port": 80}]},
    }))
    .expect("a Service");
    ServiceFacts::from(&service)
}

/// An index with the Mesh `default` and these Services.
fn mk_index(services: &[&str]) -> Index {
    let mut index = Index::default();
    index.apply_mesh(Mesh::new("default"));
    for name in services {
        index.apply_service(mk_service(name));
    }
    index
}

fn read(permission: Value) -> MeshTrafficPermission {
    serde_json::from_value(permission).expect("a permission")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Returns type, status and reason of each condition, and the message of the last one.
fn summary(status: &MeshTrafficPermissionStatus) -> (Vec<[&str; 3]>, &str) {
    let conditions = status.conditions.iter();
    let conditions = conditions.map(|condition| [&*condition.type_, &*condition.status, &*condition.reason]);
    let message = status
        .conditions
        .last()
        .map_or("", |condition| &*condition.message);
    (conditions.collect(), message)
}

#[test]
fn status_names_each_service_that_does_not_exist_once() {
    let clients = [
        "web_shop_svc_80",
        "cart_shop_svc_80",
        "db_shop_svc_1",
        "cart_shop_svc_80",
    ];
    let permission = read(mk_permission("default", &clients));
    let missing = Missing::find(&permission, &mk_index(&["web", "db"]));
    let status = changed_status(&permission, &missing, at(1)).expect("the first status");
    let (conditions, message) = summary(&status);
    assert_eq!(
        conditions,
        [
            ["Accepted", "True", "Valid"],
            ["ResolvedRefs", "False", "ServiceNotFound"]
        ]
    );
    assert_eq!(
        message,
        "These services do not exist in Mesh \"default\", so the parts of the permission that name them have no effect: \
         spec.from[1].targetRef.name: \"cart_shop_svc_80\", spec.from[2].targetRef.name: \"db_shop_svc_1\". Correct the \
         names, or create the services."
    );
}

#[test]
fn message_about_many_missing_services_is_bounded() {
    let clients: Vec<_> = (0..1000).map(|number| format!("s{number}_shop_svc_80")).collect();
    let clients: Vec<_> = clients.iter().map(String::as_str).collect();
    let permission = read(mk_permission("default", &clients));
    let missing = Missing::find(&permission, &mk_index(&["web"]));
    let (_, _, message) = missing.condition("default");
    assert!(
        message.contains("\"s7_shop_svc_80\" and 992 others."),
        "{message}"
    );
}

#[test]
fn status_of_a_permission_of_an_unknown_mesh_names_the_mesh() {
    let permission = read(mk_permission("elsewhere", &[]));
    let missing = Missing::find(&permission, &mk_index(&["web"]));
    let status = changed_status(&permission, &missing, at(1)).expect("the first status");
    let (conditions, message) = summary(&status);
    assert_eq!(conditions[1], ["ResolvedRefs", "False", "MeshNotFound"]);
    assert!(message.contains("\"elsewhere\""), "{message}");
}

#[test]
fn status_of_an_invalid_permission_has_the_error() {
    let mut permission = mk_permission("default", &[]);
    permission["spec"]["targetRef"]["kind"] = "MeshGatewayRoute".into();
    let permission = read(permission);
    let status = changed_status(&permission, &Missing::Nothing, at(1)).expect("the first status");
    let accepted = &status.conditions[0];
    assert_eq!((&*accepted.status, &*accepted.reason), ("False", "Invalid"));
    assert!(
        accepted.message.starts_with("spec.targetRef.kind: "),
        "{}",
        accepted.message
    );
}

#[test]
fn unchanged_status_is_not_written_and_a_time_of_transition_is_kept() {
    let mut permission = read(mk_permission("default", &["db_shop_svc_80"]));
    let missing = |services: &[&str], permission: &_| Missing::find(permission, &mk_index(services));
    let first = changed_status(&permission, &missing(&["web"], &permission), at(1));
    permission.status = Some(first.expect("the first status"));
    let same = changed_status(&permission, &missing(&["web"], &permission), at(2));
    assert_eq!(same, None);
    let second = changed_status(&permission, &missing(&["web", "db"], &permission), at(3));
    let second = second.expect("a changed status");
    let times = second
        .conditions
        .iter()
        .map(|condition| condition.last_transition_time.clone());
    assert_eq!(times.collect::<Vec<_>>(), [Time(at(1)), Time(at(3))]);
}

/// Reasons of the condition `ResolvedRefs` in the statuses that the API server receives.
type Reasons = mpsc::UnboundedReceiver<String>;

/// Runs a leading controller for one permission, on an API server whose watch requests never end. The API server rejects
/// the first `failures` writes.
fn start(index: SharedIndex, changes: ServiceChanges, failures: usize) -> (Reasons, JoinSet<()>) {
    let permission = Arc::new(Mutex::new(mk_permission("default", &[])));
    let failures = Arc::new(Mutex::new(failures));
    let (sender, reasons) = mpsc::unbounded_channel();
    let api_server = tower::service_fn(move |request: Request<Body>| {
        let (permission, failures, sender) = (permission.clone(), failures.clone(), sender.clone());
        async move {
            let (head, body) = request.into_parts();
            let query = head.uri.query().unwrap_or_default();
            if head.method == Method::GET && query.contains("watch=true") {
                return std::future::pending().await;
            }
            let body = body.collect().await?.to_bytes();
            let (status, response) = if head.method == Method::GET {
                let items = [permission.lock().clone()];
                (200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            } else {
                assert!(
                    head.uri
                        .path()
                        .ends_with("/namespaces/system/meshtrafficpermissions/p/status")
                );
                let object: Value = serde_json::from_slice(&body)?;
                let reason = object["status"]["conditions"][1]["reason"].as_str();
                // The test may have dropped the receiver.
                let _ = sender.send(reason.unwrap_or_default().to_owned());
                let mut failures = failures.lock();
                if *failures > 0 {
                    *failures -= 1;
                    (500, json!({"status": "Failure", "code": 500, "message": "etcd"}))
                } else {
                    (200, permission.lock().clone())
                }
            };
            let body = Body::from(response.to_string().into_bytes());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::builder().status(status).body(body)?)
        }
    });
    let (is_leader_sender, is_leader) = watch::channel(true);
    let statuses = PermissionStatuses {
        client: Client::new(api_server, "default"),
        namespace: "system".to_owned(),
        index,
        changes,
        is_leader,
    };
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _is_leader_sender = is_leader_sender;
        statuses.run().await;
    });
    (reasons, task)
}

#[tokio::test(start_paused = true)]
async fn status_is_written_once_the_index_is_complete_and_again_when_the_service_appears() {
    let index = SharedIndex::new(Index::default());
    let changes = ServiceChanges::default();
    let (mut reasons, _task) = start(index.clone(), changes.clone(), 0);
    tokio::time::sleep(COALESCE_TIME * 10).await;
    assert!(reasons.try_recv().is_err(), "the index is not complete");
    index.write().apply_mesh(Mesh::new("default"));
    changes.start();
    assert_eq!(reasons.recv().await.as_deref(), Some("ServiceNotFound"));
    index.write().apply_service(mk_service("web"));
    changes.notify();
    assert_eq!(reasons.recv().await.as_deref(), Some("Resolved"));
}

#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated() {
    let index = SharedIndex::new(mk_index(&["web"]));
    let changes = ServiceChanges::default();
    changes.start();
    let (mut reasons, _task) = start(index, changes, 1);
    assert_eq!(reasons.recv().await.as_deref(), Some("Resolved"));
    assert_eq!(reasons.recv().await.as_deref(), Some("Resolved"));
    tokio::time::sleep(COALESCE_TIME * 10).await;
    assert!(reasons.try_recv().is_err());
}
