//! The controllers against the real API server, in one process. Pods are run by a stand-in that reports each one ready
//! as soon as it is bound, and gone as soon as it is deleted.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config as WatchConfig, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::watch::Quick;
use crate::apiserver::{self, Identity};

const DEADLINE: Duration = Duration::from_secs(30);

/// An API server on loopback that can be stopped and started again with the same objects.
struct Server {
    stop: CancellationToken,
    done: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(directory: &Path, listener: TcpListener) -> Self {
        let stop = CancellationToken::new();
        let mut config = apiserver::Config::new(directory);
        config.listen = None;
        config.advertise = listener.local_addr().unwrap();
        config.host_listener = Some(listener);
        let shutdown = stop.clone();
        let done = tokio::spawn(async move { apiserver::run(config, shutdown).await.unwrap() });
        Self { stop, done }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.done.await.unwrap();
    }
}

async fn client(directory: &Path, port: u16) -> Client {
    let pki = apiserver::ensure_pki(&directory.join("pki")).unwrap();
    let text = pki
        .kubeconfig(Identity::Admin, &format!("https://127.0.0.1:{port}"))
        .unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Reports bound pods running and ready, each with an address of its own, and lets deleted ones go.
async fn stand_in_kubelet(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut events = std::pin::pin!(
        watcher(pods, WatchConfig::default())
            .backoff(Quick::default())
            .applied_objects()
    );
    let mut next = 1_u8;
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api
                .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
                .await;
        } else if pod.spec.as_ref().unwrap().node_name.is_some() && super::pods::phase(&pod) == "Pending" {
            let ip = format!("10.244.7.{next}");
            next = next.wrapping_add(1);
            let status = json!({"status": {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }});
            // A race with a deletion is no matter.
            let _ = api
                .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status))
                .await;
        }
    }
}

/// Asks again until the answer is there; the last answer tells why it never came.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("never {what}: {last}"),
    }
}

async fn rolled_out(api: &Api<Deployment>, replicas: i32) -> Deployment {
    until("rolled out", async || {
        let deployment = api.get("web").await.map_err(|error| error.to_string())?;
        let status = deployment.status.clone().unwrap_or_default();
        // What `kubectl rollout status` asks for.
        let done = status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas == Some(replicas)
            && status.replicas == Some(replicas)
            && status.available_replicas == Some(replicas);
        if done {
            Ok(deployment)
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await
}

async fn ready_addresses(slices: &Api<EndpointSlice>) -> Result<Vec<String>, String> {
    let list = slices
        .list(&ListParams::default().labels("kubernetes.io/service-name=web"))
        .await;
    let list = list.map_err(|error| error.to_string())?;
    let endpoints = list.items.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true));
    Ok(ready.flat_map(|endpoint| endpoint.addresses.clone()).collect())
}

async fn endpoints(slices: &Api<EndpointSlice>, n: usize) -> Vec<String> {
    until("as many endpoints as pods", async || {
        match ready_addresses(slices).await? {
            ready if ready.len() == n => Ok(ready),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image, "ports": [
                    {"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    until("created", async || {
        api.create(&PostParams::default(), &object)
            .await
            .map_err(|e| e.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_its_life() {
    let directory = tempfile::tempdir().unwrap();
    // Made once, before server and client read it.
    apiserver::ensure_pki(&directory.path().join("pki")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(directory.path(), listener);
    let client = client(directory.path(), address.port()).await;
    let shutdown = CancellationToken::new();
    let controllers = tokio::spawn(super::run(client.clone(), Vec::new(), shutdown.clone()));
    let kubelet = tokio::spawn(stand_in_kubelet(client.clone()));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");

    // Pods wait for a node; it comes last here.
    create(&deployments, deployment("one")).await;
    create::<Service>(
        &Api::namespaced(client.clone(), "default"),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]},
        }),
    )
    .await;
    create::<Node>(
        &Api::all(client.clone()),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
    )
    .await;
    rolled_out(&deployments, 3).await;
    let first = endpoints(&slices, 3).await;
    let slice = &slices.list(&ListParams::default()).await.unwrap().items;
    let slice = slice
        .iter()
        .find(|slice| slice.labels()["kubernetes.io/service-name"] == "web")
        .unwrap();
    assert_eq!(
        slice.ports.as_ref().unwrap()[0].port,
        Some(8080),
        "the named port is resolved"
    );

    // A new template: new pods, the old set stays behind empty.
    let merge = |value: Value| Patch::Merge(value);
    let image = |image: &str| {
        merge(json!({"spec": {"template": {"spec": {"containers": [
        {"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}}}}))
    };
    let defaults = PatchParams::default();
    deployments.patch("web", &defaults, &image("two")).await.unwrap();
    let two = rolled_out(&deployments, 3).await;
    assert_eq!(two.annotations()["deployment.kubernetes.io/revision"], "2");
    let second = endpoints(&slices, 3).await;
    assert!(
        second.iter().all(|address| !first.contains(address)),
        "{first:?} {second:?}"
    );
    assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 2);

    // Back to the first template: the old set again, no third one.
    deployments.patch("web", &defaults, &image("one")).await.unwrap();
    until("rolled back", async || {
        let back = rolled_out(&deployments, 3).await;
        match back.annotations()["deployment.kubernetes.io/revision"].as_str() {
            "3" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 2);

    // The API server goes away and comes back: everything goes on.
    server.stop().await;
    let listener = TcpListener::bind(address).unwrap();
    let server = Server::start(directory.path(), listener);
    until("scaled", async || {
        let scale = merge(json!({"spec": {"replicas": 5}}));
        deployments
            .patch("web", &defaults, &scale)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
    rolled_out(&deployments, 5).await;
    endpoints(&slices, 5).await;
    deployments
        .patch("web", &defaults, &merge(json!({"spec": {"replicas": 1}})))
        .await
        .unwrap();
    rolled_out(&deployments, 1).await;
    endpoints(&slices, 1).await;

    // A pod that is deleted is replaced.
    let only = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    pods.delete(&only, &DeleteParams::default()).await.unwrap();
    until("replaced", async || {
        let names: Vec<String> = pods
            .list(&ListParams::default())
            .await
            .unwrap()
            .iter()
            .map(|p| p.name_any())
            .collect();
        if names.len() == 1 && names[0] != only {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;

    // The Deployment takes its sets and pods with it.
    deployments.delete("web", &DeleteParams::default()).await.unwrap();
    until("gone", async || {
        let left = pods.list(&ListParams::default()).await.unwrap().items.len()
            + sets.list(&ListParams::default()).await.unwrap().items.len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} objects left"))
        }
    })
    .await;
    endpoints(&slices, 0).await;

    shutdown.cancel();
    controllers.await.unwrap();
    kubelet.abort();
    server.stop().await;
}

#[test]
fn the_end_of_a_namespace_is_no_failure() {
    let error = |code: u16, message: &str| {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(code);
        super::Error::from(kube::Error::Api(Box::new(status)))
    };
    let going = error(
        403,
        "pods \"a\" is forbidden: unable to create new content in namespace x because it is being terminated",
    );
    assert!(going.is_end_of_namespace());
    let refused = error(403, "pods \"a\" is forbidden");
    assert!(!refused.is_end_of_namespace());
    assert_eq!(refused.to_string(), "pods \"a\" is forbidden", "not the whole status");
}
