//! Tests of the bootstrap: its contents, and its validation by the real Envoy.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::path::Path;

use kermode_model::ObjectKey;
use serde_json::{Value, json};
use support::envoy;

/// Admin port; differs from the default 9901, so the tests show that the setting is used.
const ADMIN_PORT: u16 = 9902;

fn mk_bootstrap() -> Value {
    envoy::mk_bootstrap(
        ObjectKey::new("demo", "web-0"),
        ADMIN_PORT,
        Path::new("/run/kuma-dp.sock"),
    )
}

#[test]
fn envoy_accepts_the_bootstrap() {
    envoy::validate(&mk_bootstrap()).unwrap_or_else(|log| panic!("{log}"));
}

#[test]
fn invalid_bootstrap_is_rejected() {
    let mut bootstrap = mk_bootstrap();
    bootstrap["static_resources"]["listeners"] = json!([{ "name": "a", "no_such_field": 1 }]);
    let log = envoy::validate(&bootstrap).expect_err("Envoy rejects an unknown field");
    assert!(log.contains("no_such_field"), "{log}");
}

#[test]
fn node_is_named_after_mesh_pod_and_namespace() {
    let bootstrap = mk_bootstrap();
    assert_eq!(bootstrap["node"]["id"], "default.web-0.demo");
    assert_eq!(bootstrap["node"]["cluster"], "web-0");
    assert_eq!(bootstrap["node"]["metadata"]["dataplane.admin.port"], "9902");
    assert_eq!(bootstrap["node"]["metadata"]["dataplane.dns.port"], "15053");
}

#[test]
fn all_configuration_comes_from_the_socket_of_the_agent() {
    let bootstrap = mk_bootstrap();
    let clusters = bootstrap["static_resources"]["clusters"]
        .as_array()
        .expect("clusters");
    let [agent_cluster] = clusters.as_slice() else {
        panic!("expected one static cluster, found {clusters:?}")
    };
    let endpoint = &agent_cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    assert_eq!(endpoint["address"]["pipe"]["path"], "/run/kuma-dp.sock");
    let ads = &bootstrap["dynamic_resources"]["ads_config"];
    assert_eq!(ads["api_type"], "DELTA_GRPC");
    assert_eq!(
        ads["grpc_services"][0]["envoy_grpc"]["cluster_name"],
        agent_cluster["name"]
    );
}

#[test]
fn statistics_have_no_custom_tag_expressions() {
    assert_eq!(
        mk_bootstrap().get("stats_config"),
        None,
        "tag expressions took 94 % of Envoy's CPU time at startup with 1000 services"
    );
}
