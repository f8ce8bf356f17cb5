//! What is told about metric families beside their samples, bounded in number and bytes.

use std::collections::BTreeMap;
use weir_series::Metadata;

/// Families beyond it are not remembered.
const FAMILIES_MAX: usize = 50_000;
/// All texts together.
const BYTES_MAX: usize = 8 << 20;
/// A longer text ends here.
const TEXT_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Families {
    all: BTreeMap<String, Metadata>,
    bytes: usize,
}

impl Families {
    /// Whether this is known already, as it is told.
    pub fn knows(&self, family: &str, metadata: &Metadata) -> bool {
        self.all.get(family).is_some_and(|known| {
            known.kind == metadata.kind && known.unit == metadata.unit && known.help == cut(&metadata.help)
        })
    }

    /// Remembers; a family beyond the limits is passed over. Returns whether anything changed.
    pub fn put(&mut self, family: &str, metadata: &Metadata) -> bool {
        if family.len() > TEXT_MAX || self.knows(family, metadata) {
            return false;
        }
        let metadata = Metadata {
            kind: cut(&metadata.kind).to_owned(),
            help: cut(&metadata.help).to_owned(),
            unit: cut(&metadata.unit).to_owned(),
        };
        let old = self.all.get(family).map_or(0, |old| size(family, old));
        let bytes = self.bytes - old + size(family, &metadata);
        if bytes > BYTES_MAX || old == 0 && self.all.len() >= FAMILIES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.all.insert(family.to_owned(), metadata);
        true
    }

    /// All of them, or the one that is named, by name.
    pub fn get(&self, family: Option<&str>) -> Vec<(String, Metadata)> {
        match family {
            Some(name) => self
                .all
                .get(name)
                .map(|m| (name.to_owned(), m.clone()))
                .into_iter()
                .collect(),
            None => self.all.iter().map(|(n, m)| (n.clone(), m.clone())).collect(),
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes
    }
}

fn size(family: &str, metadata: &Metadata) -> usize {
    let texts = family.len() + metadata.kind.len() + metadata.help.len() + metadata.unit.len();
    texts + size_of::<String>() + size_of::<Metadata>()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_the_last_one_counts() {
        let mut families = Families::default();
        let help = |help: String| Metadata {
            kind: "gauge".into(),
            help,
            unit: String::new(),
        };
        assert!(families.put("a", &help("x".into())) && !families.put("a", &help("x".into())));
        assert!(families.put("a", &help("ä".repeat(1000))));
        assert_eq!(families.get(Some("a"))[0].1.help.len(), TEXT_MAX);
        assert!(!families.put("a", &help("ä".repeat(1000))));
        for n in 0..20_000 {
            families.put(&format!("b{n}"), &help(format!("{n:01000}")));
        }
        assert!(families.heap_bytes() <= BYTES_MAX && families.get(None).len() > 5000);
        let bytes: usize = families.get(None).iter().map(|(n, m)| size(n, m)).sum();
        assert_eq!(bytes, families.heap_bytes());
    }
}
