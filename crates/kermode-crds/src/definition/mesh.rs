//! CustomResourceDefinition of Mesh.

use kermode_model::MAX_DNS_LABEL_LENGTH;
use serde_json::{Value, json};

use super::{
    Names, column, conditions, definition, object, open_object, root_schema, text, wide_column,
    with_description, with_required, with_rule,
};
use crate::mesh::{BUILTIN, MUST_BE_DNS_LABEL};

/// Pattern of [`kermode_model::is_dns_label`], without its length limit.
const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Maximum number of backends. The API server needs a bound to estimate the cost of the CEL rules.
const MAX_BACKENDS: u32 = 64;
/// Maximum length of the name of a backend: the limit of names of Kubernetes objects. The API server needs a bound to
/// estimate the cost of the CEL rules.
const MAX_BACKEND_NAME_LENGTH: u32 = 253;

pub(super) fn mesh() -> Value {
    let inbound = open_object(json!({
        "passthrough": {"type": "boolean", "description": "Whether connections to ports of a Pod that no Service names pass through; by default false with mutual TLS in mode STRICT, else true."},
    }));
    let outbound = open_object(json!({
        "passthrough": {"type": "boolean", "description": "Whether traffic to addresses outside of the mesh passes through; true by default."},
    }));
    let networking = open_object(json!({
        "inbound": with_description(inbound, "Traffic to Pods of the mesh."),
        "outbound": with_description(outbound, "Traffic that leaves the mesh."),
    }));
    let spec = open_object(json!({
        "mtls": mtls(),
        "networking": with_description(networking, "Networking settings of the mesh."),
    }));
    let count = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let status = object(json!({
        "mtls": text("Mode of mutual TLS: STRICT, PERMISSIVE or Disabled."),
        "dataplanes": count("Number of Dataplanes of the mesh."),
        "services": count("Number of services of these Dataplanes."),
        "conditions": conditions(),
    }));
    let schema = root_schema(json!({
        "spec": with_description(spec, "Settings of the mesh."),
        "status": with_description(status, "State of the mesh, written by the control plane."),
    }));
    let schema = with_rule(
        schema,
        &format!(
            "self.metadata.name.size() <= {MAX_DNS_LABEL_LENGTH} && self.metadata.name.matches('{DNS_LABEL_PATTERN}')"
        ),
        &format!("metadata.name {MUST_BE_DNS_LABEL}"),
    );
    let columns = json!([
        column("mTLS", "string", ".status.mtls"),
        column("Backend", "string", ".spec.mtls.enabledBackend"),
        column("Dataplanes", "integer", ".status.dataplanes"),
        column("Services", "integer", ".status.services"),
        column("Age", "date", ".metadata.creationTimestamp"),
        wide_column(column(
            "Passthrough",
            "string",
            ".spec.networking.outbound.passthrough"
        )),
        wide_column(column(
            "Accepted",
            "string",
            ".status.conditions[?(@.type==\"Accepted\")].status"
        )),
    ]);
    let version = json!({
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    });
    let names = Names {
        kind: "Mesh",
        plural: "meshes",
        singular: "mesh",
        short: &[],
    };
    definition(names, "Cluster", version)
}

fn mtls() -> Value {
    let rotation =
        open_object(json!({"expiration": text("Lifetime of a workload certificate, such as 24h.")}));
    let certificates =
        open_object(json!({"rotation": with_description(rotation, "Rotation of workload certificates.")}));
    let backend = open_object(json!({
        "name": {"type": "string", "minLength": 1, "maxLength": MAX_BACKEND_NAME_LENGTH, "description": "Name of the backend, unique in the mesh."},
        "type": text("Type of the certificate authority; Kermode supports builtin."),
        "mode": {"type": "string", "enum": ["", "STRICT", "PERMISSIVE"], "description": "Traffic that inbounds accept: only mutual TLS with STRICT, the default; mutual TLS and plaintext with PERMISSIVE."},
        "dpCert": with_description(certificates, "Workload certificates."),
    }));
    let backend = with_rule(
        with_required(backend, &["name", "type"]),
        &format!(
            "self.type != '{BUILTIN}' || \
             (self.name.size() <= {MAX_DNS_LABEL_LENGTH} && self.name.matches('{DNS_LABEL_PATTERN}'))"
        ),
        &format!("name {MUST_BE_DNS_LABEL}"),
    );
    let schema = open_object(json!({
        "enabledBackend": {"type": "string", "maxLength": MAX_BACKEND_NAME_LENGTH, "description": "Name of the backend in use. If absent, mutual TLS is off."},
        "backends": {"type": "array", "maxItems": MAX_BACKENDS, "items": backend, "description": "Certificate authorities of the mesh."},
    }));
    with_rule(
        with_description(schema, "Mutual TLS."),
        "!has(self.enabledBackend) || self.enabledBackend == '' || \
         (has(self.backends) && self.backends.exists(backend, backend.name == self.enabledBackend))",
        "enabledBackend has to be set to one of the backends in the mesh",
    )
}
