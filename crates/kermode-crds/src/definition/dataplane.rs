//! CustomResourceDefinition of Dataplane.

use kermode_model::Inbound;
use serde_json::{Value, json};

use super::{
    Names, column, conditions, definition, described, object, open, port, required, root, rule, text, wide,
};

pub(super) fn dataplane() -> Value {
    let spec = open(json!({
        "networking": networking(),
        "metrics": open(json!({
            "type": text("How metrics are collected: prometheus."),
            "conf": open(json!({
                "port": port(0, "Port to scrape."),
                "path": text("Path to scrape."),
            })),
        })),
        "probes": open(json!({
            "port": port(0, "Port on which the proxy answers for the application."),
            "endpoints": {"type": "array", "items": open(json!({
                "inboundPort": port(1, "Port of the application."),
                "inboundPath": text("Path asked of the application."),
                "path": text("Path asked of the proxy."),
            }))},
        })),
    }));
    let schema = root(json!({
        "mesh": {"type": "string", "description": "The mesh the proxy belongs to."},
        "spec": described(required(spec, &["networking"]), "What the proxy serves and how it is reached."),
        "status": described(status(), "What became of it; written by the control plane."),
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

fn networking() -> Value {
    let inbounds = json!({
        "type": "array",
        "description": "One entry for each port of each Service that selects the Pod.",
        // The API server bounds the cost of rules by it, too.
        "maxItems": Inbound::MOST,
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
            "description": "Kept for Kuma's sake; Kermode generates outbounds and reads none.",
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
    // Kuma leaves `false` out when it writes the object.
    let ready =
        json!({"type": "boolean", "default": false, "description": "Whether it may receive traffic."});
    let health = open(json!({"ready": ready}));
    let schema = open(json!({
        "port": port(1, "The container port."),
        "servicePort": port(0, "Port of the workload, where it differs."),
        "address": text("Address it listens on, where it differs from the proxy's."),
        "serviceAddress": text("Address of the workload, where it differs."),
        "tags": rule(
            tags(),
            "'kuma.io/service' in self",
            "mandatory tag \"kuma.io/service\" is missing",
        ),
        "health": described(health, "Absent when nothing is known, which counts as ready; {} is not ready."),
    }));
    required(schema, &["port", "tags"])
}

fn tags() -> Value {
    json!({
        "type": "object",
        "description": "What others select it by.",
        "additionalProperties": {"type": "string", "minLength": 1},
    })
}

fn transparent_proxying() -> Value {
    let names =
        |description: &str| json!({"type": "array", "description": description, "items": {"type": "string"}});
    open(json!({
        "redirectPortInbound": port(0, "Where inbound connections are redirected to."),
        "redirectPortInboundV6": port(0, "The same for IPv6."),
        "redirectPortOutbound": port(0, "Where outbound connections are redirected to."),
        "directAccessServices": names("Services reached by pod IP; * for all."),
        "reachableServices": names("The only services reached."),
    }))
}

fn status() -> Value {
    let count = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let rejection = object(json!({
        "time": {"type": "string", "format": "date-time"},
        "kind": text("Kind of the resources."),
        "resources": {"type": "array", "items": {"type": "string"}},
        "message": text("Envoy's explanation."),
    }));
    let configuration = object(json!({
        "sent": text("Newest version sent, in the count of that control plane."),
        "acknowledged": text("Newest version that the proxy has applied as a whole."),
        "lastRejection": described(rejection, "The last configuration that the proxy refused."),
    }));
    object(json!({
        "inbounds": object(json!({
            "ready": count("Inbounds that may receive traffic."),
            "total": count("All inbounds."),
            "summary": text("Both as text."),
            "services": text("Values of kuma.io/service, separated by commas."),
        })),
        "sidecar": object(json!({
            "version": text("Version of kuma-dp."),
            "envoyVersion": text("Version of Envoy."),
            "controlPlane": text("The replica of the control plane that serves it."),
            "configuration": configuration,
        })),
        "conditions": conditions(),
    }))
}
