//! Bootstrap files that are wrong.

use std::time::Duration;

use crate::support::*;

async fn error(bootstrap: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = weir_proxy::Config {
        bootstrap: write(&directory.path().join("b.yaml"), bootstrap),
        metrics_address: None,
        state_dir: None,
        drain: Duration::ZERO,
        workers: 1,
        record: true,
        access_log: None,
    };
    weir_proxy::run(config, Default::default())
        .await
        .unwrap_err()
        .to_string()
}

#[tokio::test]
async fn errors_name_the_field() {
    let good = http_bootstrap(1, &[(local(2), 1)], "");
    for (what, with, expected) in [
        (
            "static_resources:",
            "static_resource:",
            "unknown field `static_resource`",
        ),
        (
            "route_config:",
            "route_konfig:",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config: unknown field `route_konfig`",
        ),
        (
            "prefix: /}",
            "prefix: /, headers: {}}",
            "routes[1].match.headers: must be a list",
        ),
        (
            "connectTimeout: 1s",
            "connectTimeout: 1",
            "static_resources.clusters[0]",
        ),
        (
            "connectTimeout: 1s",
            "connectTimeout: 1 s",
            "static_resources.clusters[0].connect_timeout: \"1 s\"",
        ),
        (
            "type: STATIC",
            "type: STATIK",
            "static_resources.clusters[0].type: \"STATIK\"",
        ),
        (
            "load_balancing_weight: 1",
            "load_balancing_weight: 0",
            "load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight",
        ),
        ("status: 404", "status: 99", "routes[0].direct_response.status: 99"),
        (
            "v3.Router",
            "v3.Lua",
            "http_filters[0].typed_config: envoy.extensions.filters.http.router.v3.Lua is unknown",
        ),
        (
            "domains: [svc, \"svc:80\"]",
            "domains: [\"*\"]",
            "domain \"*\" stands in two virtual hosts",
        ),
        ("node:", "node", "neither YAML nor JSON"),
    ] {
        assert!(good.contains(what), "{what}");
        let message = error(&good.replacen(what, with, 1)).await;
        assert!(message.contains(expected), "{with}: {message}");
    }
}
