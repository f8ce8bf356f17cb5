//! TrafficMetrics -> cells, for `top` and `edges`.

use std::time::Duration;

use weir_api::traffic_metrics::{Figures, GROUP, ResourceRef, TrafficMetrics, V1ALPHA1};

use crate::table::Align;

/// Where the figures come from.
pub fn base_path() -> String {
    format!("/apis/{GROUP}/{V1ALPHA1}")
}

/// Headings of the figures.
pub fn headings(wide: bool) -> Vec<(&'static str, Align)> {
    let mut headings = vec!["SUCCESS", "RPS", "LATENCY_P99"];
    if wide {
        headings.extend(["LATENCY_P90", "LATENCY_P50", "SUCCEEDED", "FAILED"]);
    }
    headings.into_iter().map(|h| (h, Align::Right)).collect()
}

/// Cells of the figures.
pub fn cells(item: &TrafficMetrics, wide: bool) -> Vec<String> {
    let figures = item.figures();
    let mut cells = vec![
        figures.success_text(),
        figures.rps_text(window(item)),
        Figures::latency_text(figures.p99_s),
    ];
    if wide {
        cells.extend([
            Figures::latency_text(figures.p90_s),
            Figures::latency_text(figures.p50_s),
        ]);
        cells.extend([figures.success.to_string(), figures.failure.to_string()]);
    }
    cells
}

/// The window of an item; zero when it cannot be read.
fn window(item: &TrafficMetrics) -> Duration {
    let span: Option<jiff::SignedDuration> = item.window.parse().ok();
    span.and_then(|s| s.try_into().ok()).unwrap_or_default()
}

/// A resource as people write it: the name, with its namespace where that is not obvious.
pub fn resource_text(resource: &ResourceRef, namespace: Option<&str>) -> String {
    match resource.namespace.as_str() {
        "" => resource.name.clone(),
        ns if Some(ns) == namespace => resource.name.clone(),
        ns => format!("{ns}/{}", resource.name),
    }
}
