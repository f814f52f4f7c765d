//! Server of `/debug`: state of this replica as JSON over plain HTTP, for troubleshooting.
//!
//! The server listens on loopback, so only `kubectl port-forward` reaches it. Responses contain neither keys nor
//! tokens. They contain the names, versions and sizes of resources, but not their contents. The types of the responses
//! are in [`kermode_protocol::debug`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use kermode_model::ObjectKey;
use kermode_protocol::debug::{
    CONFIG, OVERVIEW, PROXIES, Proxies, REMOVALS, RESOURCES, Removal, ResourceEntry, Resources,
};
use kermode_removals::EndpointRemovals;
use kermode_status::ProxyStatuses;
use kermode_xds::store::{ResourceKind, Store, View};
use serde::Deserialize;
use serde_json::{Value, json};

use kermode_config::Config;

/// Maximum time to wait until a proxy's resources are generated.
const GENERATION_TIMEOUT: Duration = Duration::from_secs(1);

/// IP address that the server listens on. The port is in the configuration.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// State that the responses show; cheap to clone.
#[derive(Clone)]
pub(crate) struct DebugState {
    pub(crate) config: Arc<Config>,
    pub(crate) statuses: ProxyStatuses,
    pub(crate) removals: EndpointRemovals,
    pub(crate) store: Arc<Store>,
}

/// Query parameters of [`RESOURCES`].
#[derive(Debug, Deserialize)]
struct ResourcesQuery {
    /// Name of the proxy, `<pod>.<namespace>`.
    proxy: String,
}

/// Returns the routes of the server.
pub(crate) fn router(state: DebugState) -> Router {
    Router::new()
        .route(OVERVIEW, get(overview))
        .route(CONFIG, get(config))
        .route(PROXIES, get(proxies))
        .route(REMOVALS, get(removals))
        .route(RESOURCES, get(resources))
        .with_state(state)
}

async fn overview() -> Json<Value> {
    Json(json!({
        "/debug/config": "configuration of this replica, merged from defaults, file and environment",
        "/debug/proxies": "proxies connected to this replica: versions sent and acknowledged, rejections",
        "/debug/removals": "endpoint removals that proxies have not acknowledged: number of these proxies, and examples",
        "/debug/resources?proxy=<pod>.<namespace>": "names, versions and sizes of the resources that are published for a proxy",
        "/page/": "Dataplanes, services and permissions, for a browser",
    }))
}

async fn config(State(state): State<DebugState>) -> Json<Config> {
    Json(Config::clone(&state.config))
}

async fn proxies(State(state): State<DebugState>) -> Json<Proxies> {
    Json(state.statuses.connected_proxies())
}

async fn removals(State(state): State<DebugState>) -> Json<Vec<Removal>> {
    let open_removals = state.removals.open_removals().into_iter();
    let removals = open_removals.map(|removal| Removal {
        proxy: removal.endpoint.proxy_name(),
        age_seconds: removal.age.as_secs_f64(),
        unacknowledged_by: removal.unacknowledged_count,
        examples: removal.examples.iter().map(ObjectKey::proxy_name).collect(),
    });
    Json(removals.collect())
}

async fn resources(
    State(state): State<DebugState>,
    Query(ResourcesQuery { proxy }): Query<ResourcesQuery>,
) -> Result<Json<Resources>, (StatusCode, String)> {
    let key = ObjectKey::from_proxy_name(&proxy).ok_or_else(|| {
        let text = format!("query parameter proxy: {proxy:?} is not of the form <pod>.<namespace>\n");
        (StatusCode::BAD_REQUEST, text)
    })?;
    let mut watcher = state.store.watch(&key);
    let mut resources = watcher.read(|view, _| view.as_ref().map(resources_by_kind));
    if resources.is_none() {
        // The store holds the resources of a proxy only while the proxy has a stream. The watcher counts as a stream,
        // so the publisher generates the resources.
        let _ = tokio::time::timeout(GENERATION_TIMEOUT, watcher.changed()).await;
        resources = watcher.read(|view, _| view.as_ref().map(resources_by_kind));
    }
    let text = format!("proxy {proxy} has no resources; check that its Dataplane and its Mesh exist\n");
    resources.map(Json).ok_or((StatusCode::NOT_FOUND, text))
}

/// Returns the resources that a wildcard subscription of the proxy includes, by kind.
fn resources_by_kind(view: &View<'_>) -> Resources {
    let of_kind = |kind: ResourceKind| {
        let mut entries: Vec<_> = view.wildcard(kind).collect();
        entries.sort_by(|one, other| one.name().cmp(other.name()));
        let entries = entries.into_iter().map(|entry| ResourceEntry {
            bytes: entry.encoded.len(),
            name: entry.versioned_name.name.to_string(),
            sequence_number: entry.sequence,
            version: entry.versioned_name.version.to_string(),
        });
        (format!("{kind:?}"), entries.collect())
    };
    ResourceKind::ALL.map(of_kind).into_iter().collect()
}
