//! Kubernetes' protobuf form of request bodies -> JSON, for the kinds that kubectl and Go clients write typed.
//! Answers are always JSON, which those clients accept. A field that `schema` does not list is refused, never dropped.

pub mod schema;

use base64::Engine;
use serde_json::{Map, Value, json};

use self::schema::{Field, Type};

/// Before every encoded object.
const MAGIC: &[u8] = b"k8s\0";
/// Depth to which messages are followed.
const DEPTH_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the protobuf body is damaged or cut off")]
    Damaged,
    #[error("{0} is not understood in protobuf; send it as application/json")]
    Kind(String),
    #[error("field {number} of {message} is not understood in protobuf; send it as application/json")]
    Field { message: &'static str, number: u64 },
}

/// Decodes an object with its envelope (`runtime.Unknown`).
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let mut envelope = body.strip_prefix(MAGIC).ok_or(DecodeError::Damaged)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = next(&mut envelope)? {
        match (number, wire) {
            (1, Wire::Bytes(mut meta)) => {
                while let Some((number, wire)) = next(&mut meta)? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let unknown = || DecodeError::Kind(format!("{kind} of {api_version}"));
    let message = schema::root(&api_version, &kind).ok_or_else(unknown)?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    message_into(&mut object, message, raw, 0)?;
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(b) => Ok(b),
            Self::Varint(_) => Err(DecodeError::Damaged),
        }
    }

    fn text(&self) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| DecodeError::Damaged)
    }

    fn number(&self) -> Result<i64, DecodeError> {
        match self {
            Self::Varint(v) => Ok(v.cast_signed()),
            Self::Bytes(_) => Err(DecodeError::Damaged),
        }
    }
}

fn varint(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first().ok_or(DecodeError::Damaged)?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Damaged)
}

fn take<'a>(input: &mut &'a [u8], length: u64) -> Result<&'a [u8], DecodeError> {
    let length = usize::try_from(length).map_err(|_| DecodeError::Damaged)?;
    let (bytes, rest) = input.split_at_checked(length).ok_or(DecodeError::Damaged)?;
    *input = rest;
    Ok(bytes)
}

/// The next field of a message: its number and content.
fn next<'a>(input: &mut &'a [u8]) -> Result<Option<(u64, Wire<'a>)>, DecodeError> {
    if input.is_empty() {
        return Ok(None);
    }
    let key = varint(input)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(input)?),
        1 => Wire::Bytes(take(input, 8)?),
        5 => Wire::Bytes(take(input, 4)?),
        2 => {
            let length = varint(input)?;
            Wire::Bytes(take(input, length)?)
        }
        _ => return Err(DecodeError::Damaged),
    };
    Ok(Some((key >> 3, wire)))
}

fn message(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let mut object = Map::new();
    message_into(&mut object, name, bytes, depth)?;
    Ok(Value::Object(object))
}

fn message_into(
    object: &mut Map<String, Value>,
    name: &'static str,
    mut bytes: &[u8],
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::Damaged);
    }
    while let Some((number, wire)) = next(&mut bytes)? {
        let Some(Field(_, field, kind)) = schema::field(name, number) else {
            return Err(DecodeError::Field { message: name, number });
        };
        if let Type::Inline(inner) = *kind {
            message_into(object, inner, wire.bytes()?, depth + 1)?;
            continue;
        }
        insert(object, field, *kind, &wire, depth)?;
    }
    Ok(())
}

fn insert(
    object: &mut Map<String, Value>,
    field: &str,
    kind: Type,
    wire: &Wire,
    depth: usize,
) -> Result<(), DecodeError> {
    let list = |object: &mut Map<String, Value>, value: Value| {
        if let Value::Array(list) = object.entry(field).or_insert_with(|| json!([])) {
            list.push(value);
        }
    };
    let value = match kind {
        Type::Skip | Type::Inline(_) => return Ok(()),
        Type::Text => {
            let text = wire.text()?;
            // Go writes empty strings; JSON leaves them out.
            if text.is_empty() {
                return Ok(());
            }
            text.into()
        }
        Type::KeptText => wire.text()?.into(),
        Type::Texts => {
            list(object, wire.text()?.into());
            return Ok(());
        }
        Type::Ints => {
            list(object, wire.number()?.into());
            return Ok(());
        }
        Type::Int => wire.number()?.into(),
        Type::IntOrNone => match wire.number()? {
            0 => return Ok(()),
            n => n.into(),
        },
        Type::Bool => (wire.number()? != 0).into(),
        Type::BoolOrNone => match wire.number()? {
            0 => return Ok(()),
            _ => true.into(),
        },
        Type::Time { micro } => match time(wire.bytes()?, micro)? {
            Some(t) => t.into(),
            None => return Ok(()),
        },
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Message(inner) => message(inner, wire.bytes()?, depth + 1)?,
        Type::Messages(inner) => {
            list(object, message(inner, wire.bytes()?, depth + 1)?);
            return Ok(());
        }
        Type::Map(inner) => {
            let (key, value) = entry(wire.bytes()?, inner, depth)?;
            if let Value::Object(map) = object.entry(field).or_insert_with(|| json!({})) {
                map.insert(key, value);
            }
            return Ok(());
        }
        Type::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Type::Quantity => quantity(wire.bytes()?)?,
        Type::ExtraValue => message("ExtraValue", wire.bytes()?, depth + 1)?["items"].take(),
    };
    object.insert(field.to_owned(), value);
    Ok(())
}

/// One entry of a map.
fn entry(mut bytes: &[u8], kind: &Type, depth: usize) -> Result<(String, Value), DecodeError> {
    let mut key = String::new();
    let mut slot = Map::new();
    while let Some((number, wire)) = next(&mut bytes)? {
        match number {
            1 => key = wire.text()?,
            2 => insert(&mut slot, "value", *kind, &wire, depth)?,
            _ => {}
        }
    }
    let value = slot.remove("value").unwrap_or_else(|| "".into());
    Ok((key, value))
}

fn quantity(mut bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut text = String::new();
    while let Some((_, wire)) = next(&mut bytes)? {
        text = wire.text()?;
    }
    Ok(text.into())
}

fn int_or_string(mut bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    while let Some((field, wire)) = next(&mut bytes)? {
        match field {
            1 => is_text = wire.number()? == 1,
            2 => number = wire.number()?,
            _ => text = wire.text()?,
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn time(mut bytes: &[u8], micro: bool) -> Result<Option<String>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((field, wire)) = next(&mut bytes)? {
        match field {
            1 => seconds = wire.number()?,
            _ => nanos = i32::try_from(wire.number()?).map_err(|_| DecodeError::Damaged)?,
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| DecodeError::Damaged)?;
    Ok(Some(if micro {
        at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        super::object::time(at)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(mut n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    /// Encodes a length-delimited field.
    fn f(number: u8, content: &[u8]) -> Vec<u8> {
        let key = encoded(u64::from(number) << 3 | 2);
        [key, encoded(content.len() as u64), content.to_vec()].concat()
    }

    /// Encodes a number.
    fn n(number: u8, value: u64) -> Vec<u8> {
        [encoded(u64::from(number) << 3), encoded(value)].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [f(1, api_version.as_bytes()), f(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), f(1, &meta), f(2, raw), f(3, b""), f(4, b"")].concat()
    }

    #[test]
    fn a_config_map_comes_out_as_json() {
        let meta = [
            f(1, b"cm"),
            f(2, b""),
            f(8, b""),
            f(11, &[f(1, b"k"), f(2, b"v")].concat()),
        ]
        .concat();
        let raw = [
            f(1, &meta),
            f(2, &[f(1, b"a"), f(2, b"b")].concat()),
            f(3, &[f(1, b"bin"), f(2, &[1, 2])].concat()),
        ]
        .concat();
        assert_eq!(
            decode(&envelope("v1", "ConfigMap", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "labels": {"k": "v"}},
                "data": {"a": "b"}, "binaryData": {"bin": "AQI="}})
        );
    }

    #[test]
    fn unknown_kinds_and_fields_are_refused() {
        assert!(matches!(
            decode(&envelope("v1", "Nonsense", b"")),
            Err(DecodeError::Kind(_))
        ));
        let raw = f(9, b"x");
        assert!(matches!(
            decode(&envelope("v1", "ConfigMap", &raw)),
            Err(DecodeError::Field {
                message: "ConfigMap",
                number: 9
            })
        ));
    }

    #[test]
    fn damaged_bodies_are_errors() {
        let whole = envelope("v1", "ConfigMap", &f(1, &f(1, b"name")));
        for end in 0..whole.len() {
            // Whatever is cut off, nothing panics.
            let _ = decode(&whole[..end]);
        }
        assert!(decode(b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(decode(b"").is_err());
    }

    /// A pod's volume is a name with one of many sources beside it, a probe its times with one of many actions.
    #[test]
    fn a_pod_with_volumes_comes_out_as_json() {
        let item = [f(1, b"k"), f(2, b"p"), n(3, 0o644)].concat();
        let secret = [f(1, b"s"), f(2, &item), n(3, 0o600)].concat();
        let config = [f(1, &f(1, b"cm")), n(4, 1)].concat();
        let token = f(4, &[f(1, b"aud"), n(2, 3600), f(3, b"token")].concat());
        let volume = |name: &[u8], number: u8, source: &[u8]| f(1, &[f(1, name), f(2, &f(number, source))].concat());
        let get = f(2, &[f(1, b"/ready"), f(2, &n(2, 80))].concat());
        let probe = [f(1, &get), n(4, 5)].concat();
        let spec = [
            volume(b"a", 19, &config),
            volume(b"b", 26, &f(1, &token)),
            volume(b"c", 6, &secret),
            volume(b"d", 2, b""),
            f(2, &[f(1, b"main"), f(11, &probe)].concat()),
            f(14, &[n(3, 1), n(4, 7), n(4, 8)].concat()),
        ]
        .concat();
        let pod = [f(1, &f(1, b"p")), f(2, &spec)].concat();
        assert_eq!(
            decode(&envelope("v1", "Pod", &pod)).unwrap()["spec"],
            json!({
                "volumes": [
                    {"name": "a", "configMap": {"name": "cm", "optional": true}},
                    {"name": "b", "projected": {"sources": [
                        {"serviceAccountToken": {"audience": "aud", "expirationSeconds": 3600, "path": "token"}}]}},
                    {"name": "c", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 420}], "defaultMode": 384}},
                    {"name": "d", "emptyDir": {}},
                ],
                "containers": [{"name": "main", "readinessProbe": {"httpGet": {"path": "/ready", "port": 80}, "periodSeconds": 5}}],
                "securityContext": {"runAsNonRoot": true, "supplementalGroups": [7, 8]},
            })
        );
    }
}
