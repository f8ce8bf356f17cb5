//! Texts of every kind: what they are read as, and what is said of wrong ones.

use super::*;
use proptest::prelude::*;

/// A tree on one line: texts in quotes, plain values without.
fn shown(node: &Node) -> String {
    match &node.content {
        Content::Scalar { text, quoted: true } => format!("{text:?}"),
        Content::Scalar { text, .. } => text.clone(),
        Content::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Content::Mapping(entries) => {
            let entry = |e: &Entry| format!("{}: {}", e.name, shown(&e.value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

fn wrong(text: &str) -> String {
    match read(text) {
        Ok(node) => panic!("{text:?} was read as {}", shown(&node)),
        Err(Error { line, message }) => format!("{line}: {message}"),
    }
}

#[test]
fn values_keep_their_text() {
    let line = "{version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE, inf: .inf, \
                day: 2001-01-01, time: 1:30, nothing: ~, empty: , quoted: \"007\", single: 'no', str: !!str 1.0, int: !!int 1_0}";
    let expected = "{version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE, inf: .inf, \
                    day: 2001-01-01, time: 1:30, nothing: ~, empty: ~, quoted: \"007\", single: \"no\", str: \"1.0\", int: 1_0}";
    assert_eq!(shown(&read(line).unwrap()), expected);
}

#[test]
fn every_kind_of_text() {
    // (text, tree)
    let table = [
        ("", ""),
        ("# nothing\n\n", ""),
        ("---\n", "~"),
        ("---\na: 1\n---\n", "{a: 1}"),
        ("a:\nb: [x, {c: d}]\n", "{a: ~, b: [x, {c: d}]}"),
        (
            "a: |\n  one\n  two\nb: >-\n  one\n  two\n",
            "{a: \"one\\ntwo\\n\", b: \"one two\"}",
        ),
        ("a: |\n  one", "{a: \"one\"}"),
        ("a: {\"b\":\"\\u00e9\\ud83d\\ude00\\/\"}", "{a: {b: \"é😀/\"}}"),
        ("a: &x [1, 2]\nb: *x\n", "{a: [1, 2], b: [1, 2]}"),
        ("a: &x 007\nb: *x\n", "{a: 007, b: 007}"),
        // What a mapping says itself counts, wherever the merge stands; of several the first.
        (
            "a: &x {b: 1, c: 2}\nd: {b: 3, <<: *x}\n",
            "{a: {b: 1, c: 2}, d: {b: 3, c: 2}}",
        ),
        (
            "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n",
            "{a: {b: 1, c: 2}, d: {b: 3, c: 2}}",
        ),
        (
            "- &x {b: 1}\n- &y {b: 2, c: 3}\n- {<<: [*x, *y]}",
            "[{b: 1}, {b: 2, c: 3}, {b: 1, c: 3}]",
        ),
        ("{\"<<\": a}", "{<<: a}"),
        ("1.10: a\nno: b\n", "{1.10: a, no: b}"),
    ];
    for (text, tree) in table {
        assert_eq!(read(text).map(|node| shown(&node)).as_deref(), Ok(tree), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    // (text, line and message)
    let table = [
        ("a: 1\nb: 2\na: 3\n", "3: \"a\" stands twice here, first in line 1"),
        ("a:\n  - &x [*x]\n", "2: an alias stands within what it stands for"),
        (
            "a: 1\nb:\n  <<: 5\n",
            "3: behind << stands a mapping or a list of mappings",
        ),
        ("a: 1\n---\nb: 2\n", "3: a second document begins here: one is read"),
        ("a: 1\n[b]: 2\n", "2: a name must stand before the colon, not a list"),
        (
            "a: 1\nb: !!binary aGVsbG8=\n",
            "2: the tag !!binary is not supported: remove it",
        ),
        ("a: !secret x\n", "1: the tag !secret is not supported: remove it"),
    ];
    for (text, message) in table {
        assert_eq!(wrong(text), message, "{text}");
    }
    for (text, line) in [
        ("a: 1\nb: [x\n", 2),
        ("a: 1\n\tb: 2\n", 1),
        ("a: *x\n", 1),
        ("a: b: c\n", 1),
    ] {
        let message = wrong(text);
        assert!(
            message.starts_with(&format!("{line}: is no YAML: ")),
            "{text:?}: {message}"
        );
    }
}

#[test]
fn lines_are_those_of_the_names() {
    let node = read("a: 1\n\nb:\n  c:\n  - d\n").unwrap();
    let lines: Vec<_> = node.entries().unwrap().iter().map(|e| (e.line, e.value.line)).collect();
    assert_eq!(lines, [(1, 1), (3, 4)]);
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| format!("{}x{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(wrong(&nested(MAX_DEPTH + 1)), "1: is nested deeper than 64 levels");
    let block: String = (0..=MAX_DEPTH).map(|at| format!("{}a:\n", " ".repeat(at))).collect();
    assert!(wrong(&block).ends_with("is nested deeper than 64 levels"));
    // Each alias is a level deeper than the one before.
    let mut aliases = "- &a0 [x]\n".to_owned();
    aliases.extend((1..=MAX_DEPTH).map(|at| format!("- &a{at} [*a{}]\n", at - 1)));
    assert_eq!(wrong(&aliases), "64: is nested deeper than 64 levels");
    // Far beyond what the parser itself takes.
    assert!(wrong(&"[".repeat(100_000)).starts_with("1: "));
    assert!(wrong(&"- ".repeat(100_000)).starts_with("1: "));
}

#[test]
fn what_aliases_repeat_is_bounded() {
    let mut laughs = "- &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for at in 1..12 {
        let ten = format!("*a{}, ", at - 1).repeat(10);
        laughs.push_str(&format!("- &a{at} [{ten}]\n"));
    }
    let message = wrong(&laughs);
    assert!(
        message.ends_with("aliases repeat more than 16 MiB in all: write fewer"),
        "{message}"
    );
    // One large text many times.
    let large = format!("- &a {}\n{}", "x".repeat(1 << 20), "- *a\n".repeat(17));
    assert!(wrong(&large).ends_with("write fewer"));
    // What honest files do.
    let honest = format!("- &a {{b: c, d: [e, f]}}\n{}", "- {<<: *a, g: h}\n".repeat(10_000));
    assert!(read(&honest).is_ok());
}

/// Trees of what is hard to write: looks like something else, is empty, has signs and line feeds in it.
fn trees() -> impl Strategy<Value = Node> {
    let text = prop_oneof![
        prop::sample::select(vec![
            "",
            "~",
            "null",
            "no",
            "y",
            "TRUE",
            "007",
            "1.10",
            "0x1F",
            "1_000",
            "1e3",
            ".inf",
            ".NaN",
            "-1",
            "5",
            "1:30",
            "2001-01-01",
            "<<",
            "=",
            "*a",
            "&a",
            "!a",
            "a: b",
            "a #b",
            "#",
            "- a",
            "?",
            "{",
            "[]",
            "'",
            "\"",
            "%",
            "@",
            "`",
            "a\nb\n",
            " a ",
            "\ta",
            "---",
            "...",
            "é",
            "\u{feff}",
            "\u{85}",
            "true",
            "false",
            "|",
            ">",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
        "\\PC{0,8}",
    ];
    let scalar = (text.clone(), any::<bool>()).prop_map(|(text, quoted)| match quoted {
        true => Node::quoted(0, text),
        false => Node::plain(0, text),
    });
    scalar.prop_recursive(4, 32, 5, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5).prop_map(Content::List);
        let mapping = prop::collection::btree_map(text.clone(), inner, 0..5).prop_map(|entries| {
            let entry = |(name, value)| Entry { name, line: 0, value };
            Content::Mapping(entries.into_iter().map(entry).collect())
        });
        prop_oneof![list, mapping].prop_map(|content| Node { line: 0, content })
    })
}

/// Without lines, and with texts for all values that nobody takes for anything else.
fn bare(node: &Node) -> String {
    match &node.content {
        _ if node.is_null() => "~".to_owned(),
        Content::Scalar { text, .. } => format!("{text:?}"),
        Content::List(items) => format!("[{}]", items.iter().map(bare).collect::<Vec<_>>().join(", ")),
        Content::Mapping(entries) => {
            let entry = |e: &Entry| format!("{:?}: {}", e.name, bare(&e.value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

proptest! {
    /// A tree that is written reads back to the same texts.
    #[test]
    fn what_is_written_reads_back(tree in trees()) {
        let text = serde_saphyr::to_string(&tree).unwrap();
        let again = read(&text).map_err(|e| TestCaseError::fail(format!("{e:?}\n{text}")))?;
        prop_assert_eq!(bare(&again), bare(&tree), "{}", text);
    }

    /// Whatever comes in, there is a tree or an error.
    #[test]
    fn any_text_is_read_or_refused(parts in prop::collection::vec(prop::sample::select(vec![
        "a", "b", ": ", ":", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<", "!!str ", "!x ", "'", "\"", "|\n",
        ">\n", "# c\n", "---\n", "...\n", "? ", "%YAML 1.2\n", "\t", "1.10", "\u{feff}", "é",
    ]), 0..40)) {
        let text = parts.concat();
        if let Err(error) = read(&text) {
            prop_assert!(error.line >= 1 && !error.message.is_empty(), "{:?}: {:?}", text, error);
        }
    }
}
