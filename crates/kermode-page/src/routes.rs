//! Routes of the page. Each request works on a snapshot, on a thread for blocking work, so that no request delays the
//! streams of proxies.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use kermode_model::{MeshName, ObjectKey};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::Sources;
use crate::dataplanes::{List, ListQuery, SyncState};
use crate::detail::Detail;
use crate::events::{self, Certificate, Decision};
use crate::snapshot::{Graphs, Snapshots};

/// Path of the page. The other paths start with this one.
const PAGE: &str = "/page/";
/// Maximum number of concurrent requests for data. Further requests wait. Bounds the threads and the memory that
/// clients use.
const MAX_CONCURRENT_REQUESTS: usize = 4;

struct PageState {
    sources: Sources,
    snapshots: Snapshots,
    graphs: Graphs,
    requests: Arc<Semaphore>,
}

/// Query parameter of all lists that clients update.
#[derive(Debug, Deserialize)]
struct Since {
    /// Revision of the client's rows; empty for none.
    #[serde(default)]
    since: String,
}

/// Response with a part of a snapshot.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Revised {
    /// Revision for the parameter `since` of the next request.
    revision: String,
    /// Whether `rows` contains only the rows that changed since the client's revision.
    is_update: bool,
    #[serde(flatten)]
    list: List,
}

#[derive(Serialize)]
struct Overview {
    replica: Arc<str>,
    version: &'static str,
    dataplanes: usize,
    meshes: Vec<MeshName>,
    namespaces: Vec<Arc<str>>,
}

#[derive(Debug, Deserialize)]
struct DataplaneQuery {
    /// `namespace/name`.
    name: String,
}

#[derive(Debug, Deserialize)]
struct GraphQuery {
    mesh: String,
}

/// Returns the routes of the page. The caller puts them behind [`crate::guard::layer`].
pub fn router(sources: Sources) -> Router {
    let state = PageState {
        sources,
        snapshots: Snapshots::new(),
        graphs: Graphs::default(),
        requests: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
    };
    Router::new()
        .route("/", get(async || Redirect::temporary(PAGE)))
        .route("/page", get(async || Redirect::temporary(PAGE)))
        .route(
            PAGE,
            get(async || asset("text/html", include_str!("assets/page.html"))),
        )
        .route(
            "/page/page.css",
            get(async || asset("text/css", include_str!("assets/page.css"))),
        )
        .route(
            "/page/page.js",
            get(async || asset("text/javascript", include_str!("assets/page.js"))),
        )
        .route("/page/api/overview", get(overview))
        .route("/page/api/dataplanes", get(dataplanes))
        .route("/page/api/dataplane", get(dataplane))
        .route("/page/api/graph", get(graph))
        .route("/page/api/decisions", get(decisions))
        .route("/page/api/certificates", get(certificates))
        .with_state(Arc::new(state))
}

fn asset(content_type: &str, text: &'static str) -> impl IntoResponse + use<> {
    (
        [(header::CONTENT_TYPE, format!("{content_type}; charset=utf-8"))],
        text,
    )
}

type Page = State<Arc<PageState>>;

async fn overview(State(state): Page) -> Response {
    respond(state, |state| {
        let snapshot = state.snapshots.current(&state.sources);
        let (named_meshes, namespaces) = snapshot.meshes_and_namespaces();
        let mut meshes: Vec<_> = state
            .sources
            .copy_from_view(|view| view.meshes().map(|mesh| mesh.name.clone()).collect());
        // Dataplanes may name a Mesh that does not exist.
        meshes.extend(named_meshes);
        meshes.sort_unstable();
        meshes.dedup();
        Ok(Overview {
            replica: state.sources.replica.clone(),
            version: env!("CARGO_PKG_VERSION"),
            dataplanes: snapshot.len(),
            meshes,
            namespaces,
        })
    })
    .await
}

async fn dataplanes(
    State(state): Page,
    Query(query): Query<ListQuery>,
    Query(Since { since }): Query<Since>,
) -> Response {
    respond(state, move |state| {
        let snapshot = state.snapshots.current(&state.sources);
        let since = state.snapshots.number(&since);
        Ok(Revised {
            revision: state.snapshots.revision(&snapshot),
            is_update: since.is_some(),
            list: snapshot.list(&query, since),
        })
    })
    .await
}

async fn dataplane(State(state): Page, Query(DataplaneQuery { name }): Query<DataplaneQuery>) -> Response {
    respond(state, move |state| {
        let (namespace, pod) = name.split_once('/').ok_or_else(|| {
            let text = format!("query parameter name: {name:?} is not of the form <namespace>/<pod>\n");
            (StatusCode::BAD_REQUEST, text)
        })?;
        let key = ObjectKey::new(namespace, pod);
        let detail = state.sources.copy_from_view(|view| Detail::find(view, &key));
        let mut detail = detail.ok_or_else(|| {
            let text =
                format!("Dataplane {name} does not exist; check that its Pod exists and is injected\n");
            (StatusCode::NOT_FOUND, text)
        })?;
        detail.state = SyncState::of(state.sources.proxies.summary(&key).as_ref());
        detail.proxy = state.sources.proxies.proxy(&key);
        detail.certificate_not_after = state.sources.expiries.workload(&key).map(events::to_unix);
        Ok(detail)
    })
    .await
}

async fn graph(State(state): Page, Query(GraphQuery { mesh }): Query<GraphQuery>) -> Response {
    respond(state, move |state| {
        Ok(state.graphs.current(&state.sources, &MeshName::new(mesh)))
    })
    .await
}

async fn decisions(State(state): Page) -> Response {
    respond(state, |state| {
        let decisions = state.sources.decisions.newest_first().into_iter();
        Ok(decisions.map(Decision::from).collect::<Vec<_>>())
    })
    .await
}

async fn certificates(State(state): Page) -> Response {
    respond(state, |state| {
        let known = state.sources.expiries.certificates().into_iter();
        let mut certificates: Vec<_> = known.map(Certificate::from).collect();
        certificates.sort_by_key(|certificate| certificate.not_after);
        Ok(certificates)
    })
    .await
}

/// Makes a response on a thread for blocking work.
async fn respond<T: Serialize>(
    state: Arc<PageState>,
    make: impl FnOnce(&PageState) -> Result<T, (StatusCode, String)> + Send + 'static,
) -> Response {
    let Ok(permit) = state.requests.clone().acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let response = tokio::task::spawn_blocking(move || {
        // The thread goes on if the client closes the connection, so the thread owns the permit.
        let _permit = permit;
        match make(&state) {
            Ok(value) => Json(value).into_response(),
            Err(error) => error.into_response(),
        }
    });
    response
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[cfg(test)]
mod tests;
