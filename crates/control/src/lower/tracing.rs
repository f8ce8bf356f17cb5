//! Traces: who takes spans, and how a listener is told to make them.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::DiscoveryType;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HttpService, HttpUri, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::config::trace::v3::tracing::http::ConfigType;
use envoy_types::pb::envoy::config::trace::v3::zipkin_config::CollectorEndpointVersion;
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, ZipkinConfig};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::v3::Percent as PbPercent;
use weir_api::percent::Percent;
use weir_mesh::Mesh;
use weir_mesh::settings::{Collector, SpanFormat};

use super::endpoint::{Assignment, assignment_of};
use super::{Upstream, any, cluster, no, seconds, yes};

/// Cluster of whoever takes spans.
pub const TRACING: &str = "tracing";
/// Where Zipkin and OTLP take spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";
const OTLP_PATH: &str = "/v1/traces";
/// Spans that are not taken within this time are lost.
const EXPORT_TIMEOUT_S: i64 = 5;
const CONNECT_TIMEOUT_S: i64 = 5;

/// The cluster of a collector, with its endpoints where the cluster does not name them itself.
pub(super) fn cluster(collector: &Collector<'_>) -> (Cluster, Option<Assignment>) {
    let address = collector.host.parse::<IpAddr>();
    let (discovery, assignment) = match (collector.endpoints, address) {
        (Some(endpoints), _) => (DiscoveryType::Eds, Some(assignment_of(TRACING, endpoints))),
        (None, Ok(_)) => (DiscoveryType::Static, None),
        (None, Err(_)) => (DiscoveryType::StrictDns, None),
    };
    let mut cluster = match discovery {
        DiscoveryType::Eds => cluster::of_endpoints(TRACING),
        other => Cluster {
            load_assignment: Some(named(collector)),
            ..cluster::base(TRACING, other)
        },
    };
    cluster.connect_timeout = seconds(CONNECT_TIMEOUT_S);
    (cluster::speaking(cluster, Upstream::Http1), assignment)
}

fn named(collector: &Collector<'_>) -> ClusterLoadAssignment {
    let address = Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: collector.host.clone(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(collector.port))),
            ..Default::default()
        })),
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: TRACING.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// How listeners are told to make spans; made once for a mesh.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tracer {
    provider: Http,
}

impl Tracer {
    /// The mesh's tracer; `None`: nobody takes spans.
    pub(super) fn of(mesh: &Mesh) -> Option<Self> {
        mesh.collector().map(|collector| Self {
            provider: provider(&collector),
        })
    }

    /// A listener that makes spans. Requests that come with a decision keep it; of the others this share is traced. With
    /// `both_sides` a request has a span of the server and one of the client, as at a gateway, which is both.
    pub(super) fn listener(&self, sampling: Percent, both_sides: bool) -> Tracing {
        let percent = |value| Some(PbPercent { value });
        Tracing {
            random_sampling: percent(sampling.percent()),
            overall_sampling: percent(100.0),
            provider: Some(self.provider.clone()),
            spawn_upstream_span: if both_sides { yes() } else { None },
            ..Default::default()
        }
    }
}

fn provider(collector: &Collector<'_>) -> Http {
    let authority = format!("{}:{}", collector.host, collector.port);
    let (name, config) = match collector.format {
        SpanFormat::Otlp => {
            let uri = HttpUri {
                uri: format!("http://{authority}{OTLP_PATH}"),
                timeout: seconds(EXPORT_TIMEOUT_S),
                http_upstream_type: Some(HttpUpstreamType::Cluster(TRACING.to_owned())),
            };
            let config = OpenTelemetryConfig {
                http_service: Some(HttpService {
                    http_uri: Some(uri),
                    ..Default::default()
                }),
                ..Default::default()
            };
            ("envoy.tracers.opentelemetry", any(&config))
        }
        SpanFormat::Zipkin | SpanFormat::None => {
            let config = ZipkinConfig {
                collector_cluster: TRACING.to_owned(),
                collector_endpoint: ZIPKIN_PATH.to_owned(),
                collector_endpoint_version: CollectorEndpointVersion::HttpJson as i32,
                collector_hostname: authority,
                shared_span_context: no(),
                trace_id_128bit: true,
                ..Default::default()
            };
            ("envoy.tracers.zipkin", any(&config))
        }
    };
    Http {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    }
}
