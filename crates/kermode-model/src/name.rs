//! Typed names of meshes, services and Kubernetes objects. All of them are cheap to clone.

use std::fmt;
use std::sync::Arc;

/// Mesh of a Pod if neither the Pod nor its Namespace names a mesh.
pub const DEFAULT_MESH: &str = "default";

/// Default audience of the tokens by which sidecars authenticate to the control plane.
pub const DEFAULT_TOKEN_AUDIENCE: &str = "kuma-control-plane";

/// ConfigMap with the roots of the control plane, in each namespace of sidecars.
pub const CONTROL_PLANE_CA_CONFIG_MAP: &str = "kuma-control-plane-ca";

/// Entry of [`CONTROL_PLANE_CA_CONFIG_MAP`]: the roots, in PEM.
pub const CONTROL_PLANE_CA_ENTRY: &str = "ca.crt";

/// Maximum length of a DNS label, in bytes (RFC 1123).
pub const MAX_DNS_LABEL_LENGTH: usize = 63;

/// Maximum length of a DNS subdomain, in bytes (RFC 1123).
const MAX_DNS_SUBDOMAIN_LENGTH: usize = 253;

/// Whether a text is a DNS label (RFC 1123) in lower case, as the name of a Kubernetes namespace is. Mesh names must be
/// DNS labels, because they are SPIFFE trust domains and parts of the names of Secrets.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= MAX_DNS_LABEL_LENGTH && has_form_of_label(text)
}

/// Whether a text is a DNS subdomain in lower case, like the name of a Secret or Pod. As in Kubernetes, only the length of
/// the whole text is limited, not that of its labels.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= MAX_DNS_SUBDOMAIN_LENGTH && text.split('.').all(has_form_of_label)
}

/// Whether a text is a DNS label of any length.
fn has_form_of_label(text: &str) -> bool {
    let is_letter_or_digit = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_letter_or_digit)
        && bytes.last().is_some_and(is_letter_or_digit)
        && bytes.iter().all(|byte| is_letter_or_digit(byte) || *byte == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Creates a name. The text is not validated.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name! {
    /// Name of a Mesh resource.
    MeshName
}

name! {
    /// Value of the tag `kuma.io/service`: `<Service>_<namespace>_svc_<port>`, or `<workload>_<namespace>_svc` for a
    /// Pod to which no Service gives an inbound.
    ServiceName
}

impl ServiceName {
    /// The service name of a port of a Kubernetes Service.
    pub fn of_port(service: &str, namespace: &str, port: u16) -> Self {
        Self::new(format!("{service}_{namespace}_svc_{port}"))
    }

    /// The service name of the service-less Pods of a workload.
    pub fn of_workload(workload: &str, namespace: &str) -> Self {
        Self::new(format!("{workload}_{namespace}_svc"))
    }

    /// The Kubernetes Service and its port for which [`ServiceName::of_port`] returns this name; `None` for a name of
    /// another form.
    pub fn service_port(&self) -> Option<(ObjectKey, u16)> {
        // Names of Services and namespaces are DNS labels, which contain no underscores.
        let (name, rest) = self.0.split_once('_')?;
        let (namespace, port) = rest.split_once("_svc_")?;
        let port = port.parse().ok()?;
        let is_valid =
            is_dns_label(name) && is_dns_label(namespace) && *self == Self::of_port(name, namespace, port);
        is_valid.then(|| (ObjectKey::new(namespace, name), port))
    }
}

/// Namespace and name of a Kubernetes object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Creates a key.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of the Pod's proxy in its mesh, as in Kuma: `<name>.<namespace>`.
    pub fn proxy_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// Parses the name that [`ObjectKey::proxy_name`] returns; `None` for any other text. A Kubernetes namespace
    /// contains no dots, so the last dot separates name and namespace.
    pub fn from_proxy_name(name: &str) -> Option<Self> {
        let (name, namespace) = name.rsplit_once('.')?;
        (!name.is_empty() && !namespace.is_empty()).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_service_port_is_parsed_and_no_other_text() {
        let name = ServiceName::of_port("web", "shop", 80);
        assert_eq!(name.service_port(), Some((ObjectKey::new("shop", "web"), 80)));
        for other in [
            "web_shop_svc",
            "web_shop_svc_",
            "web_shop_svc_080",
            "web_shop_svc_65536",
            "web_svc_80",
            "_shop_svc_80",
            "../x_shop_svc_80",
            "web_shop/../x_svc_80",
            "web_a_b_svc_80",
            "*",
            "",
        ] {
            assert_eq!(ServiceName::from(other).service_port(), None, "{other}");
        }
    }

    #[test]
    fn dns_labels_are_validated_as_in_kubernetes() {
        for good in ["a", "0", "ca-1", "default", &"x".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }

    #[test]
    fn dns_subdomains_are_validated_as_in_kubernetes() {
        for good in ["a", "web-0.example", &"x".repeat(64), &"x".repeat(253)] {
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a.-b",
            "A",
            "../a",
            "a\n",
            &"x".repeat(254),
        ] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn proxy_name_of_a_pod_name_with_dots_is_parsed() {
        let key = ObjectKey::new("ns", "web-0.example");
        assert_eq!(ObjectKey::from_proxy_name(&key.proxy_name()), Some(key));
    }

    #[test]
    fn proxy_name_without_namespace_is_rejected() {
        assert_eq!(ObjectKey::from_proxy_name("web"), None);
        assert_eq!(ObjectKey::from_proxy_name("web."), None);
        assert_eq!(ObjectKey::from_proxy_name(".ns"), None);
    }
}
