//! In-memory API server for tests, with Secrets, Events and one Mesh.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a failed expectation fails the test"
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

/// In-memory API server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<State>,
}

impl Default for ApiServer {
    fn default() -> Self {
        let state = State {
            mesh_uid: Mutex::new(Some("uid-of-mesh".to_owned())),
            ..State::default()
        };
        Self {
            state: Arc::new(state),
        }
    }
}

#[derive(Default)]
struct State {
    secrets: Mutex<BTreeMap<String, Value>>,
    events: Mutex<Vec<Value>>,
    is_failing: AtomicBool,
    mesh_uid: Mutex<Option<String>>,
}

impl ApiServer {
    /// Creates a client of the API server.
    pub fn client(&self) -> Client {
        let api_server = self.clone();
        let service = tower::service_fn(move |request| {
            let api_server = api_server.clone();
            async move { api_server.handle(request).await }
        });
        Client::new(service, "default")
    }

    /// Handles a request.
    ///
    /// # Errors
    /// Fails while the API server is set to fail with [`Self::set_failing`].
    pub async fn handle(&self, request: Request<Body>) -> io::Result<Response<Body>> {
        if self.state.is_failing.load(Ordering::Relaxed) {
            return Err(io::Error::other("no route"));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let path = head.uri.path();
        let (status, response) = if path.ends_with("/secrets") && head.method == Method::GET {
            let query = head.uri.query().unwrap_or_default();
            // The field selector of the list must name the type.
            assert!(query.contains("type%3Dsystem.kuma.io%2F"), "{query}");
            let is_selected = |secret: &&Value| {
                let secret_type = secret["type"].as_str().unwrap_or_default();
                query.contains(&format!("type%3D{}", secret_type.replace('/', "%2F")))
            };
            let items: Vec<_> = self.secrets().values().filter(is_selected).cloned().collect();
            (200, json!({"metadata": {}, "items": items}))
        } else if path.ends_with("/secrets") {
            assert_eq!(head.method, Method::POST);
            self.create_secret(serde_json::from_slice(&body).expect("JSON"))
        } else if let Some((_, name)) = path.split_once("/secrets/") {
            assert_eq!(head.method, Method::GET, "Secrets are never updated");
            let found = self.secrets().get(name).cloned();
            found.map_or_else(|| failure(404, "NotFound"), |secret| (200, secret))
        } else if let Some((_, name)) = path.split_once("/meshes/") {
            assert_eq!(head.method, Method::GET);
            let uid = self.state.mesh_uid.lock().clone();
            let metadata = |uid| json!({"metadata": {"name": name, "uid": uid}});
            uid.map_or_else(|| failure(404, "NotFound"), |uid| (200, metadata(uid)))
        } else {
            assert!(path.ends_with("/events"), "{} {path}", head.method);
            let event: Value = serde_json::from_slice(&body).expect("JSON");
            self.state.events.lock().push(event.clone());
            (201, event)
        };
        let body = Body::from(response.to_string().into_bytes());
        Ok(Response::builder().status(status).body(body).expect("a response"))
    }

    fn create_secret(&self, secret: Value) -> (u16, Value) {
        let name = secret["metadata"]["name"].as_str().expect("a name").to_owned();
        let mut secrets = self.secrets();
        if secrets.contains_key(&name) {
            return failure(409, "AlreadyExists");
        }
        secrets.insert(name, secret.clone());
        (201, secret)
    }

    /// Returns the Secrets by name.
    pub fn secrets(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.state.secrets.lock()
    }

    /// Returns the names of the Secrets.
    pub fn secret_names(&self) -> Vec<String> {
        self.secrets().keys().cloned().collect()
    }

    /// Deletes a Secret and returns it.
    pub fn delete_secret(&self, name: &str) -> Value {
        self.secrets().remove(name).expect("the Secret exists")
    }

    /// Deletes the Mesh, whatever its name.
    pub fn delete_mesh(&self) {
        *self.state.mesh_uid.lock() = None;
    }

    /// Makes both times of the schedule in the Secret `name` earlier by `by`.
    pub fn backdate_schedule(&self, name: &str, by: Duration) {
        let mut secrets = self.secrets();
        let data = &mut secrets.get_mut(name).expect("the Secret exists")["data"];
        for key in ["signs-from", "predecessor-trusted-until"] {
            let bytes: ByteString = serde_json::from_value(data[key].take()).expect("Base64");
            let seconds: u64 = String::from_utf8_lossy(&bytes.0).parse().expect("a number");
            let earlier = (seconds - by.as_secs()).to_string();
            data[key] = json!(ByteString(earlier.into_bytes()));
        }
    }

    /// Returns the Events written so far.
    pub fn events(&self) -> Vec<Value> {
        self.state.events.lock().clone()
    }

    /// Sets whether all requests fail, as if the API server could not be reached.
    pub fn set_failing(&self, is_failing: bool) {
        self.state.is_failing.store(is_failing, Ordering::Relaxed);
    }
}

/// Returns the HTTP status and the body of an error response.
fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason,
    });
    (code, status)
}
