//! Rules and alerts as the API shows them.

use super::alert::{Alert, State};
use super::file::{Kind, Rule, Text};
use super::group::{RuleState, Shown};
use crate::engine;
use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use weir_series::{Labels, Matcher};

/// Which rules are asked for; empty fields ask for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleFilter {
    /// `alert` or `record`.
    pub kind: String,
    /// Names of rules.
    pub names: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// Names of files.
    pub files: Vec<String>,
    /// Selectors of rules' labels.
    pub matchers: Vec<String>,
    /// Rules without their alerts.
    pub exclude_alerts: bool,
}

impl RuleFilter {
    /// What is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), String> {
        Wanted::new(self).map(|_| ())
    }
}

/// A filter that was understood.
pub(super) struct Wanted<'a> {
    filter: &'a RuleFilter,
    matchers: Vec<Vec<Matcher>>,
}

impl<'a> Wanted<'a> {
    pub fn new(filter: &'a RuleFilter) -> Result<Self, String> {
        if !matches!(filter.kind.as_str(), "" | "alert" | "record") {
            return Err(format!("the type is {:?}: give alert or record", filter.kind));
        }
        let matchers = filter
            .matchers
            .iter()
            .map(|m| engine::selector(m))
            .collect::<Result<_, _>>();
        let matchers = matchers.map_err(|e| e.to_string())?;
        Ok(Wanted { filter, matchers })
    }

    fn wants_rule(&self, rule: &Rule) -> bool {
        let filter = self.filter;
        let kind = match rule.kind {
            Kind::Record => "record",
            Kind::Alert { .. } => "alert",
        };
        let labels = Labels::new(rule.labels.iter().map(|(n, t)| (n.as_str(), t.source.as_str())));
        (filter.kind.is_empty() || filter.kind == kind)
            && (filter.names.is_empty() || filter.names.contains(&rule.name))
            && (self.matchers.is_empty()
                || self
                    .matchers
                    .iter()
                    .any(|all| all.iter().all(|m| m.matches_labels(&labels))))
    }

    /// None where nothing of the group is asked for.
    pub fn group(&self, shown: &Shown) -> Option<Json> {
        let group = &shown.group;
        let filter = self.filter;
        if !(filter.groups.is_empty() || filter.groups.contains(&group.name))
            || !(filter.files.is_empty() || filter.files.contains(&group.file))
        {
            return None;
        }
        let rules = group
            .rules
            .iter()
            .zip(&shown.states)
            .filter(|(rule, _)| self.wants_rule(rule));
        let rules: Vec<Json> = rules
            .map(|(rule, state)| show(rule, state, filter.exclude_alerts))
            .collect();
        if rules.is_empty() && !group.rules.is_empty() {
            return None;
        }
        Some(json!({
            "name": group.name,
            "file": group.file,
            "interval": shown.interval.as_secs_f64(),
            "limit": group.limit,
            "rules": rules,
            "evaluationTime": shown.took.as_secs_f64(),
            "lastEvaluation": time(shown.evaluated_ms),
        }))
    }
}

fn show(rule: &Rule, state: &RuleState, without_alerts: bool) -> Json {
    let texts = |pairs: &[(String, Text)]| -> Map<String, Json> {
        pairs
            .iter()
            .map(|(name, text)| (name.clone(), json!(text.source)))
            .collect()
    };
    let health = match (state.evaluated, state.error.is_empty()) {
        (false, _) => "unknown",
        (true, true) => "ok",
        (true, false) => "err",
    };
    let mut shown = json!({
        "name": rule.name,
        "query": rule.pretty,
        "health": health,
        "evaluationTime": state.took.as_secs_f64(),
        "lastEvaluation": time(state.evaluated_ms),
    });
    if !state.error.is_empty() {
        shown["lastError"] = json!(state.error);
    }
    match &rule.kind {
        Kind::Record => {
            shown["type"] = json!("recording");
            if !rule.labels.is_empty() {
                shown["labels"] = json!(texts(&rule.labels));
            }
        }
        Kind::Alert {
            hold,
            keep_firing,
            annotations,
        } => {
            let active = state.alerts.values().filter(|a| a.state != State::Inactive);
            let alerts: Vec<Json> = active.map(alert).collect();
            let highest = state.alerts.values().map(|a| a.state).max().unwrap_or(State::Inactive);
            shown["type"] = json!("alerting");
            shown["state"] = json!(highest.name());
            shown["duration"] = json!(hold.as_secs_f64());
            shown["keepFiringFor"] = json!(keep_firing.as_secs_f64());
            shown["labels"] = json!(texts(&rule.labels));
            shown["annotations"] = json!(texts(annotations));
            shown["alerts"] = json!(if without_alerts { Vec::new() } else { alerts });
        }
    }
    shown
}

/// An alert that is pending or firing.
pub(super) fn alert(alert: &Alert) -> Json {
    let mut shown = json!({
        "labels": alert.labels,
        "annotations": alert.annotations,
        "state": alert.state.name(),
        "activeAt": time(alert.active_ms),
        "value": super::template::scientific(alert.value),
    });
    if let Some(since) = alert.keep_since_ms {
        shown["keepFiringSince"] = json!(time(since));
    }
    shown
}

/// RFC 3339; year 1 where nothing has happened yet, as the API writes it.
pub(super) fn time(ms: i64) -> String {
    match ms {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        ms => Timestamp::from_millisecond(ms).unwrap_or_default().to_string(),
    }
}
