//! A container's environment and command line, as the kubelet builds them.
//!
//! Enters: a pod, one of its containers, and what the API holds. Leaves: the variables and the arguments with `$(VAR)`
//! expanded. Pure: it reads caches, never the network.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};

/// Where a container finds the API.
const API_HOST: &str = "10.96.0.1";
const API_PORT: &str = "443";

/// What the environment is built from.
pub trait Lookup {
    fn config_map(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    fn secret(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Secret>>;
    fn services(&self, namespace: &str) -> Vec<std::sync::Arc<Service>>;
}

/// What only the node knows of a pod.
#[derive(Clone, Debug)]
pub struct Placement {
    pub pod_ip: Ipv4Addr,
    pub host_ip: Ipv4Addr,
}

/// Why a container cannot be configured; the kubelet calls it `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        key: String,
        kind: &'static str,
        namespace: String,
        name: String,
    },
    #[error(
        "unsupported fieldPath {0} (known: metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], spec.nodeName, spec.serviceAccountName, status.podIP, status.podIPs, status.hostIP, status.hostIPs)"
    )]
    FieldPath(String),
    #[error("unsupported resource {0} (known: limits.cpu, limits.memory, requests.cpu, requests.memory)")]
    Resource(String),
}

/// The variables of a container, in order; a later one replaces an earlier one of the same name.
///
/// # Errors
/// When something referred to is missing and not optional.
pub fn variables(
    pod: &Pod,
    container: &Container,
    placement: &Placement,
    lookup: &dyn Lookup,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let mut env = Variables::default();
    for (name, value) in service_variables(if links { lookup.services(namespace) } else { Vec::new() }) {
        env.set(name, value);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            match lookup.config_map(namespace, &from.name) {
                Some(map) => {
                    map.data
                        .iter()
                        .flatten()
                        .for_each(|(k, v)| env.set(format!("{prefix}{k}"), v.clone()));
                }
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(from.name.clone())),
            }
        }
        if let Some(from) = &source.secret_ref {
            match lookup.secret(namespace, &from.name) {
                Some(secret) => {
                    secret
                        .data
                        .iter()
                        .flatten()
                        .for_each(|(k, v)| env.set(format!("{prefix}{k}"), text(v)));
                }
                None if from.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(from.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match resolve(source, pod, container, placement, lookup)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), &env.values),
        };
        env.set(variable.name.clone(), value);
    }
    Ok(env.into_list())
}

#[derive(Default)]
struct Variables {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn into_list(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| self.values.remove(&name).map(|value| (name, value)))
            .collect()
    }
}

fn resolve(
    source: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    placement: &Placement,
    lookup: &dyn Lookup,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(field) = &source.field_ref {
        return self::field(field, pod, placement).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return self::resource(resource, pod, container).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = lookup.config_map(namespace, &key.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(EnvError::NoConfigMap(key.name.clone()))
            };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&key.key)).cloned();
        return present(value, optional, &key.key, "ConfigMap", namespace, &key.name);
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = lookup.secret(namespace, &key.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(EnvError::NoSecret(key.name.clone()))
            };
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&key.key)).map(text);
        return present(value, optional, &key.key, "Secret", namespace, &key.name);
    }
    Ok(Some(String::new()))
}

fn present(
    value: Option<String>,
    optional: bool,
    key: &str,
    kind: &'static str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, EnvError> {
    if value.is_some() || optional {
        return Ok(value);
    }
    Err(EnvError::NoKey {
        key: key.into(),
        kind,
        namespace: namespace.into(),
        name: name.into(),
    })
}

/// A field of the pod, for variables and downward-API files.
pub fn field(selector: &ObjectFieldSelector, pod: &Pod, placement: &Placement) -> Result<String, EnvError> {
    let (meta, path) = (&pod.metadata, selector.field_path.as_str());
    let keyed = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']"));
    if let Some(key) = keyed("metadata.labels['") {
        return Ok(meta
            .labels
            .as_ref()
            .and_then(|l| l.get(key))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Ok(meta
            .annotations
            .as_ref()
            .and_then(|l| l.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let list = |map: &Option<std::collections::BTreeMap<String, String>>| {
        let lines: Vec<String> = map.iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => list(&meta.labels),
        "metadata.annotations" => list(&meta.annotations),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => service_account(pod).to_string(),
        "status.podIP" | "status.podIPs" => placement.pod_ip.to_string(),
        "status.hostIP" | "status.hostIPs" => placement.host_ip.to_string(),
        other => return Err(EnvError::FieldPath(other.to_string())),
    })
}

/// The pod's service account.
pub fn service_account(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or("default")
}

/// A container's resource, in units of the divisor; without a limit the machine's.
pub fn resource(selector: &ResourceFieldSelector, pod: &Pod, container: &Container) -> Result<String, EnvError> {
    let unknown = || EnvError::Resource(selector.resource.clone());
    let (side, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let of = named
        .and_then(|name| pod.spec.as_ref()?.containers.iter().find(|c| c.name == name))
        .unwrap_or(container);
    let resources = of.resources.as_ref();
    let map = match side {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let scale = |quantity: &str| parse_quantity(quantity);
    let value = map
        .and_then(|map| map.get(name))
        .and_then(|quantity| scale(&quantity.0));
    let value = match (value, name, side) {
        (Some(value), ..) => value,
        (None, "cpu" | "memory", "requests") => 0.0,
        (None, "cpu", _) => std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64),
        (None, "memory", _) => super::register::memory_bytes() as f64,
        _ => return Err(unknown()),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|d| scale(&d.0))
        .filter(|d| *d > 0.0)
        .unwrap_or(1.0);
    Ok(format!("{}", (value / divisor).ceil() as u64))
}

fn parse_quantity(text: &str) -> Option<f64> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|n| n * factor)
}

/// The variables that tell of the services in the pod's namespace, and of the API always.
fn service_variables(services: Vec<std::sync::Arc<Service>>) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let (Some(ports), Some(name)) = (spec.ports.as_deref(), &service.metadata.name) else {
            continue;
        };
        let prefix = name.to_uppercase().replace('-', "_");
        if prefix == "KUBERNETES" {
            continue;
        }
        let ports = ports
            .iter()
            .map(|p| (p.name.as_deref(), p.port.to_string(), p.protocol.as_deref()));
        push_links(&mut list, &prefix, ip, ports.collect());
    }
    push_links(
        &mut list,
        "KUBERNETES",
        API_HOST,
        vec![(Some("https"), API_PORT.to_string(), Some("TCP"))],
    );
    list
}

fn push_links(
    list: &mut Vec<(String, String)>,
    prefix: &str,
    ip: &str,
    ports: Vec<(Option<&str>, String, Option<&str>)>,
) {
    let mut push = |name: String, value: &str| list.push((name, value.to_string()));
    let Some((_, first, first_protocol)) = ports.first() else {
        return;
    };
    let lower = |protocol: &Option<&str>| protocol.unwrap_or("TCP").to_lowercase();
    push(format!("{prefix}_SERVICE_HOST"), ip);
    push(format!("{prefix}_SERVICE_PORT"), first);
    push(
        format!("{prefix}_PORT"),
        &format!("{}://{ip}:{first}", lower(first_protocol)),
    );
    for (name, port, protocol) in &ports {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            push(
                format!("{prefix}_SERVICE_PORT_{}", name.to_uppercase().replace('-', "_")),
                port,
            );
        }
        let (lower, upper) = (lower(protocol), protocol.unwrap_or("TCP"));
        let base = format!("{prefix}_PORT_{port}_{upper}");
        push(base.clone(), &format!("{lower}://{ip}:{port}"));
        push(format!("{base}_PROTO"), &lower);
        push(format!("{base}_PORT"), port);
        push(format!("{base}_ADDR"), ip);
    }
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay, `$$` is a dollar.
pub fn expand(text: &str, values: &HashMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    struct Fixed;

    impl Lookup for Fixed {
        fn config_map(&self, _: &str, name: &str) -> Option<Arc<ConfigMap>> {
            (name == "settings").then(|| {
                let data = json!({"metadata": {"name": name}, "data": {"level": "debug", "host": "a"}});
                Arc::new(serde_json::from_value(data).unwrap())
            })
        }
        fn secret(&self, _: &str, name: &str) -> Option<Arc<Secret>> {
            (name == "login").then(|| {
                let data = json!({"metadata": {"name": name}, "data": {"password": "aHVudGVyMg=="}});
                Arc::new(serde_json::from_value(data).unwrap())
            })
        }
        fn services(&self, _: &str) -> Vec<Arc<Service>> {
            let service = json!({"metadata": {"name": "my-db"}, "spec": {
                "clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}});
            vec![Arc::new(serde_json::from_value(service).unwrap())]
        }
    }

    fn env(container: serde_json::Value) -> Result<HashMap<String, String>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"nodeName": "n", "containers": [container.clone()]}
        }))
        .unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let placement = Placement {
            pod_ip: Ipv4Addr::new(10, 244, 1, 9),
            host_ip: Ipv4Addr::new(10, 244, 0, 1),
        };
        variables(&pod, &container, &placement, &Fixed).map(|list| list.into_iter().collect())
    }

    #[test]
    fn sources_are_resolved_and_later_ones_win() {
        let env = env(json!({"name": "c",
        "envFrom": [{"prefix": "S_", "configMapRef": {"name": "settings"}},
                    {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "S_host", "value": "b"},
            {"name": "URL", "value": "http://$(S_host):$(MY_DB_SERVICE_PORT)/$(NOPE)/$$(S_host)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        ]}))
        .unwrap();
        assert_eq!(env["S_level"], "debug");
        assert_eq!(env["URL"], "http://b:5432/$(NOPE)/$(S_host)");
        assert_eq!(env["IP"], "10.244.1.9");
        assert_eq!(env["APP"], "x");
        assert_eq!(env["PW"], "hunter2");
        assert_eq!(env["CPU"], "0");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert_eq!(env["MY_DB_PORT_5432_TCP_ADDR"], "10.96.0.7");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |source| env(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err();
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "nope", "key": "k"}})),
            EnvError::NoConfigMap("nope".into())
        );
        assert_eq!(
            missing(json!({"secretKeyRef": {"name": "login", "key": "k"}})).to_string(),
            "couldn't find key k in Secret ns/login"
        );
    }
}
