//! Binds pods to a node. Every node fits every pod that its labels allow: one machine has nothing to weigh up.

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use tracing::debug;

use super::queue::Key;
use super::{Context, Outcome, pods};

/// Whether the default scheduler must find a node for it.
pub fn is_unbound(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = spec
        .scheduler_name
        .as_deref()
        .is_none_or(|name| name == "default-scheduler");
    ours && spec.node_name.as_deref().is_none_or(str::is_empty) && pods::is_active(pod)
}

/// Whether new pods may go there and this one may.
pub fn fits(node: &Node, pod: &Pod) -> bool {
    let open = node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true));
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let wanted = |(name, value): (&String, &String)| node.labels().get(name) == Some(value);
    open && selector.into_iter().flatten().all(wanted)
}

pub async fn reconcile(context: &Context, key: &Key) -> Outcome {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(pod) = api.get_opt(&key.name).await?.filter(is_unbound) else {
        return Ok(None);
    };
    let mut nodes = context.nodes.state();
    nodes.sort_by_key(|node| node.name_any());
    // Without a fitting node it waits for one: a node's event brings it back.
    let Some(node) = nodes.into_iter().find(|node| fits(node, &pod)) else {
        debug!(pod = %key, "no node fits");
        return Ok(None);
    };
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: pod.uid(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.name_any()),
            ..ObjectReference::default()
        },
    };
    let _: serde_json::Value = api
        .create_subresource("binding", &key.name, &PostParams::default(), &binding)
        .await?;
    Ok(None)
}
