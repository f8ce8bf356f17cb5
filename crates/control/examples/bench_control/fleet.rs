//! The simulated clients: each a task with a stream of its own, that asks as a proxy asks and acknowledges what comes.
//!
//! It subscribes to all clusters and listeners, then by name to the endpoints and routes of the clusters it got. Bodies
//! are not looked at. A client that loses its stream comes back and says what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use weir_xds::ResourceType;
use weir_xds::discovery::DeltaDiscoveryRequest;

use crate::Size;
use crate::cluster;
use crate::wire::{Connector, Light};

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A client that lost its stream waits this long.
const AGAIN: Duration = Duration::from_millis(200);

/// A response that a client took.
#[derive(Debug)]
pub struct Taken {
    pub client: usize,
    pub ty: ResourceType,
    /// Length of the message.
    pub bytes: usize,
    pub names: Vec<String>,
    pub removed: usize,
    /// When the acknowledgement was on its way.
    pub at: Instant,
}

/// The fleet: what its clients took, and what came on their sockets.
pub struct Fleet {
    pub taken: mpsc::UnboundedReceiver<Taken>,
    pub read: Arc<AtomicU64>,
    clients: tokio::task::JoinSet<()>,
}

impl Fleet {
    /// Starts all clients at once; the control plane may not be there yet.
    pub fn start(size: Size, address: &str, certificate: &str) -> Result<Self, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        let (report, taken) = mpsc::unbounded_channel();
        let connector = Connector::default();
        let read = Arc::clone(&connector.read);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..size.clients {
            let mut client = Client {
                number,
                node: cluster::node_id(size, number),
                known: BTreeMap::new(),
                report: report.clone(),
            };
            let (endpoint, connector) = (endpoint.clone(), connector.clone());
            clients.spawn(async move {
                loop {
                    // How a stream ended does not matter: figures that are missing tell.
                    let _ended = client.stream(&endpoint, connector.clone()).await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        Ok(Self { taken, read, clients })
    }

    /// What came on all sockets until now.
    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Ends all clients.
    pub async fn stop(mut self) {
        self.clients.shutdown().await;
    }
}

struct Client {
    number: usize,
    node: String,
    /// Name to version, by type.
    known: BTreeMap<ResourceType, BTreeMap<String, String>>,
    report: mpsc::UnboundedSender<Taken>,
}

impl Client {
    async fn stream(
        &mut self,
        endpoint: &Endpoint,
        connector: Connector,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let channel = endpoint.connect_with_connector(connector).await?;
        let (requests, queue) = mpsc::unbounded_channel();
        for (ty, by_name) in [
            (ResourceType::Cluster, None),
            (ResourceType::Endpoint, Some(ResourceType::Endpoint)),
            (ResourceType::Listener, None),
            (ResourceType::Route, Some(ResourceType::Route)),
        ] {
            let known = self.known.get(&ty).cloned().unwrap_or_default();
            if by_name.is_some() && known.is_empty() {
                continue;
            }
            requests.send(DeltaDiscoveryRequest {
                node: Some(Node {
                    id: self.node.clone(),
                    ..Default::default()
                }),
                type_url: ty.type_url().to_owned(),
                resource_names_subscribe: by_name.map(|_| known.keys().cloned().collect()).unwrap_or_default(),
                initial_resource_versions: known.into_iter().collect(),
                ..Default::default()
            })?;
        }
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let request = Request::new(UnboundedReceiverStream::new(queue));
        let mut responses = grpc
            .streaming(request, PathAndQuery::from_static(PATH), Light)
            .await?
            .into_inner();
        while let Some((bytes, response)) = responses.message().await? {
            let ty = ResourceType::from_type_url(&response.type_url).ok_or_else(|| Status::internal("unknown type"))?;
            requests.send(DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..Default::default()
            })?;
            let at = Instant::now();
            let names: Vec<String> = response.resources.iter().map(|r| r.name.clone()).collect();
            let known = self.known.entry(ty).or_default();
            known.extend(response.resources.into_iter().map(|r| (r.name, r.version)));
            for name in &response.removed {
                known.remove(name);
            }
            if ty == ResourceType::Cluster {
                self.follow(&names, &response.removed, &requests)?;
            }
            let removed = response.removed.len();
            self.report.send(Taken {
                client: self.number,
                ty,
                bytes,
                names,
                removed,
                at,
            })?;
        }
        Ok(())
    }

    /// Endpoints and routes of clusters that came or went.
    fn follow(
        &self,
        came: &[String],
        went: &[String],
        requests: &mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for ty in [ResourceType::Endpoint, ResourceType::Route] {
            let empty = BTreeMap::new();
            let known = self.known.get(&ty).unwrap_or(&empty);
            let balanced = |name: &&String| name.contains('|');
            let subscribe: BTreeSet<&String> = came
                .iter()
                .filter(balanced)
                .filter(|n| !known.contains_key(*n))
                .collect();
            let unsubscribe: Vec<String> = went.iter().filter(balanced).cloned().collect();
            if subscribe.is_empty() && unsubscribe.is_empty() {
                continue;
            }
            requests.send(DeltaDiscoveryRequest {
                type_url: ty.type_url().to_owned(),
                resource_names_subscribe: subscribe.into_iter().cloned().collect(),
                resource_names_unsubscribe: unsubscribe,
                ..Default::default()
            })?;
        }
        Ok(())
    }
}
