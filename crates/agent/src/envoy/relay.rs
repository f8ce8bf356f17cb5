//! Envoy's configuration: its stream goes through to the control plane, and what Envoy accepts is kept on the way. While
//! the control plane is away, a starting Envoy gets what was kept.
//!
//! A stream is relayed or answered from what was kept, from its beginning to its end; it never changes in between.
//! Instead it is ended, and Envoy, which keeps its configuration meanwhile, opens the next one within a second.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::bootstrap::Control;
use super::cache::Cache;
use super::destinations::references;
use super::upstream;

/// Responses on their way to Envoy.
const QUEUE: usize = 64;
/// A control plane that says nothing to a fresh Envoy within this time does not know enough itself yet.
const FIRST_RESPONSE: Duration = Duration::from_secs(3);
/// How often it is tried again while Envoy lives on what was kept.
const RETRY: Duration = Duration::from_millis(500);
/// Changes within this time are written to disk together.
const WRITE_DELAY: Duration = Duration::from_millis(200);

/// Type of listeners.
pub(super) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type of clusters.
pub(super) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type of endpoints.
pub(super) const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Type of routes.
pub(super) const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// Between Envoy and the control plane.
pub struct Relay {
    control: Option<Control>,
    cache: Mutex<Cache>,
    owed: Mutex<Owed>,
    /// Envoy has accepted its listeners since it was started.
    configured: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Relay {
    /// A relay to a control plane; without one Envoy has its static configuration only.
    pub fn new(control: Option<Control>, cache: Cache) -> Arc<Self> {
        let configured = AtomicBool::new(control.is_none());
        Arc::new(Self {
            control,
            cache: Mutex::new(cache),
            owed: Mutex::default(),
            configured,
            changes: watch::channel(0).0,
        })
    }

    /// Whether the Envoy that runs has accepted a whole configuration.
    pub fn configured(&self) -> bool {
        self.configured.load(Ordering::Relaxed)
    }

    /// Another Envoy starts, with nothing.
    pub fn fresh_envoy(&self) {
        self.configured.store(self.control.is_none(), Ordering::Relaxed);
        *self.owed() = Owed::default();
    }

    /// Wakes when Envoy has accepted something, or given something up.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The resources of a type that Envoy has: name and encoded body.
    pub fn accepted(&self, type_url: &str) -> Vec<(String, Vec<u8>)> {
        let body = |r: &Resource| Some((r.name.clone(), r.resource.as_ref()?.value.clone()));
        self.cache().of(type_url).filter_map(body).collect()
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Writes what was accepted to disk, a little after it changed. Never ends.
    pub async fn keep(&self) {
        let mut changes = self.changes();
        // The relay itself holds the sender.
        while changes.changed().await.is_ok() {
            tokio::time::sleep(WRITE_DELAY).await;
            let write = self.cache().unwritten();
            if let Some((path, bytes)) = write
                && let Err(error) = crate::supervise::write(&path, &bytes)
            {
                tracing::warn!(path = %path.display(), %error, "configuration not kept");
            }
        }
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Envoy asks next.
    async fn request(&self, envoy: &mut Envoy) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        let mut request = envoy.requests.message().await?;
        if let Some(request) = &mut request {
            self.owed().reclaim(request);
        }
        Ok(request)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stream of Envoy's.
    async fn session(&self, mut envoy: Envoy) -> Result<(), Status> {
        let Some(control) = &self.control else {
            return Err(Status::unimplemented("static configuration only"));
        };
        let Some(first) = self.request(&mut envoy).await? else {
            return Ok(());
        };
        let fresh = first.initial_resource_versions.is_empty() && !self.cache().is_empty();
        let (mut claims, mut opening) = (Claims::default(), first.clone());
        claims.add(&self.cache(), &mut opening);
        let seen = match upstream::open(control, opening).await {
            Ok(stream) => {
                let silent = fresh.then(|| vec![first]);
                let Some(seen) = self.pass(&mut envoy, stream, silent, claims).await? else {
                    return Ok(());
                };
                seen
            }
            Err(error) => {
                tracing::warn!(%error, "the control plane is away; Envoy goes on with what it has");
                vec![first]
            }
        };
        self.answer(control, &mut envoy, seen).await
    }

    /// Passes messages both ways. `silent`: what a fresh Envoy has asked so far; `Some` when the control plane has said
    /// nothing to it: what it was asked.
    async fn pass(
        &self,
        envoy: &mut Envoy,
        mut stream: upstream::Stream,
        mut silent: Option<Vec<DeltaDiscoveryRequest>>,
        mut claims: Claims,
    ) -> Result<Option<Vec<DeltaDiscoveryRequest>>, Status> {
        let mut pending = HashMap::new();
        let patience = tokio::time::sleep(FIRST_RESPONSE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                request = self.request(envoy) => {
                    let Some(mut request) = request? else { return Ok(None) };
                    self.acknowledge(&mut pending, &claims, &request);
                    if let Some(seen) = &mut silent {
                        seen.push(request.clone());
                    }
                    claims.add(&self.cache(), &mut request);
                    stream.requests.send(request).await.map_err(|_| Status::unavailable("the control plane has gone"))?;
                }
                response = stream.responses.message() => {
                    let Some(response) = response? else {
                        return Err(Status::unavailable("the control plane has ended the stream"));
                    };
                    silent = None;
                    pending.insert(response.nonce.clone(), response.clone());
                    self.owed().passed(&response);
                    if envoy.responses.send(Ok(response)).await.is_err() {
                        return Ok(None);
                    }
                }
                () = &mut patience, if silent.is_some() => return Ok(silent),
            }
        }
    }

    /// Keeps what Envoy has accepted.
    fn acknowledge(
        &self,
        pending: &mut HashMap<String, DeltaDiscoveryResponse>,
        claims: &Claims,
        request: &DeltaDiscoveryRequest,
    ) {
        if !request.resource_names_unsubscribe.is_empty() {
            self.cache()
                .forget(&request.type_url, &request.resource_names_unsubscribe);
            self.changed();
        }
        let Some(response) = pending.remove(&request.response_nonce) else {
            return;
        };
        match &request.error_detail {
            Some(error) => tracing::warn!(type_url = request.type_url, "Envoy rejects: {}", error.message),
            None => {
                self.cache().apply(&response);
                if claims.removed(&response) {
                    self.forget_unreferenced();
                }
                self.changed();
                if response.type_url == LISTENER {
                    self.configured.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Of what was kept, an Envoy that never asked for it gives nothing up.
    fn forget_unreferenced(&self) {
        let (endpoints, routes) = references(&self.accepted(CLUSTER), &self.accepted(LISTENER));
        let mut cache = self.cache();
        for (type_url, referenced) in [(ENDPOINTS, endpoints), (ROUTES, routes)] {
            let names = cache.of(type_url).map(|r| r.name.clone());
            let names: Vec<String> = names.filter(|name| !referenced.contains(name)).collect();
            cache.forget(type_url, &names);
        }
    }

    /// Answers from what was kept until the control plane is back.
    async fn answer(
        &self,
        control: &Control,
        envoy: &mut Envoy,
        requests: Vec<DeltaDiscoveryRequest>,
    ) -> Result<(), Status> {
        let mut kept = Kept::default();
        let node = requests.first().and_then(|r| r.node.clone());
        for request in requests {
            kept.send(self, envoy, &request).await?;
        }
        let probe = DeltaDiscoveryRequest {
            node,
            type_url: CLUSTER.to_owned(),
            ..Default::default()
        };
        let back = async {
            loop {
                tokio::time::sleep(RETRY).await;
                if speaks(control, probe.clone()).await {
                    return;
                }
            }
        };
        tokio::pin!(back);
        loop {
            tokio::select! {
                request = self.request(envoy) => match request? {
                    Some(request) => kept.send(self, envoy, &request).await?,
                    None => return Ok(()),
                },
                () = &mut back => {
                    tracing::info!("the control plane is back");
                    return Err(Status::unavailable("the control plane is back"));
                }
            }
        }
    }
}

/// Whether the control plane answers a node that knows nothing.
async fn speaks(control: &Control, probe: DeltaDiscoveryRequest) -> bool {
    let Ok(mut stream) = upstream::open(control, probe).await else {
        return false;
    };
    matches!(
        tokio::time::timeout(FIRST_RESPONSE, stream.responses.message()).await,
        Ok(Ok(Some(_)))
    )
}

/// Envoy's end of a stream.
struct Envoy {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Clusters that were sent to Envoy and whose endpoints were not sent since. Envoy takes such a cluster into use when they come;
/// on a new stream it says that it has them, from before, and would wait for nothing.
#[derive(Debug, Default)]
struct Owed(HashSet<String>);

impl Owed {
    /// Notes what is on its way to Envoy.
    fn passed(&mut self, response: &DeltaDiscoveryResponse) {
        let names = response.resources.iter().map(|r| &r.name);
        match response.type_url.as_str() {
            CLUSTER => {
                self.0.extend(names.cloned());
                self.forget(response.removed_resources.iter());
            }
            ENDPOINTS => self.forget(names),
            _ => {}
        }
    }

    fn forget<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.0.remove(name);
        }
    }

    /// Takes back what Envoy says of endpoints that it waits for.
    fn reclaim(&self, request: &mut DeltaDiscoveryRequest) {
        if request.type_url == ENDPOINTS {
            request
                .initial_resource_versions
                .retain(|name, _| !self.0.contains(name));
        }
    }
}

/// What was kept from before an Envoy that has nothing yet. The control plane names what exists no more only to who says
/// that he has it: so it is said in the name of such an Envoy, which passes over the removal of what it never had.
#[derive(Debug, Default)]
struct Claims(HashMap<String, HashSet<String>>);

impl Claims {
    /// Adds what was kept of a type to the first request for all of it.
    fn add(&mut self, cache: &Cache, request: &mut DeltaDiscoveryRequest) {
        if !matches!(request.type_url.as_str(), CLUSTER | LISTENER) || self.0.contains_key(&request.type_url) {
            return;
        }
        let claimed = self.0.entry(request.type_url.clone()).or_default();
        let names = &request.resource_names_subscribe;
        let everything = names.is_empty() || names.iter().any(|name| name == "*");
        if everything && request.initial_resource_versions.is_empty() {
            claimed.extend(cache.of(&request.type_url).map(|r| r.name.clone()));
            // A version that nothing has: what exists is sent.
            let versions = claimed.iter().map(|name| (name.clone(), String::new()));
            request.initial_resource_versions = versions.collect();
        }
    }

    /// Whether a response takes something of it away.
    fn removed(&self, response: &DeltaDiscoveryResponse) -> bool {
        let claimed = self.0.get(&response.type_url);
        claimed.is_some_and(|claimed| response.removed_resources.iter().any(|name| claimed.contains(name)))
    }
}

/// A stream that is answered from what was kept.
#[derive(Default)]
struct Kept {
    /// Types that were asked for, and the versions that Envoy has of each resource.
    held: HashMap<String, HashMap<String, String>>,
    nonce: u64,
}

impl Kept {
    async fn send(&mut self, relay: &Relay, envoy: &Envoy, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if request.type_url == LISTENER && !request.response_nonce.is_empty() && request.error_detail.is_none() {
            relay.configured.store(true, Ordering::Relaxed);
        }
        let Some(response) = self.response(&relay.cache(), request) else {
            return Ok(());
        };
        envoy
            .responses
            .send(Ok(response))
            .await
            .map_err(|_| Status::cancelled("Envoy has gone"))
    }

    /// What a request is owed, if anything: resources that it asks for and does not have. Nothing is ever called
    /// removed, since what was kept may lack what the control plane has.
    fn response(&mut self, cache: &Cache, request: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        let first = !self.held.contains_key(&request.type_url);
        let held = self.held.entry(request.type_url.clone()).or_default();
        held.extend(request.initial_resource_versions.clone());
        let names: HashSet<&str> = request.resource_names_subscribe.iter().map(String::as_str).collect();
        // No names in the first request of a type, or an asterisk, ask for everything.
        let everything = first && names.is_empty() || names.contains("*");
        let wanted = |r: &&Resource| everything || names.contains(r.name.as_str());
        let missing = |r: &&Resource| held.get(&r.name) != Some(&r.version);
        let resources: Vec<Resource> = cache
            .of(&request.type_url)
            .filter(wanted)
            .filter(missing)
            .cloned()
            .collect();
        if resources.is_empty() {
            return None;
        }
        held.extend(resources.iter().map(|r| (r.name.clone(), r.version.clone())));
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            type_url: request.type_url.clone(),
            resources,
            nonce: format!("kept-{}", self.nonce),
            system_version_info: "kept".to_owned(),
            ..Default::default()
        })
    }
}

/// The service that Envoy calls.
pub struct Service(pub Arc<Relay>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "the Envoy of this supervisor is configured to use the delta protocol",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, stream) = mpsc::channel(QUEUE);
        let relay = self.0.clone();
        let envoy = Envoy {
            requests: request.into_inner(),
            responses,
        };
        tokio::spawn(async move {
            let responses = envoy.responses.clone();
            if let Err(status) = relay.session(envoy).await {
                tracing::debug!(%status, "configuration stream ended");
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message as _;

    use super::*;

    fn cache() -> Cache {
        let mut cache = Cache::open("/nonexistent/xds.pb".into());
        let resource = |name: &str| Resource {
            name: name.to_owned(),
            version: "1".into(),
            resource: Some(Any::default()),
            ..Default::default()
        };
        let resources = vec![resource("a"), resource("b")];
        cache.apply(&DeltaDiscoveryResponse {
            type_url: ENDPOINTS.into(),
            resources,
            ..Default::default()
        });
        cache
    }

    fn ask(kept: &mut Kept, names: &[&str], held: &[(&str, &str)]) -> Vec<String> {
        let request = DeltaDiscoveryRequest {
            type_url: ENDPOINTS.into(),
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            initial_resource_versions: held.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        };
        let response = kept.response(&cache(), &request);
        response
            .map(|r| r.resources.into_iter().map(|r| r.name).collect())
            .unwrap_or_default()
    }

    /// A stream that ends between a cluster and its endpoints leaves Envoy waiting for these: they are sent on the next one.
    #[test]
    fn endpoints_of_a_cluster_that_waits_for_them_are_sent_again() {
        let resource = |name: &&str| Resource {
            name: (*name).to_owned(),
            ..Default::default()
        };
        let response = |type_url: &str, names: &[&str], removed: &[&str]| DeltaDiscoveryResponse {
            type_url: type_url.into(),
            resources: names.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let claimed = |owed: &Owed, type_url: &str| {
            let names = ["a", "b", "c"].map(|name| (name.to_owned(), "1".to_owned()));
            let mut request = DeltaDiscoveryRequest {
                type_url: type_url.into(),
                initial_resource_versions: names.into(),
                ..Default::default()
            };
            owed.reclaim(&mut request);
            let mut names: Vec<String> = request.initial_resource_versions.into_keys().collect();
            names.sort();
            names
        };
        let mut owed = Owed::default();
        owed.passed(&response(CLUSTER, &["a", "b", "d"], &[]));
        owed.passed(&response(ENDPOINTS, &["a"], &[]));
        assert_eq!(claimed(&owed, ENDPOINTS), ["a", "c"]);
        assert_eq!(claimed(&owed, CLUSTER), ["a", "b", "c"]);
        owed.passed(&response(CLUSTER, &["a"], &["b"]));
        assert_eq!(claimed(&owed, ENDPOINTS), ["b", "c"]);
    }

    /// While no Envoy ran, a Service was deleted: what was kept of it goes, though the next Envoy never heard of it.
    #[test]
    fn what_was_kept_and_exists_no_more_is_forgotten() {
        let body = |eds: &str| Cluster {
            eds_cluster_config: Some(EdsClusterConfig {
                service_name: eds.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let resource = |name: &str, value: Vec<u8>| Resource {
            name: name.to_owned(),
            version: "1".into(),
            resource: Some(Any {
                value,
                ..Default::default()
            }),
            ..Default::default()
        };
        let response = |type_url: &str, resources: Vec<Resource>, removed: &[&str]| DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            nonce: "n".to_owned(),
            ..Default::default()
        };
        let mut cache = Cache::open("/nonexistent/xds.pb".into());
        let clusters = [("a", "shared"), ("b", "shared"), ("c", ""), ("d", "")];
        let clusters = clusters.map(|(name, eds)| resource(name, body(eds).encode_to_vec()));
        cache.apply(&response(CLUSTER, clusters.into(), &[]));
        let endpoints = ["shared", "c", "d"].map(|name| resource(name, vec![]));
        cache.apply(&response(ENDPOINTS, endpoints.into(), &[]));
        let relay = Relay::new(None, cache);
        let names = |type_url| {
            relay
                .accepted(type_url)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };

        let first = DeltaDiscoveryRequest {
            type_url: CLUSTER.into(),
            ..Default::default()
        };
        let (mut claims, mut request) = (Claims::default(), first.clone());
        claims.add(&relay.cache(), &mut request);
        let mut claimed: Vec<(String, String)> = request.initial_resource_versions.into_iter().collect();
        claimed.sort();
        assert_eq!(
            claimed,
            ["a", "b", "c", "d"].map(|name| (name.to_owned(), String::new()))
        );
        let mut second = first.clone();
        claims.add(&relay.cache(), &mut second);
        assert_eq!(second, first, "only the first request says it");

        let answer = DeltaDiscoveryRequest {
            response_nonce: "n".into(),
            ..first
        };
        let taken = |claims: &Claims, response: DeltaDiscoveryResponse| {
            let mut pending = HashMap::from([("n".to_owned(), response)]);
            relay.acknowledge(&mut pending, claims, &answer);
        };
        taken(&claims, response(CLUSTER, vec![], &["b", "c"]));
        assert_eq!(names(CLUSTER), ["a", "d"]);
        assert_eq!(names(ENDPOINTS), ["d", "shared"]);
        // What Envoy itself has, it gives up by itself.
        let held = DeltaDiscoveryRequest {
            type_url: CLUSTER.into(),
            initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let (mut claims, mut request) = (Claims::default(), held.clone());
        claims.add(&relay.cache(), &mut request);
        assert_eq!(request, held);
        taken(&claims, response(CLUSTER, vec![], &["d"]));
        assert_eq!(names(ENDPOINTS), ["d", "shared"]);
    }

    #[test]
    fn kept_resources_go_out_once() {
        let mut kept = Kept::default();
        assert_eq!(ask(&mut kept, &[], &[("a", "1")]), ["b"]);
        assert!(ask(&mut kept, &[], &[]).is_empty());
        let mut kept = Kept::default();
        assert_eq!(ask(&mut kept, &["b", "unknown"], &[]), ["b"]);
        assert_eq!(ask(&mut kept, &["a"], &[]), ["a"]);
        assert!(ask(&mut kept, &["a"], &[]).is_empty());
        let mut kept = Kept::default();
        assert_eq!(ask(&mut kept, &[], &[("a", "0"), ("b", "0")]), ["a", "b"]);
    }
}
