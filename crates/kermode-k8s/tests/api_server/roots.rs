//! Tests of the publication of the control plane's roots.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kermode_k8s::controller::roots::{Metrics, RootsPublisher, SidecarNamespaces, WriteResult};
use kermode_model::CONTROL_PLANE_CA_CONFIG_MAP as CONFIG_MAP;
use kube::Api;
use kube::api::{DeleteParams, Patch};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fixture::Fixture;
use crate::user_edit;

/// Time after which a test fails if the API server has not reached the expected state.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until the ConfigMap satisfies a condition.
async fn wait_for(api: &Api<ConfigMap>, description: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = api.get_opt(CONFIG_MAP).await.expect("a response");
        let found = serde_json::to_value(found).unwrap();
        if condition(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{description}: {found:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn config_map_of_roots_is_created_updated_and_restored() {
    let fixture = Fixture::start("roots").await;
    let api: Api<ConfigMap> = Api::namespaced(fixture.client.clone(), &fixture.namespace);
    let namespaces = SidecarNamespaces::default();
    let (roots, roots_receiver) = watch::channel("first".into());
    let (_leads, is_leader) = watch::channel(true);
    let metrics = Metrics::default();
    let publisher = RootsPublisher {
        client: fixture.client.clone(),
        namespaces: namespaces.clone(),
        roots: roots_receiver,
        is_leader,
        metrics: metrics.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run());
    let has = |text: &'static str| move |found: &Value| found["data"]["ca.crt"] == text;

    namespaces.add(&fixture.namespace.as_str().into());
    let created = wait_for(&api, "created", has("first")).await;
    assert_eq!(
        created["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "kuma-cp"
    );
    roots.send_replace("first and second".into());
    wait_for(&api, "updated", has("first and second")).await;

    let edit = json!({"data": {"ca.crt": "of another control plane", "note": "of the user"}});
    api.patch(CONFIG_MAP, &user_edit(), &Patch::Merge(edit))
        .await
        .expect("edited");
    let restored = wait_for(&api, "restored after an edit", has("first and second")).await;
    assert_eq!(restored["data"]["note"], "of the user", "entries of users remain");

    api.delete(CONFIG_MAP, &DeleteParams::default())
        .await
        .expect("deleted");
    wait_for(&api, "restored after a deletion", has("first and second")).await;
    assert_eq!(metrics.write_count(WriteResult::Failed), 0);
}
