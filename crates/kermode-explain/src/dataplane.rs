//! Explanation of a Pod's Dataplane: the Services, inbounds and tags, and why a label is no tag.

use kermode_k8s::convert::facts::TargetPort;
use kermode_k8s::convert::{InboundExplanation, ServiceMatch, TagSource, Unresolved};
use kermode_k8s::offline::{PLACEHOLDER_ADDRESS, PodOutcome};
use kermode_model::{Inbound, tag};
use serde_json::Value;

use crate::explanation::{Line, lines_text};

/// Formats the explanations of several Pods, in their order.
pub fn dataplanes_text(outcomes: &[PodOutcome]) -> String {
    if outcomes.is_empty() {
        return "No object is a Pod.\n".to_owned();
    }
    let texts: Vec<String> = outcomes
        .iter()
        .map(|outcome| {
            let details = lines(outcome, None);
            lines_text(
                &[Line::new(format!("Pod {}: {}", outcome.pod, summary(outcome))).with(details)],
                0,
            )
        })
        .collect();
    texts.join("\n")
}

/// Returns the mesh of the Dataplane, or why there is no Dataplane.
pub(crate) fn summary(outcome: &PodOutcome) -> String {
    match &outcome.dataplane {
        Ok(dataplane) => {
            let mesh = dataplane["mesh"].as_str().unwrap_or_default();
            format!("Dataplane in mesh {mesh}")
        }
        Err(reason) => format!("no Dataplane: {reason}"),
    }
}

/// Describes the Services, inbounds, tags, dropped labels and warnings of a Pod. `unready_reason` is the reason why the
/// Pod is not ready, if it is known.
pub(crate) fn lines(outcome: &PodOutcome, unready_reason: Option<&str>) -> Vec<Line> {
    let mut lines = facts(outcome, unready_reason);
    let warnings = outcome.warnings.iter();
    lines.extend(warnings.map(|warning| Line::new(format!("warning: {warning}"))));
    lines
}

/// Describes the Services, inbounds, tags and dropped labels of a Pod.
pub(crate) fn facts(outcome: &PodOutcome, unready_reason: Option<&str>) -> Vec<Line> {
    let mut lines = Vec::new();
    if outcome.has_placeholder_address {
        lines.push(Line::new(format!(
            "assumed: the Pod has no IP yet, {PLACEHOLDER_ADDRESS} is used in its place"
        )));
    }
    for (service, service_match) in &outcome.explanation.services {
        lines.push(Line::new(format!(
            "Service {service} {}",
            service_match_text(service_match)
        )));
    }
    if let Some(origin) = outcome.dataplane.as_ref().ok().and_then(gateway_tags_origin) {
        lines.push(Line::new(format!(
            "the Pod is a gateway: inbound traffic is not redirected, so the Dataplane has a gateway instead of inbounds; \
             {origin}"
        )));
    }
    for inbound in &outcome.explanation.inbounds {
        lines.push(inbound_line(inbound, unready_reason));
    }
    for key in &outcome.explanation.reserved_labels {
        lines.push(Line::new(format!(
            "label {key} does not become a tag: keys that contain kuma.io/ never become tags"
        )));
    }
    lines
}

/// Describes an inbound with its health and tags, or a Service's port without an inbound.
fn inbound_line(inbound: &InboundExplanation, unready_reason: Option<&str>) -> Line {
    let line = Line::new(inbound_text(inbound));
    // Without an inbound, there is neither health nor tags.
    if inbound.port.is_err() {
        return line;
    }
    let health = match (inbound.ready, unready_reason) {
        (Some(false), Some(reason)) => format!("not ready: {reason}"),
        (ready, _) => health_text(ready).to_owned(),
    };
    let tags = inbound
        .tags
        .iter()
        .map(|(key, value, source)| Line::new(format!("{key}: {value}  # {}", source_text(*source))));
    line.with([Line::new(health)]).with(tags)
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
