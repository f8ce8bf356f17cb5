//! Which resources are served: the built-in ones as a table, and those of CustomResourceDefinitions.
//! Leaves: `Resource` facts for discovery, storage and handlers. Knows nothing of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::crd::CustomVersion;

/// Decodes an object into its typed form and encodes it again: the error of the one, the known fields of the other.
pub type RoundTrip = fn(&Value) -> Result<Value, serde_json::Error>;

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(value)?)
}

/// Where the type of a resource comes from.
pub enum Source {
    Builtin(RoundTrip),
    Custom(Box<CustomVersion>),
}

/// The fields behind the scale subresource, as JSON pointers.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub selector: Option<String>,
}

/// One served resource in one version.
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// Has a status subresource.
    pub status: bool,
    pub scale: Option<ScalePaths>,
    /// Further subresources: name, kind, verbs.
    pub extra: &'static [(&'static str, &'static str, &'static [&'static str])],
    /// `metadata.generation` counts the changes of the spec.
    pub generation: bool,
    /// Only created, never stored (reviews).
    pub virtual_only: bool,
    /// The key in the store.
    pub storage: Arc<str>,
    /// The `apiVersion` in the store.
    pub storage_api_version: String,
    pub source: Source,
}

impl Resource {
    pub fn api_version(&self) -> String {
        join_group_version(&self.group, &self.version)
    }

    /// `deployments.apps`; `pods` for the core group.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub fn is_custom(&self) -> bool {
        matches!(self.source, Source::Custom(_))
    }

    pub fn verbs(&self) -> &'static [&'static str] {
        if self.virtual_only {
            return &["create"];
        }
        &[
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
    }

    /// Subresources: name, kind, group and version of that kind ("" = the resource's own), verbs.
    pub fn subresources(&self) -> Vec<Subresource> {
        const GET_PUT: &[&str] = &["get", "patch", "update"];
        let mut found = Vec::new();
        for (name, kind, verbs) in self.extra {
            let (group, version) = match *kind {
                "TokenRequest" => ("authentication.k8s.io", "v1"),
                "Eviction" => ("policy", "v1"),
                _ => ("", ""),
            };
            found.push(Subresource {
                name,
                kind: (*kind).to_owned(),
                group,
                version,
                verbs,
            });
        }
        if self.scale.is_some() {
            found.push(Subresource {
                name: "scale",
                kind: "Scale".to_owned(),
                group: "autoscaling",
                version: "v1",
                verbs: GET_PUT,
            });
        }
        if self.status {
            found.push(Subresource {
                name: "status",
                kind: self.kind.clone(),
                group: "",
                version: "",
                verbs: GET_PUT,
            });
        }
        found
    }
}

/// A subresource as discovery shows it.
pub struct Subresource {
    pub name: &'static str,
    pub kind: String,
    pub group: &'static str,
    pub version: &'static str,
    pub verbs: &'static [&'static str],
}

pub fn join_group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// All served resources. Immutable; replaced as a whole when a definition changes.
pub struct Registry {
    pub resources: Vec<Arc<Resource>>,
    by_path: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    pub fn new(custom: Vec<Resource>) -> Self {
        let mut all: Vec<Arc<Resource>> = builtin().into_iter().map(Arc::new).collect();
        let taken: Vec<String> = all.iter().map(|r| r.group_resource()).collect();
        all.extend(
            custom
                .into_iter()
                .filter(|r| !taken.contains(&r.group_resource()))
                .map(Arc::new),
        );
        let by_path = all
            .iter()
            .map(|r| {
                let key = (r.group.clone(), r.version.clone(), r.plural.clone());
                (key, r.clone())
            })
            .collect();
        Self {
            resources: all,
            by_path,
        }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The resource of a group in any version.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.is(group, plural))
    }

    /// Served versions of a group, in table order.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for r in self.resources.iter().filter(|r| r.group == group) {
            if !found.contains(&r.version.as_str()) {
                found.push(&r.version);
            }
        }
        found
    }

    /// Named groups, in table order.
    pub fn groups(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for r in &self.resources {
            if !r.group.is_empty() && !found.contains(&r.group.as_str()) {
                found.push(&r.group);
            }
        }
        found
    }
}

const CLUSTER: bool = false;
const NAMESPACED: bool = true;

/// Starts the description of a built-in resource.
fn resource(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool, decode: RoundTrip) -> Resource {
    let storage = if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    };
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        namespaced,
        short_names: Vec::new(),
        categories: Vec::new(),
        status: false,
        scale: None,
        extra: &[],
        generation: false,
        virtual_only: false,
        storage: storage.into(),
        storage_api_version: join_group_version(group, version),
        source: Source::Builtin(decode),
    }
}

impl Resource {
    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|s| (*s).to_owned()).collect();
        self
    }
    fn all(mut self) -> Self {
        self.categories = vec!["all".to_owned()];
        self
    }
    fn with_status(mut self) -> Self {
        self.status = true;
        self
    }
    fn counted(mut self) -> Self {
        self.generation = true;
        self
    }
    fn scaled(mut self) -> Self {
        self.scale = Some(ScalePaths {
            spec_replicas: "/spec/replicas".to_owned(),
            status_replicas: "/status/replicas".to_owned(),
            selector: None,
        });
        self
    }
    fn with(mut self, extra: &'static [(&'static str, &'static str, &'static [&'static str])]) -> Self {
        self.extra = extra;
        self
    }
    fn review(mut self) -> Self {
        self.virtual_only = true;
        self
    }
    /// The same objects as another resource's, in another form.
    fn stored_as(mut self, storage: &str, api_version: &str) -> Self {
        self.storage = storage.into();
        self.storage_api_version = api_version.to_owned();
        self
    }
}

/// The built-in resources.
fn builtin() -> Vec<Resource> {
    use api::{
        apps::v1 as apps, authentication::v1 as authn, authorization::v1 as authz, batch::v1 as batch,
        coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
        networking::v1 as networking, rbac::v1 as rbac,
    };
    const EXEC: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    const CREATE: &[&str] = &["create"];
    const RBAC: &str = "rbac.authorization.k8s.io";
    const AUTHN: &str = "authentication.k8s.io";
    const AUTHZ: &str = "authorization.k8s.io";
    vec![
        resource(
            "",
            "v1",
            "configmaps",
            "ConfigMap",
            NAMESPACED,
            round_trip::<core::ConfigMap>,
        )
        .short(&["cm"]),
        resource(
            "",
            "v1",
            "endpoints",
            "Endpoints",
            NAMESPACED,
            round_trip::<core::Endpoints>,
        )
        .short(&["ep"]),
        resource("", "v1", "events", "Event", NAMESPACED, round_trip::<core::Event>).short(&["ev"]),
        resource(
            "",
            "v1",
            "namespaces",
            "Namespace",
            CLUSTER,
            round_trip::<core::Namespace>,
        )
        .short(&["ns"])
        .with_status()
        .with(&[("finalize", "Namespace", &["update"])]),
        resource("", "v1", "nodes", "Node", CLUSTER, round_trip::<core::Node>)
            .short(&["no"])
            .with_status(),
        resource(
            "",
            "v1",
            "persistentvolumeclaims",
            "PersistentVolumeClaim",
            NAMESPACED,
            round_trip::<core::PersistentVolumeClaim>,
        )
        .short(&["pvc"])
        .with_status(),
        resource("", "v1", "pods", "Pod", NAMESPACED, round_trip::<core::Pod>)
            .short(&["po"])
            .all()
            .with_status()
            .counted()
            .with(&[
                ("attach", "PodAttachOptions", EXEC),
                ("binding", "Binding", CREATE),
                ("eviction", "Eviction", CREATE),
                ("exec", "PodExecOptions", EXEC),
                ("log", "Pod", &["get"]),
                ("portforward", "PodPortForwardOptions", EXEC),
                ("proxy", "PodProxyOptions", PROXY),
            ]),
        resource("", "v1", "secrets", "Secret", NAMESPACED, round_trip::<core::Secret>),
        resource(
            "",
            "v1",
            "serviceaccounts",
            "ServiceAccount",
            NAMESPACED,
            round_trip::<core::ServiceAccount>,
        )
        .short(&["sa"])
        .with(&[("token", "TokenRequest", CREATE)]),
        resource("", "v1", "services", "Service", NAMESPACED, round_trip::<core::Service>)
            .short(&["svc"])
            .all()
            .with_status()
            .with(&[("proxy", "ServiceProxyOptions", PROXY)]),
        resource(
            "events.k8s.io",
            "v1",
            "events",
            "Event",
            NAMESPACED,
            round_trip::<events::Event>,
        )
        .short(&["ev"])
        .stored_as("events", "v1"),
        resource(
            "apps",
            "v1",
            "daemonsets",
            "DaemonSet",
            NAMESPACED,
            round_trip::<apps::DaemonSet>,
        )
        .short(&["ds"])
        .all()
        .with_status()
        .counted(),
        resource(
            "apps",
            "v1",
            "deployments",
            "Deployment",
            NAMESPACED,
            round_trip::<apps::Deployment>,
        )
        .short(&["deploy"])
        .all()
        .with_status()
        .scaled()
        .counted(),
        resource(
            "apps",
            "v1",
            "replicasets",
            "ReplicaSet",
            NAMESPACED,
            round_trip::<apps::ReplicaSet>,
        )
        .short(&["rs"])
        .all()
        .with_status()
        .scaled()
        .counted(),
        resource(
            "apps",
            "v1",
            "statefulsets",
            "StatefulSet",
            NAMESPACED,
            round_trip::<apps::StatefulSet>,
        )
        .short(&["sts"])
        .all()
        .with_status()
        .scaled()
        .counted(),
        resource("batch", "v1", "jobs", "Job", NAMESPACED, round_trip::<batch::Job>)
            .all()
            .with_status()
            .counted(),
        resource(
            "discovery.k8s.io",
            "v1",
            "endpointslices",
            "EndpointSlice",
            NAMESPACED,
            round_trip::<discovery::EndpointSlice>,
        )
        .counted(),
        resource(
            "networking.k8s.io",
            "v1",
            "ingresses",
            "Ingress",
            NAMESPACED,
            round_trip::<networking::Ingress>,
        )
        .short(&["ing"])
        .with_status()
        .counted(),
        resource(
            "networking.k8s.io",
            "v1",
            "ingressclasses",
            "IngressClass",
            CLUSTER,
            round_trip::<networking::IngressClass>,
        )
        .counted(),
        resource(
            "coordination.k8s.io",
            "v1",
            "leases",
            "Lease",
            NAMESPACED,
            round_trip::<coordination::Lease>,
        ),
        resource(
            RBAC,
            "v1",
            "clusterrolebindings",
            "ClusterRoleBinding",
            CLUSTER,
            round_trip::<rbac::ClusterRoleBinding>,
        ),
        resource(
            RBAC,
            "v1",
            "clusterroles",
            "ClusterRole",
            CLUSTER,
            round_trip::<rbac::ClusterRole>,
        ),
        resource(
            RBAC,
            "v1",
            "rolebindings",
            "RoleBinding",
            NAMESPACED,
            round_trip::<rbac::RoleBinding>,
        ),
        resource(RBAC, "v1", "roles", "Role", NAMESPACED, round_trip::<rbac::Role>),
        resource(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            "CustomResourceDefinition",
            CLUSTER,
            round_trip::<apiextensions::CustomResourceDefinition>,
        )
        .short(&["crd", "crds"])
        .with_status()
        .counted(),
        resource(
            "apiregistration.k8s.io",
            "v1",
            "apiservices",
            "APIService",
            CLUSTER,
            round_trip::<apiregistration::APIService>,
        )
        .with_status(),
        resource(
            AUTHN,
            "v1",
            "tokenreviews",
            "TokenReview",
            CLUSTER,
            round_trip::<authn::TokenReview>,
        )
        .review(),
        resource(
            AUTHN,
            "v1",
            "selfsubjectreviews",
            "SelfSubjectReview",
            CLUSTER,
            round_trip::<authn::SelfSubjectReview>,
        )
        .review(),
        resource(
            AUTHZ,
            "v1",
            "localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            NAMESPACED,
            round_trip::<authz::LocalSubjectAccessReview>,
        )
        .review(),
        resource(
            AUTHZ,
            "v1",
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            CLUSTER,
            round_trip::<authz::SelfSubjectAccessReview>,
        )
        .review(),
        resource(
            AUTHZ,
            "v1",
            "selfsubjectrulesreviews",
            "SelfSubjectRulesReview",
            CLUSTER,
            round_trip::<authz::SelfSubjectRulesReview>,
        )
        .review(),
        resource(
            AUTHZ,
            "v1",
            "subjectaccessreviews",
            "SubjectAccessReview",
            CLUSTER,
            round_trip::<authz::SubjectAccessReview>,
        )
        .review(),
    ]
}
