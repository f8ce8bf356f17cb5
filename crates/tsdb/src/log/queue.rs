//! What waits to be written: bounded, in the order of what happened.

use crate::index::Id;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use weir_series::{Histogram, Metadata, Sample, SeriesRef};

/// What waits beyond that means that the disk does not keep up: it is given up until a snapshot has caught up.
const BYTES_MAX: usize = 64 << 20;
/// Samples that come page by page are put together up to so many: fewer records, and none that has to be moved often.
const EVENT_SAMPLES: usize = 1024;
/// What waits beyond that is written before its time.
const BYTES_HIGH: usize = 4 << 20;

/// Something that changed in the head.
#[derive(Debug)]
pub(crate) enum Event {
    /// These series were made.
    Series(Range<Id>),
    Samples(Vec<(SeriesRef, Sample)>),
    Histograms(Vec<(SeriesRef, i64, Histogram)>),
    Family(String, Metadata),
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    bytes: usize,
    /// Counts what was pushed, and what of it is safe.
    pushed: u64,
    written: u64,
    /// Nothing is taken: the disk failed, and a snapshot will tell instead.
    refusing: bool,
    overflowed: bool,
    /// Somebody waits for what is pushed so far.
    urgent: bool,
    /// Somebody asks for a snapshot.
    snapshot: bool,
    snapshots: u64,
    closed: bool,
}

/// The queue; cloned, it is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue(Arc<(Mutex<State>, Condvar, Condvar)>);

/// What the writer is to do next.
pub(crate) struct Work {
    pub events: VecDeque<Event>,
    /// To be handed to [`Queue::written`] once the events are safe.
    pub mark: u64,
    pub overflowed: bool,
    pub snapshot: bool,
    pub closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn accepts(&self) -> bool {
        !self.state().refusing
    }

    pub fn push(&self, mut event: Event) {
        let bytes = match &event {
            Event::Series(_) => size_of::<Event>(),
            Event::Samples(batch) => batch.len() * size_of::<(SeriesRef, Sample)>(),
            Event::Histograms(batch) => batch.iter().map(|(_, _, h)| 200 + h.weight() * 8).sum(),
            Event::Family(family, metadata) => 200 + family.len() + metadata.help.len(),
        };
        let mut state = self.state();
        if state.refusing || bytes == 0 {
            return;
        }
        state.pushed += 1;
        if let (Event::Series(new), Some(Event::Series(last))) = (&event, state.events.back_mut())
            && last.end == new.start
        {
            last.end = new.end;
            return;
        }
        if state.bytes + bytes > BYTES_MAX {
            state.overflowed = true;
            refuse(&mut state);
            self.0.1.notify_one();
            return;
        }
        state.bytes += bytes;
        match (&mut event, state.events.back_mut()) {
            // What comes page by page is written as one record.
            (Event::Samples(new), Some(Event::Samples(last))) if last.len() + new.len() <= EVENT_SAMPLES => {
                last.append(new);
            }
            _ => state.events.push_back(event),
        }
        if state.bytes >= BYTES_HIGH {
            self.0.1.notify_one();
        }
    }

    /// What waits, after `flush` at the latest.
    pub fn take(&self, flush: Duration) -> Work {
        let deadline = Instant::now() + flush;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let now = state.urgent || state.overflowed || state.snapshot || state.closed || state.bytes >= BYTES_HIGH;
            if now || left.is_zero() {
                break;
            }
            let waited = self.0.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.bytes = 0;
        state.urgent = false;
        Work {
            events: std::mem::take(&mut state.events),
            mark: state.pushed,
            overflowed: std::mem::take(&mut state.overflowed),
            snapshot: std::mem::take(&mut state.snapshot),
            closed: state.closed,
        }
    }

    /// What waits now, in the midst of something else.
    pub fn drain(&self) -> (VecDeque<Event>, u64) {
        let mut state = self.state();
        state.bytes = 0;
        (std::mem::take(&mut state.events), state.pushed)
    }

    /// Everything up to a mark is safe.
    pub fn written(&self, mark: u64) {
        self.state().written = mark;
        self.0.2.notify_all();
    }

    /// A snapshot is complete.
    pub fn snapshot_taken(&self) {
        self.state().snapshots += 1;
        self.0.2.notify_all();
    }

    /// Takes nothing any more, because it cannot be written.
    pub fn refuse(&self) {
        refuse(&mut self.state());
        self.0.2.notify_all();
    }

    /// Takes again.
    pub fn accept(&self) {
        self.state().refusing = false;
    }

    /// Waits until all that was pushed is safe; whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let mut state = self.state();
        let mark = state.pushed;
        state.urgent = true;
        self.0.1.notify_one();
        self.wait(state, timeout, |state| state.written >= mark)
    }

    /// Asks for a snapshot and waits for it; whether there is one.
    pub fn snapshot(&self, timeout: Duration) -> bool {
        let mut state = self.state();
        let before = state.snapshots;
        state.snapshot = true;
        self.0.1.notify_one();
        self.wait(state, timeout, |state| state.snapshots > before)
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        while !done(&state) && !state.refusing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.2.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.refusing
    }

    /// The writer is to end.
    pub fn close(&self) {
        self.state().closed = true;
        self.0.1.notify_one();
    }
}

fn refuse(state: &mut State) {
    state.refusing = true;
    state.events.clear();
    state.bytes = 0;
}
