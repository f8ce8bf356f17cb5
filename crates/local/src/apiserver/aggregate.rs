//! Aggregated API servers: APIService objects with a service are passed on to it, under the front-proxy identity.
//! A task checks their availability and keeps what their discovery says.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::Api;
use super::auth::User;
use super::error::{ApiError, Result};
use super::http::Body;
use super::object::{self, items, str_at};
use super::store::Store;
use super::upstream::{self, Destination, TlsError, Trust};

pub const STORAGE: &str = "apiservices.apiregistration.k8s.io";
const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Unavailable servers are asked this often, available ones less so.
const CHECK_UNAVAILABLE: Duration = Duration::from_secs(1);
const CHECK_AVAILABLE: Duration = Duration::from_secs(15);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const DISCOVERY_BYTES_MAX: usize = 1 << 20;
const AGGREGATED_DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One aggregated group version.
#[derive(Clone)]
pub struct Remote {
    pub object_name: String,
    pub group: String,
    pub version: String,
    pub available: bool,
    /// `resources` of its `APIResourceList`.
    pub resources: Vec<Value>,
    service: (String, String),
    port: Value,
    /// Or why there is none.
    tls: std::result::Result<Arc<ClientConfig>, String>,
    /// The spec from which this was made.
    spec: Value,
}

/// All aggregated group versions: as stored, and what the checks of `run` found.
pub struct Aggregator {
    services: ArcSwap<Vec<Remote>>,
    /// Held by the one pass that is under way.
    pass: Mutex<()>,
}

impl Aggregator {
    pub fn new() -> Self {
        Self {
            services: ArcSwap::from_pointee(Vec::new()),
            pass: Mutex::new(()),
        }
    }

    pub fn services(&self) -> Vec<Remote> {
        self.services.load().as_ref().clone()
    }

    pub fn find(&self, group: &str, version: &str) -> Option<Remote> {
        self.services
            .load()
            .iter()
            .find(|s| s.group == group && s.version == version)
            .cloned()
    }

    /// Takes over the stored APIServices: called whenever one has been written.
    pub fn reload(&self, api: &Api) {
        let _pass = self.pass.lock();
        let old = self.services.load();
        let mut fresh = Vec::new();
        for stored in api.store.list(STORAGE, None).1 {
            let value = stored.value();
            let spec = &value["spec"];
            if !spec["service"].is_object() {
                continue;
            }
            if let Some(known) = old.iter().find(|s| *s.object_name == *stored.name && s.spec == *spec) {
                fresh.push(known.clone());
                continue;
            }
            let tls = if is_trust_known(spec) {
                client(api, spec).map_err(|e| {
                    tracing::warn!(name = &*stored.name, "APIService: spec.caBundle: {e}");
                    format!("spec.caBundle holds no usable certificate: {e}")
                })
            } else {
                Err("spec.caBundle is not set yet, so that the server cannot be trusted".to_owned())
            };
            fresh.push(Remote {
                object_name: stored.name.to_string(),
                group: str_at(spec, "/group").to_owned(),
                version: str_at(spec, "/version").to_owned(),
                available: false,
                resources: Vec::new(),
                service: (
                    str_at(spec, "/service/namespace").to_owned(),
                    str_at(spec, "/service/name").to_owned(),
                ),
                port: spec["service"]["port"].clone(),
                tls,
                spec: spec.clone(),
            });
        }
        self.services.store(Arc::new(fresh));
    }

    /// Notes what a check has found; false when what was checked is not what is stored any more.
    fn note(&self, checked: &Remote, available: bool, resources: Option<Vec<Value>>) -> bool {
        let _pass = self.pass.lock();
        let mut all = self.services.load().as_ref().clone();
        let same = |s: &&mut Remote| s.object_name == checked.object_name && s.spec == checked.spec;
        let Some(s) = all.iter_mut().find(same) else {
            return false;
        };
        s.available = available;
        if let Some(r) = resources {
            s.resources = r;
        }
        self.services.store(Arc::new(all));
        true
    }
}

/// Servers that make their own certificate write it here once they run; until then there is nothing to complain about.
fn is_trust_known(spec: &Value) -> bool {
    spec["insecureSkipTLSVerify"] == json!(true) || !str_at(spec, "/caBundle").is_empty()
}

fn client(api: &Api, spec: &Value) -> std::result::Result<Arc<ClientConfig>, TlsError> {
    let trust = if spec["insecureSkipTLSVerify"] == json!(true) {
        Trust::Anyone
    } else {
        let pem = base64::engine::general_purpose::STANDARD
            .decode(str_at(spec, "/caBundle"))
            .map_err(|e| TlsError::Bundle(e.to_string()))?;
        Trust::Bundle(pem)
    };
    upstream::client(&trust, Some((&api.pki, "front-proxy-client")))
}

/// Why a service cannot be reached: condition reason and message.
struct Unreachable(&'static str, String);

/// A ready endpoint of a service's port. `port`: number or name in the service.
pub fn resolve(
    store: &Store,
    namespace: &str,
    name: &str,
    port: &Value,
) -> std::result::Result<SocketAddr, (&'static str, String)> {
    let at = format!("{namespace:?}/{name:?}");
    let Some(service) = store.get("services", namespace, name) else {
        return Err((
            "ServiceNotFound",
            format!("service/{name} in {namespace:?} is not present"),
        ));
    };
    let service = service.value();
    let ports = items(&service, "/spec/ports");
    let matches = |p: &&Value| match port {
        Value::Null => true,
        Value::String(s) => str_at(p, "/name") == s || p["port"].as_u64() == s.parse().ok(),
        n => &p["port"] == n,
    };
    let Some(port) = ports.iter().find(matches) else {
        return Err((
            "ServicePortError",
            format!("service/{name} in {namespace:?} is not listening on port {port}"),
        ));
    };
    let port_name = str_at(port, "/name");
    let mut found = Vec::new();
    for slice in store.list(SLICES, Some(namespace)).1 {
        if slice.label("kubernetes.io/service-name") != Some(name) || slice.deleting {
            continue;
        }
        let slice = slice.value();
        let number = items(&slice, "/ports")
            .iter()
            .find(|p| str_at(p, "/name") == port_name)
            .and_then(|p| p["port"].as_u64())
            .and_then(|n| u16::try_from(n).ok());
        let Some(number) = number else { continue };
        for endpoint in items(&slice, "/endpoints") {
            if endpoint["conditions"]["ready"] == json!(false) {
                continue;
            }
            let address = endpoint["addresses"][0].as_str().and_then(|a| a.parse().ok());
            found.extend(address.map(|ip| SocketAddr::new(ip, number)));
        }
    }
    let mut seed = [0u8; 1];
    object::random(&mut seed);
    let pick = usize::from(seed[0]).checked_rem(found.len());
    pick.map(|i| found[i]).ok_or((
        "MissingEndpoints",
        format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?} ({at})"),
    ))
}

fn destination(api: &Api, remote: &Remote) -> std::result::Result<Destination, Unreachable> {
    let (namespace, name) = &remote.service;
    let address = resolve(&api.store, namespace, name, &remote.port).map_err(|(r, m)| Unreachable(r, m))?;
    let tls = remote.tls.clone().map_err(|m| Unreachable("FailedDiscoveryCheck", m))?;
    let host = format!("{name}.{namespace}.svc");
    Ok(Destination {
        address,
        tls: Some((tls, host.clone())),
        host,
    })
}

/// Passes a request on to the server of its group version.
pub async fn forward(api: &Api, remote: &Remote, user: &User, request: Request<Incoming>) -> Result<Response<Body>> {
    let unavailable = || ApiError::unavailable("service unavailable");
    let to = destination(api, remote).map_err(|Unreachable(_, message)| {
        tracing::debug!(name = remote.object_name, message, "APIService is not reachable");
        unavailable()
    })?;
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let sent = upstream::forward(&to, request, &path, |headers| identify(headers, user)).await;
    sent.inspect_err(|e| tracing::debug!(name = remote.object_name, "APIService: {e}"))
}

/// The headers by which a front proxy says for whom it speaks; whatever the client sent of them is dropped.
fn identify(headers: &mut HeaderMap, user: &User) {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("x-remote-") || k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
    headers.remove(http::header::AUTHORIZATION);
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        for value in values {
            add(&format!("x-remote-extra-{key}"), value);
        }
    }
}

/// The last check of a server.
struct Checked {
    /// What was checked.
    spec: Value,
    /// The state of services and endpoints before.
    mark: u64,
    /// When it is to be checked again.
    next: Instant,
}

impl Checked {
    /// Services and endpoints decide whether a server can be reached: their change is a reason to look again.
    fn is_old(&self, remote: &Remote, mark: u64, now: Instant) -> bool {
        self.spec != remote.spec || now >= self.next || (self.mark != mark && !remote.available)
    }
}

/// Checks the aggregated servers until shutdown, each for itself: one that hangs holds up nobody else.
pub async fn run(api: Arc<Api>) {
    let mut changes = api.store.subscribe();
    let mut last: BTreeMap<String, Checked> = BTreeMap::new();
    let mut checks = JoinSet::new();
    let mut under_way: HashMap<Id, String> = HashMap::new();
    loop {
        changes.borrow_and_update();
        let mark = api.store.mark(SLICES).max(api.store.mark("services"));
        let services = api.aggregator.services();
        last.retain(|name, _| services.iter().any(|s| s.object_name == *name));
        for remote in services {
            let name = remote.object_name.clone();
            let old = last.get(&name).is_none_or(|l| l.is_old(&remote, mark, Instant::now()));
            if !old || under_way.values().any(|checked| *checked == name) {
                continue;
            }
            let api = Arc::clone(&api);
            let task = checks.spawn(async move {
                let available = check(&api, &remote).await;
                let wait = if available { CHECK_AVAILABLE } else { CHECK_UNAVAILABLE };
                let next = Instant::now() + wait;
                Checked {
                    spec: remote.spec,
                    mark,
                    next,
                }
            });
            under_way.insert(task.id(), name);
        }
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            () = tokio::time::sleep(CHECK_UNAVAILABLE) => {}
            Some(done) = checks.join_next_with_id() => match done {
                Ok((id, checked)) => drop(under_way.remove(&id).map(|name| last.insert(name, checked))),
                Err(error) => {
                    let name = under_way.remove(&error.id());
                    tracing::error!(?name, %error, "check of an APIService");
                }
            },
            _ = changes.changed() => {
                // Let a burst of changes pass.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Asks one server for its resources and writes the Available condition.
async fn check(api: &Api, remote: &Remote) -> bool {
    let (available, resources, reason, message) = match discover(api, remote).await {
        Ok(resources) => (true, Some(resources), "Passed", "all checks passed".to_owned()),
        Err(Unreachable(reason, message)) => (false, None, reason, message),
    };
    if api.aggregator.note(remote, available, resources) {
        set_condition(api, &remote.object_name, available, reason, &message);
    }
    available
}

async fn discover(api: &Api, remote: &Remote) -> std::result::Result<Vec<Value>, Unreachable> {
    let to = destination(api, remote)?;
    let failed = |message: String| Unreachable("FailedDiscoveryCheck", message);
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{}{path}", to.address);
    let mut headers = HeaderMap::new();
    let checker = User {
        name: "system:kube-aggregator".to_owned(),
        uid: String::new(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        extra: Default::default(),
    };
    identify(&mut headers, &checker);
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    let answer = tokio::time::timeout(
        CHECK_TIMEOUT,
        upstream::fetch(&to, &path, headers.clone(), DISCOVERY_BYTES_MAX),
    )
    .await
    .map_err(|_| failed(format!("failing or missing response from {url}: timed out")))?
    .map_err(|e| failed(format!("failing or missing response from {url}: {e}")))?;
    let (status, body) = answer;
    if !status.is_success() {
        return Err(failed(format!(
            "failing or missing response from {url}: bad status from {url}: {}",
            status.as_u16()
        )));
    }
    let list: Value = serde_json::from_slice(&body)
        .map_err(|e| failed(format!("failing or missing response from {url}: not JSON: {e}")))?;
    let mut resources = items(&list, "/resources").to_vec();
    headers.insert(http::header::ACCEPT, HeaderValue::from_static(AGGREGATED_DISCOVERY));
    let answer = tokio::time::timeout(
        CHECK_TIMEOUT,
        upstream::fetch(&to, "/apis", headers, DISCOVERY_BYTES_MAX),
    )
    .await;
    if let Ok(Ok((status, body))) = answer
        && status.is_success()
        && let Ok(groups) = serde_json::from_slice::<Value>(&body)
    {
        take_kinds(&mut resources, &groups, &remote.group, &remote.version);
    }
    Ok(resources)
}

/// Where a server offers aggregated discovery, as Kubernetes it is that one which says the kinds of its resources.
fn take_kinds(resources: &mut [Value], groups: &Value, group: &str, version: &str) {
    let groups = items(groups, "/items")
        .iter()
        .filter(|g| g["metadata"]["name"] == group);
    let versions = groups
        .flat_map(|g| items(g, "/versions"))
        .filter(|v| v["version"] == version);
    for told in versions.flat_map(|v| items(v, "/resources")) {
        if let Some(kind) = told["responseKind"]["kind"].as_str()
            && let Some(resource) = resources.iter_mut().find(|r| r["name"] == told["resource"])
        {
            resource["kind"] = kind.into();
        }
    }
}

fn set_condition(api: &Api, name: &str, available: bool, reason: &str, message: &str) {
    let Some(stored) = api.store.get(STORAGE, "", name) else {
        return;
    };
    let mut value = stored.value();
    let status = if available { "True" } else { "False" };
    let mut conditions = items(&value, "/status/conditions").to_vec();
    let old = conditions.iter().position(|c| str_at(c, "/type") == "Available");
    let mut since = object::now();
    if let Some(i) = old {
        let c = &conditions[i];
        if str_at(c, "/status") == status && str_at(c, "/reason") == reason && str_at(c, "/message") == message {
            return;
        }
        if str_at(c, "/status") == status {
            since = str_at(c, "/lastTransitionTime").to_owned();
        }
        conditions.remove(i);
    }
    conditions.push(json!({"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since}));
    object::map_at(&mut value, "status").insert("conditions".into(), Value::Array(conditions));
    // Someone else's change is seen by the next check.
    if let Err(e) = api.store.update(STORAGE, value, stored.version) {
        tracing::debug!(name, "APIService status: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(bundle: &str, available: bool) -> Remote {
        Remote {
            object_name: "v1.a.example.com".into(),
            group: "a.example.com".into(),
            version: "v1".into(),
            available,
            resources: Vec::new(),
            service: ("default".into(), "a".into()),
            port: json!(443),
            tls: Err("not needed".into()),
            spec: json!({"caBundle": bundle}),
        }
    }

    #[test]
    fn another_spec_is_checked_at_once_and_the_check_of_the_one_before_counts_no_more() {
        let now = Instant::now();
        let checked = Checked {
            spec: json!({"caBundle": "old"}),
            mark: 1,
            next: now + CHECK_AVAILABLE,
        };
        assert!(!checked.is_old(&remote("old", true), 1, now));
        assert!(!checked.is_old(&remote("old", true), 2, now));
        assert!(checked.is_old(&remote("old", false), 2, now), "it may be reached now");
        assert!(checked.is_old(&remote("new", false), 1, now));
        assert!(checked.is_old(&remote("old", true), 1, now + CHECK_AVAILABLE));

        let aggregator = Aggregator::new();
        aggregator.services.store(Arc::new(vec![remote("new", false)]));
        assert!(!aggregator.note(&remote("old", false), true, Some(vec![json!({"name": "things"})])));
        let is = || aggregator.find("a.example.com", "v1").unwrap();
        assert!(!is().available && is().resources.is_empty());
        assert!(aggregator.note(&remote("new", false), true, Some(vec![json!({"name": "things"})])));
        assert!(is().available && is().resources.len() == 1);
    }
}
