//! The tree: what stands in a file, and what a single value means as a switch or a number.

use serde::{Serialize, Serializer};

/// What stands at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The line where it begins, from 1; 0 where it did not come from a text with lines.
    pub line: usize,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A single value.
    Scalar {
        /// As it was written; what quotes and escapes stand for is resolved.
        text: String,
        /// It stood in quotes, in a block of lines, or behind `!!str`: it is a text, whatever it looks like.
        quoted: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file; every name stands once.
    Mapping(Vec<Entry>),
}

/// A name of a mapping and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The line of the name, from 1; 0 where it is not known.
    pub line: usize,
    /// What it stands for.
    pub value: Node,
}

const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];
const YES: [&str; 11] = ["true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON"];
const NO: [&str; 11] = [
    "false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF",
];

impl Node {
    /// A text in quotes.
    pub fn quoted(line: usize, text: impl Into<String>) -> Node {
        let content = Content::Scalar {
            text: text.into(),
            quoted: true,
        };
        Node { line, content }
    }

    /// A value without quotes.
    pub fn plain(line: usize, text: impl Into<String>) -> Node {
        let content = Content::Scalar {
            text: text.into(),
            quoted: false,
        };
        Node { line, content }
    }

    /// Nothing stands there: it is empty, `~` or `null` without quotes.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, quoted: false } if NULLS.contains(&text.as_str()))
    }

    /// The text of a single value as it was written; "" where nothing stands, None for a list or a mapping.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            _ if self.is_null() => Some(""),
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The position of a switch: every word that YAML 1.1 has for it; in quotes only `true` and `false`.
    pub fn flag(&self) -> Option<bool> {
        let Content::Scalar { text, quoted } = &self.content else {
            return None;
        };
        let known = if *quoted { 1 } else { YES.len() };
        let is = |words: &[&str]| words[..known].contains(&text.as_str());
        is(&YES).then_some(true).or(is(&NO).then_some(false))
    }

    /// A whole number from 0: decimal, `0x1F`, `0b11`, octal (`017`, `0o17`), with `_` between digits, or `1e3`.
    pub fn count(&self) -> Option<u64> {
        let text = self.text()?;
        let digits = text.strip_prefix('+').unwrap_or(text).replace('_', "");
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let bases = [
            ("0x", 16),
            ("0X", 16),
            ("0o", 8),
            ("0O", 8),
            ("0b", 2),
            ("0B", 2),
            ("0", 8),
        ];
        for (prefix, base) in bases {
            // No second sign behind the prefix.
            let rest = digits.strip_prefix(prefix).filter(|rest| !rest.starts_with('+'));
            if let Some(number) = rest.and_then(|rest| u64::from_str_radix(rest, base).ok()) {
                return Some(number);
            }
        }
        let exact = |number: &f64| number.fract() == 0.0 && *number < 9e15;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let of_float = || digits.parse().ok().filter(exact).map(|number| number as u64);
        digits.parse().ok().or_else(of_float)
    }

    /// The value behind a name of a mapping; None where it is missing or nothing stands there.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let entry = self.entries()?.iter().find(|entry| entry.name == name)?;
        Some(&entry.value).filter(|value| !value.is_null())
    }

    /// The line of a name of a mapping; where there is no such name, that of the node.
    pub fn line_of(&self, name: &str) -> usize {
        let entry = self
            .entries()
            .and_then(|all| all.iter().find(|entry| entry.name == name));
        entry.map_or(self.line, |entry| entry.line)
    }

    /// The entries of a mapping.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// What it is, for a message: `a list`.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::List(_) => "a list",
            Content::Mapping(_) => "a mapping",
            Content::Scalar { quoted: true, .. } => "a text",
            _ if self.is_null() => "nothing",
            _ if self.flag().is_some() => "a truth value",
            _ if self.count().is_some() => "a number",
            Content::Scalar { .. } => "a text",
        }
    }

    /// Levels of lists and mappings, and about how many bytes it takes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let own = size_of::<Node>();
        match &self.content {
            Content::Scalar { text, .. } => (0, own + text.len()),
            Content::List(items) => items.iter().fold((1, own), |(depth, bytes), item| {
                let (below, more) = item.size();
                (depth.max(below + 1), bytes + more)
            }),
            Content::Mapping(entries) => entries.iter().fold((1, own), |(depth, bytes), entry| {
                let (below, more) = entry.value.size();
                (
                    depth.max(below + 1),
                    bytes + size_of::<Entry>() + entry.name.len() + more,
                )
            }),
        }
    }
}

impl Serialize for Node {
    /// So that what is written reads back to the same: only what every reader takes for nothing, for a switch or for the same
    /// digits goes out as such, all else as a text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.content {
            Content::List(items) => serializer.collect_seq(items),
            Content::Mapping(entries) => serializer.collect_map(entries.iter().map(|e| (&e.name, &e.value))),
            Content::Scalar { text, quoted: true } => serializer.serialize_str(text),
            Content::Scalar { .. } if self.is_null() => serializer.serialize_unit(),
            Content::Scalar { text, .. } => match (text.as_str(), text.parse::<i64>()) {
                ("true", _) => serializer.serialize_bool(true),
                ("false", _) => serializer.serialize_bool(false),
                (_, Ok(number)) if number.to_string() == *text => serializer.serialize_i64(number),
                _ => serializer.serialize_str(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn a_value_is_what_it_is_asked_for() {
        // (written, as a number, as a switch)
        let table = [
            ("5", Some(5), None),
            ("+5", Some(5), None),
            ("1_000", Some(1000), None),
            ("0x1F", Some(31), None),
            ("0b11", Some(3), None),
            ("010", Some(8), None),
            ("0o10", Some(8), None),
            ("08", Some(8), None),
            ("1e3", Some(1000), None),
            ("0", Some(0), None),
            ("18446744073709551615", Some(u64::MAX), None),
            ("1.5", None, None),
            ("-1", None, None),
            ("++1", None, None),
            ("0x+1", None, None),
            ("inf", None, None),
            (".inf", None, None),
            ("", None, None),
            ("true", None, Some(true)),
            ("TRUE", None, Some(true)),
            ("on", None, Some(true)),
            ("y", None, Some(true)),
            ("no", None, Some(false)),
            ("tRUE", None, None),
        ];
        for (text, count, flag) in table {
            let node = Node::plain(1, text);
            assert_eq!((node.count(), node.flag()), (count, flag), "{text}");
            assert_eq!(node.text(), Some(text));
        }
        assert_eq!(Node::quoted(1, "true").flag(), Some(true));
        assert_eq!(Node::quoted(1, "yes").flag(), None);
        for null in ["~", "null", ""] {
            assert!(Node::plain(1, null).is_null() && !Node::quoted(1, null).is_null());
            assert_eq!(Node::plain(1, null).text(), Some(""));
            assert_eq!(Node::quoted(1, null).text(), Some(null));
        }
    }
}
