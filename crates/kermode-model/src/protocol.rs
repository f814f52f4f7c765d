//! Application protocols of inbounds (docs/design.md#application-protocols).

use std::fmt;

/// Application protocol of a port. The variants are ordered from the least to the most specific. If several protocols
/// are declared for one port, the most specific protocol applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Opaque bytes.
    #[default]
    Tcp,
    /// Kafka's wire protocol; proxied as TCP.
    Kafka,
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
}

impl Protocol {
    /// The value of the tag `kuma.io/protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Kafka => "kafka",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// Parses the value of the tag `kuma.io/protocol`; `None` for an unknown protocol.
    pub fn from_tag(value: &str) -> Option<Self> {
        match value {
            "tcp" => Some(Self::Tcp),
            "kafka" => Some(Self::Kafka),
            "http" => Some(Self::Http),
            "http2" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            _ => None,
        }
    }

    /// Whether Envoy proxies requests rather than bytes.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// The most specific protocol that includes both protocols: gRPC is also HTTP/2, and every protocol is also TCP.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Grpc, Self::Http2) | (Self::Http2, Self::Grpc) => Self::Http2,
            _ => Self::Tcp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol::{Grpc, Http, Http2, Tcp};
    use super::*;

    #[test]
    fn common_protocol_is_the_most_specific_protocol_that_includes_both() {
        assert_eq!(Grpc.common(Http2), Http2);
        assert_eq!(Http.common(Http), Http);
        assert_eq!(Http.common(Grpc), Tcp);
        assert_eq!(Http.common(Tcp), Tcp);
    }

    #[test]
    fn tag_value_of_each_protocol_is_parsed() {
        for protocol in [Tcp, Protocol::Kafka, Http, Http2, Grpc] {
            assert_eq!(Protocol::from_tag(protocol.as_str()), Some(protocol));
        }
        assert_eq!(Protocol::from_tag("mongo"), None);
    }
}
