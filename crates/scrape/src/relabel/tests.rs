//! A table of rules: labels in, labels out.

use super::*;
use crate::config::{ConfigError, Fields};

fn rules(yaml: &str) -> Result<Vec<Rule>, String> {
    let node = crate::config::yaml(&format!("rules:\n{yaml}")).map_err(|e| e.to_string())?;
    let read = |mut fields: Fields| Rule::read_all(fields.list("rules")?);
    Fields::new("", node)
        .and_then(read)
        .map_err(|e| ConfigError { line: None, ..e }.to_string())
}

/// `a=1 b=2`, sorted.
fn after(rules: &[Rule], labels: &str) -> String {
    let mut set: LabelSet = labels.split(' ').filter_map(|pair| pair.split_once('=')).collect();
    if !apply(rules, &mut set) {
        return "dropped".to_owned();
    }
    let mut pairs: Vec<_> = set.iter().map(|(n, v)| format!("{n}={v}")).collect();
    pairs.sort();
    pairs.join(" ")
}

#[test]
fn every_action() {
    // (rules, labels before, labels after)
    let table = [
        (
            "- {source_labels: [a], regex: 'f(.*)', target_label: d, replacement: 'ch${1}-$1'}",
            "a=foo b=bar",
            "a=foo b=bar d=choo-oo",
        ),
        // Anchored at both ends.
        (
            "- {source_labels: [a], regex: o, target_label: d, replacement: x}",
            "a=foo",
            "a=foo",
        ),
        (
            "- {source_labels: [a, b], regex: 'f(.*);(.*)r', target_label: a, replacement: 'b$1${2}m'}",
            "a=foo b=bar",
            "a=boobam b=bar",
        ),
        (
            "- {source_labels: [a, b], separator: '-', target_label: c}",
            "a=1 b=2",
            "a=1 b=2 c=1-2",
        ),
        // No source labels: a constant.
        ("- {target_label: c, replacement: x}", "a=1", "a=1 c=x"),
        // An empty result removes the label.
        ("- {source_labels: [b], target_label: a}", "a=1", ""),
        (
            "- {source_labels: [a], regex: '.*', target_label: a, replacement: ''}",
            "a=1 b=2",
            "b=2",
        ),
        // Groups by name; `$1x` is the group called 1x, which does not exist.
        (
            "- {source_labels: [a], regex: '(?P<x>.)(.*)', target_label: c, replacement: '$x-$1x-${2}'}",
            "a=foo",
            "a=foo c=f--oo",
        ),
        (
            "- {source_labels: [a], target_label: c, replacement: '$$1'}",
            "a=foo",
            "a=foo c=$1",
        ),
        // The target label from the source.
        (
            "- {source_labels: [a], regex: '(.*)_(.*)', target_label: 'x_${1}', replacement: '$2'}",
            "a=foo_1",
            "a=foo_1 x_foo=1",
        ),
        ("- {source_labels: [a], regex: fo+, action: keep}", "a=foo", "a=foo"),
        ("- {source_labels: [a], regex: fo, action: keep}", "a=foo", "dropped"),
        ("- {source_labels: [a], regex: fo+, action: drop}", "a=foo", "dropped"),
        (
            "- {source_labels: [gone], regex: '.+', action: keep}",
            "a=foo",
            "dropped",
        ),
        (
            "- {source_labels: [a, b], regex: 'foo;', action: drop}",
            "a=foo",
            "dropped",
        ),
        (
            "- {source_labels: [a], target_label: b, action: keepequal}",
            "a=1 b=1",
            "a=1 b=1",
        ),
        (
            "- {source_labels: [a], target_label: b, action: keepequal}",
            "a=1 b=2",
            "dropped",
        ),
        (
            "- {source_labels: [a], target_label: b, action: dropequal}",
            "a=1 b=1",
            "dropped",
        ),
        (
            "- {source_labels: [a], target_label: b, action: dropequal}",
            "a=1 b=2",
            "a=1 b=2",
        ),
        // Known values: shards must be the same as everybody's.
        (
            "- {source_labels: [c], target_label: d, modulus: 1000, action: hashmod}",
            "c=baz",
            "c=baz d=976",
        ),
        (
            "- {source_labels: [c], target_label: d, modulus: 1000, action: hashmod}",
            "a=foo b=bar c=foo\nbar",
            "a=foo b=bar c=foo\nbar d=734",
        ),
        (
            "- {regex: 'b(.*)', replacement: 'x_$1', action: labelmap}",
            "a=1 b1=2 b2=3",
            "a=1 b1=2 b2=3 x_1=2 x_2=3",
        ),
        (
            "- {regex: '__meta_(.+)', action: labelmap}",
            "__meta_x=1",
            "__meta_x=1 x=1",
        ),
        ("- {regex: 'b.*', action: labeldrop}", "a=1 b1=2 b2=3", "a=1"),
        ("- {regex: 'b.*', action: labelkeep}", "a=1 b1=2 b2=3", "b1=2 b2=3"),
        (
            "- {source_labels: [a], target_label: a, action: lowercase}",
            "a=FooÄ",
            "a=fooä",
        ),
        (
            "- {source_labels: [a], target_label: b, action: Uppercase}",
            "a=Foo",
            "a=Foo b=FOO",
        ),
        // One after the other; nothing after a drop.
        (
            "- {source_labels: [a], target_label: b}\n- {source_labels: [b], regex: foo, action: keep}\n- {regex: b, action: labeldrop}",
            "a=foo",
            "a=foo",
        ),
        // A dot takes line feeds too.
        (
            "- {source_labels: [a], regex: 'f.o', action: drop}",
            "a=f\no",
            "dropped",
        ),
    ];
    for (yaml, before, expected) in table {
        let rules = rules(yaml).unwrap_or_else(|e| panic!("{yaml}: {e}"));
        assert_eq!(after(&rules, before), expected, "{yaml} on {before}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        (
            "- {action: keeep}",
            "rules[0].action: \"keeep\" is no action; there are replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, lowercase, uppercase",
        ),
        (
            "- {source_labels: [a]}",
            "rules[0].target_label: this action needs the label that it sets or compares",
        ),
        (
            "- {source_labels: [a], target_label: b, action: hashmod}",
            "rules[0].modulus: hashmod needs a number of 1 or more",
        ),
        (
            "- {source_labels: [a], regex: '(', action: keep}",
            "rules[0].regex: \"(\" is no regular expression of RE2's syntax",
        ),
        (
            "- {source_labels: [a], action: labeldrop}",
            "rules[0].source_labels: this action does not use it: remove it",
        ),
        (
            "- {source_labels: a, action: keep}",
            "rules[0].source_labels: a list must stand here, not a text",
        ),
        (
            "- {action: keep, sourcelabels: [a]}",
            "rules[0].sourcelabels: there is no such field here; there are action, modulus, regex, replacement, separator, source_labels, target_label",
        ),
    ];
    for (yaml, message) in table {
        assert_eq!(rules(yaml).err().as_deref(), Some(message), "{yaml}");
    }
}
