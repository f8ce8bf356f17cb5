//! Rule files: YAML text goes in, checked groups come out, or everything that is wrong with it, by file, group and rule.

use super::template::Template;
use crate::{engine, parse};
use std::{collections::BTreeSet, time::Duration};
use weir_series::duration;
use weir_yaml::{Content, Entry, Node};

/// One thing that is wrong with a rule file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {place}{why}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
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
    fn problem(&mut self, line: usize, why: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line,
            place: self.place.clone(),
            why: why.into(),
        });
    }

    fn file(&mut self, text: &str) -> Vec<Group> {
        let node = match weir_yaml::read(text) {
            Ok(node) => node,
            Err(error) => {
                self.problem(error.line, error.message);
                return Vec::new();
            }
        };
        if node.is_null() {
            return Vec::new();
        }
        if node.entries().is_none() {
            self.problem(node.line, "a rule file holds `groups:`");
            return Vec::new();
        }
        self.only_known(&node, &["groups"]);
        let mut groups = Vec::new();
        let mut names = BTreeSet::new();
        for (at, group) in self.list(&node, "groups").iter().enumerate() {
            self.place = format!("group {at}: ");
            if group.entries().is_none() {
                self.problem(group.line, "a group is a mapping with name and rules");
                continue;
            }
            let line = group.line_of("name");
            let group = self.group(group);
            if !group.name.is_empty() && !names.insert(group.name.clone()) {
                self.problem(line, "another group of the file has the same name");
            }
            groups.push(group);
        }
        groups
    }

    fn group(&mut self, group: &Node) -> Group {
        let name = self.text(group, "name");
        self.place = format!("group {name:?}: ");
        if name.is_empty() {
            self.problem(group.line_of("name"), "it has no name");
        }
        self.only_known(group, GROUP_FIELDS);
        let labels = self.labels(group);
        let interval = self.duration(group, "interval");
        let query_offset = self.duration(group, "query_offset");
        let limit = group
            .get("limit")
            .map_or(Some(0), |limit| usize::try_from(limit.count()?).ok());
        if limit.is_none() {
            let why = "limit must be a whole number, 0 for none";
            self.problem(group.line_of("limit"), why);
        }
        let mut rules = Vec::new();
        for (at, rule) in self.list(group, "rules").iter().enumerate() {
            self.place = format!("group {name:?}, rule {at}: ");
            if rule.entries().is_none() {
                self.problem(rule.line, "a rule is a mapping with record or alert, and expr");
                continue;
            }
            rules.extend(self.rule(&name, at, rule, &labels));
        }
        self.place = format!("group {name:?}: ");
        Group {
            file: self.file.to_owned(),
            name,
            interval: interval.filter(|i| !i.is_zero()),
            limit: limit.unwrap_or(0),
            query_offset,
            rules,
        }
    }

    fn rule(&mut self, group: &str, at: usize, rule: &Node, shared: &[(String, String)]) -> Option<Rule> {
        let (record, alert) = (self.text(rule, "record"), self.text(rule, "alert"));
        let alerting = match (record.is_empty(), alert.is_empty()) {
            (false, true) => false,
            (true, false) => true,
            (true, true) => {
                self.problem(rule.line, "it has neither record nor alert");
                return None;
            }
            (false, false) => {
                self.problem(rule.line, "it has both record and alert: make two rules of it");
                return None;
            }
        };
        let name = if alerting { alert } else { record };
        self.place = format!("group {group:?}, rule {at} ({name}): ");
        self.only_known(rule, if alerting { ALERT_FIELDS } else { RECORD_FIELDS });
        if !alerting && name.contains(['{', '}']) {
            let why = format!("record is {name:?}: a name stands here; what is selected stands in expr");
            self.problem(rule.line_of("record"), why);
        }
        let (expr, line) = (self.text(rule, "expr"), rule.line_of("expr"));
        let pretty = match engine::with_parsed(&expr, |parsed| (parsed.kind(), parsed.to_string())) {
            _ if expr.trim().is_empty() => {
                self.problem(line, "expr is missing");
                String::new()
            }
            Ok((kind, text)) => {
                if matches!(kind, parse::Kind::String | parse::Kind::Matrix) {
                    self.problem(line, "expr gives neither an instant vector nor a number");
                }
                text
            }
            Err(error) => {
                self.problem(line, format!("expr: {error}"));
                String::new()
            }
        };
        let mut labels: Vec<(String, String)> = shared.to_vec();
        let own = self.labels(rule);
        labels.retain(|(name, _)| own.iter().all(|(own, _)| own != name));
        labels.extend(own);
        let labels = self.texts(rule.line_of("labels"), "label", labels, alerting);
        let kind = match alerting {
            false => Kind::Record,
            true => {
                let annotations = self.pairs(rule, "annotations");
                Kind::Alert {
                    hold: self.duration(rule, "for").unwrap_or_default(),
                    keep_firing: self.duration(rule, "keep_firing_for").unwrap_or_default(),
                    annotations: self.texts(rule.line_of("annotations"), "annotation", annotations, true),
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

    fn texts(&mut self, line: usize, what: &str, pairs: Vec<(String, String)>, templates: bool) -> Vec<(String, Text)> {
        let mut out = Vec::new();
        for (name, source) in pairs {
            let template = match templates.then(|| Template::parse(&source)) {
                None => None,
                Some(Ok(template)) => Some(template),
                Some(Err(why)) => {
                    self.problem(line, format!("{what} {name:?}: template: {why}"));
                    None
                }
            };
            out.push((name, Text { source, template }));
        }
        out
    }

    fn only_known(&mut self, node: &Node, known: &[&str]) {
        let unknown = |entry: &&Entry| !known.contains(&entry.name.as_str());
        for entry in node.entries().unwrap_or_default().iter().filter(unknown) {
            let why = format!(
                "the field {:?} is not known here; known are {}",
                entry.name,
                known.join(", ")
            );
            self.problem(entry.line, why);
        }
    }

    fn list<'n>(&mut self, node: &'n Node, name: &str) -> &'n [Node] {
        match node.get(name).map(|value| &value.content) {
            None => &[],
            Some(Content::List(items)) => items,
            Some(_) => {
                self.problem(node.line_of(name), format!("{name} is not a list"));
                &[]
            }
        }
    }

    fn text(&mut self, node: &Node, name: &str) -> String {
        let text = node.get(name).map_or(Some(""), Node::text);
        if text.is_none() {
            self.problem(node.line_of(name), format!("{name} is not a text"));
        }
        text.unwrap_or_default().to_owned()
    }

    /// Names and texts, in the order of the names.
    fn pairs(&mut self, node: &Node, name: &str) -> Vec<(String, String)> {
        let Some(pairs) = node.get(name) else { return Vec::new() };
        let Some(entries) = pairs.entries() else {
            let why = format!("{name} is not a mapping of names to texts");
            self.problem(node.line_of(name), why);
            return Vec::new();
        };
        let pair = |entry: &Entry| (entry.name.clone(), self.text(pairs, &entry.name));
        let mut pairs: Vec<_> = entries.iter().map(pair).collect();
        pairs.sort();
        pairs
    }

    fn labels(&mut self, node: &Node) -> Vec<(String, String)> {
        let labels = self.pairs(node, "labels");
        for (name, _) in &labels {
            if name.is_empty() || name == weir_series::names::METRIC_NAME {
                let line = node.get("labels").map_or(node.line, |labels| labels.line_of(name));
                self.problem(line, format!("{name:?} is not a name for a label here"));
            }
        }
        labels
    }

    fn duration(&mut self, node: &Node, name: &str) -> Option<Duration> {
        let text = self.text(node, name);
        let ms = match text.as_str() {
            "" => return None,
            "0" => Some(0),
            text => duration::parse(text).ok(),
        };
        if ms.is_none() {
            let why = format!("{name} is {text:?}: write a duration like 30s or 1h30m");
            self.problem(node.line_of(name), why);
        }
        ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
    }
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
  - record: up{job='a'}
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
            "r.yml:4: group \"g\": the field \"intervall\" is not known here",
            "r.yml:5: group \"g\": interval is \"soon\": write a duration",
            "r.yml:8: group \"g\", rule 0 (a:b): expr: 1:",
            "r.yml:11: group \"g\", rule 1 (up{job='a'}): the field \"for\" is not known here",
            "r.yml:9: group \"g\", rule 1 (up{job='a'}): record is \"up{job='a'}\": a name",
            "r.yml:15: group \"g\", rule 2 (Down): \"__name__\" is not a name for a label",
            "r.yml:15: group \"g\", rule 2 (Down): label \"severity\": template: the function \"nobody\"",
            "r.yml:17: group \"g\", rule 3: it has neither record nor alert",
            "r.yml:18: group \"g\", rule 4 (a:c): expr is missing",
            "r.yml:19: group \"g\": another group of the file has the same name",
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

    #[test]
    fn texts_without_quotes_stay_as_they_were_written() {
        let text = "
groups:
- name: 007
  limit: 0x10
  interval: 0
  labels: &labels {version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE, inf: .inf}
  rules:
  - record: a.b é
    expr: 1.50
    labels: {zip: 008, nothing: ~}
  - alert: no
    expr: vector(1)
    for: 0
    annotations: {<<: *labels, empty: }
";
        let groups = parse("r.yml", text).unwrap_or_else(|e| panic!("{e:?}"));
        let group = &groups[0];
        assert_eq!((group.name.as_str(), group.limit, group.interval), ("007", 16, None));
        let shown = |pairs: &[(String, Text)]| -> String {
            let pairs: BTreeSet<_> = pairs.iter().map(|(n, t)| format!("{n}={}", t.source)).collect();
            pairs.into_iter().collect::<Vec<_>>().join(" ")
        };
        let [record, alert] = group.rules.as_slice() else {
            panic!("two rules")
        };
        assert_eq!(
            (record.name.as_str(), record.expr.as_str(), alert.name.as_str()),
            ("a.b é", "1.50", "no")
        );
        let written = "country=no exp=1e3 hex=0x1F inf=.inf tr=TRUE under=1_000 version=1.10 y1=y zip=007";
        assert_eq!(shown(&alert.labels), written);
        assert_eq!(
            shown(&record.labels),
            written.replace("tr=", "nothing= tr=").replace("007", "008")
        );
        match &alert.kind {
            Kind::Alert { hold, annotations, .. } => {
                assert_eq!(*hold, Duration::ZERO);
                assert_eq!(shown(annotations), written.replace(" exp=", " empty= exp="));
            }
            Kind::Record => panic!("an alert"),
        }
    }
}
