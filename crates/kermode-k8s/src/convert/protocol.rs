//! Application protocol of a Service's port (docs/design.md#application-protocols).

use kermode_model::Protocol;

/// Returns the protocol that a Service declares for a port by `appProtocol` or annotation. `None` if the Service
/// declares no protocol or an unknown protocol; the port is then treated as TCP.
///
/// An empty `appProtocol` declares TCP and overrides the annotation, as in Kuma.
pub(super) fn declared(app_protocol: Option<&str>, annotation: Option<&str>) -> Option<Protocol> {
    match app_protocol {
        Some("") => Some(Protocol::Tcp),
        Some(text) => known_protocol(text).or_else(|| annotation.and_then(known_protocol)),
        None => annotation.and_then(known_protocol),
    }
}

/// Maps the text of an `appProtocol` or annotation to a known protocol. A domain prefix is ignored. A protocol inside
/// TLS is opaque to a proxy and maps to TCP.
fn known_protocol(text: &str) -> Option<Protocol> {
    let text = text.to_ascii_lowercase();
    let name = text.rsplit_once('/').map_or(text.as_str(), |(_, name)| name);
    let protocol = match name {
        "ws" | "http1" | "http-alt" | "www" | "www-http" | "grpc-web" => Protocol::Http,
        "h2c" => Protocol::Http2,
        "https" | "wss" | "h2" | "grpcs" | "tls" => Protocol::Tcp,
        _ => return Protocol::from_tag(name),
    };
    Some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_prefix_of_a_protocol_is_ignored() {
        assert_eq!(known_protocol("kubernetes.io/h2c"), Some(Protocol::Http2));
        assert_eq!(known_protocol("kubernetes.io/ws"), Some(Protocol::Http));
        assert_eq!(known_protocol("example.com/gRPC"), Some(Protocol::Grpc));
    }

    #[test]
    fn protocol_inside_tls_is_tcp() {
        for text in ["https", "HTTPS", "kubernetes.io/wss", "tls"] {
            assert_eq!(known_protocol(text), Some(Protocol::Tcp), "{text}");
        }
    }

    #[test]
    fn annotation_applies_if_the_field_declares_no_known_protocol() {
        assert_eq!(declared(Some("mongo"), Some("kafka")), Some(Protocol::Kafka));
        assert_eq!(declared(None, Some("kafka")), Some(Protocol::Kafka));
        assert_eq!(declared(Some("http"), Some("kafka")), Some(Protocol::Http));
        assert_eq!(declared(Some(""), Some("kafka")), Some(Protocol::Tcp));
    }

    #[test]
    fn unknown_protocol_differs_from_tcp() {
        assert_eq!(known_protocol("mongo"), None);
        assert_eq!(known_protocol("tcp"), Some(Protocol::Tcp));
        assert_eq!(known_protocol(""), None);
    }
}
