//! CustomResourceDefinition of Dataplane.

use kermode_model::Inbound;
use serde_json::{Value, json};

use super::{
    Names, column, conditions, definition, object, open_object, port, root_schema, text, wide_column,
    with_description, with_required, with_rule,
};

pub(super) fn dataplane() -> Value {
    let spec = open_object(json!({
        "networking": networking(),
        "metrics": metrics(),
        "probes": probes(),
    }));
    let schema = root_schema(json!({
        "mesh": {"type": "string", "description": "Mesh of the proxy."},
        "spec": with_description(with_required(spec, &["networking"]), "Inbounds and addresses of the proxy."),
        "status": with_description(status(), "State of the proxy, written by the control plane."),
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
    let condition_status_path = |kind: &str| format!(".status.conditions[?(@.type==\"{kind}\")].status");
    json!([
        column("Mesh", "string", ".mesh"),
        column("Services", "string", ".status.inbounds.services"),
        column("Ready", "string", ".status.inbounds.summary"),
        column("Address", "string", ".spec.networking.address"),
        column("Age", "date", ".metadata.creationTimestamp"),
        wide_column(column("Connected", "string", &condition_status_path("Connected"))),
        wide_column(column(
            "Accepted",
            "string",
            &condition_status_path("ConfigurationAccepted")
        )),
        wide_column(column("Sent", "string", ".status.sidecar.configuration.sent")),
        wide_column(column(
            "Acknowledged",
            "string",
            ".status.sidecar.configuration.acknowledged"
        )),
        wide_column(column("Version", "string", ".status.sidecar.version")),
        wide_column(column("Envoy", "string", ".status.sidecar.envoyVersion")),
        wide_column(column("Control-Plane", "string", ".status.sidecar.controlPlane")),
        wide_column(column("Zone", "string", ".metadata.labels['kuma\\.io/zone']")),
    ])
}

fn metrics() -> Value {
    let endpoint = open_object(json!({
        "port": port(0, "Port of the metrics endpoint."),
        "path": text("Path of the metrics endpoint."),
    }));
    let schema = open_object(json!({
        "type": text("Collector of the metrics; always prometheus."),
        "conf": with_description(endpoint, "Endpoint that the collector scrapes."),
    }));
    with_description(
        schema,
        "Metrics endpoint of the proxy, from annotations of the Pod.",
    )
}

fn probes() -> Value {
    let endpoint = open_object(json!({
        "inboundPort": port(1, "Port of the application."),
        "inboundPath": text("Path that the proxy requests from the application; the service of a gRPC probe."),
        "path": text("Path that the kubelet requests from the proxy."),
        "protocol": text("Protocol of the probe: HTTPS, TCP or GRPC; absent for HTTP."),
    }));
    let schema = open_object(json!({
        "port": port(0, "Port of the listener that answers virtual probes."),
        "endpoints": {"type": "array", "description": "One entry for each virtual probe.", "items": endpoint},
    }));
    with_description(
        schema,
        "Virtual probes: probes and HTTP lifecycle hooks of the application that a listener of the proxy answers.",
    )
}

fn networking() -> Value {
    let inbounds = json!({
        "type": "array",
        "description": "One entry for each inbound that Services give the Pod. A Pod to which no Service gives an inbound has one entry.",
        // The API server needs this bound to estimate the cost of the CEL rules.
        "maxItems": Inbound::MAX_PER_DATAPLANE,
        "items": inbound(),
    });
    let gateway = open_object(json!({
        "type": text("Type of the gateway. Kermode writes DELEGATED and accepts any value, such as Kuma's BUILTIN."),
        "tags": tags(),
    }));
    let admin = open_object(json!({"port": port(0, "Port of the admin interface.")}));
    let schema = open_object(json!({
        "address": {"type": "string", "minLength": 1, "description": "IP address or DNS name of the proxy."},
        "additionalAddresses": {
            "type": "array",
            "description": "Further IP addresses of the proxy. A dual-stack Pod has one, of the other IP family.",
            "items": {"type": "string", "minLength": 1},
        },
        "gateway": with_description(gateway, "Set for gateways, which have no inbounds."),
        "inbound": inbounds,
        "outbound": {
            "type": "array",
            "description": "Accepted for compatibility with Kuma, without effect; Kermode generates outbounds.",
            "items": open_object(json!({})),
        },
        "transparentProxying": transparent_proxying(),
        "admin": with_description(admin, "Envoy's admin interface."),
    }));
    with_rule(
        with_description(with_required(schema, &["address"]), "Addresses and inbounds."),
        "has(self.gateway) || (has(self.inbound) && size(self.inbound) > 0)",
        "has to contain at least one inbound interface or gateway",
    )
}

fn inbound() -> Value {
    // Kuma omits `false` when it writes the object, so an absent `ready` means `false`.
    let ready = json!({"type": "boolean", "default": false, "description": "Whether the inbound may receive traffic."});
    let health = open_object(json!({"ready": ready}));
    let schema = open_object(json!({
        "port": port(1, "Port of the inbound; a container port in the Dataplane of an injected Pod."),
        "servicePort": port(0, "Port that the application listens on, if it differs from port."),
        "address": text("Address of the inbound, if it differs from that of the proxy."),
        "serviceAddress": text("Address of the application, if it differs from address."),
        "tags": with_rule(
            tags(),
            "'kuma.io/service' in self",
            "mandatory tag \"kuma.io/service\" is missing",
        ),
        "health": with_description(health, "Health of the inbound. Absent means ready; {} means not ready."),
    }));
    with_required(schema, &["port", "tags"])
}

fn tags() -> Value {
    json!({
        "type": "object",
        "description": "Tags by which policies select the inbound or gateway.",
        "additionalProperties": {"type": "string"},
    })
}

fn transparent_proxying() -> Value {
    let service_names =
        |description: &str| json!({"type": "array", "description": description, "items": {"type": "string"}});
    let schema = open_object(json!({
        "redirectPortInbound": port(0, "Port that inbound IPv4 connections are redirected to."),
        "redirectPortInboundV6": port(0, "Port that inbound IPv6 connections are redirected to."),
        "redirectPortOutbound": port(0, "Port that outbound connections are redirected to."),
        "directAccessServices": service_names("Services whose Pods the proxy reaches by IP address; * selects all."),
        "reachableServices": service_names("Services that the proxy is configured for; all if empty."),
    }));
    with_description(
        schema,
        "Redirection of traffic. Absent without transparent proxying.",
    )
}

fn status() -> Value {
    let count = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let rejection = object(json!({
        "time": {"type": "string", "format": "date-time", "description": "Time of the rejection."},
        "kind": text("Kind of the rejected resources."),
        "resources": {"type": "array", "description": "Names of the rejected resources.", "items": {"type": "string"}},
        "message": text("Error message of Envoy."),
    }));
    let configuration = object(json!({
        "sent": text("Newest version that was sent. Versions of different replicas are not comparable."),
        "acknowledged": text("Newest version of which the proxy has acknowledged all resources."),
        "lastRejection": with_description(rejection, "Resources that Envoy rejected last, with the error."),
    }));
    let inbounds = object(json!({
        "ready": count("Number of inbounds that may receive traffic."),
        "total": count("Number of inbounds."),
        "summary": text("Ready and total inbounds, such as 2/3; gateway for a gateway."),
        "services": text("Values of kuma.io/service, separated by commas."),
    }));
    let sidecar = object(json!({
        "version": text("Version of kuma-dp."),
        "envoyVersion": text("Version of Envoy."),
        "controlPlane": text("Replica of the control plane that serves the proxy."),
        "configuration": with_description(configuration, "Versions of the proxy's configuration."),
    }));
    object(json!({
        "inbounds": with_description(inbounds, "Inbounds, counted by the leader."),
        "sidecar": with_description(sidecar, "State of the sidecar, written by the replica that serves it."),
        "conditions": conditions(),
    }))
}
