//! Deadlines of a worker's connections, cheap to move.
//!
//! A request sets a deadline by writing one cell. A single task sleeps until the earliest one, looks through all and wakes
//! those that are due; deadlines that moved meanwhile cost nothing. Enters: deadlines. Leaves: wake-ups.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Looking through all deadlines is not repeated within this time.
const TICK: Duration = Duration::from_millis(1);

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub struct Timers {
    slots: RefCell<Vec<Option<Rc<Slot>>>>,
    free: RefCell<Vec<usize>>,
    /// When the task wakes next; `None`: it waits for the first deadline.
    next: Cell<Option<Instant>>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    deadline: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

/// The deadline of one connection. At most one at a time.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    slot: Rc<Slot>,
    index: usize,
}

impl Timers {
    /// A timer without a deadline.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let slot = Rc::new(Slot::default());
        let mut slots = self.slots.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => index,
            None => {
                slots.push(None);
                slots.len() - 1
            }
        };
        slots[index] = Some(Rc::clone(&slot));
        Timer {
            timers: Rc::clone(self),
            slot,
            index,
        }
    }

    /// Wakes connections whose deadline passed. Never ends.
    pub async fn run(&self) {
        loop {
            match self.next.get() {
                None => self.sooner.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.sooner.notified() => continue,
                    }
                }
            }
            let now = Instant::now();
            self.next.set(self.wake(now).map(|next| next.max(now + TICK)));
        }
    }

    /// Wakes everybody who has a deadline, whether it is due or not.
    pub fn wake_all(&self) {
        for slot in self.slots.borrow().iter().flatten() {
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Wakes all that are due and returns the earliest of the others.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for slot in self.slots.borrow().iter().flatten() {
            match slot.deadline.get() {
                Some(at) if at <= now => {
                    if let Some(waker) = slot.waker.borrow_mut().take() {
                        waker.wake();
                    }
                }
                Some(at) => next = Some(next.map_or(at, |n| n.min(at))),
                None => {}
            }
        }
        next
    }
}

impl Timer {
    /// Sets the deadline, or with `None` takes it away.
    pub fn set(&self, deadline: Option<Instant>) {
        self.slot.deadline.set(deadline);
        let Some(at) = deadline else { return };
        if self.timers.next.get().is_none_or(|next| at < next) {
            self.timers.next.set(Some(at));
            self.timers.sooner.notify_one();
        }
    }

    /// Ready once the deadline has passed; else the task is woken when it has.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.slot.deadline.get() else {
            return Poll::Pending;
        };
        let mut waker = self.slot.waker.borrow_mut();
        // Comparing with the clock is needed only when somebody woke us by it: `wake` takes the waker.
        if waker.is_none() && at <= Instant::now() {
            return Poll::Ready(());
        }
        match &mut *waker {
            Some(held) => held.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.slots.borrow_mut()[self.index] = None;
        self.timers.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn deadlines_wake_when_due_and_move_freely() {
        let timers = Rc::new(Timers::default());
        let (due, far) = (timers.timer(), timers.timer());
        let start = Instant::now();
        far.set(Some(start + Duration::from_secs(3600)));
        due.set(Some(start + Duration::from_secs(10)));
        due.set(Some(start));
        tokio::select! {
            () = poll_fn(|cx| due.poll(cx)) => {}
            () = poll_fn(|cx| far.poll(cx)) => unreachable!("an hour has not passed"),
            () = timers.run() => unreachable!("it never ends"),
        }
        drop(due);
        let again = timers.timer();
        assert_eq!((again.index, far.index), (0, 1));
        assert!(again.slot.deadline.get().is_none());
    }
}
