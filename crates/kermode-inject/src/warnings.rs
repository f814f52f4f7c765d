//! Combinations that work against the user without being wrong in themselves. They go into the `warnings` of the
//! AdmissionReview's answer, which kubectl shows.

use kermode_crds::annotation as key;

use crate::decision::ObjectMetadata;
use crate::plan::Plan;
use crate::pod::Pod;
use crate::reason::InjectionSource;

/// All that is to be said before anything is rendered. `reason` is what asked for injection.
pub(crate) fn of(
    pod: &Pod<'_>,
    plan: &Plan<'_>,
    reason: InjectionSource,
    metadata: &ObjectMetadata<'_>,
) -> Vec<String> {
    let found = [
        host_network(pod),
        weak_request(reason, metadata),
        dns_elsewhere(plan),
        forbidden_init(plan),
        deprecated(metadata, key::BUILTIN_DNS_DEPRECATED, key::BUILTIN_DNS),
        deprecated(metadata, key::BUILTIN_DNS_PORT_DEPRECATED, key::BUILTIN_DNS_PORT),
    ];
    found.into_iter().flatten().collect()
}

fn host_network(pod: &Pod<'_>) -> Option<String> {
    pod.host_network.then(|| {
        "the Pod uses the network of its node, whose traffic would be redirected too: \
         label it kuma.io/sidecar-injection: disabled"
            .to_owned()
    })
}

/// Only a label with exactly `enabled` matches the webhooks that fail closed (BEHAVIOUR section 2.1).
fn weak_request(reason: InjectionSource, metadata: &ObjectMetadata<'_>) -> Option<String> {
    let key = key::SIDECAR_INJECTION;
    let values = metadata.of(reason);
    match reason {
        InjectionSource::PodAnnotation | InjectionSource::NamespaceAnnotation => Some(format!(
            "annotation {key} on {} is deprecated, use a label: only a label keeps the Pod from starting without sidecar",
            values.object
        )),
        InjectionSource::PodLabel | InjectionSource::NamespaceLabel if values.get(key) != Some("enabled") => {
            Some(format!(
                "label {key} on {} should be enabled: only that value keeps the Pod from starting without sidecar",
                values.object
            ))
        }
        InjectionSource::PodLabel | InjectionSource::NamespaceLabel => None,
    }
}

fn dns_elsewhere(plan: &Plan<'_>) -> Option<String> {
    let dns = &plan.settings.builtin_dns;
    let answered = dns.enabled.then_some(dns.port);
    let redirected = plan.dns_port.filter(|port| answered != Some(*port))?;
    Some(format!(
        "kuma.io/builtin-dns redirects DNS to port {redirected}, where the sidecar does not answer: \
         the control plane's setting builtinDNS decides where it does"
    ))
}

fn forbidden_init(plan: &Plan<'_>) -> Option<String> {
    (plan.restricted && !plan.settings.cni_enabled).then(|| {
        "kuma-init needs NET_ADMIN and NET_RAW, which Pod Security restricted forbids: use the CNI plugin"
            .to_owned()
    })
}

fn deprecated(metadata: &ObjectMetadata<'_>, old: &str, new: &str) -> Option<String> {
    let annotations = metadata.pod_annotations;
    (annotations.get(old).is_some() && annotations.get(new).is_none())
        .then(|| format!("annotation {old} is deprecated, use {new}"))
}
