//! Rule files: YAML text goes in, checked groups come out, or everything that is wrong with it, by file, group and rule.

use super::template::Template;
use crate::parse;
use crate::{engine, format};
use serde_json::{Map, Value as Json};
use std::{collections::BTreeSet, time::Duration};

/// One thing that is wrong with a rule file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}{why}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Group and rule, where it is about one.
    pub place: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Rules that are evaluated together, one after another.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub file: String,
    pub name: String,
    /// Between two evaluations; none: the server's own.
    pub interval: Option<Duration>,
    /// Series or alerts that a rule may give; 0: any number.
    pub limit: usize,
    /// How far in the past it is evaluated; none: the server's own.
    pub query_offset: Option<Duration>,
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The series it records, or the alert.
    pub name: String,
    /// As it stands in the file.
    pub expr: String,
    /// As the API shows it.
    pub pretty: String,
    /// Those of the group too.
    pub labels: Vec<(String, Text)>,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Record,
    Alert {
        hold: Duration,
        keep_firing: Duration,
        annotations: Vec<(String, Text)>,
    },
}

/// A text as it stands and, of alerts, as a template.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub source: String,
    pub template: Option<Template>,
}

/// Reads one file. All problems are told at once.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Group>, Vec<Problem>> {
    let mut reader = Reader {
        file,
        place: String::new(),
        problems: Vec::new(),
    };
    let groups = reader.file(text);
    match reader.problems.is_empty() {
        true => Ok(groups),
        false => Err(reader.problems),
    }
}

struct Reader<'a> {
    file: &'a str,
    place: String,
    problems: Vec<Problem>,
}

const GROUP_FIELDS: &[&str] = &["name", "interval", "query_offset", "limit", "labels", "rules"];
const RECORD_FIELDS: &[&str] = &["record", "expr", "labels"];
const ALERT_FIELDS: &[&str] = &["alert", "expr", "for", "keep_firing_for", "labels", "annotations"];

impl Reader<'_> {
    fn problem(&mut self, why: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            place: self.place.clone(),
            why: why.into(),
        });
    }

    fn file(&mut self, text: &str) -> Vec<Group> {
        // As in the field: `y` and `on` are texts.
        let options = serde_saphyr::options! { strict_booleans: true };
        let parsed = match serde_saphyr::from_str_with_options::<Json>(text, options) {
            Ok(Json::Null) => return Vec::new(),
            Ok(Json::Object(parsed)) => parsed,
            Ok(_) => {
                self.problem("a rule file holds `groups:`");
                return Vec::new();
            }
            Err(error) => {
                self.problem(format!("not YAML: {error}"));
                return Vec::new();
            }
        };
        self.only_known(&parsed, &["groups"]);
        let mut groups = Vec::new();
        let mut names = BTreeSet::new();
        for (at, group) in self.list(&parsed, "groups").iter().enumerate() {
            self.place = format!("group {at}: ");
            let Json::Object(group) = group else {
                self.problem("a group is a mapping with name and rules");
                continue;
            };
            let group = self.group(group);
            if !group.name.is_empty() && !names.insert(group.name.clone()) {
                self.problem("another group of the file has the same name");
            }
            groups.push(group);
        }
        groups
    }

    fn group(&mut self, group: &Map<String, Json>) -> Group {
        let name = self.text(group, "name");
        self.place = format!("group {name:?}: ");
        if name.is_empty() {
            self.problem("it has no name");
        }
        self.only_known(group, GROUP_FIELDS);
        let labels = self.pairs(group, "labels");
        self.check_labels(&labels);
        let interval = self.duration(group, "interval");
        let query_offset = self.duration(group, "query_offset");
        let limit = match group.get("limit") {
            None | Some(Json::Null) => 0,
            Some(limit) => limit.as_u64().and_then(|l| usize::try_from(l).ok()).unwrap_or_else(|| {
                self.problem(format!("limit is {limit}: write a whole number, 0 for none"));
                0
            }),
        };
        let mut rules = Vec::new();
        for (at, rule) in self.list(group, "rules").iter().enumerate() {
            self.place = format!("group {name:?}, rule {at}: ");
            let Json::Object(rule) = rule else {
                self.problem("a rule is a mapping with record or alert, and expr");
                continue;
            };
            rules.extend(self.rule(&name, at, rule, &labels));
        }
        self.place = format!("group {name:?}: ");
        Group {
            file: self.file.to_owned(),
            name,
            interval: interval.filter(|i| !i.is_zero()),
            limit,
            query_offset,
            rules,
        }
    }

    fn rule(&mut self, group: &str, at: usize, rule: &Map<String, Json>, shared: &[(String, String)]) -> Option<Rule> {
        let (record, alert) = (self.text(rule, "record"), self.text(rule, "alert"));
        let alerting = match (record.is_empty(), alert.is_empty()) {
            (false, true) => false,
            (true, false) => true,
            (true, true) => {
                self.problem("it has neither record nor alert");
                return None;
            }
            (false, false) => {
                self.problem("it has both record and alert: make two rules of it");
                return None;
            }
        };
        let name = if alerting { alert } else { record };
        self.place = format!("group {group:?}, rule {at} ({name}): ");
        self.only_known(rule, if alerting { ALERT_FIELDS } else { RECORD_FIELDS });
        if !alerting && !is_metric_name(&name) {
            self.problem(format!(
                "{name:?} is not a metric name: letters, digits, _ and :, no digit first"
            ));
        }
        let expr = self.text(rule, "expr");
        let pretty = match engine::with_parsed(&expr, |parsed| (parsed.kind(), parsed.to_string())) {
            _ if expr.trim().is_empty() => {
                self.problem("expr is missing");
                String::new()
            }
            Ok((kind, text)) => {
                if matches!(kind, parse::Kind::String | parse::Kind::Matrix) {
                    self.problem("expr gives neither an instant vector nor a number");
                }
                text
            }
            Err(error) => {
                self.problem(format!("expr: {error}"));
                String::new()
            }
        };
        let mut labels: Vec<(String, String)> = shared.to_vec();
        let own = self.pairs(rule, "labels");
        self.check_labels(&own);
        labels.retain(|(name, _)| own.iter().all(|(own, _)| own != name));
        labels.extend(own);
        let labels = self.texts("label", labels, alerting);
        let kind = match alerting {
            false => Kind::Record,
            true => {
                let annotations = self.pairs(rule, "annotations");
                Kind::Alert {
                    hold: self.duration(rule, "for").unwrap_or_default(),
                    keep_firing: self.duration(rule, "keep_firing_for").unwrap_or_default(),
                    annotations: self.texts("annotation", annotations, true),
                }
            }
        };
        Some(Rule {
            name,
            expr,
            pretty,
            labels,
            kind,
        })
    }

    fn texts(&mut self, what: &str, pairs: Vec<(String, String)>, templates: bool) -> Vec<(String, Text)> {
        let mut out = Vec::new();
        for (name, source) in pairs {
            let template = match templates.then(|| Template::parse(&source)) {
                None => None,
                Some(Ok(template)) => Some(template),
                Some(Err(why)) => {
                    self.problem(format!("{what} {name:?}: template: {why}"));
                    None
                }
            };
            out.push((name, Text { source, template }));
        }
        out
    }

    fn only_known(&mut self, map: &Map<String, Json>, known: &[&str]) {
        let unknown: Vec<&String> = map.keys().filter(|key| !known.contains(&key.as_str())).collect();
        for key in unknown {
            self.problem(format!(
                "the field {key:?} is not known here; known are {}",
                known.join(", ")
            ));
        }
    }

    fn list<'j>(&mut self, map: &'j Map<String, Json>, name: &str) -> &'j [Json] {
        match map.get(name) {
            None | Some(Json::Null) => &[],
            Some(Json::Array(list)) => list,
            Some(_) => {
                self.problem(format!("{name} is not a list"));
                &[]
            }
        }
    }

    fn text(&mut self, map: &Map<String, Json>, name: &str) -> String {
        match map.get(name) {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(scalar @ (Json::Number(_) | Json::Bool(_))) => scalar.to_string(),
            Some(_) => {
                self.problem(format!("{name} is not a text"));
                String::new()
            }
        }
    }

    fn pairs(&mut self, map: &Map<String, Json>, name: &str) -> Vec<(String, String)> {
        match map.get(name) {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::Object(pairs)) => pairs.keys().map(|key| (key.clone(), self.text(pairs, key))).collect(),
            Some(_) => {
                self.problem(format!("{name} is not a mapping of names to texts"));
                Vec::new()
            }
        }
    }

    fn check_labels(&mut self, labels: &[(String, String)]) {
        for (name, _) in labels {
            let plain = is_metric_name(name) && !name.contains(':');
            if !plain || name == weir_series::names::METRIC_NAME {
                self.problem(format!("{name:?} is not a name for a label here"));
            }
        }
    }

    fn duration(&mut self, map: &Map<String, Json>, name: &str) -> Option<Duration> {
        let text = self.text(map, name);
        if text.is_empty() {
            return None;
        }
        let units = text.ends_with(|c: char| c.is_ascii_alphabetic()) || text == "0";
        let duration = format::parse_duration(&text).filter(|_| units);
        if duration.is_none() {
            self.problem(format!("{name} is {text:?}: write a duration like 30s or 1h30m"));
        }
        duration
    }
}

fn is_metric_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.chars().all(word) && name.starts_with(|c: char| !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_file_group_and_rule() {
        let text = "
groups:
- name: g
  intervall: 5s
  interval: soon
  rules:
  - record: a:b
    expr: sum(
  - record: a-b
    expr: up
    for: 5s
  - alert: Down
    expr: up == 0
    for: 5m
    labels: {severity: '{{ nobody }}', __name__: x}
    annotations: {summary: '{{ $labels.x }}'}
  - expr: up
  - record: a:c
- name: g
";
        let problems = parse("r.yml", text).err().unwrap_or_default();
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        for (at, part) in [
            "r.yml: group \"g\": the field \"intervall\" is not known here",
            "r.yml: group \"g\": interval is \"soon\": write a duration",
            "r.yml: group \"g\", rule 0 (a:b): expr: 1:",
            "r.yml: group \"g\", rule 1 (a-b): the field \"for\" is not known here",
            "r.yml: group \"g\", rule 1 (a-b): \"a-b\" is not a metric name",
            "r.yml: group \"g\", rule 2 (Down): \"__name__\" is not a name for a label",
            "r.yml: group \"g\", rule 2 (Down): label \"severity\": template: the function \"nobody\"",
            "r.yml: group \"g\", rule 3: it has neither record nor alert",
            "r.yml: group \"g\", rule 4 (a:c): expr is missing",
            "r.yml: group \"g\": another group of the file has the same name",
        ]
        .iter()
        .enumerate()
        {
            assert!(
                shown.get(at).is_some_and(|s| s.starts_with(part)),
                "{at}: {part}\n{shown:#?}"
            );
        }
        assert_eq!(shown.len(), 10, "{shown:#?}");
    }

    #[test]
    fn a_group_lends_its_labels() {
        let text = "
groups:
- name: g
  limit: 7
  interval: 1m30s
  query_offset: 10s
  labels: {team: a, tier: x}
  rules:
  - record: a:b
    expr: |
      sum(up)
    labels: {tier: y}
";
        let groups = parse("r.yml", text).unwrap_or_else(|e| panic!("{e:?}"));
        let group = &groups[0];
        assert_eq!(group.interval, Some(Duration::from_secs(90)));
        assert_eq!((group.limit, group.query_offset), (7, Some(Duration::from_secs(10))));
        let labels: Vec<_> = group.rules[0]
            .labels
            .iter()
            .map(|(n, t)| (n.as_str(), t.source.as_str()))
            .collect();
        assert_eq!(labels, [("team", "a"), ("tier", "y")]);
    }
}
