//! Converts a Dataplane of the model to the custom resource that the leader writes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kermode_crds::{self as crds, annotation};
use kermode_model::{Dataplane, ObjectKey, tag};

/// Keys of the managed labels, which the control plane sets on Dataplanes. Users can select Dataplanes by these labels.
pub const MANAGED_LABELS: [&str; 3] = [annotation::MESH, tag::SERVICE, tag::ZONE];
/// Maximum length of a label value in Kubernetes, in bytes.
const MAX_LABEL_VALUE_LENGTH: usize = 63;

/// Returns the custom resource of a Dataplane. The Pod owns the Dataplane, so Kubernetes deletes the Dataplane after
/// the Pod.
pub fn dataplane_object(dataplane: &Dataplane, pod_uid: &str) -> crds::Dataplane {
    crds::Dataplane {
        types: Some(crds::Dataplane::type_meta()),
        metadata: ObjectMeta {
            name: Some(dataplane.key.name.to_string()),
            namespace: Some(dataplane.key.namespace.to_string()),
            labels: Some(labels(dataplane)),
            owner_references: Some(vec![owner_reference(&dataplane.key, pod_uid)]),
            ..ObjectMeta::default()
        },
        mesh: dataplane.mesh.to_string(),
        spec: dataplane.into(),
        status: None,
    }
}

/// Returns the reference of a Dataplane to its owner, the Pod of the same name.
pub fn owner_reference(key: &ObjectKey, pod_uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: key.name.to_string(),
        uid: pod_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Returns the managed labels. A label is absent if its value is not a valid label value. The label `kuma.io/service`
/// is also absent if the Dataplane has several services.
fn labels(dataplane: &Dataplane) -> BTreeMap<String, String> {
    let services = dataplane.services();
    let service = match services.as_slice() {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let inbounds = dataplane.inbounds.iter().map(|inbound| &inbound.tags);
    let gateway = dataplane.gateway.iter().map(|gateway| &gateway.tags);
    let zone = inbounds
        .chain(gateway)
        .find_map(|tags| tags.get(tag::ZONE))
        .map(AsRef::as_ref);
    // In the order of `MANAGED_LABELS`.
    let values = [Some(dataplane.mesh.as_str()), service, zone];
    MANAGED_LABELS
        .iter()
        .zip(values)
        .filter_map(|(key, value)| {
            Some((
                (*key).to_owned(),
                value.filter(|value| is_label_value(value))?.to_owned(),
            ))
        })
        .collect()
}

fn is_label_value(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL_VALUE_LENGTH
        && is_outer(bytes.first())
        && is_outer(bytes.last())
        && bytes.iter().copied().all(is_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use kermode_model::Inbound;

    use super::*;

    fn mk_dataplane(services: &[&str]) -> Dataplane {
        let inbound = |service: &&str| Inbound {
            port: 80,
            tags: [
                (tag::SERVICE.into(), (*service).into()),
                (tag::ZONE.into(), "east".into()),
            ]
            .into(),
            ready: None,
        };
        Dataplane {
            key: ObjectKey::new("ns", "pod"),
            mesh: "default".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            additional_addresses: Vec::new(),
            inbounds: services.iter().map(inbound).collect(),
            gateway: None,
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    fn labels_of(services: &[&str]) -> Vec<(String, String)> {
        labels(&mk_dataplane(services)).into_iter().collect()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn dataplane_of_one_service_has_the_service_label() {
        assert_eq!(
            labels_of(&["web_ns_svc_80", "web_ns_svc_80"]),
            [
                pair("kuma.io/mesh", "default"),
                pair("kuma.io/service", "web_ns_svc_80"),
                pair("kuma.io/zone", "east"),
            ]
        );
    }

    #[test]
    fn dataplane_of_several_services_or_of_a_service_with_a_long_name_has_no_service_label() {
        let other_labels = [pair("kuma.io/mesh", "default"), pair("kuma.io/zone", "east")];
        assert_eq!(labels_of(&["a_ns_svc_80", "b_ns_svc_80"]), other_labels);
        let long = format!("{}_ns_svc_80", "a".repeat(63));
        assert_eq!(labels_of(&[&long]), other_labels);
    }

    #[test]
    fn label_values_are_validated_as_in_kubernetes() {
        for good in ["a", "web_ns_svc_80", "0.a-b", &"x".repeat(63)] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["", "-a", "a_", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }
}
