//! Messages of Envoy's API as protobuf JSON, for tests. The descriptors of the messages come from the crate
//! `envoy-types`, except that of `IPMatcher`, which `envoy-types` lacks.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, ensure};
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value;

/// Prefix of type URLs in xDS messages and in `google.protobuf.Any`.
pub const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// The descriptors, or the text of the error by which they cannot be read.
static DESCRIPTORS: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| read_descriptors().map_err(|error| format!("{error:#}")));

/// Decodes an encoded message to protobuf JSON with sorted keys. Fields with default values are omitted, and `Any`
/// messages are decoded.
///
/// # Errors
/// The type is unknown, or the bytes are not a message of the type.
pub fn decode(type_url: &str, body: &[u8]) -> Result<Value> {
    let message = DynamicMessage::decode(descriptor(type_url)?, body)
        .with_context(|| format!("cannot decode a message of type {type_url}"))?;
    to_json(&message)
}

/// Converts protobuf JSON to the form that [`decode`] returns: field names in lower camel case, and no fields with
/// default values.
///
/// # Errors
/// The type is unknown, or the JSON is not a message of the type.
pub fn normalize(type_url: &str, json: &Value) -> Result<Value> {
    let message = DynamicMessage::deserialize(descriptor(type_url)?, json)
        .with_context(|| format!("the JSON is not a message of type {type_url}"))?;
    to_json(&message)
}

/// Sorts the keys of objects, independent of the map type that crate features select in `serde_json`.
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn to_json(message: &DynamicMessage) -> Result<Value> {
    Ok(sorted(serde_json::to_value(message)?))
}

fn descriptor(type_url: &str) -> Result<MessageDescriptor> {
    let pool = DESCRIPTORS.as_ref().map_err(|error| anyhow!("{error}"))?;
    pool.get_message_by_name(type_url.trim_start_matches(TYPE_URL_PREFIX))
        .with_context(|| format!("{type_url} is not a message of Envoy's API"))
}

fn read_descriptors() -> Result<DescriptorPool> {
    let path = descriptors_path()?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut pool = DescriptorPool::decode(&*bytes)
        .with_context(|| format!("{} has invalid descriptors", path.display()))?;
    pool.add_file_descriptor_proto(ip_matcher())
        .context("the descriptor of IPMatcher is invalid")?;
    Ok(pool)
}

/// Returns the descriptor of `xds.type.matcher.v3.IPMatcher`, which `envoy-types` lacks.
fn ip_matcher() -> FileDescriptorProto {
    let field = |name: &str, number, label: Label, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(type_name.map_or(Type::Bool, |_| Type::Message).into()),
        type_name: type_name.map(|name| format!(".xds.{name}")),
        ..Default::default()
    };
    let message = |name: &str, field, nested_type| DescriptorProto {
        name: Some(name.into()),
        field,
        nested_type,
        ..Default::default()
    };
    let range_matcher = message(
        "IPRangeMatcher",
        vec![
            field("ranges", 1, Label::Repeated, Some("core.v3.CidrRange")),
            field(
                "on_match",
                2,
                Label::Optional,
                Some("type.matcher.v3.Matcher.OnMatch"),
            ),
            field("exclusive", 3, Label::Optional, None),
        ],
        Vec::new(),
    );
    let range_matchers = field(
        "range_matchers",
        1,
        Label::Repeated,
        Some("type.matcher.v3.IPMatcher.IPRangeMatcher"),
    );
    FileDescriptorProto {
        name: Some("xds/type/matcher/v3/ip.proto".into()),
        package: Some("xds.type.matcher.v3".into()),
        dependency: vec![
            "xds/core/v3/cidr.proto".into(),
            "xds/type/matcher/v3/matcher.proto".into(),
        ],
        message_type: vec![message("IPMatcher", vec![range_matchers], vec![range_matcher])],
        syntax: Some("proto3".into()),
        ..Default::default()
    }
}

/// Returns the path of the descriptors. `envoy-types` contains the file but has no API for it, so `cargo metadata`
/// locates the crate.
fn descriptors_path() -> Result<PathBuf> {
    // Without `--filter-platform`, cargo would need the packages of all platforms, which may be missing offline.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            &platform,
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata prints no JSON")?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .context("cargo metadata does not list envoy-types")?;
    Ok(PathBuf::from(manifest).with_file_name("src/generated/types.bin"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    #[test]
    fn normalized_message_has_camel_case_names_and_no_default_values() {
        let cluster = json!({
            "name": "a",
            "alt_stat_name": "",
            "connect_timeout": "10.000s",
            "type": "STATIC",
            "upstream_bind_config": { "source_address": { "address": "127.0.0.6", "port_value": 0 } },
        });
        assert_eq!(
            normalize(CLUSTER, &cluster).unwrap(),
            json!({
                "name": "a",
                "connectTimeout": "10s",
                "type": "STATIC",
                "upstreamBindConfig": { "sourceAddress": { "address": "127.0.0.6", "portValue": 0 } },
            })
        );
    }

    #[test]
    fn unknown_field_and_unknown_type_are_errors() {
        assert!(normalize(CLUSTER, &json!({ "noSuchField": 1 })).is_err());
        assert!(decode("type.googleapis.com/no.such.Type", &[]).is_err());
    }
}
