//! `weir control`: the control plane, and what it tells about itself as the API group `weir.dev`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::mesh_status::{Proxy, ProxyState};
use weir_control::explain::{self, Request};
use weir_control::lower::GATEWAY_NODE;
use weir_control::{Config, Control, ControlHandle, ProxyStatus};
use weir_mesh::Key;
use weir_metrics_api::aggregated;
use weir_metrics_api::mesh_status::{MeshStatus, Unexplained, group};

use super::{client, until_signal};
use crate::{admin, args};

pub async fn run(arguments: args::Control) -> Result<()> {
    let client = client(&arguments.kubernetes).await?;
    let (control, handle) = Control::new(Config {
        client: client.clone(),
        xds_listen: arguments.xds_address,
        namespace: arguments.namespace.clone(),
        extra_names: Vec::new(),
        gateway_account: arguments.gateway_account.clone(),
    });
    let api_server = aggregated::Config {
        address: arguments.api_address,
        serving: aggregated::Serving::SelfSigned {
            names: vec![
                format!("weir-control.{}.svc", arguments.namespace),
                "localhost".to_owned(),
            ],
        },
        api_services: vec!["v1alpha1.weir.dev".to_owned()],
    };
    let groups = vec![group(mesh_status(&handle, &arguments.gateway_account.namespace))];
    let api_ready = ready(&handle);
    let admin = admin::Health {
        ready: Box::new(ready(&handle)),
        metrics: Box::new(metrics(&handle)),
    };
    until_signal(|shutdown| async move {
        tokio::try_join!(
            async { control.run(shutdown.clone()).await.context("control plane") },
            async {
                let served = aggregated::run(api_server, client, groups, Arc::new(api_ready), shutdown.clone()).await;
                served.context("API weir.dev")
            },
            admin::serve(arguments.admin_address, admin, shutdown.clone()),
        )?;
        Ok(())
    })
    .await
}

fn ready(handle: &ControlHandle) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
    let handle = handle.clone();
    move || match handle.ready() {
        true => Ok(()),
        false => Err("the first list of every kind of object".to_owned()),
    }
}

/// How the mesh stands, as gauges.
fn metrics(handle: &ControlHandle) -> impl Fn() -> String + Send + Sync + 'static {
    let handle = handle.clone();
    move || {
        let proxies = handle.proxies();
        let gauges = [
            (
                "weir_control_proxies",
                "Proxies that there should be or are.",
                proxies.len(),
            ),
            (
                "weir_control_proxies_connected",
                "Proxies with an open configuration stream.",
                proxies.iter().filter(|proxy| proxy.connected).count(),
            ),
            (
                "weir_control_proxies_synced",
                "Proxies that have taken all that they were sent.",
                proxies.iter().filter(|proxy| proxy.synced).count(),
            ),
            (
                "weir_control_problems",
                "Problems of objects now.",
                handle.problems().len(),
            ),
        ];
        gauges
            .iter()
            .map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"))
            .collect()
    }
}

/// The control plane's own view as API objects. The gateway's node has no namespace in its id: it is shown in that of its pods.
fn mesh_status(handle: &ControlHandle, gateway_namespace: &str) -> MeshStatus {
    let (proxies, config, problems) = (handle.clone(), handle.clone(), handle.clone());
    let explained = handle.clone();
    let (of_gateway, gateway) = (
        gateway_namespace.to_owned(),
        Key::new(gateway_namespace, GATEWAY_NODE).node_id(),
    );
    MeshStatus {
        explain: Arc::new(move |namespace, pod, parameters| {
            let request = Request::from_parameters(parameters);
            let way = request.and_then(|request| explained.explain(&Key::new(namespace, pod), &request));
            way.map_err(|why| match why {
                explain::Error::NoPod(_) => Unexplained::NoPod,
                why => Unexplained::Wrong(why.to_string()),
            })
        }),
        proxies: Arc::new(move || {
            let placed = |mut status: ProxyStatus| {
                if status.node == GATEWAY_NODE {
                    status.namespace.clone_from(&of_gateway);
                }
                proxy(status)
            };
            proxies.proxies().into_iter().map(placed).collect()
        }),
        config: Arc::new(move |node| config.config(if node == gateway { GATEWAY_NODE } else { node })),
        problems: Arc::new(move || problems.problems()),
    }
}

fn proxy(status: ProxyStatus) -> Proxy {
    let rejected = status
        .rejected
        .iter()
        .map(|nack| nack.message.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    let synced: BTreeMap<String, bool> = status
        .types
        .iter()
        .map(|(name, versions)| {
            (
                name.clone(),
                versions.sent_version == versions.acked_version && versions.last_nack.is_none(),
            )
        })
        .collect();
    Proxy {
        metadata: ObjectMeta {
            namespace: Some(status.namespace),
            name: Some(status.pod),
            ..ObjectMeta::default()
        },
        status: ProxyState {
            node_id: status.node,
            engine: status.engine,
            id: status.id,
            node: status.machine,
            connected: status.connected,
            synced,
            last_rejection: rejected,
        },
        ..Proxy::default()
    }
}
