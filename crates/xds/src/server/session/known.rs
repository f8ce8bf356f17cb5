//! What a client has of one type of resources.
//!
//! Nearly always that is all there is, so it is kept as the layers of a snapshot, which all clients share, and what
//! differs from them: a client that is up to date costs nothing for each of its resources.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::layers::Layers;
use crate::types::Resource;

/// A resource in order of its name.
#[derive(Clone, Debug)]
pub(super) struct ByName(pub(super) Arc<Resource>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    base: Layers,
    /// What it has beside the base, or in place of what stands there.
    own: BTreeSet<ByName>,
    /// Names of the base that it does not have; none of them is in `own`.
    lacks: BTreeSet<String>,
    len: usize,
}

impl Known {
    /// How many resources there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        match self.own.get(name) {
            Some(ByName(resource)) => Some(resource),
            None if self.lacks.contains(name) => None,
            None => self.base.get(name),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let untouched = |r: &&Arc<Resource>| !self.own.contains(r.name.as_str()) && !self.lacks.contains(&r.name);
        let own = self.own.iter().map(|ByName(resource)| resource);
        self.base.values().filter(untouched).chain(own)
    }

    /// Puts a resource in; the one that it replaces comes out.
    pub(super) fn replace(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        let before = self.get(&resource.name).cloned();
        self.len += usize::from(before.is_none());
        self.lacks.remove(&resource.name);
        let same = |r: &Arc<Resource>| Arc::ptr_eq(r, &resource);
        if self.base.get(&resource.name).is_some_and(same) {
            self.own.remove(resource.name.as_str());
        } else {
            self.own.replace(ByName(resource));
        }
        before
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        if !self.contains(name) {
            return false;
        }
        self.own.remove(name);
        if self.base.contains_key(name) {
            self.lacks.insert(name.to_owned());
        }
        self.len -= 1;
        true
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.iter().map(|r| &r.name).filter(|n| !keep(n)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    /// These layers hold what is known, resource by resource: from here on they stand for it.
    pub(super) fn stands_for(&mut self, layers: &Layers) {
        debug_assert!(
            layers.len() == self.len
                && layers
                    .iter()
                    .all(|(name, r)| self.get(name).is_some_and(|known| known.version == r.version))
        );
        self.base = layers.clone();
        self.own.clear();
        self.lacks.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::layers::Layer;
    use crate::types::ResourceType;

    fn resource(name: u8, body: u8) -> Arc<Resource> {
        Resource::new(ResourceType::Route, format!("r{name}"), vec![body])
    }

    #[derive(Clone, Debug)]
    enum Step {
        Replace(u8, u8),
        Remove(u8),
        Retain(u8),
        /// What is known becomes the base.
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..8u8, 0..3u8).prop_map(|(name, body)| Step::Replace(name, body)),
            3 => (0..8u8).prop_map(Step::Remove),
            1 => (0..8u8).prop_map(Step::Retain),
            2 => Just(Step::Settle),
        ]
    }

    proptest! {
        /// It is a plain map, however often the base changes.
        #[test]
        fn as_a_map(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut known, mut map) = (Known::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Replace(name, body) => {
                        let new = resource(name, body);
                        prop_assert_eq!(known.replace(Arc::clone(&new)), map.insert(new.name.clone(), new));
                    }
                    Step::Remove(name) => {
                        let name = format!("r{name}");
                        prop_assert_eq!(known.remove(&name), map.remove(&name).is_some());
                    }
                    Step::Retain(below) => {
                        let keep = |name: &str| name < format!("r{below}").as_str();
                        known.retain(keep);
                        map.retain(|name, _| keep(name));
                    }
                    Step::Settle => known.stands_for(&Layers::from(vec![Layer::new(map.clone())])),
                }
                let all: BTreeMap<_, _> = known.iter().map(|r| (r.name.clone(), Arc::clone(r))).collect();
                prop_assert_eq!(&all, &map);
                prop_assert_eq!(known.len(), map.len());
                for name in 0..8 {
                    let name = format!("r{name}");
                    prop_assert_eq!(known.get(&name), map.get(&name));
                    prop_assert_eq!(known.contains(&name), map.contains_key(&name));
                }
            }
        }
    }
}
