//! Resources as protobuf JSON.

use kermode_envoy::Resource;
use kermode_envoy_json::decode;
use serde_json::Value;

/// Returns a resource as protobuf JSON with sorted keys. Fields with default values are omitted, and `Any` messages are
/// decoded.
pub(crate) fn json(resource: &Resource) -> Value {
    decode(resource.kind.type_url(), &resource.body).expect("an encoded message")
}
