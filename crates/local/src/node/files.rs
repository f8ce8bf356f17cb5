//! The files that every container gets in /etc: resolv.conf, hosts, hostname.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// The cluster's name server.
const DNS: &str = "10.96.0.10";
const DOMAIN: &str = "cluster.local";

/// (path, text) of each file.
pub fn etc(pod: &Pod, ip: Ipv4Addr) -> Vec<(PathBuf, String)> {
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut list = vec![("/etc/resolv.conf".into(), resolv_conf(&spec, namespace))];
    list.push(("/etc/hosts".into(), hosts(pod, &spec, ip)));
    list.push(("/etc/hostname".into(), format!("{}\n", hostname(pod))));
    list
}

/// `spec.hostname`, else the pod's name; at most 63 characters.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return super::NODE_NAME.to_string();
    }
    let name = spec
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let mut name = name.or(pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_string()
}

fn resolv_conf(spec: &PodSpec, namespace: &str) -> String {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let (mut servers, mut search, mut options) = (Vec::new(), Vec::new(), Vec::new());
    match policy {
        "None" => {}
        "Default" => {
            // What the machine has; it leads nowhere from the node's network, as on a machine without network.
            return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        }
        _ => {
            servers.push(DNS.to_string());
            search.extend([
                format!("{namespace}.svc.{DOMAIN}"),
                format!("svc.{DOMAIN}"),
                DOMAIN.to_string(),
            ]);
            options.push("ndots:5".to_string());
        }
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|known| known.split(':').next() != Some(&name));
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or(name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (key, values) in [("search", search), ("options", options)] {
        if !values.is_empty() {
            text.push_str(&format!("{key} {}\n", values.join(" ")));
        }
    }
    text
}

fn hosts(pod: &Pod, spec: &PodSpec, ip: Ipv4Addr) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let name = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) => text.push_str(&format!("{ip}\t{name}.{subdomain}.{namespace}.svc.{DOMAIN}\t{name}\n")),
        None => text.push_str(&format!("{ip}\t{name}\n")),
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_follow_the_specification() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [], "subdomain": "db",
                "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}],
                "dnsConfig": {"searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}]}}
        }))
        .unwrap();
        let files = etc(&pod, Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(
            files[0].1,
            "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local x.y\noptions ndots:2\n"
        );
        assert!(
            files[1]
                .1
                .ends_with("10.244.1.2\tp.db.shop.svc.cluster.local\tp\n1.2.3.4\ta\tb\n")
        );
    }
}
