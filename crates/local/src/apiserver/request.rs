//! What a request asks for: its URL and method, taken apart as Kubernetes does. Pure.

use http::Method;
use percent_encoding::percent_decode_str;

use super::rbac::Attributes;

/// The decoded query parameters, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        let decode = |s: &str| {
            percent_decode_str(&s.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        Self(
            query
                .split('&')
                .filter(|p| !p.is_empty())
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    (decode(k), decode(v))
                })
                .collect(),
        )
    }

    /// The first value of a parameter, or "".
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str())
    }

    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key).parse().ok()
    }
}

/// The resource that a URL names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub group: String,
    pub version: String,
    /// Plural name; empty for the group version itself.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource (proxy paths), with its leading slash.
    pub rest: String,
}

/// Takes `/api/v1/...` and `/apis/GROUP/VERSION/...` apart; `None` for every other path.
pub fn target(path: &str) -> Option<Target> {
    let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
    let mut parts = path.split('/').skip(1);
    let (group, version) = match parts.next()? {
        "api" => (String::new(), parts.next()?),
        "apis" => (parts.next()?.to_owned(), parts.next()?),
        _ => return None,
    };
    if version.is_empty() {
        return None;
    }
    let mut target = Target {
        group,
        version: version.to_owned(),
        ..Target::default()
    };
    let mut rest: Vec<&str> = parts.collect();
    if rest.last() == Some(&"") && rest.len() <= 4 {
        rest.pop();
    }
    // namespaces/NS/RESOURCE...; but namespaces/NS[/status|/finalize] is the namespace itself.
    let scoped = rest.len() >= 3
        && rest[0] == "namespaces"
        && !(rest.len() == 3 && target.group.is_empty() && matches!(rest[2], "status" | "finalize"));
    if scoped {
        target.namespace = decode(rest[1]);
        rest.drain(..2);
    } else if rest.first() == Some(&"namespaces") && target.group.is_empty() && rest.len() >= 2 {
        // A namespace is authorized within itself.
        target.namespace = decode(rest[1]);
    }
    let mut rest = rest.into_iter();
    target.resource = rest.next().map(decode).unwrap_or_default();
    target.name = rest.next().map(decode).unwrap_or_default();
    target.subresource = rest.next().map(decode).unwrap_or_default();
    for part in rest {
        target.rest.push('/');
        target.rest.push_str(part);
    }
    Some(target)
}

/// The RBAC verb of a request on a resource.
pub fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let named = !target.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

/// What has to be allowed for the request.
pub fn attributes(method: &Method, path: &str, target: Option<&Target>, query: &Query) -> Attributes {
    match target {
        Some(t) if !t.resource.is_empty() => {
            let verb = verb(method, t, query);
            let mut name = t.name.clone();
            if name.is_empty() && matches!(verb, "list" | "watch") {
                name = query
                    .get("fieldSelector")
                    .split(',')
                    .find_map(|p| p.strip_prefix("metadata.name="))
                    .unwrap_or("")
                    .trim_start_matches('=')
                    .to_owned();
            }
            Attributes {
                verb: verb.to_owned(),
                group: t.group.clone(),
                resource: t.resource.clone(),
                subresource: t.subresource.clone(),
                namespace: t.namespace.clone(),
                name,
                path: None,
            }
        }
        _ => Attributes {
            verb: match *method {
                Method::GET | Method::HEAD => "get".to_owned(),
                ref m => m.as_str().to_lowercase(),
            },
            path: Some(path.to_owned()),
            ..Attributes::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(path: &str) -> [String; 6] {
        let t = target(path).unwrap();
        [t.group, t.resource, t.namespace, t.name, t.subresource, t.rest]
    }

    #[test]
    fn paths_come_apart_as_in_kubernetes() {
        assert_eq!(t("/api/v1/pods"), ["", "pods", "", "", "", ""]);
        assert_eq!(t("/api/v1/namespaces"), ["", "namespaces", "", "", "", ""]);
        assert_eq!(t("/api/v1/namespaces/a"), ["", "namespaces", "a", "a", "", ""]);
        assert_eq!(
            t("/api/v1/namespaces/a/status"),
            ["", "namespaces", "a", "a", "status", ""]
        );
        assert_eq!(t("/api/v1/namespaces/a/pods/p/log"), ["", "pods", "a", "p", "log", ""]);
        assert_eq!(
            t("/apis/apps/v1/namespaces/a/deployments/d"),
            ["apps", "deployments", "a", "d", "", ""]
        );
        assert_eq!(
            t("/api/v1/namespaces/a/services/https:s:8443/proxy/x/y%20z"),
            ["", "services", "a", "https:s:8443", "proxy", "/x/y%20z"]
        );
        assert_eq!(
            t("/apis/metrics.smi-spec.io/v1alpha1"),
            ["metrics.smi-spec.io", "", "", "", "", ""]
        );
        assert!(target("/apis/apps").is_none() && target("/version").is_none() && target("/api").is_none());
    }

    #[test]
    fn verbs_and_queries() {
        let q = Query::parse("watch=1&labelSelector=app%3Dx,b+in+(c)&flag");
        assert_eq!(q.get("labelSelector"), "app=x,b in (c)");
        let pods = target("/api/v1/pods").unwrap();
        assert_eq!(verb(&Method::GET, &pods, &q), "watch");
        assert_eq!(verb(&Method::DELETE, &pods, &q), "deletecollection");
        let q = Query::parse("fieldSelector=metadata.name%3Dx");
        assert_eq!(attributes(&Method::GET, "", Some(&pods), &q).name, "x");
    }
}
