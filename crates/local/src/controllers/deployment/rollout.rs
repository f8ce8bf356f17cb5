//! How large each ReplicaSet of a Deployment shall be next. Pure.

use kube::ResourceExt;

use super::{Bounds, Sets, available, replicas};

/// Sets whose size changes, by name, with their new size.
pub(super) type Scales = Vec<(String, i32)>;

/// Size of the current template's set when it is made.
pub(super) fn first_size(sets: &Sets, bounds: Bounds) -> i32 {
    let others: i32 = sets.old.iter().map(replicas).sum();
    if bounds.recreate {
        // All of the old pods must be gone first.
        return if others == 0 && sets.old.iter().all(is_gone) {
            bounds.replicas
        } else {
            0
        };
    }
    (bounds.max() - others).clamp(0, bounds.replicas)
}

fn is_gone(set: &k8s_openapi::api::apps::v1::ReplicaSet) -> bool {
    set.status
        .as_ref()
        .is_none_or(|status| status.replicas == 0 && status.terminating_replicas.unwrap_or(0) == 0)
}

/// The next step of the roll-out; none when there is nothing to do but wait.
pub(super) fn plan(sets: &Sets, bounds: Bounds) -> Scales {
    let Some(new) = &sets.new else { return Scales::new() };
    let mut scales = Scales::new();
    let size = if bounds.recreate {
        if replicas(new) > bounds.replicas {
            bounds.replicas
        } else {
            first_size(sets, bounds).max(replicas(new))
        }
    } else {
        grow(sets, replicas(new), bounds)
    };
    if size != replicas(new) {
        scales.push((new.name_any(), size));
    }
    if bounds.recreate {
        let running = sets.old.iter().filter(|set| replicas(set) > 0);
        scales.extend(running.map(|set| (set.name_any(), 0)));
    } else {
        shrink(sets, replicas(new), available(new), bounds, &mut scales);
    }
    scales
}

/// The current set grows as far as the surge lets it.
fn grow(sets: &Sets, size: i32, bounds: Bounds) -> i32 {
    if size >= bounds.replicas {
        return bounds.replicas;
    }
    let all: i32 = sets.all().map(replicas).sum();
    size + (bounds.max() - all).clamp(0, bounds.replicas - size)
}

/// Old sets give up pods that are of no use first, then good ones as far as enough remain available.
fn shrink(sets: &Sets, new_size: i32, new_available: i32, bounds: Bounds, scales: &mut Scales) {
    let all: i32 = sets.all().map(replicas).sum();
    let mut spare = all - bounds.min_available() - (new_size - new_available).max(0);
    let mut sizes: Vec<i32> = sets.old.iter().map(replicas).collect();
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let useless = (*size - available(set)).clamp(0, spare.max(0));
        *size -= useless;
        spare -= useless;
    }
    let all_available: i32 = sets.all().map(available).sum();
    // A status may still count pods that its set has given up since: no more than the specs can spare.
    let mut dispensable = (all_available - bounds.min_available()).min(spare).max(0);
    for size in &mut sizes {
        let given = (*size).min(dispensable);
        *size -= given;
        dispensable -= given;
    }
    for (set, size) in sets.old.iter().zip(sizes) {
        if size != replicas(set) {
            scales.push((set.name_any(), size));
        }
    }
}

/// A paused Deployment can be scaled but does not roll: its largest set takes the change.
pub(super) fn scale_paused(sets: &Sets, bounds: Bounds) -> Scales {
    let all: i32 = sets.all().map(replicas).sum();
    let Some(largest) = sets.all().max_by_key(|set| replicas(set)) else {
        return Scales::new();
    };
    let size = (replicas(largest) + bounds.replicas - all).max(0);
    if size == replicas(largest) || (all > bounds.replicas && all <= bounds.max()) {
        return Scales::new();
    }
    vec![(largest.name_any(), size)]
}
