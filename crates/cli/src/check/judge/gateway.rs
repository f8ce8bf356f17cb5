//! The ingress gateway: its Deployment, its image, and the Service that leads to it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use weir_api::mesh_status::{GATEWAY, GATEWAY_NAMESPACE};

use super::{DEPLOYMENTS, known, name};
use crate::check::collect::Facts;
use crate::check::{Finding, Mark};

const INSTALL: &str = "`weir install | kubectl apply -f -`";

/// Adds a row for each thing that is wrong with it, else one that says that it is well, or that there is none.
pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    let subject = format!("ingress gateway {GATEWAY_NAMESPACE}/{GATEWAY}");
    let Some(deployments) = known(&facts.deployments, &subject, findings) else {
        return;
    };
    let Some(services) = known(&facts.gateway_services, &subject, findings) else {
        return;
    };
    let here =
        |d: &&Deployment| name(&d.metadata) == GATEWAY && d.metadata.namespace.as_deref() == Some(GATEWAY_NAMESPACE);
    let mut add = |mark, detail: String| findings.push(Finding::new(mark, subject.clone(), detail));
    let (deployment, service) = match (deployments.iter().find(here), services.first()) {
        // Whoever lets nothing in from outside leaves its manifest out.
        (None, None) => return add(Mark::Ok, "not installed".to_owned()),
        (None, Some(_)) => {
            return add(
                Mark::Fail,
                format!("no Deployment {GATEWAY_NAMESPACE}/{GATEWAY} behind its Service: {INSTALL}"),
            );
        }
        (Some(deployment), service) => (deployment, service),
    };
    let template = &deployment.spec.template;
    let of_pods = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let selector = service
        .and_then(|s| s.spec.as_ref())
        .and_then(|spec| spec.selector.as_ref());
    let mut well = true;
    let mut wrong = |mark, detail| {
        well = false;
        add(mark, detail);
    };
    match (service, selector) {
        (None, _) => wrong(
            Mark::Fail,
            format!("no Service {GATEWAY_NAMESPACE}/{GATEWAY} leads to it: {INSTALL}"),
        ),
        // A Service without a selector is somebody's own way to lead there.
        (Some(_), Some(selector)) if !selects(selector, of_pods) => wrong(
            Mark::Fail,
            format!(
                "its Service selects {}, which its pods are not: {INSTALL}",
                labels(selector)
            ),
        ),
        _ => {}
    }
    let (ours, theirs) = (image(Some(deployment)), control_image(facts));
    if let (Some(ours), Some(theirs)) = (ours, theirs)
        && ours != theirs
    {
        wrong(
            Mark::Warn,
            format!(
                "runs the image {ours}, {} {theirs}: install both from one release",
                DEPLOYMENTS[0]
            ),
        );
    }
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    match deployment.spec.replicas.unwrap_or(1) {
        0 => wrong(Mark::Warn, "scaled to 0: nothing comes in from outside".to_owned()),
        wanted if ready < wanted => wrong(
            Mark::Fail,
            format!("{ready} of {wanted} ready: `kubectl get pods -n {GATEWAY_NAMESPACE} -l app={GATEWAY}` shows why"),
        ),
        wanted if well => add(Mark::Ok, format!("{ready} of {wanted} ready")),
        _ => {}
    }
}

fn selects(selector: &BTreeMap<String, String>, of_pods: Option<&BTreeMap<String, String>>) -> bool {
    selector
        .iter()
        .all(|(key, value)| of_pods.and_then(|labels| labels.get(key)) == Some(value))
}

fn labels(selector: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

/// The image of the only container that both have.
fn image(deployment: Option<&Deployment>) -> Option<&str> {
    let spec = deployment?.spec.template.spec.as_ref()?;
    spec.containers.first()?.image.as_deref()
}

fn control_image(facts: &Facts) -> Option<&str> {
    let control = facts.system_deployments.iter().flatten();
    image(control.into_iter().find(|d| name(&d.metadata) == DEPLOYMENTS[0]))
}
