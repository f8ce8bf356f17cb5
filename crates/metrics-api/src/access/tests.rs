//! Against a fake Kubernetes API that knows three people.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// `reader` may get /api/v1, `tenant` lists pods' traffic in `shop` and `cart`, `all` in every namespace.
#[derive(Clone)]
struct Kubernetes;

impl tower_service::Service<Request<Body>> for Kubernetes {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let is_token = request.uri().path().ends_with("/tokenreviews");
            let body = request
                .into_body()
                .collect()
                .await
                .map(|b| b.to_bytes())
                .unwrap_or_default();
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let spec = review["spec"].clone();
            review["status"] = match is_token {
                true if spec["token"] == "stranger" => json!({"authenticated": false}),
                true => json!({"authenticated": true, "user": {"username": spec["token"], "uid": spec["token"]}}),
                false => json!({"allowed": allowed(&spec)}),
            };
            Ok(Response::new(Full::new(Bytes::from(review.to_string()))))
        })
    }
}

fn allowed(spec: &Value) -> bool {
    let resource = &spec["resourceAttributes"];
    let lists =
        resource["group"] == "metrics.smi-spec.io" && resource["resource"] == "pods" && resource["verb"] == "list";
    let namespace = resource["namespace"].as_str().unwrap_or_default();
    match spec["user"].as_str() {
        Some("reader") => spec["nonResourceAttributes"] == json!({"path": "/api/v1", "verb": "get"}),
        Some("tenant") => lists && ["shop", "cart"].contains(&namespace),
        Some("all") => lists,
        _ => false,
    }
}

async fn check(token: &str, namespaces: &[&str]) -> Result<Seen, u16> {
    let access = StoreAccess::new(Client::new(Kubernetes, "default"));
    let namespaces = namespaces.iter().map(|n| (*n).to_owned()).collect();
    let header = format!("Bearer {token}");
    let seen = access.check(Some(&header), async { Ok(namespaces) }).await;
    seen.map_err(|status| status.code)
}

#[tokio::test]
async fn a_token_sees_what_its_owner_may() {
    let seen = |names: &[&str]| Ok(Seen::Namespaces(names.iter().map(|n| (*n).to_owned()).collect()));
    assert_eq!(check("reader", &["shop"]).await, Ok(Seen::All));
    assert_eq!(
        check("tenant", &["shop", "bank", "cart"]).await,
        seen(&["cart", "shop"])
    );
    assert_eq!(check("tenant", &["bank"]).await, Err(403));
    assert_eq!(check("all", &["bank", "shop"]).await, seen(&["bank", "shop"]));
    assert_eq!(check("all", &[]).await, Err(403));
    assert_eq!(check("nobody", &["shop"]).await, Err(403));
    let access = StoreAccess::new(Client::new(Kubernetes, "default"));
    // Who needs no list of namespaces, or is nobody, causes none.
    let unasked = || async { panic!("the namespaces were asked for") };
    assert_eq!(access.check(None, unasked()).await.map_err(|s| s.code), Err(401));
    let reader = access.check(Some("Bearer reader"), unasked()).await;
    assert_eq!(reader.map_err(|s| s.code), Ok(Seen::All));
    let stranger = access.check(Some("Bearer stranger"), unasked()).await;
    assert_eq!(stranger.map_err(|s| s.code), Err(401));
    // That it cannot be told now is another answer.
    let away = async { Err(Status::service_unavailable("the store is closed")) };
    let tenant = access.check(Some("Bearer tenant"), away).await;
    assert_eq!(tenant.map_err(|s| s.code), Err(503));
}
