//! Container logs on disk: lines in the CRI format, bounded, readable while they grow.
//!
//! Enters: the bytes a container writes. Leaves: `N.log` (N = the start's number) with lines
//! `TIME stdout|stderr F|P TEXT`, of which the older half moves to `N.log.old` when it grows too large.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, watch};

/// A log file is moved aside at this size, so that a start keeps at most twice as much.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Longer lines are split into partial ones, as container runtimes do.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines held for a `tail`.
const TAIL_LINES_MAX: usize = 1_000_000;

/// The log of one start of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<Writer>,
    /// Counts writes; closed (dropped) never, `done` says that no more comes.
    grown: watch::Sender<Growth>,
}

/// How far a log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    pub writes: u64,
    pub done: bool,
}

#[derive(Debug)]
struct Writer {
    file: File,
    bytes: u64,
}

impl Log {
    /// Starts a new file. Of earlier starts only the one before can be asked for; what others have left is removed.
    pub async fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await?;
            if let Some(start) = start_of(&path) {
                remove_before(dir, start - 1).await?;
            }
        }
        let file = File::create(&path).await?;
        let file = Mutex::new(Writer { file, bytes: 0 });
        Ok(Arc::new(Self {
            path,
            file,
            grown: watch::channel(Growth::default()).0,
        }))
    }

    /// Tells of growth.
    pub fn subscribe(&self) -> watch::Receiver<Growth> {
        self.grown.subscribe()
    }

    /// The container has ended and everything it wrote is in the file.
    pub fn finish(&self) {
        self.grown.send_modify(|growth| growth.done = true);
    }

    /// Copies a container's stream into the file until it ends.
    pub async fn copy(self: Arc<Self>, stream: &'static str, from: impl AsyncRead + Unpin) {
        let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, from);
        let mut line = Vec::with_capacity(256);
        loop {
            line.clear();
            match (&mut reader)
                .take(LINE_BYTES_MAX as u64)
                .read_until(b'\n', &mut line)
                .await
            {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let whole = line.last() == Some(&b'\n');
            if whole {
                line.pop();
            }
            let tag = if whole { 'F' } else { 'P' };
            let mut entry = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
            entry.extend_from_slice(&line);
            entry.push(b'\n');
            if let Err(error) = self.write(&entry).await {
                tracing::warn!(path = %self.path.display(), %error, "log not written");
                return;
            }
        }
    }

    async fn write(&self, entry: &[u8]) -> io::Result<()> {
        let mut writer = self.file.lock().await;
        if writer.bytes >= FILE_BYTES_MAX {
            tokio::fs::rename(&self.path, old_path(&self.path)).await?;
            *writer = Writer {
                file: File::create(&self.path).await?,
                bytes: 0,
            };
        }
        writer.file.write_all(entry).await?;
        writer.file.flush().await?;
        writer.bytes += entry.len() as u64;
        drop(writer);
        self.grown.send_modify(|growth| growth.writes += 1);
        Ok(())
    }
}

fn old_path(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

/// The number of the start that a log or its older half is of.
fn start_of(path: &Path) -> Option<i64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".old")
        .unwrap_or(name)
        .strip_suffix(".log")?
        .parse()
        .ok()
}

async fn remove_before(dir: &Path, start: i64) -> io::Result<()> {
    let mut files = tokio::fs::read_dir(dir).await?;
    while let Some(file) = files.next_entry().await? {
        let path = file.path();
        if start_of(&path).is_some_and(|of| of < start) {
            tokio::fs::remove_file(path).await?;
        }
    }
    Ok(())
}

/// What part of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
}

/// One line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    partial: bool,
    text: &'a [u8],
}

/// Splits a line of the CRI format.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let partial = parts.next()? == b"P";
    Some(Line {
        time,
        partial,
        text: parts.next()?,
    })
}

/// Reads a log file from where the last reading ended.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    selection: Selection,
    file: Option<BufReader<File>>,
    /// An incomplete line at the file's end.
    rest: Vec<u8>,
    sent: u64,
    /// Whether the text before ended inside a line.
    inside_line: bool,
}

impl Reader {
    /// Reads the file at `path`, and its moved-aside older part first.
    pub fn new(path: PathBuf, selection: Selection) -> Self {
        Self {
            path,
            selection,
            file: None,
            rest: Vec::new(),
            sent: 0,
            inside_line: false,
        }
    }

    /// What is there now, rendered as asked.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read_existing(&mut self) -> io::Result<Vec<u8>> {
        let mut rendered: VecDeque<Vec<u8>> = VecDeque::new();
        let limit = self.selection.tail_lines.unwrap_or(TAIL_LINES_MAX).min(TAIL_LINES_MAX);
        let mut lines = Vec::new();
        if let Ok(old) = tokio::fs::read(old_path(&self.path)).await {
            lines.extend(old.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        }
        self.file = Some(BufReader::new(File::open(&self.path).await?));
        lines.extend(self.new_lines().await?);
        for line in lines {
            if let Some(text) = self.render(&line) {
                rendered.push_back(text);
                if rendered.len() > limit {
                    rendered.pop_front();
                }
            }
        }
        let bytes = rendered.into_iter().flatten().collect();
        Ok(self.limited(bytes))
    }

    /// What was written since.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read_more(&mut self) -> io::Result<Vec<u8>> {
        let lines = self.new_lines().await?;
        let bytes = lines.iter().filter_map(|line| self.render(line)).flatten().collect();
        Ok(self.limited(bytes))
    }

    /// Whether the asked number of bytes has been delivered.
    pub fn exhausted(&self) -> bool {
        self.selection.limit_bytes.is_some_and(|limit| self.sent >= limit)
    }

    async fn new_lines(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut moved = false;
        loop {
            let Some(file) = &mut self.file else { return Ok(lines) };
            let read = file.read_until(b'\n', &mut self.rest).await?;
            if read > 0 {
                if self.rest.last() == Some(&b'\n') {
                    lines.push(std::mem::take(&mut self.rest));
                }
                continue;
            }
            // At the end of the open file: was it moved aside meanwhile? Then read what came just before that, too.
            if moved {
                self.file = Some(BufReader::new(File::open(&self.path).await?));
                moved = false;
            } else if self.was_moved().await? {
                moved = true;
            } else {
                return Ok(lines);
            }
        }
    }

    async fn was_moved(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Some(file) = &self.file else { return Ok(false) };
        let ours = file.get_ref().metadata().await?.ino();
        Ok(tokio::fs::metadata(&self.path).await.is_ok_and(|now| now.ino() != ours))
    }

    fn render(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let line = parse(raw.strip_suffix(b"\n").unwrap_or(raw))?;
        if let Some(since) = self.selection.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return None;
        }
        let mut out = Vec::with_capacity(line.text.len() + 40);
        if self.selection.timestamps && !self.inside_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.inside_line = line.partial;
        Some(out)
    }

    fn limited(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(limit) = self.selection.limit_bytes {
            let left = usize::try_from(limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            bytes.truncate(left);
        }
        self.sent += bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(text: &'static [u8]) -> (tempfile::TempDir, PathBuf, Arc<Log>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let log = Log::create(path.clone()).await.unwrap();
        log.clone().copy("stdout", text).await;
        (dir, path, log)
    }

    #[tokio::test]
    async fn lines_come_back_as_written_and_can_be_followed() {
        let (_dir, path, log) = written(b"one\ntwo\nthree").await;
        let raw = std::fs::read_to_string(&path).unwrap();
        assert!(raw.lines().next().unwrap().ends_with(" stdout F one"), "{raw}");
        assert!(raw.lines().last().unwrap().ends_with(" stdout P three"), "{raw}");
        let mut reader = Reader::new(path.clone(), Selection::default());
        assert_eq!(reader.read_existing().await.unwrap(), b"one\ntwo\nthree");
        log.clone().copy("stderr", &b"!\nfour\n"[..]).await;
        assert_eq!(reader.read_more().await.unwrap(), b"!\nfour\n");
        let tail = Selection {
            tail_lines: Some(2),
            ..Selection::default()
        };
        assert_eq!(
            Reader::new(path.clone(), tail).read_existing().await.unwrap(),
            b"!\nfour\n"
        );
        let limited = Selection {
            limit_bytes: Some(5),
            ..Selection::default()
        };
        let mut reader = Reader::new(path.clone(), limited);
        assert_eq!(reader.read_existing().await.unwrap(), b"one\nt");
        assert!(reader.exhausted());
        let stamped = Selection {
            timestamps: true,
            tail_lines: Some(1),
            ..Selection::default()
        };
        let text = Reader::new(path, stamped).read_existing().await.unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.split(' ').next().unwrap().parse::<Timestamp>().is_ok(), "{text}");
    }

    #[tokio::test]
    async fn of_earlier_starts_the_last_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let files = std::fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        for old in ["7.log", "8.log.old", "9.log.old", "9.log", "other"] {
            std::fs::write(dir.path().join(old), "x").unwrap();
        }
        Log::create(dir.path().join("10.log")).await.unwrap();
        assert_eq!(names(), ["10.log", "9.log", "9.log.old", "other"]);
        Log::create(dir.path().join("11.log")).await.unwrap();
        assert_eq!(names(), ["10.log", "11.log", "other"]);
    }

    #[tokio::test]
    async fn a_log_is_bounded_and_a_follower_survives_the_rotation() {
        let (_dir, path, log) = written(b"start\n").await;
        let mut reader = Reader::new(path.clone(), Selection::default());
        reader.read_existing().await.unwrap();
        let line = [b'x'; 8 * 1024 - 1];
        let mut seen = 0;
        for _ in 0..3000 {
            let mut text = line.to_vec();
            text.push(b'\n');
            log.clone().copy("stdout", &text[..]).await;
            seen += reader.read_more().await.unwrap().len();
        }
        assert_eq!(seen, 3000 * 8 * 1024);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        assert!(size(&path) + size(&old_path(&path)) <= 2 * FILE_BYTES_MAX + 64 * 1024);
    }
}
