//! Which namespaces a Service is for (`traffic.export-to`). It keeps nodes small in large meshes; it protects nothing.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use serde::Serialize;
use weir_api::labels;

use crate::objects::{Key, Objects, object_ref};
use crate::problems::{Problems, field};

/// All namespaces.
const EVERYWHERE: &str = "*";
/// The Service's own namespace.
const OWN: &str = ".";
/// A namespace's name has at most this many characters.
const NAME_MAX: usize = 63;

/// The namespaces whose pods get a Service's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Exports {
    /// Every namespace.
    #[default]
    Everywhere,
    /// These alone.
    To(BTreeSet<String>),
}

impl Exports {
    /// Every namespace gets it.
    pub fn is_everywhere(&self) -> bool {
        *self == Self::Everywhere
    }

    /// Whether a namespace gets it.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.contains(namespace),
        }
    }

    /// To all that either of both reaches.
    pub fn widen(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::To(namespaces), Self::To(more)) => namespaces.extend(more.iter().cloned()),
            (_, Self::Everywhere) => *self = Self::Everywhere,
            (Self::Everywhere, _) => {}
        }
    }
}

/// What a Service says. Entries that mean nothing are told and left out; where nothing else is left, it is for everybody.
pub(crate) fn of_service(key: &Key, object: &Service, objects: &Objects, problems: &mut Problems) -> Exports {
    let meta = &object.metadata;
    let Some(text) = labels::value(meta, labels::EXPORT_TO) else {
        return Exports::Everywhere;
    };
    let this = || object_ref("v1", "Service", meta);
    let mut namespaces = BTreeSet::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry {
            EVERYWHERE => return Exports::Everywhere,
            OWN => drop(namespaces.insert(key.namespace.clone())),
            name if is_namespace(name) => {
                if objects.namespace(name).is_none() {
                    problems.warn(
                        this(),
                        field(meta, labels::EXPORT_TO),
                        format!("there is no namespace {name:?}; it gets this Service when it comes"),
                    );
                }
                namespaces.insert(name.to_owned());
            }
            other => problems.error(
                this(),
                field(meta, labels::EXPORT_TO),
                format!("{other:?} is not a namespace and is left out; write names of namespaces (comma separated), \".\" for the Service's own, or \"*\" for all"),
            ),
        }
    }
    if namespaces.is_empty() {
        if text.trim_matches([',', ' ']).is_empty() {
            problems.error(
                this(),
                field(meta, labels::EXPORT_TO),
                "is empty, and the Service is for all namespaces; write names of namespaces (comma separated), \".\" for the Service's own, or \"*\" for all",
            );
        }
        return Exports::Everywhere;
    }
    Exports::To(namespaces)
}

/// A DNS label, as names of namespaces are.
fn is_namespace(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= NAME_MAX && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Exports, Vec<String>) {
        let mut service = Service::default();
        service.metadata.annotations = Some([(labels::EXPORT_TO.to_owned(), text.to_owned())].into());
        let mut objects = Objects::default();
        for name in ["shop", "team-a"] {
            objects.namespaces.insert(Key::new("", name), std::sync::Arc::default());
        }
        let mut problems = Problems::default();
        let exports = of_service(&Key::new("shop", "web"), &service, &objects, &mut problems);
        (exports, problems.into_sorted().into_iter().map(|p| p.message).collect())
    }

    fn to(namespaces: &[&str]) -> Exports {
        Exports::To(namespaces.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn lists_of_namespaces() {
        assert_eq!(read("*"), (Exports::Everywhere, vec![]));
        assert_eq!(read("."), (to(&["shop"]), vec![]));
        assert_eq!(read(". , team-a"), (to(&["shop", "team-a"]), vec![]));
        assert_eq!(read("team-a,*"), (Exports::Everywhere, vec![]));
    }

    #[test]
    fn what_means_nothing_is_told_and_left_out() {
        let (exports, problems) = read("team-a,Shop!");
        assert_eq!(exports, to(&["team-a"]));
        assert!(problems[0].contains("\"Shop!\" is not a namespace"), "{problems:?}");
        let (exports, problems) = read("none-such");
        assert_eq!(exports, to(&["none-such"]));
        assert!(problems[0].contains("there is no namespace"), "{problems:?}");
        for nothing in ["", " , ", "-a", "a_b"] {
            let (exports, problems) = read(nothing);
            assert_eq!(exports, Exports::Everywhere, "{nothing:?} hides nothing");
            assert_eq!(problems.len(), 1, "{nothing:?}: {problems:?}");
        }
    }

    #[test]
    fn both_reach_what_either_reaches() {
        let mut exports = to(&["a"]);
        exports.widen(&to(&["b"]));
        assert!(exports.reaches("a") && exports.reaches("b") && !exports.reaches("c"));
        exports.widen(&Exports::Everywhere);
        assert!(exports.reaches("c"));
        exports.widen(&to(&["a"]));
        assert!(exports.is_everywhere());
    }
}
