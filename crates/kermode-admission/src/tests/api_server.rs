//! An API server that says what a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Answers,
    Hangs,
    Unreachable,
}

/// The scripted API server; cheap to clone.
#[derive(Clone)]
pub(super) struct ApiServer {
    mood: Mood,
    /// Objects by path.
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    events: mpsc::UnboundedSender<Value>,
}

impl ApiServer {
    /// One of that mood, and the Events that are written to it.
    pub(super) fn new(mood: Mood) -> (Self, mpsc::UnboundedReceiver<Value>) {
        let (events, written) = mpsc::unbounded_channel();
        let server = Self {
            mood,
            objects: Arc::default(),
            events,
        };
        (server, written)
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.objects
            .lock()
            .expect("no panic")
            .insert(path.to_owned(), object);
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().answer(request));
        Client::new(service, "default")
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        match self.mood {
            Mood::Answers => {}
            Mood::Hangs => std::future::pending().await,
            Mood::Unreachable => return Err(std::io::Error::other("connection refused")),
        }
        let (head, body) = request.into_parts();
        if head.method == Method::POST {
            let text = body.collect().await.expect("a body").to_bytes();
            let event: Value = serde_json::from_slice(&text).expect("an Event");
            // The test may have seen enough.
            let _ = self.events.send(event.clone());
            return Ok(reply(201, &event));
        }
        let found = self
            .objects
            .lock()
            .expect("no panic")
            .get(head.uri.path())
            .cloned();
        Ok(match found {
            Some(object) => reply(200, &object),
            None => reply(404, &not_found(head.uri.path())),
        })
    }
}

fn not_found(path: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("{path} not found"),
    })
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let body = Body::from(body.to_string().into_bytes());
    Response::builder().status(status).body(body).expect("a response")
}
