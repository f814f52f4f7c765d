//! Kind `bootstrap`: the bootstrap that `kuma-dp` renders for Envoy.

use anyhow::{Context, Result};
use kermode_envoy_json::normalize;
use kermode_model::ObjectKey;
use kermode_protocol::ads::Versions;
use kermode_protocol::bootstrap::{BootstrapConfig, bootstrap};
use serde_json::json;

use crate::corpus::Case;
use crate::suite::Outcome;

const TYPE_URL: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";

/// Renders the bootstrap as `kuma-dp` of the case's Pod renders it, and compares the result with the expected bootstrap.
pub(super) fn compare(case: &Case<'_>) -> Result<Outcome> {
    let text = |pointer: &str| {
        let value = case.at(pointer).as_str();
        value.with_context(|| format!("{pointer} is missing"))
    };
    let proxy_name = text("/settings/request/name")?;
    let dataplane = ObjectKey::from_proxy_name(proxy_name)
        .with_context(|| format!("the proxy name {proxy_name:?} has no namespace"))?;
    let config = BootstrapConfig {
        mesh: text("/settings/request/mesh")?.into(),
        cluster: dataplane.name.to_string(),
        dataplane,
        admin_port: case.decode("/settings/dataplane/networking/admin/port")?,
        agent_socket: "/run/kuma-dp.sock".to_owned(),
        versions: Versions {
            agent: text("/settings/request/version/kumaDp/version")?.to_owned(),
            envoy: String::new(),
        },
        features: Vec::new(),
        metadata: [].into(),
    };
    Ok(Outcome::Messages {
        expected: json!({ "Bootstrap": normalize(TYPE_URL, &case.document("expected")?)? }),
        actual: json!({ "Bootstrap": normalize(TYPE_URL, &bootstrap(&config))? }),
    })
}
