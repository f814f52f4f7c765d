//! Problems of the installation: they concern all Pods, so an explanation reports them once.

use crate::explanation::Finding;
use crate::injection::Review;
use crate::observed::ObservedCluster;

/// Returns what is wrong with the control plane and its webhooks.
pub(crate) fn findings(cluster: &ObservedCluster, review: &Review) -> Vec<Finding> {
    let mut findings = Vec::new();
    if cluster.lacks_ready_replica() {
        let namespace = cluster.config.system_namespace();
        findings.push(Finding::new(
            "ControlPlaneNotReady",
            format!(
                "no replica of the control plane in namespace {namespace} is ready: Pods that request injection are denied, \
                 and sidecars keep the configuration that they have"
            ),
            format!("kubectl -n {namespace} describe deployment,pods -l app=kuma-control-plane"),
        ));
    }
    match &review.webhooks {
        None if cluster.can_miss("MutatingWebhookConfiguration") => findings.push(Finding::new(
            "WebhooksMissing",
            "the API server has no registration of the injector's webhooks, so no Pod gets a sidecar".to_owned(),
            "apply the manifests of kumactl install control-plane",
        )),
        Some(webhooks) if webhooks.lacks_ca_bundle() && cluster.is_live => findings.push(Finding::new(
            "WebhookWithoutCa",
            "the registration of a webhook has no caBundle, so the API server cannot call it".to_owned(),
            "the leading replica of the control plane writes the caBundle: check that a replica is ready, and read its log",
        )),
        _ => {}
    }
    findings
}
