//! Asks the Kubernetes API for all that the report is about.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use weir_api::mesh_status::{
    GATEWAY, GATEWAY_NAMESPACE, GROUP, ProblemObject, Proxy, SCRAPE_GROUP, ScrapeTarget, VERSION,
};

use crate::connect::{Cluster, escape};
use crate::error::Error;

/// An answer, or why there is none.
pub type Answer<T> = Result<T, String>;

/// What the Kubernetes API said.
pub struct Facts {
    pub weir_namespace: String,
    pub namespaces: Answer<Vec<Namespace>>,
    pub definitions: Answer<Vec<CustomResourceDefinition>>,
    pub api_services: Answer<Vec<APIService>>,
    pub system_deployments: Answer<Vec<Deployment>>,
    pub system_daemon_sets: Answer<Vec<DaemonSet>>,
    pub deployments: Answer<Vec<Deployment>>,
    /// The Service of the gateway, if there is one.
    pub gateway_services: Answer<Vec<Service>>,
    pub pods: Answer<Vec<Pod>>,
    pub proxies: Answer<Vec<Proxy>>,
    pub problems: Answer<Vec<ProblemObject>>,
    pub targets: Answer<Vec<ScrapeTarget>>,
}

#[derive(Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// Asks everything at once. An error only when there is no cluster to ask.
pub async fn facts(cluster: &Cluster, weir_namespace: &str) -> Result<Facts, Error> {
    // Without it every row would say the same.
    cluster.text("/version").await?;
    let apps = "/apis/apps/v1";
    let system = format!("{apps}/namespaces/{}", escape(weir_namespace));
    let (deployments, daemon_sets) = (format!("{system}/deployments"), format!("{system}/daemonsets"));
    let (all_deployments, weir) = (format!("{apps}/deployments"), format!("/apis/{GROUP}/{VERSION}"));
    let (proxies, problems) = (format!("{weir}/proxies"), format!("{weir}/problems"));
    let targets = format!("/apis/{SCRAPE_GROUP}/{VERSION}/targets");
    let first = futures::future::join4(
        list(cluster, "/api/v1/namespaces"),
        list(cluster, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        list(cluster, "/apis/apiregistration.k8s.io/v1/apiservices"),
        list(cluster, "/api/v1/pods"),
    );
    let gateway_service =
        format!("/api/v1/namespaces/{GATEWAY_NAMESPACE}/services?fieldSelector=metadata.name%3D{GATEWAY}");
    let second = futures::future::join4(
        list(cluster, &deployments),
        list(cluster, &daemon_sets),
        list(cluster, &all_deployments),
        list(cluster, &gateway_service),
    );
    let third = futures::future::join3(
        list(cluster, &proxies),
        list(cluster, &problems),
        list(cluster, &targets),
    );
    let (
        (namespaces, definitions, api_services, pods),
        (system_deployments, system_daemon_sets, deployments, gateway_services),
        (proxies, problems, targets),
    ) = futures::future::join3(first, second, third).await;
    Ok(Facts {
        weir_namespace: weir_namespace.to_owned(),
        namespaces,
        definitions,
        api_services,
        system_deployments,
        system_daemon_sets,
        deployments,
        gateway_services,
        pods,
        proxies,
        problems,
        targets,
    })
}

async fn list<T: DeserializeOwned>(cluster: &Cluster, path: &str) -> Answer<Vec<T>> {
    match cluster.get::<Items<T>>(path).await {
        Ok(list) => Ok(list.items),
        // The first line says what is wrong; the advice behind it would only repeat in each row.
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}
