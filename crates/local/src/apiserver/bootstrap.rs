//! The objects that every cluster starts with: namespaces, default roles and bindings, the `kubernetes` service.
//! Made when absent; a user's changes stay.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::registry::join_group_version;
use super::request::Target;
use super::write::{self, Options};
use super::{Api, admission, aggregate};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Makes whatever is missing.
pub fn run(api: &Api) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(api, "", "namespaces", "", json!({"metadata": {"name": name}}));
        admission::furnish_namespace(api, name);
    }
    for (name, rules) in cluster_roles() {
        let object = json!({"metadata": {"name": name, "labels": role_labels(name)}, "rules": rules});
        ensure(api, RBAC, "clusterroles", "", object);
    }
    for (name, role, subjects) in cluster_bindings() {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": subjects});
        ensure(api, RBAC, "clusterrolebindings", "", object);
    }
    let reader = json!({"metadata": {"name": "extension-apiserver-authentication-reader"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get", "list", "watch"]}]});
    ensure(api, RBAC, "roles", "kube-system", reader);
    authentication(api);
    kubernetes_service(api);
    local_api_services(api);
}

/// Creates the object if there is none of its name.
fn ensure(api: &Api, group: &str, plural: &str, namespace: &str, object: Value) {
    let registry = api.registry.load();
    let Some(resource) = registry.any_version(group, plural) else {
        return;
    };
    let name = super::object::name(&object).to_owned();
    if api.store.get(&resource.storage, namespace, &name).is_some() {
        return;
    }
    let target = Target {
        namespace: namespace.to_owned(),
        ..Target::default()
    };
    if let Err(e) = write::create_object(api, resource, &target, object, &Options::internal()) {
        tracing::error!("{plural} {name}: {e}");
    }
}

/// Makes the object or brings its data up to date (for what follows from this cluster's certificates).
fn ensure_data(api: &Api, namespace: &str, name: &str, data: Value) {
    match api.store.get("configmaps", namespace, name) {
        None => {
            let object = json!({"metadata": {"name": name, "namespace": namespace}, "data": data});
            ensure(api, "", "configmaps", namespace, object);
        }
        Some(stored) => {
            let mut value = stored.value();
            if value["data"] != data {
                value["data"] = data;
                if let Err(e) = api.store.update("configmaps", value, stored.version) {
                    tracing::error!("configmap {namespace}/{name}: {e}");
                }
            }
        }
    }
}

/// What aggregated servers need to trust the front proxy.
fn authentication(api: &Api) {
    let front = fs::read_to_string(api.pki.cert("front-proxy-ca")).unwrap_or_else(|e| {
        tracing::error!("the front-proxy CA: {e}");
        String::new()
    });
    ensure_data(
        api,
        "kube-system",
        "extension-apiserver-authentication",
        json!({
            "client-ca-file": api.ca_pem,
            "requestheader-client-ca-file": front,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        }),
    );
    for ns in api.store.list("namespaces", None).1 {
        ensure_data(api, &ns.name, admission::ROOT_CA, json!({"ca.crt": api.ca_pem}));
    }
}

/// `kubernetes.default` with the address at which pods reach this server.
pub fn kubernetes_service(api: &Api) {
    ensure(
        api,
        "",
        "services",
        "default",
        json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": api.kubernetes_ip.to_string(), "ports": [
            {"name": "https", "port": 443, "protocol": "TCP", "targetPort": api.advertise.port()}]}}),
    );
    let kind = if matches!(api.advertise.ip(), IpAddr::V4(_)) {
        "IPv4"
    } else {
        "IPv6"
    };
    let endpoints = json!([{"addresses": [api.advertise.ip().to_string()], "conditions": {"ready": true}}]);
    let ports = json!([{"name": "https", "port": api.advertise.port(), "protocol": "TCP"}]);
    ensure(
        api,
        "discovery.k8s.io",
        "endpointslices",
        "default",
        json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": kind, "endpoints": endpoints, "ports": ports}),
    );
    // The address may differ from that of the last start.
    let storage = "endpointslices.discovery.k8s.io";
    if let Some(stored) = api.store.get(storage, "default", "kubernetes") {
        let mut value = stored.value();
        if value["endpoints"] != endpoints || value["ports"] != ports {
            value["endpoints"] = endpoints;
            value["ports"] = ports;
            if let Err(e) = api.store.update(storage, value, stored.version) {
                tracing::error!("endpointslice default/kubernetes: {e}");
            }
        }
    }
}

/// The group versions that this server answers itself, as `kubectl get apiservices` lists them.
fn local_api_services(api: &Api) {
    let registry = api.registry.load();
    let mut all = vec![(String::new(), "v1".to_owned())];
    for group in registry.groups() {
        all.extend(
            registry
                .versions(group)
                .iter()
                .map(|v| (group.to_owned(), (*v).to_owned())),
        );
    }
    for (group, version) in all {
        let name = format!("{version}.{group}");
        if api.store.get(aggregate::STORAGE, "", &name).is_some() {
            continue;
        }
        let now = super::object::now();
        let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "uid": super::object::new_uid(), "creationTimestamp": now,
                "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 17000, "versionPriority": 15},
            "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": now}]}});
        tracing::trace!(group_version = join_group_version(&group, &version), "local APIService");
        if let Err(e) = api.store.create(aggregate::STORAGE, object) {
            tracing::error!("apiservice {name}: {e}");
        }
    }
}

fn role_labels(name: &str) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    if matches!(name, "admin" | "edit" | "view") {
        // Aggregation of these three is by explicit rules here; the label marks them all the same.
        labels["weir.dev/user-facing"] = "true".into();
    }
    labels
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn cluster_roles() -> Vec<(&'static str, Value)> {
    const READ: &[&str] = &["get", "list", "watch"];
    const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
    const CORE: &[&str] = &[
        "configmaps",
        "endpoints",
        "events",
        "persistentvolumeclaims",
        "pods",
        "pods/log",
        "pods/status",
        "serviceaccounts",
        "services",
        "services/status",
        "namespaces",
        "namespaces/status",
    ];
    const APPS: &[&str] = &[
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    let view = vec![
        rule(&[""], CORE, READ),
        rule(&["apps"], APPS, READ),
        rule(&["batch"], &["jobs", "jobs/status"], READ),
        rule(
            &["networking.k8s.io"],
            &["ingresses", "ingresses/status", "networkpolicies"],
            READ,
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    ];
    let mut edit = view.clone();
    edit.extend([
        rule(
            &[""],
            &[
                "pods",
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
                "pods/eviction",
                "services",
                "services/proxy",
                "configmaps",
                "endpoints",
                "events",
                "persistentvolumeclaims",
                "secrets",
                "serviceaccounts",
            ],
            WRITE,
        ),
        rule(
            &[""],
            &[
                "secrets",
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
                "services/proxy",
            ],
            READ,
        ),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["apps"], APPS, WRITE),
        rule(&["batch"], &["jobs"], WRITE),
        rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
        rule(
            &["coordination.k8s.io"],
            &["leases"],
            &["get", "list", "watch", "create", "delete", "patch", "update"],
        ),
    ]);
    let mut admin = edit.clone();
    admin.extend([
        rule(
            &[RBAC],
            &["roles", "rolebindings"],
            &[
                "get",
                "list",
                "watch",
                "create",
                "delete",
                "deletecollection",
                "patch",
                "update",
            ],
        ),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
    ]);
    let discovery = json!([{"nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez",
        "/openapi", "/openapi/*", "/readyz", "/version", "/version/"], "verbs": ["get"]}]);
    vec![
        (
            "cluster-admin",
            json!([rule(&["*"], &["*"], &["*"]), {"nonResourceURLs": ["*"], "verbs": ["*"]}]),
        ),
        ("admin", admin.into()),
        ("edit", edit.into()),
        ("view", view.into()),
        ("system:discovery", discovery),
        (
            "system:public-info-viewer",
            json!([{"nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"]}]),
        ),
        (
            "system:monitoring",
            json!([{"nonResourceURLs": ["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/*", "/readyz", "/readyz/*"], "verbs": ["get"]}]),
        ),
        (
            "system:basic-user",
            json!([
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"]
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"])
            ]),
        ),
        (
            "system:auth-delegator",
            json!([
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"])
            ]),
        ),
        (
            "system:kube-dns",
            json!([
                rule(&[""], &["endpoints", "services"], &["list", "watch"]),
                rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"])
            ]),
        ),
        (
            "system:service-account-issuer-discovery",
            json!([{"nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"]}]),
        ),
    ]
}

fn cluster_bindings() -> Vec<(&'static str, &'static str, Value)> {
    let group = |name: &str| json!({"apiGroup": RBAC, "kind": "Group", "name": name});
    let user = |name: &str| json!({"apiGroup": RBAC, "kind": "User", "name": name});
    let authenticated = json!([group("system:authenticated")]);
    vec![
        ("cluster-admin", "cluster-admin", json!([group("system:masters")])),
        ("system:discovery", "system:discovery", authenticated.clone()),
        ("system:basic-user", "system:basic-user", authenticated.clone()),
        (
            "system:public-info-viewer",
            "system:public-info-viewer",
            json!([group("system:authenticated"), group("system:unauthenticated")]),
        ),
        (
            "system:monitoring",
            "system:monitoring",
            json!([group("system:monitoring")]),
        ),
        (
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            json!([group("system:serviceaccounts")]),
        ),
        // The node and the controllers of this one machine are parts of the same program.
        (
            "weir:local-components",
            "cluster-admin",
            json!([group("system:nodes"), user("system:kube-controller-manager")]),
        ),
    ]
}
