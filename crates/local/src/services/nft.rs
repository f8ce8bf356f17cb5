//! The program `nft`: found, and fed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Error;

/// Often missing from an ordinary user's PATH.
const DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
const TIMEOUT: Duration = Duration::from_secs(10);

pub fn find() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(DIRECTORIES.iter().map(PathBuf::from));
    let directories: Vec<PathBuf> = directories.collect();
    let found = directories
        .iter()
        .map(|directory| directory.join("nft"))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        let directories: Vec<String> = directories.iter().map(|d| d.display().to_string()).collect();
        Error::NoNft(directories.join(", "))
    })
}

/// Applies all of `rules` or, with an error, none.
pub async fn apply(nft: &Path, rules: &str) -> Result<(), Error> {
    let run = async {
        let mut child = Command::new(nft)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // If it ends early, its message says why.
            let _ = input.write_all(rules.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, run)
        .await
        .map_err(|_| Error::Slow(TIMEOUT))?
        .map_err(Error::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(Error::Refused(message.lines().take(5).collect::<Vec<_>>().join(" | ")))
}
