//! One request from its head to its response: who, may they, what.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::auth::{self, User};
use super::error::{ApiError, Result};
use super::http::{self as answer, Body};
use super::patch;
use super::rbac::Attributes;
use super::registry::Resource;
use super::request::{self, Query, Target};
use super::write::Part;
use super::{Api, VERSION, aggregate, discovery, openapi, read, reviews, subresource, write};

pub async fn handle(api: Arc<Api>, certificate: Option<Arc<User>>, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let outcome = dispatch(&api, certificate.as_deref(), request).await;
    match outcome {
        Ok(response) => {
            tracing::trace!(%method, path, status = response.status().as_u16());
            response
        }
        Err(e) => {
            tracing::debug!(%method, path, status = e.code, "{e}");
            e.response()
        }
    }
}

async fn dispatch(api: &Api, certificate: Option<&User>, request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let user = who(api, certificate, &request)?;
    let target = request::target(&path);
    authorize(
        api,
        &user,
        &request::attributes(request.method(), &path, target.as_ref(), &query),
    )?;
    if let Some(t) = &target
        && let Some(remote) = api.aggregator.find(&t.group, &t.version)
    {
        return aggregate::forward(api, &remote, &user, request).await;
    }
    match target {
        Some(t) if !t.resource.is_empty() => resource(api, &user, &t, &query, request).await,
        _ => other(api, &path, request),
    }
}

/// The user for whom the request is served, after impersonation.
fn who(api: &Api, certificate: Option<&User>, request: &Request<Incoming>) -> Result<User> {
    let user = auth::authenticate(request.headers(), certificate, &api.tokens)?;
    let Some((other, checks)) = auth::impersonated(request.headers())? else {
        return Ok(user);
    };
    for check in checks {
        authorize(
            api,
            &user,
            &Attributes {
                verb: "impersonate".to_owned(),
                group: check.group.to_owned(),
                resource: check.resource.to_owned(),
                subresource: check.subresource,
                namespace: check.namespace,
                name: check.name,
                path: None,
            },
        )?;
    }
    Ok(other)
}

fn authorize(api: &Api, user: &User, attributes: &Attributes) -> Result<()> {
    if api.rbac.allows(user, attributes) {
        return Ok(());
    }
    let why = attributes.refusal(user);
    if attributes.path.is_some() {
        return Err(ApiError {
            details: Some(json!({})),
            ..ApiError::new(403, "Forbidden", format!("forbidden: {why}"))
        });
    }
    let (name, group) = (&attributes.name, &attributes.group);
    let group_resource = if group.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}.{group}", attributes.resource)
    };
    let shown = if name.is_empty() {
        String::new()
    } else {
        format!(" {name:?}")
    };
    let mut details = json!({"kind": attributes.resource});
    for (key, value) in [("name", name), ("group", group)] {
        if !value.is_empty() {
            details[key] = value.clone().into();
        }
    }
    Err(ApiError {
        details: Some(details),
        ..ApiError::new(403, "Forbidden", format!("{group_resource}{shown} is forbidden: {why}"))
    })
}

/// Paths that are no resources: health, version, discovery, OpenAPI.
fn other(api: &Api, path: &str, request: Request<Incoming>) -> Result<Response<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    match path.trim_end_matches('/') {
        "/healthz" | "/livez" | "/readyz" => return Ok(answer::text(200, "ok")),
        "/version" => {
            return Ok(answer::json(
                200,
                &json!({
                    "major": "1", "minor": "37", "gitVersion": VERSION, "gitCommit": "weir", "gitTreeState": "clean",
                    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
                    "platform": format!("{}/{}", std::env::consts::OS, platform()),
                }),
            ));
        }
        "" => {
            return Ok(answer::json(
                200,
                &json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            ));
        }
        _ => {}
    }
    if let Some(found) = discovery::serve(api, path, request.headers()) {
        return found;
    }
    if path.starts_with("/openapi/") {
        return openapi::serve(api, path, request.headers());
    }
    Err(ApiError::no_such_path())
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The body of a writing request: parsed, and its content type.
async fn body(request: Request<Incoming>) -> Result<(::http::HeaderMap, Bytes)> {
    let (parts, body) = request.into_parts();
    Ok((parts.headers, answer::read(body).await?))
}

/// A body that may be absent, such as that of DELETE.
fn optional(headers: &::http::HeaderMap, bytes: &[u8]) -> Result<Value> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    answer::parse(headers, bytes)
}

async fn resource(
    api: &Api,
    user: &User,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let registry = api.registry.load_full();
    let resource = registry
        .find(&target.group, &target.version, &target.resource)
        .ok_or_else(ApiError::no_such_path)?;
    if resource.virtual_only {
        if *request.method() != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        let (headers, bytes) = body(request).await?;
        let review = answer::parse(&headers, &bytes)?;
        if !review.is_object() {
            return Err(ApiError::bad_request("the body must be an object"));
        }
        let answered = reviews::answer(api, resource, user, &target.namespace, review)?;
        return Ok(answer::json(201, &answered));
    }
    if !target.subresource.is_empty() {
        return sub(api, resource, target, query, request).await;
    }
    let all_namespaces = resource.namespaced && target.namespace.is_empty();
    if all_namespaces && !target.name.is_empty()
        || (!resource.namespaced && !target.namespace.is_empty() && !resource.is("", "namespaces"))
    {
        return Err(ApiError::no_such_path());
    }
    let verb = request::verb(request.method(), target, query);
    match verb {
        "get" => read::get(api, resource, target, request.headers()),
        "list" => read::list(api, resource, target, query, request.headers()),
        "watch" => read::watch(api, resource, target, query, request.headers()),
        "create" if target.name.is_empty() => {
            let (headers, bytes) = body(request).await?;
            let value = answer::parse(&headers, &bytes)?;
            write::create(api, resource, target, query, &headers, value)
        }
        "update" => {
            let (headers, bytes) = body(request).await?;
            let value = answer::parse(&headers, &bytes)?;
            write::update(api, resource, target, Part::Main, query, &headers, value)
        }
        "patch" => {
            let (headers, bytes) = body(request).await?;
            let (kind, value) = patch_body(&headers, &bytes)?;
            write::patch(api, resource, target, Part::Main, kind, query, &headers, value)
        }
        "delete" => {
            let (headers, bytes) = body(request).await?;
            let value = optional(&headers, &bytes)?;
            write::delete(api, resource, target, query, &headers, &value)
        }
        "deletecollection" => {
            let (headers, bytes) = body(request).await?;
            let value = optional(&headers, &bytes)?;
            write::delete_collection(api, resource, target, query, &value)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn patch_body(headers: &::http::HeaderMap, bytes: &[u8]) -> Result<(patch::Kind, Value)> {
    let kind = patch::Kind::of(answer::header_text(headers, ::http::header::CONTENT_TYPE))?;
    Ok((kind, answer::parse(headers, bytes)?))
}

async fn sub(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let known = resource.subresources().iter().any(|s| s.name == target.subresource);
    if !known {
        return Err(ApiError::no_such_path());
    }
    let method = request.method().clone();
    match (target.subresource.as_str(), method.as_str()) {
        ("log", "GET") | ("exec" | "attach" | "portforward", "GET" | "POST") => {
            subresource::kubelet(api, resource, target, query, request).await
        }
        ("proxy", _) => subresource::proxy(api, resource, target, request).await,
        ("status", "GET") => read::get(api, resource, target, request.headers()),
        ("status", "PUT") => {
            let (headers, bytes) = body(request).await?;
            let value = answer::parse(&headers, &bytes)?;
            write::update(api, resource, target, Part::Status, query, &headers, value)
        }
        ("status", "PATCH") => {
            let (headers, bytes) = body(request).await?;
            let (kind, value) = patch_body(&headers, &bytes)?;
            write::patch(api, resource, target, Part::Status, kind, query, &headers, value)
        }
        ("scale", "GET") => subresource::scale(api, resource, target, &method, query, request.headers(), None),
        ("scale", "PUT" | "PATCH") => {
            let (headers, bytes) = body(request).await?;
            let parsed = if method == Method::PUT {
                (patch::Kind::Merge, answer::parse(&headers, &bytes)?)
            } else {
                patch_body(&headers, &bytes)?
            };
            subresource::scale(api, resource, target, &method, query, &headers, Some(parsed))
        }
        ("token" | "eviction" | "binding", "POST") | ("finalize", "PUT") => {
            let (headers, bytes) = body(request).await?;
            let value = answer::parse(&headers, &bytes)?;
            if !value.is_object() {
                return Err(ApiError::bad_request("the body must be an object"));
            }
            match target.subresource.as_str() {
                "token" => subresource::token(api, resource, target, value),
                "eviction" => subresource::evict(api, resource, target, &value),
                "binding" => subresource::bind_pod(api, resource, target, &value),
                _ => subresource::finalize(api, resource, target, value),
            }
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
