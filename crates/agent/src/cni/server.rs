//! The agent's side of the conversation with the CNI plugin, on `<run_dir>/agent.sock`.
//!
//! ADD of a pod in the mesh is answered once its proxy serves and its traffic is redirected, or with what is missing;
//! of any other pod at once. DEL is answered once proxy and directory have gone.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Command, LINE_BYTES_MAX, Reply, Request};
use crate::plan::{Plan, plan};
use crate::pods::{Pods, pod_id};
use crate::supervise::{Sandbox, Status};
use crate::watch::Stores;

/// Conversations at a time.
const CONVERSATIONS_MAX: usize = 128;
/// Longest wait for the plugin's line.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a pod may wait for its proxy before the kubelet is told to try again.
const ADD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long removal may take.
const DEL_TIMEOUT: Duration = Duration::from_secs(8);
/// A mirror of a pod that the kubelet runs from a file; its uid is not the one that the plugin is told.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Binds the socket; one that a dead agent left behind is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until shutdown.
pub async fn serve(listener: UnixListener, pods: Arc<Pods>, stores: Arc<Stores>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "agent socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (pods, stores) = (pods.clone(), stores.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &pods, &stores).await {
                tracing::debug!(%error, "conversation with the CNI plugin");
            }
            drop(place);
        });
    }
}

async fn converse(mut stream: UnixStream, pods: &Arc<Pods>, stores: &Stores) -> io::Result<()> {
    let mut line = String::new();
    let read = BufReader::new(&mut stream).take(LINE_BYTES_MAX as u64);
    let mut read = read;
    timeout(READ_TIMEOUT, read.read_line(&mut line)).await??;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(request, pods, stores).await,
        Err(error) => Reply::Error(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_string(&reply)?;
    line.push('\n');
    timeout(READ_TIMEOUT, stream.write_all(line.as_bytes())).await?
}

async fn answer(request: Request, pods: &Arc<Pods>, stores: &Stores) -> Reply {
    match request.command {
        Command::Del => {
            delete(&request, pods).await;
            Reply::Ok
        }
        Command::Add => {
            let deadline = Instant::now() + ADD_TIMEOUT;
            match timeout_at(deadline, admit(&request, pods, stores, deadline)).await {
                Ok(Ok(())) => Reply::Ok,
                Ok(Err(reason)) => Reply::Error(reason),
                Err(_) => Reply::Error(format!(
                    "the agent has not heard enough from the API server within {} s",
                    ADD_TIMEOUT.as_secs()
                )),
            }
        }
    }
}

/// Puts a fresh sandbox into the mesh, if its pod is to be in it. The error is for the kubelet's user.
async fn admit(request: &Request, pods: &Arc<Pods>, stores: &Stores, deadline: Instant) -> Result<(), String> {
    stores.ready().await;
    let pod = find(request, pods, stores).await?;
    let Some(pod) = pod else { return Ok(()) };
    let owner = stores
        .owner_now(&pod, &pods.shared().cluster)
        .await
        .map_err(|e| e.to_string())?;
    let namespace = stores.namespace(&request.namespace);
    let system = stores.namespace(weir_api::labels::SYSTEM_NAMESPACE);
    let (plan, problems) = plan(
        &pod,
        owner.workload(),
        namespace.as_ref(),
        system.as_ref(),
        stores.default_engine(),
    );
    pods.report(problems);
    if !matches!(plan, Plan::Run(_)) {
        return Ok(());
    }
    let Some(id) = pod_id(&pod) else {
        return Err("the pod has no uid".into());
    };
    let sandbox = Sandbox {
        id: request.sandbox.clone(),
        netns: request.netns.clone(),
    };
    let status = pods.ensure(&id, Some(&pod), |want| {
        want.plan = plan.clone();
        want.sandbox = Some(sandbox.clone());
        want.absent = false;
    });
    let mut status = status.map_err(|e| e.to_string())?;
    let mut last = "its proxy to start".to_owned();
    loop {
        match &*status.borrow_and_update() {
            Status::Serving { sandbox, .. } if *sandbox == request.sandbox => return Ok(()),
            Status::Ended => return Err("the pod was removed meanwhile".into()),
            Status::Working(on) => last = format!("waiting for {on}"),
            Status::Failed(why) => last.clone_from(why),
            _ => {}
        }
        let slack = Duration::from_millis(200);
        match timeout_at(deadline - slack, status.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("the agent shuts down".into()),
            Err(_) => {
                return Err(format!(
                    "the proxy does not serve after {} s: {last}",
                    ADD_TIMEOUT.as_secs()
                ));
            }
        }
    }
}

/// The pod of a request: from the cache if it is that very pod, else as the API server has it.
async fn find(request: &Request, pods: &Arc<Pods>, stores: &Stores) -> Result<Option<Arc<Pod>>, String> {
    let same = |pod: &Pod| request.uid.is_empty() || pod.metadata.uid.as_deref() == Some(&request.uid);
    let key = kube::runtime::reflector::ObjectRef::new(&request.pod).within(&request.namespace);
    // Without a uid the cache could hold the predecessor of the same name.
    if !request.uid.is_empty()
        && let Some(pod) = stores.pods.get(&key).filter(|p| same(p))
    {
        return Ok(Some(pod));
    }
    let fresh = pods
        .shared()
        .cluster
        .pod(&request.namespace, &request.pod)
        .await
        .map_err(|e| e.to_string())?;
    let Some(pod) = fresh else {
        return Err(format!("there is no pod {}/{}", request.namespace, request.pod));
    };
    if same(&pod) {
        return Ok(Some(Arc::new(pod)));
    }
    if pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(MIRROR))
    {
        return Ok(None);
    }
    Err(format!(
        "pod {}/{} is another one by now",
        request.namespace, request.pod
    ))
}

async fn delete(request: &Request, pods: &Arc<Pods>) {
    let Some(mut status) = pods.gone(request) else { return };
    let ended = status.wait_for(|s| *s == Status::Ended);
    if timeout(DEL_TIMEOUT, ended).await.is_err() {
        tracing::warn!(
            namespace = request.namespace,
            pod = request.pod,
            "removal of a proxy takes long"
        );
    }
}
