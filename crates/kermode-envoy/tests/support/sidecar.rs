//! Sidecars on loopback: Envoy with the generated resources of a proxy.
//!
//! Some parts of the generated resources work only in a Pod, so they are replaced. Listeners bind free ports instead of
//! receiving redirected connections. Envoy connects to applications over IPv6 from any address, because the exempt one
//! exists only in a Pod. Secrets come from files instead of `kuma-dp`. Endpoints are part of their clusters,
//! with the ports that the listeners are bound to.

use std::collections::HashMap;
use std::path::Path;

use kermode_envoy::{Resource, ResourceKind};
use serde_json::{Value, json};

use super::input::Input;
use super::process::RunningEnvoy;
use super::secrets::{for_each_child, refer_to_secret_files};
use super::{envoy, readable};

/// Prefix of the names of clusters for direct access.
pub(crate) const DIRECT_ACCESS: &str = "direct_access_";

/// Starts the Envoy of the proxy that `input` names. `ports` maps the port of each generated endpoint to the port that
/// the inbound listener of the endpoint is bound to in this test.
pub(crate) fn start_proxy(input: &str, secrets_folder: &Path, ports: &HashMap<u16, u16>) -> RunningEnvoy {
    RunningEnvoy::start(&mk_config(input, secrets_folder, ports))
}

/// Returns the configuration of [`start_proxy`].
pub(crate) fn mk_config(input: &str, secrets_folder: &Path, ports: &HashMap<u16, u16>) -> Value {
    let input = Input::parse(input);
    // These tests need neither passthrough nor the admin listener.
    let resources: Vec<_> = input
        .resources()
        .into_iter()
        .filter(|resource| !resource.name.contains("passthrough") && !resource.name.contains("admin"))
        .collect();
    let endpoints: HashMap<_, _> = resources
        .iter()
        .filter(|resource| resource.kind == ResourceKind::Endpoints)
        .map(|resource| (resource.name.clone(), readable::json(resource)))
        .collect();
    let other_resources: Vec<Resource> = resources
        .into_iter()
        .filter(|resource| resource.kind != ResourceKind::Endpoints)
        .collect();
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 0, Path::new("/unused.sock"));
    let mut config = envoy::with_static_resources(bootstrap, &other_resources);
    config
        .as_object_mut()
        .expect("an object")
        .remove("dynamic_resources");
    for cluster in config["static_resources"]["clusters"]
        .as_array_mut()
        .expect("clusters")
    {
        if is_ipv6(&cluster["upstreamBindConfig"]["sourceAddress"]["address"]) {
            cluster
                .as_object_mut()
                .expect("an object")
                .remove("upstreamBindConfig");
        }
        if cluster["name"]
            .as_str()
            .is_some_and(|name| name.starts_with(DIRECT_ACCESS))
        {
            replace_ports(&mut cluster["loadAssignment"], ports);
        }
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster
                .as_object_mut()
                .expect("an object")
                .remove("edsClusterConfig");
            let mut assignment = endpoints[cluster["name"].as_str().expect("a name")].clone();
            replace_ports(&mut assignment, ports);
            cluster["loadAssignment"] = assignment;
        }
    }
    for listener in config["static_resources"]["listeners"]
        .as_array_mut()
        .expect("listeners")
    {
        listener.as_object_mut().expect("an object").remove("bindToPort");
        let generated = &listener["address"]["socketAddress"]["address"];
        let address = if is_ipv6(generated) { "::1" } else { "127.0.0.1" };
        listener["address"] = json!({ "socket_address": { "address": address, "port_value": 0 } });
    }
    refer_to_secret_files(&mut config, secrets_folder);
    config
}

fn is_ipv6(address: &Value) -> bool {
    address.as_str().is_some_and(|address| address.contains(':'))
}

/// Replaces the ports of endpoints, at any depth of the value.
fn replace_ports(value: &mut Value, ports: &HashMap<u16, u16>) {
    if let Some(port) = value.get_mut("portValue") {
        let generated_port = port
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .expect("a port");
        *port = json!(ports.get(&generated_port).unwrap_or(&generated_port));
    }
    for_each_child(value, &mut |child| replace_ports(child, ports));
}
