//! What Kubernetes' admission does to objects: namespaces must exist, pods get their service account and its token
//! volume, services their address. Between defaults and validation.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::Api;
use super::error::{ApiError, Cause, Result};
use super::ingress;
use super::object::{self, as_map, items, items_mut, map_at, str_at};
use super::registry::Resource;
use super::store::WriteError;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime of a pod's own token; Kubernetes uses the odd number to tell such tokens.
const TOKEN_SECONDS: i64 = 3607;
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;
/// Every namespace has the cluster's CA in this ConfigMap.
pub const ROOT_CA: &str = "kube-root-ca.crt";

pub fn create(api: &Api, resource: &Resource, value: &mut Value) -> Result<()> {
    if resource.namespaced {
        require_namespace(api, resource, value)?;
    }
    let definition = resource
        .is_custom()
        .then(|| api.store.get(super::DEFINITIONS, "", &resource.group_resource()));
    if definition.flatten().is_some_and(|definition| definition.deleting) {
        // What came now could outlive its kind.
        return Err(ApiError::new(
            405,
            "MethodNotAllowed",
            "create not allowed while custom resource definition is terminating",
        ));
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod(api, resource, value),
        ("", "services") => {
            allocate(api, resource, value)?;
            if str_at(value, "/spec/type") != "ExternalName" {
                as_map(value).insert("status".into(), json!({"loadBalancer": {}}));
            }
            Ok(())
        }
        ("networking.k8s.io", "ingresses") => {
            let classes = api.store.list("ingressclasses.networking.k8s.io", None).1;
            if let Some(class) = ingress::default_class(value, classes.iter().map(|class| class.value())) {
                map_at(value, "spec").insert("ingressClassName".into(), class.into());
            }
            as_map(value).insert("status".into(), json!({"loadBalancer": {}}));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn require_namespace(api: &Api, resource: &Resource, value: &Value) -> Result<()> {
    let name = object::namespace(value);
    let registry = api.registry.load();
    let Some(found) = api.store.get("namespaces", "", name) else {
        return Err(match registry.find("", "v1", "namespaces") {
            Some(namespaces) => ApiError::not_found(namespaces, name),
            None => ApiError::no_such_path(),
        });
    };
    if found.deleting {
        return Err(ApiError::forbidden(
            resource,
            object::name(value),
            format!("unable to create new content in namespace {name} because it is being terminated"),
        ));
    }
    Ok(())
}

/// What an update takes over from the old object before defaults are filled in.
pub fn update(api: &Api, resource: &Resource, old: &Value, new: &mut Value) -> Result<()> {
    if resource.is("", "services") {
        let same_type = str_at(new, "/spec/type") != "ExternalName";
        let kept: Vec<(&str, Value)> = [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "healthCheckNodePort",
        ]
        .into_iter()
        .filter_map(|f| Some((f, old["spec"].get(f)?.clone())))
        .collect();
        let spec = map_at(new, "spec");
        if same_type {
            for (field, v) in kept {
                if spec.get(field).is_none_or(|x| x.is_null() || x == "") {
                    spec.insert(field.into(), v);
                }
            }
        }
        keep_node_ports(old, new);
        allocate(api, resource, new)?;
    }
    if resource.is("", "namespaces") && new.pointer("/spec/finalizers").is_none() {
        let finalizers = old["spec"]["finalizers"].clone();
        map_at(new, "spec").insert("finalizers".into(), finalizers);
    }
    Ok(())
}

fn keep_node_ports(old: &Value, new: &mut Value) {
    let old_ports = items(old, "/spec/ports").to_vec();
    if !matches!(str_at(new, "/spec/type"), "NodePort" | "LoadBalancer") {
        return;
    }
    for port in items_mut(new, "/spec/ports") {
        let before = old_ports
            .iter()
            .find(|o| o["port"] == port["port"] && o["protocol"] == port["protocol"]);
        if let Some(n) = before.and_then(|b| b.get("nodePort"))
            && port.get("nodePort").is_none()
        {
            as_map(port).insert("nodePort".into(), n.clone());
        }
    }
}

/// Gives a service its cluster address and node ports.
fn allocate(api: &Api, resource: &Resource, value: &mut Value) -> Result<()> {
    let kind = str_at(value, "/spec/type").to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let own = (object::namespace(value).to_owned(), object::name(value).to_owned());
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for service in api.store.list("services", None).1 {
        if (&*service.namespace, &*service.name) == (own.0.as_str(), own.1.as_str()) {
            continue;
        }
        let service = service.value();
        if let Ok(ip) = str_at(&service, "/spec/clusterIP").parse::<Ipv4Addr>() {
            addresses.insert(ip);
        }
        ports.extend(
            items(&service, "/spec/ports")
                .iter()
                .filter_map(|p| p["nodePort"].as_i64()),
        );
    }
    let refuse = |cause: Cause| Err(ApiError::invalid(resource, &own.1, &[cause]));
    let given = str_at(value, "/spec/clusterIP").to_owned();
    let address = match given.as_str() {
        "None" => given,
        "" => match api.service_cidr.free(&addresses) {
            Some(ip) => ip.to_string(),
            None => return Err(ApiError::internal("the range of service addresses is full")),
        },
        text => match text.parse::<Ipv4Addr>() {
            Ok(ip) if !api.service_cidr.contains(ip) => {
                let hint = format!(
                    "failed to allocate IP {ip}: the provided IP is not in the valid range. The range of valid IPs is {}",
                    api.service_cidr
                );
                return refuse(Cause::invalid("spec.clusterIPs", &json!([text]), hint));
            }
            Ok(ip) if addresses.contains(&ip) => {
                let hint = format!("failed to allocate IP {ip}: provided IP is already allocated");
                return refuse(Cause::invalid("spec.clusterIPs", &json!([text]), hint));
            }
            Ok(_) => given,
            Err(_) => {
                return refuse(Cause::invalid(
                    "spec.clusterIPs[0]",
                    &text.into(),
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ));
            }
        },
    };
    let spec = map_at(value, "spec");
    spec.insert("clusterIPs".into(), json!([address]));
    spec.insert("clusterIP".into(), address.into());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        for (number, port) in items(value, "/spec/ports").iter().enumerate() {
            let given = port["nodePort"].as_i64().unwrap_or(0);
            let hint = match given {
                0 => continue,
                outside if !NODE_PORTS.contains(&outside) => {
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        NODE_PORTS.start(),
                        NODE_PORTS.end()
                    )
                }
                taken if ports.contains(&taken) => "provided port is already allocated".to_owned(),
                _ => continue,
            };
            let field = format!("spec.ports[{number}].nodePort");
            return refuse(Cause::invalid(&field, &given.into(), hint));
        }
        ports.extend(
            items(value, "/spec/ports")
                .iter()
                .filter_map(|p| p["nodePort"].as_i64()),
        );
        for port in items_mut(value, "/spec/ports") {
            if port["nodePort"].as_i64().unwrap_or(0) == 0 {
                let Some(free) = NODE_PORTS.clone().find(|p| !ports.contains(p)) else {
                    return Err(ApiError::internal("the range of node ports is full"));
                };
                as_map(port).insert("nodePort".into(), free.into());
                ports.insert(free);
            }
        }
    }
    Ok(())
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy)]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    pub fn new(network: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
        Self {
            network: u32::from(network) & mask,
            prefix,
        }
    }

    fn size(self) -> u32 {
        1u32.checked_shl(u32::from(32 - self.prefix)).unwrap_or(u32::MAX)
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip).wrapping_sub(self.network) < self.size()
    }

    /// A random address that is not taken. The first of a range are for services that ask for them.
    fn free(self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let reserved = (self.size() / 16).clamp(1, 256);
        let span = self.size().checked_sub(reserved + 1).filter(|s| *s > 0)?;
        let mut seed = [0u8; 4];
        object::random(&mut seed);
        let start = u32::from_le_bytes(seed) % span;
        (0..span)
            .map(|i| Ipv4Addr::from(self.network + reserved + (start + i) % span))
            .find(|ip| !taken.contains(ip))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

fn pod(api: &Api, resource: &Resource, value: &mut Value) -> Result<()> {
    let namespace = object::namespace(value).to_owned();
    let name = object::name(value).to_owned();
    let spec = map_at(value, "spec");
    let account = spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.clone().into());
    spec.entry("enableServiceLinks").or_insert(json!(true));
    spec.entry("priority").or_insert(json!(0));
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
    tolerate(spec);
    let Some(found) = api.store.get("serviceaccounts", &namespace, &account) else {
        return Err(ApiError::forbidden(
            resource,
            &name,
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"),
        ));
    };
    let mounts = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or(found.value()["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if mounts {
        mount_token(spec);
    }
    let class = quality(spec);
    as_map(value).insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
    Ok(())
}

/// Pods stay five minutes on a node that is not ready.
fn tolerate(spec: &mut Map<String, Value>) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(list) = list else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !list.iter().any(|t| str_at(t, "/key") == key || t.get("key").is_none()) {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// The projected volume with token, CA and namespace, mounted into every container that has nothing there.
fn mount_token(spec: &mut Map<String, Value>) {
    let volume = format!("kube-api-access-{}", object::name_suffix());
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let taken = items(container, "/volumeMounts")
                .iter()
                .any(|m| str_at(m, "/mountPath") == TOKEN_PATH);
            if taken {
                continue;
            }
            let mounts = as_map(container).entry("volumeMounts").or_insert_with(|| json!([]));
            if let Value::Array(mounts) = mounts {
                mounts.push(json!({"name": volume, "mountPath": TOKEN_PATH, "readOnly": true}));
                used = true;
            }
        }
    }
    if !used {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Value::Array(volumes) = volumes {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

/// `status.qosClass`.
fn quality(spec: &Map<String, Value>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for c in spec.get("containers").and_then(Value::as_array).into_iter().flatten() {
        let resources = &c["resources"];
        for name in ["cpu", "memory"] {
            let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
            any |= !request.is_null() || !limit.is_null();
            guaranteed &= !limit.is_null() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Every namespace has a default service account and the cluster's CA.
pub fn furnish_namespace(api: &Api, namespace: &str) {
    let meta = |name: &str| json!({"name": name, "namespace": namespace, "uid": object::new_uid(), "creationTimestamp": object::now()});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("default")});
    let mut ca =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(ROOT_CA), "data": {"ca.crt": api.ca_pem}});
    ca["metadata"]["annotations"] = json!({"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."});
    for (resource, name, value) in [("serviceaccounts", "default", account), ("configmaps", ROOT_CA, ca)] {
        if api.store.get(resource, namespace, name).is_some() {
            continue;
        }
        match api.store.create(resource, value) {
            Ok(_) | Err(WriteError::Exists) => {}
            Err(e) => tracing::error!(namespace, resource, name, "the object {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_lie_in_the_range_and_are_not_taken() {
        let cidr = Cidr::new(Ipv4Addr::new(10, 96, 0, 0), 16);
        let mut taken = BTreeSet::new();
        for _ in 0..500 {
            let ip = cidr.free(&taken).unwrap();
            assert!(cidr.contains(ip) && u32::from(ip) >= u32::from(Ipv4Addr::new(10, 96, 1, 0)));
            assert!(taken.insert(ip));
        }
        assert!(!cidr.contains(Ipv4Addr::new(10, 97, 0, 0)));
        let tiny = Cidr::new(Ipv4Addr::new(10, 0, 0, 0), 30);
        let taken = tiny
            .free(&BTreeSet::new())
            .into_iter()
            .chain(tiny.free(&BTreeSet::new()));
        assert!(tiny.free(&taken.collect()).is_none_or(|ip| tiny.contains(ip)));
    }
}
