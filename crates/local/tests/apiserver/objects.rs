//! Objects: create, read, update, patch, select, validate, print.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::fixture::{Server, call};

const TABLE: (&str, &str) = (
    "accept",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
);

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "weir"}]}}}})
}

#[tokio::test]
async fn updates_conflict_and_generations_count_the_spec() {
    let server = Server::start();
    let api: Api<Deployment> = Api::default_namespaced(server.admin().await);
    let made = api
        .create(
            &PostParams::default(),
            &serde_json::from_value(deployment("d")).unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let again = api
        .create(
            &PostParams::default(),
            &serde_json::from_value(deployment("d")).unwrap(),
        )
        .await;
    assert!(
        matches!(again, Err(kube::Error::Api(s)) if s.code == 409 && s.message == "deployments.apps \"d\" already exists")
    );

    let mut first = made.clone();
    first.spec.replicas = Some(3);
    let first = api.replace("d", &PostParams::default(), &first).await.unwrap();
    assert_eq!(first.metadata.generation, Some(2));
    let mut second = made;
    second.spec.replicas = Some(4);
    let Err(kube::Error::Api(status)) = api.replace("d", &PostParams::default(), &second).await else {
        panic!("a stale update was accepted");
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert!(
        status
            .message
            .starts_with("Operation cannot be fulfilled on deployments.apps \"d\": the object has been modified")
    );

    // Status and spec do not touch each other.
    let patch = Patch::Merge(json!({"spec": {"replicas": 9}, "status": {"replicas": 3}}));
    let after = api.patch_status("d", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(after.spec.replicas, Some(3));
    assert_eq!(after.status.unwrap().replicas, Some(3));
    let after = api
        .patch(
            "d",
            &PatchParams::default(),
            &Patch::Merge(json!({"status": {"replicas": 8}, "metadata": {"labels": {"x": "y"}}})),
        )
        .await
        .unwrap();
    assert_eq!(
        (after.status.unwrap().replicas, after.metadata.generation),
        (Some(3), Some(2))
    );

    let scaled = api
        .patch_scale(
            "d",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 5}})),
        )
        .await
        .unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(5));
    assert_eq!(
        api.get_scale("d").await.unwrap().status.unwrap().selector.as_deref(),
        Some("app=d")
    );
    assert_eq!(api.get("d").await.unwrap().metadata.generation, Some(3));
}

#[tokio::test]
async fn every_kind_of_patch_and_a_label_with_a_port() {
    let server = Server::start();
    let client = server.admin().await;
    let api: Api<Service> = Api::default_namespaced(client.clone());
    let apply = PatchParams::apply("test");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews"}, "spec": {
        "selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 9080}]}});
    let made = api
        .patch("reviews", &apply, &Patch::Apply(service.clone()))
        .await
        .unwrap();
    let spec = made.spec.unwrap();
    let ip = spec.cluster_ip.unwrap();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(
        serde_json::to_value(&spec.ports.unwrap()[0].target_port).unwrap(),
        json!(9080)
    );

    let label = Patch::Strategic(json!({"metadata": {"labels": {"traffic.port.9080": "http"}}}));
    let labelled = api.patch("reviews", &PatchParams::default(), &label).await.unwrap();
    assert_eq!(labelled.metadata.labels.unwrap()["traffic.port.9080"], "http");
    let bad = Patch::Merge(json!({"metadata": {"labels": {"traffic.port.9080": "h t t p"}}}));
    let Err(kube::Error::Api(status)) = api.patch("reviews", &PatchParams::default(), &bad).await else {
        panic!("a bad label was accepted");
    };
    assert!(
        status.code == 422 && status.message.contains("metadata.labels: Invalid value: \"h t t p\""),
        "{}",
        status.message
    );

    // Applying without the field that was applied takes it away; the label of someone else stays.
    let mut annotated = service.clone();
    annotated["metadata"]["annotations"] = json!({"a": "b"});
    api.patch("reviews", &apply, &Patch::Apply(annotated)).await.unwrap();
    let after = api.patch("reviews", &apply, &Patch::Apply(service)).await.unwrap();
    assert!(after.metadata.annotations.unwrap_or_default().is_empty());
    assert_eq!(after.metadata.labels.unwrap()["traffic.port.9080"], "http");
    assert_eq!(after.spec.unwrap().cluster_ip, Some(ip));

    let json_patch = json!([{"op": "test", "path": "/spec/ports/0/port", "value": 9080}, {"op": "replace", "path": "/spec/ports/0/port", "value": 80}]);
    let path = "/api/v1/namespaces/default/services/reviews";
    let (code, after) = call(
        &client,
        "PATCH",
        path,
        &[("content-type", "application/json-patch+json")],
        &json_patch,
    )
    .await;
    assert_eq!((code, &after["spec"]["ports"][0]["port"]), (200, &json!(80)));
}

#[tokio::test]
async fn lists_select_by_labels_and_fields() {
    let server = Server::start();
    let api: Api<Pod> = Api::default_namespaced(server.admin().await);
    for (name, version) in [("a", "v1"), ("b", "v2"), ("c", "v3")] {
        let pod = json!({"metadata": {"name": name, "labels": {"version": version}}, "spec": {"nodeName": format!("node-{name}"),
            "containers": [{"name": "c", "image": "weir"}]}});
        api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }
    let names = |list: kube::core::ObjectList<Pod>| -> Vec<String> {
        list.items.into_iter().filter_map(|p| p.metadata.name).collect()
    };
    let by = |labels: &str, fields: &str| ListParams::default().labels(labels).fields(fields);
    assert_eq!(
        names(api.list(&by("version in (v1,v3)", "")).await.unwrap()),
        ["a", "c"]
    );
    assert_eq!(
        names(api.list(&by("version!=v1", "spec.nodeName=node-b")).await.unwrap()),
        ["b"]
    );
    assert_eq!(
        names(api.list(&by("", "metadata.name=c,status.phase=Pending")).await.unwrap()),
        ["c"]
    );
    assert!(matches!(api.list(&by("", "spec.nonsense=x")).await, Err(kube::Error::Api(s)) if s.code == 400));
    api.delete_collection(&DeleteParams::default().grace_period(0), &by("version=v1", ""))
        .await
        .unwrap();
    assert_eq!(names(api.list(&ListParams::default()).await.unwrap()), ["b", "c"]);
}

#[tokio::test]
async fn pods_get_account_token_volume_and_defaults() {
    let server = Server::start();
    let api: Api<Pod> = Api::default_namespaced(server.admin().await);
    let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": "weir"}]}});
    let pod = api
        .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    assert!(pod.metadata.name.unwrap().len() == 7);
    let spec = pod.spec.unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    let mount = &spec.containers[0].volume_mounts.as_ref().unwrap()[0];
    assert_eq!(mount.mount_path, "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec.volumes.unwrap()[0].name, mount.name);
    let other = json!({"metadata": {"name": "q"}, "spec": {"serviceAccountName": "none", "containers": [{"name": "c", "image": "weir"}]}});
    let refused = api
        .create(&PostParams::default(), &serde_json::from_value(other).unwrap())
        .await;
    assert!(
        matches!(refused, Err(kube::Error::Api(s)) if s.code == 403 && s.message.contains("serviceaccount \"none\" not found"))
    );
}

#[tokio::test]
async fn wrong_manifests_are_refused_with_their_field() {
    let server = Server::start();
    let client = server.admin().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let strict = "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict";
    let with = |pointer: &str, value: Value| {
        let mut d = deployment("bad");
        *d.pointer_mut(pointer).unwrap() = value;
        d
    };
    let cases = [
        (
            deployments,
            with("/spec", json!({"replicas": "many"})),
            400,
            "spec.replicas",
        ),
        (
            deployments,
            with("/spec/template/spec/containers", json!([])),
            422,
            "spec.template.spec.containers: Required value",
        ),
        (
            deployments,
            with("/spec/selector/matchLabels", json!({"app": "other"})),
            422,
            "`selector` does not match template `labels`",
        ),
        (
            strict,
            with(
                "/spec/template/spec/containers/0",
                json!({"name": "c", "image": "x", "comand": ["a"]}),
            ),
            400,
            "unknown field \"spec.template.spec.containers[0].comand\"",
        ),
        (
            deployments,
            with("/kind", json!("Pod")),
            400,
            "does not match the expected",
        ),
        (
            "/api/v1/namespaces/none/configmaps",
            json!({"metadata": {"name": "x"}}),
            404,
            "namespaces \"none\" not found",
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 70000}]}}),
            422,
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535",
        ),
    ];
    for (path, body, code, part) in cases {
        let (status, answer) = call(&client, "POST", path, &[], &body).await;
        let message = answer["message"].as_str().unwrap_or("");
        assert!(status == code && message.contains(part), "{part}: {status} {message}");
        assert_eq!(answer["kind"], "Status");
    }
    let (status, _) = call(&client, "POST", deployments, &[], &json!("text")).await;
    assert_eq!(status, 400);
    let huge = json!({"metadata": {"name": "x"}, "data": {"x": "y".repeat(4 << 20)}});
    let (status, _) = call(&client, "POST", "/api/v1/namespaces/default/configmaps", &[], &huge).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn custom_resources_are_checked_served_and_printed() {
    let server = Server::start();
    let client = server.admin().await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "splits.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "splits", "kind": "Split", "shortNames": ["sp"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Service", "type": "string", "jsonPath": ".spec.service"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": ["service"],
                "properties": {"service": {"type": "string"}, "weight": {"type": "integer", "minimum": 0}}},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
            {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let (status, made) = call(
        &client,
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        &[],
        &definition,
    )
    .await;
    assert_eq!(status, 201, "{made}");
    assert!(
        made["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    );

    let path = "/apis/test.dev/v1/namespaces/default/splits";
    let bad = json!({"metadata": {"name": "s"}, "spec": {"weight": "abc"}});
    let (status, answer) = call(&client, "POST", path, &[], &bad).await;
    assert_eq!(status, 422);
    for part in [
        "Split.test.dev \"s\" is invalid",
        "spec.service: Required value",
        "spec.weight in body must be of type integer: \"string\"",
    ] {
        assert!(answer["message"].as_str().unwrap().contains(part), "{answer}");
    }
    let good = json!({"metadata": {"name": "s"}, "spec": {"service": "reviews", "weight": 1, "unknown": 2}, "status": {"x": 1}});
    let (status, made) = call(&client, "POST", path, &[], &good).await;
    assert_eq!(
        (status, &made["spec"]),
        (201, &json!({"service": "reviews", "weight": 1}))
    );
    assert!(made.get("status").is_none());
    let (_, other) = call(
        &client,
        "GET",
        "/apis/test.dev/v2/namespaces/default/splits/s",
        &[],
        &Value::Null,
    )
    .await;
    assert_eq!(
        (&other["apiVersion"], &other["spec"]["service"]),
        (&json!("test.dev/v2"), &json!("reviews"))
    );
    let (_, table) = call(&client, "GET", path, &[TABLE], &Value::Null).await;
    assert_eq!(table["rows"][0]["cells"], json!(["s", "reviews"]));

    // With the definition its objects go.
    call(
        &client,
        "DELETE",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/splits.test.dev",
        &[],
        &Value::Null,
    )
    .await;
    super::fixture::until("the resource is no longer served", || async {
        call(&client, "GET", path, &[], &Value::Null).await.0 == 404
    })
    .await;
}

/// What was stored must be readable at the next start, and a small patch must not make a large object.
#[tokio::test]
async fn objects_nested_deeply_or_copied_often_are_refused() {
    let mut server = Server::start();
    let client = server.admin().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    let map = |name: &str, levels| json!({"metadata": {"name": name}, "x": nested(levels)});
    let (status, answer) = call(&client, "POST", path, &[], &map("deep", 110)).await;
    assert_eq!(status, 422, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("\"deep\"") && message.contains("deeper than 100 levels"),
        "{answer}"
    );
    assert_eq!(call(&client, "POST", path, &[], &map("high", 95)).await.0, 201);
    let high = format!("{path}/high");
    let json_patch = [("content-type", "application/json-patch+json")];
    let deeper = json!([{"op": "add", "path": "/x/a", "value": nested(110)}]);
    assert_eq!(call(&client, "PATCH", &high, &json_patch, &deeper).await.0, 422);
    let mut copies = vec![json!({"op": "add", "path": "/y", "value": {"a": "some text that is copied"}})];
    copies.extend((0..30).map(|n| json!({"op": "copy", "from": "/y", "path": format!("/y/c{n}")})));
    let (status, answer) = call(&client, "PATCH", &high, &json_patch, &json!(copies)).await;
    assert!(
        status == 413 && answer["message"].as_str().unwrap().contains("copy at most"),
        "{status} {answer}"
    );

    server.restart().await;
    let client = server.admin().await;
    super::fixture::until("the object after the restart", || async {
        call(&client, "GET", &high, &[], &Value::Null).await.0 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn definitions_written_at_once_are_all_served() {
    let server = Server::start();
    let client = server.admin().await;
    for round in 0..20 {
        let plurals: Vec<String> = (0..8).map(|n| format!("kind{round}x{n}s")).collect();
        let writes = plurals.iter().map(|plural| {
            let (client, plural) = (client.clone(), plural.clone());
            tokio::spawn(async move {
                let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                    "metadata": {"name": format!("{plural}.many.dev")}, "spec": {"group": "many.dev", "scope": "Namespaced",
                    "names": {"plural": plural, "kind": plural.to_uppercase()}, "versions": [{"name": "v1", "served": true,
                        "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
                let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
                call(&client, "POST", path, &[], &definition).await.0
            })
        });
        for write in writes.collect::<Vec<_>>() {
            assert_eq!(write.await.unwrap(), 201);
        }
        let (_, found) = call(&client, "GET", "/apis/many.dev/v1", &[], &Value::Null).await;
        let served: Vec<&str> = found["resources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        for plural in &plurals {
            assert!(
                served.contains(&plural.as_str()),
                "round {round}: {plural} is not among {served:?}"
            );
        }
    }
}

#[tokio::test]
async fn both_event_groups_show_the_same_events() {
    let server = Server::start();
    let client = server.admin().await;
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Service", "name": "reviews", "namespace": "default"},
        "reason": "UnknownProtocol", "note": "say http", "type": "Warning", "action": "Check",
        "reportingController": "weir", "reportingInstance": "weir-0", "eventTime": "2026-01-01T00:00:00.000000Z"});
    let (status, made) = call(
        &client,
        "POST",
        "/apis/events.k8s.io/v1/namespaces/default/events",
        &[],
        &event,
    )
    .await;
    assert_eq!(status, 201, "{made}");
    let (_, list) = call(
        &client,
        "GET",
        "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dreviews",
        &[],
        &Value::Null,
    )
    .await;
    assert_eq!(list["items"][0]["message"], "say http");
    let (_, again) = call(
        &client,
        "GET",
        "/apis/events.k8s.io/v1/namespaces/default/events/e",
        &[],
        &Value::Null,
    )
    .await;
    assert_eq!(
        (&again["note"], &again["regarding"]["name"]),
        (&json!("say http"), &json!("reviews"))
    );
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let server = Server::start();
    let api: Api<ConfigMap> = Api::default_namespaced(server.admin().await);
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "x"}, "data": {"a": "b"}})).unwrap();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    assert!(api.create(&dry, &map).await.unwrap().metadata.uid.is_some());
    assert!(api.get_opt("x").await.unwrap().is_none());
}

/// A list in pages shows one version throughout, whatever is written in between.
#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let server = Server::start();
    let client = server.admin().await;
    let path = "/api/v1/namespaces/paged/configmaps";
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "paged"}});
    assert_eq!(
        call(&client, "POST", "/api/v1/namespaces", &[], &namespace).await.0,
        201
    );
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "us"}}});
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(call(&client, "POST", path, &[], &map(name)).await.0, 201);
    }
    // As kubectl asks.
    let list = async |query: &str| {
        call(
            &client,
            "GET",
            &format!("{path}?labelSelector=of%3Dus&{query}"),
            &[],
            &Value::Null,
        )
        .await
    };
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, first) = list("limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(
        first["metadata"]["remainingItemCount"],
        Value::Null,
        "of a selection nobody counts"
    );
    let version = first["metadata"]["resourceVersion"].clone();
    let next = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // What is written now is seen by the next list.
    assert_eq!(
        call(&client, "DELETE", &format!("{path}/c"), &[], &Value::Null).await.0,
        200
    );
    assert_eq!(call(&client, "POST", path, &[], &map("bb")).await.0, 201);
    let patch = json!({"data": {"new": "yes"}});
    let merge = [("content-type", "application/merge-patch+json")];
    assert_eq!(
        call(&client, "PATCH", &format!("{path}/d"), &merge, &patch).await.0,
        200
    );
    let (_, second) = list(&format!("limit=2&continue={next}")).await;
    assert_eq!(
        (names(&second), &second["metadata"]["resourceVersion"]),
        (vec!["c".to_owned(), "d".to_owned()], &version)
    );
    assert_eq!(second["items"][1]["data"], Value::Null, "as it was");
    let next = second["metadata"]["continue"].as_str().unwrap().to_owned();
    let (_, third) = list(&format!("limit=2&continue={next}")).await;
    assert_eq!(
        (names(&third), third["metadata"].get("continue")),
        (vec!["e".to_owned()], None)
    );
    assert_eq!(names(&list("limit=500").await.1), ["a", "b", "bb", "d", "e"]);
    // A table, without a selection.
    let (_, table) = call(&client, "GET", &format!("{path}?limit=1"), &[TABLE], &Value::Null).await;
    let rows = table["rows"].as_array().unwrap().len() as u64;
    assert_eq!(rows, 1);
    assert!(
        table["metadata"]["remainingItemCount"].as_u64().unwrap() >= 4 && table["metadata"]["continue"].is_string()
    );
    // Tokens that are none, of a version that nobody remembers, and with a version beside it.
    let (status, answer) = list("limit=2&continue=nonsense").await;
    assert_eq!((status, &answer["reason"]), (400, &json!("BadRequest")));
    let old = base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        br#"{"version":0,"after":["paged","a"]}"#,
    );
    let (status, answer) = list(&format!("limit=2&continue={old}")).await;
    assert_eq!((status, &answer["reason"]), (410, &json!("Expired")));
    assert_eq!(list(&format!("limit=2&resourceVersion=7&continue={next}")).await.0, 400);
}

/// What `kubectl explain` reads.
#[tokio::test]
async fn the_fields_of_built_in_kinds_are_told() {
    let server = Server::start();
    let client = server.admin().await;
    let (_, document) = call(&client, "GET", "/openapi/v3/apis/apps/v1", &[], &Value::Null).await;
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.PodSpec"]["properties"];
    assert_eq!(
        spec["containers"]["items"]["$ref"],
        "#/components/schemas/io.k8s.api.Container"
    );
    assert_eq!(spec["hostNetwork"]["type"], "boolean");
}
