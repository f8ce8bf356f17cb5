//! A URL and a method -> what is asked for. Pure.

use percent_encoding::percent_decode_str;

use super::Group;

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One object, or a subresource of it.
    Get,
    /// Many objects.
    List,
    /// A stream of changes; never served.
    Watch,
    /// Anything else; never served.
    Other(&'static str),
}

impl Verb {
    /// As RBAC rules write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Other(verb) => verb,
        }
    }
}

/// The parts of a resource's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/healthz`, `/livez`, `/readyz` and what is below.
    Health,
    /// `/version`
    Version,
    /// `/apis`
    Groups,
    /// `/apis/G`
    Group(String),
    /// `/apis/G/V`
    Resources(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3` or, with group and version, below it.
    OpenApiV3(Option<(String, String)>),
    /// Below `/apis/G/V`.
    Resource(ResourcePath),
    /// Anything else.
    Unknown,
}

impl Target {
    /// Takes a path apart. The groups decide what a name below `/namespaces/NS` is.
    pub fn parse(path: &str, groups: &[Group]) -> Target {
        let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let own = |s: &str| s.to_owned();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Target::Health,
            ["version"] => Target::Version,
            ["apis"] => Target::Groups,
            ["apis", group] => Target::Group(own(group)),
            ["apis", group, version] => Target::Resources(own(group), own(version)),
            ["openapi", "v2"] => Target::OpenApiV2,
            ["openapi", "v3"] => Target::OpenApiV3(None),
            ["openapi", "v3", "apis", group, version] => Target::OpenApiV3(Some((own(group), own(version)))),
            ["apis", group, version, rest @ ..] => {
                let has_subresource = |resource: &str, sub: &str| {
                    groups
                        .iter()
                        .filter(|g| g.name == *group)
                        .flat_map(|g| &g.versions)
                        .any(|v| {
                            v.resources
                                .iter()
                                .any(|r| r.name == resource && r.subresources.iter().any(|(name, _)| *name == sub))
                        })
                };
                match resource_path(rest, has_subresource) {
                    Some((namespace, resource, name, subresource)) => Target::Resource(ResourcePath {
                        group: own(group),
                        version: own(version),
                        resource: own(resource),
                        subresource: subresource.map(own),
                        namespace: namespace.map(own),
                        name: name.map(own),
                    }),
                    None => Target::Unknown,
                }
            }
            _ => Target::Unknown,
        }
    }
}

type Split<'a> = (Option<&'a str>, &'a str, Option<&'a str>, Option<&'a str>);

/// Namespace, resource, name, subresource. Namespaces are also a resource of their own: `/namespaces/x/edges` is the
/// subresource of the namespace x where there is such a one, else the resource `edges` in it.
fn resource_path<'a>(parts: &[&'a str], has_subresource: impl Fn(&str, &str) -> bool) -> Option<Split<'a>> {
    Some(match *parts {
        [resource] => (None, resource, None, None),
        ["namespaces", name] => (Some(name), "namespaces", Some(name), None),
        ["namespaces", name, sub] if has_subresource("namespaces", sub) => {
            (Some(name), "namespaces", Some(name), Some(sub))
        }
        ["namespaces", ns, resource] => (Some(ns), resource, None, None),
        ["namespaces", ns, resource, name] => (Some(ns), resource, Some(name), None),
        ["namespaces", ns, resource, name, sub] => (Some(ns), resource, Some(name), Some(sub)),
        [resource, name] => (None, resource, Some(name), None),
        [resource, name, sub] => (None, resource, Some(name), Some(sub)),
        _ => return None,
    })
}

/// Query parameters, decoded, in order.
pub fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |s: &str| {
        percent_decode_str(&s.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .unwrap_or("")
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// The verb of a request on a resource.
pub fn verb(method: &http::Method, named: bool, parameters: &[(String, String)]) -> Verb {
    let flag = |name: &str| {
        parameters
            .iter()
            .any(|(n, v)| n == name && matches!(v.as_str(), "true" | "1"))
    };
    match *method {
        http::Method::GET | http::Method::HEAD if flag("watch") => Verb::Watch,
        http::Method::GET | http::Method::HEAD if named => Verb::Get,
        http::Method::GET | http::Method::HEAD => Verb::List,
        http::Method::POST => Verb::Other("create"),
        http::Method::PUT => Verb::Other("update"),
        http::Method::PATCH => Verb::Other("patch"),
        http::Method::DELETE if named => Verb::Other("delete"),
        http::Method::DELETE => Verb::Other("deletecollection"),
        _ => Verb::Other(""),
    }
}
