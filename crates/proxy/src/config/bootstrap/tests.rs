use super::*;

const AGENT: &str = r#"{
  "node": {"id": "a.default", "cluster": "weir", "metadata": {"host_ip": "10.244.0.1", "engine": "weir"}},
  "admin": {"address": {"pipe": {"path": "/run/weir/admin.sock"}}},
  "dynamic_resources": {
    "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"google_grpc": {
      "target_uri": "10.96.1.2:18000", "stat_prefix": "weir_control",
      "channel_credentials": {"ssl_credentials": {"root_certs": {"filename": "/run/weir/ca.crt"}}},
      "channel_args": {"args": {"grpc.ssl_target_name_override": {"string_value": "weir-control.weir-system.svc"}}},
      "call_credentials": [{"from_plugin": {"name": "envoy.grpc_credentials.file_based_metadata", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
        "secret_data": {"filename": "/run/weir/token"}, "header_key": "authorization", "header_prefix": "Bearer "}}}],
      "credentials_factory_name": "envoy.grpc_credentials.file_based_metadata"}}]},
    "cds_config": {"ads": {}, "resource_api_version": "V3"},
    "lds_config": {"ads": {}, "resource_api_version": "V3"}}
}"#;

#[test]
fn the_agents_bootstrap() {
    let bootstrap = Bootstrap::parse(AGENT).unwrap();
    assert_eq!(bootstrap.node.id, "a.default");
    assert_eq!(bootstrap.node.host_ip(), Some([10, 244, 0, 1].into()));
    assert_eq!(bootstrap.admin, Some(AdminAddress::Pipe("/run/weir/admin.sock".into())));
    let expected = Ads {
        target: "10.96.1.2:18000".into(),
        tls: Some(Tls {
            ca_file: "/run/weir/ca.crt".into(),
            server_name: Some("weir-control.weir-system.svc".into()),
        }),
        token: Some(Token {
            file: "/run/weir/token".into(),
            header: "authorization".into(),
            prefix: "Bearer ".into(),
        }),
        state_of_the_world: false,
    };
    assert_eq!(bootstrap.ads, Some(expected));
    let world = Bootstrap::parse(&AGENT.replace("DELTA_GRPC", "GRPC")).unwrap();
    assert!(world.ads.unwrap().state_of_the_world);
}

#[test]
fn a_control_plane_may_be_a_static_cluster() {
    let text = r#"
node: {id: a, cluster: b}
admin: {address: {socketAddress: {address: 127.0.0.1, portValue: 9901}}}
dynamicResources:
  adsConfig: {apiType: DELTA_GRPC, grpcServices: [{envoyGrpc: {clusterName: xds}}]}
staticResources:
  clusters:
  - name: xds
    type: STRICT_DNS
    connectTimeout: 1s
    typedExtensionProtocolOptions:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicitHttpConfig: {http2ProtocolOptions: {}}
    loadAssignment:
      clusterName: xds
      endpoints: [{lbEndpoints: [{endpoint: {address: {socketAddress: {address: control, portValue: 18000}}}}]}]
    transportSocket:
      name: tls
      typedConfig:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: weir-control
        commonTlsContext: {validationContext: {trustedCa: {filename: /ca.crt}}}
"#;
    let bootstrap = Bootstrap::parse(text).unwrap();
    let ads = bootstrap.ads.unwrap();
    assert_eq!(ads.target, "control:18000");
    assert_eq!(ads.tls.unwrap().server_name.as_deref(), Some("weir-control"));
    assert!(bootstrap.resources.is_empty(), "it is no cluster for traffic");
    assert_eq!(bootstrap.admin, Some(AdminAddress::Tcp(([127, 0, 0, 1], 9901).into())));
}

#[test]
fn errors_name_the_field() {
    for (what, with, expected) in [
        ("\"node\"", "\"nodes\"", "unknown field `nodes`"),
        (
            "DELTA_GRPC",
            "REST",
            "dynamic_resources.ads_config.api_type: \"REST\" must be DELTA_GRPC or GRPC",
        ),
        (
            "10.96.1.2:18000",
            "10.96.1.2",
            "google_grpc.target_uri: \"10.96.1.2\" must be host:port",
        ),
        (
            "grpc.ssl_target_name_override",
            "grpc.odd",
            "google_grpc.channel_args: \"grpc.odd\"",
        ),
        (
            "{\"filename\": \"/run/weir/ca.crt\"}",
            "{\"inline_string\": \"x\"}",
            "unknown field `inline_string`",
        ),
        ("\"pipe\"", "\"tube\"", "admin.address: unknown field `tube`"),
    ] {
        assert!(AGENT.contains(what));
        let error = Bootstrap::parse(&AGENT.replacen(what, with, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
