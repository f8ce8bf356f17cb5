//! The columns of the built-in kinds and how their cells are computed, as `kubectl get` shows them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{items, str_at};
use super::registry::Resource;
use super::table::{age, age_of, joined, labels_text};

/// Column names; `+` marks those of wide output.
pub fn columns(resource: &Resource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "+IP",
            "+Node",
            "+Nominated Node",
            "+Readiness Gates",
        ],
        ("", "services") => &[
            "Name",
            "Type",
            "Cluster-IP",
            "External-IP",
            "Port(s)",
            "Age",
            "+Selector",
        ],
        ("", "nodes") => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        ("", "namespaces") => &["Name", "Status", "Age"],
        ("", "configmaps") => &["Name", "Data", "Age"],
        ("", "secrets") => &["Name", "Type", "Data", "Age"],
        ("", "serviceaccounts") => &["Name", "Age"],
        ("", "endpoints") => &["Name", "Endpoints", "Age"],
        (_, "events") => &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "+Subobject",
            "+Source",
            "Message",
            "+First Seen",
            "+Count",
            "+Name",
        ],
        ("apps", "deployments") => &[
            "Name",
            "Ready",
            "Up-to-date",
            "Available",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        ("apps", "replicasets") => &[
            "Name",
            "Desired",
            "Current",
            "Ready",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        ("apps", "statefulsets") => &["Name", "Ready", "Age", "+Containers", "+Images"],
        ("apps", "daemonsets") => &[
            "Name",
            "Desired",
            "Current",
            "Ready",
            "Up-to-date",
            "Available",
            "Node Selector",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        ("batch", "jobs") => &[
            "Name",
            "Status",
            "Completions",
            "Duration",
            "Age",
            "+Containers",
            "+Images",
            "+Selector",
        ],
        ("discovery.k8s.io", "endpointslices") => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        ("networking.k8s.io", "ingresses") => &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
        ("networking.k8s.io", "ingressclasses") => &["Name", "Controller", "Parameters", "Age"],
        ("coordination.k8s.io", "leases") => &["Name", "Holder", "Age"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            &["Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"]
        }
        ("rbac.authorization.k8s.io", _) => &["Name", "Created At"],
        ("apiextensions.k8s.io", _) => &["Name", "Created At"],
        ("apiregistration.k8s.io", _) => &["Name", "Service", "Available", "Age"],
        _ => &["Name", "Age"],
    }
}

/// The cells of one object, in the order of `columns`.
pub fn cells(resource: &Resource, o: &Value, now: Timestamp) -> Vec<Value> {
    let name = o["metadata"]["name"].clone();
    let old = age_of(o, now);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod(o, now),
        ("", "services") => service(o, now),
        ("", "nodes") => node(o, now),
        ("", "namespaces") => vec![name, o["status"]["phase"].clone(), old],
        ("", "configmaps") => vec![name, (count(&o["data"]) + count(&o["binaryData"])).into(), old],
        ("", "secrets") => vec![name, o["type"].clone(), count(&o["data"]).into(), old],
        ("", "endpoints") => vec![name, endpoints(o).into(), old],
        (_, "events") => event(o, now),
        ("apps", "deployments") => {
            let status = &o["status"];
            let ready = format!("{}/{}", int(&status["readyReplicas"]), int(&o["spec"]["replicas"]));
            let cells = vec![
                name,
                ready.into(),
                int(&status["updatedReplicas"]).into(),
                int(&status["availableReplicas"]).into(),
                old,
            ];
            with_template(cells, o, true)
        }
        ("apps", "replicasets") => {
            let status = &o["status"];
            let cells = vec![
                name,
                int(&o["spec"]["replicas"]).into(),
                int(&status["replicas"]).into(),
                int(&status["readyReplicas"]).into(),
                old,
            ];
            with_template(cells, o, true)
        }
        ("apps", "statefulsets") => {
            let ready = format!("{}/{}", int(&o["status"]["readyReplicas"]), int(&o["spec"]["replicas"]));
            with_template(vec![name, ready.into(), old], o, false)
        }
        ("apps", "daemonsets") => {
            let s = |f: &str| Value::from(int(&o["status"][f]));
            let selector = labels_text(&o["spec"]["template"]["spec"]["nodeSelector"]);
            let cells = vec![
                name,
                s("desiredNumberScheduled"),
                s("currentNumberScheduled"),
                s("numberReady"),
                s("updatedNumberScheduled"),
                s("numberAvailable"),
                selector.into(),
                old,
            ];
            with_template(cells, o, true)
        }
        ("batch", "jobs") => job(o, now),
        ("discovery.k8s.io", "endpointslices") => {
            let ports: Vec<String> = items(o, "/ports").iter().map(|p| p["port"].to_string()).collect();
            let addresses: Vec<&str> = items(o, "/endpoints")
                .iter()
                .flat_map(|e| items(e, "/addresses"))
                .filter_map(Value::as_str)
                .collect();
            vec![
                name,
                o["addressType"].clone(),
                or_unset(ports.join(",")).into(),
                or_unset(shortened(&addresses)).into(),
                old,
            ]
        }
        ("networking.k8s.io", "ingresses") => ingress(o, now),
        ("networking.k8s.io", "ingressclasses") => vec![name, o["spec"]["controller"].clone(), "<none>".into(), old],
        ("coordination.k8s.io", "leases") => vec![name, o["spec"]["holderIdentity"].clone(), old],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            let role = format!("{}/{}", str_at(o, "/roleRef/kind"), str_at(o, "/roleRef/name"));
            let of = |kind: &str| {
                let names: Vec<String> = items(o, "/subjects")
                    .iter()
                    .filter(|s| str_at(s, "/kind") == kind)
                    .map(|s| match str_at(s, "/namespace") {
                        "" => str_at(s, "/name").to_owned(),
                        ns => format!("{ns}/{}", str_at(s, "/name")),
                    })
                    .collect();
                Value::from(names.join(", "))
            };
            vec![name, role.into(), old, of("User"), of("Group"), of("ServiceAccount")]
        }
        ("rbac.authorization.k8s.io" | "apiextensions.k8s.io", _) => {
            vec![name, o["metadata"]["creationTimestamp"].clone()]
        }
        ("apiregistration.k8s.io", _) => {
            let service = match str_at(o, "/spec/service/name") {
                "" => "Local".to_owned(),
                n => format!("{}/{n}", str_at(o, "/spec/service/namespace")),
            };
            let available = items(o, "/status/conditions")
                .iter()
                .find(|c| str_at(c, "/type") == "Available");
            let available = match available {
                None => "Unknown".to_owned(),
                Some(c) if str_at(c, "/status") == "True" => "True".to_owned(),
                Some(c) => format!("{} ({})", str_at(c, "/status"), str_at(c, "/reason")),
            };
            vec![name, service.into(), available.into(), old]
        }
        _ => vec![name, old],
    }
}

fn int(v: &Value) -> i64 {
    v.as_i64().unwrap_or(0)
}

fn count(map: &Value) -> usize {
    map.as_object().map_or(0, |m| m.len())
}

fn or_unset(text: String) -> String {
    if text.is_empty() { "<unset>".to_owned() } else { text }
}

/// Three at most, then how many more.
fn shortened(words: &[&str]) -> String {
    if words.len() <= 3 {
        return words.join(",");
    }
    format!("{} + {} more...", words[..3].join(","), words.len() - 3)
}

fn with_template(mut cells: Vec<Value>, o: &Value, selector: bool) -> Vec<Value> {
    let template = &o["spec"]["template"]["spec"];
    cells.push(joined(template, "/containers", "/name").into());
    cells.push(joined(template, "/containers", "/image").into());
    if selector {
        cells.push(super::selector::label_selector_text(&o["spec"]["selector"]).into());
    }
    cells
}

fn pod(o: &Value, now: Timestamp) -> Vec<Value> {
    let statuses = items(o, "/status/containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == json!(true)).count();
    let restarts: i64 = statuses.iter().map(|s| int(&s["restartCount"])).sum();
    let last = statuses
        .iter()
        .filter_map(|s| s.pointer("/lastState/terminated/finishedAt")?.as_str())
        .max();
    let restarts = match last {
        Some(at) if restarts > 0 => format!("{restarts} ({} ago)", age(at, now)),
        _ => restarts.to_string(),
    };
    let or_none = |p: &str| match str_at(o, p) {
        "" => "<none>",
        s => s,
    };
    vec![
        o["metadata"]["name"].clone(),
        format!("{ready}/{}", items(o, "/spec/containers").len()).into(),
        pod_status(o).into(),
        restarts.into(),
        age_of(o, now),
        or_none("/status/podIP").into(),
        or_none("/spec/nodeName").into(),
        or_none("/status/nominatedNodeName").into(),
        "<none>".into(),
    ]
}

/// The word in the STATUS column: the phase, or what keeps the containers from running.
fn pod_status(o: &Value) -> String {
    let mut reason = match str_at(o, "/status/reason") {
        "" => str_at(o, "/status/phase").to_owned(),
        r => r.to_owned(),
    };
    let init = items(o, "/status/initContainerStatuses");
    let mut initializing = false;
    for (i, s) in init.iter().enumerate() {
        let state = &s["state"];
        if state["terminated"]["exitCode"] == json!(0) || s["started"] == json!(true) {
            continue;
        }
        initializing = true;
        reason = if state.get("terminated").is_some() {
            match str_at(state, "/terminated/reason") {
                "" => format!("Init:ExitCode:{}", int(&state["terminated"]["exitCode"])),
                r => format!("Init:{r}"),
            }
        } else {
            match str_at(state, "/waiting/reason") {
                "" | "PodInitializing" => format!("Init:{i}/{}", items(o, "/spec/initContainers").len()),
                r => format!("Init:{r}"),
            }
        };
        break;
    }
    if !initializing {
        let mut running = false;
        for s in items(o, "/status/containerStatuses").iter().rev() {
            let state = &s["state"];
            match (str_at(state, "/waiting/reason"), str_at(state, "/terminated/reason")) {
                ("", "") if state.get("terminated").is_some() => {
                    reason = match int(&state["terminated"]["signal"]) {
                        0 => format!("ExitCode:{}", int(&state["terminated"]["exitCode"])),
                        n => format!("Signal:{n}"),
                    };
                }
                ("", "") => running |= s["ready"] == json!(true) && state.get("running").is_some(),
                ("", r) => reason = r.to_owned(),
                (r, _) => reason = r.to_owned(),
            }
        }
        if reason == "Completed" && running {
            let ready = items(o, "/status/conditions")
                .iter()
                .any(|c| str_at(c, "/type") == "Ready" && str_at(c, "/status") == "True");
            reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    let ended = matches!(str_at(o, "/status/phase"), "Succeeded" | "Failed");
    if o.pointer("/metadata/deletionTimestamp").is_some() && !ended {
        return if str_at(o, "/status/reason") == "NodeLost" {
            "Unknown"
        } else {
            "Terminating"
        }
        .to_owned();
    }
    reason
}

fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &o["spec"];
    let kind = str_at(spec, "/type");
    let external = match kind {
        "ExternalName" => str_at(spec, "/externalName").to_owned(),
        "LoadBalancer" => {
            let given: Vec<&str> = items(o, "/status/loadBalancer/ingress")
                .iter()
                .map(|i| match str_at(i, "/ip") {
                    "" => str_at(i, "/hostname"),
                    ip => ip,
                })
                .collect();
            if given.is_empty() {
                "<pending>".to_owned()
            } else {
                given.join(",")
            }
        }
        _ => {
            let ips: Vec<&str> = items(spec, "/externalIPs").iter().filter_map(Value::as_str).collect();
            if ips.is_empty() {
                "<none>".to_owned()
            } else {
                ips.join(",")
            }
        }
    };
    let ports: Vec<String> = items(spec, "/ports")
        .iter()
        .map(|p| match int(&p["nodePort"]) {
            0 => format!("{}/{}", p["port"], str_at(p, "/protocol")),
            n => format!("{}:{n}/{}", p["port"], str_at(p, "/protocol")),
        })
        .collect();
    let ip = match str_at(spec, "/clusterIP") {
        "" => "<none>",
        ip => ip,
    };
    vec![
        o["metadata"]["name"].clone(),
        kind.into(),
        ip.into(),
        external.into(),
        if ports.is_empty() {
            "<none>".into()
        } else {
            ports.join(",").into()
        },
        age_of(o, now),
        labels_text(&spec["selector"]).into(),
    ]
}

fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = items(o, "/status/conditions")
        .iter()
        .find(|c| str_at(c, "/type") == "Ready");
    let mut status = match ready.map(|c| str_at(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o["spec"]["unschedulable"] == json!(true) {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = o["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    let address = |kind: &str| {
        let found = items(o, "/status/addresses")
            .iter()
            .find(|a| str_at(a, "/type") == kind);
        Value::from(found.map_or("<none>", |a| str_at(a, "/address")))
    };
    let info = |field: &str| {
        Value::from(match o["status"]["nodeInfo"][field].as_str() {
            None | Some("") => "<unknown>",
            Some(s) => s,
        })
    };
    vec![
        o["metadata"]["name"].clone(),
        status.into(),
        if roles.is_empty() {
            "<none>".into()
        } else {
            roles.join(",").into()
        },
        age_of(o, now),
        info("kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn endpoints(o: &Value) -> String {
    let mut found = Vec::new();
    for subset in items(o, "/subsets") {
        for address in items(subset, "/addresses") {
            for port in items(subset, "/ports") {
                found.push(format!("{}:{}", str_at(address, "/ip"), port["port"]));
            }
        }
    }
    let words: Vec<&str> = found.iter().map(String::as_str).collect();
    if words.is_empty() {
        "<none>".to_owned()
    } else {
        shortened(&words)
    }
}

/// Events come in either form: core/v1 or events.k8s.io/v1.
fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |paths: &[&str]| -> String {
        paths
            .iter()
            .map(|p| str_at(o, p))
            .find(|s| !s.is_empty())
            .unwrap_or("")
            .to_owned()
    };
    let object = |field: &str| first_of(&[&format!("/involvedObject/{field}"), &format!("/regarding/{field}")]);
    let last = first_of(&[
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ]);
    let first = first_of(&[
        "/firstTimestamp",
        "/deprecatedFirstTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]);
    let times = [&o["series"]["count"], &o["count"], &o["deprecatedCount"]]
        .into_iter()
        .find_map(Value::as_i64)
        .unwrap_or(1);
    let message = first_of(&["/message", "/note"]);
    vec![
        age(&last, now).into(),
        o["type"].clone(),
        o["reason"].clone(),
        format!("{}/{}", object("kind").to_lowercase(), object("name")).into(),
        object("fieldPath").into(),
        first_of(&[
            "/source/component",
            "/deprecatedSource/component",
            "/reportingComponent",
            "/reportingController",
        ])
        .into(),
        message.trim().into(),
        age(&first, now).into(),
        times.into(),
        o["metadata"]["name"].clone(),
    ]
}

fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let condition = |kind: &str| {
        items(o, "/status/conditions")
            .iter()
            .any(|c| str_at(c, "/type") == kind && str_at(c, "/status") == "True")
    };
    let status = if condition("Complete") {
        "Complete"
    } else if condition("Failed") {
        "Failed"
    } else if o["spec"]["suspend"] == json!(true) {
        "Suspended"
    } else {
        "Running"
    };
    let wanted = o["spec"]["completions"].as_i64().unwrap_or(1);
    let duration = match (str_at(o, "/status/startTime"), str_at(o, "/status/completionTime")) {
        ("", _) => String::new(),
        (start, "") => age(start, now),
        (start, end) => age(start, end.parse().unwrap_or(now)),
    };
    let cells = vec![
        o["metadata"]["name"].clone(),
        status.into(),
        format!("{}/{wanted}", int(&o["status"]["succeeded"])).into(),
        duration.into(),
        age_of(o, now),
    ];
    with_template(cells, o, true)
}

fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<&str> = items(o, "/spec/rules")
        .iter()
        .map(|r| match str_at(r, "/host") {
            "" => "*",
            h => h,
        })
        .collect();
    let addresses: Vec<&str> = items(o, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| match str_at(i, "/ip") {
            "" => str_at(i, "/hostname"),
            ip => ip,
        })
        .collect();
    let ports = if items(o, "/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    let class = match str_at(o, "/spec/ingressClassName") {
        "" => "<none>",
        c => c,
    };
    vec![
        o["metadata"]["name"].clone(),
        class.into(),
        if hosts.is_empty() {
            "*".into()
        } else {
            shortened(&hosts).into()
        },
        addresses.join(",").into(),
        ports.into(),
        age_of(o, now),
    ]
}
