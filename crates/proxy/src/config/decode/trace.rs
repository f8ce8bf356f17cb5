//! `HttpConnectionManager.Tracing` with `envoy.config.trace.v3.{ZipkinConfig, OpenTelemetryConfig}`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpUri, http_uri::HttpUpstreamType};
use envoy_types::pb::envoy::config::trace::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use envoy_types::pb::envoy::r#type::v3::Percent as PbPercent;

use super::{Decoded, Within, flag, message_name, nothing_left, optional_duration, reject, unpack};
use crate::config::fault::Percent;
use crate::config::route::Sampling;
use crate::config::trace::{Backend, Format, Tracing};

/// Envoy's default for targets in spans.
const PATH_BYTES: u32 = 256;
/// How long a collector may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Decodes the tracing of a chain.
pub(super) fn tracing(mut rest: hcm::Tracing) -> Decoded<Arc<Tracing>> {
    let mut provider = match rest.provider.take() {
        Some(provider) => provider,
        None => return reject("provider", "is missing; known are ZipkinConfig and OpenTelemetryConfig"),
    };
    let Some(pb::tracing::http::ConfigType::TypedConfig(any)) = provider.config_type.take() else {
        return reject("provider.typed_config", "is missing");
    };
    let (backend, split) = match message_name(&any.type_url) {
        "envoy.config.trace.v3.ZipkinConfig" => unpack(&any).and_then(zipkin),
        "envoy.config.trace.v3.OpenTelemetryConfig" => unpack(&any).and_then(otlp).map(|backend| (backend, false)),
        other => reject(
            "",
            format!("{other} is unknown; known are ZipkinConfig and OpenTelemetryConfig"),
        ),
    }
    .within("provider.typed_config")?;
    let sampling = Sampling {
        random: percent(rest.random_sampling.take()).within("random_sampling")?,
        overall: percent(rest.overall_sampling.take()).within("overall_sampling")?,
        client: percent(rest.client_sampling.take()).within("client_sampling")?,
    };
    let split = split | flag(&rest.spawn_upstream_span.take(), false);
    let path_bytes = rest.max_path_tag_length.take().map_or(PATH_BYTES, |n| n.value);
    // Events within a span, of which there are none here.
    rest.verbose = false;
    nothing_left(&rest)?;
    Ok(Arc::new(Tracing {
        backend: Arc::new(backend),
        sampling,
        split,
        path_bytes_max: usize::try_from(path_bytes).unwrap_or(usize::MAX),
    }))
}

fn percent(value: Option<PbPercent>) -> Decoded<Percent> {
    let Some(PbPercent { value }) = value else {
        return Ok(Percent::ALL);
    };
    if !(0.0..=100.0).contains(&value) {
        return reject("value", format!("{value} must be from 0 to 100"));
    }
    // At most a million.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(Percent((value * 10_000.0).round() as u32))
}

fn zipkin(mut rest: pb::ZipkinConfig) -> Decoded<(Backend, bool)> {
    let cluster = take(&mut rest.collector_cluster);
    if cluster.is_empty() {
        return reject("collector_cluster", "is missing");
    }
    let path = take(&mut rest.collector_endpoint);
    if !path.starts_with('/') {
        return reject(
            "collector_endpoint",
            format!("{path:?} must be a path such as /api/v2/spans"),
        );
    }
    let json = pb::zipkin_config::CollectorEndpointVersion::HttpJson as i32;
    if take(&mut rest.collector_endpoint_version) != json {
        return reject("collector_endpoint_version", "must be HTTP_JSON");
    }
    if flag(&rest.shared_span_context.take(), false) {
        return reject(
            "shared_span_context",
            "must be false: both sides of a request have spans of their own",
        );
    }
    let host = match take(&mut rest.collector_hostname) {
        host if host.is_empty() => cluster.clone(),
        host => host,
    };
    #[allow(deprecated)]
    let split = take(&mut rest.split_spans_for_request);
    // New identifiers have 128 bits, and both B3 and W3C are read and written, always.
    rest.trace_id_128bit = false;
    rest.trace_context_option = 0;
    nothing_left(&rest)?;
    let backend = Backend {
        format: Format::Zipkin,
        cluster: cluster.into(),
        host: host.into(),
        path: path.into(),
        service: None,
        timeout: TIMEOUT,
    };
    Ok((backend, split))
}

fn otlp(mut rest: pb::OpenTelemetryConfig) -> Decoded<Backend> {
    let Some(mut http) = rest.http_service.take() else {
        return reject("http_service", "is missing; spans are sent by HTTP only");
    };
    let uri = match http.http_uri.take() {
        Some(uri) => uri,
        None => return reject("http_service.http_uri", "is missing"),
    };
    nothing_left(&http).within("http_service")?;
    let service = take(&mut rest.service_name);
    // They say how Envoy words its resource; here the service's name is all there is.
    rest.max_cache_size = None;
    rest.set_telemetry_sdk_resource_attributes = None;
    rest.set_service_name_resource_attribute = None;
    rest.set_instrumentation_scope = None;
    nothing_left(&rest)?;
    let mut backend = address(uri).within("http_service.http_uri")?;
    backend.service = (!service.is_empty()).then(|| service.into());
    Ok(backend)
}

fn address(mut rest: HttpUri) -> Decoded<Backend> {
    let text = take(&mut rest.uri);
    let Ok(uri) = text.parse::<http::Uri>() else {
        return reject(
            "uri",
            format!("{text:?} is no URI; right would be http://host:4318/v1/traces"),
        );
    };
    let cluster = match rest.http_upstream_type.take() {
        Some(HttpUpstreamType::Cluster(name)) if !name.is_empty() => name,
        _ => return reject("cluster", "is missing"),
    };
    let timeout = optional_duration("timeout", &rest.timeout.take())?;
    nothing_left(&rest)?;
    let host = uri.authority().map_or_else(|| cluster.clone(), ToString::to_string);
    Ok(Backend {
        format: Format::Otlp,
        cluster: cluster.into(),
        host: host.into(),
        path: uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        service: None,
        timeout: timeout.filter(|t| !t.is_zero()).unwrap_or(TIMEOUT),
    })
}
