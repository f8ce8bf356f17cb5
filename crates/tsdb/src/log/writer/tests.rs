//! What the thread does when the disk does not do its part, and in which order it is told of samples.

use super::*;
use crate::log::recover;
use crate::options::Options;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use weir_series::{Sample, SeriesRef};

fn series(head: &Head) -> SeriesRef {
    let labels = [("__name__", "x")];
    head.resolve(labels.into_iter()).unwrap_or_else(|e| panic!("{e}"))
}

fn put(head: &Head, id: SeriesRef, ts_ms: i64) {
    let sample = Sample {
        ts_ms,
        value: ts_ms as f64,
    };
    // Who comes late is refused.
    head.append(&[(id, sample)], &mut Vec::new());
}

#[test]
fn samples_of_a_series_are_told_in_the_order_in_which_it_took_them() {
    let queue = Queue::default();
    let head = Head::new(Options::default(), Some(queue.clone()));
    let id = series(&head);
    let clock = AtomicI64::new(1);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| (0..20_000).for_each(|_| put(&head, id, clock.fetch_add(1, Relaxed))));
        }
    });
    let (events, _) = queue.drain();
    let told = events.into_iter().flat_map(|event| match event {
        Event::Samples(batch) => batch,
        _ => Vec::new(),
    });
    let told: Vec<i64> = told.map(|(_, sample)| sample.ts_ms).collect();
    assert!(
        told.is_sorted(),
        "an older sample after a newer one is refused when the log is read"
    );
    assert_eq!(told.len() as u64, head.stats().appended);
}

#[test]
fn a_snapshot_that_fails_is_tried_less_and_less_often_and_leaves_no_empty_logs() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let storage = Storage::new(folder.path());
    let first = storage.retry;
    let directory = Directory::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let queue = Queue::default();
    let make = || Head::new(Options::default(), Some(queue.clone()));
    let (head, found) = recover::recover(&directory, i64::MIN, make).unwrap_or_else(|e| panic!("{e}"));
    let head = Arc::new(head);
    let mut writer = Writer::new(head.clone(), queue.clone(), storage, directory, found);
    writer.begin_segment().unwrap_or_else(|e| panic!("{e}"));
    let logs = |writer: &Writer| writer.directory.list().map(|listing| listing.logs.len()).unwrap_or(0);

    // Where the snapshot would be written, there is something that no file can replace.
    let obstacle = writer.directory.unfinished();
    fs::create_dir(&obstacle).unwrap_or_else(|e| panic!("{e}"));
    let mut waits = Vec::new();
    for _ in 0..10 {
        writer.snapshot_or_later();
        waits.push(writer.retry);
    }
    assert_eq!(waits[..3], [first * 2, first * 4, first * 8]);
    assert_eq!(waits[9], RETRY_MAX);
    assert_eq!((logs(&writer), writer.board.get().failures), (1, 10));
    // A log with something in it is closed: the snapshot stands for what came before the next one.
    let id = series(&head);
    put(&head, id, 1);
    writer.drain();
    writer.snapshot_or_later();
    writer.snapshot_or_later();
    assert_eq!(logs(&writer), 2);

    fs::remove_dir(&obstacle).unwrap_or_else(|e| panic!("{e}"));
    writer.snapshot_or_later();
    assert_eq!((writer.retry, writer.board.get().snapshots), (first, 1));
    assert!(writer.board.get().error.is_none());

    // Without a log nothing is kept: that is tried again soon, however often it failed.
    for _ in 0..3 {
        writer.fail(&io::Error::other("no disk"));
        assert_eq!(writer.retry, first * 2);
    }
}
