//! Discovery: which groups, versions and resources are served, in the legacy and in the aggregated (v2) form.

use http::{HeaderMap, Response, header};
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, Result};
use super::http::{Body, header_text, json as reply_json, reply};
use super::registry::{Registry, Resource, join_group_version};

/// Answers a discovery path, or `None` when it is none.
pub fn serve(api: &Api, path: &str, headers: &HeaderMap) -> Option<Result<Response<Body>>> {
    let registry = api.registry.load();
    let trimmed = path.trim_end_matches('/');
    let parts: Vec<&str> = trimmed.split('/').skip(1).collect();
    let aggregated = wants_aggregated(headers);
    Some(match parts.as_slice() {
        ["api"] if aggregated => Ok(aggregated_reply(vec![group_v2(&registry, "")])),
        ["api"] => Ok(reply_json(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
        )),
        ["apis"] if aggregated => {
            let mut groups: Vec<Value> = registry.groups().iter().map(|g| group_v2(&registry, g)).collect();
            merge_remote(&mut groups, api);
            Ok(aggregated_reply(groups))
        }
        ["apis"] => Ok(reply_json(
            200,
            &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(api, &registry)}),
        )),
        ["apis", group] => groups(api, &registry)
            .into_iter()
            .find(|g| g["name"] == *group)
            .map(|mut g| {
                g["kind"] = "APIGroup".into();
                g["apiVersion"] = "v1".into();
                reply_json(200, &g)
            })
            .ok_or_else(ApiError::no_such_path),
        ["api", "v1"] => Ok(reply_json(200, &resource_list(&registry, "", "v1"))),
        ["apis", group, version] if registry.versions(group).contains(version) => {
            Ok(reply_json(200, &resource_list(&registry, group, version)))
        }
        _ => return None,
    })
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    header_text(headers, header::ACCEPT)
        .split(',')
        .any(|p| p.contains("as=APIGroupDiscoveryList") && p.contains("v=v2") && !p.contains("v=v2beta1"))
}

fn aggregated_reply(groups: Vec<Value>) -> Response<Body> {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups});
    let mut response = reply(
        200,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        serde_json::to_vec(&list).unwrap_or_default(),
    );
    let vary = header::HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// All groups in the legacy form, with those of other servers.
fn groups(api: &Api, registry: &Registry) -> Vec<Value> {
    let mut all: Vec<(String, Vec<String>)> = registry
        .groups()
        .iter()
        .map(|g| {
            (
                (*g).to_owned(),
                registry.versions(g).iter().map(|v| (*v).to_owned()).collect(),
            )
        })
        .collect();
    for remote in api.aggregator.services() {
        match all.iter_mut().find(|(g, _)| *g == remote.group) {
            Some((_, versions)) if versions.contains(&remote.version) => {}
            Some((_, versions)) => versions.push(remote.version.clone()),
            None => all.push((remote.group.clone(), vec![remote.version.clone()])),
        }
    }
    all.into_iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| json!({"groupVersion": join_group_version(&group, v), "version": v}))
                .collect();
            json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
        })
        .collect()
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Value {
    let mut all = Vec::new();
    for r in registry
        .resources
        .iter()
        .filter(|r| r.group == group && r.version == version)
    {
        let mut entry = json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced,
            "kind": r.kind, "verbs": r.verbs()});
        if !r.short_names.is_empty() {
            entry["shortNames"] = json!(r.short_names);
        }
        if !r.categories.is_empty() {
            entry["categories"] = json!(r.categories);
        }
        all.push(entry);
        for s in r.subresources() {
            let mut entry = json!({"name": format!("{}/{}", r.plural, s.name), "singularName": "",
                "namespaced": r.namespaced, "kind": s.kind, "verbs": s.verbs});
            if !s.version.is_empty() {
                entry["group"] = s.group.into();
                entry["version"] = s.version.into();
            }
            all.push(entry);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": join_group_version(group, version), "resources": all})
}

fn group_v2(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = registry
        .versions(group)
        .iter()
        .map(|version| {
            let resources: Vec<Value> = registry
                .resources
                .iter()
                .filter(|r| r.group == group && r.version == *version)
                .map(|r| resource_v2(r))
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({"creationTimestamp": null});
    if !group.is_empty() {
        metadata["name"] = group.into();
    }
    json!({"metadata": metadata, "versions": versions})
}

fn resource_v2(r: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({"resource": r.plural, "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": r.singular, "verbs": r.verbs()});
    if !r.short_names.is_empty() {
        entry["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        entry["categories"] = json!(r.categories);
    }
    let subs: Vec<Value> = r
        .subresources()
        .iter()
        .map(|s| {
            let (g, v) = if s.version.is_empty() {
                (r.group.as_str(), r.version.as_str())
            } else {
                (s.group, s.version)
            };
            json!({"subresource": s.name, "responseKind": kind(g, v, &s.kind), "verbs": s.verbs})
        })
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = Value::Array(subs);
    }
    entry
}

/// Adds the resources of aggregated servers, as their own discovery told them.
fn merge_remote(groups: &mut Vec<Value>, api: &Api) {
    for remote in api.aggregator.services() {
        let freshness = if remote.available { "Current" } else { "Stale" };
        let version = json!({"version": remote.version, "resources": v2_from_list(&remote), "freshness": freshness});
        match groups.iter_mut().find(|g| g["metadata"]["name"] == *remote.group) {
            Some(group) => {
                if let Some(Value::Array(versions)) = group.get_mut("versions")
                    && !versions.iter().any(|v| v["version"] == *remote.version)
                {
                    versions.push(version);
                }
            }
            None => groups
                .push(json!({"metadata": {"name": remote.group, "creationTimestamp": null}, "versions": [version]})),
        }
    }
}

/// The aggregated form of another server's `APIResourceList`.
fn v2_from_list(remote: &super::aggregate::Remote) -> Vec<Value> {
    let text = |v: &Value, field: &str, or: &str| match v[field].as_str() {
        None | Some("") => or.to_owned(),
        Some(s) => s.to_owned(),
    };
    let mut found: Vec<Value> = Vec::new();
    for r in &remote.resources {
        let name = text(r, "name", "");
        let kind = json!({"group": text(r, "group", &remote.group), "version": text(r, "version", &remote.version), "kind": text(r, "kind", "")});
        match name.split_once('/') {
            None => {
                let mut entry = json!({"resource": name, "responseKind": kind,
                    "scope": if r["namespaced"] == json!(true) { "Namespaced" } else { "Cluster" },
                    "singularResource": text(r, "singularName", ""), "verbs": r["verbs"]});
                for field in ["shortNames", "categories"] {
                    if r[field].is_array() {
                        entry[field] = r[field].clone();
                    }
                }
                found.push(entry);
            }
            Some((parent, sub)) => {
                let sub = json!({"subresource": sub, "responseKind": kind, "verbs": r["verbs"]});
                let slot = match found.iter_mut().position(|e| e["resource"] == parent) {
                    Some(i) => &mut found[i],
                    None => {
                        // A subresource of a resource that is not itself listed still shows up, as in Kubernetes.
                        found.push(
                            json!({"resource": parent, "responseKind": {"group": "", "version": "", "kind": ""},
                            "scope": if r["namespaced"] == json!(true) { "Namespaced" } else { "Cluster" },
                            "singularResource": "", "verbs": []}),
                        );
                        let last = found.len() - 1;
                        &mut found[last]
                    }
                };
                match slot.get_mut("subresources") {
                    Some(Value::Array(list)) => list.push(sub),
                    _ => slot["subresources"] = json!([sub]),
                }
            }
        }
    }
    found
}
