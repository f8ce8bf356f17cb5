//! Writes the text format 0.0.4. Label sets enter already rendered, so that a hot path can render them once.

use std::{borrow::Cow, fmt::Write};

/// Escapes a label value: backslash, double quote, line feed.
pub fn escape_value(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

/// Whether a name needs no quotes: letters, digits and `_`, no digit first; `colons` may stand in the name of a metric too.
pub fn is_plain_name(name: &str, colons: bool) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (colons && b == b':');
    !name.is_empty() && name.bytes().all(is_part) && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// The name of a label as the text format 1.0.0 has it: in quotes where it needs them.
pub fn quoted_label(name: &str) -> Cow<'_, str> {
    quoted(name, is_plain_name(name, false))
}

/// The same of a metric; one without a name has nothing to quote.
pub fn quoted_metric(name: &str) -> Cow<'_, str> {
    quoted(name, name.is_empty() || is_plain_name(name, true))
}

fn quoted(name: &str, is_plain: bool) -> Cow<'_, str> {
    if is_plain {
        return name.into();
    }
    let mut out = "\"".to_owned();
    escape_value(&mut out, name);
    (out + "\"").into()
}

/// Appends `name="value"` to a rendered label set, with a comma where one is needed; empty values are left out.
pub fn push_label(out: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    escape_value(out, value);
    out.push('"');
}

/// `# HELP` and `# TYPE` of a family.
pub fn write_header(out: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One line. `labels` and `more` are rendered label sets without braces, either may be empty.
pub fn write_sample(out: &mut String, name: &str, labels: &str, more: &str, value: f64) {
    out.push_str(name);
    if !labels.is_empty() || !more.is_empty() {
        out.push('{');
        out.push_str(labels);
        if !labels.is_empty() && !more.is_empty() {
            out.push(',');
        }
        out.push_str(more);
        out.push('}');
    }
    out.push(' ');
    write_value(out, value);
    out.push('\n');
}

/// A value such that reading it gives the same number.
pub fn write_value(out: &mut String, value: f64) {
    // Every whole number below this is exact in a double.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if (0.0..WHOLE_MAX).contains(&value) && value.fract() == 0.0 && value.is_sign_positive() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        push_u64(out, value as u64);
        return;
    }
    // Writing to a String cannot fail.
    let _ = if value.is_nan() {
        write!(out, "NaN")
    } else if value.is_infinite() {
        write!(out, "{}", if value > 0.0 { "+Inf" } else { "-Inf" })
    } else if value != 0.0 && (value.abs() >= 1e21 || value.abs() < 1e-6) {
        write!(out, "{value:e}")
    } else {
        write!(out, "{value}")
    };
}

/// The digits of 0 to 99, two each.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut i = 0;
    while i < 100 {
        pairs[2 * i as usize] = b'0' + i / 10;
        pairs[2 * i as usize + 1] = b'0' + i % 10;
        i += 1;
    }
    pairs
};

/// A whole number in decimal.
pub fn push_u64(out: &mut String, mut value: u64) {
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    while value >= 10 {
        // Below 100, so it fits any integer.
        let pair = (value % 100) as usize;
        value /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[2 * pair..2 * pair + 2]);
    }
    if value > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
    }
    // Digits are always text.
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// Microseconds as milliseconds, with as many decimals as they need.
pub fn push_micros_as_ms(out: &mut String, micros: u64) {
    push_u64(out, micros / 1000);
    let mut rest = micros % 1000;
    let mut width = 3;
    if rest == 0 {
        return;
    }
    while rest.is_multiple_of(10) {
        rest /= 10;
        width -= 1;
    }
    out.push('.');
    let digits = 1 + usize::from(rest >= 10) + usize::from(rest >= 100);
    out.push_str(&"00"[..width - digits]);
    push_u64(out, rest);
}
