//! Debug endpoint: state of this replica as JSON over plain HTTP, for troubleshooting.
//!
//! It listens on loopback, so only `kubectl port-forward` reaches it. Responses contain no secrets: no keys, no tokens, and
//! only names and versions of proxies' resources. [`kermode_protocol::debug`] has the types of the responses.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use kermode_model::ObjectKey;
use kermode_protocol::debug::{
    CONFIG, CONTENTS, PROXIES, Proxies, REMOVALS, RESOURCES, Removal, ResourceEntry, Resources,
};
use kermode_removals::EndpointRemovals;
use kermode_status::Statuses;
use kermode_xds::store::{ResourceKind, Store, View};
use serde::Deserialize;
use serde_json::{Value, json};

use kermode_config::Config;

/// Time to wait for the generation of a proxy's resources.
const GENERATION_TIMEOUT: Duration = Duration::from_secs(1);

/// Address to listen on.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Sources of the responses; cheap to clone.
#[derive(Clone)]
pub(crate) struct Debug {
    pub(crate) config: Arc<Config>,
    pub(crate) statuses: Statuses,
    pub(crate) removals: EndpointRemovals,
    pub(crate) store: Arc<Store>,
}

/// Query parameters of [`RESOURCES`].
#[derive(Debug, Deserialize)]
struct OneProxy {
    /// Name of the proxy, `<pod>.<namespace>`.
    proxy: String,
}

/// Returns the routes of the endpoint.
pub(crate) fn router(debug: Debug) -> Router {
    Router::new()
        .route(CONTENTS, get(contents))
        .route(CONFIG, get(config))
        .route(PROXIES, get(proxies))
        .route(REMOVALS, get(removals))
        .route(RESOURCES, get(resources))
        .with_state(debug)
}

async fn contents() -> Json<Value> {
    Json(json!({
        "/debug/config": "the configuration in force, from defaults, file and environment",
        "/debug/proxies": "the proxies that are connected here: versions sent and acknowledged, rejections",
        "/debug/removals": "endpoints that were removed, and which proxies have not acknowledged that",
        "/debug/resources?proxy=<pod>.<namespace>": "names and versions of what a proxy is to have",
    }))
}

async fn config(State(debug): State<Debug>) -> Json<Config> {
    Json(Config::clone(&debug.config))
}

async fn proxies(State(debug): State<Debug>) -> Json<Proxies> {
    Json(debug.statuses.connected())
}

async fn removals(State(debug): State<Debug>) -> Json<Vec<Removal>> {
    let open = debug.removals.open().into_iter();
    let removals = open.map(|removal| Removal {
        proxy: removal.endpoint.proxy_name(),
        age_seconds: removal.age.as_secs_f64(),
        unacknowledged_by: removal.unacknowledged_proxies,
        among_them: removal.examples.iter().map(ObjectKey::proxy_name).collect(),
    });
    Json(removals.collect())
}

async fn resources(
    State(debug): State<Debug>,
    Query(OneProxy { proxy }): Query<OneProxy>,
) -> Result<Json<Resources>, (StatusCode, String)> {
    let key = ObjectKey::from_proxy_name(&proxy).ok_or_else(|| {
        let text = format!("proxy: {proxy:?} is not <pod>.<namespace>\n");
        (StatusCode::BAD_REQUEST, text)
    })?;
    let mut subscription = debug.store.watch(&key);
    let mut resources = subscription.read(|view, _| view.as_ref().map(listing));
    if resources.is_none() {
        // Resources of a proxy without a stream are not kept. The subscription generates them.
        let _ = tokio::time::timeout(GENERATION_TIMEOUT, subscription.changed()).await;
        resources = subscription.read(|view, _| view.as_ref().map(listing));
    }
    let text = format!("{key} has no resources; check that its Dataplane and its Mesh exist\n");
    resources.map(Json).ok_or((StatusCode::NOT_FOUND, text))
}

/// Returns the resources of a proxy by kind.
fn listing(view: &View<'_>) -> Resources {
    let of_kind = |kind: ResourceKind| {
        let mut entries: Vec<_> = view.wildcard(kind).collect();
        entries.sort_by(|one, other| one.name().cmp(other.name()));
        let entries = entries.into_iter().map(|entry| ResourceEntry {
            bytes: entry.encoded.len(),
            name: entry.versioned_name.name.to_string(),
            published: entry.sequence,
            version: entry.versioned_name.version.to_string(),
        });
        (format!("{kind:?}"), entries.collect())
    };
    ResourceKind::ALL.map(of_kind).into_iter().collect()
}
