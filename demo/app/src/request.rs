//! One request with HTTP/1.1, HTTP/2 or gRPC, over a new connection or over a connection that an earlier request left open.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full};

use crate::pool::Pool;
use crate::target::{Connector, Target};

/// Message of a gRPC call, which is empty: not compressed, no bytes.
const EMPTY_GRPC_MESSAGE: &[u8] = &[0; 5];

/// A response with any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// A valid URL with scheme `http` or `https`.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    pub(crate) target: Target,
    /// Whether the scheme is `https`.
    pub(crate) is_https: bool,
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

impl Url {
    /// Returns the URL with scheme and authority, from which HTTP/2 takes its pseudo-headers.
    fn absolute(&self) -> Result<Uri> {
        let path = self
            .path
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let uri = Uri::builder()
            .scheme(if self.is_https { "https" } else { "http" })
            .authority(self.authority.as_bytes())
            .path_and_query(path);
        Ok(uri.build()?)
    }
}

/// Protocol of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without an upgrade from HTTP/1.1.
    Http2,
    /// Unary calls with gRPC, with an empty message.
    Grpc,
}

/// Makes requests.
#[derive(Clone)]
pub(crate) struct Requester {
    connector: Connector,
    timeout: Duration,
    protocol: Protocol,
    pool: Arc<Pool>,
}

impl Requester {
    /// Returns a requester for HTTP/1.1 with a timeout for each request. With `keep_alive`, it reuses connections;
    /// otherwise, each request opens a connection, so a load balancer of connections also balances requests.
    pub(crate) fn new(timeout: Duration, keep_alive: bool) -> Result<Self> {
        let pool = if keep_alive {
            Pool::http1(1)
        } else {
            Pool::Unpooled
        };
        Self::with_pool(timeout, Protocol::Http1, pool)
    }

    /// Returns a requester that spreads its requests over this number of connections.
    pub(crate) fn with_connections(
        timeout: Duration,
        protocol: Protocol,
        connections: usize,
    ) -> Result<Self> {
        let pool = match protocol {
            Protocol::Http1 => Pool::http1(connections),
            Protocol::Http2 | Protocol::Grpc => Pool::http2(connections),
        };
        Self::with_pool(timeout, protocol, pool)
    }

    fn with_pool(timeout: Duration, protocol: Protocol, pool: Pool) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(timeout)?,
            timeout,
            protocol,
            pool: Arc::new(pool),
        })
    }

    /// Makes a request, with TLS for a URL with scheme `https`. All requests of a requester that reuses connections must
    /// have the same target. An error begins with the step that failed: `name` (resolution of the host name), `connect`,
    /// `tls`, `response`, `body` or `grpc-status`. The error of a timeout after the connection was opened begins with
    /// `response`.
    pub(crate) async fn get(&self, url: &Url) -> Result<HttpResponse> {
        tokio::time::timeout(self.timeout, self.attempt(url))
            .await
            .context("response: timed out")?
    }

    async fn attempt(&self, url: &Url) -> Result<HttpResponse> {
        let request = self.request(url)?;
        let answer = self.pool.send(&self.connector, url, request).await?;
        let (head, body) = answer.response.into_parts();
        let body = body.collect().await.context("body")?;
        self.pool.give_back(answer.connection);
        let status = head.status.as_u16();
        if self.protocol == Protocol::Grpc && status == 200 {
            check_grpc_status(&head.headers, body.trailers())?;
        }
        Ok(HttpResponse {
            status,
            body: body.to_bytes(),
        })
    }

    fn request(&self, url: &Url) -> Result<Request<Full<Bytes>>> {
        let request = match self.protocol {
            Protocol::Http1 => Request::get(url.path.clone()).header(HOST, url.authority.clone()),
            Protocol::Http2 => Request::get(url.absolute()?),
            Protocol::Grpc => Request::post(url.absolute()?)
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers"),
        };
        let message = match self.protocol {
            Protocol::Grpc => Bytes::from_static(EMPTY_GRPC_MESSAGE),
            Protocol::Http1 | Protocol::Http2 => Bytes::new(),
        };
        let mut request = request.body(Full::new(message))?;
        if matches!(*self.pool, Pool::Unpooled) {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
        }
        Ok(request)
    }
}

/// Checks the status of a gRPC call. A call that failed before its first message has the status in its headers.
///
/// # Errors
/// The status is missing or not 0.
fn check_grpc_status(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Result<()> {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
    let status = status.or_else(|| headers.get("grpc-status"));
    let status = status.context("grpc-status: missing")?;
    ensure!(
        status == "0",
        "grpc-status: {}",
        String::from_utf8_lossy(status.as_bytes())
    );
    Ok(())
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
    #[test]
    fn grpc_call_succeeds_only_with_status_0_in_trailers_or_headers() {
        let with_status = |status: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(status),
            )])
        };
        let none = HeaderMap::new();
        assert!(check_grpc_status(&none, Some(&with_status("0"))).is_ok());
        assert!(check_grpc_status(&with_status("0"), None).is_ok());
        for (headers, trailers) in [
            (none.clone(), None),
            (none, Some(with_status("14"))),
            (with_status("14"), None),
        ] {
            let error = check_grpc_status(&headers, trailers.as_ref()).expect_err("a failure");
            assert!(error.to_string().starts_with("grpc-status: "), "{error}");
        }
    }
}
