//! Numbers as Go writes them: `%v`, `%.4g`, `%e`, `%f`.

/// `%v`: the shortest digits that read back, with an exponent below 1e-4 and from 1e6 on.
pub(super) fn shortest(v: f64) -> String {
    if let Some(special) = special(v) {
        return special;
    }
    let exponent = exponent_of(&format!("{v:e}"));
    if !(-4..6).contains(&exponent) {
        return go_exponent(&format!("{v:e}"));
    }
    format!("{v}")
}

/// `%.<precision>g`.
pub(super) fn general(v: f64, precision: usize) -> String {
    if let Some(special) = special(v) {
        return special;
    }
    let precision = precision.max(1);
    let rounded = format!("{v:.*e}", precision - 1);
    let exponent = exponent_of(&rounded);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= i32::try_from(precision).unwrap_or(i32::MAX) {
        let (mantissa, rest) = rounded.split_once('e').unwrap_or((&rounded, "0"));
        return go_exponent(&format!("{}e{rest}", trimmed(mantissa)));
    }
    let decimals = i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent;
    trimmed(&format!("{v:.*}", usize::try_from(decimals).unwrap_or(0)))
}

/// `%.<precision>e`, or with the shortest digits.
pub(super) fn scientific(v: f64, precision: Option<usize>) -> String {
    special(v).unwrap_or_else(|| match precision {
        Some(precision) => go_exponent(&format!("{v:.precision$e}")),
        None => go_exponent(&format!("{v:e}")),
    })
}

/// `%.<precision>f`.
pub(super) fn fixed(v: f64, precision: usize) -> String {
    special(v).unwrap_or_else(|| format!("{v:.precision$}"))
}

fn special(v: f64) -> Option<String> {
    match v {
        v if v.is_nan() => Some("NaN".into()),
        f64::INFINITY => Some("+Inf".into()),
        f64::NEG_INFINITY => Some("-Inf".into()),
        _ => None,
    }
}

fn exponent_of(text: &str) -> i32 {
    text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0)
}

/// A sign and at least two digits.
fn go_exponent(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    match exponent.strip_prefix('-') {
        Some(digits) => format!("{mantissa}e-{digits:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}
