//! `file_sd_configs`: groups of targets in JSON or YAML files, read again when they change.

use super::{Publish, label_sets};
use crate::config::{self, Group};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at; they are read where their time has changed, and every refresh interval anyway.
const LOOK: Duration = Duration::from_secs(2);
const FILEPATH: &str = "__meta_filepath";

/// Follows the files until `stop`. What a file said before stays where it cannot be read or understood.
pub(super) async fn run(patterns: Vec<PathBuf>, refresh: Duration, out: Publish, stop: CancellationToken) {
    let mut known: BTreeMap<PathBuf, (Option<SystemTime>, Vec<Group>)> = BTreeMap::new();
    let mut last_read: Option<tokio::time::Instant> = None;
    loop {
        let all = last_read.is_none_or(|last| last.elapsed() >= refresh);
        if all {
            last_read = Some(tokio::time::Instant::now());
        }
        let files: Vec<PathBuf> = patterns.iter().flat_map(|p| config::matching_files(p)).collect();
        known.retain(|file, _| files.contains(file));
        for file in files {
            let changed = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
            if !all && known.get(&file).is_some_and(|(time, _)| *time == changed) {
                continue;
            }
            match read(&file) {
                Ok(groups) => {
                    known.insert(file, (changed, groups));
                }
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "file_sd_configs: the file is left as it was");
                    known.entry(file).or_default().0 = changed;
                }
            }
        }
        let mut labels = Vec::new();
        for (file, (_, groups)) in &known {
            for mut set in groups.iter().flat_map(label_sets) {
                set.set(FILEPATH, file.display().to_string());
                labels.push(set);
            }
        }
        out.set(labels);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK.min(refresh.max(Duration::from_millis(100)))) => {}
        }
    }
}

fn read(path: &Path) -> Result<Vec<Group>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = match path.extension().is_some_and(|e| e == "json") {
        true => serde_json::from_str(&text).map_err(|e| e.to_string())?,
        false => serde_saphyr::from_str(&text).map_err(|e| e.to_string())?,
    };
    groups(value)
}

/// A list of groups, as files and HTTP servers give it.
pub(super) fn groups(value: Value) -> Result<Vec<Group>, String> {
    let Value::Array(items) = value else {
        return Err("it must be a list of groups: [{\"targets\": [\"10.0.0.1:9100\"], \"labels\": {}}]".to_owned());
    };
    let read = |(at, item)| config::read_group(&format!("[{at}]"), item);
    items
        .into_iter()
        .enumerate()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}
