//! What is made of requests before their route is looked for: path, host, and who is said to ask.
//!
//! Enters: the options of a chain that faces strangers. Leaves: nothing where none is set, so that others pay nothing.

/// What is made of a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Clients are strangers: what they say of themselves is replaced.
    pub strangers: Option<Strangers>,
    /// `.` and `..` in paths are resolved.
    pub normalize: bool,
    /// Slashes that follow each other become one.
    pub merge_slashes: bool,
    /// What is done with slashes that are written as `%2F` or `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// Which ports go from the host.
    pub strip_port: StripPort,
    /// A dot at the end of the host goes.
    pub strip_dot: bool,
}

/// How clients are told from those who stand in for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strangers {
    /// So many proxies stand in front, whose word is taken.
    pub hops: u32,
    /// The client's address is appended to `x-forwarded-for`.
    pub append: bool,
    /// Requests keep the identifier that they came with.
    pub keep_id: bool,
}

/// What is done with slashes that are written as `%2F` or `%5C`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Nothing.
    #[default]
    Keep,
    /// Such a request is refused.
    Reject,
    /// Its client is sent to the path with plain ones.
    Redirect,
    /// They become plain ones.
    Unescape,
}

/// Which ports go from the host.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    #[default]
    No,
    /// The one that the client came to.
    Matching,
    /// Any.
    Any,
}

impl Edge {
    /// `None` where nothing is done.
    pub fn some(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// The path of a request as it is understood from here on, where that is another one; `Err`: it is none.
    pub fn path(&self, path: &str) -> Result<Option<NewPath>, BadPath> {
        let mut text = path.to_owned();
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::Keep {
            let plain = unescape_slashes(&text);
            if plain != text {
                match self.escaped_slashes {
                    EscapedSlashes::Reject => return Err(BadPath),
                    EscapedSlashes::Redirect => redirect = true,
                    EscapedSlashes::Keep | EscapedSlashes::Unescape => {}
                }
                text = plain;
            }
        }
        if self.normalize {
            text = normalized(&text).ok_or(BadPath)?;
        }
        if self.merge_slashes {
            text = merged(&text);
        }
        Ok((text != path).then_some(NewPath { text, redirect }))
    }

    /// The host of a request that came to `port`, where something of it goes.
    pub fn host<'a>(&self, host: &'a str, port: u16) -> Option<&'a str> {
        let mut kept = host;
        let colon = match host.strip_prefix('[') {
            Some(_) => host.rfind("]:").map(|at| at + 1),
            None => host.rfind(':'),
        };
        if let Some(colon) = colon {
            let number = host[colon + 1..].parse::<u16>();
            let goes = match self.strip_port {
                StripPort::No => false,
                StripPort::Matching => number == Ok(port),
                StripPort::Any => number.is_ok(),
            };
            if goes {
                kept = &host[..colon];
            }
        }
        if self.strip_dot && kept.ends_with('.') {
            kept = &kept[..kept.len() - 1];
        }
        (kept.len() != host.len()).then_some(kept)
    }
}

/// Another path.
#[derive(Debug, PartialEq, Eq)]
pub struct NewPath {
    /// It, without a query.
    pub text: String,
    /// The client is sent there.
    pub redirect: bool,
}

/// What no path may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPath;

fn unescape_slashes(path: &str) -> String {
    let mut plain = path.to_owned();
    for (escaped, slash) in [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")] {
        if plain.contains(escaped) {
            plain = plain.replace(escaped, slash);
        }
    }
    plain
}

/// In one form: without `.` and `..`, with what need not be escaped as it is, and what must be escaped (RFC 3986, 6.2.2;
/// WHATWG URL, "path state").
fn normalized(path: &str) -> Option<String> {
    let path = canonical(path)?;
    let segments = path.strip_prefix('/')?.split('/');
    let last = segments.clone().count() - 1;
    let mut kept: Vec<&str> = Vec::new();
    for (i, segment) in segments.enumerate() {
        if segment == ".." {
            kept.pop();
        } else if segment != "." {
            kept.push(segment);
            continue;
        }
        if i == last {
            kept.push("");
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// Each character in the one way in which it is written; `None`: one that no path may have.
fn canonical(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let escaped = rest.strip_prefix('%').and_then(|digits| digits.get(..2));
        let digits = escaped.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (c, byte) {
            (_, Some(0)) => return None,
            (_, Some(byte)) => {
                let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                match unreserved {
                    true => out.push(char::from(byte)),
                    false => out.push_str(&rest[..3]),
                }
                rest = &rest[3..];
                continue;
            }
            ('\\', _) => out.push('/'),
            ('"' | '<' | '>' | '^' | '`' | '{' | '|' | '}', _) => out.push_str(&format!("%{:02X}", u32::from(c))),
            (c, _) => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_have_one_form() {
        for (path, expected) in [
            ("/a%41%7e%2d", Some("/aA~-")),
            ("/%252e", Some("/%252e")),
            ("/a%2fb%zz%2", Some("/a%2fb%zz%2")),
            ("/\"<>^`{|}\\", Some("/%22%3C%3E%5E%60%7B%7C%7D/")),
            ("/%é", Some("/%é")),
            ("/%+0", Some("/%+0")),
            ("/%00", None),
            ("a", None),
        ] {
            assert_eq!(normalized(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn hosts_lose_ports_and_dots() {
        let edge = |strip_port| Edge {
            strip_port,
            strip_dot: true,
            ..Edge::default()
        };
        let (any, matching) = (edge(StripPort::Any), edge(StripPort::Matching));
        assert_eq!(any.host("a.b:81", 80), Some("a.b"));
        assert_eq!(any.host("[::1]:81", 80), Some("[::1]"));
        assert_eq!(any.host("[::1]", 80), None);
        assert_eq!(matching.host("a.b:81", 80), None);
        assert_eq!(matching.host("a.b.:80", 80), Some("a.b"));
        assert_eq!(matching.host("", 80), None);
    }
}
