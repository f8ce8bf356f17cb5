//! Everything that the control plane writes for a Weir proxy, the proxy accepts and brings into force at once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use prost::Message;
use serde_json::Value;
use weir_api::labels::Engine;
use weir_control::lower::Lowered;
use weir_mesh::Objects;
use weir_proxy::config::Active;
use weir_proxy::config::store::{Raw, Store};
use weir_xds::types::Peer;
use weir_xds::{ResourceType, Snapshot};

fn manifests() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/control/testdata");
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn load(file: &Path) -> Objects {
    let mut objects = Objects::default();
    let text = std::fs::read_to_string(file).unwrap();
    for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
        assert!(objects.insert(document).unwrap(), "{}: unknown kind", file.display());
    }
    objects
}

/// The proxy's configuration from a first answer of each type.
fn apply(snapshot: &Snapshot, what: &str) -> Active {
    let now = Instant::now();
    let mut store = Store::default();
    for ty in ResourceType::ALL {
        for (name, resource) in snapshot.resources(ty).iter() {
            let raw = Raw {
                ty,
                name: name.clone(),
                version: resource.version.clone(),
                body: resource.body.clone(),
            };
            if let Err(rejection) = store.set(raw, now) {
                panic!("{what}: {} {name}: {rejection}", ty.short());
            }
        }
        store.answered(ty);
    }
    // Nobody is asked for names here.
    for spec in store.to_resolve() {
        store.resolve(&spec.name, Vec::new());
    }
    let (active, waits) = store.settle(now);
    assert_eq!(waits, None, "{what}: something waits for a resource that is not there");
    active
}

#[test]
fn the_proxy_takes_all_that_the_control_plane_writes() {
    let files = manifests();
    assert!(files.len() >= 10, "manifests are missing: {files:?}");
    for file in files {
        let (mesh, _) = weir_mesh::build(&load(&file));
        let lowered = Lowered::new(&mesh, &Lowered::default());
        let enabled: Vec<_> = mesh.pods.iter().filter(|(_, pod)| pod.enabled).collect();
        assert!(!enabled.is_empty(), "{}: no pod is enabled", file.display());
        let gateway = lowered.gateway_snapshot(Engine::Weir).unwrap();
        let what = format!("{}, the gateway", file.display());
        let active = apply(&gateway, &what);
        let listeners = gateway.resources(ResourceType::Listener).len();
        assert!(active.complete && active.listeners.len() == listeners, "{what}");
        for (key, _) in enabled {
            let what = format!("{}, {}", file.display(), key.node_id());
            let snapshot = lowered.snapshot(&mesh, key, Engine::Weir, None).unwrap();
            let active = apply(&snapshot, &what);
            assert!(active.complete, "{what}");
            let count = |ty| snapshot.resources(ty).len();
            assert_eq!(active.clusters.len(), count(ResourceType::Cluster), "{what}: clusters");
            assert_eq!(
                active.listeners.len(),
                count(ResourceType::Listener),
                "{what}: listeners"
            );
            assert_eq!(active.routes.len(), count(ResourceType::Route), "{what}: routes");
            for (name, resource) in snapshot.resources(ResourceType::Peer).iter() {
                let peer = Peer::decode(resource.body.clone()).unwrap();
                assert!(!peer.pod.is_empty(), "{what}: {name} is nobody");
            }
        }
    }
}
