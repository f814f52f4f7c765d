//! What is spoken behind a Service's port (decision 9).

use kermode_model::Protocol;

/// What a Service declares for one of its ports, by `appProtocol` or by annotation; `None` when that is nothing, or
/// nothing known, which is TCP in the end.
///
/// An empty `appProtocol` declares TCP: it hides the annotation, as in Kuma.
pub(super) fn declared(app_protocol: Option<&str>, annotation: Option<&str>) -> Option<Protocol> {
    match app_protocol {
        Some("") => Some(Protocol::Tcp),
        Some(text) => nearest(text).or_else(|| annotation.and_then(nearest)),
        None => annotation.and_then(nearest),
    }
}

/// The known protocol that comes nearest to an `appProtocol`, whoever's domain is before its name.
///
/// Anything inside TLS is opaque to a proxy, so it is TCP.
fn nearest(text: &str) -> Option<Protocol> {
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
    fn a_protocol_with_a_domain_maps_to_the_nearest_known_one() {
        assert_eq!(nearest("kubernetes.io/h2c"), Some(Protocol::Http2));
        assert_eq!(nearest("kubernetes.io/ws"), Some(Protocol::Http));
        assert_eq!(nearest("example.com/gRPC"), Some(Protocol::Grpc));
    }

    #[test]
    fn what_is_inside_tls_is_opaque() {
        for text in ["https", "HTTPS", "kubernetes.io/wss", "tls"] {
            assert_eq!(nearest(text), Some(Protocol::Tcp), "{text}");
        }
    }

    #[test]
    fn the_annotation_counts_where_the_field_says_nothing_known() {
        assert_eq!(declared(Some("mongo"), Some("kafka")), Some(Protocol::Kafka));
        assert_eq!(declared(None, Some("kafka")), Some(Protocol::Kafka));
        assert_eq!(declared(Some("http"), Some("kafka")), Some(Protocol::Http));
        assert_eq!(declared(Some(""), Some("kafka")), Some(Protocol::Tcp));
    }

    #[test]
    fn an_unknown_protocol_is_told_apart_from_tcp() {
        assert_eq!(nearest("mongo"), None);
        assert_eq!(nearest("tcp"), Some(Protocol::Tcp));
        assert_eq!(nearest(""), None);
    }
}
