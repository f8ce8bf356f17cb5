//! How what a proxy is sent differs from what it took last, as lines with `-` and `+`.

use serde_json::{Map, Value};
use similar::TextDiff;

use super::TYPES;
use crate::error::Error;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// The differences in words.
pub(super) struct Different {
    pub(super) text: String,
    pub(super) is_empty: bool,
}

/// `sent` and `pending` are type -> name -> resource; `answer` is what the control plane said of pending ones, `null` where
/// the proxy is not connected.
pub(super) fn render(
    node: &str,
    sent: &Map<String, Value>,
    pending: &Map<String, Value>,
    answer: &Value,
) -> Result<Different, Error> {
    if answer.is_null() {
        return Err(Error::Refused(format!(
            "the proxy of {node} is not connected to the control plane: what it took last is not known"
        )));
    }
    let mut text = String::new();
    for kind in TYPES {
        let of_kind = pending.get(kind.key()).and_then(Value::as_object);
        for (name, state) in of_kind.into_iter().flatten() {
            let now = sent.get(kind.key()).map_or(&Value::Null, |resources| &resources[name]);
            let (before, after) = (yaml(&state["taken"])?, yaml(now)?);
            let why = match state["state"].as_str() {
                Some("rejected") => "rejected by the proxy",
                Some("sent") => "sent, not answered yet",
                _ => "to be sent",
            };
            let id = format!("{}/{name}", kind.key());
            text.push_str(&format!("{id}: {why}\n"));
            let lines = TextDiff::from_lines(&before, &after);
            let mut lines = lines.unified_diff();
            text.push_str(&lines.context_radius(CONTEXT_LINES).header("taken", "sent").to_string());
        }
    }
    let is_empty = text.is_empty();
    if is_empty {
        text = format!("The proxy of {node} has taken all that it is sent.\n");
    }
    Ok(Different { text, is_empty })
}

/// Nothing for a resource that is not there.
fn yaml(resource: &Value) -> Result<String, Error> {
    if resource.is_null() {
        return Ok(String::new());
    }
    serde_saphyr::to_string(resource).map_err(|error| Error::Answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_was_taken_and_what_was_sent() {
        let sent = map(json!({"cds": {"a": {"lb_policy": "RANDOM", "type": "EDS"}, "b": {"type": "EDS"}}}));
        let pending = json!({"cds": {
            "a": {"state": "rejected", "taken": {"lb_policy": "MAGLEV", "type": "EDS"}},
            "b": {"state": "sent", "taken": null},
            "c": {"state": "waiting", "taken": {"type": "STATIC"}},
        }});
        let different = render("n", &sent, &map(pending.clone()), &pending).unwrap();
        assert!(!different.is_empty);
        let text = different.text;
        assert!(
            text.starts_with("cds/a: rejected by the proxy\n--- taken\n+++ sent\n"),
            "{text}"
        );
        assert!(text.contains("-lb_policy: MAGLEV\n+lb_policy: RANDOM\n"), "{text}");
        assert!(
            text.contains("cds/b: sent, not answered yet\n") && text.contains("+type: EDS\n"),
            "{text}"
        );
        assert!(
            text.contains("cds/c: to be sent\n") && text.contains("-type: STATIC\n"),
            "{text}"
        );
    }

    #[test]
    fn nothing_and_nobody() {
        let same = render("n", &Map::new(), &Map::new(), &json!({})).unwrap();
        assert!(same.is_empty && same.text.contains("has taken all"));
        assert!(render("n", &Map::new(), &Map::new(), &Value::Null).is_err());
    }
}
