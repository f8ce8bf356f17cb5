//! One rule: what it says in the configuration, and what it does.

use super::LabelSet;
use crate::config::{ConfigError, Fields};
use md5::{Digest, Md5};
use regex::{Captures, Regex};
use weir_yaml::Node;

/// What a rule does with the values of its source labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

const ACTIONS: [(&str, Action); 11] = [
    ("replace", Action::Replace),
    ("keep", Action::Keep),
    ("drop", Action::Drop),
    ("keepequal", Action::KeepEqual),
    ("dropequal", Action::DropEqual),
    ("hashmod", Action::HashMod),
    ("labelmap", Action::LabelMap),
    ("labeldrop", Action::LabelDrop),
    ("labelkeep", Action::LabelKeep),
    ("lowercase", Action::Lowercase),
    ("uppercase", Action::Uppercase),
];

/// A relabelling rule; made by [`Rule::read`] only, which checks it.
#[derive(Clone, Debug)]
pub struct Rule {
    source_labels: Vec<String>,
    separator: String,
    regex: Regex,
    modulus: u64,
    target_label: String,
    replacement: String,
    action: Action,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let plain = |r: &Rule| (r.source_labels.clone(), r.separator.clone(), r.modulus, r.action);
        plain(self) == plain(other)
            && self.regex.as_str() == other.regex.as_str()
            && self.target_label == other.target_label
            && self.replacement == other.replacement
    }
}

impl Rule {
    /// Reads the rules of a list (`relabel_configs`, `metric_relabel_configs`).
    pub(crate) fn read_all(items: Vec<(String, Node)>) -> Result<Vec<Rule>, ConfigError> {
        let read = |(path, node)| Rule::read(Fields::new(path, node)?);
        items.into_iter().map(read).collect()
    }

    /// Reads a rule.
    pub(crate) fn read(mut fields: Fields) -> Result<Rule, ConfigError> {
        let source_labels = fields.texts("source_labels")?;
        let separator = fields.text("separator")?;
        let modulus = fields.count("modulus")?;
        let target_label = fields.text("target_label")?;
        let replacement = fields.text("replacement")?;
        let pattern = fields.text("regex")?;
        let action = match fields.text("action")?.map(|word| word.to_lowercase()) {
            None => Action::Replace,
            Some(word) => match ACTIONS.iter().find(|(name, _)| *name == word) {
                Some((_, action)) => *action,
                None => {
                    let known: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).collect();
                    let message = format!("{word:?} is no action; there are {}", known.join(", "));
                    return Err(fields.error("action", message));
                }
            },
        };
        let needs_target = !matches!(
            action,
            Action::Keep | Action::Drop | Action::LabelMap | Action::LabelDrop | Action::LabelKeep
        );
        if needs_target && target_label.as_deref().unwrap_or_default().is_empty() {
            return Err(fields.error("target_label", "this action needs the label that it sets or compares"));
        }
        if action == Action::HashMod && modulus.unwrap_or(0) == 0 {
            return Err(fields.error("modulus", "hashmod needs a number of 1 or more"));
        }
        let only_compares = matches!(action, Action::KeepEqual | Action::DropEqual);
        let only_names = matches!(action, Action::LabelDrop | Action::LabelKeep);
        let superfluous = [
            ("source_labels", !source_labels.is_empty() && only_names),
            ("separator", separator.is_some() && (only_names || only_compares)),
            ("modulus", modulus.is_some() && (only_names || only_compares)),
            ("target_label", target_label.is_some() && only_names),
            ("replacement", replacement.is_some() && (only_names || only_compares)),
            ("regex", pattern.is_some() && only_compares),
        ];
        if let Some((field, _)) = superfluous.iter().find(|(_, wrong)| *wrong) {
            return Err(fields.error(field, "this action does not use it: remove it"));
        }
        let pattern = pattern.unwrap_or_else(|| "(.*)".to_owned());
        let regex = Regex::new(&format!("^(?s:{pattern})$"))
            .map_err(|_| fields.error("regex", format!("{pattern:?} is no regular expression of RE2's syntax")))?;
        fields.finish()?;
        Ok(Rule {
            source_labels,
            separator: separator.unwrap_or_else(|| ";".to_owned()),
            regex,
            modulus: modulus.unwrap_or(0),
            target_label: target_label.unwrap_or_default(),
            replacement: replacement.unwrap_or_else(|| "$1".to_owned()),
            action,
        })
    }

    /// False when the rule drops what the labels stand for.
    pub(super) fn apply(&self, labels: &mut LabelSet) -> bool {
        match self.action {
            Action::Keep => return self.regex.is_match(&self.source(labels)),
            Action::Drop => return !self.regex.is_match(&self.source(labels)),
            Action::KeepEqual => return labels.get(&self.target_label) == self.source(labels),
            Action::DropEqual => return labels.get(&self.target_label) != self.source(labels),
            Action::Replace => self.replace(labels),
            Action::HashMod => {
                let bucket = hash(&self.source(labels)) % self.modulus;
                labels.set(&self.target_label, bucket.to_string());
            }
            Action::Lowercase => labels.set(&self.target_label, self.source(labels).to_lowercase()),
            Action::Uppercase => labels.set(&self.target_label, self.source(labels).to_uppercase()),
            Action::LabelDrop => labels.retain(|name| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name| self.regex.is_match(name)),
            Action::LabelMap => {
                let mapped: Vec<(String, String)> = labels
                    .iter()
                    .filter_map(|(name, value)| {
                        Some((
                            self.expand(&self.replacement, &self.regex.captures(name)?),
                            value.to_owned(),
                        ))
                    })
                    .filter(|(name, _)| !name.is_empty())
                    .collect();
                mapped.into_iter().for_each(|(name, value)| labels.set(&name, value));
            }
        }
        true
    }

    fn replace(&self, labels: &mut LabelSet) {
        let source = self.source(labels);
        let Some(captures) = self.regex.captures(&source) else {
            return;
        };
        let target = self.expand(&self.target_label, &captures);
        if target.is_empty() {
            return;
        }
        let value = self.expand(&self.replacement, &captures);
        labels.set(&target, value);
    }

    fn source(&self, labels: &LabelSet) -> String {
        let values: Vec<&str> = self.source_labels.iter().map(|name| labels.get(name)).collect();
        values.join(&self.separator)
    }

    fn expand(&self, template: &str, captures: &Captures<'_>) -> String {
        let mut out = String::new();
        captures.expand(template, &mut out);
        out
    }
}

/// The last eight bytes of the MD5 sum, as every program that shards by `hashmod` computes it.
fn hash(text: &str) -> u64 {
    let sum = Md5::digest(text.as_bytes());
    sum.iter().skip(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}
