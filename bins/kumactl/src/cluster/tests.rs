//! Tests of the access to a cluster, with an API server that a function stands for.

use std::future::ready;

use kube::client::Body;
use serde_json::json;

use super::*;

/// Returns a client whose requests are answered by a function of path and query.
pub(crate) fn cluster(
    timeout: Duration,
    answer: impl Fn(&str) -> (u16, String) + Clone + Send + 'static,
) -> ClusterClient {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let path = request.uri().path_and_query().map(ToString::to_string);
        let (status, body) = answer(&path.unwrap_or_default());
        let response = http::Response::builder()
            .status(status)
            .body(Body::from(body.into_bytes()));
        ready(response)
    });
    ClusterClient {
        client: Client::new(service, "default"),
        name: "https://test".to_owned(),
        timeout,
    }
}

fn failing(code: u16, reason: &'static str) -> ClusterClient {
    cluster(Duration::from_mins(1), move |_| {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "m"});
        (code, status.to_string())
    })
}

#[tokio::test]
async fn pages_of_a_list_are_joined_and_items_get_their_kind() {
    let cluster = cluster(Duration::from_mins(1), |path| {
        let is_second = path.contains("continue=next%3D1");
        assert!(
            path.starts_with("/apis/apps/v1/namespaces/shop/replicasets?limit=500"),
            "{path}"
        );
        assert!(path.contains("labelSelector=app%3Dweb"), "{path}");
        let (name, next) = if is_second { ("b", "") } else { ("a", "next=1") };
        let page = json!({"metadata": {"continue": next}, "items": [{"metadata": {"name": name}}]});
        (200, page.to_string())
    });
    let selection = Selection {
        namespace: Some("shop"),
        labels: "app=web",
        ..Selection::default()
    };
    let objects = cluster
        .list(&Resource::REPLICA_SET, selection)
        .await
        .expect("a list");
    assert_eq!(
        objects,
        [
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a"}}),
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "b"}}),
        ]
    );
}

#[tokio::test]
async fn table_has_the_columns_of_the_api_server_and_the_rows_of_all_pages() {
    let service = tower::service_fn(|request: http::Request<Body>| {
        assert_eq!(request.headers()[http::header::ACCEPT], TABLE);
        let path = request.uri().to_string();
        let (cell, next) = if path.contains("continue=n") {
            ("b", "")
        } else {
            ("a", "n")
        };
        let page = json!({
            "kind": "Table", "metadata": {"continue": next},
            "columnDefinitions": [{"name": "Name"}], "rows": [{"cells": [cell]}],
        });
        ready(http::Response::builder().body(Body::from(page.to_string().into_bytes())))
    });
    let cluster = ClusterClient {
        client: Client::new(service, "default"),
        name: "https://test".to_owned(),
        timeout: Duration::from_mins(1),
    };
    let table = cluster
        .table(&Resource::MESH, Selection::default())
        .await
        .expect("a table");
    assert_eq!(table.columns, [json!({"name": "Name"})]);
    assert_eq!(table.rows, [json!({"cells": ["a"]}), json!({"cells": ["b"]})]);
}

#[tokio::test]
async fn missing_permission_names_verb_resource_and_namespace() {
    let cluster = failing(403, "Forbidden");
    let error = cluster
        .get(&Resource::DATAPLANE, Some("shop"), "web")
        .await
        .expect_err("forbidden");
    assert!(error.is_about_one_resource());
    assert_eq!(
        error.to_string(),
        "cluster https://test: the user of the kubeconfig may not get dataplanes.kuma.io web in namespace shop; ask for a \
         role with verb get on dataplanes.kuma.io in namespace shop (m)"
    );
    let error = cluster
        .list(&Resource::NODE, Selection::default())
        .await
        .expect_err("forbidden");
    assert!(
        error
            .to_string()
            .contains("verb list on nodes in the whole cluster"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_object_is_none_and_missing_resource_is_an_error() {
    let missing = failing(404, "NotFound");
    let found = missing
        .get_opt(&Resource::POD, Some("shop"), "web")
        .await
        .expect("an answer");
    assert_eq!(found, None);
    let error = missing
        .get(&Resource::POD, Some("shop"), "web")
        .await
        .expect_err("no such Pod");
    assert!(
        error
            .to_string()
            .contains("get pods web in namespace shop: it does not exist"),
        "{error}"
    );
    let unserved = cluster(Duration::from_mins(1), |_| (404, "404 page not found".to_owned()));
    let error = unserved
        .get(&Resource::MESH, None, "default")
        .await
        .expect_err("not served");
    assert!(
        error.to_string().contains("does not serve meshes.kuma.io"),
        "{error}"
    );
}

#[tokio::test]
async fn rejected_credentials_have_a_remedy() {
    let error = failing(401, "Unauthorized")
        .version()
        .await
        .expect_err("unauthorized");
    assert!(error.to_string().contains("log in again"), "{error}");
}

#[tokio::test]
async fn request_without_a_response_ends_after_the_time_limit() {
    let service = tower::service_fn(|_: http::Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, std::io::Error>>()
    });
    let cluster = ClusterClient {
        client: Client::new(service, "default"),
        name: "https://test".to_owned(),
        timeout: Duration::from_millis(1),
    };
    let error = cluster
        .list(&Resource::POD, Selection::default())
        .await
        .expect_err("a timeout");
    assert!(error.to_string().contains("no response within 1ms"), "{error}");
}

#[tokio::test]
async fn unusable_kubeconfig_is_named_in_the_error() {
    let args = ClusterArgs {
        kubeconfig: Some("/no/such/kubeconfig".into()),
        context: None,
        request_timeout: Duration::from_secs(1),
    };
    let error = ClusterClient::connect(&args).await.err().expect("no such file");
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(
        text.contains("--kubeconfig") && text.contains("/no/such/kubeconfig"),
        "{text}"
    );
}

#[test]
fn time_limit_of_zero_is_rejected() {
    assert!(parse_duration("0s").is_err());
    assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
}
