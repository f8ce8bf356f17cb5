//! How much a proxy measures about a cluster: metadata of the cluster, read by whoever records its traffic.
//!
//! Envoy's own messages keep metadata in hash maps, whose order changes from one encoding to the next; so this is encoded
//! apart, with ordered maps, and appended to the cluster: that is how protocol buffers merge.

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Value};
use weir_api::telemetry::{Buckets, Granularity};
use weir_mesh::{InboundPort, Mesh, Telemetry};
use weir_xds::types::version_of;

use super::endpoint::Metadata;
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
