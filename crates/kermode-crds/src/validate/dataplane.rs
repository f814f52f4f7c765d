//! Validation of Dataplanes.

use std::net::IpAddr;

use kermode_model::{DEFAULT_MESH, Inbound};
use serde_json::Value;

use super::Problem;
use super::tags::{self, TagOwner};

/// Message about a port out of range.
const PORT_RANGE: &str = "port must be in the range [1, 65535]";

/// Returns the problems of a Dataplane. `mesh_exists` returns whether a Mesh with the given name exists.
pub fn dataplane(object: &Value, mesh_exists: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mesh = object["mesh"].as_str().filter(|mesh| !mesh.is_empty());
    let mesh = mesh.unwrap_or(DEFAULT_MESH);
    if !mesh_exists(mesh) {
        problems.push(Problem::new(
            "mesh",
            format!("there is no Mesh {mesh:?}: create it or name another"),
        ));
    }
    let networking = &object["spec"]["networking"];
    check_address(
        "spec.networking.address",
        networking["address"].as_str().unwrap_or_default(),
        &mut problems,
    );
    if let Some(address) = networking["advertisedAddress"]
        .as_str()
        .filter(|address| !address.is_empty())
    {
        check_address("spec.networking.advertisedAddress", address, &mut problems);
    }
    let inbounds = networking["inbound"].as_array().map_or(&[][..], Vec::as_slice);
    let gateway = &networking["gateway"];
    let (has_inbounds, is_gateway) = (!inbounds.is_empty(), gateway.is_object());
    match (has_inbounds, is_gateway) {
        (false, false) => problems.push(Problem::new(
            "spec.networking",
            "has to contain at least one inbound interface or gateway",
        )),
        (true, true) => problems.push(Problem::new(
            "spec.networking",
            "inbound cannot be defined for a gateway: remove the inbounds or the gateway",
        )),
        (false, true) => tags::check(
            "spec.networking.gateway.tags",
            &gateway["tags"],
            TagOwner::Gateway,
            &mut problems,
        ),
        // The inbounds are checked below.
        (true, false) => {}
    }
    if inbounds.len() > Inbound::MAX_PER_DATAPLANE {
        let message = format!(
            "must have at most {} items, not {}",
            Inbound::MAX_PER_DATAPLANE,
            inbounds.len()
        );
        problems.push(Problem::new("spec.networking.inbound", message));
        // Problems of thousands of inbounds would hide this problem.
        return problems;
    }
    for (index, inbound) in inbounds.iter().enumerate() {
        check_inbound(
            &format!("spec.networking.inbound[{index}]"),
            inbound,
            &mut problems,
        );
    }
    check_admin(networking, inbounds, &mut problems);
    problems
}

fn check_address(field: &str, address: &str, problems: &mut Vec<Problem>) {
    let message = match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => "must not be 0.0.0.0 or ::",
        Ok(_) => return,
        Err(_) if address.is_empty() => "address can't be empty",
        Err(_) if is_dns_name(address) => return,
        Err(_) => "address has to be valid IP address or domain name",
    };
    problems.push(Problem::new(field, message));
}

fn check_inbound(field: &str, inbound: &Value, problems: &mut Vec<Problem>) {
    if !is_port(&inbound["port"]) {
        problems.push(Problem::new(format!("{field}.port"), PORT_RANGE));
    }
    // 0 means the same as an absent port.
    let service_port = &inbound["servicePort"];
    if !service_port.is_null() && *service_port != 0 && !is_port(service_port) {
        problems.push(Problem::new(format!("{field}.servicePort"), PORT_RANGE));
    }
    for member in ["address", "serviceAddress"] {
        let address = inbound[member].as_str().unwrap_or_default();
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            let message = format!("{member} has to be valid IP address");
            problems.push(Problem::new(format!("{field}.{member}"), message));
        }
    }
    check_health(&format!("{field}.health"), &inbound["health"], problems);
    tags::check(
        &format!("{field}.tags"),
        &inbound["tags"],
        TagOwner::Inbound,
        problems,
    );
}

/// Checks the health of an inbound. An object without `ready` is valid and means not ready, as in Kuma.
fn check_health(field: &str, health: &Value, problems: &mut Vec<Problem>) {
    let Some(members) = health.as_object() else {
        if !health.is_null() {
            problems.push(Problem::new(field, "must be an object such as {ready: true}"));
        }
        return;
    };
    let ready = members.get("ready");
    if ready.is_some_and(|ready| !ready.is_boolean()) {
        problems.push(Problem::new(format!("{field}.ready"), "must be true or false"));
    }
}

/// Checks the port of Envoy's admin interface. The interface listens on loopback, so its port must differ from the
/// ports of inbounds on loopback. 0 means the same as an absent port.
fn check_admin(networking: &Value, inbounds: &[Value], problems: &mut Vec<Problem>) {
    let admin_port = &networking["admin"]["port"];
    if admin_port.is_null() || *admin_port == 0 {
        return;
    }
    if !is_port(admin_port) {
        problems.push(Problem::new("spec.networking.admin.port", PORT_RANGE));
    }
    let is_on_loopback = |inbound: &&Value| {
        let own_address = inbound["address"].as_str().filter(|address| !address.is_empty());
        let address = own_address.or(networking["address"].as_str()).unwrap_or_default();
        address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    if inbounds
        .iter()
        .filter(is_on_loopback)
        .any(|inbound| inbound["port"] == *admin_port)
    {
        let message = "must differ from the ports of inbounds on loopback";
        problems.push(Problem::new("spec.networking.admin.port", message));
    }
}

fn is_port(port: &Value) -> bool {
    port.as_u64()
        .is_some_and(|port| (1..=u64::from(u16::MAX)).contains(&port))
}

/// Returns whether a text is a DNS name (RFC 1123). A name whose last label has only digits is rejected, because the
/// name is probably a mistyped IP address.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let is_label_byte = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(is_label_byte)
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    let last_label = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last_label.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_dataplane() -> Value {
        json!({
            "mesh": "default",
            "spec": {"networking": {
                "address": "10.0.0.1",
                "inbound": [{"port": 80, "tags": {"kuma.io/service": "web_ns_svc_80", "version": "1"}}],
            }},
        })
    }

    fn problems(object: &Value) -> Vec<String> {
        let problems = dataplane(object, |mesh| mesh == DEFAULT_MESH);
        problems.iter().map(ToString::to_string).collect()
    }

    /// Replaces the value at a JSON pointer in a valid Dataplane. Returns the only problem of the result.
    fn problem_with(pointer: &str, value: Value) -> String {
        let mut object = mk_dataplane();
        let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).expect("a parent");
        parent[member] = value;
        let problems = problems(&object);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().expect("a problem")
    }

    #[test]
    fn valid_dataplane_has_no_problem() {
        assert_eq!(problems(&mk_dataplane()), [""; 0]);
        let mut with_dns_name = mk_dataplane();
        with_dns_name["spec"]["networking"]["address"] = "web-0.web.ns.svc".into();
        assert_eq!(problems(&with_dns_name), [""; 0]);
    }

    #[test]
    fn address_must_be_an_ip_address_or_a_dns_name() {
        let pointer = "/spec/networking/address";
        for (address, message) in [
            ("", "address can't be empty"),
            ("0.0.0.0", "must not be 0.0.0.0 or ::"),
            ("::", "must not be 0.0.0.0 or ::"),
            ("..", "address has to be valid IP address or domain name"),
            ("10.0.0.256", "address has to be valid IP address or domain name"),
            ("a b", "address has to be valid IP address or domain name"),
        ] {
            assert_eq!(
                problem_with(pointer, address.into()),
                format!("spec.networking.address: {message}")
            );
        }
    }

    #[test]
    fn dataplane_needs_either_inbounds_or_a_gateway() {
        assert_eq!(
            problem_with("/spec/networking/inbound", json!([])),
            "spec.networking: has to contain at least one inbound interface or gateway"
        );
        let gateway = json!({"tags": {"kuma.io/service": "edge_ns_svc_80"}});
        assert_eq!(
            problem_with("/spec/networking/gateway", gateway.clone()),
            "spec.networking: inbound cannot be defined for a gateway: remove the inbounds or the gateway"
        );
        let gateway_only =
            json!({"mesh": "default", "spec": {"networking": {"address": "10.0.0.1", "gateway": gateway}}});
        assert_eq!(problems(&gateway_only), [""; 0]);
        let with_service_name_tag = json!({"spec": {"networking": {
            "address": "10.0.0.1", "gateway": {"tags": {"kuma.io/service-name": "edge_ns_svc"}}}}});
        assert_eq!(
            problems(&with_service_name_tag),
            [""; 0],
            "the gateway has the tag kuma.io/service-name in place of kuma.io/service"
        );
    }

    #[test]
    fn names_and_values_of_tags_are_restricted() {
        let problem_with_tags =
            |tags: Value| problem_with("/spec/networking/inbound", json!([{"port": 1, "tags": tags}]));
        let service = "web_ns_svc_80";
        let field = "spec.networking.inbound[0].tags";
        assert_eq!(
            problem_with_tags(json!({"a": "b"})),
            format!("{field}: mandatory tag \"kuma.io/service\" is missing")
        );
        assert_eq!(
            problem_with_tags(json!({"kuma.io/service": service, "kuma.io/zone": ""})),
            format!("{field}[\"kuma.io/zone\"]: tag value must be non-empty")
        );
        assert_eq!(
            problem_with_tags(json!({"kuma.io/service": service, "v": null})),
            format!("{field}[\"v\"]: tag value must be a string")
        );
        assert!(
            problem_with_tags(json!({"kuma.io/service": service, "v": "a/b"}))
                .contains("tag value must consist of")
        );
        assert!(
            problem_with_tags(json!({"kuma.io/service": service, "v w": "a"}))
                .contains("tag name must consist of")
        );
        assert_eq!(
            problem_with_tags(json!({"kuma.io/service": service, "kuma.io/protocol": "mongo"})),
            format!(
                "{field}[\"kuma.io/protocol\"]: tag \"kuma.io/protocol\" has an invalid value \"mongo\". \
                 Allowed values: grpc, http, http2, kafka, tcp"
            )
        );
    }

    #[test]
    fn port_out_of_range_is_a_problem() {
        assert_eq!(
            problem_with("/spec/networking/inbound/0/port", json!(70000)),
            format!("spec.networking.inbound[0].port: {PORT_RANGE}")
        );
    }

    #[test]
    fn health_may_be_empty_and_ready_must_be_a_boolean() {
        let mut object = mk_dataplane();
        for health in [
            json!({}),
            json!({"ready": false}),
            json!({"ready": true}),
            json!(null),
        ] {
            object["spec"]["networking"]["inbound"][0]["health"] = health;
            assert_eq!(problems(&object), [""; 0]);
        }
        let pointer = "/spec/networking/inbound/0/health";
        assert_eq!(
            problem_with(pointer, json!({"ready": "yes"})),
            "spec.networking.inbound[0].health.ready: must be true or false"
        );
        assert_eq!(
            problem_with(pointer, json!(true)),
            "spec.networking.inbound[0].health: must be an object such as {ready: true}"
        );
    }

    #[test]
    fn number_of_inbounds_is_limited() {
        let inbound = mk_dataplane()["spec"]["networking"]["inbound"][0].clone();
        let pointer = "/spec/networking/inbound";
        let mut object = mk_dataplane();
        object["spec"]["networking"]["inbound"] = vec![inbound.clone(); 256].into();
        assert_eq!(problems(&object), [""; 0]);
        assert_eq!(
            problem_with(pointer, vec![inbound; 257].into()),
            "spec.networking.inbound: must have at most 256 items, not 257"
        );
    }

    #[test]
    fn admin_port_must_differ_from_the_ports_of_inbounds_on_loopback() {
        let mut object = mk_dataplane();
        object["spec"]["networking"]["admin"] = json!({"port": 80});
        assert_eq!(problems(&object), [""; 0], "the inbound is not on loopback");
        object["spec"]["networking"]["inbound"][0]["address"] = "127.0.0.1".into();
        assert_eq!(
            problems(&object),
            ["spec.networking.admin.port: must differ from the ports of inbounds on loopback"]
        );
    }

    #[test]
    fn problem_names_the_missing_mesh() {
        assert_eq!(
            problem_with("/mesh", "nowhere".into()),
            "mesh: there is no Mesh \"nowhere\": create it or name another"
        );
    }

    #[test]
    fn all_problems_of_a_malformed_dataplane_are_reported() {
        let object =
            json!({"mesh": "x", "spec": {"networking": {"inbound": [{}, {"port": "80", "tags": []}]}}});
        // The mesh, the address, and the port and the tags of both inbounds.
        assert_eq!(problems(&object).len(), 6);
        for malformed in [
            json!(null),
            json!([]),
            json!({"spec": 1}),
            json!({"spec": {"networking": []}}),
        ] {
            assert!(!problems(&malformed).is_empty(), "{malformed}");
        }
    }
}
