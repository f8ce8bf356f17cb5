//! The committed corpus of each fuzz target, as it is and changed at random for a few seconds.
//!
//! `WEIR_FUZZ_SEED` and `WEIR_FUZZ_SECONDS` set where chance begins and how long each target gets. An input that breaks an
//! invariant is printed and kept as a file, which then can become part of the corpus.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weir_proxy::fuzz::{TARGETS, run};

const SECONDS: f64 = 3.0;
const SEED: u64 = 0x5eed;
/// Inputs do not grow beyond this.
const BYTES_MAX: usize = 4096;
/// All files together, so that a checkout stays small.
const CORPUS_FILES_MAX: usize = 300;
const CORPUS_BYTES_MAX: usize = 300_000;

/// What messages and bootstraps are made of: what a random byte would hit too rarely.
const WORDS: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n ",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"\x7f",
    b"\x80",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"Connection: ",
    b"close",
    b"keep-alive",
    b"upgrade",
    b"Upgrade: websocket\r\n",
    b"x-forwarded-proto",
    b"Expect: 100-continue\r\n",
    b"date",
    b"http://",
    b"?",
    b"#",
    b"*",
    b"[::1]",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"-1",
    b"\xff\xff\xff\xff\x0f",
    b"{",
    b"- ",
];

#[test]
fn the_corpus_is_complete_and_small() {
    let (mut files, mut bytes) = (0, 0);
    for (target, _) in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() >= 3, "{target} has hardly any corpus");
        files += corpus.len();
        bytes += corpus.iter().map(|(_, content)| content.len()).sum::<usize>();
    }
    assert!(
        files < CORPUS_FILES_MAX && bytes < CORPUS_BYTES_MAX,
        "{files} files, {bytes} bytes"
    );
    // Other crates have targets too; each has its binary.
    for folder in std::fs::read_dir(fuzz_folder().join("corpus")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let binary = fuzz_folder().join(format!("fuzz_targets/{name}.rs"));
        assert!(binary.is_file(), "the corpus {name} has no target");
    }
    for (target, _) in TARGETS {
        let binary = fuzz_folder().join(format!("fuzz_targets/{target}.rs"));
        assert!(
            std::fs::read_to_string(&binary)
                .unwrap()
                .contains(&format!("{target:?}"))
        );
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { fuzz(stringify!($name)); })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets! {
    h1_request h1_response h1_chunked xds_listener xds_cluster xds_route_table xds_assignment bootstrap
}

/// Runs the corpus of a target, then changes of it until the time is over.
fn fuzz(target: &str) {
    let seed = from_environment("WEIR_FUZZ_SEED", SEED);
    let limit = Duration::from_secs_f64(from_environment("WEIR_FUZZ_SECONDS", SECONDS));
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        try_one(target, bytes, &path.display().to_string());
    }
    let mut random = Random(seed | 1);
    let begin = Instant::now();
    let mut runs = 0u64;
    while begin.elapsed() < limit {
        let bytes = changed(&corpus, &mut random);
        try_one(target, &bytes, &format!("seed {seed}, run {runs}"));
        runs += 1;
    }
    println!(
        "{target}: {} files, then {runs} changes of them, seed {seed}",
        corpus.len()
    );
}

fn try_one(target: &str, bytes: &[u8], whence: &str) {
    if catch_unwind(AssertUnwindSafe(|| run(target, bytes))).is_err() {
        let file = std::env::temp_dir().join(format!("weir-fuzz-{target}-{}", std::process::id()));
        let kept = std::fs::write(&file, bytes).map_or_else(|e| e.to_string(), |()| file.display().to_string());
        panic!("{target}, {whence}: \"{}\"\nkept: {kept}", bytes.escape_ascii());
    }
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// Sorted, so that a seed means the same everywhere.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz_folder().join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// One of the corpus with a few changes.
fn changed(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                // A piece of another one.
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

/// Xorshift: the same everywhere, and good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}
