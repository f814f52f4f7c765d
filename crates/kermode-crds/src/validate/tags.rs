//! Validation of the tags of inbounds and gateways.

use kermode_model::{Protocol, tag};
use serde_json::Value;

use super::Problem;
use crate::annotation::RESERVED_KEY_PART;

/// Owner of the tags. A gateway may have `kuma.io/service-name` in place of `kuma.io/service`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TagOwner {
    Inbound,
    Gateway,
}

/// Checks that the tag that names the service is present, and that all tags have valid names and values. Only tags with
/// a reserved key ([`RESERVED_KEY_PART`]) need a non-empty value. The values of the other tags are copied from labels,
/// which may be empty (docs/design.md#labels-without-a-value).
pub(super) fn check(field: &str, tags: &Value, owner: TagOwner, problems: &mut Vec<Problem>) {
    let Some(tags) = tags.as_object() else {
        problems.push(missing_service_tag(field));
        return;
    };
    let has_gateway_service = owner == TagOwner::Gateway && tags.contains_key(tag::GATEWAY_SERVICE);
    if !tags.contains_key(tag::SERVICE) && !has_gateway_service {
        problems.push(missing_service_tag(field));
    }
    for (key, value) in tags {
        let tag_field = format!("{field}[{key:?}]");
        if key.is_empty() || !key.bytes().all(|byte| is_tag_value_byte(byte) || byte == b'/') {
            let message = "tag name must consist of alphanumeric characters, dots, dashes, colons, slashes and underscores";
            problems.push(Problem::new(&tag_field, message));
        }
        match value.as_str() {
            None => problems.push(Problem::new(&tag_field, "tag value must be a string")),
            Some("") if key.contains(RESERVED_KEY_PART) => {
                problems.push(Problem::new(&tag_field, "tag value must be non-empty"));
            }
            Some(value) if !value.bytes().all(is_tag_value_byte) => {
                let message =
                    "tag value must consist of alphanumeric characters, dots, dashes, colons and underscores";
                problems.push(Problem::new(&tag_field, message));
            }
            Some(value) if key == tag::PROTOCOL && Protocol::from_tag(value).is_none() => {
                let message = format!(
                    "tag \"{key}\" has an invalid value \"{value}\". Allowed values: grpc, http, http2, kafka, tcp"
                );
                problems.push(Problem::new(&tag_field, message));
            }
            Some(_) => {}
        }
    }
}

fn missing_service_tag(field: &str) -> Problem {
    Problem::new(field, format!("mandatory tag \"{}\" is missing", tag::SERVICE))
}

fn is_tag_value_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':')
}
