//! Resources as protobuf JSON, decoded with the descriptors of `envoy-types`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use kermode_envoy::Resource;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes = std::fs::read(descriptors_path()).expect("the descriptors of envoy-types");
    let mut pool = DescriptorPool::decode(&*bytes).expect("valid descriptors");
    pool.add_file_descriptor_proto(ip_matcher())
        .expect("a valid descriptor");
    pool
});

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

/// Returns a resource as protobuf JSON with sorted keys. Fields with default values are omitted, and `Any` messages are
/// decoded.
pub(crate) fn json(resource: &Resource) -> Value {
    let message_name = resource
        .kind
        .type_url()
        .trim_start_matches("type.googleapis.com/");
    let descriptor = DESCRIPTORS
        .get_message_by_name(message_name)
        .expect("a message of Envoy's API");
    let message = DynamicMessage::decode(descriptor, resource.body.clone()).expect("an encoded message");
    sorted(serde_json::to_value(message).expect("a message that JSON can hold"))
}

/// Returns the path of the descriptors. `envoy-types` contains the file but has no API for it, so `cargo metadata`
/// locates the crate.
fn descriptors_path() -> PathBuf {
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
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .expect("envoy-types");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("src/generated/types.bin")
}

/// Sorts the keys of objects, independent of the map type that crate features select in `serde_json`.
pub(crate) fn sorted(value: Value) -> Value {
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
