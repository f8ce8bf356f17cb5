//! Listeners with several certificates, from Secrets made here.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::objects::{Key, Objects};

/// A Secret with a certificate for these names.
fn secret(objects: &mut Objects, name: &str, names: &[&str]) {
    let made =
        rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    let data = [
        ("tls.crt".to_owned(), ByteString(made.cert.pem().into_bytes())),
        (
            "tls.key".to_owned(),
            ByteString(made.signing_key.serialize_pem().into_bytes()),
        ),
    ];
    let mut secret = Secret {
        data: Some(data.into()),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Default::default()
    };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some("default".to_owned());
    objects.secrets.insert(Key::new("default", name), Arc::new(secret));
}

/// Server names (none: all others) by Secret, of listeners with these hosts and Secrets.
fn chains(secrets: &[(&str, &[&str])], listeners: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let mut objects = Objects::default();
    for (name, names) in secrets {
        secret(&mut objects, name, names);
    }
    let listener = |(number, (host, secrets)): (usize, &(&str, &[&str]))| {
        let references: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        let mut listener = json!({"name": format!("l{number}"), "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": references}});
        if !host.is_empty() {
            listener["hostname"] = json!(host);
        }
        listener
    };
    let listeners: Vec<Value> = listeners.iter().enumerate().map(listener).collect();
    for object in [
        json!({"kind": "GatewayClass", "metadata": {"name": "weir"}, "spec": {"controllerName": "weir.dev/gateway-controller"}}),
        json!({"kind": "Gateway", "metadata": {"namespace": "default", "name": "g"}, "spec": {"gatewayClassName": "weir", "listeners": listeners}}),
    ] {
        objects.insert(object).unwrap();
    }
    let (mesh, problems) = crate::build(&objects);
    assert_eq!(problems, []);
    let chains = mesh.gateway.chains.into_iter();
    let short = |name: String| name.trim_start_matches("default/").to_owned();
    chains
        .map(|chain| (short(chain.certificate), chain.server_names))
        .collect()
}

fn shown(secret: &str, names: &[&str]) -> (String, Vec<String>) {
    (secret.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn each_name_is_shown_the_certificate_that_is_for_it() {
    let secrets: [(&str, &[&str]); 2] = [("a", &["a.example.com"]), ("b", &["b.example.com", "a.example.com"])];
    assert_eq!(
        chains(&secrets, &[("", &["a", "b"])]),
        [
            shown("a", &["a.example.com"]),
            shown("b", &["b.example.com"]),
            shown("a", &[])
        ],
        "of two for a name the first; the first for all others"
    );
    assert_eq!(
        chains(&secrets, &[("*.example.com", &["a", "b"])]),
        [
            shown("a", &["*.example.com", "a.example.com"]),
            shown("b", &["b.example.com"])
        ]
    );
    assert_eq!(
        chains(&secrets, &[("b.example.com", &["a", "b"])]),
        [shown("b", &["b.example.com"])],
        "the one that is for the host, wherever it stands"
    );
    assert_eq!(
        chains(&secrets, &[("", &["b"])]),
        [shown("b", &[])],
        "one alone is for everybody"
    );
}

#[test]
fn what_a_listener_asks_for_goes_before_names_of_certificates() {
    let secrets: [(&str, &[&str]); 3] = [
        ("a", &["a.example.com"]),
        ("b", &["b.example.org"]),
        ("c", &["*.example.com"]),
    ];
    assert_eq!(
        chains(&secrets, &[("", &["b", "a"]), ("*.example.com", &["c"])]),
        [
            shown("b", &["b.example.org"]),
            shown("c", &["*.example.com"]),
            shown("b", &[])
        ]
    );
}
