//! Kills a process that appends, at random moments, damages its files in half of the rounds, and asks the store that is
//! opened from them whether everything that was said to be safe is there; and fills the disk of another one.
//!
//! `WEIR_CRASH_ROUNDS` and `WEIR_CRASH_SEED` set how often and where chance begins.

mod child;
mod data;

use child::{options, storage};
use data::{Content, Data, Random, missing_in, read};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_tsdb::{OpenError, Recovery, Tsdb};

/// Without `WEIR_CRASH_ROUNDS`.
const ROUNDS: u64 = 8;
/// How long a child may take to say something.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments[at].parse::<u64>().expect("a number");
    match arguments.get(1).map(String::as_str) {
        Some("append") => {
            let (seed, begin_ms) = (number(3), number(4) as i64);
            child::append_until_killed(Path::new(&arguments[2]), Data { seed, begin_ms }, number(5));
        }
        Some("full") => {
            let (seed, begin_ms) = (number(3), number(4) as i64);
            let limit = Some(number(5)).filter(|limit| *limit > 0);
            child::meet_full_disk(Path::new(&arguments[2]), Data { seed, begin_ms }, limit);
        }
        // A filter of `cargo test` that means other tests.
        Some(filter) if !filter.starts_with('-') && !"crash".contains(filter) => {}
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
            let seed = from_environment("WEIR_CRASH_SEED").unwrap_or(now.subsec_nanos().into()) | 1;
            let rounds = from_environment("WEIR_CRASH_ROUNDS").unwrap_or(ROUNDS);
            println!("crash: {rounds} rounds, WEIR_CRASH_SEED={seed}");
            let begin_ms = now.as_millis() as i64 - 3_600_000;
            let data = Data { seed, begin_ms };
            kill_and_damage(data, rounds);
            fill_the_disk(data);
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A child and the lines it says.
struct Speaker {
    process: Child,
    lines: Receiver<String>,
}

impl Speaker {
    fn start(command: &mut Command) -> Speaker {
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("the child starts");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Speaker { process, lines }
    }

    fn line(&mut self, what: &str) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| {
            self.process.kill().ok();
            panic!("the child does not say {what:?}: {e}")
        })
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What a child said to be safe, and where the log ended after that.
struct Watermark {
    step: u64,
    log: u64,
    bytes: u64,
}

fn watermark(line: &str) -> Watermark {
    let numbers: Vec<u64> = line.split(' ').skip(1).map(|n| n.parse().expect("a number")).collect();
    let [step, log, bytes] = numbers[..] else {
        panic!("the child says {line:?}");
    };
    Watermark { step, log, bytes }
}

fn kill_and_damage(data: Data, rounds: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let mut random = Random(data.seed);
    // What is surely in the store, and the first step that may not be.
    let (mut content, mut first) = (Content::new(), 0);
    let (mut dropped, mut damaged) = (0, 0);
    for round in 0..rounds {
        let marks = run_and_kill(path, data, first, &mut random);
        let last = marks.last().expect("at least one").step;
        let damage = (round % 2 == 1).then(|| damage(path, &mut random));
        let safe = safe_step(&marks, damage.as_ref(), path);
        let db = Tsdb::open(options(), storage(path)).expect("the store opens, whatever its files hold");
        let recovery = db.status().expect("a store on a disk").recovery;
        let found = read(&db);
        if damage.is_some() {
            // Two snapshots, so that no damaged file is left: two damages of different rounds may cost what one may not.
            assert!(
                db.close(PATIENCE) && db.close(PATIENCE),
                "no snapshot: {:?}",
                db.status()
            );
        }
        drop(db);
        let context = format!("round {round}, seed {}, {damage:?}, {recovery:#?}", data.seed);
        if let Some(safe) = safe {
            let mut expected = content.clone();
            data.add(&mut expected, first..=safe);
            let missing = missing_in(&found, &expected);
            assert!(missing.is_none(), "lost: {}\n{context}", missing.unwrap_or_default());
        }
        // Nothing but what was appended. The child may have appended some steps more than it said.
        let mut possible = content.clone();
        data.add(&mut possible, first..=last + 100);
        let wrong = missing_in(&possible, &found);
        assert!(
            wrong.is_none(),
            "never appended: {}\n{context}",
            wrong.unwrap_or_default()
        );
        let mut expected = content.clone();
        data.add(&mut expected, first..=last);
        let lost = missing_in(&found, &expected).is_some();
        assert!(
            !lost || !recovery.damages.is_empty(),
            "samples are gone, and nobody says so\n{context}"
        );
        check_report(&recovery, damage.as_ref(), &context);
        damaged += u64::from(damage.is_some());
        dropped += recovery.damages.iter().map(|d| d.bytes).sum::<u64>();
        let newest = found.values().filter_map(|s| s.keys().next_back()).max().copied();
        first = newest.map_or(0, |ts_ms| data.step(ts_ms) + 1).max(last + 1);
        content = found;
    }
    let samples: usize = content.values().map(|s| s.len()).sum();
    println!(
        "crash: {rounds} rounds, {damaged} with damaged files, {dropped} bytes reported as dropped; {first} steps, {} series, {samples} samples",
        content.len()
    );
}

fn run_and_kill(path: &Path, data: Data, first: u64, random: &mut Random) -> Vec<Watermark> {
    let program = std::env::current_exe().expect("this program");
    let numbers = [data.seed, data.begin_ms as u64, first].map(|n| n.to_string());
    let mut child = Speaker::start(Command::new(program).arg("append").arg(path).args(numbers));
    let mut marks = vec![watermark(&child.line("flushed"))];
    // A random moment: the test is what happens then, not that it happens at any particular one.
    std::thread::sleep(Duration::from_micros(random.below(400_000)));
    if random.below(4) == 0 && marks.len() == 1 {
        let locked = Tsdb::open(options(), storage(path));
        assert!(
            matches!(locked, Err(OpenError::Locked { .. })),
            "two processes have one store"
        );
    }
    child.process.kill().expect("the child is killed");
    child.process.wait().expect("the child is gone");
    marks.extend(child.lines.iter().map(|line| watermark(&line)));
    marks
}

/// What was done to a file.
#[derive(Debug)]
struct Done {
    file: PathBuf,
    offset: u64,
    /// Whether the byte is another one; else the file ends there.
    flipped: bool,
}

fn numbered(path: &Path, kind: &str) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(path)
        .expect("the store's folder")
        .map(|e| e.expect("an entry").path());
    let number = |p: &PathBuf| p.file_name()?.to_str()?.strip_prefix(kind)?.parse().ok();
    let mut files: Vec<(u64, PathBuf)> = entries.filter_map(|p| Some((number(&p)?, p))).collect();
    files.sort();
    files
}

/// Truncates a log or flips a bit in a log or the newest snapshot.
fn damage(path: &Path, random: &mut Random) -> Done {
    let (logs, snapshots) = (numbered(path, "log-"), numbered(path, "snapshot-"));
    let flipped = random.below(2) == 0;
    let file = match snapshots.last() {
        Some((_, newest)) if flipped && random.below(3) == 0 => newest.clone(),
        // Mostly the newest ones.
        _ => logs[logs.len() - 1 - random.below(logs.len().min(2) as u64) as usize]
            .1
            .clone(),
    };
    let mut bytes = fs::read(&file).expect("the file");
    let offset = random.below(bytes.len() as u64);
    if flipped {
        bytes[offset as usize] ^= 1 << random.below(8);
    } else {
        bytes.truncate(offset as usize);
    }
    fs::write(&file, bytes).expect("the file is changed");
    Done { file, offset, flipped }
}

/// The last step that must have survived; `None` if none of this run must.
fn safe_step(marks: &[Watermark], damage: Option<&Done>, path: &Path) -> Option<u64> {
    let last = marks.last().map(|m| m.step);
    let Some(damage) = damage else { return last };
    let Some((log, _)) = numbered(path, "log-")
        .into_iter()
        .find(|(_, file)| *file == damage.file)
    else {
        return last; // A snapshot: the older one and the log hold the same.
    };
    let base = numbered(path, "snapshot-").last().map_or(0, |(number, _)| *number);
    if log < base {
        return last;
    }
    // Whatever was in the log before the damaged place, and what the snapshot holds.
    let before = |m: &&Watermark| m.log < log || m.log == log && m.bytes <= damage.offset;
    marks.iter().rev().find(before).map(|m| m.step)
}

fn check_report(recovery: &Recovery, damage: Option<&Done>, context: &str) {
    match damage {
        // A record that was being written is torn at most.
        None => assert!(
            recovery.damages.len() <= 1,
            "an undamaged store reports damage\n{context}"
        ),
        Some(done) if done.flipped => {
            for reported in recovery.damages.iter().filter(|d| d.file == done.file) {
                assert!(reported.offset <= done.offset, "the wrong place\n{context}");
            }
        }
        Some(_) => {}
    }
    assert!(
        recovery
            .damages
            .iter()
            .all(|d| d.to_string().contains("bytes dropped at offset"))
    );
}

fn fill_the_disk(data: Data) {
    let folder = tempfile::tempdir().expect("a folder");
    meet_full_disk(data, folder.path(), 150_000, || {});
    println!("crash: a limit of the size of files was met and survived");
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path());
        command.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let mounted = mount("size=1m");
    assert!(
        mounted,
        "needs root, or a user namespace (`unshare -rm`), to mount a tmpfs as a disk that gets full"
    );
    let result = std::panic::catch_unwind(|| {
        meet_full_disk(data, folder.path(), 0, || {
            assert!(mount("remount,size=64m"), "the disk grows")
        });
    });
    let unmounted = Command::new("umount").arg(folder.path()).status();
    assert!(
        unmounted.is_ok_and(|s| s.success()),
        "{} stays mounted",
        folder.path().display()
    );
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    println!("crash: a full disk was met and survived");
}

fn meet_full_disk(data: Data, path: &Path, limit: u64, make_room: impl FnOnce()) {
    let path = &path.join("store");
    let program = std::env::current_exe().expect("this program");
    let numbers = [data.seed, data.begin_ms as u64, limit].map(|n| n.to_string());
    // The signal for files that are too large would end the child: what is wanted is the error.
    let mut command = Command::new("bash");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "bash"])
        .arg(program)
        .arg("full")
        .arg(path)
        .args(numbers);
    let mut child = Speaker::start(&mut command);
    let line = child.line("full");
    assert!(line.starts_with("full ") && line.len() > 10, "no message: {line}");
    make_room();
    let input = child.process.stdin.as_mut().expect("its input");
    writeln!(input, "go").expect("the child listens");
    let line = child.line("done");
    let last = line
        .strip_prefix("done ")
        .and_then(|n| n.parse().ok())
        .expect("the last step");
    child.process.wait().expect("the child ends");
    let db = Tsdb::open(options(), storage(path)).expect("the store opens");
    let mut expected = Content::new();
    data.add(&mut expected, 0..=last);
    let missing = missing_in(&read(&db), &expected);
    assert!(missing.is_none(), "lost: {}", missing.unwrap_or_default());
}
