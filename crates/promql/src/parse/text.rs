//! Strings in quotes, with Go's escapes, and back.

pub(super) use weir_series::exposition::is_plain_name;

/// The string at the beginning of `text`, and how many bytes it takes. An error carries its place.
pub(super) fn unquote(text: &str) -> Result<(String, usize), (usize, String)> {
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('"', |(_, c)| c);
    let mut out: Vec<u8> = Vec::new();
    let mut buffer = [0; 4];
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let text = String::from_utf8(out);
            return match text {
                Ok(text) => Ok((text, at + 1)),
                Err(_) => Err((0, "the escapes of the string do not make UTF-8".into())),
            };
        }
        match c {
            '\n' if quote != '`' => break,
            '\\' if quote != '`' => {
                let Some((_, escape)) = chars.next() else { break };
                let bad = || {
                    (
                        at,
                        format!(
                            "unknown escape sequence \\{escape}, expected one of \\\\ \\{quote} \\n \\t \\x41 \\u00e4"
                        ),
                    )
                };
                let mut number = |digits: usize, radix: u32, first: Option<char>| {
                    let mut value = first.map_or(Some(0), |c| c.to_digit(radix));
                    for _ in 0..digits {
                        let digit = chars.next().and_then(|(_, c)| c.to_digit(radix));
                        value = value.zip(digit).and_then(|(v, d)| v.checked_mul(radix)?.checked_add(d));
                    }
                    value.ok_or_else(bad)
                };
                match escape {
                    'a' => out.push(7),
                    'b' => out.push(8),
                    'f' => out.push(12),
                    'n' => out.push(b'\n'),
                    'r' => out.push(b'\r'),
                    't' => out.push(b'\t'),
                    'v' => out.push(11),
                    '\\' => out.push(b'\\'),
                    c if c == quote => out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
                    'x' => out.push(u8::try_from(number(2, 16, None)?).map_err(|_| bad())?),
                    c @ '0'..='7' => out.push(u8::try_from(number(2, 8, Some(c))?).map_err(|_| bad())?),
                    'u' | 'U' => {
                        let code = number(if escape == 'u' { 4 } else { 8 }, 16, None)?;
                        let c = char::from_u32(code).ok_or_else(bad)?;
                        out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                    }
                    _ => return Err(bad()),
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    Err((0, format!("unterminated quoted string, expected {quote} at its end")))
}

/// In double quotes.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() && u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, value) in [
            (r#""a\n\x41\101\u00e4""#, "a\nAAä"),
            (r"'it\'s'", "it's"),
            (r"`\n`", r"\n"),
            ("`a\nb`", "a\nb"),
            (r#""\U0001F600""#, "😀"),
            (r#""\xc3\xa4""#, "ä"),
        ] {
            assert_eq!(unquote(text), Ok((value.to_owned(), text.len())), "{text}");
            assert_eq!(unquote(&quote(value)).map(|(v, _)| v), Ok(value.to_owned()));
        }
        for bad in [
            r#""abc"#,
            r#""\q""#,
            r#""\xg0""#,
            r#""\ud800""#,
            r#""\'""#,
            "\"a\nb\"",
            r#""\xff""#,
            r#""\400""#,
        ] {
            assert!(unquote(bad).is_err(), "{bad}");
        }
    }
}
