//! What this replica knows, for whoever looks for a fault: JSON over plain HTTP, on loopback only.
//!
//! `kubectl port-forward` reaches it; nobody else on the network does. It tells no secrets: keys and tokens are in none
//! of what it shows, configuration of proxies is named and dated but not printed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use kermode_model::ObjectKey;
use kermode_removals::EndpointRemovals;
use kermode_status::Statuses;
use kermode_xds::store::{ResourceKind, Store, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use kermode_config::Config;

/// How long the resources of a proxy may take to be made.
const MAKING: Duration = Duration::from_secs(1);

/// Where it listens.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What can be looked at.
#[derive(Clone)]
pub(crate) struct Debug {
    pub(crate) config: Arc<Config>,
    pub(crate) statuses: Statuses,
    pub(crate) removals: EndpointRemovals,
    pub(crate) store: Arc<Store>,
}

#[derive(Debug, Deserialize)]
struct OneProxy {
    /// `<pod>.<namespace>`
    proxy: String,
}

/// A removal that somebody has not acknowledged.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Removal {
    proxy: String,
    age_seconds: f64,
    unacknowledged_by: usize,
    /// The first of them.
    among_them: Vec<String>,
}

/// The routes.
pub(crate) fn router(debug: Debug) -> Router {
    Router::new()
        .route("/debug", get(contents))
        .route("/debug/config", get(config))
        .route("/debug/proxies", get(proxies))
        .route("/debug/removals", get(removals))
        .route("/debug/resources", get(resources))
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

async fn proxies(State(debug): State<Debug>) -> Json<Value> {
    Json(debug.statuses.connected())
}

async fn removals(State(debug): State<Debug>) -> Json<Vec<Removal>> {
    let open = debug.removals.open().into_iter();
    let removals = open.map(|removal| Removal {
        proxy: removal.endpoint.proxy_name(),
        age_seconds: removal.age.as_secs_f64(),
        unacknowledged_by: removal.unacknowledged_by,
        among_them: removal.examples.iter().map(ObjectKey::proxy_name).collect(),
    });
    Json(removals.collect())
}

async fn resources(
    State(debug): State<Debug>,
    Query(OneProxy { proxy }): Query<OneProxy>,
) -> Result<Json<Value>, (StatusCode, String)> {
    let key = ObjectKey::from_proxy_name(&proxy).ok_or_else(|| {
        let text = format!("proxy: {proxy:?} is not <pod>.<namespace>\n");
        (StatusCode::BAD_REQUEST, text)
    })?;
    let mut subscription = debug.store.watch(&key);
    let mut shown = subscription.read(|view, _| view.as_ref().map(listing));
    if shown.is_none() {
        // Of a proxy that is not connected here nothing is kept: asking has it made.
        let _ = tokio::time::timeout(MAKING, subscription.changed()).await;
        shown = subscription.read(|view, _| view.as_ref().map(listing));
    }
    let text = format!("{key} is no proxy of this mesh: it has no Dataplane, or its Mesh is not there\n");
    shown.map(Json).ok_or((StatusCode::NOT_FOUND, text))
}

/// What a proxy is to have, by kind.
fn listing(view: &View<'_>) -> Value {
    let of_kind = |kind: ResourceKind| {
        let mut entries: Vec<_> = view.wildcard(kind).collect();
        entries.sort_by(|one, other| one.name().cmp(other.name()));
        let shown = entries.into_iter().map(|entry| {
            json!({
                "name": &*entry.versioned_name.name,
                "version": &*entry.versioned_name.version,
                "bytes": entry.encoded.len(),
                "published": entry.sequence,
            })
        });
        (format!("{kind:?}"), shown.collect::<Value>())
    };
    Value::Object(ResourceKind::ALL.map(of_kind).into_iter().collect())
}
