//! A configuration as it may be shown: without the secrets that stand in it.
//!
//! Enters: the file as a tree. Leaves: the same with `<secret>` where a secret stood, which is also how Prometheus shows it.

use weir_yaml::{Content, Node};

const HIDDEN: &str = "<secret>";
/// Where a secret stands, by its field and the one around it.
const SECRETS: &[(&str, &str)] = &[
    ("basic_auth", "password"),
    ("authorization", "credentials"),
    ("tls_config", "key"),
];

/// Hides every secret that a client of HTTP may be given, wherever it stands.
pub(super) fn hide(node: &mut Node) {
    hide_below("", "", node);
}

fn hide_below(grandparent: &str, parent: &str, node: &mut Node) {
    match &mut node.content {
        Content::Mapping(entries) => {
            for entry in entries {
                let (name, value) = (entry.name.as_str(), &mut entry.value);
                let secret = name == "bearer_token"
                    || SECRETS.contains(&(parent, name))
                    || (grandparent == "http_headers" && name == "secrets");
                let nothing = value.is_null();
                match &mut value.content {
                    _ if nothing => {}
                    Content::List(values) if secret => values.fill(Node::quoted(0, HIDDEN)),
                    _ if secret => *value = Node::quoted(0, HIDDEN),
                    Content::Scalar { text, .. } if name == "url" => hide_password(text),
                    _ => hide_below(parent, name, value),
                }
            }
        }
        Content::List(items) => items.iter_mut().for_each(|item| hide_below(grandparent, parent, item)),
        Content::Scalar { .. } => {}
    }
}

/// `https://user:password@host/` -> `https://user:xxxxx@host/`.
fn hide_password(url: &mut String) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return;
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else {
        return;
    };
    let Some((user, _)) = user.split_once(':') else {
        return;
    };
    *url = format!("{scheme}://{user}:xxxxx@{host}{}", &rest[end..]);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    const FILE: &str = r#"
global: {external_labels: {password: shown-label, key: shown-key}}
scrape_configs:
- job_name: a
  basic_auth: {username: shown-user, password: hidden-1}
  tls_config: {key: hidden-2, cert: shown-cert, insecure_skip_verify: true}
  http_headers: {X-Token: {values: [shown-value], secrets: [hidden-3, hidden-4]}}
  static_configs: [{targets: ["a:1"], labels: {credentials: shown-credentials}}]
- job_name: b
  authorization: {type: Bearer, credentials: hidden-5}
- job_name: c
  bearer_token: hidden-6
  http_sd_configs: [{url: "http://shown-name:hidden-7@sd/x@y", basic_auth: {username: u, password: hidden-8}}]
alerting:
  alertmanagers: [{basic_auth: {username: u, password: hidden-9}, static_configs: [{targets: ["m:9093"]}]}]
remote_write:
- {url: "http://far/write", authorization: {credentials: hidden-10}}
"#;

    #[test]
    fn no_secret_is_shown_and_all_else_is() {
        let shown = Config::parse(FILE, Path::new("")).unwrap().text;
        assert!(!shown.contains("hidden-"), "{shown}");
        for word in [
            "password: shown-label",
            "key: shown-key",
            "shown-user",
            "shown-cert",
            "shown-value",
            "shown-credentials",
            "shown-name:xxxxx@sd/x@y",
        ] {
            assert!(shown.contains(word), "{word} is missing in {shown}");
        }
        assert_eq!(shown.matches("<secret>").count(), 9, "{shown}");
        // What is shown can be read again.
        Config::parse(&shown.replace("<secret>", "s"), Path::new("")).unwrap();
    }
}
