//! The bootstrap of a proxy, read as the supervisor needs it, and the one that Envoy itself starts from.
//!
//! Enters: the file that would start Weir's proxy as well. Leaves: where the control plane is, and Envoy's bootstrap,
//! whose only peers are Unix sockets of the supervisor: credentials and reconnecting are not Envoy's concern.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Static cluster of Envoy's bootstrap: configuration.
const CONFIG_CLUSTER: &str = "weir_xds";
/// Static cluster of Envoy's bootstrap: access logs. The control plane names it in what it sends.
const LOG_CLUSTER: &str = "weir_als";

/// Why a bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Neither YAML nor JSON.
    #[error("bootstrap: neither YAML nor JSON: {0}")]
    Syntax(String),
    /// A field lacks or is wrong.
    #[error("bootstrap: {field}: {message}")]
    Field {
        /// Which.
        field: String,
        /// What would be right.
        message: String,
    },
}

/// What the supervisor reads in a bootstrap.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Passed on to Envoy as it is.
    node: Value,
    static_resources: Value,
    /// The node's address, from which its kubelet probes.
    pub host_ip: Option<IpAddr>,
    /// Where the admin interface is to be.
    pub admin: Option<Admin>,
    /// The control plane; `None`: all resources are static.
    pub control: Option<Control>,
}

/// Where the admin interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// A Unix socket.
    Pipe(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

/// The control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Host and port.
    pub target: String,
    /// Certificates that vouch for it, a PEM file, and the name in its own; `None`: plain text.
    pub tls: Option<(PathBuf, Option<String>)>,
    /// File of the token, header and what stands before it there.
    pub token: Option<(PathBuf, String, String)>,
}

impl Bootstrap {
    /// Reads a bootstrap file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::Read(path.to_owned(), e))?;
        let file: Value = serde_saphyr::from_str(&text).map_err(|e| Error::Syntax(e.to_string()))?;
        Self::parse(&file)
    }

    fn parse(file: &Value) -> Result<Self, Error> {
        if file["node"]["id"].as_str().is_none_or(str::is_empty) {
            return wrong("node.id", "is missing; write <pod>.<namespace>");
        }
        let ads = &file["dynamic_resources"]["ads_config"];
        let control = if ads.is_null() { None } else { Some(control(ads)?) };
        Ok(Self {
            node: file["node"].clone(),
            static_resources: file["static_resources"].clone(),
            host_ip: file["node"]["metadata"]["host_ip"]
                .as_str()
                .and_then(|a| a.parse().ok()),
            admin: admin(&file["admin"]["address"])?,
            control,
        })
    }

    /// Name of this proxy.
    pub fn node_id(&self) -> &str {
        self.node["id"].as_str().unwrap_or_default()
    }

    /// The bootstrap that Envoy starts from: its admin interface and everything it calls are Unix sockets.
    pub fn for_envoy(&self, admin: &Path, supervisor: &Path) -> Value {
        let mut resources = self.static_resources.clone();
        if !resources.is_object() {
            resources = json!({});
        }
        let mut clusters = resources["clusters"].as_array().cloned().unwrap_or_default();
        clusters.push(cluster(CONFIG_CLUSTER, supervisor));
        clusters.push(cluster(LOG_CLUSTER, supervisor));
        resources["clusters"] = json!(clusters);
        let mut bootstrap = json!({
            "node": self.node,
            "admin": {"address": {"pipe": {"path": admin.to_string_lossy()}}},
            "static_resources": resources,
        });
        if self.control.is_some() {
            let ads = json!({"ads": {}, "resource_api_version": "V3"});
            bootstrap["dynamic_resources"] = json!({
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": CONFIG_CLUSTER}}],
                },
                "cds_config": ads,
                "lds_config": ads,
            });
        }
        bootstrap
    }
}

fn cluster(name: &str, socket: &Path) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"pipe": {"path": socket.to_string_lossy()}},
        }}]}]},
    })
}

fn admin(address: &Value) -> Result<Option<Admin>, Error> {
    if let Some(path) = address["pipe"]["path"].as_str() {
        return Ok(Some(Admin::Pipe(path.into())));
    }
    let socket = &address["socket_address"];
    if socket.is_null() {
        return Ok(None);
    }
    let ip = socket["address"].as_str().and_then(|a| a.parse::<IpAddr>().ok());
    let port = socket["port_value"].as_u64().and_then(|p| u16::try_from(p).ok());
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(Some(Admin::Tcp(SocketAddr::new(ip, port)))),
        _ => wrong("admin.address.socket_address", "needs an IP address and a port_value"),
    }
}

fn control(ads: &Value) -> Result<Control, Error> {
    let field = "dynamic_resources.ads_config.grpc_services[0].google_grpc";
    let service = &ads["grpc_services"][0]["google_grpc"];
    let Some(target) = service["target_uri"].as_str() else {
        return wrong(
            &format!("{field}.target_uri"),
            "is missing; write the control plane's address and port",
        );
    };
    let credentials = &service["channel_credentials"];
    let tls = match credentials["ssl_credentials"]["root_certs"]["filename"].as_str() {
        Some(ca) => {
            let name = &service["channel_args"]["args"]["grpc.ssl_target_name_override"]["string_value"];
            Some((PathBuf::from(ca), name.as_str().map(str::to_owned)))
        }
        None if credentials["ssl_credentials"].is_null() => None,
        None => {
            return wrong(
                &format!("{field}.channel_credentials"),
                "ssl_credentials needs root_certs.filename",
            );
        }
    };
    let config = &service["call_credentials"][0]["from_plugin"]["typed_config"];
    let token = config["secret_data"]["filename"].as_str().map(|file| {
        let text = |key: &str, default: &str| config[key].as_str().unwrap_or(default).to_owned();
        (
            PathBuf::from(file),
            text("header_key", "authorization"),
            text("header_prefix", ""),
        )
    });
    Ok(Control {
        target: target.to_owned(),
        tls,
        token,
    })
}

fn wrong<T>(field: &str, message: &str) -> Result<T, Error> {
    Err(Error::Field {
        field: field.to_owned(),
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Value {
        serde_saphyr::from_str(
            r#"
node: {id: a.default, cluster: weir, metadata: {host_ip: 10.244.0.1, engine: envoy}}
admin: {address: {pipe: {path: /x/admin.sock}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    grpc_services:
    - google_grpc:
        target_uri: 10.96.0.7:18000
        channel_credentials: {ssl_credentials: {root_certs: {filename: /x/ca.crt}}}
        channel_args: {args: {grpc.ssl_target_name_override: {string_value: c.svc}}}
        call_credentials:
        - from_plugin:
            name: envoy.grpc_credentials.file_based_metadata
            typed_config: {secret_data: {filename: /x/token}, header_key: authorization, header_prefix: "Bearer "}
"#,
        )
        .unwrap()
    }

    #[test]
    fn the_proxys_file_is_understood() {
        let bootstrap = Bootstrap::parse(&file()).unwrap();
        assert_eq!(bootstrap.admin, Some(Admin::Pipe("/x/admin.sock".into())));
        assert_eq!(bootstrap.host_ip, "10.244.0.1".parse().ok());
        let expected = Control {
            target: "10.96.0.7:18000".into(),
            tls: Some(("/x/ca.crt".into(), Some("c.svc".into()))),
            token: Some(("/x/token".into(), "authorization".into(), "Bearer ".into())),
        };
        assert_eq!(bootstrap.control, Some(expected));
        let envoy = bootstrap.for_envoy(Path::new("/s/a"), Path::new("/s/r"));
        assert_eq!(envoy["node"]["metadata"]["engine"], "envoy");
        assert_eq!(envoy["static_resources"]["clusters"][1]["name"], "weir_als");
    }

    #[test]
    fn errors_name_the_field() {
        let mut broken = file();
        broken["dynamic_resources"]["ads_config"]["grpc_services"] = json!([{"envoy_grpc": {}}]);
        assert!(
            Bootstrap::parse(&broken)
                .unwrap_err()
                .to_string()
                .contains("google_grpc.target_uri")
        );
        assert!(
            Bootstrap::parse(&json!({}))
                .unwrap_err()
                .to_string()
                .contains("node.id")
        );
    }
}
