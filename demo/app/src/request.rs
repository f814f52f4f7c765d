//! One HTTP/1.1 request, over a new connection or over a connection that an earlier request left open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::target::{Connector, Target};
use crate::tls;

/// A response with any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// A valid URL with scheme `http` or `https`.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    target: Target,
    /// Whether the scheme is `https`.
    is_https: bool,
    /// Value of the header `host`.
    authority: HeaderValue,
    /// Path and query.
    path: Uri,
}

impl std::str::FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().with_context(|| format!("{text:?} is not a URL"))?;
        let (is_https, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => bail!("{text:?}: write it as http://HOST:PORT/PATH or https://HOST:PORT/PATH"),
        };
        let authority = uri
            .authority()
            .with_context(|| format!("{text:?} names no host"))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Ok(Self {
            target: Target {
                host: authority.host().trim_matches(['[', ']']).to_owned(),
                port: authority.port_u16().unwrap_or(default_port),
            },
            is_https,
            authority: HeaderValue::from_str(authority.as_str())?,
            path: path.parse()?,
        })
    }
}

/// A connection, ready for a request without a body.
type Connection = SendRequest<Empty<Bytes>>;

/// Makes requests.
#[derive(Clone)]
pub(crate) struct Requester {
    connector: Connector,
    timeout: Duration,
    /// Idle connections; present with `keep_alive`.
    idle: Option<Arc<Mutex<Vec<Connection>>>>,
}

impl Requester {
    /// Returns a requester with a timeout for each request. With `keep_alive`, it reuses connections; otherwise, each
    /// request opens a connection, so a load balancer of connections also balances requests.
    pub(crate) fn new(timeout: Duration, keep_alive: bool) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(timeout)?,
            timeout,
            idle: keep_alive.then(Arc::default),
        })
    }

    /// Makes a request, with TLS for a URL with scheme `https`. All requests of a requester with `keep_alive` must have the
    /// same target. An error begins with the step that failed: `name` (resolution of the host name), `connect`, `tls`,
    /// `response` or `body`. The error of a timeout after the connection was opened begins with `response`.
    pub(crate) async fn get(&self, url: &Url) -> Result<HttpResponse> {
        tokio::time::timeout(self.timeout, self.attempt(url))
            .await
            .context("response: timed out")?
    }

    async fn attempt(&self, url: &Url) -> Result<HttpResponse> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.open(url).await?,
        };
        let mut request = Request::get(url.path.clone())
            .header(HOST, url.authority.clone())
            .body(Empty::new())?;
        if self.idle.is_none() {
            request
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let response = connection.send_request(request).await.context("response")?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.context("body")?.to_bytes();
        self.return_idle(connection);
        Ok(HttpResponse { status, body })
    }

    async fn open(&self, url: &Url) -> Result<Connection> {
        let stream = self.connector.connect(&url.target).await?;
        if url.is_https {
            start_http(tls::connect(stream, &url.target.host).await.context("tls")?).await
        } else {
            start_http(stream).await
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        let ready = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    fn return_idle(&self, connection: Connection) {
        if let Some(idle) = &self.idle {
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }
}

/// Starts HTTP/1.1 on a connection.
async fn start_http(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Connection> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.context("connect")?;
    // The task ends with the connection. An error of the connection also fails the request, so it is not read here.
    tokio::spawn(connection);
    Ok(sender)
}

/// Returns the failed step and the innermost cause of an error. The text usually has few distinct values, so it can be
/// the key of a counter.
pub(crate) fn summary(error: &anyhow::Error) -> String {
    let step = error.to_string();
    let cause = error.root_cause().to_string();
    if step == cause {
        step
    } else {
        format!("{step}: {cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_a_port_and_a_path() {
        let url: Url = "http://demo-server.demo.svc/a?b".parse().expect("a URL");
        assert_eq!(
            (
                url.target.host.as_str(),
                url.target.port,
                url.path.to_string().as_str()
            ),
            ("demo-server.demo.svc", 80, "/a?b")
        );
        let url: Url = "http://[::1]:8080".parse().expect("a URL");
        assert_eq!(
            (
                url.target.host.as_str(),
                url.target.port,
                url.path.to_string().as_str()
            ),
            ("::1", 8080, "/")
        );
        let url: Url = "https://a/".parse().expect("a URL");
        assert_eq!((url.target.port, url.is_https), (443, true));
        for text in ["ftp://a/", "a", "/a", "http://"] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
