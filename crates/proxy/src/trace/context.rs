//! The identity of a request's trace, as it stands in headers: B3 in one header, B3 in several, W3C Trace Context.
//!
//! Enters: headers of a request, in any of the three. Leaves: the [`Context`] that goes on, in B3 and in W3C always. What is
//! malformed counts as absent. `tracestate` is not touched: it belongs to whoever wrote it. Pure.

use std::ops::Range;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use crate::config::route::edit::Fields;
use crate::config::route::matching::Head;
use crate::hex;

/// B3 in one header.
const SINGLE: &str = "b3";
const TRACE_ID: &str = "x-b3-traceid";
const SPAN_ID: &str = "x-b3-spanid";
const PARENT_ID: &str = "x-b3-parentspanid";
const SAMPLED: &str = "x-b3-sampled";
const FLAGS: &str = "x-b3-flags";
const W3C: &str = "traceparent";

/// Every header that a context is written anew in.
static NAMES: Names = Names {
    single: HeaderName::from_static(SINGLE),
    trace: HeaderName::from_static(TRACE_ID),
    span: HeaderName::from_static(SPAN_ID),
    parent: HeaderName::from_static(PARENT_ID),
    sampled: HeaderName::from_static(SAMPLED),
    flags: HeaderName::from_static(FLAGS),
    w3c: HeaderName::from_static(W3C),
};

struct Names {
    single: HeaderName,
    trace: HeaderName,
    span: HeaderName,
    parent: HeaderName,
    sampled: HeaderName,
    flags: HeaderName,
    w3c: HeaderName,
}

impl Names {
    fn each(&self) -> [&HeaderName; 7] {
        [
            &self.single,
            &self.trace,
            &self.span,
            &self.parent,
            &self.sampled,
            &self.flags,
            &self.w3c,
        ]
    }
}

/// Who a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// 128 bits; the upper half of a short one is 0.
    pub trace: u128,
    /// The span that made the request.
    pub span: u64,
    /// Its parent.
    pub parent: Option<u64>,
}

/// What a request says about its trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Who it belongs to; `None`: to nobody yet.
    pub ids: Option<Ids>,
    /// Somebody decided whether it is recorded.
    pub sampled: Option<bool>,
    /// It must be recorded, whatever that costs.
    pub debug: bool,
    /// B3 came in one header, and so it must go on.
    pub single: bool,
}

/// What goes on with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Who it belongs to.
    pub ids: Ids,
    /// It is recorded.
    pub sampled: bool,
    /// It must be recorded.
    pub debug: bool,
    /// B3 stands in one header as well.
    pub single: bool,
}

impl Incoming {
    /// What a request says. B3 goes before W3C, as with Envoy.
    pub fn read(head: &impl Head) -> Self {
        let text = |name: &str| {
            let mut first = None;
            head.values(name, &mut |value| {
                if first.is_none() {
                    first = Some(String::from_utf8_lossy(value).trim().to_owned());
                }
            });
            first
        };
        if let Some(incoming) = text(SINGLE).as_deref().and_then(b3_single) {
            return incoming;
        }
        let id = |name| text(name).as_deref().and_then(span_id);
        let debug = text(FLAGS).as_deref() == Some("1");
        let sampled = text(SAMPLED).as_deref().and_then(decision).or(debug.then_some(true));
        let ids = text(TRACE_ID).as_deref().and_then(trace_id).zip(id(SPAN_ID));
        let several = Self {
            ids: ids.map(|(trace, span)| Ids {
                trace,
                span,
                parent: id(PARENT_ID),
            }),
            sampled,
            debug,
            single: false,
        };
        if several.ids.is_some() {
            return several;
        }
        match text(W3C).as_deref().and_then(w3c) {
            Some(incoming) => Self {
                sampled: several.sampled.or(incoming.sampled),
                debug,
                ..incoming
            },
            None => several,
        }
    }
}

/// `traceid-spanid[-state[-parent]]`, or the state alone.
fn b3_single(text: &str) -> Option<Incoming> {
    let state = |text: &str| match text {
        "d" => Some((true, true)),
        text => decision(text).map(|sampled| (sampled, false)),
    };
    if let Some((sampled, debug)) = state(text) {
        return Some(Incoming {
            ids: None,
            sampled: Some(sampled),
            debug,
            single: true,
        });
    }
    let mut parts = text.split('-');
    let (trace, span) = (trace_id(parts.next()?)?, span_id(parts.next()?)?);
    let decided = match parts.next() {
        None => None,
        Some(text) => Some(state(text)?),
    };
    let parent = match parts.next() {
        None => None,
        Some(text) => Some(span_id(text)?),
    };
    if parts.next().is_some() {
        return None;
    }
    Some(Incoming {
        ids: Some(Ids { trace, span, parent }),
        sampled: decided.map(|(sampled, _)| sampled),
        debug: decided.is_some_and(|(_, debug)| debug),
        single: true,
    })
}

/// `version-traceid-parentid-flags`; later versions may have more behind that.
fn w3c(text: &str) -> Option<Incoming> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower = |text: &str| !text.bytes().any(|b| b.is_ascii_uppercase());
    let version = (version.len() == 2 && lower(version)).then(|| hex(version)).flatten()?;
    let strict = version == 0 && parts.next().is_some();
    if version == 0xff || strict || trace.len() != 32 || flags.len() != 2 || !lower(text) {
        return None;
    }
    let flags = hex(flags)?;
    Some(Incoming {
        ids: Some(Ids {
            trace: trace_id(trace)?,
            span: span_id(span)?,
            parent: None,
        }),
        sampled: Some(flags & 1 == 1),
        debug: false,
        single: false,
    })
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn hex(text: &str) -> Option<u128> {
    // The parser would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn trace_id(text: &str) -> Option<u128> {
    matches!(text.len(), 16 | 32)
        .then(|| hex(text))
        .flatten()
        .filter(|id| *id != 0)
}

fn span_id(text: &str) -> Option<u64> {
    let id = (text.len() == 16).then(|| hex(text)).flatten()?;
    u64::try_from(id).ok().filter(|id| *id != 0)
}

/// A trace's name: 32 digits, or 16 for one that began as a short one.
pub fn trace_text(trace: u128) -> String {
    match u64::try_from(trace) {
        Ok(short) => format!("{short:016x}"),
        Err(_) => format!("{trace:032x}"),
    }
}

impl Context {
    /// Writes it into a head, in place of what is there.
    pub fn write(&self, head: &mut impl Fields) {
        for name in NAMES.each() {
            head.remove(name);
        }
        // All digits are written once; each header has its part of them.
        let Ids { trace, span, parent } = self.ids;
        let (upper, lower) = ((trace >> 64) as u64, trace as u64);
        let bit = HeaderValue::from_static(if self.sampled { "1" } else { "0" });
        let mut text = Vec::with_capacity(160);
        text.extend_from_slice(b"00-");
        let long = text.len();
        hex::push(&mut text, upper, 16);
        let short = text.len();
        hex::push(&mut text, lower, 16);
        let trace = (if upper == 0 { short } else { long })..text.len();
        text.push(b'-');
        let span = digits(&mut text, span);
        text.extend_from_slice(b"-0");
        text.extend_from_slice(bit.as_bytes());
        let w3c = 0..text.len();
        let parent = parent.map(|parent| digits(&mut text, parent));
        let single = self.single.then(|| {
            let begin = text.len();
            text.extend_from_within(trace.clone());
            text.push(b'-');
            text.extend_from_within(span.clone());
            text.push(b'-');
            text.extend_from_slice(if self.debug { b"d" } else { bit.as_bytes() });
            if let Some(parent) = &parent {
                text.push(b'-');
                text.extend_from_within(parent.clone());
            }
            begin..text.len()
        });
        let text = Bytes::from(text);
        let mut put = |name: &HeaderName, part: Range<usize>| {
            // Digits and dashes are a value.
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(part)) {
                head.append(name, &value);
            }
        };
        put(&NAMES.trace, trace);
        put(&NAMES.span, span);
        if let Some(parent) = parent {
            put(&NAMES.parent, parent);
        }
        put(&NAMES.w3c, w3c);
        if let Some(single) = single {
            put(&NAMES.single, single);
        }
        match self.debug {
            true => head.append(&NAMES.flags, &HeaderValue::from_static("1")),
            false => head.append(&NAMES.sampled, &bit),
        }
    }
}

/// Appends the sixteen digits of a span's name; leaves where they stand.
fn digits(text: &mut Vec<u8>, span: u64) -> Range<usize> {
    let begin = text.len();
    hex::push(text, span, 16);
    begin..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head that has nothing but headers.
    struct Headers(Vec<(HeaderName, HeaderValue)>);

    impl Head for Headers {
        fn method(&self) -> &str {
            ""
        }

        fn target(&self) -> &str {
            ""
        }

        fn host(&self) -> &str {
            ""
        }

        fn scheme(&self) -> &str {
            ""
        }

        fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
            self.0
                .iter()
                .filter(|(n, _)| n == name)
                .for_each(|(_, v)| see(v.as_bytes()));
        }
    }

    fn head(headers: &[(&str, &str)]) -> Headers {
        let field = |(name, value): &(&str, &str)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            Some((name.parse().unwrap(), value))
        };
        Headers(headers.iter().filter_map(field).collect())
    }

    fn read(headers: &[(&str, &str)]) -> Incoming {
        Incoming::read(&head(headers))
    }

    fn ids(trace: u128, span: u64, parent: Option<u64>) -> Option<Ids> {
        Some(Ids { trace, span, parent })
    }

    #[test]
    fn each_format_is_understood() {
        let long = "80f198ee56343ba864fe8b2a57d3eff7";
        let trace = 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7;
        let (span, parent) = (0xe457_b5a2_e4d8_6bd1, 0x05e3_ac9a_4f6e_3b90);
        let b3 = format!("{long}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90");
        let single = read(&[("B3", &b3)]);
        assert_eq!(single.ids, ids(trace, span, Some(parent)));
        assert_eq!((single.sampled, single.debug, single.single), (Some(true), false, true));
        let several = read(&[
            ("X-B3-TraceId", long),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("X-B3-ParentSpanId", "05e3ac9a4f6e3b90"),
            ("X-B3-Sampled", "0"),
        ]);
        assert_eq!(several.ids, single.ids);
        assert_eq!((several.sampled, several.single), (Some(false), false));
        let w3c = read(&[("traceparent", &format!("00-{long}-e457b5a2e4d86bd1-01"))]);
        assert_eq!((w3c.ids, w3c.sampled), (ids(trace, span, None), Some(true)));
        // A short identifier, debugging, decisions without an identity.
        let short = read(&[("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-d")]);
        assert_eq!(short.ids, ids(0x64fe_8b2a_57d3_eff7, span, None));
        assert_eq!((short.sampled, short.debug), (Some(true), true));
        assert_eq!(read(&[("b3", "0")]).sampled, Some(false));
        assert_eq!(read(&[("x-b3-sampled", "true")]).sampled, Some(true));
        assert_eq!(read(&[("x-b3-flags", "1")]).sampled, Some(true));
        // No decision yet.
        assert_eq!(read(&[("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1")]).sampled, None);
        // B3 goes before W3C; a later version of the latter is understood.
        assert_eq!(
            read(&[("traceparent", &format!("00-{long}-e457b5a2e4d86bd1-01")), ("b3", "0")]).ids,
            None
        );
        assert!(
            read(&[("traceparent", &format!("cc-{long}-e457b5a2e4d86bd1-00-more"))])
                .ids
                .is_some()
        );
    }

    #[test]
    fn what_is_malformed_counts_as_absent() {
        let long = "80f198ee56343ba864fe8b2a57d3eff7";
        for bad in [
            "",
            "-",
            "x",
            "80f198ee56343ba8",
            "80f198ee56343ba8-+457b5a2e4d86bd1",
            "80f198ee56343ba8-e457b5a2e4d86bd1-2",
            "80f198ee56343ba8-e457b5a2e4d86bd1-1-5",
            "80f198ee56343ba8-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90-1",
            "0000000000000000-e457b5a2e4d86bd1-1",
            "80f198ee56343ba8-0000000000000000-1",
        ] {
            assert_eq!(read(&[("b3", bad)]), Incoming::default(), "{bad:?}");
        }
        for bad in [
            format!("ff-{long}-e457b5a2e4d86bd1-01"),
            format!("00-{long}-e457b5a2e4d86bd1-01-more"),
            format!("00-{}-e457b5a2e4d86bd1-01", long.to_uppercase()),
            format!("00-{long}-e457b5a2e4d86bd1-1"),
            format!("00-{}-e457b5a2e4d86bd1-01", "0".repeat(32)),
            "00-80f198ee56343ba8-e457b5a2e4d86bd1-01".into(),
        ] {
            assert_eq!(read(&[("traceparent", &bad)]), Incoming::default(), "{bad:?}");
        }
        // Half an identity is none, a decision beside it stays one.
        let half = read(&[("x-b3-traceid", long), ("x-b3-sampled", "0")]);
        assert_eq!((half.ids, half.sampled), (None, Some(false)));
    }

    proptest! {
        /// What is written is read as the same, in each format alone and in all together.
        #[test]
        fn a_context_comes_back(trace in 1u128.., span in 1u64.., parent: Option<u64>, sampled: bool, debug: bool, single: bool) {
            let parent = parent.filter(|p| *p != 0);
            let context = Context { ids: Ids { trace, span, parent }, sampled: sampled || debug, debug, single };
            let mut written = head(&[("b3", "0"), ("X-B3-TraceId", "1"), ("x-other", "1")]).0;
            context.write(&mut written);
            prop_assert_eq!(written.iter().filter(|(n, _)| n == TRACE_ID || n == "x-other").count(), 2);
            let some = |keep: &dyn Fn(&str) -> bool| {
                Incoming::read(&Headers(written.iter().filter(|(n, _)| keep(n.as_str())).cloned().collect()))
            };
            let all = some(&|_| true);
            prop_assert_eq!((all.ids, all.sampled, all.debug, all.single), (Some(context.ids), Some(context.sampled), debug, single));
            let several = some(&|n| n.starts_with("x-"));
            prop_assert_eq!((several.ids, several.sampled, several.debug), (Some(context.ids), Some(context.sampled), debug));
            let w3c = some(&|n| n == W3C);
            prop_assert_eq!((w3c.ids, w3c.sampled), (Some(Ids { parent: None, ..context.ids }), Some(context.sampled)));
        }

        #[test]
        fn no_header_panics(name in "(b3|traceparent|x-b3-traceid|x-b3-flags)", value in "[0-9a-fA-F-]{0,80}|.{0,20}") {
            let _ = read(&[(&name, &value)]);
        }
    }
}
