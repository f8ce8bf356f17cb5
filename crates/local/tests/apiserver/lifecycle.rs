//! What goes when something else goes: owners, namespaces, finalizers.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::fixture::{Server, until};

fn map(value: Value) -> ConfigMap {
    serde_json::from_value(value).unwrap()
}

fn owned(name: &str, owner: &ConfigMap) -> ConfigMap {
    map(
        json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
        "name": owner.metadata.name, "uid": owner.metadata.uid, "blockOwnerDeletion": true}]}}),
    )
}

#[tokio::test]
async fn dependents_go_with_their_owner_unless_orphaned() {
    let server = Server::start();
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin().await);
    let create = PostParams::default();
    for policy in [DeleteParams::background(), DeleteParams::foreground()] {
        let owner = api
            .create(&create, &map(json!({"metadata": {"name": "owner"}})))
            .await
            .unwrap();
        let child = api.create(&create, &owned("child", &owner)).await.unwrap();
        api.create(&create, &owned("grandchild", &child)).await.unwrap();
        api.delete("owner", &policy).await.unwrap();
        until("all three are gone", || async {
            let mut left = 0;
            for name in ["owner", "child", "grandchild"] {
                left += usize::from(api.get_opt(name).await.unwrap().is_some());
            }
            left == 0
        })
        .await;
    }
    let owner = api
        .create(&create, &map(json!({"metadata": {"name": "owner"}})))
        .await
        .unwrap();
    api.create(&create, &owned("child", &owner)).await.unwrap();
    api.delete("owner", &DeleteParams::orphan()).await.unwrap();
    until("the owner is gone", || async {
        api.get_opt("owner").await.unwrap().is_none()
    })
    .await;
    let child = api.get("child").await.unwrap();
    assert!(child.metadata.owner_references.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn namespaces_come_furnished_and_go_empty() {
    let server = Server::start();
    let client = server.admin().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "n");
    assert!(accounts.get_opt("default").await.unwrap().is_some());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "n");
    assert!(maps.get("kube-root-ca.crt").await.unwrap().data.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    let held = map(json!({"metadata": {"name": "held", "finalizers": ["test.dev/hold"]}}));
    maps.create(&PostParams::default(), &held).await.unwrap();

    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    until("the account goes", || async {
        accounts.get_opt("default").await.unwrap().is_none()
    })
    .await;
    let refused = maps
        .create(&PostParams::default(), &map(json!({"metadata": {"name": "late"}})))
        .await;
    assert!(
        matches!(refused, Err(kube::Error::Api(s)) if s.code == 403 && s.message.contains("because it is being terminated"))
    );
    let waiting = namespaces.get("n").await.unwrap();
    assert_eq!(waiting.status.unwrap().phase.as_deref(), Some("Terminating"));
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &release).await.unwrap();
    until("the namespace goes", || async {
        namespaces.get_opt("n").await.unwrap().is_none()
    })
    .await;
}

/// Foreground only says in which order things go: a namespace ends all the same, and a pod keeps its grace.
#[tokio::test]
async fn foreground_deletion_ends_and_leaves_pods_their_grace() {
    let server = Server::start();
    let client = server.admin().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    namespaces.delete("n", &DeleteParams::foreground()).await.unwrap();
    until("the namespace goes", || async {
        namespaces.get_opt("n").await.unwrap().is_none()
    })
    .await;

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    pods.delete("p", &DeleteParams::foreground()).await.unwrap();
    until("its finalizer goes", || async {
        let pod = pods.get("p").await.expect("the pod stays until its node has ended it");
        pod.metadata.deletion_timestamp.is_some() && pod.metadata.finalizers.unwrap_or_default().is_empty()
    })
    .await;
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("the pod goes", || async { pods.get_opt("p").await.unwrap().is_none() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_made_at_once_have_addresses_and_node_ports_of_their_own() {
    let server = Server::start();
    let services: Api<Service> = Api::default_namespaced(server.admin().await);
    let writes = (0..40).map(|n| {
        let services = services.clone();
        tokio::spawn(async move {
            let service = json!({"metadata": {"name": format!("s{n}")}, "spec": {"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
            services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await
        })
    });
    let (mut addresses, mut ports) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for write in writes.collect::<Vec<_>>() {
        let spec = write.await.unwrap().unwrap().spec.unwrap();
        addresses.extend(spec.cluster_ip);
        ports.extend(spec.ports.unwrap().iter().filter_map(|p| p.node_port));
    }
    assert_eq!((addresses.len(), ports.len()), (40, 80));
    let taken = json!({"metadata": {"name": "late"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": ports.first()}]}});
    let refused = services
        .create(&PostParams::default(), &serde_json::from_value(taken).unwrap())
        .await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(s)) if s.code == 422 && s.message.contains("spec.ports[0].nodePort") && s.message.contains("already allocated")),
        "{refused:?}"
    );
}
