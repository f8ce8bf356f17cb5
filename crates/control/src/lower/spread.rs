//! Resources by who gets them: most are for everybody, some for the pods of a few namespaces alone.
//!
//! Enters: the resources of one type, and which of their names are for whom. Leaves: the layers of a namespace's nodes,
//! each shared by all that have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_mesh::Exports;
use weir_xds::{Layer, Layers, Resource, ResourceType, Resources};

/// Whom a name is for; those that are not named here are for everybody.
pub(super) type Narrow = BTreeMap<String, Exports>;

/// Resources of one type by who gets them. Every layer is there from the start, so that layers of one node always pair with
/// those it had before.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    /// For every node.
    everybody: Arc<Layer>,
    /// All others.
    narrow: Arc<Layer>,
    /// Of those, what is for the pods of a namespace.
    by_namespace: BTreeMap<String, Arc<Layer>>,
    /// Of those, what is for the pods of all other namespaces: what only a few consumers have in another form.
    unnamed: Arc<Layer>,
}

impl Spread {
    /// Spreads resources; layers that hold what they held before stay the same allocation.
    pub(super) fn new(resources: Resources, narrow: &Narrow, previous: &Self) -> Self {
        Self::with_consumers(resources, narrow, BTreeMap::new(), previous)
    }

    /// As [`Spread::new`]; in a namespace of `consumers` its own resources take the place of those of the same names, as far
    /// as that namespace gets them at all.
    pub(super) fn with_consumers(
        resources: Resources,
        narrow: &Narrow,
        consumers: BTreeMap<&str, Resources>,
        previous: &Self,
    ) -> Self {
        let (mut everybody, mut others) = (resources, Resources::new());
        let mut by_namespace: BTreeMap<&str, Resources> = BTreeMap::new();
        for (name, exports) in narrow {
            let Exports::To(namespaces) = exports else { continue };
            let Some(resource) = everybody.remove(name) else {
                continue;
            };
            for namespace in namespaces {
                let of = by_namespace.entry(namespace).or_default();
                of.insert(name.clone(), Arc::clone(&resource));
            }
            others.insert(name.clone(), resource);
        }
        // What is not the same for all is told to each namespace by itself, and to all that are not named.
        let mut elsewhere = Resources::new();
        for name in consumers.values().flat_map(Resources::keys) {
            if let Some(general) = everybody.remove(name) {
                elsewhere.insert(name.clone(), general);
            }
        }
        for namespace in consumers.keys() {
            by_namespace.entry(namespace).or_default();
        }
        for of in by_namespace.values_mut().chain([&mut others]) {
            let shared = elsewhere.iter();
            of.extend(shared.map(|(name, general)| (name.clone(), Arc::clone(general))));
        }
        for (namespace, resources) in consumers {
            let of = by_namespace.entry(namespace).or_default();
            for (name, resource) in resources {
                if let Some(general) = of.get_mut(&name) {
                    *general = resource;
                }
            }
        }
        let layer = |(namespace, resources): (&str, Resources)| {
            let layer = match previous.by_namespace.get(namespace) {
                Some(old) => Layer::renew(old, resources),
                None => Layer::new(resources),
            };
            (namespace.to_owned(), layer)
        };
        Self {
            everybody: Layer::renew(&previous.everybody, everybody),
            narrow: Layer::renew(&previous.narrow, others),
            by_namespace: by_namespace.into_iter().map(layer).collect(),
            unnamed: Layer::renew(&previous.unnamed, elsewhere),
        }
    }

    /// The same with resources of before that everybody keeps for a while.
    pub(super) fn and(&self, names: &BTreeSet<String>, previous: &Self) -> Self {
        let mut everybody = self.everybody.resources().clone();
        for name in names {
            if let Some(resource) = previous.everybody.resources().get(name) {
                everybody.entry(name.clone()).or_insert_with(|| Arc::clone(resource));
            }
        }
        Self {
            everybody: Layer::renew(&previous.everybody, everybody),
            ..self.clone()
        }
    }

    /// One resource, whoever it is for.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.everybody
            .resources()
            .get(name)
            .or_else(|| self.narrow.resources().get(name))
    }

    /// One resource as a namespace gets it that has its own.
    pub(super) fn of_consumers(&self, namespace: &str, name: &str) -> Option<&Arc<Resource>> {
        self.by_namespace.get(namespace)?.resources().get(name)
    }

    /// What the nodes of a namespace get.
    pub(super) fn of(&self, namespace: &str) -> Vec<Arc<Layer>> {
        let own = self.by_namespace.get(namespace).unwrap_or(&self.unnamed);
        vec![Arc::clone(&self.everybody), Arc::clone(own)]
    }

    /// All there is.
    pub(super) fn all(&self) -> Layers {
        vec![Arc::clone(&self.everybody), Arc::clone(&self.narrow)].into()
    }

    /// Namespaces that get something which not everybody gets.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.by_namespace.keys()
    }
}

/// Whoever gets a resource gets the clusters it refers to, with their endpoints, whatever the Services behind these ask for.
pub(super) fn widen<'a>(narrow: &mut Narrow, referring: impl Iterator<Item = &'a Arc<Resource>>) {
    let mut wider: BTreeMap<String, Exports> = BTreeMap::new();
    for resource in referring {
        let reach = narrow.get(&resource.name).cloned().unwrap_or_default();
        let clusters = resource
            .references()
            .iter()
            .filter(|(ty, _)| *ty == ResourceType::Cluster);
        for (_, name) in clusters.filter(|(_, name)| *name != resource.name && narrow.contains_key(name)) {
            wider
                .entry(name.clone())
                .and_modify(|known| known.widen(&reach))
                .or_insert_with(|| reach.clone());
        }
    }
    for (name, reach) in wider {
        if let Some(known) = narrow.get_mut(&name) {
            known.widen(&reach);
        }
    }
    narrow.retain(|_, exports| !exports.is_everywhere());
}

/// The narrow ones of these.
pub(super) fn narrow(names: impl IntoIterator<Item = (String, Exports)>) -> Narrow {
    names
        .into_iter()
        .filter(|(_, exports)| !exports.is_everywhere())
        .collect()
}

/// Every namespace that counts for some of these, and one that counts for none.
pub(super) fn views<'a>(spreads: impl IntoIterator<Item = &'a Spread>) -> BTreeSet<String> {
    let named = spreads.into_iter().flat_map(Spread::namespaces).cloned();
    named.chain([String::new()]).collect()
}
