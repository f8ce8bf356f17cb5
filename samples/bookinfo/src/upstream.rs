//! A pooled HTTP/1.1 client for one service, as the shop's services call each other.
//!
//! Connections are used again, but not for ever: after a while or some requests they are renewed, so that callers
//! follow a service whose endpoints change.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const IDLE_MAX: usize = 16;
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(10);
const CONNECTION_REQUESTS_MAX: u32 = 100;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS_LIFETIME: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Resolve,
    Connect,
    /// The connection broke before the response was complete.
    Broken,
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
        })
    }
}

/// `http://host[:port]/prefix`, taken apart once.
#[derive(Clone, Debug)]
pub struct Target {
    authority: Authority,
    host: HeaderValue,
    path: String,
}

impl Target {
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || format!("`{url}` is not a URL like http://reviews:9080");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong());
        }
        let authority = uri.authority().ok_or_else(wrong)?.clone();
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { authority, host, path })
    }

    /// Path and query of the URL.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A GET of `path` there.
    pub fn get(&self, path: &str, headers: HeaderMap) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(path).body(Empty::new())?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        Ok(request)
    }
}

/// Looks names up at most every few seconds, as resolvers in most programs do.
pub struct Resolver {
    target: Authority,
    known: RefCell<Option<(SocketAddr, Instant)>>,
}

impl Resolver {
    pub fn new(target: &Target) -> Self {
        Self {
            target: target.authority.clone(),
            known: RefCell::new(None),
        }
    }

    async fn resolve(&self) -> Result<SocketAddr, Failure> {
        if let Some((address, at)) = *self.known.borrow()
            && at.elapsed() < ADDRESS_LIFETIME
        {
            return Ok(address);
        }
        let host = self.target.host().trim_start_matches('[').trim_end_matches(']');
        let port = self.target.port_u16().unwrap_or(80);
        let address = tokio::net::lookup_host((host, port))
            .await
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or(Failure::Resolve)?;
        *self.known.borrow_mut() = Some((address, Instant::now()));
        Ok(address)
    }

    /// Opens a connection; the address is looked up anew after a failure.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let connect = async {
            let address = self.resolve().await?;
            let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
            let _ = stream.set_nodelay(true);
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|_| Failure::Connect)
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or(Err(Failure::Timeout));
        let (sender, driver) = opened.inspect_err(|_| *self.known.borrow_mut() = None)?;
        tokio::task::spawn_local(driver);
        let now = Instant::now();
        Ok(Connection {
            sender,
            opened: now,
            used: now,
            requests: 0,
        })
    }
}

/// One connection, for one request at a time.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    opened: Instant,
    used: Instant,
    requests: u32,
}

/// What became of a request.
pub enum Outcome {
    /// A complete response; the connection comes back if it can be used again.
    Answered(Box<Response<Bytes>>, Option<Connection>),
    Failed(Failure),
    /// Not one byte of the request left: the connection had been closed before.
    Unsent(Request<Empty<Bytes>>),
}

impl Connection {
    /// Sends one request and reads all of the response.
    pub async fn send(mut self, request: Request<Empty<Bytes>>) -> Outcome {
        if self.sender.ready().await.is_err() {
            return Outcome::Unsent(request);
        }
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                return match error.take_message() {
                    Some(request) => Outcome::Unsent(request),
                    None => Outcome::Failed(Failure::Broken),
                };
            }
        };
        let (parts, body) = response.into_parts();
        let close = parts.headers.get(CONNECTION).is_some_and(|v| v.as_bytes() == b"close");
        let Ok(body) = read(body).await else {
            return Outcome::Failed(Failure::Broken);
        };
        self.used = Instant::now();
        self.requests += 1;
        Outcome::Answered(Box::new(Response::from_parts(parts, body)), (!close).then_some(self))
    }

    /// Whether it is fit for one more request, given how many it may carry.
    pub fn fit(&self, requests_max: u32) -> bool {
        !self.sender.is_closed()
            && self.requests < requests_max
            && self.opened.elapsed() < CONNECTION_AGE_MAX
            && self.used.elapsed() < IDLE_TIME_MAX
    }

    /// Whether it has carried a request before.
    pub fn used_before(&self) -> bool {
        self.requests > 0
    }
}

async fn read(body: Incoming) -> Result<Bytes, ()> {
    Ok(Limited::new(body, RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map_err(|_| ())?
        .to_bytes())
}

/// The pool of connections to one service.
pub struct Upstream {
    target: Target,
    resolver: Resolver,
    idle: RefCell<VecDeque<Connection>>,
}

impl Upstream {
    pub fn new(target: Target) -> Self {
        let resolver = Resolver::new(&target);
        Self {
            target,
            resolver,
            idle: RefCell::default(),
        }
    }

    /// GETs a path as JSON would be: the status and the body.
    pub async fn get(&self, path: &str, headers: HeaderMap) -> Result<(StatusCode, Bytes), Failure> {
        let path = format!("{}{path}", self.target.path.trim_end_matches('/'));
        let response = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(&path, headers))
            .await
            .unwrap_or(Err(Failure::Timeout))?;
        Ok((response.status(), response.into_body()))
    }

    async fn exchange(&self, path: &str, headers: HeaderMap) -> Result<Response<Bytes>, Failure> {
        loop {
            let request = self.target.get(path, headers.clone()).map_err(|_| Failure::Broken)?;
            let (connection, fresh) = match self.take() {
                Some(connection) => (connection, false),
                None => (self.resolver.connect().await?, true),
            };
            let reused = connection.used_before();
            match connection.send(request).await {
                Outcome::Answered(response, connection) => {
                    self.put(connection);
                    return Ok(*response);
                }
                // The server closed an idle connection just as it was used: RFC 9112, 9.3.1 lets a GET go again.
                Outcome::Unsent(_) if !fresh => {}
                Outcome::Failed(Failure::Broken) if reused => {}
                Outcome::Unsent(_) => return Err(Failure::Broken),
                Outcome::Failed(failure) => return Err(failure),
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        // The freshest first: it is the least likely to be closed from the other side.
        while let Some(connection) = idle.pop_back() {
            if connection.fit(CONNECTION_REQUESTS_MAX) {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Option<Connection>) {
        let mut idle = self.idle.borrow_mut();
        if let Some(connection) = connection.filter(|c| c.fit(CONNECTION_REQUESTS_MAX)) {
            if idle.len() >= IDLE_MAX {
                idle.pop_front();
            }
            idle.push_back(connection);
        }
    }
}
