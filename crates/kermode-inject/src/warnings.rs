//! Warnings about valid but likely unintended configurations. They become the `warnings` of the AdmissionReview
//! response, which kubectl prints.

use kermode_crds::annotation as key;

use crate::decision::ObjectMetadata;
use crate::plan::{ENFORCED_POD_SECURITY, Plan};
use crate::reason::InjectionSource;

/// Profiles of Pod Security that forbid the capabilities of `kuma-init`.
const FORBIDDING_PROFILES: [&str; 2] = ["baseline", "restricted"];

/// Returns the warnings that are known before rendering. `source` is the label or annotation that requested injection.
pub(crate) fn collect(
    plan: &Plan<'_>,
    source: InjectionSource,
    metadata: &ObjectMetadata<'_>,
) -> Vec<String> {
    let warnings = [
        fail_open_request(source, metadata),
        unserved_dns_port(plan),
        init_under_pod_security(plan, metadata),
        deprecated_annotation(metadata, key::BUILTIN_DNS_DEPRECATED, key::BUILTIN_DNS),
        deprecated_annotation(metadata, key::BUILTIN_DNS_PORT_DEPRECATED, key::BUILTIN_DNS_PORT),
    ];
    warnings.into_iter().flatten().collect()
}

/// Warns about a request for injection that only a fail-open webhook registration selects. The fail-closed
/// registrations select the label value `enabled` (docs/reference/injection.md#registration).
fn fail_open_request(source: InjectionSource, metadata: &ObjectMetadata<'_>) -> Option<String> {
    let key = key::SIDECAR_INJECTION;
    let values = metadata.values_of(source);
    match source {
        InjectionSource::PodAnnotation | InjectionSource::NamespaceAnnotation => Some(format!(
            "annotation {key} on {} is deprecated: use a label, since with an annotation the Pod starts without a sidecar \
             while the control plane is unavailable",
            values.object
        )),
        InjectionSource::PodLabel | InjectionSource::NamespaceLabel if values.get(key) != Some("enabled") => {
            Some(format!(
                "label {key} on {} should be enabled: with any other value the Pod starts without a sidecar while the control \
             plane is unavailable",
                values.object
            ))
        }
        InjectionSource::PodLabel | InjectionSource::NamespaceLabel => None,
    }
}

fn unserved_dns_port(plan: &Plan<'_>) -> Option<String> {
    let dns = &plan.settings.builtin_dns;
    let served_port = dns.enabled.then_some(plan.served_dns_port);
    let unserved_port = plan.dns_port.filter(|port| served_port != Some(*port))?;
    Some(format!(
        "kuma.io/builtin-dns redirects DNS to port {unserved_port}, on which the sidecar does not serve DNS: \
         use the port of the control plane's setting builtinDNS"
    ))
}

/// Warns that Pod Security forbids `kuma-init`: the profiles `baseline` and `restricted` allow few capabilities. The
/// profile is the one that the Namespace enforces, else the one of the setting `securityProfile`.
fn init_under_pod_security(plan: &Plan<'_>, metadata: &ObjectMetadata<'_>) -> Option<String> {
    let enforced = metadata.namespace_labels.get(ENFORCED_POD_SECURITY);
    let enforced = enforced.filter(|profile| FORBIDDING_PROFILES.contains(profile));
    let profile = enforced.or(plan.restricted.then_some("restricted"))?;
    (!plan.settings.cni_enabled).then(|| {
        format!(
            "kuma-init needs NET_ADMIN and NET_RAW, which Pod Security {profile} forbids: use the CNI plugin"
        )
    })
}

fn deprecated_annotation(metadata: &ObjectMetadata<'_>, old: &str, new: &str) -> Option<String> {
    let annotations = metadata.pod_annotations;
    (annotations.get(old).is_some() && annotations.get(new).is_none())
        .then(|| format!("annotation {old} is deprecated, use {new}"))
}
