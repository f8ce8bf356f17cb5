//! Writes the text format 0.0.4. Label sets enter already rendered, so that a hot path can render them once.

use std::fmt::Write;

/// Escapes a label value: backslash, double quote, line feed.
pub fn escape_value(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
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
