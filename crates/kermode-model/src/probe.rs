//! Virtual probes: the kubelet probes the proxy, which probes the application
//! (docs/reference/injection.md#virtual-probes). The path of a virtual probe encodes the application's probe.

use std::fmt::Write as _;

use crate::notation;

/// Maximum number of virtual probes of a Pod. Envoy has a route for each of them, and a cluster for each probed port.
pub const MAX_PROBES: usize = 500;
/// Maximum length of the path of a virtual probe, in bytes. The path is part of the Dataplane and of Envoy's routes.
pub const MAX_PROBE_PATH: usize = 4096;

/// Virtual probes of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Port that the kubelet probes.
    pub port: u16,
    /// Probes and HTTP lifecycle hooks of the application.
    pub endpoints: Vec<ApplicationProbe>,
}

/// One probe or HTTP lifecycle hook of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationProbe {
    /// Protocol of the probe.
    pub protocol: ProbeProtocol,
    /// The application's port.
    pub inbound_port: u16,
    /// Path that the proxy requests from the application. For gRPC, the name of the service whose health is requested;
    /// for TCP, empty.
    pub inbound_path: String,
    /// Path that the kubelet requests from the proxy.
    pub path: String,
}

/// Protocol of an application's probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeProtocol {
    /// `httpGet` with scheme HTTP.
    #[default]
    Http,
    /// `httpGet` with scheme HTTPS. Like the kubelet, the sidecar does not verify the certificate of the application.
    Https,
    /// `tcpSocket`.
    Tcp,
    /// `grpc`.
    Grpc,
}

// === impl ApplicationProbe ===

impl ApplicationProbe {
    /// Returns a probe. For HTTP and HTTPS, `inbound_path` is the path of the probe; a missing `/` at its start is
    /// added. For gRPC, `inbound_path` is the name of the service. For TCP, `inbound_path` is ignored.
    pub fn new(protocol: ProbeProtocol, inbound_port: u16, inbound_path: &str) -> Self {
        let slash = if inbound_path.starts_with('/') { "" } else { "/" };
        let (inbound_path, path) = match protocol {
            ProbeProtocol::Http => {
                let inbound_path = format!("{slash}{inbound_path}");
                let path = format!("/{inbound_port}{inbound_path}");
                (inbound_path, path)
            }
            ProbeProtocol::Https => {
                let inbound_path = format!("{slash}{inbound_path}");
                let path = format!("/https/{inbound_port}{inbound_path}");
                (inbound_path, path)
            }
            ProbeProtocol::Tcp => (String::new(), format!("/tcp/{inbound_port}")),
            ProbeProtocol::Grpc if inbound_path.is_empty() => {
                (String::new(), format!("/grpc/{inbound_port}"))
            }
            ProbeProtocol::Grpc => (
                inbound_path.to_owned(),
                format!("/grpc/{inbound_port}/{}", percent_encode(inbound_path)),
            ),
        };
        Self {
            protocol,
            inbound_port,
            inbound_path,
            path,
        }
    }

    /// Parses the path of a virtual probe: `/<port><path>`, `/https/<port><path>`, `/tcp/<port>`, `/grpc/<port>` or
    /// `/grpc/<port>/<service>`. `None` for any other path, for one that is longer than [`MAX_PROBE_PATH`], and for one
    /// with characters that a request line cannot contain.
    pub fn from_path(path: &str) -> Option<Self> {
        if path.len() > MAX_PROBE_PATH || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let rest = path.strip_prefix('/')?;
        let (protocol, rest) = [
            ("https/", ProbeProtocol::Https),
            ("tcp/", ProbeProtocol::Tcp),
            ("grpc/", ProbeProtocol::Grpc),
        ]
        .into_iter()
        .find_map(|(prefix, protocol)| Some((protocol, rest.strip_prefix(prefix)?)))
        .unwrap_or((ProbeProtocol::Http, rest));
        let (port, inbound_path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let inbound_port = notation::number(port).ok().filter(|port| *port != 0)?;
        let inbound_path = match (protocol, inbound_path) {
            (ProbeProtocol::Http | ProbeProtocol::Https, "") => return None,
            (ProbeProtocol::Http | ProbeProtocol::Https, path) => path.to_owned(),
            (ProbeProtocol::Tcp | ProbeProtocol::Grpc, "") => String::new(),
            (ProbeProtocol::Tcp, _) => return None,
            (ProbeProtocol::Grpc, service) => percent_decode(service.strip_prefix('/')?)?,
        };
        Some(Self {
            protocol,
            inbound_port,
            inbound_path,
            path: path.to_owned(),
        })
    }
}

// === impl ProbeProtocol ===

impl ProbeProtocol {
    /// Returns the name in a Dataplane resource: `HTTP`, `HTTPS`, `TCP` or `GRPC`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tcp => "TCP",
            Self::Grpc => "GRPC",
        }
    }
}

/// Encodes a text as one path segment: percent-encodes all bytes except unreserved characters (RFC 3986, section 2.3).
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Decodes `%` sequences; `None` if a sequence is malformed or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_every_protocol_is_parsed_to_the_same_probe() {
        for (protocol, inbound_path, path) in [
            (ProbeProtocol::Http, "/healthz?deep=1", "/8080/healthz?deep=1"),
            (ProbeProtocol::Https, "/healthz", "/https/8080/healthz"),
            (ProbeProtocol::Https, "/", "/https/8080/"),
            (ProbeProtocol::Tcp, "", "/tcp/8080"),
            (ProbeProtocol::Grpc, "", "/grpc/8080"),
            (ProbeProtocol::Grpc, "a.b/c d%", "/grpc/8080/a.b%2Fc%20d%25"),
        ] {
            let probe = ApplicationProbe::new(protocol, 8080, inbound_path);
            assert_eq!(probe.path, path);
            assert_eq!(ApplicationProbe::from_path(path), Some(probe));
        }
    }

    #[test]
    fn missing_slash_of_an_http_path_is_added() {
        assert_eq!(
            ApplicationProbe::new(ProbeProtocol::Http, 80, "live").path,
            "/80/live"
        );
        assert_eq!(
            ApplicationProbe::new(ProbeProtocol::Https, 443, "").path,
            "/https/443/"
        );
    }

    #[test]
    fn other_paths_are_not_parsed() {
        for path in [
            "",
            "/",
            "/ready",
            "/8080",
            "/0/x",
            "/+8080/x",
            "/70000/x",
            "/https/8080",
            "/https/x/",
            "/tcp/",
            "/tcp/8080/x",
            "/grpc/8080/%2",
            "/grpc/8080/%ff",
            "8080/x",
            "/8080/a b",
            "/8080/a\nb",
            "/8080/ü",
        ] {
            assert_eq!(ApplicationProbe::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn path_that_is_too_long_is_not_parsed() {
        let path_of = |length: usize| format!("/8080/{}", "a".repeat(length - "/8080/".len()));
        assert!(ApplicationProbe::from_path(&path_of(MAX_PROBE_PATH)).is_some());
        assert_eq!(ApplicationProbe::from_path(&path_of(MAX_PROBE_PATH + 1)), None);
    }
}
