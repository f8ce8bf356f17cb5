//! Lines on their way to the process's output.
//!
//! Enters: whole lines, from any thread, without ever waiting. Leaves: the same, many at a time, written by a thread of
//! their own that is made for the first of them. The queue is bounded; what it cannot hold, and what the output does not
//! take, is dropped and counted.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Lines that may wait.
const QUEUE_LINES: usize = 8192;
/// Their bytes.
const QUEUE_BYTES: usize = 4 << 20;
/// Bytes that are written at a time, unless one line has more.
const BATCH_BYTES: usize = 64 << 10;
/// Lines that come within this time are written together.
const GATHER: Duration = Duration::from_millis(10);
/// An output that takes nothing, and does not block either, is asked so often again.
const STALLS_MAX: u32 = 50;
/// How often is looked whether all is written.
const FLUSH_TICK: Duration = Duration::from_millis(5);

/// The lines of a proxy.
#[derive(Debug, Default)]
pub struct AccessLog {
    /// Where they are written in place of standard output.
    out: OnceLock<Arc<File>>,
    /// `None` within: there is nobody who could write.
    queue: OnceLock<Option<SyncSender<Vec<u8>>>>,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Waiting {
    fn done(&self, bytes: usize, dropped: usize) {
        self.dropped.fetch_add(dropped as u64, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

impl AccessLog {
    /// Lines go there in place of standard output. Without effect once there were any.
    pub fn redirect(&self, out: Arc<File>) {
        let _ = self.out.set(out);
    }

    /// Lines that were lost: too many waited, or the output did not take them.
    pub fn dropped(&self) -> u64 {
        self.waiting.dropped.load(Relaxed)
    }

    /// Takes a line, where there is room.
    pub fn offer(&self, line: Vec<u8>) {
        let bytes = line.len();
        let room = self.waiting.bytes.fetch_add(bytes, Relaxed) + bytes <= QUEUE_BYTES;
        let queue = self.queue.get_or_init(|| self.start());
        let taken = room && queue.as_ref().is_some_and(|queue| queue.try_send(line).is_ok());
        if !taken {
            self.waiting.done(bytes, 1);
        }
    }

    /// Waits until all lines are written, but not for ever; `false`: some are not.
    pub async fn flush(&self, limit: Duration) -> bool {
        let written = async {
            while self.waiting.bytes.load(Relaxed) > 0 {
                tokio::time::sleep(FLUSH_TICK).await;
            }
        };
        tokio::time::timeout(limit, written).await.is_ok()
    }

    fn start(&self) -> Option<SyncSender<Vec<u8>>> {
        // Not by way of the standard library's lock: whoever else writes there must not wait for this thread.
        let out = match self.out.get() {
            Some(out) => Ok(Arc::clone(out)),
            None => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(|fd| Arc::new(File::from(fd))),
        };
        let started = out.and_then(|out| {
            let (queue, lines) = sync_channel(QUEUE_LINES);
            let waiting = Arc::clone(&self.waiting);
            let writer = Writer {
                out,
                torn: false,
                failing: false,
            };
            std::thread::Builder::new()
                .name("access-log".to_owned())
                .spawn(move || writer.run(&lines, &waiting))
                .map(|_| queue)
        });
        started
            .inspect_err(|error| tracing::warn!(%error, "access logs are lost: nobody can write them"))
            .ok()
    }
}

/// Writes lines until nobody can send any more.
struct Writer<W> {
    out: Arc<W>,
    /// The last line that was written has no end.
    torn: bool,
    /// The last write failed; said once.
    failing: bool,
}

impl<W> Writer<W>
where
    for<'a> &'a W: Write,
{
    fn run(mut self, lines: &Receiver<Vec<u8>>, waiting: &Waiting) {
        let mut batch = Vec::new();
        while let Ok(first) = lines.recv() {
            std::thread::sleep(GATHER);
            let mut next = Some(first);
            while let Some(line) = next {
                let mut bytes = line.len();
                batch.extend_from_slice(&line);
                while batch.len() < BATCH_BYTES
                    && let Ok(line) = lines.try_recv()
                {
                    bytes += line.len();
                    batch.extend_from_slice(&line);
                }
                let dropped = self.write(&batch);
                waiting.done(bytes, dropped);
                batch.clear();
                next = lines.try_recv().ok();
            }
            batch.shrink_to(2 * BATCH_BYTES);
        }
    }

    /// Writes whole lines; how many of them were not written as a whole.
    fn write(&mut self, batch: &[u8]) -> usize {
        // What is there of a line stands alone.
        let before = if self.torn { self.put(b"\n").1 } else { Ok(()) };
        let (written, outcome) = match before {
            Ok(()) => self.put(batch),
            Err(error) => (0, Err(error)),
        };
        let (done, rest) = batch.split_at(written);
        if let Some(last) = done.last() {
            self.torn = *last != b'\n';
        }
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "access logs are lost: the output does not take them");
            }
            Err(_) => {}
        }
        rest.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Writes; how many bytes, and why not more.
    fn put(&self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let (mut written, mut stalls) = (0, 0);
        while written < bytes.len() {
            match (&*self.out).write(&bytes[written..]) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(n) => (written, stalls) = (written + n, 0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && stalls < STALLS_MAX => {
                    stalls += 1;
                    std::thread::sleep(GATHER);
                }
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// An output that takes what it is told to.
    #[derive(Default)]
    struct Output {
        takes: Mutex<VecDeque<io::Result<usize>>>,
        seen: Mutex<Vec<u8>>,
    }

    impl Write for &Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = self.takes.lock().unwrap().pop_front().unwrap_or(Ok(usize::MAX))?;
            let n = n.min(bytes.len());
            self.seen.lock().unwrap().extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_whole_or_counted() {
        let out = Arc::new(Output::default());
        let mut writer = Writer {
            out: Arc::clone(&out),
            torn: false,
            failing: false,
        };
        let broken = || Err(ErrorKind::BrokenPipe.into());
        let mut write = |takes: Vec<io::Result<usize>>, batch: &str| {
            out.takes.lock().unwrap().extend(takes);
            let dropped = writer.write(batch.as_bytes());
            let seen = std::mem::take(&mut *out.seen.lock().unwrap());
            (dropped, String::from_utf8(seen).unwrap())
        };
        assert_eq!(
            write(vec![Ok(2), Err(ErrorKind::Interrupted.into())], "one\ntwo\n"),
            (0, "one\ntwo\n".into())
        );
        // In the middle of the second line; the rest of it never follows.
        assert_eq!(write(vec![Ok(6), broken()], "one\ntwo\nthree\n"), (2, "one\ntw".into()));
        assert_eq!(write(vec![broken()], "four\n"), (1, String::new()));
        assert_eq!(write(vec![], "five\n"), (0, "\nfive\n".into()));
        // Between two lines.
        assert_eq!(write(vec![Ok(4), broken()], "six\nseven\n"), (1, "six\n".into()));
        assert_eq!(write(vec![], "eight\n"), (0, "eight\n".into()));
    }

    #[test]
    fn what_does_not_fit_is_dropped() {
        let log = AccessLog::default();
        let (queue, lines) = sync_channel(2);
        log.queue.set(Some(queue)).unwrap();
        for _ in 0..3 {
            log.offer(b"line\n".to_vec());
        }
        assert_eq!((log.dropped(), lines.try_iter().count()), (1, 2));
        // Nobody wrote those two.
        assert_eq!(log.waiting.bytes.load(Relaxed), 10);
        log.offer(vec![b'x'; QUEUE_BYTES]);
        assert_eq!((log.dropped(), lines.try_iter().count()), (2, 0));
        assert_eq!(log.waiting.bytes.load(Relaxed), 10);
    }
}
