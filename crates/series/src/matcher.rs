//! Conditions on labels. Regular expressions are anchored at both ends and `.` matches a line's end, as in Prometheus 3.

use crate::Labels;
use regex::Regex;

/// How a label's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

/// A condition on one label; an absent label has the value "".
#[derive(Clone, Debug)]
pub struct Matcher {
    op: MatchOp,
    name: String,
    value: String,
    regex: Option<Regex>,
    literals: Option<Vec<String>>,
}

/// A regular expression that cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[error("the regular expression {pattern:?} for label {name:?} is not valid: {reason}")]
pub struct MatcherError {
    name: String,
    pattern: String,
    reason: String,
}

impl Matcher {
    /// Compiles the pattern where there is one.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, MatcherError> {
        let (name, value) = (name.into(), value.into());
        let (mut regex, mut literals) = (None, None);
        if matches!(op, MatchOp::Regex | MatchOp::NotRegex) {
            // Compiled even when a list of literals does: a bad pattern must be refused in any case.
            let compiled = Regex::new(&format!("^(?s:{value})$")).map_err(|e| MatcherError {
                name: name.clone(),
                pattern: value.clone(),
                reason: e.to_string().lines().last().unwrap_or_default().to_owned(),
            })?;
            literals = alternatives(&value);
            regex = literals.is_none().then_some(compiled);
        }
        Ok(Matcher {
            op,
            name,
            value,
            regex,
            literals,
        })
    }

    /// `name = value`, which cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Matcher {
            op: MatchOp::Equal,
            name: name.into(),
            value: value.into(),
            regex: None,
            literals: None,
        }
    }

    /// The comparison.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value or the pattern.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// For `=`, and `=~` with plain alternatives (`a|b|c`): exactly the values that match.
    pub fn exact_values(&self) -> Option<Vec<&str>> {
        match self.op {
            MatchOp::Equal => Some(vec![&self.value]),
            MatchOp::Regex => self.literals.as_ref().map(|l| l.iter().map(String::as_str).collect()),
            _ => None,
        }
    }

    /// Whether the value of a label satisfies the condition ("" = the label is absent).
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => value == self.value,
            MatchOp::NotEqual => value != self.value,
            MatchOp::Regex => self.pattern_matches(value),
            MatchOp::NotRegex => !self.pattern_matches(value),
        }
    }

    /// Whether a series satisfies the condition.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name))
    }

    fn pattern_matches(&self, value: &str) -> bool {
        match (&self.literals, &self.regex) {
            (Some(literals), _) => literals.iter().any(|l| l == value),
            (None, Some(regex)) => regex.is_match(value),
            (None, None) => false,
        }
    }
}

/// `a|b|c` without any other meaning.
fn alternatives(pattern: &str) -> Option<Vec<String>> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '|' | '/' | ':' | ' ' | '=' | ',');
    pattern
        .chars()
        .all(plain)
        .then(|| pattern.split('|').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored() {
        let m = |op, v: &str| Matcher::new(op, "l", v).unwrap_or_else(|e| panic!("{e}"));
        assert!(m(MatchOp::Regex, "a.c").matches("abc"));
        assert!(!m(MatchOp::Regex, "a.c").matches("xabc"));
        assert!(m(MatchOp::Regex, "a|b").matches("b"));
        assert!(!m(MatchOp::Regex, "a|bc").matches("ac"));
        assert!(m(MatchOp::Regex, "a.*|b").matches("ax\ny"));
        assert!(m(MatchOp::NotRegex, "a+").matches(""));
        assert!(m(MatchOp::Regex, "").matches(""));
        assert!(m(MatchOp::NotEqual, "x").matches(""));
        assert_eq!(m(MatchOp::Regex, "a|b").exact_values(), Some(vec!["a", "b"]));
        assert_eq!(m(MatchOp::Regex, "a|b.").exact_values(), None);
    }

    #[test]
    fn a_bad_pattern_names_label_and_pattern() {
        let error = Matcher::new(MatchOp::Regex, "pod", "a(")
            .map(|_| ())
            .map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("\"pod\"") && e.contains("\"a(\"")));
    }
}
