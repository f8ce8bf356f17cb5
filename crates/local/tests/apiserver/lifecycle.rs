//! What goes when something else goes: owners, namespaces, finalizers.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
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
