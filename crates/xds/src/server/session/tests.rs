//! Both variants against the rules in the module's documentation. Bodies are real messages where references matter.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::google::rpc;
use prost::Message;

use super::delta::DeltaSession;
use super::sotw::SotwSession;
use super::*;
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use crate::snapshot::Resources;
use ResourceType::{Cluster as C, Endpoint as E, Listener as L, Peer as P, Route as R};

/// A snapshot from `(type, name, content)`; clusters refer to the endpoints of their name.
fn snapshot(resources: &[(ResourceType, &str, &str)]) -> Snapshot {
    let mut maps: BTreeMap<ResourceType, Resources> = BTreeMap::new();
    for (ty, name, content) in resources {
        let body = if *ty == C {
            let discovery = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
            Cluster {
                name: (*name).into(),
                alt_stat_name: (*content).into(),
                cluster_discovery_type: Some(discovery),
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            content.as_bytes().to_vec()
        };
        maps.entry(*ty)
            .or_default()
            .insert((*name).into(), Resource::new(*ty, *name, body));
    }
    maps.into_iter()
        .fold(Snapshot::new(), |s, (ty, map)| s.with(ty, Arc::new(map)))
}

fn version(snapshot: &Snapshot, ty: ResourceType, name: &str) -> String {
    snapshot.get(ty, name).unwrap().version.clone()
}

fn subscribe(ty: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.type_url().into(),
        resource_names_subscribe: names.iter().map(|n| (*n).into()).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(rpc::Status {
            code: 3,
            message: message.into(),
            details: vec![],
        }),
        ..ack(response)
    }
}

/// What a delta response says, in short: `cds +a +b -c`.
fn short(response: &DeltaDiscoveryResponse) -> String {
    let ty = ResourceType::from_type_url(&response.type_url).unwrap();
    let added = response.resources.iter().map(|r| format!(" +{}", r.name));
    let removed = response.removed_resources.iter().map(|n| format!(" -{n}"));
    format!("{ty}{}", added.chain(removed).collect::<String>())
}

/// Takes all responses that come without an answer.
fn drain(session: &mut DeltaSession, snapshot: &Snapshot) -> Vec<DeltaDiscoveryResponse> {
    std::iter::from_fn(|| session.next(snapshot)).collect()
}

/// Answers everything with ACK until there is nothing more; returns what came.
fn settle(session: &mut DeltaSession, snapshot: &Snapshot) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(response) = session.next(snapshot) {
        seen.push(short(&response));
        session.on_request(ack(&response));
    }
    seen
}

/// A delta client that has everything of the snapshot.
fn settled(snapshot: &Snapshot) -> DeltaSession {
    let mut session = DeltaSession::new();
    for ty in [C, L] {
        session.on_request(subscribe(ty, &[]));
    }
    for ty in [E, R] {
        let names: Vec<&str> = snapshot.resources(ty).keys().map(String::as_str).collect();
        session.on_request(subscribe(ty, &names));
    }
    settle(&mut session, snapshot);
    assert!(session.next(snapshot).is_none());
    session
}

const WEB: &[(ResourceType, &str, &str)] = &[(C, "a", "1"), (E, "a", "1"), (L, "l", "1"), (R, "a", "1")];

#[test]
fn a_new_client_gets_everything_in_order() {
    let snapshot = snapshot(WEB);
    let mut session = DeltaSession::new();
    session.on_request(subscribe(R, &["a"]));
    session.on_request(subscribe(L, &["*"]));
    session.on_request(subscribe(E, &["a"]));
    session.on_request(subscribe(C, &[]));
    assert_eq!(
        settle(&mut session, &snapshot),
        ["cds +a", "eds +a", "lds +l", "rds +a"]
    );
    assert_eq!(session.status()[&C].sent_version, session.status()[&C].acked_version);
    assert_eq!(session.status()[&C].resources, 1);
}

#[test]
fn listeners_and_routes_wait_until_the_clusters_are_taken_but_endpoints_do_not() {
    let old = snapshot(WEB);
    let mut session = settled(&old);
    let new = snapshot(&[(C, "a", "2"), (E, "a", "2"), (L, "l", "2"), (R, "a", "2")]);
    let first = drain(&mut session, &new);
    assert_eq!(first.iter().map(short).collect::<Vec<_>>(), ["cds +a", "eds +a"]);
    // Endpoints are taken; the clusters warm still.
    session.on_request(ack(&first[1]));
    assert!(session.next(&new).is_none());
    session.on_request(ack(&first[0]));
    assert_eq!(
        drain(&mut session, &new).iter().map(short).collect::<Vec<_>>(),
        ["lds +l", "rds +a"]
    );
}

#[test]
fn a_changed_cluster_brings_its_unchanged_endpoints() {
    let mut session = settled(&snapshot(WEB));
    let new = snapshot(&[(C, "a", "2"), (E, "a", "1"), (L, "l", "1"), (R, "a", "1")]);
    assert_eq!(settle(&mut session, &new), ["cds +a", "eds +a"]);
}

#[test]
fn only_what_changed_is_sent() {
    let base = snapshot(&[(C, "a", "1"), (C, "b", "1"), (E, "a", "1"), (E, "b", "1")]);
    let mut session = settled(&base);
    let new = snapshot(&[(C, "a", "1"), (C, "b", "1"), (E, "a", "1"), (E, "b", "2")]);
    assert_eq!(settle(&mut session, &new), ["eds +b"]);
}

#[test]
fn removals_come_last_and_in_reverse() {
    let both = snapshot(&[
        (C, "a", "1"),
        (C, "b", "1"),
        (E, "a", "1"),
        (E, "b", "1"),
        (L, "l", "1"),
        (L, "m", "1"),
        (R, "a", "1"),
        (R, "b", "1"),
    ]);
    let mut session = settled(&both);
    session.on_request(subscribe(E, &["c"]));
    let new = snapshot(&[
        (C, "a", "1"),
        (C, "c", "1"),
        (E, "a", "1"),
        (E, "c", "1"),
        (L, "l", "2"),
        (R, "a", "1"),
    ]);
    assert_eq!(
        settle(&mut session, &new),
        ["cds +c", "eds +c", "lds +l", "rds -b", "lds -m", "eds -b", "cds -b"]
    );
}

#[test]
fn removals_wait_for_all_answers() {
    let mut session = settled(&snapshot(&[(C, "a", "1"), (C, "b", "1"), (L, "l", "1")]));
    let new = snapshot(&[(C, "a", "1"), (L, "l", "2")]);
    let change = session.next(&new).unwrap();
    assert_eq!(short(&change), "lds +l");
    assert!(session.next(&new).is_none(), "the client has not answered yet");
    session.on_request(ack(&change));
    assert_eq!(settle(&mut session, &new), ["cds -b"]);
}

#[test]
fn one_response_a_type_is_unanswered_and_changes_meanwhile_coalesce() {
    let mut session = settled(&snapshot(WEB));
    let with = |v: &'static str| snapshot(&[(C, "a", "1"), (E, "a", v), (L, "l", "1"), (R, "a", "1")]);
    let second = session.next(&with("2")).unwrap();
    assert!(session.next(&with("3")).is_none());
    assert!(session.next(&with("4")).is_none());
    session.on_request(ack(&second));
    assert_eq!(settle(&mut session, &with("4")), ["eds +a"]);
}

#[test]
fn a_rejected_resource_is_not_sent_again_until_it_changes() {
    let mut session = settled(&snapshot(&[(L, "good", "1"), (L, "bad", "1")]));
    let broken = snapshot(&[(L, "good", "2"), (L, "bad", "2")]);
    let first = snapshot(&[(L, "good", "1"), (L, "bad", "1")]);
    let pending = |session: &DeltaSession| -> Vec<(String, PendingState, bool)> {
        let status = session.status();
        let of_old = |(name, p): (&String, &Pending)| (name.clone(), p.state, p.taken.as_ref() == first.get(L, name));
        status[&L].pending.iter().map(of_old).collect()
    };
    assert_eq!(pending(&session), []);
    let response = session.next(&broken).unwrap();
    let sent = ["bad", "good"].map(|name| (name.to_owned(), PendingState::Sent, true));
    assert_eq!(pending(&session), sent);
    let events = session.on_request(nack(&response, "Error adding/updating listener(s) bad: no such filter"));
    assert_eq!(pending(&session), [("bad".to_owned(), PendingState::Rejected, true)]);
    let Event::Nack(L, rejection) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(rejection.resources, ["bad"]);
    assert!(rejection.message.contains("no such filter"));
    assert_eq!(session.status()[&L].last_nack.as_ref(), Some(rejection));
    assert_eq!(session.status()[&L].nacks, 1);
    assert!(session.next(&broken).is_none());

    // The other one goes on, the bad one waits for its next version.
    let other = snapshot(&[(L, "good", "3"), (L, "bad", "2")]);
    assert_eq!(settle(&mut session, &other), ["lds +good"]);
    assert!(session.status()[&L].last_nack.is_some());
    let fixed = snapshot(&[(L, "good", "3"), (L, "bad", "3")]);
    assert_eq!(settle(&mut session, &fixed), ["lds +bad"]);
    assert_eq!(session.status()[&L].last_nack, None);
}

#[test]
fn a_rejection_that_names_nothing_rejects_the_whole_response() {
    let snapshot = snapshot(&[(C, "a", "1"), (C, "b", "1")]);
    let mut session = DeltaSession::new();
    session.on_request(subscribe(C, &[]));
    let response = session.next(&snapshot).unwrap();
    let events = session.on_request(nack(&response, "I do not like it"));
    assert!(
        matches!(&events[0], Event::Nack(C, n) if n.resources == ["a", "b"]),
        "{events:?}"
    );
    assert!(session.next(&snapshot).is_none());
}

#[test]
fn names_are_found_as_whole_words() {
    assert!(names_resource(
        "bad cluster 80|default|web.outbound: x",
        "80|default|web.outbound"
    ));
    assert!(!names_resource(
        "bad cluster 9080|default|web.outbound",
        "80|default|web.outbound"
    ));
    assert!(names_resource("listener 'outbound': y", "outbound"));
    assert!(!names_resource("listener 10.0.0.1_80_outbound: y", "outbound"));
}

#[test]
fn a_reconnecting_client_gets_the_difference_only() {
    let snapshot = snapshot(&[
        (C, "a", "1"),
        (C, "b", "2"),
        (E, "a", "1"),
        (E, "b", "1"),
        (L, "l", "1"),
    ]);
    let mut session = DeltaSession::new();
    let initial = |ty: ResourceType, have: &[(&str, String)], names: &[&str]| DeltaDiscoveryRequest {
        initial_resource_versions: have.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect(),
        ..subscribe(ty, names)
    };
    session.on_request(initial(
        C,
        &[
            ("a", version(&snapshot, C, "a")),
            ("b", "old".into()),
            ("gone", "old".into()),
        ],
        &[],
    ));
    session.on_request(initial(
        E,
        &[
            ("a", version(&snapshot, E, "a")),
            ("b", version(&snapshot, E, "b")),
            ("gone", "old".into()),
        ],
        &["a", "b", "gone"],
    ));
    session.on_request(initial(
        L,
        &[("l", version(&snapshot, L, "l")), ("gone", "old".into())],
        &["*"],
    ));
    // The wildcard's first response is due even when it has nothing to say.
    assert_eq!(
        settle(&mut session, &snapshot),
        ["cds +b", "eds +b", "lds", "lds -gone"],
        "connections of the listener may still need the cluster"
    );
    let held = |session: &DeltaSession| session.status()[&C].pending.get("gone").map(|p| p.state);
    assert_eq!(
        held(&session),
        Some(PendingState::Waiting),
        "nobody is kept in the dark"
    );

    // What goes now goes at once: this server knows since when.
    let less = self::snapshot(&[(C, "a", "1"), (E, "a", "1"), (L, "l", "1")]);
    assert_eq!(settle(&mut session, &less), ["eds -b", "cds -b"]);

    session.release();
    assert_eq!(settle(&mut session, &less), ["eds -gone", "cds -gone"]);
    assert_eq!(held(&session), None);
    session.release();
    assert!(session.next(&less).is_none());
}

#[test]
fn what_a_reconnecting_client_keeps_may_come_again() {
    let mut session = DeltaSession::new();
    session.on_request(DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), "old".to_owned()), ("b".to_owned(), "old".to_owned())].into(),
        ..subscribe(C, &[])
    });
    let nothing = snapshot(&[]);
    assert_eq!(settle(&mut session, &nothing), ["cds"]);
    let again = snapshot(&[(C, "a", "1")]);
    assert_eq!(settle(&mut session, &again), ["cds +a"]);
    assert_eq!(settle(&mut session, &nothing), ["cds -a"], "as any other from here on");
    session.release();
    assert_eq!(settle(&mut session, &nothing), ["cds -b"]);
}

#[test]
fn names_that_do_not_exist_are_said_to_be_removed_once() {
    let nothing = snapshot(&[]);
    let mut session = DeltaSession::new();
    session.on_request(subscribe(E, &["x"]));
    assert_eq!(settle(&mut session, &nothing), ["eds -x"]);
    assert!(session.next(&nothing).is_none());
    // It appears, and goes again.
    let something = snapshot(&[(E, "x", "1")]);
    assert_eq!(settle(&mut session, &something), ["eds +x"]);
    assert_eq!(settle(&mut session, &nothing), ["eds -x"]);
    // Asked for again: answered again.
    session.on_request(subscribe(E, &["x"]));
    assert_eq!(settle(&mut session, &nothing), ["eds -x"]);
}

#[test]
fn asked_for_again_is_sent_again() {
    let snapshot = snapshot(WEB);
    let mut session = settled(&snapshot);
    session.on_request(subscribe(E, &["a"]));
    assert_eq!(settle(&mut session, &snapshot), ["eds +a"]);
}

#[test]
fn unsubscribed_names_are_sent_no_more() {
    let mut session = settled(&snapshot(WEB));
    session.on_request(DeltaDiscoveryRequest {
        type_url: E.type_url().into(),
        resource_names_unsubscribe: vec!["a".into()],
        ..Default::default()
    });
    let new = snapshot(&[(C, "a", "1"), (E, "a", "2"), (L, "l", "1"), (R, "a", "1")]);
    assert_eq!(settle(&mut session, &new), Vec::<String>::new());
    assert_eq!(session.status()[&E].resources, 0);
}

#[test]
fn peers_are_told_on_demand_only() {
    let snapshot = snapshot(&[(P, "10.244.0.7", "x"), (P, "10.244.0.8", "y")]);
    let mut session = DeltaSession::new();
    session.on_request(subscribe(P, &["*"]));
    assert!(session.next(&snapshot).is_none(), "no wildcard for peers");
    session.on_request(subscribe(P, &["10.244.0.8", "10.0.0.1"]));
    assert_eq!(settle(&mut session, &snapshot), ["peer +10.244.0.8 -10.0.0.1"]);
}

#[test]
fn stale_nonces_and_strange_types_are_ignored() {
    let snapshot = snapshot(WEB);
    let mut session = DeltaSession::new();
    session.on_request(subscribe(C, &[]));
    let response = session.next(&snapshot).unwrap();
    let stale = DeltaDiscoveryRequest {
        response_nonce: "77".into(),
        ..ack(&response)
    };
    assert!(matches!(session.on_request(stale)[..], [Event::Ignored(_)]));
    assert_eq!(session.status()[&C].acked_version, "");
    let strange = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".into(),
        ..Default::default()
    };
    assert!(matches!(session.on_request(strange)[..], [Event::Ignored(_)]));
    assert_eq!(session.on_request(ack(&response)), [Event::Ack(C)]);
}

// State of the world

fn want(ty: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ty.type_url().into(),
        resource_names: names.iter().map(|n| (*n).into()).collect(),
        ..Default::default()
    }
}

fn answer(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: response.type_url.clone(),
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        resource_names: names.iter().map(|n| (*n).into()).collect(),
        ..Default::default()
    }
}

/// A state-of-the-world client that wants the given endpoints and routes and takes everything.
struct SotwClient {
    session: SotwSession,
    names: BTreeMap<ResourceType, Vec<&'static str>>,
}

impl SotwClient {
    fn new(endpoints: &[&'static str], routes: &[&'static str]) -> Self {
        let names: BTreeMap<_, _> = [(C, vec![]), (L, vec![]), (E, endpoints.to_vec()), (R, routes.to_vec())].into();
        let mut session = SotwSession::new();
        for (ty, names) in &names {
            session.on_request(want(*ty, names));
        }
        Self { session, names }
    }

    /// What came, as `cds 3` (type and number of resources).
    fn settle(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(response) = self.session.next(snapshot) {
            let ty = ResourceType::from_type_url(&response.type_url).unwrap();
            seen.push(format!("{ty} {}", response.resources.len()));
            self.session.on_request(answer(&response, &self.names[&ty]));
        }
        seen
    }
}

#[test]
fn sotw_sends_all_in_order_then_only_what_changed() {
    let mut client = SotwClient::new(&["a", "b"], &["a"]);
    let first = snapshot(&[
        (C, "a", "1"),
        (C, "b", "1"),
        (E, "a", "1"),
        (E, "b", "1"),
        (L, "l", "1"),
        (R, "a", "1"),
    ]);
    assert_eq!(client.settle(&first), ["cds 2", "eds 2", "lds 1", "rds 1"]);
    let changed = snapshot(&[
        (C, "a", "1"),
        (C, "b", "2"),
        (E, "a", "1"),
        (E, "b", "1"),
        (L, "l", "1"),
        (R, "a", "2"),
    ]);
    // Clusters are always told in full; only the changed one's endpoints follow.
    assert_eq!(client.settle(&changed), ["cds 2", "eds 1", "rds 1"]);
    assert_eq!(client.settle(&changed), Vec::<String>::new());
}

#[test]
fn sotw_keeps_what_goes_until_everything_new_is_taken() {
    let mut client = SotwClient::new(&["a", "b"], &[]);
    client.settle(&snapshot(&[(C, "a", "1"), (E, "a", "1"), (L, "l", "1")]));
    let swapped = snapshot(&[(C, "b", "1"), (E, "b", "1"), (L, "m", "1")]);
    assert_eq!(
        client.settle(&swapped),
        ["cds 2", "eds 1", "lds 2", "lds 1", "cds 1"],
        "both at first, then the old ones go, in reverse"
    );
}

#[test]
fn sotw_answers_the_last_nonce_only() {
    let snapshot = snapshot(&[(C, "a", "1"), (E, "a", "1"), (E, "b", "1")]);
    let mut session = SotwSession::new();
    session.on_request(want(E, &["a"]));
    let first = session.next(&snapshot).unwrap();
    session.on_request(answer(&first, &["a"]));
    // A new name comes with the same nonce.
    assert_eq!(session.on_request(answer(&first, &["a", "b"])), [Event::Subscribed(E)]);
    let second = session.next(&snapshot).unwrap();
    assert_eq!(second.resources.len(), 1);
    assert!(matches!(
        session.on_request(answer(&first, &["a"]))[..],
        [Event::Ignored(_)]
    ));
    assert_eq!(session.on_request(answer(&second, &["a", "b"])), [Event::Ack(E)]);
}

#[test]
fn sotw_keeps_the_last_good_one_of_a_rejected_resource() {
    let good = snapshot(&[(C, "a", "1"), (C, "b", "1")]);
    let mut client = SotwClient::new(&[], &[]);
    client.settle(&good);
    let bad = snapshot(&[(C, "a", "bad"), (C, "b", "1")]);
    let response = client.session.next(&bad).unwrap();
    let mut rejection = answer(&response, &[]);
    rejection.error_detail = Some(rpc::Status {
        code: 3,
        message: "Error adding cluster(s) a: bad".into(),
        details: vec![],
    });
    assert!(matches!(&client.session.on_request(rejection)[..], [Event::Nack(C, n)] if n.resources == ["a"]));
    assert!(client.session.next(&bad).is_none());
    // The next full response carries a's last good version.
    let next = snapshot(&[(C, "a", "bad"), (C, "b", "2")]);
    let response = client.session.next(&next).unwrap();
    let bodies: Vec<_> = response.resources.iter().map(|any| any.value.clone()).collect();
    assert_eq!(
        bodies,
        [
            good.get(C, "a").unwrap().body.to_vec(),
            next.get(C, "b").unwrap().body.to_vec()
        ]
    );
}

#[test]
fn sotw_names_given_up_are_all_given_up() {
    let snapshot = snapshot(&[(C, "a", "1")]);
    let mut session = SotwSession::new();
    session.on_request(want(C, &["a"]));
    let response = session.next(&snapshot).unwrap();
    session.on_request(answer(&response, &[]));
    assert_eq!(
        session.status()[&C].resources,
        0,
        "no names after names means nothing, not everything"
    );
    assert!(session.next(&snapshot).is_none());
}

/// A client as simple as can be: what it holds is what it took.
#[derive(Default)]
struct Model {
    session: DeltaSession,
    held: BTreeMap<ResourceType, BTreeMap<String, String>>,
    asked: BTreeMap<ResourceType, std::collections::BTreeSet<String>>,
    unanswered: Vec<DeltaDiscoveryResponse>,
    /// Names and versions that it would not take.
    rejected: std::collections::BTreeSet<(ResourceType, String, String)>,
}

impl Model {
    fn take_one(&mut self, reject: bool) {
        if self.unanswered.is_empty() {
            return;
        }
        let response = self.unanswered.remove(0);
        let ty = ResourceType::from_type_url(&response.type_url).unwrap();
        let removal = response.resources.is_empty();
        if reject && !removal {
            let rejected = response
                .resources
                .iter()
                .map(|r| (ty, r.name.clone(), r.version.clone()));
            self.rejected.extend(rejected);
            self.session.on_request(nack(&response, "no"));
            return;
        }
        let held = self.held.entry(ty).or_default();
        for resource in &response.resources {
            held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            held.remove(name);
        }
        let asked = &self.asked;
        if matches!(ty, E | R) {
            held.retain(|name, _| asked.get(&ty).is_some_and(|names| names.contains(name)));
        }
        self.session.on_request(ack(&response));
    }
}

/// Snapshots in layers, subscriptions, answers and rejections at random: in the end the client has what it asked for, in the
/// versions there are, but for what it rejects; and once it has, an equal snapshot is silence.
#[test]
fn whatever_happens_the_client_ends_with_what_there_is() {
    use crate::layers::Layer;
    for seed in 0..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut client = Model::default();
        let mut current = Snapshot::new();
        for ty in [C, L] {
            client.session.on_request(subscribe(ty, &[]));
        }
        for step in 0..60 {
            match random(6) {
                0 | 1 => {
                    // One layer of one type changes; names of the two layers are apart.
                    let ty = [C, E, L, R][random(4) as usize];
                    let own = random(2) == 0;
                    let prefix = if own { "o" } else { "s" };
                    let mut map = Resources::new();
                    for n in 0..random(4) {
                        let name = format!("{prefix}{n}");
                        let content = format!("{}", random(3));
                        let one = snapshot(&[(ty, &name, &content)]);
                        map.insert(name.clone(), Arc::clone(one.get(ty, &name).unwrap()));
                    }
                    let old = current.resources(ty);
                    let others: Resources = old
                        .to_map()
                        .into_iter()
                        .filter(|(n, _)| !n.starts_with(prefix))
                        .collect();
                    let layers = vec![Layer::new(others), Layer::new(map)];
                    current = current
                        .clone()
                        .with(ty, if random(3) == 0 { layers[1..].to_vec() } else { layers });
                }
                2 => {
                    let (ty, name) = (
                        [E, R][random(2) as usize],
                        format!("{}{}", ["o", "s"][random(2) as usize], random(4)),
                    );
                    client.asked.entry(ty).or_default().insert(name.clone());
                    client.session.on_request(subscribe(ty, &[&name]));
                }
                3 if step > 20 => {
                    let (ty, name) = (
                        [E, R][random(2) as usize],
                        format!("{}{}", ["o", "s"][random(2) as usize], random(4)),
                    );
                    client.asked.entry(ty).or_default().remove(&name);
                    client.held.entry(ty).or_default().remove(&name);
                    client.session.on_request(DeltaDiscoveryRequest {
                        resource_names_unsubscribe: vec![name],
                        ..subscribe(ty, &[])
                    });
                }
                4 => client.take_one(random(8) == 0),
                _ => {
                    while let Some(response) = client.session.next(&current) {
                        client.unanswered.push(response);
                    }
                }
            }
        }
        let mut rounds = 0;
        loop {
            while let Some(response) = client.session.next(&current) {
                client.unanswered.push(response);
            }
            if client.unanswered.is_empty() {
                break;
            }
            client.take_one(false);
            rounds += 1;
            assert!(rounds < 100, "seed {seed}: it never ends");
        }
        for ty in [C, E, L, R] {
            let asked =
                |name: &str| matches!(ty, C | L) || client.asked.get(&ty).is_some_and(|names| names.contains(name));
            let resources = current.resources(ty).iter().filter(|(name, _)| asked(name));
            let mut wanted: BTreeMap<String, String> =
                resources.map(|(name, r)| (name.clone(), r.version.clone())).collect();
            let mut held = client.held.remove(&ty).unwrap_or_default();
            wanted.retain(|name, version| {
                let refused =
                    client.rejected.contains(&(ty, name.clone(), version.clone())) && held.get(name) != Some(version);
                // It keeps what it had instead, if it had something.
                held.retain(|n, _| !refused || n != name);
                !refused
            });
            assert_eq!(held, wanted, "seed {seed}, {ty}");
        }
        let equal = ResourceType::ALL
            .into_iter()
            .fold(Snapshot::new(), |s, ty| s.with(ty, current.resources(ty).to_map()));
        assert!(client.session.next(&equal).is_none(), "seed {seed}: nothing changed");
    }
}
