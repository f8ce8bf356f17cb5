//! One alert: from pending to firing to resolved.

use std::time::Duration;
use weir_series::Labels;

/// How long a resolved alert is still told to Alertmanager.
const RESOLVED_RETENTION_MS: i64 = 15 * 60 * 1000;

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It was, and is no more.
    Inactive,
    /// It is, but not yet for long enough.
    Pending,
    /// It is.
    Firing,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Pending => "pending",
            State::Firing => "firing",
        }
    }
}

/// An alert of one element. All times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    pub labels: Labels,
    pub annotations: Labels,
    pub state: State,
    pub value: f64,
    pub active_ms: i64,
    pub fired_ms: Option<i64>,
    pub resolved_ms: Option<i64>,
    pub keep_since_ms: Option<i64>,
    pub sent_ms: Option<i64>,
    pub valid_until_ms: i64,
}

impl Alert {
    pub fn new(labels: Labels, annotations: Labels, value: f64, now_ms: i64) -> Self {
        Alert {
            labels,
            annotations,
            state: State::Pending,
            value,
            active_ms: now_ms,
            fired_ms: None,
            resolved_ms: None,
            keep_since_ms: None,
            sent_ms: None,
            valid_until_ms: 0,
        }
    }

    /// The condition holds.
    pub fn seen(&mut self, now_ms: i64, hold: Duration) {
        self.keep_since_ms = None;
        self.ripen(now_ms, hold);
    }

    fn ripen(&mut self, now_ms: i64, hold: Duration) {
        if self.state == State::Pending && now_ms - self.active_ms >= millis(hold) {
            self.state = State::Firing;
            self.fired_ms = Some(now_ms);
        }
    }

    /// The condition holds no more. Says whether the alert is still worth keeping.
    pub fn missed(&mut self, now_ms: i64, keep_firing: Duration) -> bool {
        if self.state == State::Firing && !keep_firing.is_zero() {
            let since = *self.keep_since_ms.get_or_insert(now_ms);
            if now_ms - since < millis(keep_firing) {
                return true;
            }
        }
        match self.state {
            State::Pending => false,
            State::Firing => {
                self.state = State::Inactive;
                self.resolved_ms = Some(now_ms);
                true
            }
            State::Inactive => self.resolved_ms.is_some_and(|at| now_ms - at <= RESOLVED_RETENTION_MS),
        }
    }

    /// Whether Alertmanager should hear of it (again), which is then taken for done.
    pub fn take_due(&mut self, now_ms: i64, resend: Duration, valid: Duration) -> bool {
        let due = match (self.state, self.sent_ms, self.resolved_ms) {
            (State::Pending, ..) => false,
            (_, None, _) => true,
            (_, Some(sent), Some(resolved)) if resolved > sent => true,
            (_, Some(sent), _) => sent + millis(resend) < now_ms,
        };
        if due {
            self.sent_ms = Some(now_ms);
            self.valid_until_ms = now_ms + millis(valid);
        }
        due
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert::new(Labels::default(), Labels::default(), 1.0, 0)
    }

    #[test]
    fn fires_after_it_was_held_and_keeps_firing_as_asked() {
        let (hold, keep) = (Duration::from_secs(10), Duration::from_secs(5));
        let mut alert = alert();
        alert.seen(9_000, hold);
        assert_eq!(alert.state, State::Pending);
        assert!(!alert.clone().missed(9_500, keep));
        alert.seen(10_000, hold);
        assert_eq!((alert.state, alert.fired_ms), (State::Firing, Some(10_000)));
        assert!(alert.missed(11_000, keep));
        assert_eq!(alert.state, State::Firing);
        alert.seen(12_000, hold);
        assert!(alert.missed(13_000, keep) && alert.missed(17_999, keep));
        assert_eq!(alert.state, State::Firing);
        assert!(alert.missed(18_000, keep));
        assert_eq!((alert.state, alert.resolved_ms), (State::Inactive, Some(18_000)));
        assert!(alert.missed(18_000 + RESOLVED_RETENTION_MS, keep));
        assert!(!alert.missed(18_001 + RESOLVED_RETENTION_MS, keep));
    }

    #[test]
    fn is_told_at_once_then_now_and_then_and_when_it_ends() {
        let (resend, valid) = (Duration::from_secs(60), Duration::from_secs(240));
        let mut alert = alert();
        assert!(!alert.take_due(0, resend, valid));
        alert.seen(0, Duration::ZERO);
        assert!(alert.take_due(0, resend, valid) && !alert.take_due(60_000, resend, valid));
        assert!(alert.take_due(60_001, resend, valid));
        assert_eq!(alert.valid_until_ms, 300_001);
        alert.missed(61_000, Duration::ZERO);
        assert!(alert.take_due(61_000, resend, valid) && !alert.take_due(61_001, resend, valid));
    }
}
