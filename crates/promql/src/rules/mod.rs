//! Recording and alerting rules: rule files go in; series go out to the store, alerts to Alertmanager.
//!
//! ```text
//! file (YAML -> groups, templates) ──▶ group (evaluate over Engine) ──▶ weir_series::Append
//!                                          │ alert (pending, firing, resolved)
//!                                          └▶ notify (Alertmanager API v2)
//! ```
//!
//! Groups run beside one another, each on its own beat; the rules of a group run in their order. This module reads no file:
//! it is given texts and their names.

mod alert;
mod file;
mod group;
mod json;
mod notify;
mod template;

pub use file::Problem;
pub use json::RuleFilter;
pub use notify::Alertmanager;

pub(crate) use notify::Outgoing;

use crate::Engine;
use alert::State;
use group::{Running, Shown};
use notify::Notifier;
use serde_json::{Value as Json, json};
use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_series::{Append, Labels, exposition, names};

/// Settings of all groups.
#[derive(Clone, Debug)]
pub struct Config {
    /// Between two evaluations of groups that say nothing else.
    pub interval: Duration,
    /// How far in the past groups are evaluated that say nothing else.
    pub query_offset: Duration,
    /// Between two times that Alertmanager hears of an alert that goes on.
    pub resend: Duration,
    /// Labels on every alert that is sent.
    pub external_labels: Labels,
    /// Where people reach this server.
    pub external_url: String,
    /// Who hears of alerts.
    pub alertmanagers: Vec<Alertmanager>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            interval: Duration::from_secs(60),
            query_offset: Duration::ZERO,
            resend: Duration::from_secs(60),
            external_labels: Labels::default(),
            external_url: String::new(),
            alertmanagers: Vec::new(),
        }
    }
}

impl Config {
    fn generator_url(&self, expr: &str) -> String {
        let query = template::escape_query(expr);
        format!(
            "{}/graph?g0.expr={query}&g0.tab=1",
            self.external_url.trim_end_matches('/')
        )
    }
}

/// The rules of a server, shared between those who evaluate and those who ask.
#[derive(Clone)]
pub struct Rules(Arc<Shared>);

struct Shared {
    config: Config,
    groups: Mutex<Vec<Arc<Cell>>>,
    /// Those that others stand in the place of, until their series have ended. Locked after `groups`.
    replaced: Mutex<Vec<Arc<Cell>>>,
    /// One load at a time: it may wait for evaluations, which nobody else is to notice.
    loading: Mutex<()>,
    changed: tokio::sync::Notify,
    notifier: Notifier,
    evaluations: AtomicU64,
    failures: AtomicU64,
    missed: AtomicU64,
}

/// A group. Evaluation may take long: what it told last can be read meanwhile.
struct Cell {
    running: Mutex<Running>,
    shown: Mutex<Arc<Shown>>,
}

impl Cell {
    fn new(running: Running) -> Self {
        Cell {
            shown: Mutex::new(Arc::new(running.shown.clone())),
            running: Mutex::new(running),
        }
    }

    fn shown(&self) -> Arc<Shown> {
        lock(&self.shown).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that is wrong with a rule file; empty if nothing is.
pub fn check(file: &str, text: &str) -> Vec<Problem> {
    file::parse(file, text).err().unwrap_or_default()
}

/// How many groups and rules a file has; what is wrong with it otherwise.
pub fn count(file: &str, text: &str) -> Result<(usize, usize), Vec<Problem>> {
    let groups = file::parse(file, text)?;
    Ok((groups.len(), groups.iter().map(|g| g.rules.len()).sum()))
}

impl Rules {
    /// Rules without groups. The error is about how Alertmanagers are reached.
    pub fn new(config: Config) -> Result<Self, String> {
        let notifier = Notifier::new(config.alertmanagers.clone())?;
        Ok(Rules(Arc::new(Shared {
            config,
            groups: Mutex::default(),
            replaced: Mutex::default(),
            loading: Mutex::default(),
            changed: tokio::sync::Notify::new(),
            notifier,
            evaluations: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        })))
    }

    /// Puts these files, as (name, text), in the place of all that were there. Where one is wrong, all stays as it was.
    /// Groups and rules that are the same as before keep their state. Blocks while groups that go are being evaluated.
    pub fn load(&self, files: &[(String, String)]) -> Result<(), Vec<Problem>> {
        self.load_every(self.0.config.interval, files)
    }

    /// As [`Rules::load`], with another interval for groups that name none.
    pub fn load_every(&self, interval: Duration, files: &[(String, String)]) -> Result<(), Vec<Problem>> {
        let mut groups = Vec::new();
        let mut problems = Vec::new();
        for (name, text) in files {
            match file::parse(name, text) {
                Ok(parsed) => groups.extend(parsed),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let _one = lock(&self.0.loading);
        let before = lock(&self.0.groups).clone();
        let loaded = groups.into_iter().map(|group| {
            let mut new = Running::new(group, interval);
            let same = |old: &&Arc<Cell>| {
                let old = old.shown();
                old.group.file == new.shown.group.file && old.group.name == new.shown.group.name
            };
            if let Some(old) = before.iter().find(same) {
                new.inherit(&mut lock(&old.running));
            }
            Arc::new(Cell::new(new))
        });
        let loaded: Vec<_> = loaded.collect();
        let mut current = lock(&self.0.groups);
        lock(&self.0.replaced).append(&mut std::mem::replace(&mut *current, loaded));
        drop(current);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Evaluates until `shutdown`: each group on its own beat, alerts sent beside.
    pub async fn run(&self, engine: Engine, store: Arc<dyn Append>, shutdown: CancellationToken) {
        let sending = self.0.notifier.run(shutdown.clone());
        let evaluating = async {
            loop {
                let stop = shutdown.child_token();
                let tasks = TaskTracker::new();
                let groups = lock(&self.0.groups).clone();
                for group in &groups {
                    let (rules, group) = (self.clone(), group.clone());
                    let (engine, store, stop) = (engine.clone(), store.clone(), stop.clone());
                    tasks.spawn(async move { rules.run_group(group, engine, store, stop).await });
                }
                tasks.close();
                tokio::select! {
                    () = self.0.changed.notified() => {}
                    () = shutdown.cancelled() => {}
                }
                stop.cancel();
                tasks.wait().await;
                if shutdown.is_cancelled() {
                    return;
                }
                // None of them is evaluated any more. This waits for the store, as evaluations do.
                let (rules, store) = (self.clone(), store.clone());
                let ended = tokio::task::spawn_blocking(move || rules.end_replaced(now_ms(), store.as_ref()));
                if ended.await.is_err() {
                    tracing::error!("the end of replaced groups ended unexpectedly");
                }
            }
        };
        tokio::join!(sending, evaluating);
    }

    /// What the groups that stand there now did not inherit has ended.
    fn end_replaced(&self, now_ms: i64, store: &dyn Append) {
        let replaced = std::mem::take(&mut *lock(&self.0.replaced));
        for group in replaced {
            lock(&group.running).end(now_ms, store);
        }
    }

    async fn run_group(&self, group: Arc<Cell>, engine: Engine, store: Arc<dyn Append>, stop: CancellationToken) {
        let shown = group.shown();
        let interval = shown.interval.max(Duration::from_millis(100));
        let phase = phase(&shown, interval);
        // Evaluations stand at whole intervals after the group's own phase, also after a restart.
        let step = alert::millis(interval);
        let mut at_ms = now_ms() - (now_ms() - phase).rem_euclid(step) + step;
        let wait = Duration::from_millis(u64::try_from(at_ms - now_ms()).unwrap_or(0));
        let mut beats = interval_at(Instant::now() + wait, interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beats.tick() => {}
            }
            let late = (now_ms() - at_ms).max(0) / step;
            self.0.missed.fetch_add(late.unsigned_abs(), Relaxed);
            at_ms += late * step;
            let (rules, group, engine, store) = (self.clone(), group.clone(), engine.clone(), store.clone());
            let evaluated = tokio::task::spawn_blocking(move || rules.evaluate(&group, at_ms, &engine, store.as_ref()));
            if evaluated.await.is_err() {
                tracing::error!("the evaluation of a group ended unexpectedly");
            }
            at_ms += step;
        }
    }

    fn evaluate(&self, group: &Cell, at_ms: i64, engine: &Engine, store: &dyn Append) {
        let mut running = lock(&group.running);
        let Some(outcome) = running.evaluate(at_ms, engine, store, &self.0.config) else {
            return;
        };
        let rules = running.shown.group.rules.len() as u64;
        *lock(&group.shown) = Arc::new(running.shown.clone());
        drop(running);
        self.0.evaluations.fetch_add(rules, Relaxed);
        self.0.failures.fetch_add(outcome.failures, Relaxed);
        self.0.notifier.push(outcome.outgoing);
    }

    /// Evaluates all groups once, in their order, as at a time in milliseconds since 1970. For tests and for catching up.
    pub fn evaluate_all(&self, at_ms: i64, engine: &Engine, store: &dyn Append) {
        let groups = lock(&self.0.groups).clone();
        for group in groups {
            self.evaluate(&group, at_ms, engine, store);
        }
    }

    /// What `/api/v1/rules` shows. The error says what is wrong with the filter.
    pub fn to_json(&self, filter: &RuleFilter) -> Result<Json, String> {
        let wanted = json::Wanted::new(filter)?;
        let groups = lock(&self.0.groups).clone();
        let shown: Vec<Json> = groups.iter().filter_map(|g| wanted.group(&g.shown())).collect();
        Ok(json!({ "groups": shown }))
    }

    /// What `/api/v1/alerts` shows.
    pub fn alerts_json(&self) -> Json {
        let mut alerts = Vec::new();
        for group in lock(&self.0.groups).clone() {
            let shown = group.shown();
            let all = shown.states.iter().flat_map(|s| s.alerts.values());
            alerts.extend(all.filter(|a| a.state != State::Inactive).map(json::alert));
        }
        json!({ "alerts": alerts })
    }

    /// What `/api/v1/alertmanagers` shows.
    pub fn alertmanagers_json(&self) -> Json {
        self.0.notifier.to_json()
    }

    /// Figures about the evaluation, as text format 0.0.4.
    pub fn render(&self, page: &mut String) {
        let shared = &self.0;
        let counters = [
            (names::RULE_EVALUATIONS_TOTAL, "Rules evaluated.", &shared.evaluations),
            (
                names::RULE_FAILURES_TOTAL,
                "Rules whose evaluation failed.",
                &shared.failures,
            ),
            (
                names::RULE_MISSED_TOTAL,
                "Evaluations of groups that were left out because the one before took too long.",
                &shared.missed,
            ),
            (
                names::NOTIFICATIONS_SENT_TOTAL,
                "Alerts that an Alertmanager took.",
                &shared.notifier.sent,
            ),
            (
                names::NOTIFICATIONS_ERRORS_TOTAL,
                "Alerts that an Alertmanager did not take.",
                &shared.notifier.errors,
            ),
            (
                names::NOTIFICATIONS_DROPPED_TOTAL,
                "Alerts that nobody heard of.",
                &shared.notifier.dropped,
            ),
        ];
        for (name, help, count) in counters {
            exposition::write_header(page, name, "counter", help);
            exposition::write_sample(page, name, "", "", count.load(Relaxed) as f64);
        }
        exposition::write_header(
            page,
            names::NOTIFICATIONS_QUEUE_LENGTH,
            "gauge",
            "Alerts that wait to be sent.",
        );
        let queued = shared.notifier.queued() as f64;
        exposition::write_sample(page, names::NOTIFICATIONS_QUEUE_LENGTH, "", "", queued);
    }
}

/// Where in the interval a group's beat lies, in milliseconds: spread by its name.
fn phase(shown: &Shown, interval: Duration) -> i64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (&shown.group.file, &shown.group.name).hash(&mut hasher);
    i64::try_from(hasher.finish() % interval.as_millis().max(1) as u64).unwrap_or(0)
}

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    alert::millis(since)
}

#[cfg(test)]
mod tests;
