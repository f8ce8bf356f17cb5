//! What objects are told about themselves: where an Ingress or Gateway is reached, and the conditions of the Gateway API.
//!
//! Enters: the mesh as it was built last, and the objects as they were seen last. Leaves: patches of the `status`
//! subresource, of those objects alone whose status differs. What other controllers say in it stays: a list is written as a
//! whole, so each patch names the version of the object that it was made from, and is made anew when that is not the last.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_api::gateway::{
    CONTROLLER, Gateway, GatewayAddress, GatewayClass, GatewayStatus, GroupKind, HTTPRoute, ListenerStatus,
    ParentStatus,
};
use weir_api::lenient::Lenient;
use weir_mesh::verdict::{GatewayVerdict, Verdict};
use weir_mesh::{Key, Mesh, Objects, gateway_service};

use crate::watch::Watched;

/// A status that could not be written is written again after this time.
const RETRY: Duration = Duration::from_secs(3);

/// A mesh, and which generation of each object its verdicts speak of.
#[derive(Default)]
struct Built {
    mesh: Arc<Mesh>,
    classes: Generations,
    gateways: Generations,
    routes: Generations,
}

type Generations = BTreeMap<Key, Option<i64>>;

impl Built {
    fn new(mesh: &Arc<Mesh>, objects: &Objects) -> Self {
        fn all<K>(objects: &BTreeMap<Key, Arc<Lenient<K>>>) -> Generations {
            let one = |(key, object): (&Key, &Arc<Lenient<K>>)| (key.clone(), object.metadata.generation);
            objects.iter().map(one).collect()
        }
        Self {
            mesh: Arc::clone(mesh),
            classes: all(&objects.gateway_classes),
            gateways: all(&objects.gateways),
            routes: all(&objects.http_routes),
        }
    }
}

/// Has the statuses of each new mesh written.
pub struct Statuses(watch::Sender<Arc<Built>>);

impl Statuses {
    /// The recorder and the task that writes, until the recorder is dropped.
    pub fn new(client: Client, watched: Watched) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (latest, mut meshes) = watch::channel(Arc::<Built>::default());
        let write = async move {
            while meshes.changed().await.is_ok() {
                loop {
                    let built = Arc::clone(&meshes.borrow_and_update());
                    let Ok(objects) = watched.objects() else { break };
                    if write_all(&client, &objects, &built).await {
                        break;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        changed = meshes.changed() => if changed.is_err() { return },
                    }
                }
            }
        };
        (Self(latest), write)
    }

    /// The mesh as it is now, and what it was built from.
    pub fn update(&self, mesh: &Arc<Mesh>, objects: &Objects) {
        self.0.send_replace(Arc::new(Built::new(mesh, objects)));
    }
}

/// Writes every status that differs; false when one could not be written.
async fn write_all(client: &Client, objects: &Objects, built: &Built) -> bool {
    let now = seconds(k8s_openapi::jiff::Timestamp::now());
    let mut good = true;
    for change in changes(objects, built, &now) {
        let (key, body) = (&change.key, &change.body());
        let written = match change.kind {
            Kind::Ingress => patch::<Ingress>(client, key, body).await,
            Kind::Gateway => patch::<Gateway>(client, key, body).await,
            Kind::HttpRoute => patch::<HTTPRoute>(client, key, body).await,
            Kind::GatewayClass => {
                let api: Api<GatewayClass> = Api::all(client.clone());
                let written = api
                    .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body))
                    .await;
                written.map(|_| ())
            }
        };
        match written {
            Ok(()) => {}
            // It went in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::debug!(kind = ?change.kind, %key, "changed by another; its status is made from that, soon");
                good = false;
            }
            Err(error) => {
                tracing::warn!(kind = ?change.kind, %key, %error, "status could not be written");
                good = false;
            }
        }
    }
    good
}

/// A time as the API writes it: whole seconds.
fn seconds(at: k8s_openapi::jiff::Timestamp) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

async fn patch<K>(client: &Client, key: &Key, body: &Value) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let written = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body))
        .await;
    written.map(|_| ())
}

/// Kinds that have a status of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ingress,
    GatewayClass,
    Gateway,
    HttpRoute,
}

/// A status that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    kind: Kind,
    key: Key,
    /// Of the object that it was made from; "" where that is not known.
    version: String,
    status: Value,
}

impl Change {
    /// The patch: refused when somebody has written meanwhile.
    fn body(&self) -> Value {
        match self.version.as_str() {
            "" => json!({"status": self.status}),
            version => json!({"metadata": {"resourceVersion": version}, "status": self.status}),
        }
    }
}

/// All statuses that differ from what they should be.
fn changes(objects: &Objects, built: &Built, now: &Time) -> Vec<Change> {
    let mesh = &built.mesh;
    let addresses = objects
        .services
        .get(&gateway_service())
        .map(|s| addresses(s))
        .unwrap_or_default();
    let mut found = Vec::new();
    let mut note = |kind, key: &Key, meta: &ObjectMeta, old: &Value, new: Value| {
        if *old != new {
            found.push(Change {
                kind,
                key: key.clone(),
                version: meta.resource_version.clone().unwrap_or_default(),
                status: new,
            });
        }
    };
    for key in &mesh.gateway.ingresses {
        let Some(ingress) = objects.ingresses.get(key) else {
            continue;
        };
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let old = balancer.and_then(|b| b.ingress.clone()).unwrap_or_default();
        let points: Vec<Value> = addresses
            .iter()
            .map(|address| match address.parse::<IpAddr>() {
                Ok(ip) => json!({"ip": ip}),
                Err(_) => json!({"hostname": address}),
            })
            .collect();
        let old: Vec<Value> = old
            .iter()
            .map(|point| match (&point.ip, &point.hostname) {
                (Some(ip), _) => json!({"ip": ip}),
                (None, name) => json!({"hostname": name}),
            })
            .collect();
        let wrap = |points: Vec<Value>| json!({"loadBalancer": {"ingress": points}});
        note(Kind::Ingress, key, &ingress.metadata, &wrap(old), wrap(points));
    }
    let verdicts = &mesh.gateway.verdicts;
    for (key, verdicts) in &verdicts.classes {
        // What has appeared since the mesh was built is judged in the next one.
        let Some((meta, Ok(class))) = objects.gateway_classes.get(key).map(|o| (&o.metadata, &o.object)) else {
            continue;
        };
        let Some(generation) = built.classes.get(key).copied() else {
            continue;
        };
        let old = class.status.clone().unwrap_or_default();
        let new = weir_api::gateway::ConditionsStatus {
            conditions: conditions(verdicts, &old.conditions, generation, now),
        };
        note(Kind::GatewayClass, key, meta, &value(&old), value(&new));
    }
    for (key, verdict) in &verdicts.gateways {
        let Some((meta, Ok(gateway))) = objects.gateways.get(key).map(|o| (&o.metadata, &o.object)) else {
            continue;
        };
        let Some(generation) = built.gateways.get(key).copied() else {
            continue;
        };
        let old = gateway.status.clone().unwrap_or_default();
        let new = gateway_status(verdict, &addresses, &old, generation, now);
        note(Kind::Gateway, key, meta, &value(&old), value(&new));
    }
    for (key, object) in &objects.http_routes {
        let (Ok(route), Some(generation)) = (&object.object, built.routes.get(key).copied()) else {
            continue;
        };
        let old = route.status.clone().unwrap_or_default().parents;
        let mut new: Vec<ParentStatus> = old
            .iter()
            .filter(|p| p.controller_name != CONTROLLER)
            .cloned()
            .collect();
        for (parent, verdicts) in verdicts.routes.get(key).into_iter().flatten() {
            let known = old
                .iter()
                .find(|p| p.controller_name == CONTROLLER && p.parent_ref == *parent);
            let known = known.map(|p| p.conditions.as_slice()).unwrap_or_default();
            new.push(ParentStatus {
                parent_ref: parent.clone(),
                controller_name: CONTROLLER.to_owned(),
                conditions: conditions(verdicts, known, generation, now),
            });
        }
        let (old, new) = (json!({"parents": old}), json!({"parents": new}));
        note(Kind::HttpRoute, key, &object.metadata, &old, new);
    }
    found
}

fn value(status: &impl Serialize) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

fn gateway_status(
    verdict: &GatewayVerdict,
    addresses: &[String],
    old: &GatewayStatus,
    generation: Option<i64>,
    now: &Time,
) -> GatewayStatus {
    let listener = |listener: &weir_mesh::verdict::ListenerVerdict| {
        let known = old.listeners.iter().find(|l| l.name == listener.name);
        let known = known.map(|l| l.conditions.as_slice()).unwrap_or_default();
        let kinds = listener.takes_http_routes.then(|| GroupKind {
            group: Some(weir_api::gateway::GROUP.to_owned()),
            kind: "HTTPRoute".to_owned(),
        });
        ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: kinds.into_iter().collect(),
            attached_routes: listener.attached,
            conditions: conditions(&listener.conditions, known, generation, now),
        }
    };
    let address = |value: &String| GatewayAddress {
        type_: match value.parse::<IpAddr>() {
            Ok(_) => "IPAddress".to_owned(),
            Err(_) => "Hostname".to_owned(),
        },
        value: value.clone(),
    };
    GatewayStatus {
        addresses: addresses.iter().map(address).collect(),
        conditions: conditions(&verdict.conditions, &old.conditions, generation, now),
        listeners: verdict.listeners.iter().map(listener).collect(),
    }
}

/// Conditions as they are to be; those that stand as they stood keep the time since when. Those of other types stay.
fn conditions(verdicts: &[Verdict], old: &[Condition], generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let others = old
        .iter()
        .filter(|c| !verdicts.iter().any(|v| v.kind == c.type_))
        .cloned();
    let one = |verdict: &Verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let since = old
            .iter()
            .find(|c| c.type_ == verdict.kind && c.status == status)
            .map(|c| c.last_transition_time.clone());
        Condition {
            type_: verdict.kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message.clone(),
            observed_generation: generation,
            last_transition_time: since.unwrap_or_else(|| now.clone()),
        }
    };
    verdicts.iter().map(one).chain(others).collect()
}

/// Where clients reach the gateway: what a load balancer gave its Service, else external addresses, else its own.
fn addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let points = balancer.and_then(|b| b.ingress.clone()).unwrap_or_default();
    let given: Vec<String> = points.into_iter().filter_map(|p| p.ip.or(p.hostname)).collect();
    let spec = service.spec.clone().unwrap_or_default();
    let external = spec.external_ips.unwrap_or_default();
    let own: Vec<String> = spec
        .cluster_ip
        .into_iter()
        .filter(|ip| ip.parse::<IpAddr>().is_ok())
        .collect();
    [given, external, own]
        .into_iter()
        .find(|list| !list.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(list: &[Value]) -> Objects {
        let mut objects = Objects::default();
        for object in list {
            assert!(objects.insert(object.clone()).unwrap());
        }
        objects
    }

    fn gateway_service(spec: Value, status: Value) -> Value {
        json!({"kind": "Service", "metadata": {"namespace": "default", "name": "traffic-ingress"}, "spec": spec, "status": status})
    }

    fn now() -> Time {
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn an_ingress_is_told_the_gateways_address_once() {
        let ingress = |status: Value| json!({"kind": "Ingress", "metadata": {"namespace": "a", "name": "i"}, "status": status, "spec": {"ingressClassName": "weir"}});
        for (spec, status, point) in [
            (json!({"clusterIP": "10.96.0.5"}), json!({}), json!({"ip": "10.96.0.5"})),
            (
                json!({"clusterIP": "10.96.0.5", "externalIPs": ["1.2.3.4"]}),
                json!({}),
                json!({"ip": "1.2.3.4"}),
            ),
            (
                json!({"clusterIP": "10.96.0.5"}),
                json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}),
                json!({"hostname": "lb.example.com"}),
            ),
        ] {
            let service = gateway_service(spec, status);
            let before = objects(&[service.clone(), ingress(json!({}))]);
            let (mesh, _) = weir_mesh::build(&before);
            let built = Built::new(&Arc::new(mesh), &before);
            let changed = changes(&before, &built, &now());
            let wanted = json!({"loadBalancer": {"ingress": [point]}});
            assert_eq!(changed[0].status, wanted);
            let after = objects(&[service, ingress(wanted)]);
            assert_eq!(changes(&after, &built, &now()), []);
        }
    }

    #[test]
    fn conditions_are_written_when_they_change_and_say_since_when() {
        let class = json!({"kind": "GatewayClass", "metadata": {"name": "weir", "generation": 1}, "spec": {"controllerName": CONTROLLER}});
        let gateway = |status: Value| {
            json!({"kind": "Gateway", "metadata": {"namespace": "a", "name": "g", "generation": 4}, "status": status,
                "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}})
        };
        let route = |host: &str, status: Value| {
            json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": "r", "generation": 7}, "status": status,
                "spec": {"parentRefs": [{"name": "g"}], "hostnames": [host], "rules": [{"backendRefs": [{"name": "none", "port": 80}]}]}})
        };
        let foreign =
            json!({"parentRef": {"name": "other"}, "controllerName": "someone.else/controller", "conditions": []});
        let before = objects(&[
            class.clone(),
            gateway(json!({})),
            route("a.example.com", json!({"parents": [foreign]})),
        ]);
        let (mesh, problems) = weir_mesh::build(&before);
        assert!(
            problems
                .iter()
                .any(|p| p.message.contains("Service a/none does not exist")),
            "{problems:?}"
        );
        let built = Built::new(&Arc::new(mesh), &before);
        let changed = changes(&before, &built, &now());
        let of = |kind: Kind| &changed.iter().find(|c| c.kind == kind).unwrap().status;
        assert_eq!(of(Kind::GatewayClass)["conditions"][0]["type"], "Accepted");
        let listener = &of(Kind::Gateway)["listeners"][0];
        assert_eq!(
            (&listener["attachedRoutes"], &listener["supportedKinds"][0]["kind"]),
            (&json!(1), &json!("HTTPRoute"))
        );
        let parents = of(Kind::HttpRoute)["parents"].as_array().unwrap().clone();
        assert_eq!(
            parents[0]["controllerName"], "someone.else/controller",
            "what others say stays"
        );
        let resolved = &parents[1]["conditions"][1];
        assert_eq!(
            (&resolved["status"], &resolved["reason"]),
            (&json!("False"), &json!("BackendNotFound"))
        );
        assert_eq!(resolved["observedGeneration"], 7);
        let after = objects(&[
            class.clone(),
            gateway(of(Kind::Gateway).clone()),
            route("a.example.com", of(Kind::HttpRoute).clone()),
        ]);
        let later: Time = serde_json::from_value(json!("2026-02-01T00:00:00Z")).unwrap();
        let again = changes(&after, &built, &later);
        assert!(
            again.iter().all(|c| c.kind == Kind::GatewayClass),
            "nothing else changed: {again:?}"
        );
    }

    /// Another controller writes its own parent between our look and our patch, and the user the spec.
    #[test]
    fn a_patch_names_the_version_it_was_made_from_and_a_condition_the_generation_it_judges() {
        let route = |version: &str, generation: i64| {
            json!({"kind": "HTTPRoute", "metadata": {"namespace": "a", "name": "r", "generation": generation, "resourceVersion": version},
                "spec": {"parentRefs": [{"name": "g"}], "rules": []}})
        };
        let gateway = json!({"kind": "Gateway", "metadata": {"namespace": "a", "name": "g", "generation": 1},
            "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
        let class = json!({"kind": "GatewayClass", "metadata": {"name": "weir", "generation": 1}, "spec": {"controllerName": CONTROLLER}});
        let before = objects(&[class.clone(), gateway.clone(), route("10", 1)]);
        let (mesh, _) = weir_mesh::build(&before);
        let built = Built::new(&Arc::new(mesh), &before);
        let of_route = |objects: &Objects| {
            let found = changes(objects, &built, &now());
            found.into_iter().find(|c| c.kind == Kind::HttpRoute)
        };
        let after = objects(&[class, gateway, route("12", 2)]);
        let body = of_route(&after).unwrap().body();
        assert_eq!(body["metadata"], json!({"resourceVersion": "12"}));
        let observed = &body["status"]["parents"][0]["conditions"][0]["observedGeneration"];
        assert_eq!(*observed, 1, "the verdict is about what was, not about what is");
        let mut unknown = before;
        let (_, object) = unknown.http_routes.pop_first().unwrap();
        unknown.http_routes.insert(Key::new("a", "another"), object);
        assert_eq!(
            of_route(&unknown),
            None,
            "the next mesh judges what this one does not know"
        );
    }
}
