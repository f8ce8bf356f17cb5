//! Joins sockets, protocol and consumer: one stream at a time, again and again.
//!
//! Enters: [`Config`], a [`Consumer`], wake-ups. Leaves: calls to the consumer. A lost control plane is nothing but a
//! wait: back-off 10 ms .. 15 s, doubled each time, reset by a stream that brought a response.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::connect::{Error, authorization, channel};
use super::{Config, Consumer, Known, Rejected, SUBSCRIBED, Session, Update, World};
use crate::ResourceType;

const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(15);
/// Requests that wait for the network.
const REQUESTS_QUEUED_MAX: usize = 64;
/// A response larger than this is refused by the transport.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// A control plane that does not take a request within this time is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

/// Fetches resources until dropped. `known` is what the consumer already holds; `wake` says that the names it wants may
/// have changed.
pub async fn run(config: Config, consumer: &mut impl Consumer, known: Known, wake: &Notify) {
    let mut protocol = if config.state_of_the_world {
        Protocol::World(World::new(config.node.clone(), known))
    } else {
        Protocol::Delta(Session::new(config.node.clone(), known))
    };
    let mut wait = BACK_OFF_MIN;
    loop {
        let mut responses = 0u64;
        let end = stream(&config, &mut protocol, consumer, wake, &mut responses).await;
        consumer.connected(false);
        if responses > 0 {
            wait = BACK_OFF_MIN;
        }
        match end {
            Ok(()) => tracing::info!(target = config.target, "the control plane closed the stream"),
            Err(error) => tracing::warn!(target = config.target, %error, "no control plane"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACK_OFF_MAX);
    }
}

enum Protocol {
    Delta(Session),
    World(World),
}

/// One stream, from its opening to its end.
async fn stream(
    config: &Config,
    protocol: &mut Protocol,
    consumer: &mut impl Consumer,
    wake: &Notify,
    responses: &mut u64,
) -> Result<(), Error> {
    let channel = channel(config).await?;
    let client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    match protocol {
        Protocol::Delta(session) => delta(config, client, session, consumer, wake, responses).await,
        Protocol::World(world) => whole(config, client, world, consumer, wake, responses).await,
    }
}

fn request<T>(config: &Config, outgoing: mpsc::Receiver<T>) -> Result<tonic::Request<ReceiverStream<T>>, Error> {
    let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = &config.token {
        let (key, value) = authorization(token)?;
        request.metadata_mut().insert(key, value);
    }
    Ok(request)
}

async fn send<T>(outgoing: &mpsc::Sender<T>, request: T) -> Result<(), Error> {
    outgoing
        .send_timeout(request, SEND_TIMEOUT)
        .await
        .map_err(|_| Error::Refused(tonic::Status::unavailable("the control plane takes no requests")))
}

macro_rules! stream {
    ($name:ident, $session:ty, $request:ty, $response:ty, $call:ident) => {
        async fn $name(
            config: &Config,
            mut client: AggregatedDiscoveryServiceClient<Channel>,
            session: &mut $session,
            consumer: &mut impl Consumer,
            wake: &Notify,
            responses: &mut u64,
        ) -> Result<(), Error> {
            let (outgoing, queue) = mpsc::channel::<$request>(REQUESTS_QUEUED_MAX);
            // Sent before the call: some servers answer the headers only after the first request.
            for request in session.start(|ty| consumer.wanted(ty)) {
                send(&outgoing, request).await?;
            }
            let mut incoming: Streaming<$response> = client
                .$call(request(config, queue)?)
                .await
                .map_err(Error::Refused)?
                .into_inner();
            consumer.connected(true);
            loop {
                tokio::select! {
                    message = incoming.message() => {
                        let Some(response) = message.map_err(Error::Refused)? else { return Ok(()) };
                        *responses += 1;
                        match session.receive(response) {
                            Err(nack) => send(&outgoing, *nack).await?,
                            Ok(update) => {
                                let rejected = apply(consumer, &update);
                                let answer = session.answer(&update, &rejected);
                                send(&outgoing, answer).await?;
                            }
                        }
                    }
                    () = wake.notified() => {}
                }
                for ty in SUBSCRIBED.into_iter().filter(|ty| !ty.is_full_state()) {
                    if let Some(request) = session.subscribe(ty, consumer.wanted(ty)) {
                        send(&outgoing, request).await?;
                    }
                }
            }
        }
    };
}

stream!(
    delta,
    Session,
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    delta_aggregated_resources
);
stream!(
    whole,
    World,
    DiscoveryRequest,
    DiscoveryResponse,
    stream_aggregated_resources
);

fn apply(consumer: &mut impl Consumer, update: &Update) -> Vec<Rejected> {
    let rejected = consumer.apply(update);
    let (changed, removed) = (update.changed.len(), update.removed.len());
    tracing::debug!(ty = %update.ty, changed, removed, rejected = rejected.len(), "update");
    for Rejected { name, message } in &rejected {
        tracing::warn!(ty = %update.ty, resource = name, message, "rejected; its last good state stays");
    }
    rejected
}

const _: () = assert!(SUBSCRIBED.len() == ResourceType::ALL.len());
