use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::example::Example;
use crate::guard;

/// Number of Dataplanes of the example mesh.
const DATAPLANES: usize = 100;

/// The page of an example mesh, behind the guard.
fn mk_page() -> (Router, Arc<Example>) {
    let example = Example::new(DATAPLANES);
    (guard::layer(router(example.sources())), example)
}

async fn get(page: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path)
        .header(header::HOST, "localhost:5684")
        .body(Body::empty());
    let response = page
        .clone()
        .oneshot(request.expect("a request"))
        .await
        .expect("a response");
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text");
    assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
    assert_eq!(response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn get_json(page: &Router, path: &str) -> Value {
    let (status, text) = get(page, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn page_and_its_assets_have_no_external_resource() {
    let (page, _) = mk_page();
    for path in ["/page/", "/page/page.css", "/page/page.js"] {
        let (status, text) = get(&page, path).await;
        assert_eq!(status, StatusCode::OK);
        // The only absolute URL is the name of SVG's elements, which no browser requests.
        let urls = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!urls.contains("://"), "{path} names an external resource");
        assert!(!text.contains("innerHTML") && !text.contains(" style="), "{path}");
    }
}

#[tokio::test]
async fn root_leads_to_the_page() {
    let (page, _) = mk_page();
    for path in ["/", "/page"] {
        assert_eq!(get(&page, path).await.0, StatusCode::TEMPORARY_REDIRECT);
    }
}

#[tokio::test]
async fn update_after_a_change_contains_one_row() {
    let (page, example) = mk_page();
    let all = get_json(&page, "/page/api/dataplanes?limit=20").await;
    assert_eq!(all["isUpdate"], false);
    assert_eq!(all["rows"].as_array().expect("rows").len(), 20);
    assert_eq!(all["states"]["rejected"], 2);
    example.set_ready(4, false);
    // The snapshot is used again until it is a second old.
    let path = format!(
        "/page/api/dataplanes?limit=20&since={}",
        all["revision"].as_str().expect("a text")
    );
    let update = loop {
        let update = get_json(&page, &path).await;
        if update["revision"] != all["revision"] {
            break update;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(update["isUpdate"], true);
    let names: Vec<_> = update["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| &row["name"])
        .collect();
    assert_eq!(names, ["service-000-4"]);
    assert_eq!(update["rows"][0]["ready"], 0);
    assert_eq!(update["names"], all["names"]);
}

#[tokio::test]
async fn revision_of_another_process_gets_all_rows() {
    let (page, _) = mk_page();
    for since in ["0000000000000000-1", "x", "-", "%F0%9F%A6%8A"] {
        let list = get_json(&page, &format!("/page/api/dataplanes?since={since}")).await;
        assert_eq!(list["isUpdate"], false, "{since}");
    }
}

#[tokio::test]
async fn dataplane_has_permissions_and_the_last_rejection() {
    let (page, _) = mk_page();
    let detail = get_json(&page, "/page/api/dataplane?name=team-00/service-005-3").await;
    assert_eq!(detail["state"], "rejected");
    let rejection = &detail["proxy"]["configuration"]["lastRejection"];
    assert_eq!(rejection["resources"][0], "inbound:10.1.0.3:8080");
    let rule = &detail["inbounds"][0]["permissions"][0];
    assert_eq!(
        (&rule["service"], &rule["action"]),
        (&"service-004_team-00_svc_80".into(), &"Allow".into())
    );
}

#[tokio::test]
async fn wrong_parameters_are_explained() {
    let (page, _) = mk_page();
    let (status, text) = get(&page, "/page/api/dataplane?name=team-00/none").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("team-00/none"), "{text}");
    assert_eq!(
        get(&page, "/page/api/dataplane?name=none").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        get(&page, "/page/api/dataplanes?state=none").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(get(&page, "/page/api/none").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn overview_and_graph_describe_the_mesh() {
    let (page, _) = mk_page();
    let overview = get_json(&page, "/page/api/overview").await;
    assert_eq!(overview["dataplanes"], DATAPLANES);
    assert_eq!(overview["namespaces"], serde_json::json!(["team-00"]));
    let graph = get_json(&page, "/page/api/graph?mesh=default").await;
    assert_eq!(
        (
            graph["services"].as_array().map(Vec::len),
            graph["edges"].as_array().map(Vec::len)
        ),
        (Some(10), Some(9))
    );
    let unknown = get_json(&page, "/page/api/graph?mesh=none").await;
    assert_eq!(unknown["mtls"], "noMesh");
}

#[tokio::test]
async fn decisions_are_listed_the_newest_first() {
    let (page, _) = mk_page();
    let decisions = get_json(&page, "/page/api/decisions").await;
    assert_eq!(decisions[0]["decision"], "denied");
    assert_eq!(decisions[0]["reason"], "MeshNotFound");
    assert_eq!(
        (&decisions[1]["decision"], &decisions[1]["message"]),
        (&"injected".into(), &Value::Null)
    );
}

#[tokio::test]
async fn expiry_of_a_workload_is_absent_if_the_replica_issued_no_certificate() {
    let (page, _) = mk_page();
    let of = async |name: &str| {
        let detail = get_json(&page, &format!("/page/api/dataplane?name=team-00/{name}")).await;
        detail["certificateNotAfter"].as_u64()
    };
    assert!(of("service-000-0").await.is_some_and(|seconds| seconds > 0));
    assert_eq!(of("service-000-1").await, None);
    assert_eq!(
        get_json(&page, "/page/api/certificates").await,
        serde_json::json!([])
    );
}

#[tokio::test]
async fn request_that_the_client_gives_up_counts_until_its_work_ends() {
    let state = Arc::new(PageState {
        sources: Example::new(1).sources(),
        snapshots: Snapshots::new(),
        graphs: Graphs::default(),
        requests: Arc::new(Semaphore::new(1)),
    });
    let requests = state.requests.clone();
    let (started, is_started) = tokio::sync::oneshot::channel();
    let (finish, may_finish) = std::sync::mpsc::channel::<()>();
    let request = tokio::spawn(respond(state, move |_| {
        started.send(()).expect("the test waits");
        Ok(may_finish.recv().is_ok())
    }));
    is_started.await.expect("the work starts");
    request.abort();
    assert!(request.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!(requests.available_permits(), 0);
    finish.send(()).expect("the work goes on");
    let _permit = requests
        .acquire()
        .await
        .expect("the permit comes back after the work");
}
