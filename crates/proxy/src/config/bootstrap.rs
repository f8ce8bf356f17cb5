//! The bootstrap file, in Envoy's format: who this proxy is, where its control plane is, and what it does without one.
//!
//! Enters: YAML or JSON text. Leaves: a [`Bootstrap`], or an error that names the field. A field that is not known is
//! refused by name; the few that only concern Envoy's process are accepted and logged.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use weir_xds::ResourceType;

use super::{proto_json, statics};

/// What a bootstrap file says.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: Node,
    /// Where the administration interface listens.
    pub admin: Option<AdminAddress>,
    /// The control plane.
    pub ads: Option<Ads>,
    /// Resources that stand in the file.
    pub resources: Vec<StaticResource>,
}

/// Who this proxy is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// `<pod>.<namespace>` beside a pod.
    pub id: String,
    /// Free for the control plane.
    pub cluster: String,
    /// Free for the control plane; `host_ip` is where the kubelet's probes come from.
    pub metadata: Map<String, Value>,
    locality: Option<Value>,
}

impl Node {
    /// What traces call this proxy's service: its cluster, or, without one, its own name.
    pub fn service(&self) -> String {
        let name = if self.cluster.is_empty() {
            &self.id
        } else {
            &self.cluster
        };
        name.clone()
    }

    /// The address of the pod's node.
    pub fn host_ip(&self) -> Option<std::net::IpAddr> {
        self.metadata
            .get("host_ip")
            .and_then(Value::as_str)
            .and_then(|s| s.parse().ok())
    }
}

/// Where the administration interface listens.
#[derive(Debug, Clone, PartialEq)]
pub enum AdminAddress {
    /// A Unix socket.
    Pipe(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// How the control plane is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Ads {
    /// Host and port.
    pub target: String,
    /// Encrypt; `None`: plain text.
    pub tls: Option<Tls>,
    /// A token sent with each stream.
    pub token: Option<Token>,
    /// State of the world instead of delta.
    pub state_of_the_world: bool,
}

/// How the control plane proves itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// PEM file of the certificates to trust.
    pub ca_file: PathBuf,
    /// The name that its certificate must have; `None`: the target's host.
    pub server_name: Option<String>,
}

/// A token, read again at each connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// File that holds nothing but the token.
    pub file: PathBuf,
    /// Header to send it in.
    pub header: String,
    /// What stands before it.
    pub prefix: String,
}

/// An encoded resource of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticResource {
    /// Listener, cluster or secret.
    pub ty: ResourceType,
    /// Its name.
    pub name: String,
    /// The encoded message.
    pub body: Vec<u8>,
}

/// Why a bootstrap file is refused.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Neither YAML nor JSON.
    #[error("neither YAML nor JSON: {0}")]
    Syntax(String),
    /// A field is unknown, missing or wrong.
    #[error("{field}: {message}")]
    Field {
        /// Where.
        field: String,
        /// What, and what would be right.
        message: String,
    },
}

pub(super) fn wrong<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, BootstrapError> {
    Err(BootstrapError::Field {
        field: field.into(),
        message: message.into(),
    })
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    node: Node,
    admin: Option<Admin>,
    static_resources: StaticResources,
    dynamic_resources: Option<DynamicResources>,
    // These concern Envoy's process alone.
    layered_runtime: Option<Value>,
    overload_manager: Option<Value>,
    stats_config: Option<Value>,
    stats_flush_interval: Option<Value>,
    typed_dns_resolver_config: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Admin {
    address: Value,
    access_log: Option<Value>,
    access_log_path: Option<Value>,
    profile_path: Option<Value>,
    ignore_global_conn_limit: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StaticResources {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    secrets: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct DynamicResources {
    lds_config: Option<Value>,
    cds_config: Option<Value>,
    ads_config: Option<AdsConfig>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AdsConfig {
    api_type: String,
    transport_api_version: Option<String>,
    set_node_on_first_message_only: bool,
    grpc_services: Vec<GrpcService>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct GrpcService {
    envoy_grpc: Option<EnvoyGrpc>,
    google_grpc: Option<GoogleGrpc>,
    timeout: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EnvoyGrpc {
    cluster_name: String,
    authority: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct GoogleGrpc {
    target_uri: String,
    stat_prefix: Option<String>,
    channel_credentials: Option<ChannelCredentials>,
    call_credentials: Vec<CallCredentials>,
    credentials_factory_name: Option<String>,
    channel_args: Option<ChannelArgs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ChannelCredentials {
    SslCredentials(SslCredentials),
    GoogleDefault {},
    LocalCredentials {},
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct SslCredentials {
    root_certs: Option<FileSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSource {
    filename: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallCredentials {
    from_plugin: Plugin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    typed_config: FileBasedMetadata,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileBasedMetadata {
    #[serde(rename = "@type")]
    type_url: String,
    secret_data: FileSource,
    #[serde(default)]
    header_key: String,
    #[serde(default)]
    header_prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelArgs {
    args: std::collections::BTreeMap<String, Value>,
}

impl Bootstrap {
    /// Reads a bootstrap.
    pub fn parse(text: &str) -> Result<Self, BootstrapError> {
        let value = proto_json::parse(text).map_err(BootstrapError::Syntax)?;
        proto_json::no_lists("bootstrap", &value).or_else(|(field, message)| wrong(field, message))?;
        let file: File = from_value("bootstrap", value)?;
        for (name, given) in [
            ("layered_runtime", file.layered_runtime.is_some()),
            ("overload_manager", file.overload_manager.is_some()),
            ("stats_config", file.stats_config.is_some()),
            ("stats_flush_interval", file.stats_flush_interval.is_some()),
            ("typed_dns_resolver_config", file.typed_dns_resolver_config.is_some()),
        ] {
            if given {
                tracing::warn!(
                    field = name,
                    "the bootstrap's field concerns Envoy alone and has no effect"
                );
            }
        }
        let admin = file.admin.map(|admin| statics::admin(&admin.address)).transpose()?;
        let (ads, ads_cluster) = match file.dynamic_resources.and_then(|d| d.ads_config) {
            None => (None, None),
            Some(config) => ads(config, &file.static_resources.clusters)?,
        };
        let mut resources = Vec::new();
        let StaticResources {
            listeners,
            clusters,
            secrets,
        } = file.static_resources;
        for (ty, kind, values) in [
            (ResourceType::Secret, "secrets", secrets),
            (ResourceType::Cluster, "clusters", clusters),
            (ResourceType::Listener, "listeners", listeners),
        ] {
            for (i, value) in values.iter().enumerate() {
                let name = value.get("name").and_then(Value::as_str);
                if ty == ResourceType::Cluster && name.is_some() && name == ads_cluster.as_deref() {
                    continue;
                }
                let at = format!("static_resources.{kind}[{i}]");
                resources.push(statics::resource(&at, ty, value)?);
            }
        }
        Ok(Self {
            node: file.node,
            admin,
            ads,
            resources,
        })
    }
}

/// Serde's own message names the field that is unknown or missing.
fn from_value<T: serde::de::DeserializeOwned>(field: &str, value: Value) -> Result<T, BootstrapError> {
    serde_json::from_value(value).or_else(|e| wrong(field, e.to_string()))
}

type AdsAndCluster = (Option<Ads>, Option<String>);

fn ads(config: AdsConfig, clusters: &[Value]) -> Result<AdsAndCluster, BootstrapError> {
    let at = "dynamic_resources.ads_config";
    let state_of_the_world = match config.api_type.as_str() {
        "DELTA_GRPC" => false,
        "GRPC" => true,
        other => {
            return wrong(
                format!("{at}.api_type"),
                format!("{other:?} must be DELTA_GRPC or GRPC"),
            );
        }
    };
    let at = format!("{at}.grpc_services");
    let [service] = <[GrpcService; 1]>::try_from(config.grpc_services)
        .or_else(|services| wrong(&at, format!("must be exactly one, not {}", services.len())))?;
    match (service.envoy_grpc, service.google_grpc) {
        (None, Some(google)) => {
            let mut ads = google_grpc(&at, google)?;
            ads.state_of_the_world = state_of_the_world;
            Ok((Some(ads), None))
        }
        (Some(envoy), None) => {
            let name = envoy.cluster_name;
            let cluster = clusters
                .iter()
                .find(|c| c.get("name").and_then(Value::as_str) == Some(&*name));
            let Some(cluster) = cluster else {
                return wrong(at, format!("cluster {name:?} is not among static_resources.clusters"));
            };
            let (target, tls) = statics::ads_cluster(cluster)?;
            Ok((
                Some(Ads {
                    target,
                    tls,
                    token: None,
                    state_of_the_world,
                }),
                Some(name),
            ))
        }
        _ => wrong(at, "must have either envoy_grpc or google_grpc"),
    }
}

fn google_grpc(at: &str, google: GoogleGrpc) -> Result<Ads, BootstrapError> {
    const FILE_BASED: &str = "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig";
    let mut server_name = None;
    for (key, value) in google.channel_args.map(|a| a.args).unwrap_or_default() {
        let text = value
            .get("string_value")
            .or_else(|| value.get("stringValue"))
            .and_then(Value::as_str);
        match key.as_str() {
            "grpc.ssl_target_name_override" => server_name = text.map(ToOwned::to_owned),
            "grpc.keepalive_time_ms" | "grpc.keepalive_timeout_ms" => {}
            // So that Envoy's socket to its control plane is not shared between processes; ours never is.
            "grpc.use_local_subchannel_pool" => {}
            other => {
                return wrong(
                    format!("{at}.google_grpc.channel_args"),
                    format!("{other:?} is not supported"),
                );
            }
        }
    }
    let tls = match google.channel_credentials {
        None | Some(ChannelCredentials::LocalCredentials {}) => None,
        Some(ChannelCredentials::GoogleDefault {}) => {
            return wrong(
                format!("{at}.google_grpc.channel_credentials"),
                "must be ssl_credentials",
            );
        }
        Some(ChannelCredentials::SslCredentials(SslCredentials { root_certs: Some(file) })) => Some(Tls {
            ca_file: file.filename,
            server_name,
        }),
        Some(ChannelCredentials::SslCredentials(_)) => {
            return wrong(
                format!("{at}.google_grpc.channel_credentials.ssl_credentials.root_certs"),
                "is missing",
            );
        }
    };
    let mut token = None;
    for credentials in google.call_credentials {
        let plugin = credentials.from_plugin;
        if plugin.typed_config.type_url != FILE_BASED {
            let message = format!("{:?} is not supported; known is file-based metadata", plugin.name);
            return wrong(format!("{at}.google_grpc.call_credentials"), message);
        }
        let config = plugin.typed_config;
        let header = if config.header_key.is_empty() {
            "authorization".into()
        } else {
            config.header_key
        };
        token = Some(Token {
            file: config.secret_data.filename,
            header,
            prefix: config.header_prefix,
        });
    }
    let target = google.target_uri;
    let target = ["dns:///", "ipv4:", "ipv6:"]
        .iter()
        .find_map(|p| target.strip_prefix(p))
        .unwrap_or(&target);
    if target
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        return wrong(
            format!("{at}.google_grpc.target_uri"),
            format!("{target:?} must be host:port"),
        );
    }
    Ok(Ads {
        target: target.to_owned(),
        tls,
        token,
        state_of_the_world: false,
    })
}

#[cfg(test)]
mod tests;
