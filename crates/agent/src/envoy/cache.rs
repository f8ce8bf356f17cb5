//! The resources that Envoy has accepted, kept on disk: an Envoy that starts while the control plane is away gets them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use prost::Message as _;

/// Accepted resources by type and name.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    types: BTreeMap<String, BTreeMap<String, Resource>>,
    changed: bool,
}

impl Cache {
    /// Reads what an earlier supervisor has left. An unreadable file counts as none.
    pub fn open(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let mut rest = bytes.as_slice();
        let mut cache = Self {
            path,
            types: BTreeMap::new(),
            changed: false,
        };
        while !rest.is_empty() {
            match DeltaDiscoveryResponse::decode_length_delimited(&mut rest) {
                Ok(response) => cache.apply(&response),
                Err(error) => {
                    tracing::warn!(path = %cache.path.display(), %error, "kept configuration is unreadable from here on");
                    break;
                }
            }
        }
        cache.changed = false;
        cache
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.types.values().all(BTreeMap::is_empty)
    }

    /// Takes over what Envoy has accepted.
    pub fn apply(&mut self, response: &DeltaDiscoveryResponse) {
        let resources = self.types.entry(response.type_url.clone()).or_default();
        for name in &response.removed_resources {
            resources.remove(name);
        }
        // A resource without a body only repeats that it is known.
        for resource in response.resources.iter().filter(|r| r.resource.is_some()) {
            resources.insert(resource.name.clone(), resource.clone());
        }
        self.changed = true;
    }

    /// Forgets what Envoy does not want any more.
    pub fn forget(&mut self, type_url: &str, names: &[String]) {
        if let Some(resources) = self.types.get_mut(type_url) {
            for name in names {
                self.changed |= resources.remove(name).is_some();
            }
        }
    }

    /// All resources of a type.
    pub fn of(&self, type_url: &str) -> impl Iterator<Item = &Resource> {
        self.types.get(type_url).into_iter().flat_map(BTreeMap::values)
    }

    /// What to write, where, if something changed since the last time.
    pub fn unwritten(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut bytes = Vec::new();
        for (type_url, resources) in &self.types {
            let resources = resources.values().cloned().collect();
            let response = DeltaDiscoveryResponse {
                type_url: type_url.clone(),
                resources,
                ..Default::default()
            };
            bytes.extend(response.encode_length_delimited_to_vec());
        }
        Some((self.path.clone(), bytes))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    fn response(names: &[&str], removed: &[&str]) -> DeltaDiscoveryResponse {
        let resource = |name: &&str| Resource {
            name: (*name).to_owned(),
            version: "1".into(),
            resource: Some(Any {
                type_url: "t".into(),
                value: vec![1],
            }),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            type_url: "t".into(),
            resources: names.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn kept_over_a_restart_and_rubbish_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xds.pb");
        let mut cache = Cache::open(path.clone());
        assert!(cache.is_empty() && cache.unwritten().is_none());
        cache.apply(&response(&["a", "b", "c"], &[]));
        cache.apply(&response(&[], &["b"]));
        cache.forget("t", &["c".to_owned()]);
        let (_, bytes) = cache.unwritten().unwrap();
        assert!(cache.unwritten().is_none());
        std::fs::write(&path, &bytes).unwrap();
        let again = Cache::open(path.clone());
        assert_eq!(again.of("t").map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a"]);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Cache::open(path).is_empty());
    }
}
