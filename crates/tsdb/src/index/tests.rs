//! Series come and go; look-ups and matchers see just those that are there.

use super::*;
use proptest::prelude::*;
use weir_series::{MatchOp, Matcher};

fn insert(index: &mut Index, labels: &[(&str, &str)]) -> Id {
    let mut pairs = Vec::new();
    index.intern(labels.iter().copied().filter(|(_, v)| !v.is_empty()), &mut pairs);
    assert_eq!(index.find(&pairs), None);
    let id = index.insert(&pairs);
    assert_eq!(index.find(&pairs), Some(id));
    id
}

fn index() -> Index {
    let mut index = Index::default();
    for (name, pod) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "")] {
        insert(&mut index, &[("__name__", name), ("pod", pod)]);
    }
    index
}

fn find(index: &Index, matchers: &[(MatchOp, &str, &str)]) -> Vec<Id> {
    let matchers: Vec<_> = matchers
        .iter()
        .map(|(op, n, v)| Matcher::new(*op, *n, *v).unwrap_or_else(|e| panic!("{e}")))
        .collect();
    index.matching(&matchers)
}

#[test]
fn finds_series() {
    let index = index();
    use MatchOp::*;
    assert_eq!(find(&index, &[(Equal, "__name__", "a")]), [0, 1]);
    assert_eq!(find(&index, &[(Equal, "__name__", "a"), (NotEqual, "pod", "x")]), [1]);
    assert_eq!(find(&index, &[(NotEqual, "pod", "x")]), [1, 3]);
    assert_eq!(find(&index, &[(Regex, "pod", "x|y"), (Equal, "__name__", "b")]), [2]);
    assert_eq!(find(&index, &[(Regex, "pod", ".+")]), [0, 1, 2]);
    assert_eq!(find(&index, &[(Regex, "pod", ".*")]), [0, 1, 2, 3]);
    assert_eq!(find(&index, &[(NotRegex, "pod", ".+")]), [3]);
    assert_eq!(find(&index, &[(Regex, "pod", "|y")]), [1, 3]);
    assert_eq!(find(&index, &[(NotRegex, "pod", "|y")]), [0, 2]);
    assert_eq!(find(&index, &[(Equal, "pod", "")]), [3]);
    assert_eq!(find(&index, &[(NotEqual, "pod", "")]), [0, 1, 2]);
    assert_eq!(find(&index, &[(Equal, "nothing", "x")]), [0; 0]);
    assert_eq!(find(&index, &[(Equal, "nothing", "")]), [0, 1, 2, 3]);
    assert_eq!(find(&index, &[]), [0, 1, 2, 3]);
}

#[test]
fn forgets_series_and_their_strings() {
    let mut index = index();
    let removals = index.removals();
    index.remove(&[1, 3]);
    assert_eq!(index.len(), 2);
    assert!(index.removals() > removals);
    assert_eq!(find(&index, &[(MatchOp::Equal, "pod", "y")]), [0; 0]);
    assert_eq!(index.label_values("pod").count(), 1);
    while index.sweep() {}
    assert_eq!(find(&index, &[(MatchOp::Equal, "__name__", "b")]), [2]);
    index.remove(&[0, 2, 2]);
    assert_eq!((index.len(), index.label_names().count(), index.pair_bytes), (0, 0, 0));
    // What is free is used again, numbers of series are not.
    assert_eq!(insert(&mut index, &[("c", "z")]), 4);
    assert!(index.pairs.len() == 4 && index.names.len() == 2);
}

proptest! {
    /// Series come and go; the index answers as a list of them would.
    #[test]
    fn answers_like_a_list(
        steps in prop::collection::vec((any::<bool>(), 0..4u8, 0..30u8, 0..3u8, any::<prop::sample::Index>()), 1..800),
        matchers in prop::collection::vec(prop::collection::vec((0..4u8, 0..4u8, 0..12usize), 0..4), 1..20),
    ) {
        let mut index = Index::default();
        let mut list: Vec<(Id, [(&str, String); 3])> = Vec::new();
        for (come, a, b, c, which) in steps {
            if come || list.is_empty() {
                let value = |n: u8| if n == 0 { String::new() } else { format!("v{n}") };
                let labels = [("a", value(a)), ("b", value(b)), ("c", format!("w{c}"))];
                if list.iter().all(|(_, l)| *l != labels) {
                    let pairs: Vec<_> = labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
                    list.push((insert(&mut index, &pairs), labels));
                }
            } else {
                let (id, _) = list.remove(which.index(list.len()));
                index.remove(&[id]);
                if id % 3 == 0 {
                    index.sweep();
                }
            }
        }
        prop_assert_eq!(index.len(), list.len());
        let values = ["", "v1", "v2", "v7", "w0", "w1", ".*", ".+", "v1|v2", "v1.*", "|v1", "none"];
        for matchers in matchers {
            let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
            let name = ["a", "b", "c", "d"];
            let matchers: Vec<_> = matchers
                .into_iter()
                .map(|(o, n, v)| Matcher::new(op[o as usize], name[n as usize], values[v]).unwrap_or_else(|e| panic!("{e}")))
                .collect();
            let found: Vec<Id> = index.matching(&matchers).into_iter().filter(|id| index.pairs_of(*id).is_some()).collect();
            let get = |labels: &[(&str, String); 3], name: &str| {
                labels.iter().find(|(n, _)| *n == name).map_or(String::new(), |(_, v)| v.clone())
            };
            let expected: Vec<Id> = list
                .iter()
                .filter(|(_, labels)| matchers.iter().all(|m| m.matches(&get(labels, m.name()))))
                .map(|(id, _)| *id)
                .collect();
            prop_assert_eq!(found, expected, "{:?}", matchers);
        }
    }
}
