use std::time::Duration;

use weir_series::exposition::parse;

use super::*;
use crate::config::{Active, decode};

/// A proxy with one cluster, one HTTP chain and one listener.
fn shared(cluster: &str) -> (Arc<Shared>, Arc<Cluster>) {
    let shared = Shared::new(None, weir_series::canonical::Recorder::new(1));
    let mut spec = decode::cluster(&[]).unwrap();
    spec.name = cluster.into();
    let cluster = Arc::new(Cluster::new(Arc::new(spec), Arc::default(), None));
    let active = Active {
        clusters: Arc::new(std::iter::once((Arc::clone(&cluster.spec.name), Arc::clone(&cluster))).collect()),
        http_stats: Arc::new(std::iter::once((Arc::from("web"), Arc::default())).collect()),
        ..Active::default()
    };
    shared.active.store(Arc::new(active));
    (shared, cluster)
}

fn text(shared: &Shared, bytes: usize) -> String {
    let (mut page, mut out) = (page(shared), String::new());
    while page(&mut out, bytes) {}
    out
}

fn value(page: &str, series: &str) -> f64 {
    let all: Vec<_> = parse(page).collect::<Result<_, _>>().unwrap();
    let found: Vec<_> = all.iter().filter(|e| e.series == series).collect();
    assert_eq!(found.len(), 1, "{series} in\n{page}");
    found[0].value
}

/// The names are those that queries of Envoy's users ask for.
#[test]
fn a_cluster_counts_under_envoys_names() {
    let (shared, cluster) = shared("9080|default|reviews.outbound");
    let stats = &cluster.stats;
    for (status, ms) in [(200, 3), (200, 70), (404, 1), (503, 5000)] {
        stats.rq_begin(status == 503);
        stats.rq_end();
        stats.rq_completed(status, Duration::from_millis(ms));
    }
    stats.rq_begin(false);
    stats.cx_open();
    stats.cx_open();
    stats.cx_close();
    stats.cx_bytes(10, 20);
    let page = text(&shared, usize::MAX);
    let name = r#"envoy_cluster_name="9080|default|reviews""#;
    for (metric, more, expected) in [
        ("upstream_rq_total", "", 5.0),
        ("upstream_rq_active", "", 1.0),
        ("upstream_rq_completed", "", 4.0),
        ("upstream_rq_retry", "", 1.0),
        ("upstream_rq", r#",envoy_response_code="200""#, 2.0),
        ("upstream_rq", r#",envoy_response_code="503""#, 1.0),
        ("upstream_rq_xx", r#",envoy_response_code_class="2""#, 2.0),
        ("upstream_rq_xx", r#",envoy_response_code_class="3""#, 0.0),
        ("upstream_rq_xx", r#",envoy_response_code_class="4""#, 1.0),
        ("upstream_rq_time_bucket", r#",le="0.5""#, 0.0),
        ("upstream_rq_time_bucket", r#",le="1""#, 1.0),
        ("upstream_rq_time_bucket", r#",le="5""#, 2.0),
        ("upstream_rq_time_bucket", r#",le="3600000""#, 4.0),
        ("upstream_rq_time_bucket", r#",le="+Inf""#, 4.0),
        ("upstream_rq_time_sum", "", 5074.0),
        ("upstream_rq_time_count", "", 4.0),
        ("upstream_cx_total", "", 2.0),
        ("upstream_cx_active", "", 1.0),
        ("upstream_cx_rx_bytes_total", "", 10.0),
        ("upstream_cx_tx_bytes_total", "", 20.0),
        ("membership_total", "", 0.0),
    ] {
        let series = format!("envoy_cluster_outbound_{metric}{{{name}{more}}}");
        assert_eq!(value(&page, &series), expected, "{series}");
    }
}

#[test]
fn an_http_chain_counts_under_its_prefix() {
    let (shared, _) = shared("plain");
    let stats = Arc::clone(&shared.active.load().http_stats["web"]);
    stats.cx_open();
    for _ in 0..3 {
        stats.rq_begin();
    }
    stats.rq_completed(200, Duration::from_micros(300));
    stats.rq_reset();
    let page = text(&shared, usize::MAX);
    let name = r#"envoy_http_conn_manager_prefix="web""#;
    for (metric, more, expected) in [
        ("rq_total", "", 3.0),
        ("downstream_rq_total", "", 3.0),
        ("downstream_rq_active", "", 1.0),
        ("downstream_rq_completed", "", 1.0),
        ("downstream_rq_xx", r#",envoy_response_code_class="2""#, 1.0),
        ("downstream_rq_time_bucket", r#",le="0.5""#, 1.0),
        ("downstream_rq_time_sum", "", 0.3),
        ("downstream_cx_active", "", 1.0),
    ] {
        let series = format!("envoy_http_{metric}{{{name}{more}}}");
        assert_eq!(value(&page, &series), expected, "{series}");
    }
    assert!(value(&page, "envoy_server_memory_physical_size{}") > 1e5);
    assert!(page.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"plain\"} 0\n"));
}

#[test]
fn codes_beyond_the_limit_count_in_their_class() {
    let (shared, cluster) = shared("c");
    for status in 400..500 {
        cluster.stats.rq_completed(status, Duration::ZERO);
    }
    let page = text(&shared, usize::MAX);
    let codes = page.matches("envoy_cluster_upstream_rq{").count();
    assert!((20..100).contains(&codes), "{codes}");
    let class = r#"envoy_cluster_upstream_rq_xx{envoy_cluster_name="c",envoy_response_code_class="4"}"#;
    assert_eq!(value(&page, class), 100.0);
}

#[test]
fn slices_make_the_same_page_and_no_family_stands_twice() {
    let (shared, cluster) = shared("a.b-c");
    let mut active = (**shared.active.load()).clone();
    for n in 0..300 {
        let name: Arc<str> = format!("c{n}.{}", if n % 2 == 0 { "b-c" } else { "b_c" }).into();
        let mut spec = decode::cluster(&[]).unwrap();
        spec.name = Arc::clone(&name);
        let made = Cluster::new(Arc::new(spec), Arc::clone(&cluster.endpoints), None);
        Arc::make_mut(&mut active.clusters).insert(name, Arc::new(made));
    }
    shared.active.store(Arc::new(active));
    let strip = |page: String| -> Vec<String> {
        let varies = |l: &&str| !l.starts_with("envoy_server_");
        page.lines().filter(varies).map(str::to_owned).collect()
    };
    let whole = strip(text(&shared, usize::MAX));
    assert!(whole == strip(text(&shared, 1000)));
    let mut families: Vec<_> = whole.iter().filter(|l| l.starts_with("# TYPE")).collect();
    let all = families.len();
    families.dedup();
    families.sort();
    families.dedup();
    assert_eq!(families.len(), all);
}
