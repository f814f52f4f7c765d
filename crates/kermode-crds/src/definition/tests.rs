//! Tests of the CustomResourceDefinitions.

use std::collections::BTreeSet;

use super::*;

/// Returns the schema of a custom resource. `plural` is the plural name of the resource.
fn schema(plural: &str) -> Value {
    let definition_name = name(plural);
    let definition = all()
        .into_iter()
        .find(|definition| definition["metadata"]["name"] == definition_name.as_str());
    definition.expect("a definition")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Returns the names of the fields that a schema describes at a path.
fn described_fields(schema: &Value, path: &[&str]) -> BTreeSet<String> {
    let target = path
        .iter()
        .fold(schema, |schema, member| match &schema["properties"][*member] {
            list if list["type"] == "array" => &list["items"],
            other => other,
        });
    target["properties"]
        .as_object()
        .expect("properties")
        .keys()
        .cloned()
        .collect()
}

/// Asserts that the schema at `path` describes every field of a value, because the API server would drop other fields.
/// Checks only the first item of a list.
fn assert_described(schema: &Value, path: &mut Vec<&'static str>, value: &Value) {
    let described = described_fields(schema, path);
    for (name, member) in value.as_object().expect("an object") {
        assert!(described.contains(name), "{path:?}.{name} is not in the schema");
        let member = member.as_array().map_or(Some(member), |items| items.first());
        if let Some(member) = member.filter(|member| member.is_object()) {
            path.push(Box::leak(name.clone().into_boxed_str()));
            assert_described(schema, path, member);
            path.pop();
        }
    }
}

#[test]
fn every_field_of_a_dataplanes_status_is_in_the_schema() {
    let time =
        || k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let status = crate::DataplaneStatus {
        inbounds: Some(crate::InboundsStatus::default()),
        sidecar: Some(crate::SidecarStatus {
            version: "1".to_owned(),
            envoy_version: "1".to_owned(),
            control_plane: "cp".to_owned(),
            configuration: crate::ConfigurationStatus {
                sent: "2".to_owned(),
                acknowledged: "1".to_owned(),
                last_rejection: Some(crate::RejectionStatus {
                    time: time(),
                    kind: "Listener".to_owned(),
                    resources: vec!["a".to_owned()],
                    message: "no".to_owned(),
                }),
            },
        }),
        conditions: vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
            last_transition_time: time(),
            message: "m".to_owned(),
            observed_generation: Some(1),
            reason: "R".to_owned(),
            status: "True".to_owned(),
            type_: "Ready".to_owned(),
        }],
    };
    let value = serde_json::to_value(&status).expect("JSON");
    assert_described(&schema("dataplanes"), &mut vec!["status"], &value);
}

#[test]
fn unknown_fields_of_a_dataplane_are_kept() {
    let schema = schema("dataplanes");
    let spec = &schema["properties"]["spec"];
    let networking = &spec["properties"]["networking"];
    for open_object in [
        spec,
        networking,
        &networking["properties"]["inbound"]["items"],
        &networking["properties"]["gateway"],
        &networking["properties"]["transparentProxying"],
        &spec["properties"]["metrics"]["properties"]["conf"],
    ] {
        assert_eq!(
            open_object["x-kubernetes-preserve-unknown-fields"], true,
            "{open_object}"
        );
    }
}

#[test]
fn schema_of_every_field_has_a_type() {
    fn check(path: &str, schema: &Value) {
        assert!(
            schema["type"].is_string(),
            "{path} has no type, which the API server requires"
        );
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), member);
        }
        if schema["type"] == "array" {
            check(&format!("{path}[*]"), &schema["items"]);
        }
    }
    for definition in all() {
        let version = &definition["spec"]["versions"][0];
        check(
            definition["metadata"]["name"].as_str().expect("a name"),
            &version["schema"]["openAPIV3Schema"],
        );
    }
}

#[test]
fn dataplanes_have_a_short_name_and_the_category_kuma() {
    let definition = dataplane::dataplane();
    assert_eq!(definition["spec"]["names"]["shortNames"], json!(["dp"]));
    assert_eq!(definition["spec"]["names"]["categories"], json!(["kuma"]));
}

#[test]
fn definitions_contain_no_empty_map_of_properties() {
    fn check(value: &Value, path: &str) {
        match value {
            Value::Object(members) => {
                assert!(
                    !(path.ends_with("/properties") && members.is_empty()),
                    "{path} is empty"
                );
                members
                    .iter()
                    .for_each(|(name, member)| check(member, &format!("{path}/{name}")));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, path)),
            _ => {}
        }
    }
    for definition in all() {
        check(
            &definition,
            definition["metadata"]["name"].as_str().expect("a name"),
        );
    }
}
