//! Connections to a port of a Pod, also on its loopback, through the API server and the kubelet. The user needs only the
//! permission on `pods/portforward`; no port is open in the Pod's network.
//!
//! [`PodStream`] is one connection, for any protocol. [`PodHttp`] sends HTTP requests over one, bounded in time and size.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use futures::future::BoxFuture;
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kermode_model::duration;
use kube::Api;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::error::Request;
use super::{ClusterClient, ClusterError};

/// Resource that a user must be allowed to use.
const RESOURCE: &str = "pods/portforward";
/// Length of the part of an error response that an error message repeats.
const MAX_QUOTE: usize = 200;

/// A port of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPort {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
}

/// A connection to a port of a Pod.
pub(crate) struct PodStream {
    stream: DuplexStream,
    forwarder: Portforwarder,
    /// Resolves to the message of the kubelet if the port cannot be reached.
    failure: Option<BoxFuture<'static, Option<String>>>,
}

/// An HTTP connection to a port of a Pod.
pub(crate) struct PodHttp {
    port: PodPort,
    requests: SendRequest<Empty<Bytes>>,
    failure: Option<BoxFuture<'static, Option<String>>>,
    /// Time limit of each request.
    timeout: Duration,
}

/// Reason why a port of a Pod cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The API server does not forward the port.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The kubelet cannot connect to the port.
    #[error(
        "{port}: the kubelet cannot connect to the port; check that the container that listens there runs ({message})"
    )]
    Refused { port: PodPort, message: String },
    /// The connection ended, or its content is not HTTP.
    #[error("{port}: no HTTP response to GET {path}; check that the container that listens there runs")]
    Http {
        port: PodPort,
        path: String,
        source: hyper::Error,
    },
    /// The path cannot be part of a request.
    #[error("{port}: {path} is not a path")]
    Path {
        port: PodPort,
        path: String,
        source: http::Error,
    },
    /// The server responds with an error.
    #[error("{port}: GET {path} responds with {status} ({message})")]
    Status {
        port: PodPort,
        path: String,
        status: StatusCode,
        message: String,
    },
    /// The response is too large.
    #[error("{port}: the response to GET {path} is larger than {limit} bytes; ask for less")]
    TooLarge {
        port: PodPort,
        path: String,
        limit: usize,
    },
    /// The body of the response cannot be read.
    #[error("{port}: the response to GET {path} ends before its body is complete")]
    Body {
        port: PodPort,
        path: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The response does not arrive in time.
    #[error("{port}: no complete response to GET {path} within {limit}; raise --request-timeout")]
    Timeout {
        port: PodPort,
        path: String,
        limit: String,
    },
}

// === impl ClusterClient ===

impl ClusterClient {
    /// Opens a connection to a port of a running Pod. The kubelet connects to the port on the loopback of the Pod.
    ///
    /// # Errors
    /// If the user may not forward ports, or the Pod does not exist or does not run. Whether a process listens on the port
    /// shows only in the use of the stream.
    pub(crate) async fn open(&self, port: &PodPort) -> Result<PodStream, ClusterError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &port.namespace);
        let ports = [port.port];
        let forwarder = tokio::time::timeout(self.timeout, pods.portforward(&port.pod, &ports)).await;
        let Ok(forwarder) = forwarder else {
            return Err(ClusterError::Timeout {
                cluster: self.name.clone(),
                request: request(port, "get"),
                limit: duration::format(self.timeout),
            });
        };
        let mut forwarder = forwarder.map_err(|error| self.error(&request(port, verb(&error)), error))?;
        let failure = forwarder.take_error(port.port);
        let stream = forwarder.take_stream(port.port);
        Ok(PodStream {
            // Each forwarder has the stream of the port that was asked for. A stream without a peer is closed.
            stream: stream.unwrap_or_else(|| tokio::io::duplex(1).0),
            forwarder,
            failure: failure.map(|failure| Box::pin(failure) as BoxFuture<'static, _>),
        })
    }

    /// Opens an HTTP connection to a port of a running Pod.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_http(&self, port: PodPort) -> Result<PodHttp, ForwardError> {
        let mut stream = self.open(&port).await?;
        let failure = stream.failure.take();
        PodHttp::new(stream, failure, port, self.timeout).await
    }
}

fn request(port: &PodPort, verb: &'static str) -> Request {
    Request {
        verb,
        resource: RESOURCE.to_owned(),
        namespace: Some(port.namespace.clone()),
        name: Some(port.pod.clone()),
    }
}

/// Returns the verb of the missing permission. The request is a GET; since Kubernetes 1.35, the API server also checks the
/// verb `create` for requests that open a WebSocket.
fn verb(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.message.contains("cannot create resource") => "create",
        _ => "get",
    }
}

// === impl PodPort ===

impl fmt::Display for PodPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, port } = self;
        write!(formatter, "port {port} of Pod {namespace}/{pod}")
    }
}

// === impl PodStream ===

impl AsyncRead for PodStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PodStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for PodStream {
    fn drop(&mut self) {
        // The task would otherwise keep the connection to the API server open until the other side closes it.
        self.forwarder.abort();
    }
}

// === impl PodHttp ===

impl PodHttp {
    /// Starts HTTP on a connection. `failure` resolves to the kubelet's message if the port cannot be reached.
    async fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        failure: Option<BoxFuture<'static, Option<String>>>,
        port: PodPort,
        timeout: Duration,
    ) -> Result<Self, ForwardError> {
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|source| ForwardError::Http {
                    port: port.clone(),
                    path: "/".to_owned(),
                    source,
                })?;
        // The task ends when the sender of requests is dropped, or when the other side closes the connection. The error
        // of the connection is also the error of the request.
        tokio::spawn(connection);
        Ok(Self {
            port,
            requests,
            failure,
            timeout,
        })
    }

    /// Requests a path, and returns the body of the response, which has at most `limit` bytes.
    pub(crate) async fn get(&mut self, path: &str, limit: usize) -> Result<Vec<u8>, ForwardError> {
        let (port, timeout) = (self.port.clone(), self.timeout);
        let failure = self.failure.take();
        let exchange = exchange(&mut self.requests, &port, path, limit);
        let response = match failure {
            Some(mut failure) => {
                let response = or_failure(exchange, &mut failure, &port);
                let response = tokio::time::timeout(timeout, response).await;
                self.failure = Some(failure);
                response
            }
            None => tokio::time::timeout(timeout, exchange).await,
        };
        match response {
            Ok(response) => response,
            Err(_) => Err(ForwardError::Timeout {
                port,
                path: path.to_owned(),
                limit: duration::format(timeout),
            }),
        }
    }
}

/// Waits for a response, or for the kubelet's message that the port cannot be reached. The message is the cause if the
/// connection ends at the same time.
async fn or_failure(
    exchange: impl Future<Output = Result<Vec<u8>, ForwardError>>,
    failure: &mut BoxFuture<'static, Option<String>>,
    port: &PodPort,
) -> Result<Vec<u8>, ForwardError> {
    let message = async {
        match failure.await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        message = message => Err(ForwardError::Refused { port: port.clone(), message: message.trim().to_owned() }),
        response = exchange => response,
    }
}

async fn exchange(
    requests: &mut SendRequest<Empty<Bytes>>,
    port: &PodPort,
    path: &str,
    limit: usize,
) -> Result<Vec<u8>, ForwardError> {
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .body(Empty::new());
    let request = request.map_err(|source| ForwardError::Path {
        port: port.clone(),
        path: path.to_owned(),
        source,
    })?;
    let http_error = |source| ForwardError::Http {
        port: port.clone(),
        path: path.to_owned(),
        source,
    };
    requests.ready().await.map_err(http_error)?;
    let response = requests.send_request(request).await.map_err(http_error)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limit).collect().await;
    let body = body.map_err(|source| {
        let (port, path) = (port.clone(), path.to_owned());
        if source.is::<LengthLimitError>() {
            ForwardError::TooLarge { port, path, limit }
        } else {
            ForwardError::Body { port, path, source }
        }
    })?;
    let body = Vec::from(body.to_bytes());
    if status.is_success() {
        return Ok(body);
    }
    let message: String = String::from_utf8_lossy(&body).chars().take(MAX_QUOTE).collect();
    Err(ForwardError::Status {
        port: port.clone(),
        path: path.to_owned(),
        status,
        message: message.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests;
