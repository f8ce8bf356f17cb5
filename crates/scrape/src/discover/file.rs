//! `file_sd_configs`: groups of targets in JSON or YAML files, read again when they change.

use super::{Publish, label_sets};
use crate::config::{self, Group};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;
use weir_yaml::{Content, Entry, Node};

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
    match path.extension().is_some_and(|e| e == "json") {
        true if text.trim().is_empty() => Ok(Vec::new()),
        true => groups_of_json(text.as_bytes()),
        false => config::yaml(&text).map_err(|e| e.to_string()).and_then(groups),
    }
}

/// A list of groups in JSON, as files and HTTP servers give it.
pub(super) fn groups_of_json(text: &[u8]) -> Result<Vec<Group>, String> {
    let value: Json = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    groups(node("", value)?)
}

fn groups(node: Node) -> Result<Vec<Group>, String> {
    let items = match node.content {
        Content::List(items) => items,
        _ if node.is_null() => Vec::new(),
        _ => return Err(r#"it must be a list of groups: [{"targets": ["10.0.0.1:9100"], "labels": {}}]"#.to_owned()),
    };
    let read = |(at, item)| config::read_group(&format!("[{at}]"), item);
    items
        .into_iter()
        .enumerate()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// JSON in the form of the configuration. Its texts stand in quotes; of a number with a fraction the text is not known any
/// more.
fn node(path: &str, value: Json) -> Result<Node, String> {
    let content = match value {
        Json::String(text) => return Ok(Node::quoted(0, text)),
        Json::Number(number) if number.is_f64() => {
            return Err(format!(
                "{path}: a text must stand here, in quotes, not the number {number}"
            ));
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => return Ok(Node::plain(0, value.to_string())),
        Json::Array(items) => {
            let item = |(at, item)| node(&format!("{path}[{at}]"), item);
            Content::List(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let entry = |(name, value)| {
                let value = node(&format!("{path}.{name}"), value)?;
                Ok(Entry { name, line: 0, value })
            };
            Content::Mapping(fields.into_iter().map(entry).collect::<Result<_, String>>()?)
        }
    };
    Ok(Node { line: 0, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str, text: &str) -> Result<BTreeMap<String, String>, String> {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        let groups = read(&path)?;
        Ok(groups.into_iter().next().map(|group| group.labels).unwrap_or_default())
    }

    #[test]
    fn labels_keep_the_text_that_was_written() {
        let yaml = "- targets: [a:1]\n  labels: {version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE}\n";
        let expected = [
            ("country", "no"),
            ("exp", "1e3"),
            ("hex", "0x1F"),
            ("tr", "TRUE"),
            ("under", "1_000"),
            ("version", "1.10"),
            ("y1", "y"),
            ("zip", "007"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            labels("sd.yml", yaml).map(|l| l.into_iter().collect()),
            Ok(expected.to_vec())
        );
        let json =
            r#"[{"targets": ["a:1"], "labels": {"version": "1.10", "zip": "007", "number": 7, "nothing": null}}]"#;
        let read = labels("sd.json", json);
        let of = |name: &str| read.as_ref().map(|l| l[name].as_str()).map_err(String::as_str);
        assert_eq!(
            [of("version"), of("zip"), of("number"), of("nothing")],
            [Ok("1.10"), Ok("007"), Ok("7"), Ok("")]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        // (file, text, message)
        let table = [
            (
                "sd.json",
                r#"[{"labels": {"version": 1.10}}]"#,
                "[0].labels.version: a text must stand here, in quotes, not the number 1.1",
            ),
            (
                "sd.json",
                r#"{"a": "b"}"#,
                r#"it must be a list of groups: [{"targets": ["10.0.0.1:9100"], "labels": {}}]"#,
            ),
            (
                "sd.yml",
                "- targets: [a:1]\n  labels:\n    a: b\n    c: [d]\n",
                "line 4: [0].labels.c: a text must stand here, not a list",
            ),
            (
                "sd.yml",
                "- targets: [a:1]\n  labels: {a: b, a: c}\n",
                "line 2: \"a\" stands twice here, first in line 2",
            ),
        ];
        for (file, text, message) in table {
            assert_eq!(labels(file, text), Err(message.to_owned()), "{text}");
        }
        for empty in ["", "\n", "[]"] {
            assert_eq!(labels("sd.json", empty), Ok(BTreeMap::new()));
            assert_eq!(labels("sd.yml", empty), Ok(BTreeMap::new()));
        }
    }
}
