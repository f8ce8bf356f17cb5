//! The fields of the messages that are understood: number, JSON name, type. From Kubernetes' published API, as `messages.txt`
//! lists it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a field is encoded, and how JSON shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A string that JSON leaves out when it is empty.
    Text,
    /// A string that may be empty.
    KeptText,
    Texts,
    Int,
    /// A number that JSON leaves out when it is 0.
    IntOrNone,
    Ints,
    Bool,
    BoolOrNone,
    Bytes,
    Time {
        micro: bool,
    },
    Quantity,
    IntOrString,
    ExtraValue,
    Message(&'static str),
    Messages(&'static str),
    /// A message whose fields JSON shows among those of its parent.
    Inline(&'static str),
    Map(&'static Type),
    /// Not a client's to set.
    Skip,
}

/// Number, name, type.
#[derive(Debug)]
pub struct Field(pub u64, pub &'static str, pub Type);

/// What `messages.txt` says.
struct Table {
    /// By group and kind.
    kinds: BTreeMap<(&'static str, &'static str), &'static str>,
    messages: BTreeMap<&'static str, Vec<Field>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(include_str!("messages.txt")));

impl Table {
    /// A line that is none says nothing; a test sees to it that there is none.
    fn read(text: &'static str) -> Self {
        let (mut kinds, mut messages) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let Some(name) = words.next() else { continue };
            if let Some(group) = name.strip_prefix('@') {
                let group = if group == "core" { "" } else { group };
                kinds.extend(words.map(|word| {
                    let (kind, message) = word.split_once('=').unwrap_or((word, word));
                    ((group, kind), message)
                }));
            } else {
                messages.insert(name, words.filter_map(Field::read).collect());
            }
        }
        Self { kinds, messages }
    }
}

impl Field {
    fn read(word: &'static str) -> Option<Self> {
        let (number, rest) = word.split_once(':')?;
        let (name, kind) = rest.split_once('=')?;
        Some(Self(number.parse().ok()?, name, Type::read(kind)?))
    }
}

impl Type {
    fn read(word: &'static str) -> Option<Self> {
        let is_name = |name: &str| name.starts_with(|c: char| c.is_ascii_uppercase()) || name.contains('.');
        Some(match word {
            "text" => Self::Text,
            "text!" => Self::KeptText,
            "[]text" => Self::Texts,
            "int" => Self::Int,
            "int-" => Self::IntOrNone,
            "[]int" => Self::Ints,
            "bool" => Self::Bool,
            "bool-" => Self::BoolOrNone,
            "bytes" => Self::Bytes,
            "time" => Self::Time { micro: false },
            "micro" => Self::Time { micro: true },
            "quantity" => Self::Quantity,
            "int|text" => Self::IntOrString,
            "map:text" => Self::Map(&Self::Text),
            "map:bytes" => Self::Map(&Self::Bytes),
            "map:quantity" => Self::Map(&Self::Quantity),
            "map:extra" => Self::Map(&Self::ExtraValue),
            "skip" => Self::Skip,
            _ => match (word.strip_prefix("[]"), word.strip_prefix('+')) {
                (Some(name), _) if is_name(name) => Self::Messages(name),
                (_, Some(name)) if is_name(name) => Self::Inline(name),
                (None, None) if is_name(word) => Self::Message(word),
                _ => return None,
            },
        })
    }
}

/// The message of a kind.
pub fn root(api_version: &str, kind: &str) -> Option<&'static str> {
    // Options are sent in the version of the object that they are about.
    if kind == "DeleteOptions" {
        return Some("DeleteOptions");
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    // The table outlives every key; its own are static.
    TABLE
        .kinds
        .iter()
        .find(|((g, k), _)| (*g, *k) == (group, kind))
        .map(|(_, message)| *message)
}

/// The fields of a message.
pub fn fields(message: &str) -> &'static [Field] {
    TABLE.messages.get(message).map_or(&[], Vec::as_slice)
}

/// The description of a field.
pub fn field(message: &str, number: u64) -> Option<&'static Field> {
    fields(message).iter().find(|f| f.0 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_every_message_is_described() {
        let text = include_str!("messages.txt");
        for line in text.lines().filter(|line| !line.starts_with(['#', '@'])) {
            let mut words = line.split(' ');
            let message = words.next().unwrap();
            for word in words {
                let field = Field::read(word).unwrap_or_else(|| panic!("{message}: {word}"));
                if let Type::Message(inner) | Type::Messages(inner) | Type::Inline(inner) = field.2 {
                    assert!(TABLE.messages.contains_key(inner), "{message}: {word}");
                }
            }
        }
        for (kind, message) in &TABLE.kinds {
            assert!(!fields(message).is_empty(), "{kind:?}: {message}");
        }
    }

    #[test]
    fn kinds_of_one_name_are_told_apart_by_their_group() {
        assert_eq!(root("v1", "Event"), Some("Event"));
        assert_eq!(root("events.k8s.io/v1", "Event"), Some("events.Event"));
        assert_eq!(root("apps/v1", "Pod"), None);
        assert_eq!(
            field("PodSpec", 1).map(|f| (f.1, f.2)),
            Some(("volumes", Type::Messages("Volume")))
        );
    }
}
