//! Protobuf's JSON to encoded messages.
//!
//! Enters: a message's name and a JSON value. Leaves: its encoding, or an [`Error`] that names the path of the field and
//! what would be right. Nothing is passed over: an unknown field, a list where a message stands, two members of a `oneof`
//! are refused. What a value means, and whether it may stand there, is not known here. Values of text are not quoted in
//! errors, for they may be keys.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

use super::{Field, Kind, duration, tables};

/// How deep messages may nest.
const DEPTH_MAX: usize = 64;
/// Where the name of an `Any`'s message stands.
const TYPE: &str = "@type";
const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDING);

/// Why a JSON value is no such message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{message}", if path.is_empty() { "" } else { ": " })]
pub struct Error {
    /// Path of the field within the message; empty: it is the message itself.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Error {
    /// The same, of a message that stands in another.
    pub fn below(self, parent: &str) -> Self {
        let path = match self.path.as_str() {
            "" => parent.to_owned(),
            more if more.starts_with('[') => format!("{parent}{more}"),
            more => format!("{parent}.{more}"),
        };
        Self { path, ..self }
    }
}

type Written = Result<(), Error>;

fn wrong<T>(message: impl Into<String>) -> Result<T, Error> {
    let (path, message) = (String::new(), message.into());
    Err(Error { path, message })
}

/// Puts an error's path below another.
fn below<T>(parent: impl FnOnce() -> String) -> impl FnOnce(Error) -> Result<T, Error> {
    move |error| Err(error.below(&parent()))
}

/// Encodes a message, which is named as in Envoy's API, with or without `type.googleapis.com/` before it.
///
/// Fields are named `snake_case` or `lowerCamelCase`. A null is an unset field.
pub fn encode(message: &str, value: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let fields = fields_of(message)?;
    write_message(fields, object(value)?, false, DEPTH_MAX, &mut out)?;
    Ok(out)
}

fn fields_of(type_url: &str) -> Result<&'static [Field], Error> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    match tables::message(name) {
        Some(Kind::Msg(fields) | Kind::Closed(fields)) => Ok(fields),
        _ => wrong(format!("{name} is unknown; known are {}", like(name))),
    }
}

/// The known messages whose names begin most like this one.
fn like(name: &str) -> String {
    let same = |known: &str| {
        known
            .split('.')
            .zip(name.split('.'))
            .take_while(|(a, b)| a == b)
            .count()
    };
    let most = tables::names().map(same).max().unwrap_or(0);
    let like: Vec<_> = tables::names().filter(|known| same(known) == most).collect();
    like.join(", ")
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a message",
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, Error> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => wrong(format!("must be a message, not {}", what(other))),
    }
}

fn text(value: &Value) -> Result<&str, Error> {
    match value {
        Value::String(text) => Ok(text),
        other => wrong(format!("must be text, not {}", what(other))),
    }
}

fn list(value: &Value) -> Result<&[Value], Error> {
    match value {
        Value::Array(items) => Ok(items),
        other => wrong(format!("must be a list, not {}", what(other))),
    }
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

/// `typed`: it stands in an `Any`, so one of its fields is the name of its type.
fn write_message(
    fields: &'static [Field],
    given: &Map<String, Value>,
    typed: bool,
    depth: usize,
    out: &mut Vec<u8>,
) -> Written {
    let Some(depth) = depth.checked_sub(1) else {
        return wrong(format!("stands more than {DEPTH_MAX} messages deep"));
    };
    let mut seen: Vec<&Field> = Vec::with_capacity(given.len());
    for (key, value) in given {
        if value.is_null() || (typed && key == TYPE) {
            continue;
        }
        let Some(field) = find(fields, key) else {
            let known: Vec<_> = fields.iter().filter(|f| writable(f)).map(|f| f.name).collect();
            let known = if known.is_empty() {
                "there are none".to_owned()
            } else {
                format!("known are {}", known.join(", "))
            };
            return wrong(format!("unknown field `{key}`; {known}"));
        };
        for other in &seen {
            if other.number == field.number {
                return wrong("is there twice").or_else(below(|| field.name.to_owned()));
            }
            if !field.group.is_empty() && other.group == field.group {
                let message = format!("must not stand beside {}; right is one of the two", other.name);
                return wrong(message).or_else(below(|| field.name.to_owned()));
            }
        }
        seen.push(field);
        write_field(field, value, depth, out).or_else(below(|| field.name.to_owned()))?;
    }
    Ok(())
}

fn writable(field: &Field) -> bool {
    !matches!(field.kind, Kind::Redacted)
}

fn find(fields: &'static [Field], key: &str) -> Option<&'static Field> {
    let mut known = fields.iter().filter(|f| writable(f));
    known.clone().find(|f| f.name == key).or_else(|| {
        let key = snake(key);
        known.find(|f| snake(&camel(f.name)) == key)
    })
}

/// A name as protobuf's JSON has it: of `consecutive_5xx`, that is `consecutive5xx`.
fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut up = false;
    for c in name.chars() {
        match c {
            '_' => up = true,
            c if std::mem::take(&mut up) => out.push(c.to_ascii_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// `lowerCamelCase` as `snake_case`.
pub fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn write_field(field: &Field, value: &Value, depth: usize, out: &mut Vec<u8>) -> Written {
    if let Kind::MapOf(kind) = field.kind {
        for (key, value) in object(value)? {
            let mut entry = Vec::new();
            put_bytes(1, key.as_bytes(), &mut entry);
            write_value(*kind, 2, value, depth, &mut entry).or_else(below(|| format!("[{key:?}]")))?;
            put_bytes(field.number, &entry, out);
        }
        return Ok(());
    }
    if !field.repeated {
        return write_value(field.kind, field.number, value, depth, out);
    }
    for (i, item) in list(value)?.iter().enumerate() {
        write_value(field.kind, field.number, item, depth, out).or_else(below(|| format!("[{i}]")))?;
    }
    Ok(())
}

fn write_value(kind: Kind, number: u32, value: &Value, depth: usize, out: &mut Vec<u8>) -> Written {
    match kind {
        Kind::Bool => match value {
            Value::Bool(is) => put_varint(number, (*is).into(), out),
            other => return wrong(format!("must be true or false, not {}", what(other))),
        },
        Kind::Int => put_varint(number, integer(value, 0..=u32::MAX.into())?, out),
        Kind::Int32 => put_varint(number, integer(value, i32::MIN.into()..=i32::MAX.into())?, out),
        Kind::Int64 => put_varint(number, integer(value, i64::MIN.into()..=i64::MAX.into())?, out),
        Kind::UInt64 => put_varint(number, integer(value, 0..=u64::MAX.into())?, out),
        Kind::Enum(names) => put_varint(number, enumerated(value, names)?, out),
        Kind::Double => {
            let found = match value {
                Value::String(text) => text.parse().ok().filter(|n: &f64| n.is_finite()),
                other => other.as_f64(),
            };
            let Some(double) = found else {
                return wrong(format!("must be a number, not {}", what(value)));
            };
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend_from_slice(&double.to_le_bytes());
        }
        Kind::Str => put_bytes(number, text(value)?.as_bytes(), out),
        Kind::Bytes => {
            let text = text(value)?;
            match STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)) {
                Ok(bytes) => put_bytes(number, &bytes, out),
                Err(_) => return wrong("must be base64"),
            }
        }
        Kind::Duration => {
            let Value::String(text) = value else {
                return wrong(format!("must be a duration such as \"0.25s\", not {}", what(value)));
            };
            let span = duration::parse(text).or_else(wrong)?;
            put_bytes(number, &prost::Message::encode_to_vec(&span), out);
        }
        Kind::Hidden(kind) => write_value(*kind, number, value, depth, out)?,
        Kind::Skipped => {}
        _ => {
            let mut inner = Vec::new();
            write_inner(kind, value, depth, &mut inner)?;
            put_bytes(number, &inner, out);
        }
    }
    Ok(())
}

/// What is a message on the wire.
fn write_inner(kind: Kind, value: &Value, depth: usize, out: &mut Vec<u8>) -> Written {
    match kind {
        Kind::Msg(fields) | Kind::Closed(fields) => write_message(fields, object(value)?, false, depth, out),
        Kind::Empty => write_message(&[], object(value)?, false, depth, out),
        Kind::Wrapped(kind) => write_value(*kind, 1, value, depth, out),
        Kind::Any => write_any(object(value)?, depth, out),
        Kind::Struct => write_struct(object(value)?, depth, out),
        Kind::StructValue => write_free(value, depth, out),
        Kind::StructList => write_list(list(value)?, depth, out),
        _ => wrong("cannot be written"),
    }
}

fn write_any(given: &Map<String, Value>, depth: usize, out: &mut Vec<u8>) -> Written {
    let url = match given.get(TYPE) {
        None => return wrong("is missing; it names the message").or_else(below(|| TYPE.to_owned())),
        Some(url) => text(url).or_else(below(|| TYPE.to_owned()))?,
    };
    let mut content = Vec::new();
    write_message(fields_of(url)?, given, true, depth, &mut content)?;
    put_bytes(1, url.as_bytes(), out);
    put_bytes(2, &content, out);
    Ok(())
}

fn write_struct(given: &Map<String, Value>, depth: usize, out: &mut Vec<u8>) -> Written {
    for (key, value) in given {
        let (mut entry, mut content) = (Vec::new(), Vec::new());
        write_free(value, depth, &mut content).or_else(below(|| format!("[{key:?}]")))?;
        put_bytes(1, key.as_bytes(), &mut entry);
        put_bytes(2, &content, &mut entry);
        put_bytes(1, &entry, out);
    }
    Ok(())
}

fn write_list(items: &[Value], depth: usize, out: &mut Vec<u8>) -> Written {
    for (i, item) in items.iter().enumerate() {
        let mut content = Vec::new();
        write_free(item, depth, &mut content).or_else(below(|| format!("[{i}]")))?;
        put_bytes(1, &content, out);
    }
    Ok(())
}

/// A `google.protobuf.Value`, which is any JSON.
fn write_free(value: &Value, depth: usize, out: &mut Vec<u8>) -> Written {
    let Some(depth) = depth.checked_sub(1) else {
        return wrong(format!("stands more than {DEPTH_MAX} messages deep"));
    };
    let mut content = Vec::new();
    let number = match value {
        Value::Null => {
            put_varint(1, 0, out);
            return Ok(());
        }
        Value::Number(_) => return write_value(Kind::Double, 2, value, depth, out),
        Value::String(text) => {
            put_bytes(3, text.as_bytes(), out);
            return Ok(());
        }
        Value::Bool(is) => {
            put_varint(4, (*is).into(), out);
            return Ok(());
        }
        Value::Object(fields) => {
            write_struct(fields, depth, &mut content)?;
            5
        }
        Value::Array(items) => {
            write_list(items, depth, &mut content)?;
            6
        }
    };
    put_bytes(number, &content, out);
    Ok(())
}

/// A whole number, or text that is one, as a varint has it: two's complement.
fn integer(value: &Value, range: RangeInclusive<i128>) -> Result<u64, Error> {
    /// Doubles below it are whole and exact.
    const EXACT: f64 = 9e15;
    let found = match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => Some(n.into()),
            (_, Some(n), _) => Some(n.into()),
            // Whole and in range, as is just checked.
            #[allow(clippy::cast_possible_truncation)]
            (.., Some(n)) if n.fract() == 0.0 && n.abs() < EXACT => Some(n as i128),
            _ => None,
        },
        Value::String(text) => text.parse::<i128>().ok(),
        _ => None,
    };
    match found.filter(|n| range.contains(n)) {
        // The lower half of it is the two's complement of 64 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(n) => Ok(n as u64),
        None => {
            let (low, high) = range.into_inner();
            let given = match value {
                Value::Number(number) => number.to_string(),
                other => what(other).to_owned(),
            };
            wrong(format!("must be a whole number from {low} to {high}, not {given}"))
        }
    }
}

fn enumerated(value: &Value, names: &[&str]) -> Result<u64, Error> {
    let Value::String(name) = value else {
        return integer(value, i32::MIN.into()..=i32::MAX.into());
    };
    match names.iter().position(|known| known == name && !known.is_empty()) {
        Some(number) => Ok(number as u64),
        None => {
            let known: Vec<_> = names.iter().copied().filter(|known| !known.is_empty()).collect();
            wrong(format!("{name:?} is unknown; known are {}", known.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests;
