//! Protects the servers on loopback from web pages in the user's browser.
//!
//! While a user has forwarded the port, each web page that the browser shows can send requests to it. A page of another
//! origin cannot read the responses, because they allow no other origin (no CORS). A page that has pointed its own name
//! at 127.0.0.1 (DNS rebinding) could, so the guard refuses requests whose host is not a loopback name. All requests but
//! GET and HEAD are refused.

use axum::Router;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

/// Headers of every response. The policy allows scripts, styles and requests of the own origin only.
const RESPONSE_HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// Reason for which a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("only GET and HEAD are allowed: this server is read-only")]
    Method,
    #[error(
        "the host of the request must be localhost, 127.0.0.1 or [::1]: open the forwarded port by one of these names"
    )]
    Host,
    #[error("requests of other web sites are refused: open the page in its own tab")]
    OtherSite,
}

/// Puts the guard before all routes of a router.
pub fn layer(router: Router) -> Router {
    router.layer(middleware::from_fn(guard))
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = match check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => (refusal.status(), format!("{refusal}\n")).into_response(),
    };
    for (name, value) in RESPONSE_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::Method);
    }
    // HTTP/2 has the host in the URI, HTTP/1.1 in the header. If both are present, both must be loopback names.
    let mut hosts = headers.get_all(header::HOST).iter().map(HeaderValue::to_str);
    let has_host = uri.authority().is_some() || headers.contains_key(header::HOST);
    let is_loopback = hosts.all(|host| host.is_ok_and(is_loopback))
        && uri
            .authority()
            .is_none_or(|authority| is_loopback(authority.as_str()));
    if !has_host || !is_loopback {
        return Err(Refusal::Host);
    }
    let fetch = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let is_own_site = matches!(fetch("sec-fetch-site"), None | Some(b"none" | b"same-origin"));
    // A link in another page may open this page in a tab: the other page cannot read it.
    let is_opened_in_tab =
        fetch("sec-fetch-mode") == Some(b"navigate") && fetch("sec-fetch-dest") == Some(b"document");
    if is_own_site || is_opened_in_tab {
        Ok(())
    } else {
        Err(Refusal::OtherSite)
    }
}

/// Whether the value of a `Host` header, with or without a port, is a loopback name or address.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::OtherSite => StatusCode::FORBIDDEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a GET request with these headers.
    fn check_headers(headers: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        check(
            &Method::GET,
            &Uri::from_static("/page/"),
            &headers.iter().map(pair).collect(),
        )
    }

    #[test]
    fn only_loopback_hosts_are_allowed() {
        for host in [
            "localhost",
            "LOCALHOST:5684",
            "127.0.0.1:80",
            "[::1]:5684",
            "[::1]",
        ] {
            assert_eq!(check_headers(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:5684",
            "evil.example:127",
            "10.0.0.1:5684",
            "127.0.0.1.nip.io",
            "localhost:evil",
            "",
        ] {
            assert_eq!(check_headers(&[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check_headers(&[]), Err(Refusal::Host));
    }

    #[test]
    fn authority_in_the_uri_is_checked_beside_the_header() {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        let uri = Uri::from_static("http://evil.example/page/");
        assert_eq!(check(&Method::GET, &uri, &headers), Err(Refusal::Host));
        let uri = Uri::from_static("http://localhost:1/page/");
        assert_eq!(check(&Method::GET, &uri, &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn requests_that_are_not_read_only_are_refused() {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let result = check(&method, &Uri::from_static("/page/"), &headers);
            assert_eq!(result, Err(Refusal::Method), "{method}");
        }
    }

    #[test]
    fn other_sites_may_open_the_page_but_not_request_its_data() {
        let host = ("host", "localhost:5684");
        for site in ["cross-site", "same-site"] {
            let site = ("sec-fetch-site", site);
            let refused = [
                vec![host, site],
                vec![
                    host,
                    site,
                    ("sec-fetch-mode", "cors"),
                    ("sec-fetch-dest", "empty"),
                ],
                vec![
                    host,
                    site,
                    ("sec-fetch-mode", "navigate"),
                    ("sec-fetch-dest", "iframe"),
                ],
            ];
            for headers in refused {
                assert_eq!(check_headers(&headers), Err(Refusal::OtherSite), "{headers:?}");
            }
            let opened = [
                host,
                site,
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ];
            assert_eq!(check_headers(&opened), Ok(()));
        }
        assert_eq!(check_headers(&[host, ("sec-fetch-site", "same-origin")]), Ok(()));
    }
}
