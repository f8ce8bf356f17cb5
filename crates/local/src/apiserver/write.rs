//! create, update, patch and delete. Enters: what a client wants. Leaves: what was stored.
//! Every change goes defaults -> admission -> validation -> store; a patch is retried on the newest version.

use std::sync::Arc;

use http::{HeaderMap, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, Result, details};
use super::http::{self as answer, Body, with_warnings};
use super::object::{self, as_map, items, meta, str_at};
use super::patch;
use super::read::{converted, reply_object};
use super::registry::Resource;
use super::request::{Query, Target};
use super::store::{Object, WriteError};
use super::validate::{self, FieldValidation};
use super::{admission, convert, crd, defaults, managed};

/// How often a patch without a resourceVersion is tried on newer versions.
const PATCH_TRIES_MAX: usize = 8;
/// How often a generated name is tried.
const NAME_TRIES_MAX: usize = 8;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The options of a writing request.
#[derive(Debug, Clone)]
pub struct Options {
    pub dry_run: bool,
    pub fields: FieldValidation,
    pub manager: String,
}

impl Options {
    pub fn of(query: &Query, headers: &HeaderMap) -> Self {
        let agent = answer::header_text(headers, http::header::USER_AGENT);
        let manager = match query.get("fieldManager") {
            "" => agent.split('/').next().unwrap_or("").to_owned(),
            m => m.to_owned(),
        };
        Self {
            dry_run: !query.get("dryRun").is_empty(),
            fields: match query.get("fieldValidation") {
                "Strict" => FieldValidation::Strict,
                "Ignore" => FieldValidation::Ignore,
                _ => FieldValidation::Warn,
            },
            manager,
        }
    }

    /// The options of the server's own writes.
    pub fn internal() -> Self {
        Self {
            dry_run: false,
            fields: FieldValidation::Ignore,
            manager: String::new(),
        }
    }
}

/// What a write led to: the object in storage form, and warnings for the client.
pub struct Written {
    pub value: Value,
    pub warnings: Vec<String>,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
}

fn reply(code: u16, resource: &Resource, written: Written, headers: &HeaderMap) -> Response<Body> {
    let value = convert::from_storage(resource, written.value);
    with_warnings(reply_object(code, resource, &value, headers), &written.warnings)
}

fn store_error(resource: &Resource, name: &str, error: WriteError) -> ApiError {
    match error {
        WriteError::Exists => ApiError::already_exists(resource, name),
        WriteError::Missing => ApiError::not_found(resource, name),
        WriteError::Conflict => ApiError::modified(resource, name),
        e @ WriteError::TooDeep => ApiError::new(
            422,
            "Invalid",
            format!("{} \"{name}\" is invalid: the object {e}", resource.group_resource()),
        ),
        e @ (WriteError::Io(_) | WriteError::Encode(_)) => {
            tracing::error!(resource = %resource.storage, name, "the object {e}");
            ApiError::internal(e)
        }
    }
}

/// The object's kind and version must be those of the URL; absent ones are filled in.
fn check_kind(resource: &Resource, value: &mut Value) -> Result<()> {
    let Value::Object(map) = value else {
        return Err(ApiError::bad_request("the body must be an object"));
    };
    let wanted = [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())];
    for (field, wanted) in wanted {
        match map.get(field) {
            None | Some(Value::Null) => {
                map.insert(field.into(), wanted.into());
            }
            Some(Value::String(given)) if *given == wanted => {}
            Some(given) => {
                return Err(ApiError::bad_request(format!(
                    "{} in the data ({given}) does not match the expected {} ({wanted:?})",
                    field, field
                )));
            }
        }
    }
    Ok(())
}

/// Name and namespace of the body must be those of the URL; absent ones are filled in.
fn check_place(value: &mut Value, target: &Target, namespaced: bool) -> Result<()> {
    let given = object::namespace(value).to_owned();
    let meta = meta(value);
    if !namespaced {
        meta.remove("namespace");
    } else if given.is_empty() {
        meta.insert("namespace".into(), target.namespace.clone().into());
    } else if given != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let given = meta.get("name").and_then(Value::as_str).unwrap_or("");
    if target.name.is_empty() {
        return Ok(());
    }
    if given.is_empty() {
        meta.insert("name".into(), target.name.clone().into());
    } else if given != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

pub fn create(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: Value,
) -> Result<Response<Body>> {
    let options = Options::of(query, headers);
    let written = create_object(api, resource, target, body, &options)?;
    Ok(reply(201, resource, written, headers))
}

/// Creates an object given in the version of `resource`.
pub fn create_object(
    api: &Api,
    resource: &Resource,
    target: &Target,
    mut value: Value,
    options: &Options,
) -> Result<Written> {
    check_kind(resource, &mut value)?;
    if resource.namespaced && target.namespace.is_empty() {
        return Err(ApiError::bad_request(
            "an empty namespace may not be set during creation",
        ));
    }
    let target = Target {
        name: String::new(),
        ..target.clone()
    };
    check_place(&mut value, &target, resource.namespaced)?;
    let warnings = validate::decode(resource, &mut value, options.fields)?;
    let mut value = convert::to_storage(resource, value);
    drop_empties(resource, &mut value);
    let generate = str_at(&value, "/metadata/generateName").to_owned();
    let named = !object::name(&value).is_empty();
    {
        let meta = meta(&mut value);
        for field in [
            "resourceVersion",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            meta.remove(field);
        }
        meta.insert("uid".into(), object::new_uid().into());
        meta.insert("creationTimestamp".into(), object::now().into());
        if resource.generation {
            meta.insert("generation".into(), json!(1));
        }
    }
    if resource.status && !resource.is("", "nodes") && !resource.is("", "namespaces") {
        as_map(&mut value).remove("status");
    }
    for attempt in 0.. {
        let mut value = value.clone();
        if !named && !generate.is_empty() {
            let name = format!("{generate}{}", object::name_suffix());
            meta(&mut value).insert("name".into(), name.into());
        }
        defaults::apply(resource, &mut value);
        let _alone = api.allocation(resource);
        admission::create(api, resource, &mut value)?;
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            establish(&mut value);
        }
        validate::check(resource, &value, None)?;
        if options.dry_run {
            if api
                .store
                .get(&resource.storage, object::namespace(&value), object::name(&value))
                .is_some()
            {
                return Err(ApiError::already_exists(resource, object::name(&value)));
            }
            return Ok(Written { value, warnings });
        }
        let name = object::name(&value).to_owned();
        match api.store.create(&resource.storage, value) {
            Ok(stored) => {
                let value = stored.value();
                api.after_write(resource, &value);
                return Ok(Written { value, warnings });
            }
            Err(WriteError::Exists) if !named && attempt < NAME_TRIES_MAX => {}
            Err(e) => return Err(store_error(resource, &name, e)),
        }
    }
    Err(ApiError::internal("no name could be generated"))
}

/// Nulls in built-in kinds and empty maps in metadata say nothing: an object reads the same however it was sent.
/// (In a custom kind a null may be a value.)
fn drop_empties(resource: &Resource, value: &mut Value) {
    fn drop_nulls(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, v| !v.is_null());
                map.values_mut().for_each(drop_nulls);
            }
            Value::Array(list) => list.iter_mut().for_each(drop_nulls),
            _ => {}
        }
    }
    if !resource.is_custom() {
        drop_nulls(value);
    }
    meta(value)
        .retain(|_, v| v.as_object().is_none_or(|m| !m.is_empty()) && v.as_array().is_none_or(|l| !l.is_empty()));
}

fn establish(definition: &mut Value) {
    crd::establish(definition);
    let finalizers = meta(definition).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|f| f == CRD_CLEANUP)
    {
        list.push(CRD_CLEANUP.into());
    }
}

pub fn update(
    api: &Api,
    resource: &Resource,
    target: &Target,
    part: Part,
    query: &Query,
    headers: &HeaderMap,
    mut body: Value,
) -> Result<Response<Body>> {
    let options = Options::of(query, headers);
    check_kind(resource, &mut body)?;
    check_place(&mut body, target, resource.namespaced)?;
    let written = change(api, resource, target, part, &options, |_| Ok(body.clone()))?;
    Ok(reply(200, resource, written, headers))
}

#[allow(clippy::too_many_arguments)]
pub fn patch(
    api: &Api,
    resource: &Resource,
    target: &Target,
    part: Part,
    kind: patch::Kind,
    query: &Query,
    headers: &HeaderMap,
    body: Value,
) -> Result<Response<Body>> {
    let options = Options::of(query, headers);
    if kind == patch::Kind::Strategic && resource.is_custom() {
        return Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        ));
    }
    if kind == patch::Kind::Apply {
        if options.manager.is_empty() || query.get("fieldManager").is_empty() {
            return Err(ApiError::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut applied = body.clone();
        check_kind(resource, &mut applied)?;
        check_place(&mut applied, target, resource.namespaced)?;
        if part == Part::Main && api.find(resource, target).is_err() {
            let mut fresh = applied.clone();
            managed::record(&mut fresh, &applied, &options.manager, &resource.api_version());
            match create_object(api, resource, target, fresh, &options) {
                Err(e) if e.reason == "AlreadyExists" => {}
                other => return Ok(reply(201, resource, other?, headers)),
            }
        }
    }
    let merges = !resource.is_custom();
    let written = change(api, resource, target, part, &options, |current| {
        let mut new = current.clone();
        if kind == patch::Kind::Apply {
            managed::remove_dropped(&mut new, &body, &options.manager);
        }
        let mut new = patch::apply(kind, &new, &body, merges)?;
        if kind == patch::Kind::Apply {
            managed::record(&mut new, &body, &options.manager, &resource.api_version());
        }
        check_kind(resource, &mut new)?;
        check_place(&mut new, target, resource.namespaced)?;
        // A patch applies to whatever is there, unless it names a version itself.
        let named = body.pointer("/metadata/resourceVersion").is_some();
        let same = str_at(&new, "/metadata/resourceVersion") == str_at(current, "/metadata/resourceVersion");
        if !named && same {
            meta(&mut new).remove("resourceVersion");
        }
        Ok(new)
    })?;
    Ok(reply(200, resource, written, headers))
}

/// Changes an object by a function from its present to its wanted form (both in the version of `resource`).
pub fn change(
    api: &Api,
    resource: &Resource,
    target: &Target,
    part: Part,
    options: &Options,
    wanted: impl Fn(&Value) -> Result<Value>,
) -> Result<Written> {
    for attempt in 1.. {
        let old = api.find(resource, target)?;
        let present = converted(resource, &old);
        let mut new = wanted(&present)?;
        let warnings = validate::decode(resource, &mut new, options.fields)?;
        let given_version = str_at(&new, "/metadata/resourceVersion").to_owned();
        if !given_version.is_empty() && given_version != old.version.to_string() {
            return Err(ApiError::modified(resource, &old.name));
        }
        let given_uid = object::uid(&new);
        if !given_uid.is_empty() && given_uid != &*old.uid {
            return Err(ApiError::conflict(
                resource,
                &old.name,
                &format!(
                    "Precondition failed: UID in precondition: {given_uid}, UID in object meta: {}",
                    old.uid
                ),
            ));
        }
        let old_value = old.value();
        let mut new = convert::to_storage(resource, new);
        drop_empties(resource, &mut new);
        let _alone = api.allocation(resource);
        let new = merged(api, resource, part, &old_value, new)?;
        if new == old_value {
            return Ok(Written {
                value: old_value,
                warnings,
            });
        }
        if options.dry_run {
            return Ok(Written { value: new, warnings });
        }
        match store_update(api, resource, &old, new) {
            Ok(value) => {
                api.after_write(resource, &value);
                return Ok(Written { value, warnings });
            }
            Err(WriteError::Conflict) if given_version.is_empty() && attempt < PATCH_TRIES_MAX => {}
            Err(e) => return Err(store_error(resource, &old.name, e)),
        }
    }
    Err(ApiError::internal("the object changes too often"))
}

/// Stores the new form; an object that waited for its last finalizer goes.
pub(super) fn store_update(
    api: &Api,
    resource: &Resource,
    old: &Object,
    new: Value,
) -> std::result::Result<Value, WriteError> {
    let grace = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let finalized = items(&new, "/metadata/finalizers").is_empty() && items(&new, "/spec/finalizers").is_empty();
    if old.deleting && finalized && grace == 0 {
        api.store
            .delete(&resource.storage, &old.namespace, &old.name, Some(old.version))?;
        return Ok(new);
    }
    Ok(api.store.update(&resource.storage, new, old.version)?.value())
}

/// The new form with everything that this write may not change taken from the old one.
fn merged(api: &Api, resource: &Resource, part: Part, old: &Value, new: Value) -> Result<Value> {
    if part == Part::Status {
        let mut kept = old.clone();
        match new.get("status") {
            Some(status) => as_map(&mut kept).insert("status".into(), status.clone()),
            None => as_map(&mut kept).remove("status"),
        };
        validate::check(resource, &kept, Some(old))?;
        return Ok(kept);
    }
    let mut new = new;
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "selfLink",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(v) => meta(&mut new).insert(field.into(), v.clone()),
            None => meta(&mut new).remove(field),
        };
    }
    if meta(&mut new).get("managedFields").is_none()
        && let Some(fields) = old["metadata"].get("managedFields")
    {
        meta(&mut new).insert("managedFields".into(), fields.clone());
    }
    if resource.status {
        match old.get("status") {
            Some(status) => as_map(&mut new).insert("status".into(), status.clone()),
            None => as_map(&mut new).remove("status"),
        };
    }
    admission::update(api, resource, old, &mut new)?;
    defaults::apply(resource, &mut new);
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions")
        && old["metadata"].get("deletionTimestamp").is_none()
    {
        establish(&mut new);
    }
    validate::check(resource, &new, Some(old))?;
    if resource.generation && spec_differs(resource, old, &new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        meta(&mut new).insert("generation".into(), generation.into());
    }
    Ok(new)
}

/// Has anything but metadata and status changed?
fn spec_differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else {
        return true;
    };
    let counts = |k: &str| k != "metadata" && !(k == "status" && resource.status);
    a.keys().chain(b.keys()).any(|k| counts(k) && a.get(k) != b.get(k))
}

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub propagation: String,
    pub uid: String,
    pub version: String,
    pub dry_run: bool,
}

impl DeleteOptions {
    pub fn of(query: &Query, body: &Value) -> Self {
        let text = |key: &str| match body.get(key).and_then(Value::as_str) {
            Some(v) => v.to_owned(),
            None => query.get(key).to_owned(),
        };
        let mut propagation = text("propagationPolicy");
        match body.get("orphanDependents").and_then(Value::as_bool) {
            Some(true) if propagation.is_empty() => propagation = "Orphan".to_owned(),
            _ => {}
        }
        Self {
            grace: body["gracePeriodSeconds"]
                .as_i64()
                .or(query.number("gracePeriodSeconds")),
            propagation,
            uid: str_at(body, "/preconditions/uid").to_owned(),
            version: str_at(body, "/preconditions/resourceVersion").to_owned(),
            dry_run: !items(body, "/dryRun").is_empty() || !query.get("dryRun").is_empty(),
        }
    }
}

pub fn delete(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Value,
) -> Result<Response<Body>> {
    let options = DeleteOptions::of(query, body);
    if !matches!(
        options.propagation.as_str(),
        "" | "Background" | "Foreground" | "Orphan"
    ) {
        return Err(ApiError::bad_request(format!(
            "invalid propagationPolicy {:?}: must be Background, Foreground or Orphan",
            options.propagation
        )));
    }
    match delete_object(api, resource, target, &options)? {
        Some(pending) => {
            let value = convert::from_storage(resource, pending);
            Ok(reply_object(200, resource, &value, headers))
        }
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": details(resource, &target.name)});
            Ok(answer::json(200, &status))
        }
    }
}

/// Deletes an object; returns it if it still has to wait for its grace period or its finalizers.
pub fn delete_object(
    api: &Api,
    resource: &Resource,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Option<Value>> {
    for attempt in 1.. {
        let old = api.find(resource, target)?;
        check_preconditions(resource, &old, options)?;
        let mut value = old.value();
        let grace = grace_seconds(resource, &value, options.grace);
        add_propagation(&mut value, options);
        let waits = grace > 0
            || !items(&value, "/metadata/finalizers").is_empty()
            || (resource.is("", "namespaces") && !items(&value, "/spec/finalizers").is_empty());
        if options.dry_run {
            return Ok(waits.then_some(value));
        }
        let done = if waits {
            mark_deleting(resource, &mut value, grace);
            if value == old.value() {
                return Ok(Some(value));
            }
            api.store
                .update(&resource.storage, value, old.version)
                .map(|o| Some(o.value()))
        } else {
            api.store
                .delete(&resource.storage, &old.namespace, &old.name, Some(old.version))
                .map(|_| None)
        };
        match done {
            Ok(pending) => {
                api.after_write(resource, &old.value());
                return Ok(pending);
            }
            Err(WriteError::Conflict) if attempt < PATCH_TRIES_MAX => {}
            Err(e) => return Err(store_error(resource, &old.name, e)),
        }
    }
    Err(ApiError::internal("the object changes too often"))
}

fn check_preconditions(resource: &Resource, old: &Object, options: &DeleteOptions) -> Result<()> {
    if !options.uid.is_empty() && *options.uid != *old.uid {
        return Err(ApiError::conflict(
            resource,
            &old.name,
            &format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                options.uid, old.uid
            ),
        ));
    }
    if !options.version.is_empty() && options.version != old.version.to_string() {
        return Err(ApiError::conflict(
            resource,
            &old.name,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
                options.version, old.version
            ),
        ));
    }
    Ok(())
}

/// Only a pod that has a node and may still run is given time to end.
fn grace_seconds(resource: &Resource, pod: &Value, asked: Option<i64>) -> i64 {
    let ended = matches!(str_at(pod, "/status/phase"), "Succeeded" | "Failed");
    if !resource.is("", "pods") || str_at(pod, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let wanted = asked.unwrap_or(own).max(0);
    match pod["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        // A deletion that is under way can only be shortened.
        Some(running) => wanted.min(running),
        None => wanted,
    }
}

fn add_propagation(value: &mut Value, options: &DeleteOptions) {
    let finalizer = match options.propagation.as_str() {
        "Foreground" => FOREGROUND,
        "Orphan" => ORPHAN,
        _ => return,
    };
    let list = meta(value).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = list
        && !list.iter().any(|f| f == finalizer)
    {
        list.push(finalizer.into());
    }
}

fn mark_deleting(resource: &Resource, value: &mut Value, grace: i64) {
    let known = value["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if resource.is("", "namespaces") {
        object::map_at(value, "status").insert("phase".into(), "Terminating".into());
    }
    let generation = value["metadata"]["generation"].as_i64();
    let meta = meta(value);
    if known.is_none_or(|k| grace < k) {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        meta.insert("deletionTimestamp".into(), object::time(at).into());
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
        if let Some(g) = generation.filter(|_| known.is_none()) {
            meta.insert("generation".into(), (g + 1).into());
        }
    }
}

pub fn delete_collection(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    body: &Value,
) -> Result<Response<Body>> {
    let options = DeleteOptions::of(query, body);
    let (version, objects): (u64, Vec<Arc<Object>>) = super::read::select(api, resource, target, query)?;
    let mut gone = Vec::new();
    for object in objects {
        let target = Target {
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            ..target.clone()
        };
        match delete_object(api, resource, &target, &options) {
            Ok(_) => gone.push(converted(resource, &object)),
            Err(e) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    let list = json!({"kind": resource.list_kind, "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": gone});
    Ok(answer::json(200, &list))
}
