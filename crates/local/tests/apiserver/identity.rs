//! Who may do what: tokens, reviews, RBAC, impersonation, anonymous clients.

use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::fixture::{Server, call, until};

async fn token(client: &Client, spec: Value) -> String {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (status, answer) = call(client, "POST", path, &[], &json!({"spec": spec})).await;
    assert_eq!(status, 201, "{answer}");
    answer["status"]["token"].as_str().unwrap().to_owned()
}

async fn review(client: &Client, token: &str, audiences: Value) -> Value {
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    call(
        client,
        "POST",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        &[],
        &body,
    )
    .await
    .1["status"]
        .take()
}

#[tokio::test]
async fn a_service_account_may_do_what_its_bindings_say() {
    let server = Server::start();
    let admin = server.admin().await;
    let user = server.with_token(&token(&admin, json!({})).await).await;
    let pods: Api<Pod> = Api::default_namespaced(user.clone());
    let Err(kube::Error::Api(status)) = pods.list(&ListParams::default()).await else {
        panic!("a list was allowed without any binding");
    };
    assert_eq!(status.code, 403);
    assert_eq!(
        status.message,
        "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let role =
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]});
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "default"}]});
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    assert_eq!(call(&admin, "POST", &format!("{group}/roles"), &[], &role).await.0, 201);
    assert_eq!(
        call(&admin, "POST", &format!("{group}/rolebindings"), &[], &binding)
            .await
            .0,
        422,
        "a subject without namespace"
    );
    let mut binding = binding;
    binding["subjects"][0]["namespace"] = "default".into();
    assert_eq!(
        call(&admin, "POST", &format!("{group}/rolebindings"), &[], &binding)
            .await
            .0,
        201
    );
    assert!(pods.list(&ListParams::default()).await.is_ok());
    let everywhere: Api<Pod> = Api::all(user.clone());
    assert!(everywhere.list(&ListParams::default()).await.is_err());

    let ask = |verb: &str| {
        json!({"spec": {"user": "system:serviceaccount:default:default",
        "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}})
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(
        call(&admin, "POST", path, &[], &ask("list")).await.1["status"]["allowed"],
        true
    );
    assert_eq!(
        call(&admin, "POST", path, &[], &ask("delete")).await.1["status"]["allowed"],
        false
    );
    assert_eq!(
        call(&user, "POST", path, &[], &ask("list")).await.0,
        403,
        "reviews of others need a right of their own"
    );

    // Impersonation needs the right to, and then counts.
    let as_joe = [("impersonate-user", "joe")];
    let (status, answer) = call(&admin, "GET", "/api/v1/namespaces/default/pods", &as_joe, &Value::Null).await;
    assert!(
        status == 403 && answer["message"].as_str().unwrap().contains("User \"joe\""),
        "{answer}"
    );
    let (status, answer) = call(&user, "GET", "/api/v1/namespaces/default/pods", &as_joe, &Value::Null).await;
    assert!(
        status == 403 && answer["message"].as_str().unwrap().contains("cannot impersonate"),
        "{answer}"
    );
}

#[tokio::test]
async fn bound_tokens_tell_their_pod_and_die_with_it() {
    let server = Server::start();
    let admin = server.admin().await;
    let pods: Api<Pod> = Api::default_namespaced(admin.clone());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "weir"}]}});
    let pod = pods
        .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let uid = pod.metadata.uid.unwrap();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid});
    let text = token(
        &admin,
        json!({"audiences": ["weir-xds"], "expirationSeconds": 600, "boundObjectRef": bound}),
    )
    .await;

    let status = review(&admin, &text, json!(["weir-xds", "other"])).await;
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["weir-xds"]))
    );
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-uid"],
        json!([uid])
    );
    assert_eq!(
        review(&admin, &text, json!(["elsewhere"])).await["authenticated"],
        false
    );
    assert_eq!(review(&admin, "nonsense", json!([])).await["authenticated"], false);
    // It is not for the API server itself.
    let other: Api<ServiceAccount> = Api::default_namespaced(server.with_token(&text).await);
    assert!(matches!(other.list(&ListParams::default()).await, Err(kube::Error::Api(s)) if s.code == 401));

    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let status = review(&admin, &text, json!(["weir-xds"])).await;
    assert_eq!(status["authenticated"], false, "{status}");
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, _) = call(&admin, "POST", path, &[], &json!({"spec": {"boundObjectRef": bound}})).await;
    assert_eq!(code, 404);
    let (code, answer) = call(&admin, "POST", path, &[], &json!({"spec": {"expirationSeconds": 10}})).await;
    assert!(
        code == 422 && answer["message"].as_str().unwrap().contains("spec.expirationSeconds"),
        "{answer}"
    );
}

#[tokio::test]
async fn tokens_outlive_a_restart_but_not_their_account() {
    let mut server = Server::start();
    let admin = server.admin().await;
    let text = token(&admin, json!({})).await;
    server.restart().await;
    let admin = server.admin().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let user = server.with_token(&text).await;
    let (_, me) = call(&user, "POST", path, &[], &json!({})).await;
    assert_eq!(
        me["status"]["userInfo"]["username"],
        "system:serviceaccount:default:default"
    );
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin.clone());
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    // The namespace gets a new one, but that is another.
    until("the account is there again", || async {
        accounts.get_opt("default").await.unwrap().is_some()
    })
    .await;
    assert_eq!(call(&user, "POST", path, &[], &json!({})).await.0, 401);
}

#[tokio::test]
async fn anonymous_clients_see_health_and_version_only() {
    let server = Server::start();
    let mut config = kube::Config::new(server.url().parse().unwrap());
    config.accept_invalid_certs = true;
    let nobody = Client::try_from(config).unwrap();
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/api", 403),
        ("/apis", 403),
        ("/api/v1/pods", 403),
    ] {
        assert_eq!(call(&nobody, "GET", path, &[], &Value::Null).await.0, code, "{path}");
    }
    let secrets: Api<Secret> = Api::default_namespaced(nobody);
    assert!(matches!(secrets.list(&ListParams::default()).await, Err(kube::Error::Api(s)) if s.code == 403));
}
