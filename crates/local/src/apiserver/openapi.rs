//! OpenAPI: as much as kubectl reads: which kinds there are, that their writes take `fieldValidation` and `dryRun`,
//! the schemas of custom resources, and the fields of built-in kinds.

use http::{HeaderMap, Response, header};
use prost::Message;
use serde_json::{Map, Value, json};

use super::Api;
use super::error::{ApiError, Result};
use super::http::{Body, header_text, json as reply_json, reply};
use super::registry::{Resource, Source};
use super::structure;

/// Answers a path below `/openapi`.
pub fn serve(api: &Api, path: &str, headers: &HeaderMap) -> Result<Response<Body>> {
    let rest = path.trim_start_matches("/openapi/").trim_end_matches('/');
    match rest {
        "v3" => return Ok(reply_json(200, &index(api))),
        "v2" => return Ok(v2(headers)),
        _ => {}
    }
    let Some(group_path) = rest.strip_prefix("v3/") else {
        return Err(ApiError::no_such_path());
    };
    let (group, version) = match group_path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Err(ApiError::no_such_path()),
    };
    let registry = api.registry.load();
    let found: Vec<_> = registry
        .resources
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    if found.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for r in found {
        describe(r, group_path, &mut paths, &mut schemas);
    }
    Ok(reply_json(
        200,
        &json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": super::VERSION},
            "paths": paths, "components": {"schemas": schemas}}),
    ))
}

/// The older form, as a document without paths. kubectl asks for it only where v3 does not know a kind; finding nothing
/// here either, it goes on to say that there is no such kind.
fn v2(headers: &HeaderMap) -> Response<Body> {
    /// The fields of gnostic's `openapi.v2.Document` that are filled.
    #[derive(Clone, PartialEq, Message)]
    struct Document {
        #[prost(string, tag = "1")]
        swagger: String,
        #[prost(message, optional, tag = "2")]
        info: Option<Info>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Info {
        #[prost(string, tag = "1")]
        title: String,
        #[prost(string, tag = "2")]
        version: String,
    }

    let (swagger, title, version) = ("2.0".to_owned(), "Kubernetes".to_owned(), super::VERSION.to_owned());
    if header_text(headers, header::ACCEPT).contains("application/com.github.proto-openapi.spec.v2@v1.0+protobuf") {
        let info = Some(Info { title, version });
        return reply(
            200,
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Document { swagger, info }.encode_to_vec(),
        );
    }
    reply_json(
        200,
        &json!({"swagger": swagger, "info": {"title": title, "version": version}, "paths": {}, "definitions": {}}),
    )
}

fn index(api: &Api) -> Value {
    let registry = api.registry.load();
    let mut paths = Map::new();
    for r in &registry.resources {
        let path = if r.group.is_empty() {
            format!("api/{}", r.version)
        } else {
            format!("apis/{}/{}", r.group, r.version)
        };
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn describe(r: &Resource, group_path: &str, paths: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    let kind = json!({"group": r.group, "version": r.version, "kind": r.kind});
    let name = if r.group.is_empty() {
        format!("io.k8s.api.core.{}.{}", r.version, r.kind)
    } else {
        let mut parts: Vec<&str> = r.group.split('.').collect();
        parts.reverse();
        format!("{}.{}.{}", parts.join("."), r.version, r.kind)
    };
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    let known = match &r.source {
        Source::Custom(v) => v.schema.is_object().then(|| v.schema.clone()),
        Source::Builtin(_) => structure::of(&r.api_version(), &r.kind, schemas),
    };
    let mut schema = known.unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    schema["x-kubernetes-group-version-kind"] = json!([kind]);
    schemas.insert(name, schema);

    let collection = if r.namespaced {
        format!("/{group_path}/namespaces/{{namespace}}/{}", r.plural)
    } else {
        format!("/{group_path}/{}", r.plural)
    };
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters = json!([query("dryRun"), query("fieldManager"), query("fieldValidation")]);
    let body = |types: &[&str]| {
        let content: Map<String, Value> = types
            .iter()
            .map(|t| ((*t).to_owned(), json!({"schema": reference})))
            .collect();
        json!({"content": content})
    };
    let responses = json!({"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}});
    let operation = |action: &str, types: &[&str]| {
        json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind, "parameters": parameters,
            "requestBody": body(types), "responses": responses})
    };
    let get = |action: &str| json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind, "responses": responses});
    let post = operation("post", &["application/json"]);
    if r.virtual_only {
        paths.insert(collection, json!({"post": post}));
        return;
    }
    paths.insert(format!("{collection}/{{name}}"), json!({
        "get": get("get"),
        "put": operation("put", &["application/json"]),
        "patch": operation("patch", &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]),
    }));
    paths.insert(collection, json!({"get": get("list"), "post": post}));
}
