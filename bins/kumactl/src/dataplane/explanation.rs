//! Explanations of Dataplanes as text.

use std::fmt::Write;

use kermode_k8s::convert::facts::TargetPort;
use kermode_k8s::convert::{InboundExplanation, ServiceMatch, TagSource, Unresolved};
use kermode_k8s::offline::{PLACEHOLDER_ADDRESS, PodOutcome};
use kermode_model::{Inbound, tag};
use serde_json::Value;

/// Formats the explanations in the order of the Pods.
pub(super) fn text(outcomes: &[PodOutcome]) -> String {
    if outcomes.is_empty() {
        return "No object is a Pod.\n".to_owned();
    }
    let texts: Vec<String> = outcomes.iter().map(explain_pod).collect();
    texts.join("\n")
}

fn explain_pod(outcome: &PodOutcome) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |depth: usize, content: &str| {
        let _ = writeln!(text, "{:width$}{content}", "", width = depth * 2);
    };
    match &outcome.dataplane {
        Ok(dataplane) => {
            let mesh = dataplane["mesh"].as_str().unwrap_or_default();
            line(0, &format!("Pod {}: Dataplane in mesh {mesh}", outcome.pod));
        }
        Err(reason) => line(0, &format!("Pod {}: no Dataplane: {reason}", outcome.pod)),
    }
    if outcome.has_placeholder_address {
        line(
            1,
            &format!("assumed: the Pod has no IP yet, {PLACEHOLDER_ADDRESS} is used in its place"),
        );
    }
    for (service, service_match) in &outcome.explanation.services {
        line(
            1,
            &format!("Service {service} {}", service_match_text(service_match)),
        );
    }
    if let Some(origin) = outcome.dataplane.as_ref().ok().and_then(gateway_tags_origin) {
        line(
            1,
            &format!(
                "the Pod is a gateway: inbound traffic is not redirected, so the Dataplane has a gateway \
                 instead of inbounds; {origin}"
            ),
        );
    }
    for explanation in &outcome.explanation.inbounds {
        line(1, &inbound_text(explanation));
        // Without an inbound, there is neither health nor tags.
        if explanation.port.is_err() {
            continue;
        }
        line(2, health_text(explanation.ready));
        for (key, value, source) in &explanation.tags {
            line(2, &format!("{key}: {value}  # {}", source_text(*source)));
        }
    }
    for key in &outcome.explanation.reserved_labels {
        line(
            1,
            &format!("label {key} does not become a tag: keys that contain kuma.io/ never become tags"),
        );
    }
    for warning in &outcome.warnings {
        line(1, &format!("warning: {warning}"));
    }
    text
}

/// Describes the origin of a gateway's tags; `None` for a Dataplane that is not a gateway.
fn gateway_tags_origin(dataplane: &Value) -> Option<&'static str> {
    let gateway = dataplane["spec"]["networking"]["gateway"].as_object()?;
    Some(if gateway["tags"].get(tag::GATEWAY_SERVICE).is_some() {
        "the gateway's service is named after the Pod's workload, even if Services select the Pod"
    } else {
        "the gateway has the tags that the first inbound below would have"
    })
}

fn service_match_text(service_match: &ServiceMatch) -> String {
    match service_match {
        ServiceMatch::Selects => "selects the Pod".to_owned(),
        ServiceMatch::LabelDiffers { key, wanted, found } => match found {
            Some(found) => {
                format!("does not select the Pod: label {key} of the Pod is {found}, not {wanted}")
            }
            None => format!("does not select the Pod: the Pod has no label {key}"),
        },
        ServiceMatch::NoSelector => "is ignored: it has no selector".to_owned(),
        ServiceMatch::ExternalName => "is ignored: its type is ExternalName".to_owned(),
        ServiceMatch::Ignored => "is ignored: it has the annotation kuma.io/ignore".to_owned(),
    }
}

fn inbound_text(inbound: &InboundExplanation) -> String {
    let Some((service, service_port, target)) = &inbound.service else {
        return format!(
            "inbound {}: no Service gives the Pod an inbound; the port is a placeholder on which nothing listens",
            Inbound::SERVICELESS_PORT
        );
    };
    let source = format!("port {service_port} of Service {}", service.name);
    match (&inbound.port, target, &inbound.container) {
        (Err(Unresolved::NotDeclared { name }), ..) => {
            format!("{source} yields no inbound: no container has a TCP port named {name}")
        }
        (Err(Unresolved::OfSidecar { port, use_by_sidecar }), ..) => format!(
            "{source} yields no inbound: the sidecar uses its target port {port} for its {use_by_sidecar}; declare the \
             port in the container, so that the sidecar uses another one"
        ),
        (Ok(port), TargetPort::Name(name), Some(container)) => {
            format!("inbound {port}: {source}, whose target {name} is a port of container {container}")
        }
        (Ok(port), _, Some(container)) => {
            format!("inbound {port}: {source}, whose target is declared by container {container}")
        }
        (Ok(port), _, None) => format!("inbound {port}: {source}, whose target no container declares"),
    }
}

fn health_text(ready: Option<bool>) -> &'static str {
    match ready {
        Some(true) => "ready: the Pod is ready",
        Some(false) => {
            "not ready: the Pod terminates or has finished, its condition Ready is not true, or, without this \
             condition, its application or sidecar is not ready"
        }
        None => "of unknown health, which counts as ready: the Pod has no status of its containers",
    }
}

fn source_text(source: TagSource) -> &'static str {
    match source {
        TagSource::Label => "label of the Pod",
        TagSource::Namespace => "the Pod's namespace",
        TagSource::Zone => "zone of the control plane",
        TagSource::ServiceName => "name of the Service",
        TagSource::ServicePort => "port of the Service",
        TagSource::Service => "name, namespace and port of the Service",
        TagSource::Workload => "workload and namespace, since no Service gives the Pod an inbound",
        TagSource::DeclaredProtocol => "appProtocol or annotation of the Service",
        TagSource::DefaultProtocol => "default, because the Service declares no protocol",
        TagSource::HeadlessPodName => "name of the Pod, since the Service is headless",
        TagSource::ServicelessPodName => "name of the Pod, since no Service gives it an inbound",
    }
}
