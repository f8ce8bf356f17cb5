//! What Envoy's messages have no field for, as metadata of a cluster: how much is measured about it, and by which rule its
//! endpoints are chosen.
//!
//! Envoy's own messages keep metadata in hash maps, whose order changes from one encoding to the next; so this is encoded
//! apart, with ordered maps, and appended to the cluster: that is how protocol buffers merge.

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Value};
use weir_api::telemetry::{Buckets, Granularity};
use weir_mesh::policy::LbPolicy;
use weir_mesh::{InboundPort, Mesh, Telemetry};
use weir_xds::types::version_of;

use super::endpoint::{METADATA, Metadata};
use super::{INBOUND, INBOUND_HTTP2};

/// Key of the cluster's metadata under which a proxy finds how much to measure.
pub const TELEMETRY: &str = "weir.telemetry";

/// The part of `envoy.config.cluster.v3.Cluster` that this is about.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ClusterMetadata {
    #[prost(message, optional, tag = "25")]
    metadata: Option<Metadata>,
}

/// What is said to a cluster; nothing where it is what a proxy does anyway.
pub(super) fn metadata(telemetry: &Telemetry) -> ClusterMetadata {
    let mut fields = BTreeMap::new();
    let value = |kind| Value { kind: Some(kind) };
    let granularity = telemetry.granularity.unwrap_or_default();
    if granularity != Granularity::default() {
        let text = Kind::StringValue(granularity.as_str().to_owned());
        fields.insert("granularity".to_owned(), value(text));
    }
    if let Some(buckets) = telemetry.buckets.as_ref().filter(|b| **b != Buckets::default()) {
        // Milliseconds of a day at most: exact in a double.
        #[allow(clippy::cast_precision_loss)]
        let number = |bound: &u64| value(Kind::NumberValue(*bound as f64));
        let values = buckets.bounds_ms().iter().map(number).collect();
        fields.insert("buckets_ms".to_owned(), value(Kind::ListValue(ListValue { values })));
    }
    ClusterMetadata {
        metadata: (!fields.is_empty()).then(|| Metadata::of(TELEMETRY, fields)),
    }
}

/// The same with the rule by which endpoints are chosen, where Envoy knows none such.
pub(super) fn metadata_with_rule(telemetry: &Telemetry, rule: LbPolicy) -> ClusterMetadata {
    let ClusterMetadata { metadata } = metadata(telemetry);
    if rule != LbPolicy::PeakEwma {
        return ClusterMetadata { metadata };
    }
    let text = Value {
        kind: Some(Kind::StringValue(rule.as_str().to_owned())),
    };
    let fields = BTreeMap::from([("lb_policy".to_owned(), text)]);
    ClusterMetadata {
        metadata: Some(metadata.unwrap_or_default().and(METADATA, fields)),
    }
}

/// The cluster that takes an inbound port's traffic. Ports whose Services say nothing of their own about what is measured
/// share two; each other choice has its own, shared by all ports and nodes with the same choice.
pub(super) fn inbound_cluster(mesh: &Telemetry, port: &InboundPort) -> String {
    let name = if port.protocol.is_http2() {
        INBOUND_HTTP2
    } else {
        INBOUND
    };
    let (own, usual) = (filled(&port.telemetry.or(mesh)), filled(mesh));
    if own == usual {
        return name.to_owned();
    }
    let (granularity, buckets) = own;
    let buckets = match &buckets {
        Buckets::List(_) => version_of(buckets.to_string().as_bytes()),
        word => word.to_string(),
    };
    format!("{name}_{}_{buckets}", granularity.as_str())
}

fn filled(telemetry: &Telemetry) -> (Granularity, Buckets) {
    let Telemetry { granularity, buckets } = telemetry.clone();
    (granularity.unwrap_or_default(), buckets.unwrap_or_default())
}

/// Every inbound cluster that some pod's port needs beside the usual two, by name.
pub(super) fn inbound_clusters(mesh: &Mesh) -> BTreeMap<String, (bool, Telemetry)> {
    let ports = mesh.pods.values().flat_map(|pod| pod.inbound.values());
    ports
        .filter(|port| port.telemetry != Telemetry::default())
        .map(|port| {
            let telemetry = port.telemetry.or(&mesh.telemetry);
            (
                inbound_cluster(&mesh.telemetry, port),
                (port.protocol.is_http2(), telemetry),
            )
        })
        .collect()
}
