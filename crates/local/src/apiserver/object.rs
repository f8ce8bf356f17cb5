//! Small readers and writers of objects held as JSON values. Knows metadata, nothing of kinds.

use jiff::Timestamp;
use rustls::crypto::SecureRandom;
use serde_json::{Map, Value};

/// The string at a JSON pointer, or "".
pub fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

pub fn name(value: &Value) -> &str {
    str_at(value, "/metadata/name")
}

pub fn namespace(value: &Value) -> &str {
    str_at(value, "/metadata/namespace")
}

pub fn uid(value: &Value) -> &str {
    str_at(value, "/metadata/uid")
}

/// `value[key]` as a map, made when it is absent or of another type.
pub fn map_at<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else {
        unreachable!("made an object just above")
    };
    as_map(map.entry(key).or_insert(Value::Null))
}

/// The value as a map; becomes an empty one when it is of another type.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

pub fn meta(value: &mut Value) -> &mut Map<String, Value> {
    map_at(value, "metadata")
}

/// The array at a JSON pointer, or nothing.
pub fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub fn items_mut<'a>(value: &'a mut Value, pointer: &str) -> &'a mut [Value] {
    value
        .pointer_mut(pointer)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// Now, as Kubernetes writes `metav1.Time`.
pub fn now() -> String {
    time(Timestamp::now())
}

pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Fills the buffer with random bytes.
pub fn random(buffer: &mut [u8]) {
    static SOURCE: std::sync::LazyLock<&'static dyn SecureRandom> =
        std::sync::LazyLock::new(|| rustls::crypto::aws_lc_rs::default_provider().secure_random);
    if SOURCE.fill(buffer).is_err() {
        // The kernel's generator does not fail after boot; the clock keeps identifiers distinct if it ever does.
        let nanos = Timestamp::now().as_nanosecond().to_le_bytes();
        for (b, n) in buffer.iter_mut().zip(nanos.iter().cycle()) {
            *b ^= n;
        }
    }
}

/// A random (version 4) UUID.
pub fn new_uid() -> String {
    let mut b = [0u8; 16];
    random(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The five characters appended to `generateName`.
pub fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut b = [0u8; 5];
    random(&mut b);
    b.iter()
        .map(|x| ALPHABET[usize::from(*x) % ALPHABET.len()] as char)
        .collect()
}
