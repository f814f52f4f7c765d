//! Mock API server. Tests set its objects and its behaviour.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Behaviour of the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Requests are handled.
    Responds,
    /// Requests get no response.
    Hangs,
    /// Connections are refused.
    Unreachable,
}

/// Mock API server. Cheap to clone.
#[derive(Clone)]
pub(super) struct ApiServer {
    mode: Mode,
    /// Objects by path.
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    events: mpsc::UnboundedSender<Value>,
}

impl ApiServer {
    /// Creates an API server, and a receiver of the Events that are written to it.
    pub(super) fn new(mode: Mode) -> (Self, mpsc::UnboundedReceiver<Value>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let server = Self {
            mode,
            objects: Arc::default(),
            events,
        };
        (server, receiver)
    }

    /// Adds an object at a path.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.objects
            .lock()
            .expect("the lock is not poisoned")
            .insert(path.to_owned(), object);
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().handle(request));
        Client::new(service, "default")
    }

    async fn handle(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        match self.mode {
            Mode::Responds => {}
            Mode::Hangs => std::future::pending().await,
            Mode::Unreachable => return Err(std::io::Error::other("connection refused")),
        }
        let (head, body) = request.into_parts();
        if head.method == Method::POST {
            let text = body.collect().await.expect("a body").to_bytes();
            let event: Value = serde_json::from_slice(&text).expect("an Event");
            // The test may have dropped the receiver.
            let _ = self.events.send(event.clone());
            return Ok(mk_response(201, &event));
        }
        let found = self
            .objects
            .lock()
            .expect("the lock is not poisoned")
            .get(head.uri.path())
            .cloned();
        Ok(match found {
            Some(object) => mk_response(200, &object),
            None => mk_response(404, &not_found(head.uri.path())),
        })
    }
}

fn not_found(path: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("{path} not found"),
    })
}

fn mk_response(status: u16, body: &Value) -> Response<Body> {
    let body = Body::from(body.to_string().into_bytes());
    Response::builder().status(status).body(body).expect("a response")
}
