//! The corpus, and the corpus cut up and put together at random.

use super::TARGETS;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long changed queries are tried.
const CHANGED: Duration = Duration::from_secs(2);

fn corpus(target: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = files.map(|f| f.unwrap_or_else(|e| panic!("{e}")).path()).collect();
    files.sort();
    let read = |path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{e}"));
    files.into_iter().map(read).collect()
}

#[test]
fn the_corpus_breaks_nothing() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for query in inputs {
            println!("{query}");
            target(query.as_bytes());
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
        // Words keep their meaning where single characters would lose it.
        let inputs: Vec<Vec<String>> = corpus(name).iter().map(|q| words(q)).collect();
        let until = Instant::now() + CHANGED;
        while Instant::now() < until {
            let mut query = inputs[random(inputs.len())].clone();
            for _ in 0..=random(3) {
                let other = &inputs[random(inputs.len())];
                let at = random(query.len().max(1)).min(query.len());
                match random(3) {
                    0 => query.insert(at, other[random(other.len())].clone()),
                    1 if at < query.len() => query[at] = other[random(other.len())].clone(),
                    _ if at < query.len() => drop(query.remove(at)),
                    _ => {}
                }
            }
            let text = query.concat();
            println!("{text}");
            target(text.as_bytes());
        }
    }
}

fn words(query: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for c in query.chars() {
        match out.last_mut() {
            Some(word) if c.is_alphanumeric() && word.chars().all(char::is_alphanumeric) => word.push(c),
            _ => out.push(c.to_string()),
        }
    }
    out
}
