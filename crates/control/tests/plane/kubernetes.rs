//! As much of a Kubernetes API as the control plane uses, in memory: list and watch, create, get, merge patch, token
//! reviews; and it can be away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Default)]
struct State {
    /// Objects by the path of their list, then by `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watches: Vec<(String, mpsc::UnboundedSender<String>)>,
    version: u64,
    /// Lists that are not answered.
    withheld: Vec<String>,
    away: bool,
}

/// The fake. Clones are one API.
#[derive(Clone, Default)]
pub struct Kubernetes(Arc<Mutex<State>>);

impl Kubernetes {
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Creates or replaces an object and tells the watches. `list` is such as `/api/v1/services`.
    pub fn put(&self, list: &str, object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let new = state
            .objects
            .entry(list.to_owned())
            .or_default()
            .insert(key(&object), object.clone())
            .is_none();
        let event = json!({"type": if new { "ADDED" } else { "MODIFIED" }, "object": object}).to_string() + "\n";
        state
            .watches
            .retain(|(path, watch)| path != list || watch.send(event.clone()).is_ok());
    }

    /// Lists of this kind are not answered (`hold`), or are again.
    pub fn withhold(&self, list: &str, hold: bool) {
        let mut state = self.0.lock().unwrap();
        state.withheld.retain(|l| l != list);
        if hold {
            state.withheld.push(list.to_owned());
        }
    }

    /// The API server goes: watches end, requests fail. Or it is back.
    pub fn away(&self, away: bool) {
        let mut state = self.0.lock().unwrap();
        state.away = away;
        if away {
            state.watches.clear();
        }
    }

    /// Objects of a list in a namespace.
    pub fn objects(&self, list: &str) -> Vec<Value> {
        self.0
            .lock()
            .unwrap()
            .objects
            .get(list)
            .map(|l| l.values().cloned().collect())
            .unwrap_or_default()
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        let mut state = self.0.lock().unwrap();
        if state.away || (query.is_empty() || !query.contains("watch=true")) && state.withheld.iter().any(|l| l == path)
        {
            return status(StatusCode::SERVICE_UNAVAILABLE, "away");
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if path == "/apis/authentication.k8s.io/v1/tokenreviews" {
            return json_answer(StatusCode::CREATED, &review(&body));
        }
        if *method == Method::GET && query.contains("watch=true") {
            let (watch, events) = mpsc::unbounded_channel();
            let from = query
                .split('&')
                .find_map(|p| p.strip_prefix("resourceVersion=")?.parse::<u64>().ok());
            if from.is_some_and(|from| from < state.version) {
                // There is no history: the watcher must list again.
                let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
                let _ = watch.send(json!({"type": "ERROR", "object": gone}).to_string() + "\n");
            }
            state.watches.push((path.to_owned(), watch));
            let frames = UnboundedReceiverStream::new(events)
                .map(|line| Ok::<_, Infallible>(http_body_util_frame(line.into_bytes().into())));
            return Response::new(StreamBody::new(frames).boxed());
        }
        if *method == Method::POST {
            let list = state.objects.entry(path.to_owned()).or_default();
            if list.contains_key(&key(&body)) {
                return status(StatusCode::CONFLICT, "AlreadyExists");
            }
            list.insert(key(&body), body.clone());
            return json_answer(StatusCode::CREATED, &body);
        }
        if let Some(list) = state.objects.get(path).filter(|_| *method == Method::GET) {
            return json_answer(
                StatusCode::OK,
                &list_of(list.values().cloned().collect(), state.version),
            );
        }
        let (list, name) = path.rsplit_once('/').unwrap_or_default();
        let found = state
            .objects
            .get_mut(list)
            .and_then(|l| l.values_mut().find(|o| o["metadata"]["name"] == name));
        match found {
            Some(object) if *method == Method::PATCH => {
                for (field, value) in body.as_object().cloned().unwrap_or_default() {
                    object[field] = value;
                }
                json_answer(StatusCode::OK, object)
            }
            Some(object) => json_answer(StatusCode::OK, object),
            None if is_list(path) => json_answer(StatusCode::OK, &list_of(Vec::new(), state.version)),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        }
    }
}

/// Lists end in a kind's plural, all others in a name.
fn is_list(path: &str) -> bool {
    !path.contains("/namespaces/")
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn list_of(items: Vec<Value>, version: u64) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

/// `good:<namespace>:<pod>` is a valid token of that pod.
fn review(body: &Value) -> Value {
    let token = body["spec"]["token"].as_str().unwrap_or_default();
    let mut parts = token.split(':');
    let status = match (parts.next(), parts.next(), parts.next()) {
        (Some("good"), Some(namespace), Some(pod)) => json!({
            "authenticated": true, "audiences": body["spec"]["audiences"],
            "user": {"username": format!("system:serviceaccount:{namespace}:default"),
                     "extra": {"authentication.kubernetes.io/pod-name": [pod]}}}),
        _ => json!({"authenticated": false, "error": "bad token"}),
    };
    json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": body["spec"], "status": status})
}

fn http_body_util_frame(bytes: Bytes) -> http_body::Frame<Bytes> {
    http_body::Frame::data(bytes)
}

fn json_answer(code: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed());
    *response.status_mut() = code;
    response
}

fn status(code: StatusCode, reason: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason});
    json_answer(code, &body)
}

impl tower_service::Service<Request<Body>> for Kubernetes {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            Ok(this.answer(
                &parts.method,
                parts.uri.path(),
                parts.uri.query().unwrap_or_default(),
                &body,
            ))
        })
    }
}
