//! Which resources a command is about: kinds as people abbreviate them, namespaces and selectors as kubectl's flags
//! say them, and the paths that follow.

use crate::connect::{Cluster, escape};

/// Which objects of a kind.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Selection {
    /// Namespace (default: the context's).
    #[arg(short = 'n', long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Label selector, such as app=foo or 'version in (v1,v2)'.
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    pub selector: String,
    /// How far back to look, such as 30s or 5m (default: the server's, 30s).
    #[arg(long, short = 't', value_name = "DURATION")]
    pub window: Option<String>,
}

/// The plural of a kind as people write it; anything that is not known goes to the server as it is.
pub fn plural(kind: &str) -> String {
    match kind.to_lowercase().as_str() {
        "po" | "pod" | "pods" => "pods".into(),
        "deploy" | "deployment" | "deployments" => "deployments".into(),
        "ns" | "namespace" | "namespaces" => "namespaces".into(),
        other => other.into(),
    }
}

/// Splits `KIND/NAME`, which kubectl takes for `KIND NAME`.
pub fn kind_and_name(kind: &str, name: Option<&str>) -> (String, Option<String>) {
    match (kind.split_once('/'), name) {
        (Some((kind, name)), None) => (plural(kind), Some(name.to_owned())),
        _ => (plural(kind), name.map(str::to_owned)),
    }
}

impl Selection {
    /// The namespace that is meant; `None` = all.
    pub fn namespace<'a>(&'a self, cluster: &'a Cluster, kind: &str) -> Option<&'a str> {
        if self.all_namespaces || kind == "namespaces" {
            return None;
        }
        Some(self.namespace.as_deref().unwrap_or(&cluster.namespace))
    }

    /// The path of one object or of all, with its query.
    pub fn path(&self, base: &str, namespace: Option<&str>, kind: &str, rest: &[&str]) -> String {
        let mut path = base.to_owned();
        if let Some(namespace) = namespace {
            path.push_str(&format!("/namespaces/{}", escape(namespace)));
        }
        path.push_str(&format!("/{}", escape(kind)));
        for part in rest {
            path.push('/');
            path.push_str(&escape(part));
        }
        let parameters = [
            (!self.selector.is_empty()).then(|| format!("labelSelector={}", escape(&self.selector))),
            self.window.as_ref().map(|w| format!("t={}", escape(w))),
        ];
        let query: Vec<String> = parameters.into_iter().flatten().collect();
        if query.is_empty() {
            path
        } else {
            format!("{path}?{}", query.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let selection = Selection {
            selector: "app=foo".into(),
            window: Some("1m".into()),
            ..Default::default()
        };
        let path = selection.path("/apis/g/v1", Some("default"), "pods", &["*", "edges"]);
        assert_eq!(
            path,
            "/apis/g/v1/namespaces/default/pods/%2A/edges?labelSelector=app%3Dfoo&t=1m"
        );
        assert_eq!(
            Selection::default().path("/apis/g/v1", None, "namespaces", &[]),
            "/apis/g/v1/namespaces"
        );
    }

    #[test]
    fn kinds() {
        assert_eq!(
            kind_and_name("deploy", Some("a")),
            ("deployments".into(), Some("a".into()))
        );
        assert_eq!(kind_and_name("po/x", None), ("pods".into(), Some("x".into())));
        assert_eq!(kind_and_name("jobs", None), ("jobs".into(), None));
    }
}
