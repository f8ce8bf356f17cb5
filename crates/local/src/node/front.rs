//! The host's way to the metric store: a small reverse proxy from the host's listener to service weir-metrics.
//!
//! Enters: HTTP requests from the host's loopback. Leaves: the same requests at the service, with a token of a service
//! account that may read everything when the client sent none: who reaches the host's loopback may use the kubeconfig too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::env::Lookup;

const NAMESPACE: &str = "weir-system";
const SERVICE: &str = "weir-metrics";
const PORT: u16 = 9090;
/// The account that speaks for the host.
const ACCOUNT: &str = "weir-host";
const TOKEN_SECONDS: i64 = 3600;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const ANSWER_DEADLINE: Duration = Duration::from_secs(150);

type Body = BoxBody<Bytes, hyper::Error>;

struct Front {
    node: Arc<Node>,
    token: Mutex<Option<(HeaderValue, Instant)>>,
}

/// Serves until `shutdown`.
pub async fn run(node: Arc<Node>, listener: TcpListener, shutdown: CancellationToken) {
    let front = Arc::new(Front {
        node,
        token: Mutex::default(),
    });
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let front = front.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let front = front.clone();
                    async move { Ok::<_, std::convert::Infallible>(front.forward(request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection of the host");
                }
                drop(permit);
            });
        }
    };
    shutdown.run_until_cancelled(accept).await;
}

impl Front {
    async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        match timeout(ANSWER_DEADLINE, self.try_forward(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(message)) => plain(StatusCode::SERVICE_UNAVAILABLE, message),
            Err(_) => plain(
                StatusCode::GATEWAY_TIMEOUT,
                "the metric store did not answer in time".into(),
            ),
        }
    }

    async fn try_forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, String> {
        let address = self.address()?;
        let host = HeaderValue::from_str(&address.to_string()).map_err(|error| error.to_string())?;
        let ours = !request.headers().contains_key(AUTHORIZATION);
        if ours {
            let token = self
                .token()
                .await
                .map_err(|error| format!("no token for the metric store: {error}"))?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        request.headers_mut().insert(HOST, host);
        let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await;
        let stream = stream
            .map_err(|_| "the metric store does not answer".to_string())?
            .map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if ours && response.status() == StatusCode::UNAUTHORIZED {
            // It ended with its account: the next request gets another.
            *self.token.lock().await = None;
        }
        Ok(response.map(BodyExt::boxed))
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let services = self.node.caches.services(NAMESPACE);
        let service = services
            .iter()
            .find(|service| service.metadata.name.as_deref() == Some(SERVICE));
        let ip = service.and_then(|service| service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok());
        let ip = ip.ok_or_else(|| format!("service {SERVICE}.{NAMESPACE} is not installed"))?;
        Ok(SocketAddr::new(ip, PORT))
    }

    async fn token(&self) -> Result<HeaderValue, kube::Error> {
        let mut token = self.token.lock().await;
        if let Some((value, _)) = token.as_ref().filter(|(_, renew_at)| Instant::now() < *renew_at) {
            return Ok(value.clone());
        }
        let client = &self.node.client;
        let params = PatchParams::apply("weir-up").force();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
        accounts.patch(ACCOUNT, &params, &Patch::Apply(account)).await?;
        let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]
        });
        bindings.patch(ACCOUNT, &params, &Patch::Apply(binding)).await?;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(ACCOUNT, &PostParams::default(), &request)
            .await?;
        let text = answer.status.and_then(|status| status.token).unwrap_or_default();
        let value = HeaderValue::from_str(&format!("Bearer {text}")).unwrap_or(HeaderValue::from_static(""));
        *token = Some((
            value.clone(),
            Instant::now() + Duration::from_secs(TOKEN_SECONDS as u64 / 2),
        ));
        Ok(value)
    }
}

fn plain(status: StatusCode, message: String) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{message}\n")))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
