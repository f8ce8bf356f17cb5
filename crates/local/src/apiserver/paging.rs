//! Lists page by page (`limit`, `continue`): every page shows the objects as they were when the first one was asked for.
//!
//! Enters: a list request. Leaves: the objects of one page, and the list's metadata with a token for the next. Keeps nothing
//! between two pages: the token says the version and where to go on, and the store undoes what was written since.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, Result};
use super::registry::Resource;
use super::request::{Query, Target};
use super::selector::Selector;
use super::store::Object;

/// One page of a list.
pub struct Page {
    pub objects: Vec<Arc<Object>>,
    /// `metadata` of the list.
    pub meta: Value,
}

/// What `continue` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// The version that the list shows.
    version: u64,
    /// Namespace and name of the last object that was shown.
    after: (String, String),
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token.ok_or_else(|| ApiError::bad_request("continue key is not valid: it must be the one that a list gave"))
    }
}

/// The page that a list request asks for; without `limit` and `continue` that is the whole list.
pub fn page(api: &Api, resource: &Resource, target: &Target, query: &Query) -> Result<Page> {
    let selector = Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
    let namespace = Some(target.namespace.as_str()).filter(|n| !n.is_empty());
    let (version, mut objects, after) = match query.get("continue") {
        "" => {
            let (version, objects) = api.store.list(&resource.storage, namespace);
            (version, objects, None)
        }
        text => {
            if !matches!(query.get("resourceVersion"), "" | "0") {
                let why = "specifying resource version is not allowed when using continue";
                return Err(ApiError::bad_request(why));
            }
            let token = Token::decode(text)?;
            if token.version > api.store.version() {
                return Err(too_old());
            }
            let objects = api.store.list_at(&resource.storage, namespace, token.version);
            (token.version, objects.map_err(|_| too_old())?, Some(token.after))
        }
    };
    if !selector.is_empty() {
        objects.retain(|object| selector.matches(object));
    }
    if let Some((namespace, name)) = &after {
        objects.retain(|object| (&*object.namespace, &*object.name) > (namespace.as_str(), name.as_str()));
    }
    let mut meta = json!({"resourceVersion": version.to_string()});
    let limit = query.number("limit").and_then(|limit| usize::try_from(limit).ok());
    if let Some(limit) = limit.filter(|limit| (1..objects.len()).contains(limit)) {
        let remaining = objects.len() - limit;
        objects.truncate(limit);
        if let Some(last) = objects.last() {
            let after = (last.namespace.to_string(), last.name.to_string());
            meta["continue"] = Token { version, after }.encode().into();
        }
        // As Kubernetes has it: of a selection nobody counts what follows.
        if selector.is_empty() {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    Ok(Page { objects, meta })
}

fn too_old() -> ApiError {
    ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
    )
}
