//! Resources of one type in layers: what many nodes share, and what is a node's own.
//!
//! A layer is immutable and shared by `Arc`, so that equal layers are known by their address. What changed from one layer
//! to the next is found once, however many streams ask for it. A name stands in one layer of a node only.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::types::{Resource, hash_of};

/// Resources of one type by name.
pub type Resources = BTreeMap<String, Arc<Resource>>;

/// Names that changed since a layer before.
type Since = (Weak<Layer>, Arc<[String]>);

/// Resources of one type that stand and go together.
#[derive(Debug, Default)]
pub struct Layer {
    resources: Resources,
    /// Of names and versions; the same whatever the order.
    sum: u64,
    /// What changed since one layer before: found when first asked for.
    since: Mutex<Option<Since>>,
}

impl Layer {
    /// A layer of these resources.
    pub fn new(resources: Resources) -> Arc<Self> {
        let sum = sum_of(resources.values());
        Arc::new(Self {
            resources,
            sum,
            since: Mutex::default(),
        })
    }

    /// As [`Layer::new`], but `previous` where that holds the same: equal layers stay the same allocation.
    pub fn renew(previous: &Arc<Self>, resources: Resources) -> Arc<Self> {
        if previous.resources == resources {
            Arc::clone(previous)
        } else {
            Self::new(resources)
        }
    }

    /// The resources by name.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Names that came, went or changed since another layer.
    fn changes_since(&self, before: &Arc<Self>) -> Arc<[String]> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, names)) = &*since
            && known.as_ptr() == Arc::as_ptr(before)
        {
            return Arc::clone(names);
        }
        let names: Arc<[String]> = differing(&before.resources, &self.resources).into();
        // The weak reference keeps the address from being given to another layer.
        *since = Some((Arc::downgrade(before), Arc::clone(&names)));
        names
    }
}

/// The fingerprint of a set of resources.
pub(crate) fn sum_of<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> u64 {
    resources.into_iter().fold(0_u64, |sum, resource| {
        sum.wrapping_add(hash_of(format!("{}\0{}", resource.name, resource.version).as_bytes()))
    })
}

fn differing(before: &Resources, now: &Resources) -> Vec<String> {
    fn next<'a>(entries: &mut Peekable<impl Iterator<Item = (&'a String, &'a Arc<Resource>)>>) -> Option<String> {
        entries.next().map(|(name, _)| name.clone())
    }
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    let mut names = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, x)), Some((b, y))) => {
                if a == b && x == y {
                    old.next();
                    new.next();
                    continue;
                }
                a.cmp(b)
            }
        };
        if order.is_eq() {
            old.next();
        }
        names.extend(if order.is_lt() { next(&mut old) } else { next(&mut new) });
    }
}

/// All resources of one type that a node has. Cloning copies a pointer.
#[derive(Clone, Debug, Default)]
pub struct Layers(Arc<[Arc<Layer>]>);

impl Layers {
    /// One resource.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.0.iter().find_map(|layer| layer.resources.get(name))
    }

    /// Whether there is a resource of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|layer| layer.resources.len()).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names and resources, in order within each layer.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Resource>)> {
        self.0.iter().flat_map(|layer| &layer.resources)
    }

    /// All names.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.iter().map(|(name, _)| name)
    }

    /// All resources.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.iter().map(|(_, resource)| resource)
    }

    /// The last layer: where nodes share layers, what is a node's own.
    pub fn last(&self) -> Option<&Arc<Layer>> {
        self.0.last()
    }

    /// All resources in one map.
    pub fn to_map(&self) -> Resources {
        self.iter()
            .map(|(name, resource)| (name.clone(), Arc::clone(resource)))
            .collect()
    }

    /// The fingerprint of all resources.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, layer| sum.wrapping_add(layer.sum))
    }

    /// These are the very same layers.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.len() == other.0.len() && self.0.iter().zip(&*other.0).all(|(a, b)| Arc::ptr_eq(a, b)))
    }

    /// Lists of names; what came, went or changed since `before` is among them.
    pub fn changes_since(&self, before: &Self) -> Vec<Arc<[String]>> {
        let absent = |layers: &Self| {
            let held: BTreeSet<_> = layers.0.iter().map(Arc::as_ptr).collect();
            move |layer: &&Arc<Layer>| !held.contains(&Arc::as_ptr(layer))
        };
        let gone: Vec<_> = before.0.iter().filter(absent(self)).collect();
        let new: Vec<_> = self.0.iter().filter(absent(before)).collect();
        if gone.len() == new.len() {
            return new
                .into_iter()
                .zip(gone)
                .map(|(now, old)| now.changes_since(old))
                .collect();
        }
        let all = |layer: &Arc<Layer>| layer.resources.keys().cloned().collect();
        gone.into_iter().chain(new).map(all).collect()
    }
}

impl PartialEq for Layers {
    fn eq(&self, other: &Self) -> bool {
        // The fingerprints tell nearly all that differ; it is compared whenever a node is published to.
        self.same(other)
            || (self.sum() == other.sum()
                && self.len() == other.len()
                && self.iter().all(|(name, resource)| other.get(name) == Some(resource)))
    }
}

impl Eq for Layers {}

impl From<Vec<Arc<Layer>>> for Layers {
    fn from(layers: Vec<Arc<Layer>>) -> Self {
        Self(layers.into())
    }
}

impl From<Arc<Layer>> for Layers {
    fn from(layer: Arc<Layer>) -> Self {
        vec![layer].into()
    }
}

impl From<Resources> for Layers {
    fn from(resources: Resources) -> Self {
        Layer::new(resources).into()
    }
}

impl From<Arc<Resources>> for Layers {
    fn from(resources: Arc<Resources>) -> Self {
        Arc::unwrap_or_clone(resources).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ResourceType;

    fn layer(resources: &[(&str, &str)]) -> Arc<Layer> {
        let resource = |(name, body): &(&str, &str)| {
            let resource = Resource::new(ResourceType::Endpoint, *name, body.as_bytes().to_vec());
            ((*name).to_owned(), resource)
        };
        Layer::new(resources.iter().map(resource).collect())
    }

    fn changed(now: &Layers, before: &Layers) -> BTreeSet<String> {
        now.changes_since(before)
            .iter()
            .flat_map(|names| names.to_vec())
            .collect()
    }

    #[test]
    fn what_changed_from_layer_to_layer() {
        let old = layer(&[("a", "1"), ("b", "1"), ("d", "1"), ("e", "1")]);
        let new = layer(&[("a", "1"), ("b", "2"), ("c", "1"), ("e", "1")]);
        let (before, now) = (Layers::from(Arc::clone(&old)), Layers::from(Arc::clone(&new)));
        assert_eq!(changed(&now, &before), ["b", "c", "d"].map(str::to_owned).into());
        assert!(
            Arc::ptr_eq(&new.changes_since(&old), &new.changes_since(&old)),
            "found once"
        );
        assert_eq!(changed(&before, &now), changed(&now, &before));
        assert!(changed(&now, &now).is_empty());
    }

    /// One layer more or less: nothing that differs is missed.
    #[test]
    fn layers_that_come_and_go() {
        let shared = layer(&[("a", "1")]);
        let own = layer(&[("b", "1"), ("c", "1")]);
        let both = Layers::from(vec![Arc::clone(&shared), Arc::clone(&own)]);
        let one = Layers::from(shared);
        assert_eq!(changed(&both, &one), ["b", "c"].map(str::to_owned).into());
        assert_eq!(changed(&one, &both), ["b", "c"].map(str::to_owned).into());
        let other = Layers::from(vec![layer(&[("a", "2")]), own]);
        assert_eq!(changed(&other, &both), ["a".to_owned()].into());
    }

    /// Layers are how resources are held, not what they are.
    #[test]
    fn equal_content_is_equal_in_any_layers() {
        let together = Layers::from(layer(&[("a", "1"), ("b", "1")]));
        let apart = Layers::from(vec![layer(&[("b", "1")]), layer(&[("a", "1")])]);
        assert_eq!(together, apart);
        assert_eq!(together.sum(), apart.sum());
        let other = Layers::from(layer(&[("a", "1"), ("b", "2")]));
        assert_ne!(together, other);
        assert_ne!(together.sum(), other.sum());
    }

    #[test]
    fn an_equal_layer_stays_the_same_allocation() {
        let old = layer(&[("a", "1")]);
        assert!(Arc::ptr_eq(&old, &Layer::renew(&old, old.resources().clone())));
        assert!(!Arc::ptr_eq(&old, &Layer::renew(&old, Resources::new())));
    }
}
