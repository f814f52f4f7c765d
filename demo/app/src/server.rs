//! `kermode-demo server`: responds to every request with a description of the request and the name of the server's Pod,
//! and to the health checks of HTTP and gRPC.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::listener::{self, Body};
use crate::output;
use crate::shutdown::Shutdown;
use crate::tls;

/// Path of the health check of gRPC.
const GRPC_HEALTH_PATH: &str = "/grpc.health.v1.Health/Check";

/// Flags of the server.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Serve HTTPS instead of HTTP, with a self-signed certificate.
    #[arg(long)]
    tls: bool,
    /// Report in health checks that the server is not healthy.
    #[arg(long)]
    unhealthy: bool,
    /// Print path and query of each request.
    #[arg(long)]
    log_requests: bool,
}

/// Runs the server until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let name = pod_name()?;
    let tls = args.tls.then(tls::acceptor).transpose()?;
    let listener = listener::bind(args.listen).await?;
    output::line(&format!(
        "{name} listens on {}",
        listener.local_addr().context("the listener has no address")?
    ));
    let handler = move |request: Request<Incoming>, remote| {
        if args.log_requests {
            output::line(&format!("request {}", request.uri()));
        }
        match request.uri().path() {
            "/healthz" => health(args.unhealthy),
            GRPC_HEALTH_PATH => grpc_health(args.unhealthy),
            _ => listener::json(StatusCode::OK, &description(&name, &request, remote)),
        }
    };
    listener::serve(listener, tls, handler, shutdown.wait()).await;
    output::line("ended");
    Ok(())
}

fn health(unhealthy: bool) -> Response<Body> {
    let status = if unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    listener::json(status, &json!({"healthy": !unhealthy}))
}

/// Returns the response of the gRPC health service: a message with one field, and the status of the call in trailers.
fn grpc_health(unhealthy: bool) -> Response<Body> {
    // NOT_SERVING or SERVING.
    let serving_status = if unhealthy { 2 } else { 1 };
    // Not compressed; 2 bytes; field 1 of type varint; its value.
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 0x08, serving_status]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
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

    #[tokio::test]
    async fn response_of_the_grpc_health_check_has_the_status_of_the_call_in_its_trailers() {
        let body = grpc_health(false).into_body().collect().await;
        let trailers = body.expect("a body").trailers().cloned();
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    }

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
