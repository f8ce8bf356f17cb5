//! One series of the head: its chunks and the rules for what may be appended.

use crate::chunk::Chunk;
use std::collections::VecDeque;
use weir_series::{AppendError, Sample};

/// Samples of a full chunk.
pub(crate) const CHUNK_SAMPLES: usize = 120;

#[derive(Debug)]
pub(crate) struct Series {
    /// Sealed chunks in the order of time, then the one that grows.
    chunks: VecDeque<Chunk>,
    /// Made for a sample that has not come yet.
    awaits_first: bool,
}

impl Series {
    pub fn new() -> Self {
        // Most series are short-lived: room for one chunk, not for the usual four.
        Series {
            chunks: VecDeque::with_capacity(1),
            awaits_first: true,
        }
    }

    /// Appends a sample that is newer than all others. The newest one again is no error and no sample.
    pub fn push(&mut self, sample: Sample) -> Result<(), AppendError> {
        if let Some(last) = self.last() {
            if sample.ts_ms < last.ts_ms {
                return Err(AppendError::OutOfOrder);
            }
            if sample.ts_ms == last.ts_ms {
                let same = sample.value.to_bits() == last.value.to_bits();
                return if same { Ok(()) } else { Err(AppendError::Duplicate) };
            }
        }
        self.awaits_first = false;
        if self.chunks.back().is_none_or(|c| c.len() >= CHUNK_SAMPLES) {
            if let Some(full) = self.chunks.back_mut() {
                full.seal();
            }
            self.chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push(sample);
        }
        Ok(())
    }

    pub fn last(&self) -> Option<Sample> {
        self.chunks.back().and_then(Chunk::last)
    }

    /// Whether a chunk overlaps the time. Chunks are not opened, so a gap inside one counts as an overlap.
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.chunks
            .iter()
            .any(|c| c.last_ms() >= start_ms && c.first_ms() <= end_ms)
    }

    /// Appends the samples from `start_ms` to `end_ms` to `out`.
    pub fn read(&self, start_ms: i64, end_ms: i64, out: &mut Vec<Sample>) {
        for chunk in self
            .chunks
            .iter()
            .filter(|c| c.last_ms() >= start_ms && c.first_ms() <= end_ms)
        {
            out.extend(
                chunk
                    .iter()
                    .skip_while(|s| s.ts_ms < start_ms)
                    .take_while(|s| s.ts_ms <= end_ms),
            );
        }
    }

    /// Drops the chunks that end before `oldest_ms`; returns how many samples went.
    pub fn drop_before(&mut self, oldest_ms: i64) -> usize {
        let mut dropped = 0;
        while let Some(chunk) = self.chunks.front().filter(|c| c.last_ms() < oldest_ms) {
            dropped += chunk.len();
            self.chunks.pop_front();
        }
        dropped
    }

    /// Whether the series may go. One that was just made stays for one question more: its first sample is on the way.
    pub fn is_over(&mut self) -> bool {
        self.chunks.is_empty() && !std::mem::take(&mut self.awaits_first)
    }

    pub fn heap_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>() + self.chunks.iter().map(Chunk::heap_bytes).sum::<usize>()
    }
}
