//! Subresources that are more than a part of the object: scale, token, eviction, binding, log, exec, proxy.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, Cause, Result};
use super::http::{Body, json as reply_json};
use super::object::{self, items, map_at, str_at};
use super::patch;
use super::read::converted;
use super::registry::{Resource, ScalePaths};
use super::request::{Query, Target};
use super::tokens::{ISSUER, TokenSpec};
use super::upstream::{self, Destination};
use super::validate::{self, FieldValidation};
use super::write::{self, DeleteOptions, Options, Part};

const KUBELET_PORT: u16 = 10250;

/// `autoscaling/v1` Scale of an object.
fn scale_of(resource: &Resource, paths: &ScalePaths, object: &Value) -> Value {
    let m = &object["metadata"];
    let number = |p: &str| object.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    let mut meta = json!({"name": m["name"], "uid": m["uid"], "resourceVersion": m["resourceVersion"], "creationTimestamp": m["creationTimestamp"]});
    if resource.namespaced {
        meta["namespace"] = m["namespace"].clone();
    }
    let selector = match &paths.selector {
        Some(p) => str_at(object, p).to_owned(),
        None => super::selector::label_selector_text(&object["spec"]["selector"]),
    };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas), "selector": selector}})
}

/// get, update and patch of the scale subresource.
pub fn scale(
    api: &Api,
    resource: &Resource,
    target: &Target,
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
    body: Option<(patch::Kind, Value)>,
) -> Result<Response<Body>> {
    let Some(paths) = &resource.scale else {
        return Err(ApiError::no_such_path());
    };
    let Some((kind, body)) = body else {
        let found = api.find(resource, target)?;
        return Ok(reply_json(
            200,
            &scale_of(resource, paths, &converted(resource, &found)),
        ));
    };
    let put = *method == Method::PUT;
    let written = write::change(
        api,
        resource,
        target,
        Part::Main,
        &Options::of(query, headers),
        |current| {
            let before = scale_of(resource, paths, current);
            let after = if put {
                body.clone()
            } else {
                patch::apply(kind, &before, &body, true)?
            };
            let version = str_at(&after, "/metadata/resourceVersion");
            let mut new = current.clone();
            if version.is_empty() || (!put && body.pointer("/metadata/resourceVersion").is_none()) {
                object::meta(&mut new).remove("resourceVersion");
            } else {
                object::meta(&mut new).insert("resourceVersion".into(), version.into());
            }
            let replicas = match after.pointer("/spec/replicas") {
                None | Some(Value::Null) => 0,
                Some(v) => v.as_i64().filter(|n| *n >= 0).ok_or_else(|| {
                    let cause = Cause::invalid("spec.replicas", v, "must be a number greater than or equal to 0");
                    ApiError::invalid(resource, &target.name, &[cause])
                })?,
            };
            set(&mut new, &paths.spec_replicas, replicas.into());
            Ok(new)
        },
    )?;
    let value = super::convert::from_storage(resource, written.value);
    Ok(reply_json(200, &scale_of(resource, paths, &value)))
}

/// Sets a value at a JSON pointer, making the maps on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    let mut parts = pointer.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let map = object::as_map(at);
        if parts.peek().is_none() {
            map.insert(part.to_owned(), value);
            return;
        }
        at = map.entry(part.to_owned()).or_insert(Value::Null);
    }
}

/// `serviceaccounts/NAME/token`.
pub fn token(api: &Api, resource: &Resource, target: &Target, mut request: Value) -> Result<Response<Body>> {
    let account = api.find(resource, target)?.value();
    let invalid = |cause: Cause| {
        let review = ApiError::invalid(resource, &target.name, &[cause]);
        ApiError {
            message: review
                .message
                .replacen("ServiceAccount", "TokenRequest.authentication.k8s.io", 1),
            ..review
        }
    };
    let seconds = match &request["spec"]["expirationSeconds"] {
        Value::Null => 3600,
        v => v.as_i64().filter(|s| *s >= 600).ok_or_else(|| {
            invalid(Cause::invalid(
                "spec.expirationSeconds",
                v,
                "may not specify a duration less than 10 minutes",
            ))
        })?,
    };
    let mut audiences: Vec<String> = items(&request, "/spec/audiences")
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let mut spec = TokenSpec {
        audiences,
        expiration_seconds: seconds,
        ..TokenSpec::default()
    };
    if let Some(bound) = request.pointer("/spec/boundObjectRef").filter(|b| b.is_object()) {
        bind(api, target, bound, &account, &mut spec)?;
    }
    let (token, expires) = api.tokens.issue(&account, &spec).map_err(|e| {
        tracing::error!("a token could not be signed: {e}");
        ApiError::internal("the token could not be signed")
    })?;
    let expires = jiff::Timestamp::from_second(expires).map_err(ApiError::internal)?;
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    let now = object::now();
    let meta = object::meta(&mut request);
    meta.insert("name".into(), target.name.clone().into());
    meta.insert("namespace".into(), target.namespace.clone().into());
    meta.insert("creationTimestamp".into(), now.into());
    let request_spec = map_at(&mut request, "spec");
    request_spec.insert("audiences".into(), json!(spec.audiences));
    request_spec.insert("expirationSeconds".into(), seconds.into());
    request["status"] = json!({"token": token, "expirationTimestamp": object::time(expires)});
    Ok(reply_json(201, &request))
}

/// Binds a token to a pod or secret, which must exist (and, if given, have this uid).
fn bind(api: &Api, target: &Target, bound: &Value, account: &Value, spec: &mut TokenSpec) -> Result<()> {
    let (kind, name) = (str_at(bound, "/kind"), str_at(bound, "/name"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {other:?}: it must be Pod or Secret"
            )));
        }
    };
    let registry = api.registry.load();
    let resource = registry.any_version("", plural).ok_or_else(ApiError::no_such_path)?;
    let found = api
        .store
        .get(plural, &target.namespace, name)
        .ok_or_else(|| ApiError::not_found(resource, name))?;
    let uid = str_at(bound, "/uid");
    if !uid.is_empty() && *uid != *found.uid {
        return Err(ApiError::conflict(
            resource,
            name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    let value = found.value();
    if kind == "Pod" {
        let own = str_at(&value, "/spec/serviceAccountName");
        if own != object::name(account) {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name {own:?}",
                object::name(account)
            )));
        }
        let node = str_at(&value, "/spec/nodeName");
        if let Some(n) = api.store.get("nodes", "", node) {
            spec.node = Some((node.to_owned(), n.uid.to_string()));
        }
    }
    spec.bound = Some((kind.to_owned(), name.to_owned(), found.uid.to_string()));
    Ok(())
}

/// `pods/NAME/eviction`: a deletion.
pub fn evict(api: &Api, resource: &Resource, target: &Target, body: &Value) -> Result<Response<Body>> {
    let options = DeleteOptions::of(&Query::default(), &body["deleteOptions"]);
    write::delete_object(api, resource, target, &options)?;
    Ok(reply_json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
    ))
}

/// `pods/NAME/binding`: puts a pod onto a node.
pub fn bind_pod(api: &Api, resource: &Resource, target: &Target, body: &Value) -> Result<Response<Body>> {
    let node = str_at(body, "/target/name").to_owned();
    if node.is_empty() {
        return Err(ApiError::invalid(
            resource,
            &target.name,
            &[Cause::required("target.name", "")],
        ));
    }
    for attempt in 0.. {
        let old = api.find(resource, target)?;
        let mut pod = old.value();
        let assigned = str_at(&pod, "/spec/nodeName");
        if !assigned.is_empty() {
            let why = format!("pod {} is already assigned to node {assigned:?}", target.name);
            return Err(ApiError::conflict(resource, &target.name, &why));
        }
        map_at(&mut pod, "spec").insert("nodeName".into(), node.clone().into());
        let mut conditions = items(&pod, "/status/conditions").to_vec();
        conditions.retain(|c| str_at(c, "/type") != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now()}));
        map_at(&mut pod, "status").insert("conditions".into(), Value::Array(conditions));
        match api.store.update(&resource.storage, pod, old.version) {
            Ok(_) => break,
            Err(_) if attempt < 8 => {}
            Err(e) => return Err(ApiError::internal(e)),
        }
    }
    Ok(reply_json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
    ))
}

/// `namespaces/NAME/finalize`: replaces the finalizers of a namespace.
pub fn finalize(api: &Api, resource: &Resource, target: &Target, mut body: Value) -> Result<Response<Body>> {
    validate::decode(resource, &mut body, FieldValidation::Ignore)?;
    let finalizers = body["spec"].get("finalizers").cloned().unwrap_or_else(|| json!([]));
    let written = write::change(api, resource, target, Part::Main, &Options::internal(), |current| {
        let mut new = current.clone();
        object::meta(&mut new).remove("resourceVersion");
        map_at(&mut new, "spec").insert("finalizers".into(), finalizers.clone());
        Ok(new)
    })?;
    Ok(reply_json(200, &written.value))
}

/// log, exec, attach and portforward of a pod, at the kubelet of its node.
pub async fn kubelet(
    api: &Api,
    resource: &Resource,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let pod = api.find(resource, target)?.value();
    let container = container_of(&pod, query.get("container"), &target.subresource)?;
    let (ns, name) = (&target.namespace, &target.name);
    let path = match target.subresource.as_str() {
        "log" => format!("/containerLogs/{ns}/{name}/{container}"),
        "exec" => format!("/exec/{ns}/{name}/{container}"),
        "attach" => format!("/attach/{ns}/{name}/{container}"),
        _ => format!("/portForward/{ns}/{name}"),
    };
    let node_name = str_at(&pod, "/spec/nodeName");
    if node_name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let Some(node) = api.store.get("nodes", "", node_name) else {
        return Err(ApiError::internal(format!(
            "the node {node_name:?} of the pod is unknown"
        )));
    };
    let node = node.value();
    let ip: IpAddr = items(&node, "/status/addresses")
        .iter()
        .find(|a| str_at(a, "/type") == "InternalIP")
        .and_then(|a| str_at(a, "/address").parse().ok())
        .ok_or_else(|| ApiError::internal(format!("the node {node_name:?} has no InternalIP")))?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p > 0)
        .unwrap_or(KUBELET_PORT);
    let to = Destination {
        address: SocketAddr::new(ip, port),
        tls: Some((api.kubelet_tls.clone(), ip.to_string())),
        host: format!("{ip}:{port}"),
    };
    let path = match request.uri().query() {
        Some(q) => format!("{path}?{q}"),
        None => path,
    };
    upstream::forward(&to, request, &path, |headers| {
        headers.remove(http::header::AUTHORIZATION);
    })
    .await
}

/// The container that is meant: the one named, the annotated default, or the first.
fn container_of(pod: &Value, asked: &str, subresource: &str) -> Result<String> {
    let name = object::name(pod);
    let all: Vec<&str> = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"]
        .iter()
        .flat_map(|l| items(pod, l))
        .map(|c| str_at(c, "/name"))
        .collect();
    if !asked.is_empty() {
        if all.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    let regular: Vec<&str> = items(pod, "/spec/containers")
        .iter()
        .map(|c| str_at(c, "/name"))
        .collect();
    let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (regular.as_slice(), annotated) {
        (_, Some(chosen)) if all.contains(&chosen) => Ok(chosen.to_owned()),
        ([only], _) => Ok((*only).to_owned()),
        ([], _) => Err(ApiError::bad_request(format!("pod {name} has no container"))),
        (many, _) if subresource == "portforward" => Ok(many[0].to_owned()),
        (many, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

/// `services/[SCHEME:]NAME[:PORT]/proxy/...` and `pods/...`.
pub async fn proxy(
    api: &Api,
    resource: &Resource,
    target: &Target,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let mut parts: Vec<&str> = target.name.split(':').collect();
    let scheme = if parts.len() == 3 { parts.remove(0) } else { "" };
    let name = parts[0];
    let port = parts.get(1).copied().unwrap_or("");
    let address = if resource.plural == "services" {
        let wanted = if port.is_empty() { Value::Null } else { port.into() };
        super::aggregate::resolve(&api.store, &target.namespace, name, &wanted).map_err(|(reason, message)| {
            if reason == "ServiceNotFound" {
                ApiError::not_found(resource, name)
            } else {
                ApiError::unavailable(format!("no endpoints available for service {name:?}: {message}"))
            }
        })?
    } else {
        let plain = Target {
            name: name.to_owned(),
            ..target.clone()
        };
        let pod = api.find(resource, &plain)?.value();
        let ip: IpAddr = str_at(&pod, "/status/podIP")
            .parse()
            .map_err(|_| ApiError::unavailable(format!("pod {name:?} has no address yet")))?;
        let first = pod
            .pointer("/spec/containers/0/ports/0/containerPort")
            .and_then(Value::as_u64);
        let port = match port {
            "" => first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
            p => p
                .parse()
                .map_err(|_| ApiError::bad_request(format!("invalid port {p:?}: must be a number")))?,
        };
        SocketAddr::new(ip, port)
    };
    let tls = match scheme {
        "https" => Some((api.any_tls.clone(), address.ip().to_string())),
        "" | "http" => None,
        other => {
            return Err(ApiError::bad_request(format!(
                "invalid scheme {other:?}: must be http or https"
            )));
        }
    };
    let to = Destination {
        address,
        tls,
        host: address.to_string(),
    };
    let path = if target.rest.is_empty() { "/" } else { &target.rest };
    let trailing = request.uri().path().ends_with('/') && !path.ends_with('/');
    let mut path = if trailing { format!("{path}/") } else { path.to_owned() };
    if let Some(q) = request.uri().query() {
        path = format!("{path}?{q}");
    }
    upstream::forward(&to, request, &path, |headers| {
        headers.remove(http::header::AUTHORIZATION);
    })
    .await
}
