//! Role-based access control: the stored roles and bindings, compiled; may a user do this?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::auth::User;
use super::object::{items, str_at};
use super::store::Store;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// What is to be done, as RBAC sees it.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// Set for URLs that are no resources.
    pub path: Option<String>,
}

impl Attributes {
    /// Kubernetes' sentence of refusal.
    pub fn refusal(&self, user: &User) -> String {
        if let Some(path) = &self.path {
            return format!("User {:?} cannot {} path {path:?}", user.name, self.verb);
        }
        let resource = if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            user.name, self.verb, self.group
        )
    }
}

#[derive(Debug, Clone)]
struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    paths: Vec<String>,
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let words = |key: &str| -> Vec<String> {
            items(rule, &format!("/{key}"))
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        Self {
            verbs: words("verbs"),
            groups: words("apiGroups"),
            resources: words("resources"),
            names: words("resourceNames"),
            paths: words("nonResourceURLs"),
        }
    }

    fn allows(&self, a: &Attributes) -> bool {
        let has = |list: &[String], x: &str| list.iter().any(|v| v == "*" || v == x);
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if let Some(path) = &a.path {
            return self.paths.iter().any(|p| match p.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => p == path,
            });
        }
        has(&self.groups, &a.group)
            && self
                .resources
                .iter()
                .any(|r| resource_matches(r, &a.resource, &a.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| *n == a.name && !n.is_empty()))
    }

    fn to_value(&self) -> Value {
        if self.paths.is_empty() {
            json!({"verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources, "resourceNames": self.names})
        } else {
            json!({"verbs": self.verbs, "nonResourceURLs": self.paths})
        }
    }
}

/// `*` is everything, `*/scale` that subresource of everything, `pods/log` one subresource.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((r, s)) => s == subresource && (r == "*" || r == resource),
    }
}

struct Binding {
    /// `None`: everywhere.
    namespace: Option<String>,
    users: Vec<String>,
    groups: Vec<String>,
    rules: Arc<Vec<Rule>>,
}

/// The compiled bindings at one version of the stored objects.
struct Compiled {
    marks: [u64; 4],
    bindings: Vec<Binding>,
}

/// Evaluates RBAC. Recompiled when roles or bindings have changed.
pub struct Rbac {
    store: Arc<Store>,
    compiled: Mutex<Option<Arc<Compiled>>>,
}

impl Rbac {
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            compiled: Mutex::new(None),
        }
    }

    pub fn allows(&self, user: &User, attributes: &Attributes) -> bool {
        if user.groups.iter().any(|g| g == "system:masters") {
            return true;
        }
        let compiled = self.current();
        compiled
            .bindings
            .iter()
            .filter(|b| b.concerns(user, attributes.namespace.as_str(), attributes.path.is_some()))
            .any(|b| b.rules.iter().any(|r| r.allows(attributes)))
    }

    /// The rules that apply to a user in a namespace: resource rules, non-resource rules.
    pub fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        if user.groups.iter().any(|g| g == "system:masters") {
            return (
                vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
                vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            );
        }
        let compiled = self.current();
        compiled
            .bindings
            .iter()
            .filter(|b| b.concerns(user, namespace, false))
            .flat_map(|b| b.rules.iter())
            .map(Rule::to_value)
            .partition(|r| r.get("nonResourceURLs").is_none())
    }

    fn current(&self) -> Arc<Compiled> {
        let marks = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS].map(|r| self.store.mark(r));
        let mut slot = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(c) = slot.as_ref().filter(|c| c.marks == marks) {
            return c.clone();
        }
        let fresh = Arc::new(Compiled {
            marks,
            bindings: self.compile(),
        });
        *slot = Some(fresh.clone());
        fresh
    }

    fn compile(&self) -> Vec<Binding> {
        let cluster_values: Vec<Value> = self
            .store
            .list(CLUSTER_ROLES, None)
            .1
            .iter()
            .map(|o| o.value())
            .collect();
        let mut roles: BTreeMap<(String, String), Arc<Vec<Rule>>> = BTreeMap::new();
        for role in &cluster_values {
            let rules = aggregated(role, &cluster_values);
            let key = (String::new(), super::object::name(role).to_owned());
            roles.insert(key, Arc::new(rules));
        }
        for role in self.store.list(ROLES, None).1 {
            let value = role.value();
            let rules = items(&value, "/rules").iter().map(Rule::parse).collect();
            roles.insert((role.namespace.to_string(), role.name.to_string()), Arc::new(rules));
        }
        let mut bindings = Vec::new();
        for (resource, namespaced) in [(CLUSTER_ROLE_BINDINGS, false), (ROLE_BINDINGS, true)] {
            for object in self.store.list(resource, None).1 {
                let value = object.value();
                let of_cluster = str_at(&value, "/roleRef/kind") == "ClusterRole";
                let role_ns = if of_cluster {
                    String::new()
                } else {
                    object.namespace.to_string()
                };
                let role = (role_ns, str_at(&value, "/roleRef/name").to_owned());
                // A binding to a role that does not exist grants nothing, until it does.
                let Some(rules) = roles.get(&role) else { continue };
                bindings.push(Binding::new(
                    namespaced.then(|| object.namespace.to_string()),
                    &value,
                    rules.clone(),
                ));
            }
        }
        bindings
    }
}

/// The rules of a cluster role, with those that its aggregation rule selects.
fn aggregated(role: &Value, all: &[Value]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = items(role, "/rules").iter().map(Rule::parse).collect();
    for selector in items(role, "/aggregationRule/clusterRoleSelectors") {
        let chosen = all
            .iter()
            .filter(|r| super::object::name(r) != super::object::name(role))
            .filter(|r| super::validate::selects(selector, &r["metadata"]["labels"]));
        rules.extend(chosen.flat_map(|r| items(r, "/rules").iter().map(Rule::parse)));
    }
    rules
}

impl Binding {
    fn new(namespace: Option<String>, value: &Value, rules: Arc<Vec<Rule>>) -> Self {
        let (mut users, mut groups) = (Vec::new(), Vec::new());
        for s in items(value, "/subjects") {
            let name = str_at(s, "/name").to_owned();
            match str_at(s, "/kind") {
                "User" => users.push(name),
                "Group" => groups.push(name),
                "ServiceAccount" => {
                    let ns = match str_at(s, "/namespace") {
                        "" => namespace.as_deref().unwrap_or(""),
                        ns => ns,
                    };
                    users.push(format!("system:serviceaccount:{ns}:{name}"));
                }
                _ => {}
            }
        }
        Self {
            namespace,
            users,
            groups,
            rules,
        }
    }

    fn concerns(&self, user: &User, namespace: &str, path: bool) -> bool {
        let here = match &self.namespace {
            None => true,
            Some(ns) => !path && !namespace.is_empty() && ns == namespace,
        };
        here && (self.users.contains(&user.name) || user.groups.iter().any(|g| self.groups.contains(g)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rbac() -> Rbac {
        let store = Arc::new(Store::in_memory());
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
        store
            .create(
                CLUSTER_ROLES,
                role(
                    "reader",
                    json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/healthz/*"]}]),
                ),
            )
            .unwrap();
        store
            .create(
                CLUSTER_ROLES,
                role(
                    "scaler",
                    json!([
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*/scale"]}]),
                ),
            )
            .unwrap();
        store
            .create(
                ROLES,
                json!({"metadata": {"name": "named", "namespace": "a"}, "rules": [
            {"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]}]}),
            )
            .unwrap();
        let bind = |role: &str, kind: &str, subject: Value, ns: Option<&str>| json!({"metadata": {"name": role, "namespace": ns}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        store
            .create(
                CLUSTER_ROLE_BINDINGS,
                bind(
                    "reader",
                    "ClusterRole",
                    json!({"kind": "ServiceAccount", "name": "sa", "namespace": "n"}),
                    None,
                ),
            )
            .unwrap();
        store
            .create(
                ROLE_BINDINGS,
                bind(
                    "scaler",
                    "ClusterRole",
                    json!({"kind": "Group", "name": "ops"}),
                    Some("a"),
                ),
            )
            .unwrap();
        store
            .create(
                ROLE_BINDINGS,
                bind("named", "Role", json!({"kind": "User", "name": "u"}), Some("a")),
            )
            .unwrap();
        Rbac::new(store)
    }

    fn user(name: &str, group: &str) -> User {
        User {
            name: name.into(),
            uid: String::new(),
            groups: vec![group.into()],
            extra: BTreeMap::new(),
        }
    }

    fn ask(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: None,
        }
    }

    #[test]
    fn bindings_grant_what_their_roles_say_and_no_more() {
        let rbac = rbac();
        let sa = user("system:serviceaccount:n:sa", "x");
        assert!(rbac.allows(&sa, &ask("get", "", "pods", "any", "p")));
        assert!(rbac.allows(&sa, &ask("get", "", "pods/log", "any", "p")));
        assert!(!rbac.allows(&sa, &ask("get", "", "pods/exec", "any", "p")));
        assert!(!rbac.allows(&sa, &ask("delete", "", "pods", "any", "p")));
        assert!(!rbac.allows(&sa, &ask("get", "apps", "pods", "any", "p")));
        let url = |p: &str| Attributes {
            verb: "get".into(),
            path: Some(p.into()),
            ..Attributes::default()
        };
        assert!(rbac.allows(&sa, &url("/healthz/etcd")) && !rbac.allows(&sa, &url("/healthzz")));

        let ops = user("someone", "ops");
        assert!(rbac.allows(&ops, &ask("update", "apps", "deployments/scale", "a", "d")));
        assert!(!rbac.allows(&ops, &ask("update", "apps", "deployments/scale", "b", "d")));
        assert!(!rbac.allows(&ops, &ask("update", "apps", "deployments", "a", "d")));

        let u = user("u", "x");
        assert!(rbac.allows(&u, &ask("update", "", "configmaps", "a", "one")));
        assert!(!rbac.allows(&u, &ask("update", "", "configmaps", "a", "two")));
        assert!(!rbac.allows(&u, &ask("update", "", "configmaps", "a", "")));
    }

    #[test]
    fn a_new_binding_counts_at_once() {
        let rbac = rbac();
        let u = user("u", "x");
        assert!(!rbac.allows(&u, &ask("get", "", "pods", "", "")));
        rbac.store
            .create(
                CLUSTER_ROLE_BINDINGS,
                json!({"metadata": {"name": "n"},
            "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "u"}]}),
            )
            .unwrap();
        assert!(rbac.allows(&u, &ask("get", "", "pods", "", "")));
    }
}
