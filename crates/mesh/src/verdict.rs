//! What the kinds that have a status are told about themselves: conditions without their times.

use std::collections::BTreeMap;

use serde::Serialize;
use weir_api::gateway::ParentReference;

use crate::objects::Key;

/// One condition of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Type of the condition.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in a word of the specification.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub(crate) fn yes(kind: &'static str, reason: &'static str) -> Self {
        Self {
            kind,
            holds: true,
            reason,
            message: String::new(),
        }
    }

    /// It does not.
    pub(crate) fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }

    /// It holds; or it does not, for the first reason that was found.
    pub(crate) fn of(kind: &'static str, good: &'static str, found: &[(&'static str, String)]) -> Self {
        match found.first() {
            None => Self::yes(kind, good),
            Some((reason, _)) => {
                let messages: Vec<&str> = found.iter().map(|(_, message)| message.as_str()).collect();
                Self::no(kind, reason, messages.join("; "))
            }
        }
    }
}

/// All that is said of Gateway API objects of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// GatewayClasses by name.
    #[serde(serialize_with = "crate::objects::serialize_keyed")]
    pub classes: BTreeMap<Key, Vec<Verdict>>,
    /// Gateways.
    #[serde(serialize_with = "crate::objects::serialize_keyed")]
    pub gateways: BTreeMap<Key, GatewayVerdict>,
    /// HTTPRoutes: by parent.
    #[serde(serialize_with = "crate::objects::serialize_keyed")]
    pub routes: BTreeMap<Key, Vec<(ParentReference, Vec<Verdict>)>>,
}

/// What is said of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GatewayVerdict {
    /// The Gateway as a whole.
    pub conditions: Vec<Verdict>,
    /// Its listeners, as they stand in its specification.
    pub listeners: Vec<ListenerVerdict>,
}

/// What is said of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListenerVerdict {
    /// Its name.
    pub name: String,
    /// It takes HTTPRoutes.
    pub takes_http_routes: bool,
    /// How many routes are attached.
    pub attached: i32,
    /// How it stands.
    pub conditions: Vec<Verdict>,
}
