//! The messages of `kermode_protocol::ads`, compared with the types generated from Envoy's protobuf definitions.

#![allow(clippy::unwrap_used, reason = "test helpers fail like assertions")]

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3 as generated;
use envoy_types::pb::google::{protobuf, rpc};

use kermode_protocol::ads::*;
use prost::Message as _;

/// Returns the node metadata of Envoy's bootstrap: the version of the agent, in `version.kumaDp.version`.
fn metadata() -> protobuf::Struct {
    let text = |text: &str| protobuf::Value {
        kind: Some(protobuf::value::Kind::StringValue(text.into())),
    };
    let one_field = |name: &str, value| protobuf::Struct {
        fields: HashMap::from([(name.to_owned(), value)]),
    };
    let nested = |fields| protobuf::Value {
        kind: Some(protobuf::value::Kind::StructValue(fields)),
    };
    let agent = one_field("version", text("0.1.0"));
    one_field("version", nested(one_field("kumaDp", nested(agent))))
}

fn build_version() -> core::BuildVersion {
    core::BuildVersion {
        version: Some(envoy_types::pb::envoy::r#type::v3::SemanticVersion {
            major_number: 1,
            minor_number: 40,
            patch: 0,
        }),
        metadata: None,
    }
}

#[test]
fn versions_are_read_from_the_node_and_are_empty_if_the_node_is_malformed() {
    let node = request().node.unwrap();
    let versions = Versions {
        agent: "0.1.0".into(),
        envoy: "1.40.0".into(),
    };
    assert_eq!(node.versions(), versions);
    let malformed = Node {
        metadata: Some(Bytes::from_static(b"\xff")),
        user_agent_build_version: Some(Bytes::from_static(b"\xff")),
        ..Node::default()
    };
    assert_eq!(malformed.versions(), Versions::default());
}

/// Returns a request of Envoy as the generated type. The request has the field `user_agent_name`, which Kermode does
/// not decode.
fn generated_request() -> generated::DeltaDiscoveryRequest {
    generated::DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: "default.web-0.shop".into(),
            cluster: "web".into(),
            user_agent_name: "envoy".into(),
            metadata: Some(metadata()),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentBuildVersion(
                build_version(),
            )),
            ..Default::default()
        }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        resource_names_subscribe: vec!["*".into(), "a".into()],
        resource_names_unsubscribe: vec!["b".into()],
        initial_resource_versions: HashMap::from([("c".into(), "1".into())]),
        response_nonce: "7".into(),
        error_detail: Some(rpc::Status {
            code: 13,
            message: "no".into(),
            details: Vec::new(),
        }),
        ..Default::default()
    }
}

/// Returns the request of [`generated_request`] as Kermode's type.
fn request() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "default.web-0.shop".into(),
            cluster: "web".into(),
            metadata: Some(metadata().encode_to_vec().into()),
            user_agent_build_version: Some(build_version().encode_to_vec().into()),
        }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        resource_names_subscribe: vec!["*".into(), "a".into()],
        resource_names_unsubscribe: vec!["b".into()],
        initial_resource_versions: HashMap::from([("c".into(), "1".into())]),
        response_nonce: "7".into(),
        error_detail: Some(Status {
            code: 13,
            message: "no".into(),
        }),
    }
}

#[test]
fn request_fields_that_kermode_does_not_use_are_ignored() {
    let decoded = DeltaDiscoveryRequest::decode(&*generated_request().encode_to_vec()).unwrap();
    assert_eq!(decoded, request());
}

#[test]
fn request_is_encoded_like_the_generated_message() {
    let mut generated_message = generated_request();
    generated_message.node.as_mut().unwrap().user_agent_name.clear();
    assert_eq!(request().encode_to_vec(), generated_message.encode_to_vec());
}

#[test]
fn response_is_encoded_like_the_generated_message() {
    let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let body = Bytes::from_static(b"\x0a\x03web");
    let message = DeltaDiscoveryResponse {
        system_version_info: "v".into(),
        resources: vec![
            encode_resource(type_url, "web", "1", body.clone()),
            encode_resource(type_url, "api", "2", body.clone()),
        ],
        type_url: type_url.into(),
        nonce: "5".into(),
        removed_resources: vec!["old".into()],
    };
    let resource = |name: &str, version: &str| generated::Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(protobuf::Any {
            type_url: type_url.into(),
            value: body.to_vec(),
        }),
        ..Default::default()
    };
    let generated_message = generated::DeltaDiscoveryResponse {
        system_version_info: "v".into(),
        resources: vec![resource("web", "1"), resource("api", "2")],
        type_url: type_url.into(),
        nonce: "5".into(),
        removed_resources: vec!["old".into()],
        ..Default::default()
    };
    assert_eq!(message.encode_to_vec(), generated_message.encode_to_vec());
    let decoded = DeltaDiscoveryResponse::decode(&*generated_message.encode_to_vec()).unwrap();
    assert_eq!(decoded, message);
    assert_eq!(
        Resource::decode(decoded.resources[0].clone()).unwrap().name,
        "web"
    );
}
