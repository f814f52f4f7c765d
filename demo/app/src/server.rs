//! `kermode-demo server`: responds to every request with a description of the request and the name of the server's Pod,
//! and to the health checks of HTTP and gRPC. On request, it also echoes TCP data.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::unix_milliseconds;
use crate::listener::{self, Body};
use crate::shutdown::Shutdown;
use crate::{echo, output, termination, tls};

/// Path of the health check over HTTP.
const HEALTH_PATH: &str = "/healthz";
/// Path of the health check of gRPC.
const GRPC_HEALTH_PATH: &str = "/grpc.health.v1.Health/Check";

/// Flags of the server.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address to listen on; may be repeated.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Address on which the server greets TCP connections with the name of its Pod, and echoes their data.
    #[arg(long, value_name = "ADDRESS:PORT")]
    echo_listen: Option<SocketAddr>,
    /// Serve HTTPS instead of HTTP, with a self-signed certificate.
    #[arg(long)]
    tls: bool,
    /// Report in health checks that the server is not healthy.
    #[arg(long)]
    unhealthy: bool,
    /// Print path and query of each request.
    #[arg(long)]
    log_requests: bool,
    /// Time between a request and its response. Health checks over HTTP are answered at once.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Behaviour on SIGTERM.
    #[arg(long, default_value = "drain")]
    on_sigterm: OnSigterm,
}

/// Behaviour of the server on SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnSigterm {
    /// Accept no more connections, close idle connections, let open requests complete within 5 s, and exit.
    Drain,
    /// Exit at once, with open connections and requests.
    Exit,
    /// Keep serving, until SIGKILL.
    Ignore,
}

/// Number of requests of a listener that are in progress, without health checks over HTTP.
#[derive(Clone, Debug, Default)]
struct InProgress(Arc<AtomicUsize>);

/// Request in progress, until this value is dropped.
struct StartedRequest(InProgress);

// === impl InProgress ===

impl InProgress {
    fn start(&self) -> StartedRequest {
        self.0.fetch_add(1, Ordering::Relaxed);
        StartedRequest(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for StartedRequest {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs the server until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let name = pod_name()?;
    // All sockets are open when the first address is printed, so a reader of the output can connect to each.
    let echo_socket = match args.echo_listen {
        Some(address) => Some(listener::bind(address).await?),
        None => None,
    };
    let mut sockets = Vec::new();
    for address in &args.listen {
        sockets.push(listener::bind(*address).await?);
    }
    for socket in &sockets {
        let address = socket.local_addr().context("the listener has no address")?;
        output::line(&format!("{name} listens on {address}"));
    }
    let (stop_sender, stop) = watch::channel(false);
    let mut servers = JoinSet::new();
    let mut in_progress = Vec::new();
    for socket in sockets {
        in_progress.push(serve_http(socket, &args, &name, &stop, &mut servers)?);
    }
    if let Some(socket) = echo_socket {
        let (greeting, stop) = (format!("{name}\n"), stop.clone());
        servers.spawn(async move { echo::serve(socket, &greeting, stopped(stop)).await });
    }
    shutdown.wait().await;
    match args.on_sigterm {
        OnSigterm::Drain => {
            // The listeners run as tasks, which hold receivers until they end.
            let _ = stop_sender.send(true);
            while servers.join_next().await.is_some() {}
        }
        OnSigterm::Exit => {}
        OnSigterm::Ignore => {
            output::line("SIGTERM is ignored");
            std::future::pending::<()>().await;
        }
    }
    let unfinished: Vec<_> = in_progress.iter().map(InProgress::count).collect();
    termination::report(&json!({"requestsInProgress": unfinished, "endedAt": unix_milliseconds()}));
    let sum: usize = unfinished.iter().sum();
    output::line(&format!("ended with {sum} requests in progress"));
    Ok(())
}

/// Adds a task that serves HTTP until `stop` has the value true. Returns the number of requests in progress.
fn serve_http(
    socket: TcpListener,
    args: &Args,
    name: &str,
    stop: &watch::Receiver<bool>,
    servers: &mut JoinSet<()>,
) -> Result<InProgress> {
    let tls = args.tls.then(tls::acceptor).transpose()?;
    let (unhealthy, log_requests, delay) = (args.unhealthy, args.log_requests, args.delay);
    let (name, in_progress) = (Arc::<str>::from(name), InProgress::default());
    let counter = in_progress.clone();
    let handler = move |request: Request<Incoming>, remote| {
        let (name, counter) = (Arc::clone(&name), counter.clone());
        async move {
            if log_requests {
                output::line(&format!("request {}", request.uri()));
            }
            let path = request.uri().path();
            if path == HEALTH_PATH {
                return health(unhealthy);
            }
            let _started = counter.start();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match path {
                GRPC_HEALTH_PATH => grpc_health(unhealthy),
                _ => listener::json(StatusCode::OK, &description(&name, &request, remote)),
            }
        }
    };
    let stop = stop.clone();
    servers.spawn(async move { listener::serve(socket, tls, handler, stopped(stop)).await });
    Ok(in_progress)
}

/// Completes when the value is true.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender is dropped only at the end of the program.
    let _ = stop.wait_for(|value| *value).await;
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
