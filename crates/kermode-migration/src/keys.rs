//! Labels and annotations.

use kermode_inject::workload::pod_pointer;
use kermode_model::annotation::{
    self, CONTAINER_PATCHES, DIRECT_ACCESS_SERVICES, Key, REACHABLE_SERVICES, RESERVED_KEY_PART,
    SIDECAR_INJECTION, VIRTUAL_PROBES, VIRTUAL_PROBES_PORT,
};
use kermode_model::notation;
use serde_json::Value;

use crate::report::Finding;
use crate::rule;

/// Fields of the metadata with keys, and the noun for one key.
const FIELDS: [(&str, &str); 2] = [("labels", "label"), ("annotations", "annotation")];

/// A key of Kuma 2.x that Kermode does not read: the beginning of the key, what Kermode does, and what to do.
struct KumaKey {
    prefix: &'static str,
    consequence: &'static str,
    remedy: &'static str,
}

const KUMA_KEYS: &[KumaKey] = &[
    KumaKey {
        prefix: "kuma.io/application-probe-proxy-port",
        consequence: "probes are rewritten to the port of virtual probes",
        remedy: "use kuma.io/virtual-probes-port, and kuma.io/virtual-probes: \"false\" in place of the port 0",
    },
    KumaKey {
        prefix: "kuma.io/reachable-backends",
        consequence: "the sidecar is configured for all services",
        remedy: "list the services in kuma.io/transparent-proxying-reachable-services",
    },
    KumaKey {
        prefix: "kuma.io/transparent-proxying-engine-v1",
        consequence: "Kermode has one engine",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: annotation::TRANSPARENT_PROXYING_EBPF,
        consequence: "Kermode has no eBPF mode; nftables redirect the traffic",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: "kuma.io/envoy-component-log-level",
        consequence: "all components of Envoy have the same log level",
        remedy: "use kuma.io/envoy-log-level",
    },
    KumaKey {
        prefix: "kuma.io/tags",
        consequence: "tags are the labels of the Pod",
        remedy: "set labels of the Pod",
    },
    KumaKey {
        prefix: "kuma.io/workload",
        consequence: "the workload is the controller of the Pod",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: "kuma.io/ingress",
        consequence: "Kermode has no proxies between zones",
        remedy: "remove the workload",
    },
    KumaKey {
        prefix: "kuma.io/egress",
        consequence: "Kermode has no proxies between zones",
        remedy: "remove the workload",
    },
    KumaKey {
        prefix: "traffic.kuma.io/drop-invalid-packets",
        consequence: "the rules of redirection have no such option",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: "traffic.kuma.io/iptables-logs",
        consequence: "the rules of redirection have no such option",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: "traffic.kuma.io/exclude-inbound-ips",
        consequence: "inbound traffic of these addresses is redirected like all other traffic",
        remedy: "exclude ports with traffic.kuma.io/exclude-inbound-ports",
    },
    KumaKey {
        prefix: "traffic.kuma.io/exclude-outbound-ips",
        consequence: "traffic to these addresses is redirected, and passes through the sidecar unchanged",
        remedy: "exclude ports with traffic.kuma.io/exclude-outbound-ports, if the sidecar must not see the traffic",
    },
    KumaKey {
        prefix: "traffic.kuma.io/transparent-proxy-config",
        consequence: "redirection is configured by annotations and by the settings of the injector",
        remedy: "write the settings as annotations of the Pod",
    },
    KumaKey {
        prefix: "prometheus.metrics.kuma.io/aggregate-",
        consequence: "the metrics endpoint of the sidecar has no metrics of the application",
        remedy: "let the collector scrape the application itself",
    },
    KumaKey {
        prefix: "k8s.kuma.io/spire-support",
        consequence: "identities are issued by the control plane",
        remedy: "remove the key",
    },
    KumaKey {
        prefix: "k8s.kuma.io/",
        consequence: "the key is written by Kuma's control plane",
        remedy: "remove the key",
    },
];

/// Functions of Kermode that Kuma 3 removes, by key.
const REMOVED_IN_KUMA_3: &[&str] = &[
    DIRECT_ACCESS_SERVICES,
    REACHABLE_SERVICES,
    VIRTUAL_PROBES,
    VIRTUAL_PROBES_PORT,
];

/// Returns the findings about the labels and annotations in the metadata of an object. `kind` is the kind whose keys
/// apply: `Pod` for a template of Pods.
pub(crate) fn findings(object: &Value, kind: &str) -> Vec<Finding> {
    let (mut unchanged, mut written, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    let mut findings = Vec::new();
    for (field, noun) in FIELDS {
        for (name, value) in keys(object, field) {
            if is_read(annotation::SET_BY_USERS, name, noun, kind) {
                if REMOVED_IN_KUMA_3.contains(&name) && !is_all_services(name, value) {
                    removed.push(name);
                }
                match difference(name, noun, value) {
                    Some(finding) => findings.push(finding),
                    None => unchanged.push(name),
                }
            } else if is_read(annotation::WRITTEN_BY_KERMODE, name, noun, kind) {
                written.push(name);
            } else {
                findings.push(unread(name, noun, kind));
            }
        }
    }
    let lists = [
        (&rule::KEYS_UNCHANGED, unchanged, "the same meaning as in Kuma"),
        (&rule::KEYS_WRITTEN, written, "Kermode writes them itself"),
        (
            &rule::REMOVED_IN_KUMA_3,
            removed,
            "Kermode keeps what Kuma 3 removes",
        ),
    ];
    for (rule, names, text) in lists {
        if !names.is_empty() {
            findings.push(Finding::new(rule, format!("{}: {text}", names.join(", "))));
        }
    }
    findings
}

/// Returns the findings about keys in the metadata of a workload, which only its Pod template may have.
pub(crate) fn misplaced(workload: &Value) -> Vec<Finding> {
    let path = pod_pointer(workload)
        .unwrap_or_default()
        .trim_start_matches('/')
        .replace('/', ".");
    let kind = workload["kind"].as_str().unwrap_or_default();
    let of_field = |(field, noun): (&'static str, &'static str)| {
        let path = path.clone();
        keys(workload, field).map(move |(name, _)| {
            Finding::new(
                &rule::MISPLACED_KEY,
                format!("{noun} {name} has no effect on the {kind} itself"),
            )
            .with_remedy(format!("move it to {path}.metadata.{field}"))
        })
    };
    FIELDS.into_iter().flat_map(of_field).collect()
}

/// Returns the keys of Kuma in a field of the metadata, with their values.
fn keys<'o>(object: &'o Value, field: &str) -> impl Iterator<Item = (&'o str, &'o Value)> {
    let keys = object["metadata"][field].as_object().into_iter().flatten();
    keys.map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| name.contains(RESERVED_KEY_PART))
}

/// Whether a key is in the table, for this kind, as a label or annotation.
fn is_read(table: &[Key], name: &str, noun: &str, kind: &str) -> bool {
    table.iter().any(|key| {
        let is_named = if key.name.starts_with('.') {
            name.ends_with(key.name)
        } else {
            name == key.name
        };
        is_named && key.objects.contains(noun) && key.objects.contains(kind)
    })
}

/// Whether the value selects all services, which Kuma 3 still understands.
fn is_all_services(name: &str, value: &Value) -> bool {
    name == DIRECT_ACCESS_SERVICES && value == "*"
}

/// Returns the finding about a key that works differently.
fn difference(name: &str, noun: &str, value: &Value) -> Option<Finding> {
    match name {
        SIDECAR_INJECTION if noun == "annotation" => {
            let (rule, change, wanted) = if notation::boolean(value.as_str()?)? {
                (
                    &rule::INJECTED_BY_ANNOTATION,
                    "get a sidecar that they do not have today",
                    "enabled",
                )
            } else {
                (
                    &rule::NOT_INJECTED_BY_ANNOTATION,
                    "lose the sidecar that they have today, and with it mTLS",
                    "disabled",
                )
            };
            let text = format!(
                "Kermode obeys the annotation, as Kuma 2.1 does; Kuma 2.2 and later ignore it, so Pods may {change}"
            );
            let remedy =
                format!("use the label kuma.io/sidecar-injection: {wanted}, or remove the annotation");
            Some(Finding::new(rule, text).with_remedy(remedy))
        }
        CONTAINER_PATCHES => {
            let text = "the list replaces the list of the setting containerPatches; Kuma applies both";
            let remedy =
                "if the setting is not empty, repeat its ContainerPatches at the beginning of the list";
            Some(Finding::new(&rule::PATCHES_REPLACE_DEFAULTS, text).with_remedy(remedy))
        }
        _ => None,
    }
}

/// Returns the finding about a key that Kermode does not read on this kind.
fn unread(name: &str, noun: &str, kind: &str) -> Finding {
    let known = annotation::SET_BY_USERS
        .iter()
        .chain(annotation::WRITTEN_BY_KERMODE);
    if let Some(key) = known.into_iter().find(|key| key.name == name) {
        let text = format!(
            "{noun} {name} has no effect on a {kind}: Kermode reads it as {}",
            key.objects
        );
        return Finding::new(&rule::UNKNOWN_KEY, text).with_remedy("move or remove the key");
    }
    if let Some(key) = KUMA_KEYS.iter().find(|key| name.starts_with(key.prefix)) {
        let text = format!("{noun} {name} has no effect: {}", key.consequence);
        return Finding::new(&rule::KEY_WITHOUT_EFFECT, text).with_remedy(key.remedy);
    }
    let text = format!("{noun} {name} has no effect: neither Kermode nor this report knows it");
    Finding::new(&rule::UNKNOWN_KEY, text).with_remedy("check its spelling, or remove the key")
}
