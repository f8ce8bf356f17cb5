//! One group at work: a time goes in, samples go to the store and alerts to whoever tells people about them.

use super::alert::{Alert, State, millis};
use super::file::{Group, Kind, Rule};
use super::template::{Data, Found};
use super::{Config, Outgoing};
use crate::{Engine, Value};
use rapidhash::RapidHashMap;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_series::{Append, AppendError, Histogram, Labels, Sample, SeriesRef, is_stale, names, stale_nan};

/// What is told of a rule beside its text.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleState {
    pub error: String,
    pub evaluated: bool,
    pub took: Duration,
    pub evaluated_ms: i64,
    pub alerts: BTreeMap<Labels, Alert>,
}

/// What is known of a rule and told nobody.
#[derive(Debug, Default)]
struct Memory {
    /// Series that the last evaluation wrote: those that vanish end with a staleness marker of their kind.
    written: BTreeMap<Labels, Written>,
    restored: bool,
}

/// A group as it stood after its last evaluation.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub group: Arc<Group>,
    /// Between two evaluations.
    pub interval: Duration,
    pub states: Vec<RuleState>,
    pub took: Duration,
    pub evaluated_ms: i64,
}

/// A group with its state.
#[derive(Debug)]
pub(super) struct Running {
    pub shown: Shown,
    /// Another one goes on with what this one knew: it has nothing to evaluate with any more.
    inherited: bool,
    memories: Vec<Memory>,
    refs: RapidHashMap<Labels, SeriesRef>,
}

/// Handles of series that are remembered; beyond, they are looked up again.
const MAX_REFS: usize = 100_000;
/// How far back a restart looks for alerts that were pending or firing.
const RESTORE_MS: i64 = 60 * 60 * 1000;
/// What a restored alert still waits at least before it fires; those that are held shorter begin anew.
const GRACE_MS: i64 = 10 * 60 * 1000;

/// What one evaluation gave.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub outgoing: Vec<Outgoing>,
    pub failures: u64,
    pub refused: u64,
}

impl Running {
    /// `interval` is that of groups that name none.
    pub fn new(group: Group, interval: Duration) -> Self {
        Running {
            inherited: false,
            memories: group.rules.iter().map(|_| Memory::default()).collect(),
            refs: RapidHashMap::default(),
            shown: Shown {
                states: group.rules.iter().map(|_| RuleState::default()).collect(),
                interval: group.interval.unwrap_or(interval),
                group: Arc::new(group),
                took: Duration::ZERO,
                evaluated_ms: 0,
            },
        }
    }

    /// Evaluates the rules in their order, each over what those before it have just written. None where another group has
    /// inherited from this one.
    pub fn evaluate(&mut self, now_ms: i64, engine: &Engine, store: &dyn Append, config: &Config) -> Option<Outcome> {
        if self.inherited {
            return None;
        }
        let started = Instant::now();
        let offset = millis(self.shown.group.query_offset.unwrap_or(config.query_offset));
        let at_ms = now_ms - offset;
        let mut outcome = Outcome::default();
        let group = self.shown.group.clone();
        let states = self.shown.states.iter_mut().zip(&mut self.memories);
        for (rule, (state, memory)) in group.rules.iter().zip(states) {
            let rule_started = Instant::now();
            let result = evaluate(rule, state, memory, at_ms, group.limit, engine, config);
            (state.evaluated, state.evaluated_ms) = (true, now_ms);
            match result {
                Ok(samples) => {
                    state.error.clear();
                    let kinds = samples.iter().map(|(labels, value)| (labels.clone(), value.kind()));
                    let written: BTreeMap<Labels, Written> = kinds.collect();
                    let gone = std::mem::take(&mut memory.written).into_iter();
                    let gone = gone.filter(|(labels, _)| !written.contains_key(labels));
                    let gone = gone.map(|(labels, kind)| (labels, kind.marker()));
                    let all: Vec<(Labels, Output)> = samples.into_iter().chain(gone).collect();
                    let (refused, why) = write(&mut self.refs, store, at_ms, &all);
                    outcome.refused += refused;
                    if let Some(why) = why {
                        state.error = format!("{refused} of {} samples were not stored: {why}", all.len());
                    }
                    memory.written = written;
                }
                Err(why) => {
                    tracing::warn!(group = group.name, rule = rule.name, error = why, "a rule failed");
                    state.error = why;
                    outcome.failures += 1;
                }
            }
            outcome
                .outgoing
                .extend(due(rule, state, now_ms, self.shown.interval, config));
            state.took = rule_started.elapsed();
        }
        (self.shown.took, self.shown.evaluated_ms) = (started.elapsed(), now_ms);
        Some(outcome)
    }

    /// Ends every series that the group has written and nobody inherited, as when it is taken out of the configuration.
    pub fn end(&mut self, now_ms: i64, store: &dyn Append) {
        let written = self
            .memories
            .iter_mut()
            .flat_map(|memory| std::mem::take(&mut memory.written));
        let all: Vec<(Labels, Output)> = written.map(|(labels, kind)| (labels, kind.marker())).collect();
        write(&mut self.refs, store, now_ms, &all);
    }

    /// Takes over what the group knew before its file was read again.
    pub fn inherit(&mut self, old: &mut Running) {
        let labels = |r: &Rule| {
            r.labels
                .iter()
                .map(|(n, t)| (n.clone(), t.source.clone()))
                .collect::<Vec<_>>()
        };
        old.inherited = true;
        let (group, before) = (self.shown.group.clone(), old.shown.group.clone());
        for (at, rule) in group.rules.iter().enumerate() {
            let same = |r: &Rule| r.name == rule.name && r.expr == rule.expr && labels(r) == labels(rule);
            if let Some(was) = before.rules.iter().position(same) {
                self.shown.states[at] = std::mem::take(&mut old.shown.states[was]);
                self.memories[at] = std::mem::take(&mut old.memories[was]);
            }
        }
    }
}

/// What a rule writes to a series.
#[derive(Clone, Debug)]
enum Output {
    Float(f64),
    Histogram(Arc<Histogram>),
}

/// Which kind of sample a series has.
#[derive(Clone, Copy, Debug)]
enum Written {
    Float,
    Histogram,
}

impl Output {
    fn kind(&self) -> Written {
        match self {
            Output::Float(_) => Written::Float,
            Output::Histogram(_) => Written::Histogram,
        }
    }

    fn is_marker(&self) -> bool {
        match self {
            Output::Float(value) => is_stale(*value),
            Output::Histogram(histogram) => histogram.is_stale(),
        }
    }
}

impl Written {
    fn marker(self) -> Output {
        match self {
            Written::Float => Output::Float(stale_nan()),
            Written::Histogram => Output::Histogram(Arc::new(Histogram::stale())),
        }
    }
}

/// Stores values; says how many were refused and why the first was.
fn write(
    refs: &mut RapidHashMap<Labels, SeriesRef>,
    store: &dyn Append,
    at_ms: i64,
    values: &[(Labels, Output)],
) -> (u64, Option<AppendError>) {
    if refs.len() > MAX_REFS {
        refs.clear();
    }
    let mut count = 0;
    let mut first = None;
    let mut refuse = |error: AppendError| {
        count += 1;
        first.get_or_insert(error);
    };
    // Twice: a handle may have gone stale since it was remembered.
    let mut wanted: Vec<&(Labels, Output)> = values.iter().collect();
    for attempt in 0..2 {
        let (mut floats, mut histograms) = (Vec::new(), Vec::new());
        let (mut of_floats, mut of_histograms) = (Vec::new(), Vec::new());
        for row in wanted.drain(..) {
            let id = match refs.get(&row.0) {
                Some(id) => *id,
                None => match store.resolve(&row.0) {
                    Ok(id) => id,
                    Err(error) => {
                        refuse(error);
                        continue;
                    }
                },
            };
            // What ends is not needed again.
            if row.1.is_marker() {
                refs.remove(&row.0);
            } else {
                refs.insert(row.0.clone(), id);
            }
            match &row.1 {
                Output::Float(value) => {
                    let sample = Sample {
                        ts_ms: at_ms,
                        value: *value,
                    };
                    floats.push((id, sample));
                    of_floats.push(row);
                }
                Output::Histogram(histogram) => {
                    histograms.push((id, at_ms, (**histogram).clone()));
                    of_histograms.push(row);
                }
            }
        }
        let (mut bad_floats, mut bad_histograms) = (Vec::new(), Vec::new());
        store.append(&floats, &mut bad_floats);
        store.append_histograms(&histograms, &mut bad_histograms);
        let bad = bad_floats.into_iter().map(|(at, error)| (of_floats[at], error));
        for (row, error) in bad.chain(bad_histograms.into_iter().map(|(at, error)| (of_histograms[at], error))) {
            refs.remove(&row.0);
            if error == AppendError::Unknown && attempt == 0 {
                wanted.push(row);
            } else {
                refuse(error);
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    (count, first)
}

fn evaluate(
    rule: &Rule,
    state: &mut RuleState,
    memory: &mut Memory,
    at_ms: i64,
    limit: usize,
    engine: &Engine,
    config: &Config,
) -> Result<Vec<(Labels, Output)>, String> {
    let found = query(engine, &rule.expr, at_ms)?;
    match &rule.kind {
        Kind::Record => record(rule, found, limit),
        Kind::Alert {
            hold,
            keep_firing,
            annotations,
        } => {
            let mut seen: BTreeMap<Labels, (Labels, f64)> = BTreeMap::new();
            for element in found {
                let data = Data {
                    labels: &element.labels,
                    external_labels: &config.external_labels,
                    external_url: &config.external_url,
                    value: element.value,
                    now_ms: at_ms,
                };
                let ask = |text: &str| query(engine, text, at_ms);
                let expand = |texts: &[(String, super::file::Text)]| -> Vec<(String, String)> {
                    let expanded = texts.iter().map(|(name, text)| {
                        let shown = match &text.template {
                            None => Ok(text.source.clone()),
                            Some(template) => template.render(&data, &ask),
                        };
                        // The alert goes out all the same: people must hear of it.
                        (
                            name.clone(),
                            shown.unwrap_or_else(|why| format!("<error expanding template: {why}>")),
                        )
                    });
                    expanded.collect()
                };
                let mut labels = element.labels.without_name().builder();
                for (name, value) in expand(&rule.labels) {
                    labels.set(name, value);
                }
                let labels = labels.set(names::ALERT_NAME, rule.name.as_str()).build();
                let annotations = Labels::new(expand(annotations));
                if seen.insert(labels.clone(), (annotations, element.value)).is_some() {
                    return Err(format!(
                        "two elements make the same alert {labels}: their labels differ by the name only"
                    ));
                }
            }
            advance(state, seen, at_ms, *hold, *keep_firing);
            if !memory.restored {
                memory.restored = true;
                restore(state, at_ms, *hold, engine);
            }
            let active = state.alerts.values().filter(|a| a.state != State::Inactive).count();
            if limit > 0 && active > limit {
                state.alerts.clear();
                return Err(format!("{active} alerts are more than the group's limit of {limit}"));
            }
            Ok(alert_series(state))
        }
    }
}

fn query(engine: &Engine, text: &str, at_ms: i64) -> Result<Vec<Found>, String> {
    match engine.instant(text, at_ms).map_err(|e| e.to_string())? {
        Value::Scalar(sample) => Ok(vec![Found {
            labels: Labels::default(),
            value: sample.value,
            histogram: None,
        }]),
        Value::Vector { samples, .. } => {
            let found = samples.into_iter().map(|s| Found {
                labels: s.labels,
                value: s.value,
                histogram: s.histogram,
            });
            Ok(found.collect())
        }
        Value::String { .. } | Value::Matrix(_) => {
            Err("the expression gives neither an instant vector nor a number".into())
        }
    }
}

fn record(rule: &Rule, found: Vec<Found>, limit: usize) -> Result<Vec<(Labels, Output)>, String> {
    let mut out = BTreeMap::new();
    for element in found {
        let mut labels = element.labels.builder();
        labels.set(names::METRIC_NAME, rule.name.as_str());
        for (name, value) in &rule.labels {
            labels.set(name.as_str(), value.source.as_str());
        }
        let labels = labels.build();
        let value = element
            .histogram
            .map_or(Output::Float(element.value), Output::Histogram);
        if out.insert(labels.clone(), value).is_some() {
            return Err(format!("two elements make the same series {labels}: aggregate them"));
        }
    }
    if limit > 0 && out.len() > limit {
        return Err(format!(
            "{} series are more than the group's limit of {limit}",
            out.len()
        ));
    }
    Ok(out.into_iter().collect())
}

fn advance(
    state: &mut RuleState,
    mut seen: BTreeMap<Labels, (Labels, f64)>,
    now_ms: i64,
    hold: Duration,
    keep_firing: Duration,
) {
    state.alerts.retain(|labels, alert| match seen.remove(labels) {
        None => alert.missed(now_ms, keep_firing),
        Some((annotations, value)) if alert.state == State::Inactive => {
            *alert = Alert::new(labels.clone(), annotations, value, now_ms);
            alert.seen(now_ms, hold);
            true
        }
        Some((annotations, value)) => {
            (alert.annotations, alert.value) = (annotations, value);
            alert.seen(now_ms, hold);
            true
        }
    });
    for (labels, (annotations, value)) in seen {
        let mut alert = Alert::new(labels.clone(), annotations, value, now_ms);
        alert.seen(now_ms, hold);
        state.alerts.insert(labels, alert);
    }
}

/// After a restart: since when alerts are active stands in the store.
fn restore(state: &mut RuleState, now_ms: i64, hold: Duration, engine: &Engine) {
    let hold_ms = millis(hold);
    if hold_ms < GRACE_MS {
        return;
    }
    for alert in state.alerts.values_mut().filter(|a| a.state == State::Pending) {
        let mut matchers: Vec<_> = alert
            .labels
            .iter()
            .map(|l| weir_series::Matcher::equal(&*l.name, &*l.value))
            .collect();
        matchers.push(weir_series::Matcher::equal(names::METRIC_NAME, names::ALERTS_FOR_STATE));
        let found = engine
            .store()
            .select(&matchers, now_ms - RESTORE_MS, now_ms - 1, 1_000_000);
        let wanted = alert.labels.len() + 1;
        let series = found.unwrap_or_default().into_iter().find(|s| s.labels.len() == wanted);
        let newest = series.and_then(|s| s.samples.iter().rev().find(|s| !is_stale(s.value)).copied());
        let Some(newest) = newest else {
            continue;
        };
        let active_ms = (newest.value * 1000.0) as i64;
        let (pending_ms, down_ms) = (newest.ts_ms - active_ms, now_ms - newest.ts_ms);
        let remaining_ms = hold_ms - pending_ms;
        alert.active_ms = match remaining_ms {
            ..=0 => active_ms,
            left if left < GRACE_MS => now_ms + GRACE_MS - hold_ms,
            _ => active_ms + down_ms,
        };
        alert.seen(now_ms, hold);
    }
}

/// What the store keeps of alerts.
fn alert_series(state: &RuleState) -> Vec<(Labels, Output)> {
    let active = state.alerts.values().filter(|a| a.state != State::Inactive);
    let both = active.flat_map(|alert| {
        let mut shown = alert.labels.builder();
        shown
            .set(names::METRIC_NAME, names::ALERTS)
            .set(names::ALERT_STATE, alert.state.name());
        let mut since = alert.labels.builder();
        since.set(names::METRIC_NAME, names::ALERTS_FOR_STATE);
        [
            (shown.build(), Output::Float(1.0)),
            (since.build(), Output::Float((alert.active_ms / 1000) as f64)),
        ]
    });
    both.collect()
}

/// The alerts that Alertmanager should hear of now.
fn due(rule: &Rule, state: &mut RuleState, now_ms: i64, interval: Duration, config: &Config) -> Vec<Outgoing> {
    let valid = interval.max(config.resend) * 4;
    let mut out = Vec::new();
    for alert in state.alerts.values_mut() {
        if alert.take_due(now_ms, config.resend, valid) {
            let labels = config.external_labels.iter().chain(alert.labels.iter());
            out.push(Outgoing {
                labels: Labels::new(labels.map(|l| (l.name.clone(), l.value.clone()))),
                annotations: alert.annotations.clone(),
                starts_ms: alert.fired_ms.unwrap_or(alert.active_ms),
                ends_ms: alert.resolved_ms.unwrap_or(alert.valid_until_ms),
                generator_url: config.generator_url(&rule.expr),
            });
        }
    }
    out
}
