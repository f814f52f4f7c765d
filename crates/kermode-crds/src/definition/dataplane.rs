//! CustomResourceDefinition of Dataplane.

use kermode_model::Inbound;
use serde_json::{Value, json};

use super::{
    Names, column, conditions, definition, described, object, open, port, required, root, rule, text, wide,
};

pub(super) fn dataplane() -> Value {
    let spec = open(json!({
        "networking": networking(),
        "metrics": metrics(),
        "probes": probes(),
    }));
    let schema = root(json!({
        "mesh": {"type": "string", "description": "Mesh of the proxy."},
        "spec": described(required(spec, &["networking"]), "Inbounds and addresses of the proxy."),
        "status": described(status(), "State of the proxy, written by the control plane."),
    }));
    let version = json!({
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns(),
    });
    let names = Names {
        kind: "Dataplane",
        plural: "dataplanes",
        singular: "dataplane",
        short: &["dp"],
    };
    definition(names, "Namespaced", version)
}

fn columns() -> Value {
    let condition = |kind: &str| format!(".status.conditions[?(@.type==\"{kind}\")].status");
    json!([
        column("Mesh", "string", ".mesh"),
        column("Services", "string", ".status.inbounds.services"),
        column("Ready", "string", ".status.inbounds.summary"),
        column("Address", "string", ".spec.networking.address"),
        column("Age", "date", ".metadata.creationTimestamp"),
        wide(column("Connected", "string", &condition("Connected"))),
        wide(column("Accepted", "string", &condition("ConfigurationAccepted"))),
        wide(column("Sent", "string", ".status.sidecar.configuration.sent")),
        wide(column(
            "Acknowledged",
            "string",
            ".status.sidecar.configuration.acknowledged"
        )),
        wide(column("Version", "string", ".status.sidecar.version")),
        wide(column("Envoy", "string", ".status.sidecar.envoyVersion")),
        wide(column("Control-Plane", "string", ".status.sidecar.controlPlane")),
        wide(column("Zone", "string", ".metadata.labels['kuma\\.io/zone']")),
    ])
}

fn metrics() -> Value {
    let endpoint = open(json!({
        "port": port(0, "Port of the metrics endpoint."),
        "path": text("Path of the metrics endpoint."),
    }));
    let schema = open(json!({
        "type": text("Collector of the metrics; always prometheus."),
        "conf": described(endpoint, "Endpoint that the collector scrapes."),
    }));
    described(
        schema,
        "Metrics endpoint of the proxy, from annotations of the Pod.",
    )
}

fn probes() -> Value {
    let endpoint = open(json!({
        "inboundPort": port(1, "Port of the application."),
        "inboundPath": text("Path that the proxy requests from the application."),
        "path": text("Path that the kubelet requests from the proxy."),
    }));
    let schema = open(json!({
        "port": port(0, "Port of the listener that answers probes for the application."),
        "endpoints": {"type": "array", "description": "One entry for each HTTP probe.", "items": endpoint},
    }));
    described(schema, "HTTP probes that the proxy passes to the application.")
}

fn networking() -> Value {
    let inbounds = json!({
        "type": "array",
        "description": "One entry for each port of each Service that selects the Pod.",
        // The API server needs this bound to estimate the cost of the CEL rules.
        "maxItems": Inbound::MAX_PER_DATAPLANE,
        "items": inbound(),
    });
    let gateway = open(json!({
        "type": text("DELEGATED, or BUILTIN in Kuma."),
        "tags": tags(),
    }));
    let schema = open(json!({
        "address": {"type": "string", "minLength": 1, "description": "IP address or DNS name of the proxy."},
        "gateway": described(gateway, "Set for gateways, which have no inbounds."),
        "inbound": inbounds,
        "outbound": {
            "type": "array",
            "description": "Accepted for compatibility with Kuma, without effect; Kermode generates outbounds.",
            "items": open(json!({})),
        },
        "transparentProxying": transparent_proxying(),
        "admin": described(open(json!({"port": port(0, "Port of the admin interface.")})), "Envoy's admin interface."),
    }));
    rule(
        described(required(schema, &["address"]), "Addresses and inbounds."),
        "has(self.gateway) || (has(self.inbound) && size(self.inbound) > 0)",
        "has to contain at least one inbound interface or gateway",
    )
}

fn inbound() -> Value {
    // Kuma omits `false` when it writes the object.
    let ready = json!({"type": "boolean", "default": false, "description": "Whether the inbound may receive traffic."});
    let health = open(json!({"ready": ready}));
    let schema = open(json!({
        "port": port(1, "Container port."),
        "servicePort": port(0, "Port of the application, if it differs from port."),
        "address": text("Address of the inbound, if it differs from that of the proxy."),
        "serviceAddress": text("Address of the application, if it differs from address."),
        "tags": rule(
            tags(),
            "'kuma.io/service' in self",
            "mandatory tag \"kuma.io/service\" is missing",
        ),
        "health": described(health, "Health of the inbound. Absent means ready; {} means not ready."),
    }));
    required(schema, &["port", "tags"])
}

fn tags() -> Value {
    json!({
        "type": "object",
        "description": "Tags that select the inbound or gateway.",
        "additionalProperties": {"type": "string", "minLength": 1},
    })
}

fn transparent_proxying() -> Value {
    let names =
        |description: &str| json!({"type": "array", "description": description, "items": {"type": "string"}});
    let schema = open(json!({
        "redirectPortInbound": port(0, "Port that inbound IPv4 connections are redirected to."),
        "redirectPortInboundV6": port(0, "Port that inbound IPv6 connections are redirected to."),
        "redirectPortOutbound": port(0, "Port that outbound connections are redirected to."),
        "directAccessServices": names("Services whose Pods the proxy reaches by IP address; * selects all."),
        "reachableServices": names("Services that the proxy is configured for; all if empty."),
    }));
    described(
        schema,
        "Redirection of traffic. Absent without transparent proxying.",
    )
}

fn status() -> Value {
    let count = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let rejection = object(json!({
        "time": {"type": "string", "format": "date-time", "description": "Time of the rejection."},
        "kind": text("Kind of the resources."),
        "resources": {"type": "array", "description": "Names of the resources.", "items": {"type": "string"}},
        "message": text("Error message of Envoy."),
    }));
    let configuration = object(json!({
        "sent": text("Newest version sent, as counted by the serving replica."),
        "acknowledged": text("Newest version that the proxy has acknowledged completely."),
        "lastRejection": described(rejection, "Last configuration that Envoy rejected."),
    }));
    let inbounds = object(json!({
        "ready": count("Number of inbounds that may receive traffic."),
        "total": count("Number of inbounds."),
        "summary": text("Ready and total as text."),
        "services": text("Values of kuma.io/service, separated by commas."),
    }));
    let sidecar = object(json!({
        "version": text("Version of kuma-dp."),
        "envoyVersion": text("Version of Envoy."),
        "controlPlane": text("Replica of the control plane that serves the proxy."),
        "configuration": described(configuration, "Versions of the proxy's configuration."),
    }));
    object(json!({
        "inbounds": described(inbounds, "Inbounds, counted by the leader."),
        "sidecar": described(sidecar, "State of the sidecar, written by the replica that serves it."),
        "conditions": conditions(),
    }))
}
