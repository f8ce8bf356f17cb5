//! Applying manifests to the API.
//!
//! Enters: YAML or JSON texts with the names of their files. Leaves: the objects in the API, namespaces and definitions
//! first; and an error for each that was refused, naming file, object and field. The others are applied all the same.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::back_off::BackOff;

/// Who owns the fields of what is applied here.
const FIELD_MANAGER: &str = "weir-up";
/// How long a kind may take to be served after its definition was applied.
const KIND_DEADLINE: Duration = Duration::from_secs(15);
/// How long an object may be refused for passing reasons (its webhook, its namespace, the API restarting).
const APPLY_DEADLINE: Duration = Duration::from_secs(10);
/// Objects being applied at a time.
const PARALLEL: usize = 4;

/// A text with one or more objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The file, for messages.
    pub name: String,
    pub text: String,
}

/// A manifest that could not be read or an object that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {object}{message}")]
pub struct ManifestError {
    pub file: String,
    /// `Kind namespace/name: `, or nothing when the file could not be parsed.
    pub object: String,
    pub message: String,
}

/// Reads a file, or all `*.yaml`, `*.yml` and `*.json` of a directory in the order of their names.
///
/// # Errors
/// When it cannot be read.
pub fn read_manifests(path: &Path) -> io::Result<Vec<Manifest>> {
    let mut files: Vec<PathBuf> = if path.is_dir() {
        let mut list: Vec<PathBuf> = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
        list.retain(|file| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            file.is_file() && matches!(extension, Some("yaml" | "yml" | "json"))
        });
        list
    } else {
        vec![path.to_path_buf()]
    };
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
            Ok(Manifest {
                name: file.display().to_string(),
                text,
            })
        })
        .collect()
}

/// One object with the file it stands in.
#[derive(Clone, Debug)]
struct Item {
    file: String,
    object: DynamicObject,
    gvk: GroupVersionKind,
}

impl Item {
    fn error(&self, message: impl fmt::Display) -> ManifestError {
        let meta = &self.object.metadata;
        let namespace = meta
            .namespace
            .as_ref()
            .map(|namespace| format!("{namespace}/"))
            .unwrap_or_default();
        let object = format!(
            "{} {namespace}{}: ",
            self.gvk.kind,
            meta.name.as_deref().unwrap_or("(no name)")
        );
        ManifestError {
            file: self.file.clone(),
            object,
            message: message.to_string(),
        }
    }
}

/// Applies everything; how many objects, and what was refused. Objects of a kind that is not served (yet) come last, so
/// that nobody waits for them.
pub async fn apply(client: &Client, manifests: &[Manifest]) -> (usize, Vec<ManifestError>) {
    let (mut items, mut errors) = parse(manifests);
    items.sort_by_key(|item| rank(&item.gvk.kind));
    let mut kinds = Kinds::default();
    let (mut applied, mut late) = (0, Vec::new());
    for group in items.chunk_by(|a, b| rank(&a.gvk.kind) == rank(&b.gvk.kind)) {
        kinds.find(client, group, Duration::ZERO).await;
        let (known, unknown): (Vec<&Item>, Vec<&Item>) = group.iter().partition(|item| kinds.has(item));
        late.extend(unknown.into_iter().cloned());
        applied += apply_known(client, &known, &kinds, &mut errors).await;
    }
    kinds.find(client, &late, KIND_DEADLINE).await;
    let late: Vec<&Item> = late.iter().collect();
    applied += apply_known(client, &late, &kinds, &mut errors).await;
    (applied, errors)
}

async fn apply_known(client: &Client, items: &[&Item], kinds: &Kinds, errors: &mut Vec<ManifestError>) -> usize {
    let outcomes = futures::stream::iter(items.iter().map(|item| async move {
        match kinds.0.get(&item.gvk) {
            Some(Ok(kind)) => apply_one(client, item, kind).await,
            Some(Err(reason)) => Err(item.error(reason)),
            None => Err(item.error("apiVersion and kind: not looked up")),
        }
    }));
    let outcomes = outcomes.buffered(PARALLEL).collect::<Vec<_>>().await;
    let all = outcomes.len();
    let refused: Vec<ManifestError> = outcomes.into_iter().filter_map(Result::err).collect();
    let applied = all - refused.len();
    errors.extend(refused);
    applied
}

/// What the API server calls each kind, and whether it is namespaced; or why it is not known.
#[derive(Default)]
struct Kinds(HashMap<GroupVersionKind, Result<(ApiResource, bool), String>>);

impl Kinds {
    fn has(&self, item: &Item) -> bool {
        self.0.get(&item.gvk).is_some_and(Result::is_ok)
    }

    /// Looks up what is not known; all at the same time, each until it is served or `patience` has run out.
    async fn find(&mut self, client: &Client, items: &[Item], patience: Duration) {
        let wanted: HashSet<&GroupVersionKind> = items
            .iter()
            .filter(|item| !self.has(item))
            .map(|item| &item.gvk)
            .collect();
        let found = wanted
            .into_iter()
            .map(|gvk| async move { (gvk.clone(), find_kind(client, gvk, patience).await) });
        self.0.extend(futures::future::join_all(found).await);
    }
}

fn parse(manifests: &[Manifest]) -> (Vec<Item>, Vec<ManifestError>) {
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    for manifest in manifests {
        let failed = |message: String| ManifestError {
            file: manifest.name.clone(),
            object: String::new(),
            message,
        };
        // `defaultMode: 0400` is octal, as in every tool that reads manifests.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let documents = match serde_saphyr::from_multiple_with_options::<Value>(&manifest.text, options) {
            Ok(documents) => documents,
            Err(error) => {
                errors.push(failed(format!("not valid YAML: {error}")));
                continue;
            }
        };
        for (number, document) in documents.into_iter().enumerate() {
            for value in flatten(document) {
                match to_item(&manifest.name, value) {
                    Ok(item) => items.push(item),
                    Err(message) => errors.push(failed(format!("document {}: {message}", number + 1))),
                }
            }
        }
    }
    (items, errors)
}

/// The objects of a document: none, one, or those of a `List`.
fn flatten(document: Value) -> Vec<Value> {
    match document {
        Value::Null => Vec::new(),
        Value::Object(mut map) if map.get("kind").is_some_and(|kind| kind == "List") => match map.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        other => vec![other],
    }
}

fn to_item(file: &str, value: Value) -> Result<Item, String> {
    for key in ["apiVersion", "kind"] {
        if !value[key].is_string() {
            return Err(format!(
                "{key}: missing; every object needs apiVersion, kind and metadata.name"
            ));
        }
    }
    let object: DynamicObject = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if object.metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err("metadata.name: missing; every object needs apiVersion, kind and metadata.name".into());
    }
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).map_err(|error| error.to_string())?;
    Ok(Item {
        file: file.to_string(),
        object,
        gvk,
    })
}

/// What others need comes first.
fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "Role" => 2,
        "ClusterRoleBinding" | "RoleBinding" | "ConfigMap" | "Secret" => 3,
        "Service" => 4,
        "APIService" => 5,
        _ => 6,
    }
}

async fn find_kind(client: &Client, gvk: &GroupVersionKind, patience: Duration) -> Result<(ApiResource, bool), String> {
    let deadline = Instant::now() + patience;
    let mut back_off = BackOff::retry(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        match discovery::pinned_kind(client, gvk).await {
            Ok((resource, capabilities)) => return Ok((resource, capabilities.scope == Scope::Namespaced)),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(back_off.after(Duration::ZERO)).await,
            Err(error) => {
                let reason = match &error {
                    kube::Error::Api(status) => status.message.clone(),
                    other => other.to_string(),
                };
                return Err(format!(
                    "apiVersion and kind: no {} in {} is served ({reason})",
                    gvk.kind,
                    gvk.api_version()
                ));
            }
        }
    }
}

async fn apply_one(client: &Client, item: &Item, kind: &(ApiResource, bool)) -> Result<(), ManifestError> {
    let (resource, namespaced) = kind;
    let mut object = item.object.clone();
    let api: Api<DynamicObject> = if *namespaced {
        let namespace = object.metadata.namespace.get_or_insert_with(|| "default".to_string());
        Api::namespaced_with(client.clone(), namespace, resource)
    } else {
        Api::all_with(client.clone(), resource)
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let deadline = Instant::now() + APPLY_DEADLINE;
    let mut back_off = BackOff::retry(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        let error = match api.patch(&name, &params, &Patch::Apply(&object)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let (passing, message) = match &error {
            // Refused for what it says: trying again would not help.
            kube::Error::Api(status) => (!matches!(status.code, 400 | 403 | 405 | 422), status.message.clone()),
            other => (true, other.to_string()),
        };
        if !passing || Instant::now() >= deadline {
            return Err(item.error(message));
        }
        tokio::time::sleep(back_off.after(Duration::ZERO)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_sorted_and_bad_ones_named() {
        let manifest = |name: &str, text: &str| Manifest {
            name: name.into(),
            text: text.into(),
        };
        let manifests = [
            manifest(
                "a.yaml",
                "kind: Service\napiVersion: v1\nmetadata: {name: s}\n---\n---\nkind: Namespace\napiVersion: v1\nmetadata: {name: ns}\n",
            ),
            manifest("b.yaml", "kind: Pod\nmetadata: {name: p}\n"),
            manifest("c.yaml", "a: [1\n"),
            manifest(
                "e.yaml",
                "apiVersion: v1\nkind: Pod\nmetadata: {name: z}\nspec: {mode: 0400}\n",
            ),
            manifest(
                "d.yaml",
                "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: q}}\n",
            ),
        ];
        let (mut items, errors) = parse(&manifests);
        items.sort_by_key(|item| rank(&item.gvk.kind));
        let names: Vec<_> = items
            .iter()
            .map(|item| item.object.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["ns", "s", "z", "q"]);
        assert_eq!(items[2].object.data["spec"]["mode"], 0o400);
        assert_eq!(errors.len(), 2);
        assert!(
            errors[0]
                .to_string()
                .starts_with("b.yaml: document 1: apiVersion: missing"),
            "{}",
            errors[0]
        );
        assert!(
            errors[1].to_string().starts_with("c.yaml: not valid YAML"),
            "{}",
            errors[1]
        );
    }
}
