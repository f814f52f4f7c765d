//! `kermode-demo server`: responds to every request with a description of the request and the name of the server's Pod.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::listener;
use crate::output;
use crate::shutdown::Shutdown;

/// Flags of the server.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Runs the server until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let name = pod_name()?;
    let listener = listener::bind(args.listen).await?;
    output::line(&format!(
        "{name} listens on {}",
        listener.local_addr().context("the listener has no address")?
    ));
    let handler = move |request: Request<Incoming>, remote| match request.uri().path() {
        "/healthz" => listener::json(StatusCode::OK, &json!({"healthy": true})),
        _ => listener::json(StatusCode::OK, &description(&name, &request, remote)),
    };
    listener::serve(listener, handler, shutdown.wait()).await;
    output::line("ended");
    Ok(())
}

/// Returns the name of the Pod, which is the host name in Kubernetes.
fn pod_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Describes a request.
fn description<B>(pod: &str, request: &Request<B>, remote: SocketAddr) -> Value {
    json!({
        "pod": pod,
        "remoteAddress": remote.to_string(),
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers(request.headers()),
    })
}

/// Returns headers by name; the values of a repeated header are joined, as HTTP allows.
fn headers(map: &HeaderMap) -> Value {
    let mut values = Map::new();
    for name in map.keys() {
        let all: Vec<_> = map
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        values.insert(name.to_string(), all.join(", ").into());
    }
    Value::Object(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_headers_are_joined() {
        let request = Request::builder()
            .uri("/a?b=c")
            .header("x-forwarded-client-cert", "URI=spiffe://default/one")
            .header("X-Forwarded-Client-Cert", "URI=spiffe://default/two")
            .body(())
            .expect("a request");
        let described = description("server-1", &request, ([192, 0, 2, 1], 5).into());
        assert_eq!(
            described,
            json!({
                "pod": "server-1",
                "remoteAddress": "192.0.2.1:5",
                "method": "GET",
                "path": "/a",
                "headers": {"x-forwarded-client-cert": "URI=spiffe://default/one, URI=spiffe://default/two"},
            })
        );
    }
}
