//! What a person does with the proxies of this machine: read a log, run a program beside a proxy.
//!
//! Enters: an id, or the beginning of one. Leaves: output on this process's own streams. It reads what the agent keeps
//! in the proxies' directories and needs no running agent; it changes nothing.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::process::Command;

use crate::supervise::{Directory, Record};
use crate::sys;

/// How often a log that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Of a log's end no more than this is read, bytes.
const TAIL_BYTES_MAX: u64 = 8 << 20;
/// Variable that holds the path of the proxy's administration socket.
const ADMIN_VARIABLE: &str = "WEIR_PROXY_ADMIN";

/// Why a visit failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has such an id.
    #[error("no proxy on this machine has an id that begins with {id:?}; there are: {there}")]
    Unknown {
        /// What was asked for.
        id: String,
        /// The ids that there are.
        there: String,
    },
    /// Several have.
    #[error("the ids of several proxies begin with {id:?}: {there}")]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// These.
        there: String,
    },
    /// A file cannot be read.
    #[error("{path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot run {program}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Writes the last lines of a proxy's log to the standard output; with `follow`, and what comes, until the process is ended.
pub async fn log(run_dir: &Path, id: &str, lines: usize, follow: bool) -> Result<(), Error> {
    let (_, directory) = find(run_dir, id)?;
    let path = directory.path().join("proxy.log");
    let failed = |source| Error::Read {
        path: path.display().to_string(),
        source,
    };
    let mut file = File::open(&path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))
        .map_err(failed)?;
    let mut read = Vec::new();
    file.read_to_end(&mut read).map_err(failed)?;
    show(last_lines(&read, lines)).map_err(failed)?;
    while follow {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        // The agent empties a log that has become too long.
        let position = file.stream_position().map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < position {
            file.rewind().map_err(failed)?;
        }
        read.clear();
        file.read_to_end(&mut read).map_err(failed)?;
        show(&read).map_err(failed)?;
    }
    Ok(())
}

/// Runs a program in the network namespace of a proxy's pod, with `WEIR_PROXY_ADMIN` naming the proxy's administration
/// socket; returns its exit code.
pub async fn exec(run_dir: &Path, id: &str, program: &[String]) -> Result<ExitCode, Error> {
    let (record, directory) = find(run_dir, id)?;
    let netns = &record.sandbox.netns;
    let namespace = File::open(netns).map_err(|source| Error::Read {
        path: netns.display().to_string(),
        source,
    })?;
    let (name, arguments) = program.split_first().ok_or_else(|| Error::Run {
        program: "nothing".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "name a program"),
    })?;
    let mut command = Command::new(name);
    command.args(arguments).env(ADMIN_VARIABLE, directory.admin());
    sys::enter_netns(&mut command, namespace);
    sys::die_with_parent(&mut command);
    let status = command.status().await.map_err(|source| Error::Run {
        program: name.clone(),
        source,
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn show(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// The last lines of a text; a line that has no end yet counts too.
fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0);
    &text[start..]
}

/// The one proxy whose id begins so.
fn find(run_dir: &Path, id: &str) -> Result<(Record, Directory), Error> {
    let all = Directory::all(run_dir);
    let ids = |records: &[(Record, Directory)]| {
        let ids: Vec<_> = records
            .iter()
            .map(|(r, _)| format!("{} ({}.{})", r.proxy, r.pod.name, r.pod.namespace))
            .collect();
        if ids.is_empty() {
            "none".to_owned()
        } else {
            ids.join(", ")
        }
    };
    let (mut found, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(record, _)| record.proxy.starts_with(id));
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(one), false) => {
            found.push(one);
            Err(Error::Ambiguous {
                id: id.to_owned(),
                there: ids(&found),
            })
        }
        (None, _) => Err(Error::Unknown {
            id: id.to_owned(),
            there: ids(&others),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Skip, Spec};
    use crate::supervise::{PodId, Sandbox};
    use weir_api::labels::Engine;

    fn keep(run_dir: &Path, uid: &str, proxy: &str) -> Directory {
        let directory = Directory::new(run_dir, uid).unwrap();
        directory.create().unwrap();
        let record = Record {
            pod: PodId {
                name: uid.into(),
                namespace: "default".into(),
                ..Default::default()
            },
            sandbox: Sandbox {
                id: String::new(),
                netns: "/proc/self/ns/net".into(),
            },
            spec: Spec {
                engine: Engine::Weir,
                skip: Skip::default(),
            },
            proxy: proxy.into(),
            process: None,
            redirected: None,
            draining: false,
        };
        directory.save(&record).unwrap();
        directory
    }

    #[test]
    fn one_proxy_by_the_beginning_of_its_id() {
        let run = tempfile::tempdir().unwrap();
        keep(run.path(), "a", "4f01");
        keep(run.path(), "b", "4f22");
        assert_eq!(find(run.path(), "4f2").unwrap().0.pod.name, "b");
        let why = |id| find(run.path(), id).unwrap_err().to_string();
        assert!(
            why("4f").contains("several") && why("4f").contains("4f01 (a.default)"),
            "{}",
            why("4f")
        );
        assert!(
            why("9").contains("begins with \"9\"") && why("9").contains("4f22 (b.default)"),
            "{}",
            why("9")
        );
    }

    #[test]
    fn the_last_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\nb\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }

    #[tokio::test]
    async fn a_program_beside_a_proxy_knows_the_administration_socket() {
        let run = tempfile::tempdir().unwrap();
        let directory = keep(run.path(), "a", "4f01");
        let script = format!("test \"$WEIR_PROXY_ADMIN\" = {}", directory.admin().display());
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let code = exec(run.path(), "4f01", &words(&["sh", "-c", &script])).await.unwrap();
        assert_eq!(code, ExitCode::SUCCESS);
        let code = exec(run.path(), "4f01", &words(&["sh", "-c", "exit 7"])).await.unwrap();
        assert_eq!(code, ExitCode::from(7));
        assert!(exec(run.path(), "4f01", &words(&["no-such-program"])).await.is_err());
    }
}
