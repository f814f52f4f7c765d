//! Runs the real Envoy, which `make` downloads, and renders its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use kermode_envoy::{Resource, ResourceKind};
use kermode_model::ObjectKey;
use kermode_protocol::ads::Versions;
use kermode_protocol::bootstrap::{BootstrapConfig, bootstrap};
use serde_json::{Value, json};

use super::readable;

/// Version of Envoy that `make` downloads.
const VERSION: &str = "1.40.0";

/// Returns the path of Envoy: `$KERMODE_ENVOY`, or by default the binary in the cache directory.
#[allow(
    clippy::disallowed_methods,
    reason = "location of a tool for tests, not configuration"
)]
pub(crate) fn binary() -> PathBuf {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = || {
        let home = variable("HOME").expect("HOME is set");
        variable("KERMODE_CACHE").unwrap_or_else(|| home.join(".cache/kermode"))
    };
    let path = variable("KERMODE_ENVOY").unwrap_or_else(|| cache().join(format!("envoy/{VERSION}/envoy")));
    assert!(
        path.exists(),
        "no Envoy at {}: run the tests with make, or set KERMODE_ENVOY to the path of Envoy {VERSION}",
        path.display(),
    );
    path
}

/// The bootstrap of a proxy, as `kuma-dp` renders it.
pub(crate) fn mk_bootstrap(proxy: ObjectKey, admin_port: u16, socket: &Path) -> Value {
    bootstrap(&BootstrapConfig {
        mesh: "default".into(),
        cluster: proxy.name.to_string(),
        dataplane: proxy,
        admin_port,
        agent_socket: socket.display().to_string(),
        versions: Versions {
            agent: "0.1.0".into(),
            envoy: VERSION.into(),
        },
        features: Vec::new(),
        metadata: [("dataplane.dns.port".to_owned(), "15053".to_owned())].into(),
    })
}

/// Adds the resources to a bootstrap as static resources, so that Envoy needs no ADS server. `--mode validate` fetches
/// no dynamic resources, so it validates only static resources.
pub(crate) fn with_static_resources(mut bootstrap: Value, resources: &[Resource]) -> Value {
    for resource in resources {
        let (field, value) = match resource.kind {
            ResourceKind::Cluster => ("clusters", readable::json(resource)),
            ResourceKind::Listener => ("listeners", readable::json(resource)),
            // A bootstrap has no list of endpoints, so endpoints are validated as part of an additional cluster.
            ResourceKind::Endpoints => ("clusters", cluster_of_endpoints(resource)),
            other => panic!("cannot be a static resource: {other:?}"),
        };
        let list = &mut bootstrap["static_resources"][field];
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut().expect("a list").push(value);
    }
    bootstrap
}

fn cluster_of_endpoints(resource: &Resource) -> Value {
    json!({
        "name": format!("endpoints of {}", resource.name),
        "type": "STATIC",
        "load_assignment": readable::json(resource),
    })
}

/// Validates a configuration with Envoy. The error is Envoy's log.
pub(crate) fn validate(config: &Value) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("envoy.json");
    std::fs::write(&path, serde_json::to_vec_pretty(config).expect("JSON")).expect("a writable directory");
    let output = Command::new(binary())
        .args(["--mode", "validate", "--log-level", "warning", "--config-path"])
        .arg(&path)
        .output()
        .expect("Envoy runs");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(log) }
}
