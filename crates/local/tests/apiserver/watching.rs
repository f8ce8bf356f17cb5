//! Watches: what they see, how they resume, that they go on after a restart.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::fixture::{DEADLINE, Server, call};

fn map(name: &str, label: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"l": label}}})).unwrap()
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::default_namespaced(client)
}

#[tokio::test]
async fn a_selection_sees_objects_enter_and_leave() {
    let server = Server::start();
    let api = maps(server.admin().await);
    let start = api
        .list(&Default::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let create = PostParams::default();
    api.create(&create, &map("a", "in")).await.unwrap();
    api.create(&create, &map("b", "out")).await.unwrap();
    let to = |l: &str| Patch::Merge(json!({"metadata": {"labels": {"l": l}}}));
    let p = PatchParams::default();
    api.patch("b", &p, &to("in")).await.unwrap();
    api.patch("a", &p, &to("out")).await.unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();

    let events = api.watch(&WatchParams::default().labels("l=in"), &start).await.unwrap();
    let seen: Vec<_> = tokio::time::timeout(DEADLINE, events.boxed().take(4).try_collect::<Vec<_>>())
        .await
        .unwrap()
        .unwrap();
    let seen: Vec<String> = seen
        .iter()
        .map(|e| match e {
            WatchEvent::Added(o) => format!("+{}", o.name_any()),
            WatchEvent::Modified(o) => format!("~{}", o.name_any()),
            WatchEvent::Deleted(o) => format!("-{}", o.name_any()),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["+a", "+b", "-a", "-b"]);
}

#[tokio::test]
async fn watchers_go_on_after_a_restart_and_the_state_is_kept() {
    let mut server = Server::start();
    let api = maps(server.admin().await);
    api.create(&PostParams::default(), &map("before", "x")).await.unwrap();
    let mut stream = watcher(api.clone(), watcher::Config::default().labels("l=x"))
        .default_backoff()
        .applied_objects()
        .boxed();
    see(&mut stream, "before").await;
    server.restart().await;
    let kept = loop {
        // The listener stays open meanwhile, so that the first call may be one that waits.
        if let Ok(kept) = api.get("before").await {
            break kept;
        }
    };
    assert_eq!(kept.labels()["l"], "x");
    let version: u64 = kept.resource_version().unwrap().parse().unwrap();
    let after = api.create(&PostParams::default(), &map("after", "x")).await.unwrap();
    assert!(after.resource_version().unwrap().parse::<u64>().unwrap() > version);
    see(&mut stream, "after").await;
}

/// Waits until the watcher tells of the object; errors while the server is away are the watcher's to handle.
async fn see(stream: &mut BoxStream<'static, watcher::Result<ConfigMap>>, wanted: &str) {
    let seen = async {
        while let Some(next) = stream.next().await {
            if next.is_ok_and(|object| object.name_any() == wanted) {
                return;
            }
        }
        panic!("the watcher ended");
    };
    assert!(
        tokio::time::timeout(DEADLINE, seen).await.is_ok(),
        "{wanted} was not seen"
    );
}

#[tokio::test]
async fn a_watch_from_before_a_restart_resumes_without_a_gap() {
    let mut server = Server::start();
    let api = maps(server.admin().await);
    let start = api
        .create(&PostParams::default(), &map("a", "x"))
        .await
        .unwrap()
        .resource_version()
        .unwrap();
    api.create(&PostParams::default(), &map("b", "x")).await.unwrap();
    server.restart().await;
    let api = maps(server.admin().await);
    let events = api.watch(&WatchParams::default().labels("l=x"), &start).await.unwrap();
    let first = tokio::time::timeout(DEADLINE, events.boxed().next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(first, WatchEvent::Added(o) if o.name_any() == "b"));
}

#[tokio::test]
async fn too_old_versions_are_gone_and_streaming_lists_end_with_a_bookmark() {
    let server = Server::start();
    let client = server.admin().await;
    let path = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1";
    let (status, first) = call(
        &client,
        "GET",
        &format!("{path}&resourceVersion=1&allowWatchBookmarks=true"),
        &[],
        &Value::Null,
    )
    .await;
    assert_eq!(status, 200, "{first}");
    let api = maps(client.clone());
    let mut version = String::new();
    api.create(&PostParams::default(), &map("busy", "x")).await.unwrap();
    // More changes than the history holds.
    for n in 0..2100 {
        let patch = Patch::Merge(json!({"data": {"n": n.to_string()}}));
        version = api
            .patch("busy", &PatchParams::default(), &patch)
            .await
            .unwrap()
            .resource_version()
            .unwrap();
    }
    let (_, text) =
        super::fixture::call_text(&client, "GET", &format!("{path}&resourceVersion=1"), &[], &Value::Null).await;
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["type"], &line["object"]["code"], &line["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );

    let future = format!("{path}&resourceVersion=99999999");
    assert_eq!(call(&client, "GET", &future, &[], &Value::Null).await.0, 410);

    let streaming = format!("{path}&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let (_, text) = super::fixture::call_text(&client, "GET", &streaming, &[], &Value::Null).await;
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = lines.iter().find(|l| l["type"] == "BOOKMARK").unwrap();
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(end["object"]["metadata"]["resourceVersion"], version.as_str());
}

#[tokio::test]
async fn pods_wait_for_their_grace_then_go() {
    let server = Server::start();
    let api: Api<Pod> = Api::default_namespaced(server.admin().await);
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}}),
    )
    .unwrap();
    api.create(&PostParams::default(), &pod).await.unwrap();
    let pending = api.delete("p", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(pending.metadata.deletion_grace_period_seconds, Some(30));
    assert!(api.get("p").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(
        api.delete("p", &DeleteParams::default().grace_period(0))
            .await
            .unwrap()
            .is_right()
    );
    assert!(api.get_opt("p").await.unwrap().is_none());
}
