//! The fields of the messages that are understood: number, JSON name, type. From Kubernetes' published API.

/// How a field is encoded, and how JSON shows it.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    Text,
    Texts,
    Int,
    /// A number that JSON leaves out when it is 0.
    IntOrNone,
    Bool,
    BoolOrNone,
    Bytes,
    Time {
        micro: bool,
    },
    Quantity,
    IntOrString,
    ExtraValue,
    Message(&'static str),
    Messages(&'static str),
    /// A message whose fields JSON shows among those of its parent.
    Inline(&'static str),
    Map(&'static Type),
    /// Not a client's to set (status).
    Skip,
}

#[derive(Debug)]
pub struct Field(pub u64, pub &'static str, pub Type);

use Type::*;

const TEXT_MAP: Type = Map(&Text);
const BYTES_MAP: Type = Map(&Bytes);
const QUANTITY_MAP: Type = Map(&Quantity);
const EXTRA_MAP: Type = Map(&ExtraValue);
const TIME: Type = Time { micro: false };
const MICRO_TIME: Type = Time { micro: true };
const META: Field = Field(1, "metadata", Message("ObjectMeta"));
const STATUS: Field = Field(3, "status", Skip);

/// The message of a kind.
pub fn root(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.rsplit_once('/').map_or("", |(g, _)| g);
    let known: &[&str] = match group {
        "" => &[
            "ConfigMap",
            "Secret",
            "Namespace",
            "ServiceAccount",
            "Service",
            "Event",
            "Pod",
        ],
        "apps" => &["Deployment"],
        "batch" => &["Job"],
        "autoscaling" => &["Scale"],
        "policy" => &["Eviction"],
        "meta.k8s.io" => &["DeleteOptions"],
        "networking.k8s.io" => &["Ingress"],
        "coordination.k8s.io" => &["Lease"],
        "rbac.authorization.k8s.io" => &["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"],
        "authentication.k8s.io" => &["TokenRequest", "TokenReview", "SelfSubjectReview"],
        "authorization.k8s.io" => &[
            "SubjectAccessReview",
            "LocalSubjectAccessReview",
            "SelfSubjectAccessReview",
            "SelfSubjectRulesReview",
        ],
        _ => &[],
    };
    // Options are sent in the version of the object that they are about.
    if kind == "DeleteOptions" {
        return Some("DeleteOptions");
    }
    known.iter().find(|k| **k == kind).copied()
}

/// The description of a field.
pub fn field(message: &str, number: u64) -> Option<&'static Field> {
    let (_, fields) = MESSAGES.iter().find(|(m, _)| *m == message)?;
    fields.iter().find(|f| f.0 == number)
}

pub const MESSAGES: &[(&str, &[Field])] = &[
    // meta/v1
    (
        "ObjectMeta",
        &[
            Field(1, "name", Text),
            Field(2, "generateName", Text),
            Field(3, "namespace", Text),
            Field(4, "selfLink", Skip),
            Field(5, "uid", Text),
            Field(6, "resourceVersion", Text),
            Field(7, "generation", IntOrNone),
            Field(8, "creationTimestamp", TIME),
            Field(9, "deletionTimestamp", TIME),
            Field(10, "deletionGracePeriodSeconds", Int),
            Field(11, "labels", TEXT_MAP),
            Field(12, "annotations", TEXT_MAP),
            Field(13, "ownerReferences", Messages("OwnerReference")),
            Field(14, "finalizers", Texts),
            Field(17, "managedFields", Skip),
        ],
    ),
    (
        "OwnerReference",
        &[
            Field(1, "kind", Text),
            Field(3, "name", Text),
            Field(4, "uid", Text),
            Field(5, "apiVersion", Text),
            Field(6, "controller", Bool),
            Field(7, "blockOwnerDeletion", Bool),
        ],
    ),
    (
        "LabelSelector",
        &[
            Field(1, "matchLabels", TEXT_MAP),
            Field(2, "matchExpressions", Messages("LabelSelectorRequirement")),
        ],
    ),
    (
        "LabelSelectorRequirement",
        &[
            Field(1, "key", Text),
            Field(2, "operator", Text),
            Field(3, "values", Texts),
        ],
    ),
    (
        "DeleteOptions",
        &[
            Field(1, "gracePeriodSeconds", Int),
            Field(2, "preconditions", Message("Preconditions")),
            Field(3, "orphanDependents", Bool),
            Field(4, "propagationPolicy", Text),
            Field(5, "dryRun", Texts),
        ],
    ),
    (
        "Preconditions",
        &[Field(1, "uid", Text), Field(2, "resourceVersion", Text)],
    ),
    // core/v1
    (
        "ConfigMap",
        &[
            META,
            Field(2, "data", TEXT_MAP),
            Field(3, "binaryData", BYTES_MAP),
            Field(4, "immutable", Bool),
        ],
    ),
    (
        "Secret",
        &[
            META,
            Field(2, "data", BYTES_MAP),
            Field(3, "type", Text),
            Field(4, "stringData", TEXT_MAP),
            Field(5, "immutable", Bool),
        ],
    ),
    ("Namespace", &[META, Field(2, "spec", Message("NamespaceSpec")), STATUS]),
    ("NamespaceSpec", &[Field(1, "finalizers", Texts)]),
    (
        "ServiceAccount",
        &[
            META,
            Field(2, "secrets", Messages("ObjectReference")),
            Field(3, "imagePullSecrets", Messages("LocalObjectReference")),
            Field(4, "automountServiceAccountToken", Bool),
        ],
    ),
    ("LocalObjectReference", &[Field(1, "name", Text)]),
    (
        "ObjectReference",
        &[
            Field(1, "kind", Text),
            Field(2, "namespace", Text),
            Field(3, "name", Text),
            Field(4, "uid", Text),
            Field(5, "apiVersion", Text),
            Field(6, "resourceVersion", Text),
            Field(7, "fieldPath", Text),
        ],
    ),
    ("Service", &[META, Field(2, "spec", Message("ServiceSpec")), STATUS]),
    (
        "ServiceSpec",
        &[
            Field(1, "ports", Messages("ServicePort")),
            Field(2, "selector", TEXT_MAP),
            Field(3, "clusterIP", Text),
            Field(4, "type", Text),
            Field(5, "externalIPs", Texts),
            Field(7, "sessionAffinity", Text),
            Field(8, "loadBalancerIP", Text),
            Field(9, "loadBalancerSourceRanges", Texts),
            Field(10, "externalName", Text),
            Field(11, "externalTrafficPolicy", Text),
            Field(12, "healthCheckNodePort", IntOrNone),
            Field(13, "publishNotReadyAddresses", BoolOrNone),
            Field(17, "ipFamilyPolicy", Text),
            Field(18, "clusterIPs", Texts),
            Field(19, "ipFamilies", Texts),
            Field(20, "allocateLoadBalancerNodePorts", Bool),
            Field(21, "loadBalancerClass", Text),
            Field(22, "internalTrafficPolicy", Text),
            Field(23, "trafficDistribution", Text),
        ],
    ),
    (
        "ServicePort",
        &[
            Field(1, "name", Text),
            Field(2, "protocol", Text),
            Field(3, "port", Int),
            Field(4, "targetPort", IntOrString),
            Field(5, "nodePort", IntOrNone),
            Field(6, "appProtocol", Text),
        ],
    ),
    (
        "Event",
        &[
            META,
            Field(2, "involvedObject", Message("ObjectReference")),
            Field(3, "reason", Text),
            Field(4, "message", Text),
            Field(5, "source", Message("EventSource")),
            Field(6, "firstTimestamp", TIME),
            Field(7, "lastTimestamp", TIME),
            Field(8, "count", IntOrNone),
            Field(9, "type", Text),
            Field(10, "eventTime", MICRO_TIME),
            Field(11, "series", Message("EventSeries")),
            Field(12, "action", Text),
            Field(13, "related", Message("ObjectReference")),
            Field(14, "reportingComponent", Text),
            Field(15, "reportingInstance", Text),
        ],
    ),
    ("EventSource", &[Field(1, "component", Text), Field(2, "host", Text)]),
    (
        "EventSeries",
        &[Field(1, "count", Int), Field(2, "lastObservedTime", MICRO_TIME)],
    ),
    ("Pod", &[META, Field(2, "spec", Message("PodSpec")), STATUS]),
    ("PodTemplateSpec", &[META, Field(2, "spec", Message("PodSpec"))]),
    (
        "PodSpec",
        &[
            Field(2, "containers", Messages("Container")),
            Field(3, "restartPolicy", Text),
            Field(4, "terminationGracePeriodSeconds", Int),
            Field(5, "activeDeadlineSeconds", Int),
            Field(6, "dnsPolicy", Text),
            Field(7, "nodeSelector", TEXT_MAP),
            Field(8, "serviceAccountName", Text),
            Field(9, "serviceAccount", Text),
            Field(10, "nodeName", Text),
            Field(11, "hostNetwork", BoolOrNone),
            Field(12, "hostPID", BoolOrNone),
            Field(13, "hostIPC", BoolOrNone),
            Field(15, "imagePullSecrets", Messages("LocalObjectReference")),
            Field(16, "hostname", Text),
            Field(17, "subdomain", Text),
            Field(19, "schedulerName", Text),
            Field(20, "initContainers", Messages("Container")),
            Field(21, "automountServiceAccountToken", Bool),
            Field(24, "priorityClassName", Text),
        ],
    ),
    (
        "Container",
        &[
            Field(1, "name", Text),
            Field(2, "image", Text),
            Field(3, "command", Texts),
            Field(4, "args", Texts),
            Field(5, "workingDir", Text),
            Field(6, "ports", Messages("ContainerPort")),
            Field(7, "env", Messages("EnvVar")),
            Field(8, "resources", Message("ResourceRequirements")),
            Field(9, "volumeMounts", Messages("VolumeMount")),
            Field(13, "terminationMessagePath", Text),
            Field(14, "imagePullPolicy", Text),
            Field(16, "stdin", BoolOrNone),
            Field(17, "stdinOnce", BoolOrNone),
            Field(18, "tty", BoolOrNone),
            Field(20, "terminationMessagePolicy", Text),
        ],
    ),
    (
        "ContainerPort",
        &[
            Field(1, "name", Text),
            Field(2, "hostPort", IntOrNone),
            Field(3, "containerPort", Int),
            Field(4, "protocol", Text),
            Field(5, "hostIP", Text),
        ],
    ),
    ("EnvVar", &[Field(1, "name", Text), Field(2, "value", Text)]),
    (
        "VolumeMount",
        &[
            Field(1, "name", Text),
            Field(2, "readOnly", BoolOrNone),
            Field(3, "mountPath", Text),
            Field(4, "subPath", Text),
        ],
    ),
    (
        "ResourceRequirements",
        &[Field(1, "limits", QUANTITY_MAP), Field(2, "requests", QUANTITY_MAP)],
    ),
    // apps/v1, batch/v1, autoscaling/v1, policy/v1
    (
        "Deployment",
        &[META, Field(2, "spec", Message("DeploymentSpec")), STATUS],
    ),
    (
        "DeploymentSpec",
        &[
            Field(1, "replicas", Int),
            Field(2, "selector", Message("LabelSelector")),
            Field(3, "template", Message("PodTemplateSpec")),
            Field(4, "strategy", Message("DeploymentStrategy")),
            Field(5, "minReadySeconds", IntOrNone),
            Field(6, "revisionHistoryLimit", Int),
            Field(7, "paused", BoolOrNone),
            Field(9, "progressDeadlineSeconds", Int),
        ],
    ),
    (
        "DeploymentStrategy",
        &[
            Field(1, "type", Text),
            Field(2, "rollingUpdate", Message("RollingUpdateDeployment")),
        ],
    ),
    (
        "RollingUpdateDeployment",
        &[
            Field(1, "maxUnavailable", IntOrString),
            Field(2, "maxSurge", IntOrString),
        ],
    ),
    ("Job", &[META, Field(2, "spec", Message("JobSpec")), STATUS]),
    (
        "JobSpec",
        &[
            Field(1, "parallelism", Int),
            Field(2, "completions", Int),
            Field(3, "activeDeadlineSeconds", Int),
            Field(4, "selector", Message("LabelSelector")),
            Field(5, "manualSelector", Bool),
            Field(6, "template", Message("PodTemplateSpec")),
            Field(7, "backoffLimit", Int),
            Field(8, "ttlSecondsAfterFinished", Int),
        ],
    ),
    ("Scale", &[META, Field(2, "spec", Message("ScaleSpec")), STATUS]),
    ("ScaleSpec", &[Field(1, "replicas", Int)]),
    ("Eviction", &[META, Field(2, "deleteOptions", Message("DeleteOptions"))]),
    // networking.k8s.io/v1
    ("Ingress", &[META, Field(2, "spec", Message("IngressSpec")), STATUS]),
    (
        "IngressSpec",
        &[
            Field(1, "defaultBackend", Message("IngressBackend")),
            Field(2, "tls", Messages("IngressTLS")),
            Field(3, "rules", Messages("IngressRule")),
            Field(4, "ingressClassName", Text),
        ],
    ),
    ("IngressTLS", &[Field(1, "hosts", Texts), Field(2, "secretName", Text)]),
    (
        "IngressRule",
        &[Field(1, "host", Text), Field(2, "", Inline("IngressRuleValue"))],
    ),
    ("IngressRuleValue", &[Field(1, "http", Message("HTTPIngressRuleValue"))]),
    (
        "HTTPIngressRuleValue",
        &[Field(1, "paths", Messages("HTTPIngressPath"))],
    ),
    (
        "HTTPIngressPath",
        &[
            Field(1, "path", Text),
            Field(2, "backend", Message("IngressBackend")),
            Field(3, "pathType", Text),
        ],
    ),
    (
        "IngressBackend",
        &[Field(4, "service", Message("IngressServiceBackend"))],
    ),
    (
        "IngressServiceBackend",
        &[Field(1, "name", Text), Field(2, "port", Message("ServiceBackendPort"))],
    ),
    (
        "ServiceBackendPort",
        &[Field(1, "name", Text), Field(2, "number", IntOrNone)],
    ),
    // coordination.k8s.io/v1
    ("Lease", &[META, Field(2, "spec", Message("LeaseSpec"))]),
    (
        "LeaseSpec",
        &[
            Field(1, "holderIdentity", Text),
            Field(2, "leaseDurationSeconds", Int),
            Field(3, "acquireTime", MICRO_TIME),
            Field(4, "renewTime", MICRO_TIME),
            Field(5, "leaseTransitions", Int),
            Field(6, "strategy", Text),
            Field(7, "preferredHolder", Text),
        ],
    ),
    // rbac.authorization.k8s.io/v1
    ("Role", &[META, Field(2, "rules", Messages("PolicyRule"))]),
    (
        "ClusterRole",
        &[
            META,
            Field(2, "rules", Messages("PolicyRule")),
            Field(3, "aggregationRule", Message("AggregationRule")),
        ],
    ),
    (
        "AggregationRule",
        &[Field(1, "clusterRoleSelectors", Messages("LabelSelector"))],
    ),
    (
        "PolicyRule",
        &[
            Field(1, "verbs", Texts),
            Field(2, "apiGroups", Texts),
            Field(3, "resources", Texts),
            Field(4, "resourceNames", Texts),
            Field(5, "nonResourceURLs", Texts),
        ],
    ),
    (
        "RoleBinding",
        &[
            META,
            Field(2, "subjects", Messages("Subject")),
            Field(3, "roleRef", Message("RoleRef")),
        ],
    ),
    (
        "ClusterRoleBinding",
        &[
            META,
            Field(2, "subjects", Messages("Subject")),
            Field(3, "roleRef", Message("RoleRef")),
        ],
    ),
    (
        "Subject",
        &[
            Field(1, "kind", Text),
            Field(2, "apiGroup", Text),
            Field(3, "name", Text),
            Field(4, "namespace", Text),
        ],
    ),
    (
        "RoleRef",
        &[
            Field(1, "apiGroup", Text),
            Field(2, "kind", Text),
            Field(3, "name", Text),
        ],
    ),
    // authentication.k8s.io/v1
    (
        "TokenRequest",
        &[META, Field(2, "spec", Message("TokenRequestSpec")), STATUS],
    ),
    (
        "TokenRequestSpec",
        &[
            Field(1, "audiences", Texts),
            Field(3, "boundObjectRef", Message("BoundObjectReference")),
            Field(4, "expirationSeconds", Int),
        ],
    ),
    (
        "BoundObjectReference",
        &[
            Field(1, "kind", Text),
            Field(2, "apiVersion", Text),
            Field(3, "name", Text),
            Field(4, "uid", Text),
        ],
    ),
    (
        "TokenReview",
        &[META, Field(2, "spec", Message("TokenReviewSpec")), STATUS],
    ),
    (
        "TokenReviewSpec",
        &[Field(1, "token", Text), Field(2, "audiences", Texts)],
    ),
    ("SelfSubjectReview", &[META, Field(2, "status", Skip)]),
    // authorization.k8s.io/v1
    (
        "SubjectAccessReview",
        &[META, Field(2, "spec", Message("SubjectAccessReviewSpec")), STATUS],
    ),
    (
        "LocalSubjectAccessReview",
        &[META, Field(2, "spec", Message("SubjectAccessReviewSpec")), STATUS],
    ),
    (
        "SubjectAccessReviewSpec",
        &[
            Field(1, "resourceAttributes", Message("ResourceAttributes")),
            Field(2, "nonResourceAttributes", Message("NonResourceAttributes")),
            Field(3, "user", Text),
            Field(4, "groups", Texts),
            Field(5, "extra", EXTRA_MAP),
            Field(6, "uid", Text),
        ],
    ),
    ("ExtraValue", &[Field(1, "items", Texts)]),
    (
        "SelfSubjectAccessReview",
        &[META, Field(2, "spec", Message("SelfSubjectAccessReviewSpec")), STATUS],
    ),
    (
        "SelfSubjectAccessReviewSpec",
        &[
            Field(1, "resourceAttributes", Message("ResourceAttributes")),
            Field(2, "nonResourceAttributes", Message("NonResourceAttributes")),
        ],
    ),
    (
        "ResourceAttributes",
        &[
            Field(1, "namespace", Text),
            Field(2, "verb", Text),
            Field(3, "group", Text),
            Field(4, "version", Text),
            Field(5, "resource", Text),
            Field(6, "subresource", Text),
            Field(7, "name", Text),
            Field(8, "fieldSelector", Skip),
            Field(9, "labelSelector", Skip),
        ],
    ),
    (
        "NonResourceAttributes",
        &[Field(1, "path", Text), Field(2, "verb", Text)],
    ),
    (
        "SelfSubjectRulesReview",
        &[META, Field(2, "spec", Message("SelfSubjectRulesReviewSpec")), STATUS],
    ),
    ("SelfSubjectRulesReviewSpec", &[Field(1, "namespace", Text)]),
];
