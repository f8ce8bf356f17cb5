//! The corpus, and the corpus changed at random.

use super::TARGETS;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long each target is given changed inputs.
const CHANGED: Duration = Duration::from_secs(1);

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|f| f.unwrap_or_else(|e| panic!("{e}")).path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn the_corpus_breaks_nothing() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for (path, bytes) in inputs {
            println!("{}", path.display());
            target(&bytes);
        }
    }
}

#[test]
fn the_corpus_changed_at_random_breaks_nothing() {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let seed = now.as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut state = seed;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        let until = Instant::now() + CHANGED;
        while Instant::now() < until {
            let mut bytes = inputs[random(inputs.len())].1.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len() + 1);
                match random(4) {
                    0 => bytes.insert(at, random(256) as u8),
                    1 => bytes.truncate(at),
                    2 if at < bytes.len() => {
                        bytes.remove(at);
                    }
                    _ => {
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = random(256) as u8;
                        }
                    }
                }
            }
            println!("{name} {bytes:?}");
            target(&bytes);
        }
    }
}
