//! The listener and the life of a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use kube::Client;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use weir_api::status::Status;

use super::authenticate::{Authenticator, Identity};
use super::authorize::{Attributes, Authorizer};
use super::negotiate::{Form, Offer, negotiate};
use super::request::{ResourcePath, Target, Verb, parameters, verb};
use super::selector::{FieldSelector, LabelSelector};
use super::tls::{Serving, ServingCertificate, TlsError, server_config};
use super::{Answer, Group, ResourceRequest, discovery, register};

/// Open connections at most; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 512;
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for open requests at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between looks at certificate files.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(30);
/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Tells whether the server can answer, or why not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate.
    pub serving: Serving,
    /// APIService objects that are to trust a self-signed certificate; may be empty.
    pub api_services: Vec<String>,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What every request needs.
pub(super) struct Server {
    pub groups: Vec<Group>,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    pub ready: Ready,
}

/// Serves the groups until `shutdown`.
pub async fn run(
    config: Config,
    client: Client,
    groups: Vec<Group>,
    ready: Ready,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(config.address)
        .await
        .map_err(|source| Error::Listen {
            address: config.address,
            source,
        })?;
    let certificate = Arc::new(ServingCertificate::new(&config.serving)?);
    let server = Arc::new(Server {
        groups,
        authenticator: Authenticator::new(client.clone()),
        authorizer: Authorizer::new(client.clone()),
        ready,
    });

    let mut background = JoinSet::new();
    let watching = server.clone();
    background.spawn(async move { watching.authenticator.watch().await });
    match &certificate.ca_pem {
        Some(ca_pem) if !config.api_services.is_empty() => {
            background.spawn(register::keep_registered(
                client,
                config.api_services.into(),
                ca_pem.clone(),
            ));
        }
        Some(_) => {}
        None => {
            let certificate = certificate.clone();
            background.spawn(async move { keep_reloaded(&certificate).await });
        }
    }
    tracing::info!(address = %config.address, "aggregated API server listens");
    serve(listener, certificate, server, shutdown).await
}

async fn keep_reloaded(certificate: &ServingCertificate) {
    loop {
        tokio::time::sleep(CERTIFICATE_CHECK).await;
        if let Err(error) = certificate.reload() {
            tracing::warn!(%error, "serving certificate not replaced");
        }
    }
}

pub(super) async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    server: Arc<Server>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let acceptor = TlsAcceptor::from(server_config(certificate)?);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            break;
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            },
        };
        let (acceptor, server, shutdown) = (acceptor.clone(), server.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(reason) = connection(stream, acceptor, server, shutdown).await {
                tracing::debug!(reason, "connection ended");
            }
            drop(permit);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    server: Arc<Server>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let chain: Arc<[CertificateDer<'static>]> = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|c| c.clone().into_owned())
        .collect();
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, chain) = (server.clone(), chain.clone());
        async move { Ok::<_, Infallible>(server.respond(request, &chain).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(|e| e.to_string()),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(|e| e.to_string())
}

type Body = Full<Bytes>;

impl Server {
    async fn respond(&self, request: Request<Incoming>, chain: &[CertificateDer<'static>]) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.answer(&request, chain)).await;
        let mut response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => status_response(&status),
            Err(_) => status_response(&Status::timeout("the answer took too long")),
        };
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if head {
            *response.body_mut() = Body::default();
        }
        response
    }

    async fn answer<B>(&self, request: &Request<B>, chain: &[CertificateDer<'_>]) -> Result<Response<Body>, Status> {
        let path = request.uri().path();
        let target = Target::parse(path, &self.groups);
        if target == Target::Health {
            return Ok(self.health(path));
        }
        let identity = self.authenticator.authenticate(chain, request.headers()).await?;
        if let Target::Resource(parts) = target {
            return self.resource(request, parts, &identity).await;
        }
        let verb = request.method().as_str().to_lowercase();
        self.authorizer
            .authorize(
                &identity,
                Attributes::Path {
                    verb,
                    path: path.to_owned(),
                },
            )
            .await?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::failure(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
        self.describe(request, target)
    }

    /// Paths that describe the server.
    fn describe<B>(&self, request: &Request<B>, target: Target) -> Result<Response<Body>, Status> {
        let offer = Offer {
            table: false,
            discovery: target == Target::Groups,
        };
        let form = negotiate(accept(request), offer)?;
        let group = |name: &str| {
            self.groups
                .iter()
                .find(|g| g.name == name)
                .ok_or_else(Status::unknown_path)
        };
        let version = |name: &str, version: &str| {
            let group = group(name)?;
            let version = group
                .versions
                .iter()
                .find(|v| v.name == version)
                .ok_or_else(Status::unknown_path)?;
            Ok::<_, Status>((group, version))
        };
        let value = match (target, form) {
            (Target::Groups, Form::Discovery(v)) => discovery::aggregated(&self.groups, v),
            (Target::Groups, _) => discovery::groups(&self.groups),
            (Target::Group(name), _) => discovery::group(group(&name)?),
            (Target::Resources(g, v), _) => {
                let (group, version) = version(&g, &v)?;
                discovery::resources(group, version)
            }
            (Target::Version, _) => discovery::version(),
            (Target::OpenApiV2, _) => discovery::openapi_v2(),
            (Target::OpenApiV3(None), _) => discovery::openapi_v3_index(&self.groups),
            (Target::OpenApiV3(Some((g, v))), _) => {
                version(&g, &v)?;
                discovery::openapi_v3()
            }
            _ => return Err(Status::unknown_path()),
        };
        let mut response = write(&value, form)?;
        let tag = entity_tag(response.body());
        if request.headers().get(header::IF_NONE_MATCH).is_some_and(|t| *t == tag) {
            response = Response::new(Body::default());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response.headers_mut().insert(header::ETAG, tag);
        Ok(response)
    }

    /// Paths below a group and version.
    async fn resource<B>(
        &self,
        request: &Request<B>,
        path: ResourcePath,
        identity: &Identity,
    ) -> Result<Response<Body>, Status> {
        let parameters = parameters(request.uri().query());
        let verb = verb(request.method(), path.name.is_some(), &parameters);
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(n, _)| n == name)
                .map_or("", |(_, v)| v.as_str())
        };
        let fields = FieldSelector::parse(get("fieldSelector"));
        let selected = fields.as_ref().ok().and_then(|f| f.name()).unwrap_or_default();
        let attributes = Attributes::Resource {
            verb: verb.as_str().to_owned(),
            group: path.group.clone(),
            version: path.version.clone(),
            resource: path.resource.clone(),
            subresource: path.subresource.clone().unwrap_or_default(),
            namespace: path.namespace.clone().unwrap_or_default(),
            name: path.name.clone().unwrap_or_else(|| selected.to_owned()),
        };
        self.authorizer.authorize(identity, attributes).await?;

        let group = self
            .groups
            .iter()
            .find(|g| g.name == path.group)
            .ok_or_else(Status::unknown_path)?;
        let version = group
            .versions
            .iter()
            .find(|v| v.name == path.version)
            .ok_or_else(Status::unknown_path)?;
        let resource = version
            .resources
            .iter()
            .find(|r| r.name == path.resource)
            .ok_or_else(Status::unknown_path)?;
        let sub_known = |sub: &String| resource.subresources.iter().any(|(name, _)| name == sub);
        if !path.subresource.as_ref().is_none_or(sub_known)
            || (path.namespace.is_some() && !resource.namespaced && resource.name != "namespaces")
        {
            return Err(Status::unknown_path());
        }
        let served = path.subresource.is_some() || resource.verbs.contains(&verb.as_str());
        if !matches!(verb, Verb::Get | Verb::List) || !served {
            return Err(Status::method_not_allowed(group.name, resource.name, verb.as_str()));
        }
        // One object of a namespaced resource has a namespace; all of them together (`*`) need none.
        if resource.namespaced && path.namespace.is_none() && path.name.as_deref().is_some_and(|n| n != "*") {
            return Err(Status::unknown_path());
        }
        let bad = |e: &dyn std::fmt::Display| Status::bad_request(e.to_string());
        let labels = LabelSelector::parse(get("labelSelector")).map_err(|e| bad(&e))?;
        let fields = fields.map_err(|e| bad(&e))?;
        // Refuse what cannot be written before the work is done.
        negotiate(
            accept(request),
            Offer {
                table: true,
                discovery: false,
            },
        )?;
        let answer = group
            .handler
            .handle(ResourceRequest {
                version: version.name,
                resource: resource.name,
                subresource: path.subresource,
                verb,
                namespace: path.namespace,
                name: path.name,
                labels,
                fields,
                parameters,
            })
            .await?;
        write_answer(answer, request)
    }

    fn health(&self, path: &str) -> Response<Body> {
        // Alive is who answers; ready is who has data to answer with.
        let state = if path.starts_with("/readyz") {
            (self.ready)()
        } else {
            Ok(())
        };
        let (code, text) = match state {
            Ok(()) => (StatusCode::OK, "ok".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = code;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    }
}

fn accept<B>(request: &Request<B>) -> Option<&str> {
    request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok())
}

fn write_answer<B>(answer: Answer, request: &Request<B>) -> Result<Response<Body>, Status> {
    let offer = Offer {
        table: answer.table.is_some(),
        discovery: false,
    };
    match (negotiate(accept(request), offer)?, answer.table) {
        (form @ Form::Table(version), Some(mut table)) => {
            table.api_version = format!("meta.k8s.io/{version}");
            let value = serde_json::to_value(&table).map_err(Status::internal)?;
            write(&value, form)
        }
        (form, _) => write(&answer.object, form),
    }
}

fn write(value: &Value, form: Form) -> Result<Response<Body>, Status> {
    let (content_type, body) = match form {
        Form::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(Status::internal)?;
            ("application/yaml".to_owned(), text.into_bytes())
        }
        Form::Discovery(v) => (
            format!("application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList"),
            serde_json::to_vec(value).map_err(Status::internal)?,
        ),
        Form::Json | Form::Table(_) => (
            "application/json".to_owned(),
            serde_json::to_vec(value).map_err(Status::internal)?,
        ),
    };
    let mut response = Response::new(Body::from(body));
    let content_type = HeaderValue::from_str(&content_type).map_err(Status::internal)?;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

fn status_response(status: &Status) -> Response<Body> {
    let body = serde_json::to_vec(status).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code == 503 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The same for equal bodies, across restarts too.
fn entity_tag(body: &Body) -> HeaderValue {
    use http_body_util::BodyExt;
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if let Some(Ok(frame)) = futures::FutureExt::now_or_never(body.clone().frame()).flatten()
        && let Some(data) = frame.data_ref()
    {
        data.hash(&mut hasher);
    }
    HeaderValue::from_str(&format!("\"{:016X}\"", hasher.finish())).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}
