//! Where the targets of a job come from.

use super::{ConfigError, Fields, HttpConfig};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use weir_yaml::Node;

/// Targets with the same labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Addresses, `host:port`.
    pub targets: Vec<String>,
    /// Labels of all of them.
    pub labels: BTreeMap<String, String>,
}

/// A source of targets.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// `static_configs`.
    Static(Vec<Group>),
    /// `file_sd_configs`.
    File {
        /// Paths; `*` may stand in the last part.
        files: Vec<PathBuf>,
        /// How often they are read again.
        refresh: Duration,
    },
    /// `http_sd_configs`.
    Http {
        /// Answers with a list of groups.
        url: String,
        /// How often it is asked.
        refresh: Duration,
        /// How it is reached.
        http: Box<HttpConfig>,
    },
    /// `kubernetes_sd_configs`.
    Kubernetes(KubernetesSd),
}

/// Which objects of a cluster are targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Every container port of every pod.
    Pod,
    /// Every address of every port of Endpoints.
    Endpoints,
    /// The same, of EndpointSlices.
    EndpointSlice,
    /// Every port of every Service.
    Service,
    /// Every node.
    Node,
    /// Every path of every Ingress.
    Ingress,
}

const ROLES: [(&str, Role); 6] = [
    ("pod", Role::Pod),
    ("endpoints", Role::Endpoints),
    ("endpointslice", Role::EndpointSlice),
    ("service", Role::Service),
    ("node", Role::Node),
    ("ingress", Role::Ingress),
];

/// Limits the objects of a role that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Of which objects.
    pub role: Role,
    /// A label selector, "" for all.
    pub label: String,
    /// A field selector, "" for all.
    pub field: String,
}

/// One entry of `kubernetes_sd_configs`.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesSd {
    /// Which objects are targets.
    pub role: Role,
    /// A kubeconfig; None for the pod's own service account, or what kubectl would use.
    pub kubeconfig: Option<PathBuf>,
    /// Only these; empty for all.
    pub namespaces: Vec<String>,
    /// Also the namespace that the store runs in.
    pub own_namespace: bool,
    /// Limits what is read.
    pub selectors: Vec<Selector>,
    /// Labels and annotations of the node of a target are wanted.
    pub attach_node: bool,
    /// Labels and annotations of the namespace of a target are wanted.
    pub attach_namespace: bool,
}

const REFRESH_FILE: Duration = Duration::from_secs(300);
const REFRESH_HTTP: Duration = Duration::from_secs(60);

/// Sources that Prometheus has beside those above.
const OTHERS: [&str; 27] = [
    "azure_sd_configs",
    "consul_sd_configs",
    "digitalocean_sd_configs",
    "dns_sd_configs",
    "docker_sd_configs",
    "dockerswarm_sd_configs",
    "ec2_sd_configs",
    "eureka_sd_configs",
    "gce_sd_configs",
    "hetzner_sd_configs",
    "ionos_sd_configs",
    "kuma_sd_configs",
    "lightsail_sd_configs",
    "linode_sd_configs",
    "marathon_sd_configs",
    "nerve_sd_configs",
    "nomad_sd_configs",
    "openstack_sd_configs",
    "ovhcloud_sd_configs",
    "puppetdb_sd_configs",
    "scaleway_sd_configs",
    "serverset_sd_configs",
    "stackit_sd_configs",
    "triton_sd_configs",
    "uyuni_sd_configs",
    "vultr_sd_configs",
    "outscale_sd_configs",
];

/// The sources that stand in many files.
pub(super) const SOURCES: [&str; 5] = [
    "file_sd_configs",
    "http_sd_configs",
    "kubernetes_sd_configs",
    "dns_sd_configs",
    "consul_sd_configs",
];

impl Discovery {
    /// Takes the sources out of a job.
    pub(super) fn read_all(fields: &mut Fields, folder: &Path) -> Result<Vec<Discovery>, ConfigError> {
        let mut all = Vec::new();
        let mut groups = Vec::new();
        for (path, value) in fields.list("static_configs")? {
            groups.push(read_group(&path, value)?);
        }
        if !groups.is_empty() {
            all.push(Discovery::Static(groups));
        }
        for (path, value) in fields.list("file_sd_configs")? {
            let mut one = Fields::new(path, value)?;
            let files: Vec<PathBuf> = one.texts("files")?.iter().map(|f| folder.join(f)).collect();
            if files.is_empty() {
                return Err(one.error("files", "at least one file must be named"));
            }
            let refresh = one.duration("refresh_interval")?.unwrap_or(REFRESH_FILE);
            one.finish()?;
            all.push(Discovery::File { files, refresh });
        }
        for (path, value) in fields.list("http_sd_configs")? {
            let mut one = Fields::new(path, value)?;
            let url = one.text("url")?.unwrap_or_default();
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(one.error("url", format!("{url:?} must begin with http:// or https://")));
            }
            let refresh = one.duration("refresh_interval")?.unwrap_or(REFRESH_HTTP);
            let http = Box::new(HttpConfig::read(&mut one, folder)?);
            one.finish()?;
            all.push(Discovery::Http { url, refresh, http });
        }
        for (path, value) in fields.list("kubernetes_sd_configs")? {
            all.push(Discovery::Kubernetes(read_kubernetes(
                Fields::new(path, value)?,
                folder,
            )?));
        }
        for other in OTHERS {
            let instead = "there are static_configs, file_sd_configs, http_sd_configs and kubernetes_sd_configs";
            fields.unsupported(other, instead)?;
        }
        Ok(all)
    }
}

/// A group as it stands in a configuration, in a file of targets, or in an answer over HTTP.
pub(crate) fn read_group(path: &str, node: Node) -> Result<Group, ConfigError> {
    let mut fields = Fields::new(path, node)?;
    let group = Group {
        targets: fields.texts("targets")?,
        labels: fields.pairs("labels")?,
    };
    if let Some(wrong) = group.targets.iter().find(|target| target.contains('/')) {
        let message = format!("{wrong:?} must be an address like 10.0.0.1:9100, without scheme and path");
        return Err(fields.error("targets", message));
    }
    fields.finish()?;
    Ok(group)
}

fn read_role(fields: &mut Fields) -> Result<Role, ConfigError> {
    let word = fields.text("role")?.unwrap_or_default();
    let found = ROLES.iter().find(|(name, _)| *name == word);
    found.map(|(_, role)| *role).ok_or_else(|| {
        let known: Vec<_> = ROLES.iter().map(|(name, _)| *name).collect();
        fields.error("role", format!("{word:?} is no role; there are {}", known.join(", ")))
    })
}

fn read_kubernetes(mut fields: Fields, folder: &Path) -> Result<KubernetesSd, ConfigError> {
    let role = read_role(&mut fields)?;
    let kubeconfig = fields.text("kubeconfig_file")?.map(|file| folder.join(file));
    for field in [
        "api_server",
        "basic_auth",
        "authorization",
        "bearer_token",
        "bearer_token_file",
        "tls_config",
        "oauth2",
    ] {
        fields.unsupported(
            field,
            "write kubeconfig_file, which names the server and the credentials",
        )?;
    }
    fields.unsupported("proxy_url", "servers are reached directly")?;
    let (mut names, mut own_namespace) = (Vec::new(), false);
    if let Some(mut namespaces) = fields.mapping("namespaces")? {
        names = namespaces.texts("names")?;
        own_namespace = namespaces.flag("own_namespace")?.unwrap_or(false);
        namespaces.finish()?;
    }
    let mut selectors = Vec::new();
    for (path, value) in fields.list("selectors")? {
        let mut one = Fields::new(path, value)?;
        selectors.push(Selector {
            role: read_role(&mut one)?,
            label: one.text("label")?.unwrap_or_default(),
            field: one.text("field")?.unwrap_or_default(),
        });
        one.finish()?;
    }
    let mut attach = fields.mapping("attach_metadata")?;
    let (mut attach_node, mut attach_namespace) = (false, false);
    if let Some(mut attach) = attach.take() {
        attach_node = attach.flag("node")?.unwrap_or(false);
        attach_namespace = attach.flag("namespace")?.unwrap_or(false);
        attach.finish()?;
    }
    fields.flag("follow_redirects")?;
    fields.flag("enable_http2")?;
    fields.finish()?;
    Ok(KubernetesSd {
        role,
        kubeconfig,
        namespaces: names,
        own_namespace,
        selectors,
        attach_node,
        attach_namespace,
    })
}
