//! The store as others know it: the two seams over the head.

use crate::head::{Head, now_ms};
use crate::index::Counts;
use crate::log::directory::Directory;
use crate::log::queue::Queue;
use crate::log::writer::{Board, Writer};
use crate::log::{OpenError, Status, recover};
use crate::options::{Options, Storage};
use crate::stats::{Stats, render_one};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use weir_series::names;
use weir_series::{
    Append, AppendError, Histogram, Labels, Matcher, Metadata, Sample, Select, SelectError, SeriesRef, Visitor,
};

/// The store. Share it by `Arc`.
#[derive(Debug)]
pub struct Tsdb {
    head: Arc<Head>,
    disk: Option<Disk>,
}

/// Of a store on a disk: the thread that writes.
#[derive(Debug)]
struct Disk {
    queue: Queue,
    board: Board,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Disk {
    /// Writes what waits.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Tsdb {
    /// An empty store in memory.
    pub fn new(options: Options) -> Self {
        let head = Arc::new(Head::new(options, None));
        Tsdb { head, disk: None }
    }

    /// A store that is kept on a disk, with what is there already. What could not be read is told by [`Tsdb::status`].
    ///
    /// # Errors
    /// When the directory cannot be used, or another process has it. Damaged files are no error.
    pub fn open(options: Options, storage: Storage) -> Result<Self, OpenError> {
        let directory = Directory::open(&storage.path)?;
        let now_ms = now_ms();
        let oldest_ms = now_ms.saturating_sub(crate::head::millis(options.retention));
        let queue = Queue::default();
        // What is read is not to be written once more.
        queue.refuse();
        let make = || Head::new(options.clone(), Some(queue.clone()));
        let (head, found) = recover::recover(&directory, oldest_ms, make)?;
        queue.accept();
        head.maintain(now_ms);
        let head = Arc::new(head);
        let writer = Writer::new(head.clone(), queue.clone(), storage, directory, found);
        let board = writer.board();
        let thread = std::thread::Builder::new().name("store-log".to_owned());
        let thread = thread.spawn(move || writer.run()).map_err(OpenError::Thread)?;
        let thread = Some(thread);
        let disk = Some(Disk { queue, board, thread });
        Ok(Tsdb { head, disk })
    }

    /// How the writing to the disk goes; `None` for a store in memory.
    pub fn status(&self) -> Option<Status> {
        self.disk.as_ref().map(|disk| disk.board.get().clone())
    }

    /// Waits until all that was appended so far is on the disk. False when the time is over or the disk fails.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.queue.flush(timeout))
    }

    /// Takes a snapshot, so that the next start is fast. False when the time is over or the disk fails.
    pub fn close(&self, timeout: Duration) -> bool {
        self.disk.as_ref().is_none_or(|disk| disk.queue.snapshot(timeout))
    }

    /// Drops what is older than the retention seen from `now_ms` (or beyond its bytes), and series without samples. Call it
    /// now and then; it goes in small steps and stops nobody.
    pub fn maintain(&self, now_ms: i64) {
        self.head.maintain(now_ms);
    }

    /// What the store holds and what it refused.
    pub fn stats(&self) -> Stats {
        self.head.stats()
    }

    /// The label names with the most values, and the pairs `name=value` with the most series; the largest first.
    pub fn largest(&self, limit: usize) -> (Counts, Counts) {
        self.head.index().largest(limit)
    }

    /// Appends the store's figures about itself as text format 0.0.4.
    pub fn render(&self, out: &mut String) {
        self.stats().render(out);
        let Some(status) = self.status() else {
            return;
        };
        let up = if status.error.is_none() { 1.0 } else { 0.0 };
        let damaged: u64 = status.recovery.damages.iter().map(|d| d.bytes).sum();
        let single = [
            (
                names::STORE_LOG_UP,
                "gauge",
                "1 while the log is written, 0 while the disk fails.",
                up,
            ),
            (
                names::STORE_LOG_FAILURES_TOTAL,
                "counter",
                "Times that the disk failed.",
                status.failures as f64,
            ),
            (
                names::STORE_LOG_BYTES_TOTAL,
                "counter",
                "Bytes of log written.",
                status.logged_bytes as f64,
            ),
            (
                names::STORE_SNAPSHOTS_TOTAL,
                "counter",
                "Snapshots taken.",
                status.snapshots as f64,
            ),
            (
                names::STORE_DAMAGED_BYTES,
                "gauge",
                "Bytes that the last start could not read.",
                damaged as f64,
            ),
        ];
        for (name, kind, help, value) in single {
            render_one(out, name, kind, help, value);
        }
    }
}

impl Append for Tsdb {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, AppendError> {
        self.head.resolve(labels.iter().map(|l| (&*l.name, &*l.value)))
    }

    fn resolve_pairs(&self, pairs: &[(&str, &str)]) -> Result<SeriesRef, AppendError> {
        self.head.resolve(pairs.iter().copied())
    }

    fn append(&self, batch: &[(SeriesRef, Sample)], refused: &mut Vec<(usize, AppendError)>) {
        self.head.append(batch, refused);
    }

    fn append_histograms(&self, batch: &[(SeriesRef, i64, Histogram)], refused: &mut Vec<(usize, AppendError)>) {
        self.head.append_histograms(batch, refused);
    }

    fn describe(&self, family: &str, metadata: &Metadata) {
        self.head.describe(family, metadata);
    }

    fn oldest_ms(&self, now_ms: i64) -> i64 {
        self.head.oldest_by_age(now_ms)
    }
}

impl Select for Tsdb {
    fn visit(
        &self,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), SelectError> {
        self.head.visit(matchers, start_ms, end_ms, visitor);
        Ok(())
    }

    fn metadata(&self, family: Option<&str>) -> Vec<(String, Metadata)> {
        self.head.families().get(family)
    }

    fn series(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<Labels>, SelectError> {
        Ok(self.head.series(matchers, start_ms, end_ms))
    }

    fn label_names(&self, matchers: &[Matcher], start_ms: i64, end_ms: i64) -> Result<Vec<String>, SelectError> {
        Ok(self.head.label_names(matchers, start_ms, end_ms))
    }

    fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, SelectError> {
        Ok(self.head.label_values(name, matchers, start_ms, end_ms))
    }
}

#[cfg(test)]
mod tests;
