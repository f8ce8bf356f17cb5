//! The wire: queries in, answers out, over UDP and TCP, with limits on how many at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::forward;
use super::zone::{Answer, Zone};

/// Queries that wait for a resolver; more are refused at once.
const FORWARDED_MAX: usize = 256;
const STREAMS_MAX: usize = 128;
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What certainly travels in one packet.
const UDP_BYTES_MAX: u16 = 1232;
const QUERY_BYTES_MAX: usize = 4096;

/// Answers queries; shared by all addresses.
pub struct Answers {
    zone: Arc<ArcSwapOption<Zone>>,
    upstreams: Vec<SocketAddr>,
    forwarding: Arc<Semaphore>,
    /// Turns the order of addresses from answer to answer, so that clients that take the first one spread.
    turn: AtomicUsize,
}

/// What is to be done with a query.
enum Next {
    Reply(Vec<u8>),
    /// The zone does not know the name, or knows only that it is an alias.
    Forward {
        query: Vec<u8>,
        partial: Box<Message>,
    },
    Drop,
}

impl Answers {
    pub fn new(zone: Arc<ArcSwapOption<Zone>>, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            zone,
            upstreams,
            forwarding: Arc::new(Semaphore::new(FORWARDED_MAX)),
            turn: AtomicUsize::new(0),
        }
    }

    fn consider(&self, bytes: &[u8], limit: Option<u16>) -> Next {
        let Ok(query) = Message::from_vec(bytes) else {
            // Not even a header: nothing to answer to.
            let Some(id) = bytes
                .get(..2)
                .and_then(|id| id.try_into().ok())
                .filter(|_| bytes.len() >= 12)
            else {
                return Next::Drop;
            };
            let error = Message::error_msg(u16::from_be_bytes(id), OpCode::Query, ResponseCode::FormErr);
            return reply(&error, limit);
        };
        if query.metadata.message_type == MessageType::Response {
            return Next::Drop;
        }
        let limit = limit.map(|limit| limit.min(query.max_payload()));
        let mut response = respond_to(&query);
        let mut fail = |code: ResponseCode| {
            response.metadata.response_code = code;
            reply(&response, limit)
        };
        if query.metadata.op_code != OpCode::Query {
            return fail(ResponseCode::NotImp);
        }
        let [question] = &query.queries[..] else {
            return fail(ResponseCode::FormErr);
        };
        if query.version() > 0 {
            return fail(ResponseCode::BADVERS);
        }
        if question.query_class() != DNSClass::IN {
            return fail(ResponseCode::Refused);
        }
        let zone = self.zone.load();
        let Some(zone) = zone.as_ref() else {
            return fail(ResponseCode::ServFail);
        };
        match zone.answer(question.name(), question.query_type()) {
            Some(answer) => {
                let continues = answer.continues.clone();
                self.fill(&mut response, answer);
                match continues.map(|target| continuation(&query, target, question.query_type())) {
                    Some(Ok(query)) if !self.upstreams.is_empty() => Next::Forward {
                        query,
                        partial: Box::new(response),
                    },
                    _ => reply(&response, limit),
                }
            }
            None if self.upstreams.is_empty() => fail(ResponseCode::Refused),
            None => Next::Forward {
                query: bytes.to_vec(),
                partial: Box::new(response),
            },
        }
    }

    fn fill(&self, response: &mut Message, answer: Answer) {
        response.metadata.authoritative = true;
        response.metadata.response_code = answer.code;
        response.answers = answer.answers;
        if response.answers.len() > 1 && response.answers.iter().all(|r| r.record_type() == RecordType::A) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % response.answers.len();
            response.answers.rotate_left(turn);
        }
        response.authorities.extend(answer.soa);
    }

    /// Asks the resolvers; the answer is theirs, or completes a partial one of ours.
    async fn forward(&self, query: Vec<u8>, mut partial: Box<Message>, limit: Option<u16>) -> Option<Vec<u8>> {
        let asked = async {
            let _permit = self.forwarding.try_acquire().ok()?;
            forward::ask(&self.upstreams, &query, limit.is_none()).await
        };
        let answer = asked.await;
        if partial.answers.is_empty() {
            if answer.is_some() {
                return answer;
            }
            partial.metadata.response_code = ResponseCode::ServFail;
        } else if let Some(Ok(rest)) = answer.as_deref().map(Message::from_vec) {
            partial.answers.extend(rest.answers);
        }
        match reply(&partial, limit) {
            Next::Reply(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn respond_to(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata = Metadata::response_from_request(&query.metadata);
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        response.set_edns(edns);
    }
    response
}

/// The same question about the name that an alias stands for.
fn continuation(query: &Message, target: Name, type_: RecordType) -> Result<Vec<u8>, hickory_proto::ProtoError> {
    let mut next = Message::new(query.metadata.id, MessageType::Query, OpCode::Query);
    next.metadata.recursion_desired = true;
    next.add_query(Query::query(target, type_));
    next.to_vec()
}

/// Encodes; what is over the limit goes without records, and the client comes again over TCP.
fn reply(response: &Message, limit: Option<u16>) -> Next {
    let bytes = match response.to_vec() {
        Ok(bytes) if limit.is_some_and(|limit| bytes.len() > usize::from(limit)) => response.truncate().to_vec(),
        other => other,
    };
    match bytes {
        Ok(bytes) => Next::Reply(bytes),
        Err(error) => {
            tracing::debug!(%error, "an answer could not be encoded");
            Next::Drop
        }
    }
}

/// The two sockets of an address.
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// The addresses in use: UDP and TCP.
    #[cfg(test)]
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.udp.local_addr()?, self.tcp.local_addr()?))
    }
}

pub async fn bind(address: SocketAddr) -> io::Result<Sockets> {
    Ok(Sockets {
        udp: UdpSocket::bind(address).await?,
        tcp: TcpListener::bind(address).await?,
    })
}

pub async fn serve(sockets: Sockets, answers: Arc<Answers>) {
    tokio::join!(
        serve_udp(Arc::new(sockets.udp), answers.clone()),
        serve_tcp(sockets.tcp, answers)
    );
}

async fn serve_udp(socket: Arc<UdpSocket>, answers: Arc<Answers>) {
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    let limit = Some(UDP_BYTES_MAX);
    loop {
        // An error here is the echo of an earlier answer that nobody wanted.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        match answers.consider(buffer.get(..length).unwrap_or_default(), limit) {
            Next::Drop => {}
            Next::Reply(bytes) => {
                let _ = socket.send_to(&bytes, peer).await;
            }
            Next::Forward { query, partial } => {
                // Bounded: without a permit the task ends at once.
                let (socket, answers) = (socket.clone(), answers.clone());
                tokio::spawn(async move {
                    if let Some(bytes) = answers.forward(query, partial, limit).await {
                        let _ = socket.send_to(&bytes, peer).await;
                    }
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, answers: Arc<Answers>) {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    loop {
        let Ok(permit) = streams.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    // How a client ends its stream is its business.
                    let _ = serve_stream(stream, &answers).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve_stream(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    loop {
        let query = tokio::time::timeout(STREAM_IDLE_TIMEOUT, async {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        });
        let query = query.await??;
        let bytes = match answers.consider(&query, None) {
            Next::Drop => return Ok(()),
            Next::Reply(bytes) => bytes,
            Next::Forward { query, partial } => match answers.forward(query, partial, None).await {
                Some(bytes) => bytes,
                None => return Ok(()),
            },
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(STREAM_IDLE_TIMEOUT, stream.write_all(&message)).await??;
    }
}
