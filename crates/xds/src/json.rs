//! Encoded xDS resources as JSON, and JSON as people write it as encoded xDS messages.
//!
//! Both ways are driven by tables that list the fields Weir writes or reads, under the names of Envoy's own documentation.
//! [`resource`] and [`body`] read the very bytes that are sent; a field that the tables do not know is shown as `field_N`,
//! so that nothing is hidden but private keys, which stand there as `[redacted]`, and bytes are shown as text. [`encode`]
//! takes protobuf's JSON, where bytes are base64, and refuses what the tables do not know.

use serde_json::{Map, Value};

use crate::types::{Resource, ResourceType};

pub mod duration;
mod tables;
mod write;

pub use write::{Error, encode, snake};

/// How deep messages may nest; deeper ones are shown as raw bytes.
const DEPTH_MAX: usize = 32;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// A resource's body as JSON.
pub fn resource(resource: &Resource) -> Value {
    any(resource.ty.type_url(), &resource.body, DEPTH_MAX)
}

/// An encoded body of a resource type as JSON.
pub fn body(ty: ResourceType, body: &[u8]) -> Value {
    any(ty.type_url(), body, DEPTH_MAX)
}

/// What a field's bytes mean.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Bool,
    /// `uint32`.
    Int,
    Int32,
    Int64,
    UInt64,
    Str,
    /// Shown as text, written as base64.
    Bytes,
    /// Names by number; an unknown number is shown as it is.
    Enum(&'static [&'static str]),
    Double,
    Msg(&'static [Field]),
    /// A wrapper message (`UInt32Value`, `BoolValue`) shown as its value.
    Wrapped(&'static Kind),
    Duration,
    Any,
    /// `google.protobuf.Struct`.
    Struct,
    /// `google.protobuf.Value`.
    StructValue,
    /// `google.protobuf.ListValue`.
    StructList,
    /// A map with string keys.
    MapOf(&'static Kind),
    /// A message that is there or not, such as `ads: {}`.
    Empty,
    /// A message with a secret in it: one that cannot be read is not shown.
    Closed(&'static [Field]),
    /// Never shown.
    Hidden(&'static Kind),
    /// Never shown, and not to be written.
    Redacted,
    /// May be written, and says nothing to Weir: it is left out.
    Skipped,
}

/// One field of a message.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    number: u32,
    name: &'static str,
    kind: Kind,
    repeated: bool,
    /// Of the fields with the same word here, a message has one at most; empty: it has none to do with others.
    group: &'static str,
}

impl Field {
    /// A member of a `oneof`.
    pub(crate) const fn of(self, group: &'static str) -> Self {
        Self { group, ..self }
    }
}

/// A field that occurs once.
pub(crate) const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: false,
        group: "",
    }
}

/// A field that occurs any number of times.
pub(crate) const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        repeated: true,
        group: "",
    }
}

/// A field's content as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Bits(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn field(&mut self) -> Option<(u32, Wire<'a>)> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Bits(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let n = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Bits(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, wire))
    }
}

fn any(type_url: &str, bytes: &[u8], depth: usize) -> Value {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    match tables::message(name) {
        Some(Kind::Msg(fields)) => message(fields, bytes, depth),
        Some(kind) => value(kind, &Wire::Bytes(bytes), depth),
        None => raw(bytes),
    }
}

fn raw(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Value::from(text),
        _ => Value::from(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn message(fields: &[Field], bytes: &[u8], depth: usize) -> Value {
    fields_of(fields, bytes, depth).unwrap_or_else(|| raw(bytes))
}

/// A message's fields; `None` when it cannot be read.
fn fields_of(fields: &[Field], bytes: &[u8], depth: usize) -> Option<Value> {
    let mut out = Map::new();
    let mut reader = Reader(bytes);
    if depth == 0 {
        return None;
    }
    while !reader.0.is_empty() {
        let (number, wire) = reader.field()?;
        let Some(field) = fields.iter().find(|f| f.number == number) else {
            let value = unknown(&wire);
            append(&mut out, format!("field_{number}"), value);
            continue;
        };
        if let (Kind::MapOf(kind), Wire::Bytes(entry)) = (field.kind, &wire) {
            let (key, value) = map_entry(kind, entry, depth - 1);
            if let Value::Object(map) = out.entry(field.name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
            }
            continue;
        }
        if let (true, Kind::Int, Wire::Bytes(packed)) = (field.repeated, field.kind, &wire) {
            let mut packed = Reader(packed);
            while let Some(n) = packed.varint() {
                list(&mut out, field.name, Value::from(n));
            }
            continue;
        }
        let value = value(field.kind, &wire, depth - 1);
        if field.repeated {
            list(&mut out, field.name, value);
        } else {
            out.insert(field.name.to_owned(), value);
        }
    }
    Some(Value::Object(out))
}

fn list(out: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(items) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        items.push(value);
    }
}

/// Unknown fields that occur more than once become a list.
fn append(out: &mut Map<String, Value>, name: String, value: Value) {
    match out.get_mut(&name) {
        None => {
            out.insert(name, value);
        }
        Some(Value::Array(items)) => items.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

fn unknown(wire: &Wire<'_>) -> Value {
    match wire {
        Wire::Varint(n) | Wire::Bits(n) => Value::from(*n),
        Wire::Bytes(bytes) => raw(bytes),
    }
}

fn value(kind: Kind, wire: &Wire<'_>, depth: usize) -> Value {
    match (kind, wire) {
        (Kind::Bool, Wire::Varint(n)) => Value::from(*n != 0),
        // Negative numbers are ten bytes of two's complement.
        #[allow(clippy::cast_possible_wrap)]
        (Kind::Int | Kind::Int32 | Kind::Int64, Wire::Varint(n)) => Value::from(*n as i64),
        (Kind::UInt64, Wire::Varint(n)) => Value::from(*n),
        (Kind::Enum(names), Wire::Varint(n)) => usize::try_from(*n)
            .ok()
            .and_then(|n| names.get(n))
            .map_or_else(|| Value::from(*n), |name| Value::from(*name)),
        (Kind::Double, Wire::Bits(bits)) => Value::from(f64::from_bits(*bits)),
        (Kind::Str | Kind::Bytes, Wire::Bytes(bytes)) => Value::from(String::from_utf8_lossy(bytes)),
        (Kind::Msg(fields), Wire::Bytes(bytes)) => message(fields, bytes, depth),
        (Kind::Wrapped(kind), Wire::Bytes(bytes)) => match Reader(bytes).field() {
            Some((1, inner)) => value(*kind, &inner, depth),
            _ => zero(*kind),
        },
        (Kind::Duration, Wire::Bytes(bytes)) => duration(bytes),
        (Kind::Any, Wire::Bytes(bytes)) => typed(bytes, depth),
        (Kind::Struct, Wire::Bytes(bytes)) => {
            let fields = [one(1, "fields", Kind::MapOf(&Kind::StructValue))];
            match message(&fields, bytes, depth) {
                Value::Object(mut out) => out.remove("fields").unwrap_or_else(|| Value::Object(Map::new())),
                other => other,
            }
        }
        (Kind::StructList, Wire::Bytes(bytes)) => {
            let fields = [many(1, "values", Kind::StructValue)];
            match message(&fields, bytes, depth) {
                Value::Object(mut out) => out.remove("values").unwrap_or_else(|| Value::Array(Vec::new())),
                other => other,
            }
        }
        (Kind::StructValue, Wire::Bytes(bytes)) => match Reader(bytes).field() {
            Some((1, _)) | None => Value::Null,
            Some((2, inner)) => value(Kind::Double, &inner, depth),
            Some((3, inner)) => value(Kind::Str, &inner, depth),
            Some((4, inner)) => value(Kind::Bool, &inner, depth),
            Some((5, inner)) => value(Kind::Struct, &inner, depth),
            Some((6, inner)) => value(Kind::StructList, &inner, depth),
            Some((_, inner)) => unknown(&inner),
        },
        (Kind::Empty, Wire::Bytes([])) => Value::Object(Map::new()),
        (Kind::Closed(fields), Wire::Bytes(bytes)) => {
            fields_of(fields, bytes, depth).unwrap_or_else(|| Value::from(REDACTED))
        }
        (Kind::Redacted | Kind::Hidden(_) | Kind::Closed(_), _) => Value::from(REDACTED),
        (_, wire) => unknown(wire),
    }
}

/// proto3 does not send a zero: an empty wrapper is one.
fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Bool => Value::from(false),
        Kind::Int | Kind::Int32 | Kind::Int64 | Kind::UInt64 => Value::from(0),
        Kind::Double => Value::from(0.0),
        _ => Value::from(""),
    }
}

fn map_entry(kind: &Kind, entry: &[u8], depth: usize) -> (String, Value) {
    let (mut key, mut found) = (String::new(), Value::Null);
    let mut reader = Reader(entry);
    while let Some((number, wire)) = reader.field() {
        match (number, &wire) {
            (1, Wire::Bytes(bytes)) => key = String::from_utf8_lossy(bytes).into_owned(),
            (2, wire) => found = value(*kind, wire, depth.saturating_sub(1)),
            _ => {}
        }
    }
    (key, found)
}

fn duration(bytes: &[u8]) -> Value {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((number, Wire::Varint(n))) = reader.field() {
        match number {
            1 => seconds = n,
            2 => nanos = n,
            _ => {}
        }
    }
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => Value::from(format!("{seconds}s")),
        fraction => Value::from(format!("{seconds}.{fraction}s")),
    }
}

/// An `Any`: its message with `@type` first, as protobuf's own JSON shows it.
fn typed(bytes: &[u8], depth: usize) -> Value {
    let (mut url, mut content): (String, &[u8]) = (String::new(), &[]);
    let mut reader = Reader(bytes);
    while let Some((number, Wire::Bytes(bytes))) = reader.field() {
        match number {
            1 => url = String::from_utf8_lossy(bytes).into_owned(),
            2 => content = bytes,
            _ => {}
        }
    }
    let mut out = Map::new();
    let inner = any(&url, content, depth);
    out.insert("@type".to_owned(), Value::from(url));
    match inner {
        Value::Object(fields) => out.extend(fields),
        other => {
            out.insert("value".to_owned(), other);
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
    use prost::Message;

    #[test]
    fn known_fields_by_name_and_unknown_by_number() {
        let cluster = Cluster {
            name: "80|default|web.outbound".into(),
            connect_timeout: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            per_connection_buffer_limit_bytes: Some(UInt32Value { value: 0 }),
            connection_pool_per_downstream_connection: true,
            ..Default::default()
        };
        let shown = body(ResourceType::Cluster, &cluster.encode_to_vec());
        assert_eq!(
            shown,
            serde_json::json!({
                "name": "80|default|web.outbound",
                "connect_timeout": "1.5s",
                "per_connection_buffer_limit_bytes": 0,
                "field_51": 1,
            })
        );
    }

    #[test]
    fn keys_are_not_shown_wherever_they_stand() {
        use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket, data_source, transport_socket};
        use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
        use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
        let bytes = |text: &str| {
            Some(DataSource {
                specifier: Some(data_source::Specifier::InlineBytes(text.as_bytes().to_vec())),
                ..Default::default()
            })
        };
        let pair = tls::TlsCertificate {
            certificate_chain: bytes("a chain"),
            private_key: bytes("a key"),
            password: bytes("a key"),
            ..Default::default()
        };
        let secret = tls::Secret {
            name: "default/shop".into(),
            r#type: Some(tls::secret::Type::TlsCertificate(pair.clone())),
        }
        .encode_to_vec();
        let shown = body(ResourceType::Secret, &secret);
        assert_eq!(
            shown,
            serde_json::json!({
                "name": "default/shop",
                "tls_certificate": {
                    "certificate_chain": {"inline_bytes": "a chain"},
                    "private_key": "[redacted]",
                    "password": "[redacted]",
                },
            })
        );
        for end in 0..secret.len() {
            let shown = body(ResourceType::Secret, &secret[..end]).to_string();
            assert!(!shown.contains("a ke") && !shown.contains("61206b"), "{end}: {shown}");
        }
        let context = tls::DownstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificates: vec![pair],
                ..Default::default()
            }),
            ..Default::default()
        };
        let listener = Listener {
            filter_chains: vec![FilterChain {
                transport_socket: Some(TransportSocket {
                    name: "tls".into(),
                    config_type: Some(transport_socket::ConfigType::TypedConfig(envoy_types::util::pack_any(
                        context,
                    ))),
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let shown = body(ResourceType::Listener, &listener.encode_to_vec()).to_string();
        assert!(shown.contains("a chain") && shown.contains("[redacted]"), "{shown}");
        assert!(!shown.contains("a key") && !shown.contains("61206b6579"), "{shown}");
    }

    #[test]
    fn garbage_is_shown_raw() {
        assert_eq!(body(ResourceType::Cluster, &[0xff]), Value::from("ff"));
    }
}
