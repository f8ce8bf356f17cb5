//! What the Kubernetes API said -> findings. Pure.

mod gateway;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use weir_api::labels;

use super::collect::{Answer, Facts};
use super::{Finding, Mark};
use crate::proxies::synced_text;

const DEFINITIONS: [&str; 2] = ["trafficsplits.split.smi-spec.io", "httproutegroups.specs.smi-spec.io"];
const API_SERVICES: [&str; 3] = [
    "v1alpha1.metrics.smi-spec.io",
    "v1alpha1.weir.dev",
    "v1alpha1.metrics.weir.dev",
];
const DEPLOYMENTS: [&str; 2] = ["weir-control", "weir-metrics"];
const AGENT: &str = "weir-agent";

/// The whole report, in the order of the data's way.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    installed(facts, &mut findings);
    system(facts, &mut findings);
    api_services(facts, &mut findings);
    gateway::judge(facts, &mut findings);
    pods(facts, &mut findings);
    proxies(facts, &mut findings);
    targets(facts, &mut findings);
    problems(facts, &mut findings);
    findings
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn full_name(meta: &ObjectMeta) -> String {
    match meta.namespace.as_deref() {
        None | Some("") => name(meta).to_owned(),
        Some(namespace) => format!("{namespace}/{}", name(meta)),
    }
}

/// The answer, or a row that says why there is none.
fn known<'a, T>(answer: &'a Answer<T>, subject: &str, findings: &mut Vec<Finding>) -> Option<&'a T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(reason) => {
            // Not to be allowed to look is no fault of the mesh; anything else is.
            let mark = if reason.contains("forbidden") {
                Mark::Warn
            } else {
                Mark::Fail
            };
            findings.push(Finding::new(mark, subject, reason.clone()));
            None
        }
    }
}

fn installed(facts: &Facts, findings: &mut Vec<Finding>) {
    if let Some(definitions) = known(&facts.definitions, "custom resource definitions", findings) {
        for wanted in DEFINITIONS {
            let subject = format!("custom resource {wanted}");
            findings.push(match definitions.iter().any(|d| name(&d.metadata) == wanted) {
                true => Finding::new(Mark::Ok, subject, "installed"),
                false => Finding::new(Mark::Fail, subject, "missing: `weir install | kubectl apply -f -`"),
            });
        }
    }
}

fn system(facts: &Facts, findings: &mut Vec<Finding>) {
    let namespace = &facts.weir_namespace;
    let row = |subject: String, counts: Option<(i32, i32)>| match counts {
        None => Finding::new(Mark::Fail, subject, "missing: `weir install | kubectl apply -f -`"),
        Some((ready, wanted)) if ready >= wanted && wanted > 0 => {
            Finding::new(Mark::Ok, subject, format!("{ready} of {wanted} ready"))
        }
        Some((ready, wanted)) => {
            let advice = format!("`kubectl get pods -n {namespace}` shows why");
            Finding::new(Mark::Fail, subject, format!("{ready} of {wanted} ready: {advice}"))
        }
    };
    if let Some(deployments) = known(&facts.system_deployments, "deployments of Weir", findings) {
        for wanted in DEPLOYMENTS {
            let found = deployments.iter().find(|d| name(&d.metadata) == wanted);
            let counts = found.map(|d| {
                let ready = d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
                (ready, d.spec.replicas.unwrap_or(1))
            });
            findings.push(row(format!("deployment {namespace}/{wanted}"), counts));
        }
    }
    if let Some(sets) = known(&facts.system_daemon_sets, "daemon sets of Weir", findings) {
        let found = sets.iter().find(|d| name(&d.metadata) == AGENT);
        let counts = found.map(|d| {
            d.status
                .as_ref()
                .map_or((0, 0), |s| (s.number_ready, s.desired_number_scheduled))
        });
        findings.push(row(format!("agent on each node ({namespace}/{AGENT})"), counts));
    }
}

fn api_services(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(services) = known(&facts.api_services, "APIServices", findings) else {
        return;
    };
    for wanted in API_SERVICES {
        let subject = format!("APIService {wanted}");
        findings.push(match services.iter().find(|s| name(&s.metadata) == wanted) {
            None => Finding::new(Mark::Fail, subject, "missing: `weir install | kubectl apply -f -`"),
            Some(service) => match available(service) {
                Ok(()) => Finding::new(Mark::Ok, subject, "available"),
                Err(reason) => Finding::new(Mark::Fail, subject, format!("not available: {reason}")),
            },
        });
    }
}

fn available(service: &APIService) -> Result<(), String> {
    let conditions = service.status.as_ref().and_then(|s| s.conditions.as_ref());
    match conditions.into_iter().flatten().find(|c| c.type_ == "Available") {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(condition.message.clone().unwrap_or_default()),
        None => Err("its state is not known yet".into()),
    }
}

/// Every running pod that asks for a proxy has one.
fn pods(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(pods) = known(&facts.pods, "pods", findings) else {
        return;
    };
    let workloads: BTreeMap<(&str, &str), &ObjectMeta> = facts
        .deployments
        .iter()
        .flatten()
        .map(|d| {
            (
                (d.metadata.namespace.as_deref().unwrap_or_default(), name(&d.metadata)),
                &d.metadata,
            )
        })
        .collect();
    let namespaces: BTreeMap<&str, &ObjectMeta> = facts
        .namespaces
        .iter()
        .flatten()
        .map(|n| (name(&n.metadata), &n.metadata))
        .collect();
    let (mut with, mut missing) = (0, Vec::new());
    for pod in pods.iter().filter(|p| is_running(p)) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let owner = labels::owner(&pod.metadata, None).filter(|(kind, _)| kind == "deployment");
        let workload = owner.and_then(|(_, owner)| workloads.get(&(namespace, owner.as_str())).copied());
        // A value that is neither true nor false is a problem of its own, told by the control plane.
        let enabled = labels::enabled(&pod.metadata, workload, namespaces.get(namespace).copied()).unwrap_or(false);
        let proxy = pod.metadata.annotations.as_ref().and_then(|a| a.get(labels::PROXY));
        match (enabled, proxy.is_some_and(|p| !p.is_empty())) {
            (true, true) => with += 1,
            (true, false) => missing.push(full_name(&pod.metadata)),
            (false, _) => {}
        }
    }
    for pod in &missing {
        let detail = "asks for a proxy and has none: see the events of the pod and the agent's log";
        findings.push(Finding::new(Mark::Fail, format!("proxy of pod {pod}"), detail));
    }
    if missing.is_empty() {
        let detail = match with {
            0 => format!("no pod asks for one; label a workload {}=true", labels::ENABLED),
            n => format!("{n} of {n} running"),
        };
        findings.push(Finding::new(Mark::Ok, "proxies of pods", detail));
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn proxies(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(proxies) = known(&facts.proxies, "configuration of proxies", findings) else {
        return;
    };
    let before = findings.len();
    // A pod that does not run yet has no proxy to speak of.
    let running = |meta: &ObjectMeta| {
        let pods = facts.pods.as_ref().ok();
        pods.is_none_or(|pods| {
            let same = |p: &&Pod| p.metadata.name == meta.name && p.metadata.namespace == meta.namespace;
            pods.iter().find(same).is_none_or(is_running)
        })
    };
    for proxy in proxies.iter().filter(|p| running(&p.metadata)) {
        let subject = format!("configuration of {}", full_name(&proxy.metadata));
        let state = &proxy.status;
        if !state.last_rejection.is_empty() {
            findings.push(Finding::new(
                Mark::Fail,
                subject,
                format!("rejected: {}", state.last_rejection),
            ));
        } else if !state.connected {
            findings.push(Finding::new(
                Mark::Fail,
                subject,
                "the proxy is not connected to the control plane",
            ));
        } else if !state.is_synced() {
            // Any change passes through this state.
            findings.push(Finding::new(
                Mark::Warn,
                subject,
                format!("in sync: {}", synced_text(proxy)),
            ));
        }
    }
    if findings.len() == before {
        let detail = format!("{} connected and in sync", proxies.len());
        findings.push(Finding::new(Mark::Ok, "configuration of proxies", detail));
    }
}

fn targets(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(targets) = known(&facts.targets, "scraped pages", findings) else {
        return;
    };
    let before = findings.len();
    for target in targets {
        let subject = format!("metrics of {} ({})", full_name(&target.metadata), target.url);
        if target.health == "down" {
            findings.push(Finding::new(
                Mark::Fail,
                subject,
                format!("cannot be scraped: {}", target.error),
            ));
        } else if !target.warning.is_empty() {
            findings.push(Finding::new(Mark::Warn, subject, target.warning.clone()));
        }
    }
    if findings.len() == before {
        findings.push(Finding::new(
            Mark::Ok,
            "scraped pages",
            format!("{} scraped", targets.len()),
        ));
    }
}

fn problems(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(problems) = known(&facts.problems, "labels and objects", findings) else {
        return;
    };
    for object in problems {
        let problem = &object.problem;
        let detail = format!("{}: {}", problem.field, problem.message);
        findings.push(Finding::new(Mark::Fail, problem.object.to_string(), detail));
    }
    if problems.is_empty() {
        findings.push(Finding::new(Mark::Ok, "labels and objects", "all understood"));
    }
}

#[cfg(test)]
mod tests;
