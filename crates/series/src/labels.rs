//! The identity of a series: sorted, unique, non-empty name/value pairs, cheap to clone and to share.

use crate::{
    exposition::{escape_value, quoted_label, quoted_metric},
    names::METRIC_NAME,
};
use std::{fmt, hash::Hasher, sync::Arc};

/// One name/value pair. Both parts are shared, so that a store may intern them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// Label name.
    pub name: Arc<str>,
    /// Label value, never empty inside [`Labels`].
    pub value: Arc<str>,
}

/// Sorted by name, names unique, values never empty (an empty value means "no such label").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Label]>);

impl Default for Labels {
    fn default() -> Self {
        Labels(Arc::new([]))
    }
}

impl Labels {
    /// Any pairs in any order; of equal names the last one counts, empty values drop out.
    pub fn new<N: Into<Arc<str>>, V: Into<Arc<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self::from_vec(
            pairs
                .into_iter()
                .map(|(name, value)| Label {
                    name: name.into(),
                    value: value.into(),
                })
                .collect(),
        )
    }

    /// As [`Labels::new`], from labels that exist already.
    pub fn from_vec(mut labels: Vec<Label>) -> Self {
        if !labels.is_sorted_by(|a, b| a.name < b.name) {
            labels.sort_by(|a, b| a.name.cmp(&b.name));
            // `dedup_by` keeps the first of a run: move the later value into it.
            labels.dedup_by(|later, first| {
                let same = later.name == first.name;
                if same {
                    std::mem::swap(&mut first.value, &mut later.value);
                }
                same
            });
        }
        labels.retain(|l| !l.value.is_empty());
        Labels(labels.into())
    }

    /// The value of a label, "" when it is absent.
    pub fn get(&self, name: &str) -> &str {
        match self.0.binary_search_by(|l| l.name.as_ref().cmp(name)) {
            Ok(i) => &self.0[i].value,
            Err(_) => "",
        }
    }

    /// The metric's name, "" without one.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// All pairs in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Label> + Clone {
        self.0.iter()
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only the labels for which `keep` says so.
    pub fn filter(&self, mut keep: impl FnMut(&Label) -> bool) -> Labels {
        if self.0.iter().all(&mut keep) {
            return self.clone();
        }
        Labels(self.0.iter().filter(|l| keep(l)).cloned().collect())
    }

    /// Without the metric's name.
    pub fn without_name(&self) -> Labels {
        self.filter(|l| l.name.as_ref() != METRIC_NAME)
    }

    /// Begins a changed copy.
    pub fn builder(&self) -> LabelsBuilder {
        LabelsBuilder {
            labels: self.0.to_vec(),
        }
    }

    /// The same for equal labels within one process; good enough to key a hash map, not to prove equality.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = rapidhash::fast::RapidHasher::default();
        for label in self.0.iter() {
            hasher.write(label.name.as_bytes());
            hasher.write_u8(0xff);
            hasher.write(label.value.as_bytes());
            hasher.write_u8(0xff);
        }
        hasher.finish()
    }
}

impl fmt::Display for Labels {
    /// `name{a="b"}`, values escaped as in the text format; names of other characters in quotes: `{"a.b",c="d"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = quoted_metric(self.metric_name());
        let mut separator = match name.starts_with('"') {
            true => {
                write!(f, "{{{name}")?;
                ","
            }
            false => {
                write!(f, "{name}{{")?;
                ""
            }
        };
        for label in self.0.iter().filter(|l| l.name.as_ref() != METRIC_NAME) {
            let mut value = String::new();
            escape_value(&mut value, &label.value);
            write!(f, "{separator}{}=\"{value}\"", quoted_label(&label.name))?;
            separator = ",";
        }
        f.write_str("}")
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|l| (l.name.as_ref(), l.value.as_ref())))
    }
}

/// A changed copy of [`Labels`] in the making.
#[derive(Debug, Default)]
pub struct LabelsBuilder {
    labels: Vec<Label>,
}

impl LabelsBuilder {
    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> &mut Self {
        let (name, value) = (name.into(), value.into());
        self.labels.retain(|l| l.name != name);
        self.labels.push(Label { name, value });
        self
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.labels.retain(|l| l.name.as_ref() != name);
        self
    }

    /// The finished labels.
    pub fn build(&mut self) -> Labels {
        Labels::from_vec(std::mem::take(&mut self.labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_deduplicates_and_drops_empty_values() {
        let labels = Labels::new([("b", "1"), ("a", "2"), ("b", "3"), ("c", "")]);
        assert_eq!(labels.to_string(), r#"{a="2",b="3"}"#);
        assert_eq!(labels.get("c"), "");
        assert_eq!(labels, Labels::new([("a", "2"), ("b", "3")]));
        assert_eq!(
            labels.fingerprint(),
            Labels::new([("b", "3"), ("a", "2")]).fingerprint()
        );
        assert_ne!(
            labels.fingerprint(),
            Labels::new([("a", "2b"), ("", "3")]).fingerprint()
        );
    }

    #[test]
    fn builder_sets_and_removes() {
        let labels = Labels::new([(METRIC_NAME, "up"), ("job", "x")]);
        assert_eq!(
            labels.builder().set("job", "y\"\n").set("a", "b").build().to_string(),
            "up{a=\"b\",job=\"y\\\"\\n\"}"
        );
        assert_eq!(labels.builder().remove("job").build().to_string(), "up{}");
        assert_eq!(labels.without_name().metric_name(), "");
    }

    #[test]
    fn names_of_other_characters_stand_in_quotes() {
        for (name, label, shown) in [
            ("a:b", "c", r#"a:b{c="x"}"#),
            ("a.b", "c", r#"{"a.b",c="x"}"#),
            ("é\"", "c:d", r#"{"é\"","c:d"="x"}"#),
            ("", "1", r#"{"1"="x"}"#),
            ("9", "c", r#"{"9",c="x"}"#),
        ] {
            let labels = Labels::new([(METRIC_NAME, name), (label, "x")]);
            assert_eq!(labels.to_string(), shown);
        }
        assert_eq!(Labels::new([(METRIC_NAME, "a b")]).to_string(), r#"{"a b"}"#);
    }
}
