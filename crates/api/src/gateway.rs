//! The Gateway API, standard channel, as far as Weir obeys it: GatewayClass, Gateway, HTTPRoute (`v1`) and ReferenceGrant
//! (`v1beta1`).
//!
//! Fields that Weir does not use are left out, and so are the schemas: the definitions in `deploy/` have them. Names and
//! defaults are the specification's.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// API group of all kinds here.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// `apiVersion` of all but ReferenceGrant.
pub const API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// Controller of the GatewayClasses that are ours.
pub const CONTROLLER: &str = "weir.dev/gateway-controller";

/// A kind of Gateways, by who serves them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GatewayClass",
    schema = "disabled",
    status = "ConditionsStatus"
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Who serves Gateways of this class.
    pub controller_name: String,
}

/// A status that is conditions alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConditionsStatus {
    /// How it stands.
    pub conditions: Vec<Condition>,
}

/// Where requests from outside arrive.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    namespaced,
    schema = "disabled",
    status = "GatewayStatus"
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its class.
    pub gateway_class_name: String,
    /// Ports and hosts.
    #[serde(default)]
    pub listeners: Vec<Listener>,
}

/// A port, a protocol and perhaps a host of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Name, unique in its Gateway.
    pub name: String,
    /// A name or `*.name`; none: every host.
    pub hostname: Option<String>,
    /// Port.
    pub port: u16,
    /// `HTTP`, `HTTPS`, or one that Weir does not serve.
    pub protocol: String,
    /// Certificates, for `HTTPS`.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    pub allowed_routes: AllowedRoutes,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// `Terminate` (also when absent) or `Passthrough`.
    pub mode: Option<String>,
    /// Secrets with certificates.
    pub certificate_refs: Vec<ObjectReference>,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
    /// Of which kinds; empty: those of the protocol.
    pub kinds: Vec<GroupKind>,
}

/// Namespaces of routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteNamespaces {
    /// `Same` (also when absent), `All` or `Selector`.
    pub from: Option<String>,
    /// For `Selector`: labels of the namespaces.
    pub selector: Option<LabelSelector>,
}

/// A kind and its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupKind {
    /// Group; none: the Gateway API's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind.
    pub kind: String,
}

/// A reference to an object, such as a Secret or a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Group; none: the core group.
    pub group: Option<String>,
    /// Kind; none: the field's usual one.
    pub kind: Option<String>,
    /// Namespace; none: that of the object that refers.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Port of a Service.
    pub port: Option<u16>,
}

/// How a Gateway stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// Where clients reach it.
    pub addresses: Vec<GatewayAddress>,
    /// The Gateway as a whole.
    pub conditions: Vec<Condition>,
    /// Each listener.
    pub listeners: Vec<ListenerStatus>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayAddress {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The address.
    pub value: String,
}

/// How a listener stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it takes.
    pub supported_kinds: Vec<GroupKind>,
    /// How many routes are attached.
    pub attached_routes: i32,
    /// How it stands.
    pub conditions: Vec<Condition>,
}

/// Rules for requests, attached to Gateways or Services.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    status = "RouteStatus"
)]
#[serde(rename_all = "camelCase", default)]
pub struct HTTPRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<ParentReference>,
    /// Hosts, as in a listener; none: those of the listener.
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<HttpRouteRule>,
}

/// A Gateway (or one of its listeners) or a Service (or one of its ports).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentReference {
    /// Group; none: the Gateway API's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; none: `Gateway`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; none: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// A listener's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// A port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Any of them; none: every request.
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to requests and responses.
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go.
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long they may take.
    pub timeouts: Option<HttpRouteTimeouts>,
}

/// A condition on requests; all its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    /// The path.
    pub path: Option<TypedMatch>,
    /// Headers.
    pub headers: Vec<TypedMatch>,
    /// Parameters of the query.
    pub query_params: Vec<TypedMatch>,
    /// The method.
    pub method: Option<String>,
}

/// A condition on a text. The default type is `PathPrefix` for paths and `Exact` for all else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TypedMatch {
    /// `Exact`, `PathPrefix` or `RegularExpression`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Name of the header or parameter.
    pub name: String,
    /// The text.
    pub value: Option<String>,
}

/// A filter: its type, and the field that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteFilter {
    /// Which one.
    #[serde(rename = "type")]
    pub type_: String,
    /// `RequestHeaderModifier`
    pub request_header_modifier: Option<HeaderModifier>,
    /// `ResponseHeaderModifier`
    pub response_header_modifier: Option<HeaderModifier>,
    /// `RequestMirror`
    pub request_mirror: Option<RequestMirror>,
    /// `RequestRedirect`
    pub request_redirect: Option<RequestRedirect>,
    /// `URLRewrite`
    pub url_rewrite: Option<UrlRewrite>,
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// In place of what was there.
    pub set: Vec<Header>,
    /// Beside what was there.
    pub add: Vec<Header>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// Copies of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    /// Who gets them.
    pub backend_ref: ObjectReference,
    /// How many of a hundred.
    pub percent: Option<u32>,
    /// How many, as a fraction.
    pub fraction: Option<Fraction>,
}

/// A fraction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fraction {
    /// Above the line.
    pub numerator: u32,
    /// Below it; none: 100.
    pub denominator: Option<u32>,
}

/// The client is told to ask elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port.
    pub port: Option<u16>,
    /// Status; none: 302.
    pub status_code: Option<u16>,
}

/// Another path or host for the request that is passed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub type_: String,
    /// All of it.
    pub replace_full_path: Option<String>,
    /// The prefix that was matched.
    pub replace_prefix_match: Option<String>,
}

/// Who gets a share of a rule's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBackendRef {
    /// The backend.
    #[serde(flatten)]
    pub backend: ObjectReference,
    /// Relative to the others; none: 1.
    pub weight: Option<u32>,
    /// What is done to its share alone.
    pub filters: Vec<HttpRouteFilter>,
}

/// How long requests may take, as Go writes durations; `0s`: for ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteTimeouts {
    /// The request with all its tries.
    pub request: Option<String>,
    /// One try.
    pub backend_request: Option<String>,
}

/// How a route stands with each of its parents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteStatus {
    /// By parent and controller.
    pub parents: Vec<ParentStatus>,
}

/// How a route stands with one parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentStatus {
    /// The parent, as the route names it.
    pub parent_ref: ParentReference,
    /// Who says so.
    pub controller_name: String,
    /// How it stands.
    pub conditions: Vec<Condition>,
}

/// Allows objects of other namespaces to refer to objects of its own.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1beta1",
    kind = "ReferenceGrant",
    namespaced,
    schema = "disabled"
)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantFrom {
    /// Group of the object that refers.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantTo {
    /// Group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name; none: all of the kind.
    pub name: Option<String>,
}

/// Whether labels satisfy a selector. An operator that nobody knows is satisfied by nothing.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let listed = || value.is_some_and(|v| wanted.values.iter().flatten().any(|x| x == v));
            match wanted.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource;
    use serde_json::json;

    #[test]
    fn reads_a_route_of_the_specification() {
        let route: HTTPRoute = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "HTTPRoute", "metadata": {"name": "r"},
            "spec": {"parentRefs": [{"name": "g", "sectionName": "http"}], "hostnames": ["a.example.com"], "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/x"}, "headers": [{"name": "v", "value": "2"}]}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}],
                "backendRefs": [{"name": "web", "port": 80, "weight": 9}], "timeouts": {"request": "10s"}}]}
        }))
        .unwrap();
        let rule = &route.spec.rules[0];
        assert_eq!(
            (rule.backend_refs[0].backend.port, rule.backend_refs[0].weight),
            (Some(80), Some(9))
        );
        assert_eq!(rule.matches[0].headers[0].type_, None);
        assert_eq!(HTTPRoute::plural(&()), "httproutes");
        assert_eq!(GatewayClass::plural(&()), "gatewayclasses");
        assert_eq!(ReferenceGrant::version(&()), "v1beta1");
    }

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let select = |value| selects(&serde_json::from_value(value).unwrap(), &labels);
        assert!(select(json!({})));
        assert!(select(json!({"matchLabels": {"team": "a"}})));
        assert!(!select(json!({"matchLabels": {"team": "b"}})));
        assert!(select(
            json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]})
        ));
        assert!(!select(
            json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]})
        ));
        assert!(!select(
            json!({"matchExpressions": [{"key": "team", "operator": "Near"}]})
        ));
    }
}
