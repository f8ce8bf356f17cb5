//! `/api/v1/targets` and `/api/v1/scrape_pools`, from all that the scraper shows.

use super::params::Params;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

const ACTIVE: &str = "activeTargets";
const DROPPED: &str = "droppedTargets";
const COUNTS: &str = "droppedTargetCounts";
const POOL: &str = "scrapePool";

/// Those of the parameters `state` (`active`, `dropped`, else both) and `scrapePool`.
pub(super) fn wanted(mut all: Json, params: &Params) -> Json {
    let state = params.get("state").unwrap_or_default();
    for (list, other) in [(ACTIVE, "dropped"), (DROPPED, "active")] {
        if state == other {
            all[list] = json!([]);
        }
    }
    if let Some(pool) = params.get(POOL).filter(|pool| !pool.is_empty()) {
        for list in [ACTIVE, DROPPED] {
            if let Some(targets) = all[list].as_array_mut() {
                targets.retain(|target| target[POOL] == pool);
            }
        }
        if let Some(counts) = all[COUNTS].as_object_mut() {
            counts.retain(|name, _| name == pool);
        }
    }
    all
}

/// The names of all jobs, also of those without a target.
pub(super) fn pools(all: &Json) -> Json {
    let counted = all[COUNTS]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    let active = all[ACTIVE]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|target| target[POOL].as_str());
    let names: BTreeSet<&str> = counted.chain(active).collect();
    json!({ "scrapePools": names })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Json {
        json!({
            ACTIVE: [{POOL: "a", "n": 1}, {POOL: "b", "n": 2}],
            DROPPED: [{POOL: "b", "n": 3}],
            COUNTS: {"a": 0, "b": 1, "empty": 0},
        })
    }

    fn asked(query: &str) -> Vec<i64> {
        let mut params = Params::default();
        params.add(query);
        let json = wanted(all(), &params);
        let lists = [ACTIVE, DROPPED].map(|list| json[list].as_array().cloned().unwrap_or_default());
        lists
            .concat()
            .iter()
            .filter_map(|target| target["n"].as_i64())
            .collect()
    }

    #[test]
    fn targets_are_chosen_by_state_and_pool() {
        assert_eq!(asked(""), [1, 2, 3]);
        assert_eq!(asked("state=any"), [1, 2, 3]);
        assert_eq!(asked("state=active"), [1, 2]);
        assert_eq!(asked("state=dropped"), [3]);
        assert_eq!(asked("scrapePool=b"), [2, 3]);
        assert_eq!(asked("scrapePool=b&state=active"), [2]);
        assert_eq!(pools(&all()), json!({ "scrapePools": ["a", "b", "empty"] }));
    }
}
