//! The node's container runtime, as an agent asks it: a few calls of the CRI on a Unix socket.
//!
//! Enters: gRPC calls on /run/containerd/containerd.sock of the node. Leaves: sandboxes with their network namespaces, as
//! containerd would answer. The namespace's path is `/var/run/netns/ID`: valid on the node, and in a container that mounts
//! the host path `/var/run/netns` with `mountPropagation: HostToContainer`. The pid in the answer is that of a process
//! of the pod (0 before one runs): with `hostPID`, `/proc/PID/ns/net` is the same namespace.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde_json::json;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Service, StdError};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weir_api::cri::*;

use crate::node::state::{ContainerView, PodRuntime, Sandbox, State};
use crate::node::{Node, NodeError, Paths};

type Answer<T> = Result<Response<T>, Status>;

/// Binds the socket.
pub fn listen(paths: &Paths) -> Result<UnixListener, NodeError> {
    let path = paths.cri_socket();
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).map_err(|source| NodeError::Io {
        what: "the CRI socket",
        source,
    })
}

/// Serves until `shutdown`.
pub async fn run(node: Arc<Node>, listener: UnixListener, shutdown: CancellationToken) {
    let server = tonic::transport::Server::builder()
        .add_service(Runtime(node))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned());
    if let Err(error) = server.await {
        tracing::error!(%error, "CRI server");
    }
}

/// The service `runtime.v1.RuntimeService`.
#[derive(Clone)]
struct Runtime(Arc<Node>);

impl NamedService for Runtime {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<http::Request<B>> for Runtime
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let node = self.0.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
            Ok(match method.as_str() {
                "Version" => unary(request, move |_: VersionRequest| version()).await,
                "Status" => unary(request, move |_: StatusRequest| status()).await,
                "ListPodSandbox" => unary(request, move |asked| list_sandboxes(&node, asked)).await,
                "PodSandboxStatus" => unary(request, move |asked| sandbox_status(&node, &asked)).await,
                "ListContainers" => unary(request, move |asked| list_containers(&node, asked)).await,
                other => Status::unimplemented(format!("this node does not know {other}")).into_http(),
            })
        })
    }
}

/// Decodes one message, answers with one.
async fn unary<B, Req, Res, F>(request: http::Request<B>, answer: F) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    Req: prost::Message + Default + Send + 'static,
    Res: prost::Message + Default + Send + 'static,
    F: Fn(Req) -> Answer<Res> + Send + 'static,
{
    Grpc::new(ProstCodec::default()).unary(Unary(answer), request).await
}

struct Unary<F>(F);

impl<F, Req, Res> UnaryService<Req> for Unary<F>
where
    F: Fn(Req) -> Answer<Res>,
{
    type Response = Res;
    type Future = std::future::Ready<Answer<Res>>;

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        std::future::ready((self.0)(request.into_inner()))
    }
}

fn version() -> Answer<VersionResponse> {
    Ok(Response::new(VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "weir".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }))
}

fn status() -> Answer<StatusResponse> {
    let ready = |kind: &str| RuntimeCondition {
        r#type: kind.into(),
        status: true,
        ..RuntimeCondition::default()
    };
    let conditions = vec![ready("RuntimeReady"), ready("NetworkReady")];
    Ok(Response::new(StatusResponse {
        status: Some(RuntimeStatus { conditions }),
    }))
}

/// A pod that has a sandbox.
struct Found {
    runtime: Arc<PodRuntime>,
    sandbox: Sandbox,
    containers: Vec<ContainerView>,
    state: PodSandboxState,
}

impl Found {
    fn labels(&self) -> HashMap<String, String> {
        let object = self.runtime.object();
        let mut labels: HashMap<String, String> = object.metadata.labels.clone().into_iter().flatten().collect();
        for (key, value) in [
            (LABEL_POD_NAME, &self.runtime.name),
            (LABEL_POD_NAMESPACE, &self.runtime.namespace),
            (LABEL_POD_UID, &self.runtime.uid),
        ] {
            labels.insert(key.to_string(), value.clone());
        }
        labels
    }

    fn annotations(&self) -> HashMap<String, String> {
        self.runtime
            .object()
            .metadata
            .annotations
            .clone()
            .into_iter()
            .flatten()
            .collect()
    }

    fn metadata(&self) -> PodSandboxMetadata {
        PodSandboxMetadata {
            name: self.runtime.name.clone(),
            uid: self.runtime.uid.clone(),
            namespace: self.runtime.namespace.clone(),
            attempt: 0,
        }
    }

    fn created_at(&self) -> i64 {
        i64::try_from(self.sandbox.created_at.as_nanosecond()).unwrap_or(i64::MAX)
    }
}

fn found(node: &Node) -> Vec<Found> {
    let pods = node.pods().into_iter().filter_map(|runtime| {
        let snapshot = runtime.snapshot();
        let state = if snapshot.finished {
            PodSandboxState::NotReady
        } else {
            PodSandboxState::Ready
        };
        Some(Found {
            sandbox: snapshot.sandbox?,
            containers: snapshot.containers,
            state,
            runtime,
        })
    });
    pods.collect()
}

fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn list_sandboxes(node: &Node, asked: ListPodSandboxRequest) -> Answer<ListPodSandboxResponse> {
    let filter = asked.filter.unwrap_or_default();
    let wanted = |found: &Found| {
        found.sandbox.id.starts_with(&filter.id)
            && filter.state.is_none_or(|value| value.state == i32::from(found.state))
            && matches(&filter.label_selector, &found.labels())
    };
    let items = found(node).into_iter().filter(wanted).map(|found| PodSandbox {
        id: found.sandbox.id.clone(),
        metadata: Some(found.metadata()),
        state: found.state.into(),
        created_at: found.created_at(),
        labels: found.labels(),
        annotations: found.annotations(),
        runtime_handler: String::new(),
    });
    Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
}

fn sandbox_status(node: &Node, asked: &PodSandboxStatusRequest) -> Answer<PodSandboxStatusResponse> {
    let id = &asked.pod_sandbox_id;
    let mut all = found(node).into_iter();
    let found = all
        .find(|found| !id.is_empty() && found.sandbox.id.starts_with(id))
        .ok_or_else(|| Status::not_found(format!("an error occurred when try to find sandbox {id:?}: not found")))?;
    let host_network = found.sandbox.netns.is_none();
    let network = if host_network {
        NamespaceMode::Node
    } else {
        NamespaceMode::Pod
    };
    let host_pid = found
        .runtime
        .object()
        .spec
        .as_ref()
        .is_some_and(|spec| spec.host_pid == Some(true));
    let pid = if host_pid {
        NamespaceMode::Node
    } else {
        NamespaceMode::Container
    };
    let options = NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: NamespaceMode::Container.into(),
    };
    let ip = if host_network {
        String::new()
    } else {
        found.sandbox.ip.to_string()
    };
    let status = PodSandboxStatus {
        id: found.sandbox.id.clone(),
        metadata: Some(found.metadata()),
        state: found.state.into(),
        created_at: found.created_at(),
        network: Some(PodSandboxNetworkStatus { ip }),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace { options: Some(options) }),
        }),
        labels: found.labels(),
        annotations: found.annotations(),
        runtime_handler: String::new(),
    };
    let mut info = HashMap::new();
    if asked.verbose {
        info.insert("info".to_string(), info_json(&found));
    }
    Ok(Response::new(PodSandboxStatusResponse {
        status: Some(status),
        info,
    }))
}

fn info_json(found: &Found) -> String {
    let pid = found.containers.iter().find_map(|container| container.pid).unwrap_or(0);
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    if found.sandbox.netns.is_some() {
        let path = format!("/var/run/netns/{}", found.sandbox.id);
        namespaces.push(json!({"type": "network", "path": path}));
    }
    json!({"pid": pid, "runtimeSpec": {"linux": {"namespaces": namespaces}}}).to_string()
}

fn list_containers(node: &Node, asked: ListContainersRequest) -> Answer<ListContainersResponse> {
    let filter = asked.filter.unwrap_or_default();
    let mut containers = Vec::new();
    for found in found(node)
        .iter()
        .filter(|found| found.sandbox.id.starts_with(&filter.pod_sandbox_id))
    {
        let views = found
            .containers
            .iter()
            .filter(|view| !view.id.is_empty() && view.id.starts_with(&filter.id));
        containers.extend(views.map(|view| container(found, view)));
    }
    containers.retain(|container| {
        filter.state.is_none_or(|value| value.state == container.state)
            && matches(&filter.label_selector, &container.labels)
    });
    Ok(Response::new(ListContainersResponse { containers }))
}

fn container(found: &Found, view: &ContainerView) -> Container {
    let state = match view.state {
        State::Running { .. } => ContainerState::Running,
        State::Waiting { .. } | State::Terminated(_) => ContainerState::Exited,
    };
    let started = match &view.state {
        State::Running { since } => since.as_nanosecond(),
        _ => found.sandbox.created_at.as_nanosecond(),
    };
    let mut labels = found.labels();
    labels.insert(LABEL_CONTAINER_NAME.to_string(), view.name.clone());
    Container {
        id: view.id.clone(),
        pod_sandbox_id: found.sandbox.id.clone(),
        metadata: Some(ContainerMetadata {
            name: view.name.clone(),
            attempt: u32::try_from(view.restarts).unwrap_or_default(),
        }),
        image: Some(ImageSpec {
            image: view.image.clone(),
        }),
        image_ref: view.image.clone(),
        state: state.into(),
        created_at: i64::try_from(started).unwrap_or(i64::MAX),
        labels,
    }
}
