//! SPIFFE IDs, and the names in the certificate of a proxy (`docs/reference/certificates.md#spiffe-ids`).

use std::collections::BTreeSet;
use std::fmt;

use kermode_model::{Dataplane, MeshName, ServiceName};
use ring::digest;

/// SPIFFE ID of a service in a mesh (`spiffe://<mesh>/<service>`), or of the mesh itself (`spiffe://<mesh>`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(String);

impl SpiffeId {
    /// Returns the ID of a service. Every proxy of the service has this ID.
    pub fn of_service(mesh: &MeshName, service: &ServiceName) -> Self {
        Self(format!("spiffe://{mesh}/{service}"))
    }

    /// Returns the ID of a mesh. The certificate of the mesh's CA has this ID.
    pub fn of_mesh(mesh: &MeshName) -> Self {
        Self(format!("spiffe://{mesh}"))
    }

    /// Returns the URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names of a proxy's certificate: the URIs of the certificate's subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entitlement {
    uris: Vec<String>,
}

impl Entitlement {
    /// Returns the names of a Dataplane's proxy: `spiffe://<mesh>/<service>` for each service, then
    /// `kuma://<key>/<value>` for each tag. Each of the two groups is sorted and has no duplicates.
    pub fn of(dataplane: &Dataplane) -> Self {
        let services = dataplane.services();
        let spiffe = services
            .iter()
            .map(|service| SpiffeId::of_service(&dataplane.mesh, service).0);
        let inbounds = dataplane.inbounds.iter().map(|inbound| &inbound.tags);
        let gateway = dataplane.gateway.iter().map(|gateway| &gateway.tags);
        // Sorts pairs instead of URIs: in a URI, the `/` after the key would affect the order.
        let tags: BTreeSet<(&str, &str)> = inbounds
            .chain(gateway)
            .flatten()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        let kuma = tags
            .into_iter()
            .map(|(key, value)| format!("kuma://{key}/{value}"));
        Self {
            uris: spiffe.chain(kuma).collect(),
        }
    }

    /// Returns the URIs in the order in which certificates contain them.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Returns a hash of the URIs, which is never 0. Two certificates with the same fingerprint have the same names.
    pub fn fingerprint(&self) -> u64 {
        let mut context = digest::Context::new(&digest::SHA256);
        for uri in &self.uris {
            context.update(uri.as_bytes());
            // No URI contains this byte.
            context.update(b"\n");
        }
        let first_bytes = context.finish().as_ref().first_chunk().copied();
        u64::from_be_bytes(first_bytes.unwrap_or_default()).max(1)
    }

    /// Returns whether one of the URIs names a service. Peers reject a certificate without such a URI.
    pub(crate) fn names_a_service(&self) -> bool {
        self.uris.iter().any(|uri| uri.starts_with("spiffe://"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kermode_model::{Gateway, GatewayKind, Inbound, ObjectKey, Tags};

    pub(crate) fn mk_tags(pairs: &[(&str, &str)]) -> Tags {
        pairs
            .iter()
            .map(|&(key, value)| (key.into(), value.into()))
            .collect()
    }

    pub(crate) fn mk_dataplane(inbounds: &[&[(&str, &str)]]) -> Dataplane {
        let mk_inbound = |pairs: &&[(&str, &str)]| Inbound {
            port: 80,
            tags: mk_tags(pairs),
            ready: None,
        };
        Dataplane {
            key: ObjectKey::new("demo", "web-0"),
            mesh: MeshName::new("default"),
            address: "10.0.0.1".parse().unwrap(),
            additional_addresses: Vec::new(),
            inbounds: inbounds.iter().map(mk_inbound).collect(),
            gateway: None,
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    #[test]
    fn uris_of_services_precede_uris_of_tags_and_both_groups_are_sorted_and_unique() {
        let dataplane = mk_dataplane(&[
            &[
                ("kuma.io/service", "web_demo_svc_80"),
                ("app", "web"),
                ("app-x", "1"),
            ],
            &[
                ("kuma.io/service", "admin_demo_svc_81"),
                ("app", "web"),
                ("app/y", "2"),
            ],
        ]);
        assert_eq!(
            Entitlement::of(&dataplane).uris(),
            [
                "spiffe://default/admin_demo_svc_81",
                "spiffe://default/web_demo_svc_80",
                "kuma://app/web",
                "kuma://app-x/1",
                "kuma://app/y/2",
                "kuma://kuma.io/service/admin_demo_svc_81",
                "kuma://kuma.io/service/web_demo_svc_80",
            ]
        );
    }

    #[test]
    fn fingerprints_differ_if_names_differ() {
        let fingerprint = |tags: &[(&str, &str)]| Entitlement::of(&mk_dataplane(&[tags])).fingerprint();
        let web = ("kuma.io/service", "web");
        assert_eq!(
            fingerprint(&[web, ("app", "a")]),
            fingerprint(&[("app", "a"), web])
        );
        assert_ne!(
            fingerprint(&[web, ("app", "a")]),
            fingerprint(&[web, ("app", "b")])
        );
        assert_ne!(fingerprint(&[web]), fingerprint(&[]));
        assert_ne!(fingerprint(&[]), 0);
    }

    #[test]
    fn gateway_is_entitled_to_its_own_tags() {
        let mut dataplane = mk_dataplane(&[]);
        let tags = mk_tags(&[("kuma.io/service", "edge_demo_svc_443")]);
        dataplane.gateway = Some(Gateway {
            kind: GatewayKind::Delegated,
            tags,
        });
        assert_eq!(
            Entitlement::of(&dataplane).uris(),
            [
                "spiffe://default/edge_demo_svc_443",
                "kuma://kuma.io/service/edge_demo_svc_443"
            ]
        );
    }

    #[test]
    fn entitlement_of_a_dataplane_without_a_service_names_no_service() {
        assert!(!Entitlement::of(&mk_dataplane(&[&[("app", "web")]])).names_a_service());
    }
}
