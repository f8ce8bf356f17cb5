//! The node as the control plane is told of it.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{self, value::Kind};
use serde_json::Value;

use super::bootstrap::Node;

/// The node of the bootstrap as a message.
pub fn node_message(node: &Node) -> core::Node {
    let fields: HashMap<String, protobuf::Value> = node
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), message(value)))
        .collect();
    core::Node {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        metadata: (!fields.is_empty()).then_some(protobuf::Struct { fields }),
        user_agent_name: "weir".to_owned(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Default::default()
    }
}

pub(super) fn message(value: &Value) -> protobuf::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(items) => Kind::ListValue(protobuf::ListValue {
            values: items.iter().map(message).collect(),
        }),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (k.clone(), message(v))).collect();
            Kind::StructValue(protobuf::Struct { fields })
        }
    };
    protobuf::Value { kind: Some(kind) }
}
