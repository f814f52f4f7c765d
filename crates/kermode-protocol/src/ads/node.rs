//! Versions of the agent and of Envoy, read from the [`Node`] of a stream's first request. The agent writes its version
//! into Envoy's bootstrap, and Envoy sends this version in the node's metadata. Envoy's own version is the build
//! version of the node's user agent.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::Node;

/// Versions of a sidecar's agent and Envoy. A version that the node lacks, or that cannot be decoded, is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Version of `kuma-dp`.
    pub agent: String,
    /// Version of Envoy.
    pub envoy: String,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, limited to text and struct values. Members of a oneof are encoded as ordinary fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, optional, tag = "3")]
    string_value: Option<String>,
    #[prost(message, optional, boxed, tag = "5")]
    struct_value: Option<Box<Struct>>,
}

/// `envoy.config.core.v3.BuildVersion`, limited to its version.
#[derive(Clone, PartialEq, prost::Message)]
struct BuildVersion {
    #[prost(message, optional, tag = "1")]
    version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, PartialEq, prost::Message)]
struct SemanticVersion {
    #[prost(uint32, tag = "1")]
    major: u32,
    #[prost(uint32, tag = "2")]
    minor: u32,
    #[prost(uint32, tag = "3")]
    patch: u32,
}

impl Node {
    /// Returns the versions of the agent and of Envoy.
    pub fn versions(&self) -> Versions {
        let metadata = self.metadata.clone().map(Struct::decode);
        let metadata = metadata.and_then(Result::ok).unwrap_or_default();
        let agent = metadata.text_at(&["version", "kumaDp", "version"]);
        Versions {
            agent: agent.unwrap_or_default().to_owned(),
            envoy: self.envoy_version().unwrap_or_default(),
        }
    }

    fn envoy_version(&self) -> Option<String> {
        let build: &Bytes = self.user_agent_build_version.as_ref()?;
        let version = BuildVersion::decode(build.clone()).ok()?.version?;
        Some(format!("{}.{}.{}", version.major, version.minor, version.patch))
    }
}

impl Struct {
    /// Returns the text value at a path of nested structs.
    fn text_at(&self, path: &[&str]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        let value = self.fields.get(*first)?;
        if rest.is_empty() {
            value.string_value.as_deref()
        } else {
            value.struct_value.as_ref()?.text_at(rest)
        }
    }
}
