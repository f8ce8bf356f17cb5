//! The thread that writes: events into the log, pages into a snapshot, and back to work after the disk failed.

use super::directory::Directory;
use super::queue::{Event, Queue};
use super::record::{DEFINITIONS, Dictionary, HISTOGRAMS, SAMPLES, Values, put_samples};
use super::recover::Found;
use super::snapshot::{Making, put_family};
use super::{Status, frame};
use crate::head::Head;
use crate::histogram;
use crate::options::Storage;
use crate::varint::{put, put_signed};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Samples of a record.
const RECORD_SAMPLES: usize = 10_000;
/// Series defined in a record, under one lock of the index.
const RECORD_SERIES: u64 = 256;
/// What is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// The longest time between two tries of a snapshot that fails while the log goes on.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// So much log read at a start is worth a snapshot at once.
const REPLAYED_MAX: u64 = 32 << 20;

/// How the writing goes, for all to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Status>>);

impl Board {
    pub fn get(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log that is written now.
#[derive(Debug)]
struct Segment {
    file: File,
    number: u64,
    /// Bytes up to the last whole write.
    good: u64,
    dictionary: Dictionary,
    values: Values,
}

/// State of the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    head: Arc<Head>,
    queue: Queue,
    storage: Storage,
    directory: Directory,
    board: Board,
    segment: Option<Segment>,
    next_log: u64,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// When a snapshot is tried (again), without anybody asking.
    due: Option<Instant>,
    /// What is waited after the next failure of a snapshot.
    retry: Duration,
    out: Vec<u8>,
}

impl Writer {
    pub fn new(head: Arc<Head>, queue: Queue, storage: Storage, directory: Directory, found: Found) -> Writer {
        let board = Board::default();
        let due = !found.recovery.damages.is_empty() || found.log_bytes > REPLAYED_MAX;
        board.get().recovery = found.recovery;
        Writer {
            retry: storage.retry,
            head,
            queue,
            storage,
            directory,
            board,
            segment: None,
            next_log: found.next_log,
            log_bytes: found.log_bytes,
            snapshot_bytes: found.snapshot_bytes,
            due: due.then(Instant::now),
            out: Vec::new(),
        }
    }

    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Until the queue is closed.
    pub fn run(mut self) {
        if let Err(error) = self.begin_segment() {
            self.fail(&error);
        }
        loop {
            let work = self.queue.take(self.storage.flush);
            if work.overflowed {
                self.fail(&io::Error::other("the disk does not keep up with what is appended"));
            }
            match self.write(work.events) {
                Ok(()) => self.queue.written(work.mark),
                Err(error) => self.fail(&error),
            }
            let due = self.due.is_some_and(|at| at <= Instant::now());
            let much = self.log_bytes > self.storage.log_bytes.max(self.snapshot_bytes);
            if work.snapshot || due || much && self.due.is_none() {
                self.snapshot_or_later();
            }
            if work.closed {
                return;
            }
        }
    }

    /// Nothing goes into this log any more; a snapshot will tell what happened meanwhile.
    fn fail(&mut self, error: &io::Error) {
        self.queue.refuse();
        if let Some(segment) = self.segment.take() {
            // Best effort: a record that is torn here is found by its checksum.
            let _ = segment.file.set_len(segment.good);
        }
        self.note(error);
    }

    fn note(&mut self, error: &io::Error) {
        // Nothing is kept while there is no log: that is tried again soon. A snapshot that is only due costs a write of all
        // there is each time, and takes from the log the room that may be left.
        self.retry = match self.segment {
            None => self.storage.retry,
            Some(_) => self.retry,
        };
        self.due = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX.max(self.storage.retry));
        let mut status = self.board.get();
        status.failures += 1;
        status.error = Some(format!("{}: {error}", self.storage.path.display()));
        status.failing_since.get_or_insert_with(SystemTime::now);
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.next_log;
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .open(self.directory.log(number))?;
        self.next_log += 1;
        file.write_all(frame::LOG)?;
        self.directory.sync()?;
        self.log_bytes = 0;
        self.segment = Some(Segment {
            file,
            number,
            good: frame::LOG.len() as u64,
            dictionary: Dictionary::default(),
            values: Values::default(),
        });
        Ok(())
    }

    /// Writes events, and waits for the disk if that is asked for.
    fn write(&mut self, events: VecDeque<Event>) -> io::Result<()> {
        if events.is_empty() || self.segment.is_none() {
            return Ok(());
        }
        for event in events {
            self.encode(event)?;
        }
        self.write_out()?;
        match &self.segment {
            Some(segment) if self.storage.sync => segment.file.sync_data(),
            _ => Ok(()),
        }
    }

    fn encode(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Series(ids) => {
                let mut first = ids.start;
                while first < ids.end {
                    let end = ids.end.min(first + RECORD_SERIES);
                    let Some(segment) = &mut self.segment else {
                        return Ok(());
                    };
                    let index = self.head.index();
                    frame::put(&mut self.out, |out| {
                        out.push(DEFINITIONS);
                        (first..end).for_each(|id| segment.dictionary.series(&index, id, out));
                    });
                    drop(index);
                    first = end;
                    self.write_some()?;
                }
            }
            Event::Samples(batch) => {
                for samples in batch.chunks(RECORD_SAMPLES) {
                    let Some(segment) = &mut self.segment else {
                        return Ok(());
                    };
                    let before = self.out.len();
                    let samples = samples.iter().map(|(id, sample)| (id.0, *sample));
                    frame::put(&mut self.out, |out| {
                        out.push(SAMPLES);
                        put_samples(&mut segment.values, samples, out);
                    });
                    self.board.get().sample_bytes += (self.out.len() - before) as u64;
                    self.write_some()?;
                }
            }
            Event::Histograms(batch) => {
                frame::put(&mut self.out, |out| {
                    out.push(HISTOGRAMS);
                    for (id, ts_ms, value) in &batch {
                        put(out, id.0);
                        put_signed(out, *ts_ms);
                        histogram::encode(value, out);
                    }
                });
                self.write_some()?;
            }
            Event::Family(family, metadata) => {
                put_family(&family, &metadata, &mut self.out);
                self.write_some()?;
            }
        }
        Ok(())
    }

    fn write_some(&mut self) -> io::Result<()> {
        if self.out.len() >= WRITE_BYTES {
            self.write_out()
        } else {
            Ok(())
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let written = match &mut self.segment {
            Some(segment) => segment
                .file
                .write_all(&self.out)
                .map(|()| segment.good += self.out.len() as u64),
            None => Ok(()),
        };
        if let (Ok(()), Some(segment)) = (&written, &self.segment) {
            self.log_bytes += self.out.len() as u64;
            let mut status = self.board.get();
            status.logged_bytes += self.out.len() as u64;
            status.position = (segment.number, segment.good);
        }
        self.out.clear();
        self.out.shrink_to(WRITE_BYTES);
        written
    }

    /// A snapshot; after a failure also the return to work. If it fails, the log goes on if it can.
    fn snapshot_or_later(&mut self) {
        let was_failing = self.segment.is_none();
        match self.snapshot() {
            Ok(()) => {
                self.queue.snapshot_taken();
                // The snapshot may have taken the room that the log needed: that is still due then.
                if self.segment.is_some() {
                    self.due = None;
                    self.retry = self.storage.retry;
                    let mut status = self.board.get();
                    (status.error, status.failing_since) = (None, None);
                }
            }
            Err(error) => {
                // Nothing more can be done about it if even that fails.
                let _ = fs::remove_file(self.directory.unfinished());
                if was_failing {
                    self.fail(&error)
                } else {
                    self.note(&error)
                }
            }
        }
    }

    fn snapshot(&mut self) -> io::Result<()> {
        // From here on the log tells what comes after; what came before is in the head already.
        let failing = self.segment.is_none();
        // A log without a record is as good as one that is begun now.
        if self.segment.as_ref().is_none_or(|s| s.good > frame::LOG.len() as u64) {
            self.begin_segment()?;
        }
        if failing {
            self.queue.accept();
        }
        let number = self.segment.as_ref().map_or(0, |s| s.number);
        let path = self.directory.unfinished();
        let mut file = File::create(&path)?;
        let mut out = frame::SNAPSHOT.to_vec();
        let mut making = Making::new(&self.head);
        let (mut bytes, mut flushed) = (0, Instant::now());
        let mut write = |out: &mut Vec<u8>| {
            bytes += out.len() as u64;
            file.write_all(out)?;
            out.clear();
            io::Result::Ok(())
        };
        while making.page(&self.head, &mut out) {
            if out.len() >= WRITE_BYTES {
                write(&mut out)?;
            }
            if flushed.elapsed() >= self.storage.flush {
                self.drain();
                flushed = Instant::now();
            }
        }
        making.end(&self.head, &mut out);
        write(&mut out)?;
        file.sync_all()?;
        // What the snapshot saw must be in the log too before it counts, for the case that it is damaged later.
        self.drain();
        fs::rename(&path, self.directory.snapshot(number))?;
        self.directory.sync()?;
        self.snapshot_bytes = bytes;
        {
            let mut status = self.board.get();
            status.snapshots += 1;
            status.snapshot_bytes = bytes;
        }
        self.directory.remove_superseded()
    }

    /// The log does not wait for a snapshot.
    fn drain(&mut self) {
        let (events, mark) = self.queue.drain();
        match self.write(events) {
            Ok(()) => self.queue.written(mark),
            Err(error) => self.fail(&error),
        }
    }
}

#[cfg(test)]
mod tests;
