//! The bootstrap of a proxy whose configuration comes from Weir's control plane.
//!
//! Enters: who the proxy is and where its files are. Leaves: a document in Envoy's format, for either engine. It writes no file.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use weir_api::labels::Engine;

/// What a bootstrap says.
pub struct Bootstrap<'a> {
    /// The name by which it asks for its configuration.
    pub node_id: &'a str,
    /// What traces call it.
    pub service: &'a str,
    /// Which proxy reads it.
    pub engine: Engine,
    /// The machine's address, from which its kubelet probes.
    pub host_ip: Option<IpAddr>,
    /// Socket of its admin interface.
    pub admin: &'a Path,
    /// Host and port of the control plane.
    pub target: &'a str,
    /// The name in the control plane's certificate.
    pub server_name: &'a str,
    /// File of the certificates that vouch for it.
    pub ca: &'a Path,
    /// File of the token to show; read again at each connect.
    pub token: &'a Path,
}

impl Bootstrap<'_> {
    /// As the document.
    pub fn to_json(&self) -> Value {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let host_ip = self.host_ip.map(|a| a.to_string()).unwrap_or_default();
        json!({
            "node": {
                "id": self.node_id,
                "cluster": self.service,
                "metadata": {"host_ip": host_ip, "engine": self.engine},
            },
            "admin": {"address": {"pipe": {"path": path(self.admin)}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"google_grpc": {
                        "target_uri": self.target,
                        "stat_prefix": "weir_control",
                        "channel_credentials": {"ssl_credentials": {"root_certs": {"filename": path(self.ca)}}},
                        "channel_args": {"args": {
                            "grpc.ssl_target_name_override": {"string_value": self.server_name},
                        }},
                        "call_credentials": [{"from_plugin": {
                            "name": "envoy.grpc_credentials.file_based_metadata",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
                                "secret_data": {"filename": path(self.token)},
                                "header_key": "authorization",
                                "header_prefix": "Bearer ",
                            },
                        }}],
                        "credentials_factory_name": "envoy.grpc_credentials.file_based_metadata",
                    }}],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
        })
    }
}
