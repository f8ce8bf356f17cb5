//! What one query may use: samples held at a time, and time; and whether anyone still waits for it.

use crate::engine::{Error, Options};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) struct Budget<'a> {
    options: &'a Options,
    started: Instant,
    cancelled: &'a CancellationToken,
    /// Samples held now, counted roughly: every column of every intermediate result.
    held: usize,
    calls: u32,
}

impl<'a> Budget<'a> {
    pub fn new(options: &'a Options, cancelled: &'a CancellationToken) -> Self {
        Budget {
            options,
            started: Instant::now(),
            cancelled,
            held: 0,
            calls: 0,
        }
    }

    pub fn check_time(&self) -> Result<(), Error> {
        if self.started.elapsed() > self.options.timeout {
            return Err(Error::Timeout(self.options.timeout));
        }
        if self.cancelled.is_cancelled() {
            return Err(Error::Execution("the query was cancelled".into()));
        }
        Ok(())
    }

    /// As [`Budget::check_time`], but looks at the clock only now and then: for every single series.
    pub fn tick(&mut self) -> Result<(), Error> {
        self.calls = self.calls.wrapping_add(1);
        if self.calls.is_multiple_of(64) {
            self.check_time()
        } else {
            Ok(())
        }
    }

    /// Whether so many samples more could be held for a moment.
    pub fn fits(&self, samples: usize) -> Result<(), Error> {
        let limit = self.options.max_samples;
        if self.held.saturating_add(samples) > limit {
            let message = format!("the query needs more than {limit} samples: ask for fewer series or a shorter time");
            return Err(Error::Execution(message));
        }
        Ok(())
    }

    /// Counts samples that the query now holds.
    pub fn charge(&mut self, samples: usize) -> Result<(), Error> {
        self.fits(samples)?;
        self.held += samples;
        Ok(())
    }

    /// Counts samples that it holds no more.
    pub fn release(&mut self, samples: usize) {
        self.held = self.held.saturating_sub(samples);
    }
}
