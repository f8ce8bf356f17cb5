//! The time that a connection has: a deadline for the present step, and an end without progress.
//!
//! Enters: limits and the word that something moved. Leaves: the verdict that time is up. Costs nothing while all goes well.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::reply::Unanswered;
use crate::timers::Timer;
use crate::worker::Worker;

/// How often it is looked whether anything moved, within the time that it may stand still.
const LOOKS: u32 = 4;

/// The time of one connection.
pub struct Lifetime {
    timer: Timer,
    worker: Rc<Worker>,
    deadline: Option<Instant>,
    /// The end of the call, whatever is made of it here.
    call_end: Option<Instant>,
    /// The end of the present try.
    try_end: Option<Instant>,
    stall: Option<Duration>,
    /// Looks in a row at which nothing had moved.
    still: u32,
    /// Something moved since the last look.
    pub moved: bool,
}

impl Lifetime {
    /// Without limits.
    pub fn new(worker: &Rc<Worker>) -> Self {
        Self {
            timer: worker.timers.timer(),
            worker: Rc::clone(worker),
            deadline: None,
            call_end: None,
            try_end: None,
            stall: None,
            still: 0,
            moved: false,
        }
    }

    /// From now on: an end at `deadline`, and none for lack of progress.
    pub fn limit(&mut self, deadline: Option<Instant>) {
        (self.deadline, self.call_end, self.try_end, self.stall) = (deadline, None, None, None);
        self.timer.set(deadline);
    }

    /// From now on: an end at `deadline`, or when nothing moved for `stall` (up to a quarter more).
    pub fn limit_stall(&mut self, deadline: Option<Instant>, stall: Option<Duration>, now: Instant) {
        (self.deadline, self.stall, self.still, self.moved) = (deadline, stall, 0, false);
        (self.call_end, self.try_end) = (None, None);
        match stall {
            Some(stall) => self.set(now, stall),
            None => self.timer.set(deadline),
        }
    }

    /// The limits of a request that began at `now`: those of its route, and of its chain for lack of progress.
    pub fn limit_request(&mut self, timeout: Option<Duration>, stall: Option<Duration>, now: Instant) {
        self.limit_stall(timeout.map(|limit| now + limit), stall, now);
    }

    /// The request is one of a call that ends then.
    pub fn limit_call(&mut self, end: Instant) {
        if self.deadline.is_some_and(|deadline| deadline < end) {
            return;
        }
        (self.deadline, self.call_end) = (Some(end), Some(end));
        match self.stall {
            Some(stall) => self.set(Instant::now(), stall),
            None => self.timer.set(self.deadline),
        }
    }

    /// Why there is no answer, now that it is known that there is none.
    pub fn why(&self, why: Unanswered) -> Unanswered {
        match why {
            Unanswered::Late if self.is_past_call() => Unanswered::Expired,
            why => why,
        }
    }

    /// Whether it was the end of the call that passed.
    pub fn is_past_call(&self) -> bool {
        self.call_end.is_some_and(|end| end <= Instant::now())
    }

    /// A try begins that may last so long; `None`: it has no end of its own, or is over.
    pub fn limit_try(&mut self, limit: Option<Duration>) {
        if limit.is_none() && self.try_end.is_none() {
            return;
        }
        let now = Instant::now();
        self.try_end = limit.map(|limit| now + limit);
        match self.stall {
            Some(stall) => self.set(now, stall),
            None => self.timer.set(self.end()),
        }
    }

    /// Whether it was the end of the try that passed, and nothing else.
    pub fn is_try_over(&self) -> bool {
        let now = Instant::now();
        self.try_end.is_some_and(|end| end <= now) && self.deadline.is_none_or(|d| now < d)
    }

    fn end(&self) -> Option<Instant> {
        [self.deadline, self.try_end].into_iter().flatten().min()
    }

    fn set(&self, now: Instant, stall: Duration) {
        let look = now + stall / LOOKS;
        self.timer.set(Some(self.end().map_or(look, |end| end.min(look))));
    }

    /// Ready when time is up.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.poll(cx).is_ready() {
            let now = Instant::now();
            match self.stall {
                Some(stall) if self.end().is_none_or(|end| now < end) => {
                    self.still = if std::mem::take(&mut self.moved) {
                        0
                    } else {
                        self.still + 1
                    };
                    if self.still > LOOKS {
                        return Poll::Ready(());
                    }
                    self.set(now, stall);
                }
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Whether it was the deadline that passed, not the lack of progress.
    pub fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|d| d <= Instant::now())
    }

    /// Why a response broke off, in Envoy's letters: time was up, nothing moved, or the endpoint is gone.
    pub fn broken(&self) -> &'static str {
        match self.is_past_deadline() {
            true if self.is_past_call() => "-",
            true => "UT",
            false if self.still > LOOKS => "SI",
            false => "UC",
        }
    }

    /// The process ends: connections that nobody uses are to be closed. Whoever asked is woken when that begins.
    pub fn closing(&self) -> bool {
        self.worker.shared.life.is_closing()
    }
}
