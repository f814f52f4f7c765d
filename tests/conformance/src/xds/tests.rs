//! Tests of the runner: it finds a difference in each kind of case.

use serde_json::{Value, json};

use crate::corpus;
use crate::report::{self, SuiteReport};
use crate::suite::all_runners;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// Runs a case without deviations. `dataplane` and `expected` become files of the case, and so does the list
/// `dataplanes` of the case.
fn run(mut case: Value, dataplane: &Value, expected: &Value) -> SuiteReport {
    let folder = tempfile::tempdir().unwrap();
    let suite = folder.path().join("xds");
    std::fs::create_dir(&suite).unwrap();
    let dataplanes = case["dataplanes"].take();
    let dataplanes = dataplanes.as_array().into_iter().flatten();
    let dataplanes: Vec<_> = dataplanes.map(Value::to_string).collect();
    case["id"] = json!("case");
    case["files"] = json!({ "dataplane": "dataplane", "dataplanes": "dataplanes", "expected": "expected" });
    for (name, content) in [
        (
            "cases.json",
            json!({ "suite": "xds", "cases": [case] }).to_string(),
        ),
        ("dataplane", dataplane.to_string()),
        ("dataplanes", dataplanes.join("\n---\n")),
        ("expected", expected.to_string()),
    ] {
        std::fs::write(suite.join(name), content).unwrap();
    }
    let suites = corpus::read(folder.path()).unwrap();
    report::run(&suites[0], &all_runners(), &[])
}

/// Asserts that the case passes with `expected`, and that it fails at a line of the report that contains `path` if the
/// value at `pointer` in `expected` is replaced by `wrong`.
fn assert_finds(
    case: &Value,
    dataplane: &Value,
    expected: &Value,
    (pointer, wrong, path): (&str, Value, &str),
) {
    let report = run(case.clone(), dataplane, expected);
    assert_eq!(report.passed, ["case"], "{:?}", report.failed);
    let mut expected = expected.clone();
    *expected.pointer_mut(pointer).unwrap() = wrong;
    let report = run(case.clone(), dataplane, &expected);
    let lines = report.failed.first().map(|(_, lines)| lines.join("\n"));
    assert!(
        lines.as_ref().is_some_and(|lines| lines.contains(path)),
        "{lines:?}"
    );
}

fn resource(type_url: &str, name: &str, mut resource: Value) -> Value {
    resource["@type"] = json!(type_url);
    resource["name"] = json!(name);
    json!({ "name": name, "resource": resource })
}

fn socket(address: &str, port: u16) -> Value {
    json!({ "socketAddress": { "address": address, "portValue": port } })
}

#[test]
fn wrong_address_of_direct_access_is_found() {
    let mk_dataplane = |name: &str, address: &str| {
        let inbound = json!({ "port": 80, "tags": { "kuma.io/service": name } });
        json!({ "name": name, "networking": { "address": address, "inbound": [inbound] } })
    };
    let mut client = mk_dataplane("web", "192.0.2.2");
    let networking = &mut client["networking"];
    networking["outbound"] = json!([{ "address": "192.0.2.4", "port": 80, "service": "redis" }]);
    networking["transparentProxying"] = json!({ "directAccessServices": ["*"] });
    // The client needs no direct access to itself, and none where it has an outbound.
    let others = [
        client.clone(),
        mk_dataplane("redis", "192.0.2.4"),
        mk_dataplane("api", "192.0.2.3"),
    ];
    let case = json!({ "kind": "direct-access", "dataplanes": others });
    let endpoint = json!({ "endpoint": { "address": socket("192.0.2.3", 80) } });
    let cluster = json!({ "loadAssignment": {
        "clusterName": "direct_access_192.0.2.3:80",
        "endpoints": [{ "lbEndpoints": [endpoint] }],
    }});
    let expected = json!({ "resources": [
        resource(CLUSTER, "direct_access_192.0.2.3:80", cluster),
        resource(LISTENER, "outbound:passthrough:ipv4", json!({})),
    ]});
    let address = "/resources/0/resource/loadAssignment/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/address";
    let finding = (
        address,
        json!("192.0.2.4"),
        "Cluster direct_access_192.0.2.3:80/loadAssignment",
    );
    assert_finds(&case, &client, &expected, finding);
}

#[test]
fn wrong_virtual_ip_of_a_name_is_found() {
    let outbound = |address: &str, service: &str| json!({ "address": address, "port": 80, "tags": { "kuma.io/service": service } });
    let client = json!({ "networking": { "outbound": [
        outbound("240.0.0.1", "web_shop_svc_80"),
        outbound("240.0.0.2", "api_shop_svc_80"),
    ]}});
    let domains = json!([
        { "address": "240.0.0.1", "domains": ["web_shop_svc_80.mesh"] },
        { "address": "240.0.0.9", "domains": ["missing_shop_svc_80.mesh"] },
    ]);
    let case = json!({ "kind": "dns-listener", "settings": { "vipDomains": domains } });
    let domain = json!({
        "name": "web_shop_svc_80.mesh",
        "endpoint": { "addressList": { "address": ["240.0.0.1"] } },
    });
    let table = json!({ "inlineDnsTable": { "virtualDomains": [domain] } });
    let filter = json!({ "typedConfig": { "serverConfig": table } });
    let expected = json!({ "resources": [
        resource(LISTENER, "kuma:dns", json!({ "listenerFilters": [filter] })),
    ]});
    let address = "/resources/0/resource/listenerFilters/0/typedConfig/serverConfig/inlineDnsTable/virtualDomains/0\
                   /endpoint/addressList/address/0";
    let finding = (address, json!("240.0.0.2"), "web_shop_svc_80.mesh");
    assert_finds(&case, &client, &expected, finding);
}

#[test]
fn wrong_address_of_an_inbound_is_found() {
    let dataplane = json!({ "networking": {
        "address": "192.0.2.2",
        "inbound": [{ "port": 80, "servicePort": 8080, "tags": { "kuma.io/service": "web" } }],
    }});
    let endpoint = json!({ "endpoint": { "address": socket("192.0.2.2", 8080) } });
    let expected = json!({ "resources": [
        resource(CLUSTER, "localhost:8080", json!({ "loadAssignment": {
            "clusterName": "localhost:8080", "endpoints": [{ "lbEndpoints": [endpoint] }],
        }})),
        resource(LISTENER, "inbound:192.0.2.2:80", json!({ "address": socket("192.0.2.2", 80) })),
    ]});
    let case = json!({ "kind": "inbound" });
    let of_listener = "/resources/1/resource/address/socketAddress/address";
    let of_cluster = "/resources/0/resource/loadAssignment/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress/address";
    for (pointer, path) in [
        (of_listener, "Listener inbound:192.0.2.2:80/address"),
        (of_cluster, "Cluster localhost:80"),
    ] {
        assert_finds(&case, &dataplane, &expected, (pointer, json!("192.0.2.3"), path));
    }
}

#[test]
fn wrong_caller_of_an_inbound_is_found() {
    let dataplane = json!({ "networking": {
        "address": "192.0.2.2",
        "inbound": [{ "port": 80, "tags": { "kuma.io/service": "db" } }],
    }});
    let principal = json!({ "authenticated": { "principalName": { "exact": "spiffe://default/web" } } });
    let rbac = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
        "rules": { "policies": { "MeshTrafficPermission": { "principals": [principal] } } },
    });
    let tcp_proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "cluster": "localhost:80",
    });
    let filters = json!([{ "typedConfig": rbac }, { "typedConfig": tcp_proxy }]);
    let expected = json!({ "resources": [
        resource(CLUSTER, "localhost:80", json!({})),
        resource(LISTENER, "inbound:192.0.2.2:80", json!({ "filterChains": [{ "filters": filters }] })),
    ]});
    let backends = json!([{ "name": "ca", "type": "builtin" }]);
    let case = json!({ "kind": "inbound", "settings": {
        "mesh": { "name": "default", "mtls": { "enabledBackend": "ca", "backends": backends } },
        "mtlsMode": "STRICT",
        "trafficPermissions": { "192.0.2.2:80:80": { "sources": [{ "kuma.io/service": "web" }] } },
    }});
    let caller = "/resources/1/resource/filterChains/0/filters/0/typedConfig/rules/policies/MeshTrafficPermission\
                  /principals/0/authenticated/principalName/exact";
    let finding = (caller, json!("spiffe://default/api"), "principals/0");
    assert_finds(&case, &dataplane, &expected, finding);
}

#[test]
fn wrong_port_of_passthrough_is_found() {
    let dataplane = json!({ "networking": {
        "address": "192.0.2.2",
        "transparentProxying": { "redirectPortOutbound": 25001, "redirectPortInbound": 25006 },
    }});
    let listener = |name, port| resource(LISTENER, name, json!({ "address": socket("0.0.0.0", port) }));
    let cluster = |name| resource(CLUSTER, name, json!({ "type": "ORIGINAL_DST" }));
    let expected = json!({ "resources": [
        cluster("inbound:passthrough:ipv4"),
        cluster("outbound:passthrough:ipv4"),
        listener("inbound:passthrough:ipv4", 25006),
        listener("outbound:passthrough:ipv4", 25001),
    ]});
    let port = "/resources/2/resource/address/socketAddress/portValue";
    let finding = (
        port,
        json!(15006),
        "Listener inbound:passthrough:ipv4/address/socketAddress/portValue",
    );
    assert_finds(
        &json!({ "kind": "transparent-proxy" }),
        &dataplane,
        &expected,
        finding,
    );
}

#[test]
fn wrong_address_of_the_probe_listener_is_found() {
    let probe = json!({ "inboundPort": 8080, "inboundPath": "/live", "path": "/8080/live" });
    let dataplane = json!({
        "networking": { "address": "192.0.2.2" },
        "probes": { "port": 9000, "endpoints": [probe] },
    });
    let expected = json!({ "resources": [
        resource(CLUSTER, "probe:http:8080", json!({})),
        resource(LISTENER, "probe:listener", json!({ "address": socket("192.0.2.2", 9000) })),
    ]});
    let address = "/resources/1/resource/address/socketAddress/address";
    let finding = (
        address,
        json!("127.0.0.1"),
        "Listener probe:listener/address/socketAddress/address",
    );
    assert_finds(
        &json!({ "kind": "probe-listener" }),
        &dataplane,
        &expected,
        finding,
    );
}

#[test]
fn wrong_port_of_the_admin_listener_is_found() {
    let dataplane = json!({ "networking": { "address": "192.0.2.2", "admin": { "port": 9902 } } });
    let expected = json!({ "resources": [
        resource(CLUSTER, "kuma:envoy:admin", json!({})),
        resource(LISTENER, "kuma:envoy:admin", json!({ "address": socket("192.0.2.2", 9902) })),
    ]});
    let port = "/resources/1/resource/address/socketAddress/portValue";
    let finding = (
        port,
        json!(9901),
        "Listener kuma:envoy:admin/address/socketAddress/portValue",
    );
    assert_finds(
        &json!({ "kind": "admin-listener" }),
        &dataplane,
        &expected,
        finding,
    );
}

#[test]
fn wrong_admin_port_of_the_bootstrap_is_found() {
    let case = json!({ "kind": "bootstrap", "settings": {
        "request": { "mesh": "default", "name": "web-1.shop", "version": { "kumaDp": { "version": "1" } } },
        "dataplane": { "networking": { "admin": { "port": 9902 } } },
    }});
    let expected =
        json!({ "node": { "id": "default.web-1.shop" }, "admin": { "address": socket("127.0.0.1", 9902) } });
    let finding = (
        "/admin/address/socketAddress/portValue",
        json!(9901),
        "Bootstrap/admin/address/socketAddress/portValue",
    );
    assert_finds(&case, &Value::Null, &expected, finding);
}

#[test]
fn resource_that_is_not_expected_is_found() {
    let dataplane = json!({ "networking": { "address": "192.0.2.2" } });
    let report = run(json!({ "kind": "admin-listener" }), &dataplane, &json!({}));
    let (_, lines) = &report.failed[0];
    assert!(
        lines[0].contains("Cluster kuma:envoy:admin: unexpected"),
        "{lines:?}"
    );
}

#[test]
fn filters_and_routes_of_other_policies_are_ignored() {
    let fault = json!({ "name": "envoy.filters.http.fault", "typedConfig": {} });
    let route_of_rate_limit = json!({ "match": { "headers": [{ "name": "x-kuma-tags" }], "prefix": "/" } });
    let mut document =
        json!({ "filters": [fault], "routes": [route_of_rate_limit], "regex": { "googleRe2": {} } });
    super::messages::remove_incidental(&mut document);
    assert_eq!(document, json!({ "filters": [], "routes": [], "regex": {} }));
}
