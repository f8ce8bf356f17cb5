//! The append-only log under the store: one JSON line a write.
//! Enters: puts and deletes. Leaves: the same, in order, on the next start. A torn last line is cut off.
//! Lines go to the kernel before the write is answered, so killing the process loses nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Entry {
    /// The object is now this. `resource` is the storage key, such as `deployments.apps`.
    Put { resource: String, object: Value },
    /// The object is gone since `version`.
    Delete {
        resource: String,
        namespace: String,
        name: String,
        version: u64,
    },
    /// Everything above is a snapshot taken at `version`.
    Base { version: u64 },
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} line {line} is damaged: {source}; move the file away to start empty")]
    Damaged {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
}

/// The log, open for appending. Owner: the store.
pub struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Opens the log and hands every entry to `replay`, oldest first.
    pub fn open(path: &Path, mut replay: impl FnMut(Entry)) -> Result<Self, LogError> {
        let io = |source| LogError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .append(true)
            .open(path)
            .map_err(io)?;
        let mut reader = BufReader::new(&file);
        let (mut good, mut number) = (0u64, 0usize);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io)?;
            if read == 0 {
                break;
            }
            number += 1;
            if line.last() != Some(&b'\n') {
                tracing::warn!(path = %path.display(), bytes = read, "cut a torn last line off the log");
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(entry) => replay(entry),
                Err(source) => {
                    return Err(LogError::Damaged {
                        path: path.to_owned(),
                        line: number,
                        source,
                    });
                }
            }
            good += read as u64;
        }
        drop(reader);
        file.set_len(good).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes: good,
        })
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a put whose object is already encoded.
    pub fn put(&mut self, resource: &str, object: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(object.len() + 64);
        write_put(&mut line, resource, object)?;
        self.append(&line)
    }

    pub fn delete(&mut self, resource: &str, ns: &str, name: &str, version: u64) -> io::Result<()> {
        let entry = Entry::Delete {
            resource: resource.to_owned(),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            version,
        };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        self.append(&line)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if let Err(e) = self.file.write_all(line) {
            // A half-written line must not swallow the next one.
            self.file.set_len(self.bytes)?;
            return Err(e);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Replaces the log by a snapshot of the given objects at `version`.
    pub fn compact<'a>(&mut self, objects: impl Iterator<Item = (&'a str, &'a [u8])>, version: u64) -> io::Result<()> {
        let fresh = self.path.with_extension("compact");
        let mut out = BufWriter::new(File::create(&fresh)?);
        for (resource, object) in objects {
            write_put(&mut out, resource, object)?;
        }
        serde_json::to_writer(&mut out, &Entry::Base { version })?;
        out.write_all(b"\n")?;
        out.flush()?;
        out.get_ref().sync_all()?;
        drop(out);
        fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().read(true).append(true).open(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }
}

fn write_put(out: &mut impl Write, resource: &str, object: &[u8]) -> io::Result<()> {
    out.write_all(br#"{"op":"put","resource":"#)?;
    serde_json::to_writer(&mut *out, resource)?;
    out.write_all(br#","object":"#)?;
    out.write_all(object)?;
    out.write_all(b"}\n")
}
