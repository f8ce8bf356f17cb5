//! Label and field selectors as they stand in a URL: `app=foo,version in (a,b),!canary`, `metadata.name=x`.

use std::collections::BTreeMap;

/// Why a selector cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct InvalidSelector(String);

/// All requirements must hold; none = everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    /// As Kubernetes has it, an absent label satisfies it.
    NotIn(Vec<String>),
    Exists,
    Absent,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Parses the text of a `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        split_requirements(text)
            .into_iter()
            .map(parse_requirement)
            .collect::<Result<_, _>>()
            .map(LabelSelector)
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// Whether it means everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements of the form `key = value`.
    pub fn match_labels(&self) -> BTreeMap<String, String> {
        let single = |r: &Requirement| match &r.test {
            Test::In(values) if values.len() == 1 => Some((r.key.clone(), values[0].clone())),
            _ => None,
        };
        self.0.iter().filter_map(single).collect()
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Test::NotIn(values) => !value.is_some_and(|v| values.iter().any(|x| x == v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Test::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Splits at commas that are not inside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    if parts == [""] {
        parts.clear();
    }
    parts
}

fn parse_requirement(text: &str) -> Result<Requirement, InvalidSelector> {
    let invalid = |why: &str| InvalidSelector(format!("{text:?}: {why}"));
    let key = |k: &str| -> Result<String, InvalidSelector> {
        let k = k.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if k.is_empty() || !k.chars().all(legal) {
            return Err(invalid("that is not a label key"));
        }
        Ok(k.to_owned())
    };
    let value = |v: &str| -> Result<String, InvalidSelector> {
        let v = v.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !v.chars().all(legal) {
            return Err(invalid("that is not a label value"));
        }
        Ok(v.to_owned())
    };
    let done = |k: &str, test| Ok(Requirement { key: key(k)?, test });

    if let Some(open) = text.find('(') {
        let inner = text[open + 1..]
            .strip_suffix(')')
            .ok_or_else(|| invalid("the parenthesis does not end"))?;
        let values = inner.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = text[..open].split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(k), Some("in"), None) => done(k, Test::In(values)),
            (Some(k), Some("notin"), None) => done(k, Test::NotIn(values)),
            _ => Err(invalid("write KEY in (A,B) or KEY notin (A,B)")),
        };
    }
    if let Some((k, v)) = text.split_once("!=") {
        return done(k, Test::NotIn(vec![value(v)?]));
    }
    if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return done(k, Test::In(vec![value(v)?]));
    }
    let number = |v: &str| {
        v.trim()
            .parse()
            .map_err(|_| invalid("only whole numbers can be compared"))
    };
    if let Some((k, v)) = text.split_once('>') {
        return done(k, Test::GreaterThan(number(v)?));
    }
    if let Some((k, v)) = text.split_once('<') {
        return done(k, Test::LessThan(number(v)?));
    }
    match text.strip_prefix('!') {
        Some(k) => done(k, Test::Absent),
        None => done(text, Test::Exists),
    }
}

/// Conditions on `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldRequirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    on_name: bool,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the text of a `fieldSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let invalid = |part: &str, why: &str| InvalidSelector(format!("{part:?}: {why}"));
        let requirement = |part: &str| {
            let (field, equal, value) = match part.split_once("!=") {
                Some((field, value)) => (field, false, value),
                None => match part.split_once("==").or_else(|| part.split_once('=')) {
                    Some((field, value)) => (field, true, value),
                    None => return Err(invalid(part, "write FIELD=VALUE or FIELD!=VALUE")),
                },
            };
            let on_name = match field.trim() {
                "metadata.name" => true,
                "metadata.namespace" => false,
                _ => {
                    return Err(invalid(
                        part,
                        "only metadata.name and metadata.namespace can be selected",
                    ));
                }
            };
            Ok(FieldRequirement {
                on_name,
                equal,
                value: value.trim().to_owned(),
            })
        };
        text.split(',')
            .filter(|p| !p.trim().is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(FieldSelector)
    }

    /// Whether the object of that name is meant.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        self.0
            .iter()
            .all(|r| (r.value == if r.on_name { name } else { namespace }) == r.equal)
    }

    /// The one name that can match, as far as authorization is concerned.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|r| r.on_name && r.equal).map(|r| r.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_kubectl_sends() {
        let foo = labels(&[("app", "foo"), ("version", "a"), ("n", "5")]);
        for (text, expected) in [
            ("", true),
            ("app=foo", true),
            ("app==foo,version in (a,b)", true),
            ("version in (c, b)", false),
            ("version notin (c)", true),
            ("other notin (c)", true),
            ("app!=foo", false),
            ("other!=x", true),
            ("app", true),
            ("!app", false),
            ("! other", true),
            ("n>4,n<6", true),
            ("n > 5", false),
            ("app=", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(&foo), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "a=b,",
            "in (a)",
            "a in b",
            "a in (b",
            "a b",
            "=x",
            "a>b",
            "a=b=c",
            "a in (b),,c",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        assert!(FieldSelector::parse("status.phase=Running").is_err());
    }

    #[test]
    fn equality_part() {
        let selector = LabelSelector::parse("app=foo,version in (a,b),x in (y)").unwrap();
        assert_eq!(selector.match_labels(), labels(&[("app", "foo"), ("x", "y")]));
    }

    #[test]
    fn fields() {
        let selector = FieldSelector::parse("metadata.name=a,metadata.namespace!=x").unwrap();
        assert!(selector.matches("default", "a"));
        assert!(!selector.matches("x", "a"));
        assert!(!selector.matches("default", "b"));
        assert_eq!(selector.name(), Some("a"));
    }
}
