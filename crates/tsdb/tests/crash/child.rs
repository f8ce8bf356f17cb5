//! The process that is killed, and the one whose disk is full. Both tell on their standard output what is safe.

use crate::data::{Data, Random, read};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use weir_tsdb::{Options, Storage, Tsdb};

/// A disk that takes longer is a failure of the test.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn options() -> Options {
    Options {
        retention: Duration::from_secs(24 * 3600),
        ..Options::default()
    }
}

/// Small logs, so that there are many snapshots.
pub fn storage(path: &Path) -> Storage {
    Storage {
        flush: Duration::from_millis(20),
        sync: false,
        log_bytes: 100_000,
        retry: Duration::from_millis(200),
        ..Storage::new(path)
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when the parent is gone.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// Appends from a step on until it is killed: `flushed STEP LOG BYTES`.
pub fn append_until_killed(path: &Path, data: Data, first: u64) {
    let db = Tsdb::open(options(), storage(path)).expect("the store opens");
    let mut random = Random(data.seed ^ first | 1);
    let mut step = first;
    loop {
        for _ in 0..=random.below(6) {
            data.append(&db, step);
            step += 1;
        }
        if random.below(8) == 0 {
            db.maintain(data.time(step));
        }
        assert!(db.flush(PATIENCE), "not flushed: {:?}", db.status());
        let (log, bytes) = db.status().expect("a store on a disk").position;
        say(&format!("flushed {} {log} {bytes}", step - 1));
    }
}

/// Appends until the disk is full, goes on, and waits for the disk: `full`, then a line is awaited, then `done STEP`.
pub fn meet_full_disk(path: &Path, data: Data, limit: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    if let Some(limit) = limit {
        setrlimit(Resource::RLIMIT_FSIZE, limit, hard).expect("a limit of the size of files");
    }
    let db = Tsdb::open(options(), storage(path)).expect("the store opens");
    let begin = Instant::now();
    let mut step = 0;
    let mut append = || {
        data.append(&db, step);
        step += 1;
        std::thread::sleep(Duration::from_millis(1));
        assert!(begin.elapsed() < 2 * PATIENCE, "still waiting: {:?}", db.status());
        step
    };
    let failing = || db.status().is_some_and(|s| s.error.is_some());
    while !failing() {
        append();
    }
    // Serving and appending go on, and all can see the error.
    for _ in 0..50 {
        append();
    }
    assert!(failing(), "the disk is full, but nobody says so");
    let mut figures = String::new();
    db.render(&mut figures);
    assert!(figures.contains("\nweir_store_log_up 0\n"), "{figures}");
    let last = append() - 1;
    let mut expected = Default::default();
    data.add(&mut expected, 0..=last);
    assert!(
        read(&db) == expected,
        "the store answers wrongly while the disk is full"
    );
    say(&format!(
        "full {}",
        db.status().and_then(|s| s.error).unwrap_or_default()
    ));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    if limit.is_some() {
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("no limit of the size of files");
    }
    while failing() {
        append();
    }
    let last = append() - 1;
    assert!(db.flush(PATIENCE), "not flushed: {:?}", db.status());
    say(&format!("done {last}"));
    // Ends without an orderly end of the store.
    std::process::abort();
}
