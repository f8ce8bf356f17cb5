//! What the server says about itself: groups, versions and resources in the old and in the aggregated form, and the
//! least OpenAPI that clients accept.

use serde_json::{Value, json};

use super::{Group, Resource, Version};

/// `/apis`
pub fn groups(groups: &[Group]) -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.iter().map(group_entry).collect::<Vec<_>>()})
}

/// `/apis/G`
pub fn group(group: &Group) -> Value {
    let mut value = group_entry(group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    value
}

fn group_entry(group: &Group) -> Value {
    let version = |v: &Version| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis/G/V`
pub fn resources(group: &Group, version: &Version) -> Value {
    let mut list = Vec::new();
    for r in &version.resources {
        let mut entry = json!({
            "name": r.name, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs,
        });
        if !r.short_names.is_empty() {
            entry["shortNames"] = json!(r.short_names);
        }
        list.push(entry);
        list.extend(r.subresources.iter().map(|(sub, kind)| {
            json!({
                "name": format!("{}/{sub}", r.name), "singularName": "", "namespaced": r.namespaced, "kind": kind,
                "verbs": ["get"],
            })
        }));
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{}/{}", group.name, version.name),
        "resources": list,
    })
}

/// `/apis` in the form of `apidiscovery.k8s.io`.
pub fn aggregated(groups: &[Group], api_version: &str) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|g| {
            let versions: Vec<Value> = g
                .versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> = v.resources.iter().map(|r| aggregated_resource(g, v, r)).collect();
                    json!({"version": v.name, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": g.name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api_version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(group: &Group, version: &Version, resource: &Resource) -> Value {
    let kind = |kind: &str| json!({"group": group.name, "version": version.name, "kind": kind});
    let mut value = json!({
        "resource": resource.name,
        "responseKind": kind(resource.response_kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.subresources.is_empty() {
        value["subresources"] = resource
            .subresources
            .iter()
            .map(|(sub, sub_kind)| json!({"subresource": sub, "responseKind": kind(sub_kind), "verbs": ["get"]}))
            .collect();
    }
    value
}

/// `/openapi/v2`
pub fn openapi_v2() -> Value {
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": {}})
}

/// `/openapi/v3`
pub fn openapi_v3_index(groups: &[Group]) -> Value {
    let mut paths = serde_json::Map::new();
    for g in groups {
        for v in &g.versions {
            let path = format!("apis/{}/{}", g.name, v.name);
            let hash = env!("CARGO_PKG_VERSION");
            paths.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            );
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/apis/G/V`
pub fn openapi_v3() -> Value {
    json!({"openapi": "3.0.0", "info": info(), "paths": {}, "components": {"schemas": {}}})
}

fn info() -> Value {
    json!({"title": "Weir", "version": env!("CARGO_PKG_VERSION")})
}

/// `/version`
pub fn version() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let mut numbers = version.split('.');
    json!({
        "major": numbers.next(), "minor": numbers.next(), "gitVersion": format!("v{version}"),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
