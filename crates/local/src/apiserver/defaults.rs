//! The values Kubernetes fills in for fields that a user left out. Pure: object -> object.

use serde_json::{Map, Value, json};

use super::object::{as_map, items_mut, map_at, str_at};
use super::registry::Resource;

/// Sets `map[key]` if it is absent or null.
fn default(map: &mut Map<String, Value>, key: &str, value: Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value);
    }
}

/// Fills in the defaults of a built-in kind.
pub fn apply(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod_spec(map_at(object, "spec")),
        ("", "services") => service(map_at(object, "spec")),
        ("", "secrets") => secret(object),
        ("", "namespaces") => namespace(object),
        ("apps", "deployments") => deployment(object),
        ("apps", "replicasets") => {
            let spec = workload(object);
            default(spec, "replicas", json!(1));
        }
        ("apps", "statefulsets") => stateful_set(object),
        ("apps", "daemonsets") => daemon_set(object),
        ("batch", "jobs") => job(object),
        ("discovery.k8s.io", "endpointslices") => {
            for port in items_mut(object, "/ports") {
                let port = as_map(port);
                default(port, "name", json!(""));
                default(port, "protocol", json!("TCP"));
            }
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("apiregistration.k8s.io", "apiservices") => {
            if let Some(Value::Object(service)) = object.pointer_mut("/spec/service") {
                default(service, "port", json!(443));
            }
        }
        _ => {}
    }
}

/// The pod template of a workload; returns the workload's spec.
fn workload(object: &mut Value) -> &mut Map<String, Value> {
    if object.pointer("/spec/template").is_some() {
        let template = &mut object["spec"]["template"];
        map_at(template, "metadata");
        pod_spec(map_at(template, "spec"));
    }
    map_at(object, "spec")
}

fn deployment(object: &mut Value) {
    let spec = workload(object);
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    let strategy = as_map(spec.entry("strategy").or_insert(Value::Null));
    default(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
        default(rolling, "maxSurge", json!("25%"));
        default(rolling, "maxUnavailable", json!("25%"));
    }
}

fn stateful_set(object: &mut Value) {
    let spec = workload(object);
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "podManagementPolicy", json!("OrderedReady"));
    default(
        spec,
        "updateStrategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
    );
}

fn daemon_set(object: &mut Value) {
    let spec = workload(object);
    default(spec, "revisionHistoryLimit", json!(10));
    let strategy = as_map(spec.entry("updateStrategy").or_insert(Value::Null));
    default(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
        default(rolling, "maxSurge", json!(0));
        default(rolling, "maxUnavailable", json!(1));
    }
}

fn job(object: &mut Value) {
    let uid = str_at(object, "/metadata/uid").to_owned();
    let name = str_at(object, "/metadata/name").to_owned();
    let spec = workload(object);
    default(spec, "backoffLimit", json!(6));
    default(spec, "completionMode", json!("NonIndexed"));
    default(spec, "suspend", json!(false));
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        default(spec, "completions", json!(1));
    }
    default(spec, "parallelism", json!(1));
    if spec.get("manualSelector") != Some(&json!(true)) && spec.get("selector").is_none() {
        spec.insert(
            "selector".into(),
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
        if let Some(template) = spec.get_mut("template") {
            let labels = as_map(map_at(template, "metadata").entry("labels").or_insert(Value::Null));
            default(labels, "batch.kubernetes.io/controller-uid", json!(uid));
            default(labels, "batch.kubernetes.io/job-name", json!(name));
            default(labels, "controller-uid", json!(uid));
            default(labels, "job-name", json!(name));
        }
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    // The deprecated name of the field follows the other.
    if let Some(name) = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned() {
        default(spec, "serviceAccountName", name.clone());
        default(spec, "serviceAccount", name);
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["initContainers", "containers"] {
        if let Some(Value::Array(containers)) = spec.get_mut(list) {
            containers.iter_mut().for_each(|c| container(as_map(c), host_network));
        }
    }
    if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
        volumes.iter_mut().for_each(|v| volume(as_map(v)));
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let tag = image.rsplit('/').next().unwrap_or("").split_once(':');
    let latest = !image.contains('@') && tag.is_none_or(|(_, t)| t == "latest");
    let policy = if latest { "Always" } else { "IfNotPresent" };
    default(container, "imagePullPolicy", json!(policy));
    for port in container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let port = as_map(port);
        default(port, "protocol", json!("TCP"));
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for env in container
        .get_mut("env")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(Value::Object(field)) = env.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", json!("v1"));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(p)) = container.get_mut(name) {
            probe(p);
        }
    }
    // A limit without a request is the request.
    if let Some(Value::Object(resources)) = container.get_mut("resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        let requests = as_map(resources.entry("requests").or_insert(Value::Null));
        for (k, v) in limits {
            default(requests, &k, v);
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    default(probe, "timeoutSeconds", json!(1));
    default(probe, "periodSeconds", json!(10));
    default(probe, "successThreshold", json!(1));
    default(probe, "failureThreshold", json!(3));
    if let Some(Value::Object(http)) = probe.get_mut("httpGet") {
        default(http, "scheme", json!("HTTP"));
        default(http, "path", json!("/"));
    }
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        default(grpc, "service", json!(""));
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() <= 1 {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(Value::Object(s)) = volume.get_mut(source) {
            default(s, "defaultMode", json!(0o644));
        }
    }
    if let Some(Value::Object(s)) = volume.get_mut("hostPath") {
        default(s, "type", json!(""));
    }
    let field_items = |list: Option<&mut Value>| {
        for item in list.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
                default(field, "apiVersion", json!("v1"));
            }
        }
    };
    if let Some(s) = volume.get_mut("downwardAPI") {
        field_items(s.get_mut("items"));
    }
    if let Some(sources) = volume.get_mut("projected").and_then(|p| p.get_mut("sources")) {
        for source in sources.as_array_mut().into_iter().flatten() {
            if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", json!(3600));
            }
            if let Some(s) = source.get_mut("downwardAPI") {
                field_items(s.get_mut("items"));
            }
        }
    }
}

fn service(spec: &mut Map<String, Value>) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        default(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    let external_name = spec["type"] == "ExternalName";
    if !external_name {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", json!("SingleStack"));
    }
    if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
        if spec["type"] == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", json!(true));
        }
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let port = as_map(port);
        default(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        if port
            .get("targetPort")
            .is_none_or(|t| t.is_null() || t == &json!(0) || t == "")
        {
            port.insert("targetPort".into(), number);
        }
    }
}

fn secret(object: &mut Value) {
    use base64::Engine;
    let secret = as_map(object);
    default(secret, "type", json!("Opaque"));
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = as_map(secret.entry("data").or_insert(Value::Null));
        for (key, value) in plain {
            let text = value.as_str().unwrap_or("");
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            data.insert(key, encoded.into());
        }
    }
}

fn namespace(object: &mut Value) {
    let name = str_at(object, "/metadata/name").to_owned();
    let labels = as_map(map_at(object, "metadata").entry("labels").or_insert(Value::Null));
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    default(map_at(object, "spec"), "finalizers", json!(["kubernetes"]));
    default(map_at(object, "status"), "phase", json!("Active"));
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if let Some(Value::Object(role)) = object.get_mut("roleRef") {
        default(role, "apiGroup", json!(GROUP));
    }
    for subject in items_mut(object, "/subjects") {
        let subject = as_map(subject);
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            default(subject, "apiGroup", json!(GROUP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::*;

    fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
        let registry = Registry::new(Vec::new());
        apply(registry.any_version(group, plural).unwrap(), &mut object);
        object
    }

    #[test]
    fn a_bare_deployment_gets_what_kubernetes_gives_it() {
        let d = defaulted(
            "apps",
            "deployments",
            json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": "weir", "readinessProbe": {"httpGet": {"port": 80}}, "ports": [{"containerPort": 80}]}]}}}}),
        );
        assert_eq!(d["spec"]["replicas"], 1);
        assert_eq!(d["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let pod = &d["spec"]["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["containers"][0]["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn services_and_secrets() {
        let s = defaulted(
            "",
            "services",
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}),
        );
        assert_eq!(s["spec"]["ports"][0]["targetPort"], 80);
        assert_eq!(s["spec"]["ports"][1]["targetPort"], "http");
        assert_eq!(s["spec"]["type"], "ClusterIP");
        let s = defaulted("", "secrets", json!({"stringData": {"a": "b"}}));
        assert_eq!(s, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }
}
