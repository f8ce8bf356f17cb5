//! When a route applies: path, headers, query.
//!
//! Enters: the head of a request, whatever it was read from. Leaves: yes or no. All texts are prepared when the
//! configuration is decoded; a comparison allocates nothing.

use regex::bytes::Regex;

use crate::config::fault::Percent;

/// The head of a request, as far as routes look at it.
pub trait Head {
    /// `GET`, ...
    fn method(&self) -> &str;
    /// Path and query, as they stand.
    fn target(&self) -> &str;
    /// For whom the request is; with a port where one was named.
    fn host(&self) -> &str;
    /// `http` or `https`.
    fn scheme(&self) -> &str;
    /// Shows every value of a header, whose name is lower case.
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8]));
}

/// The path of a target; `*`, which stands for the whole server, is its root.
pub fn path_of(target: &str) -> &str {
    let end = memchr::memchr2(b'?', b'#', target.as_bytes());
    let path = end.and_then(|end| target.get(..end)).unwrap_or(target);
    if matches!(path, "" | "*") { "/" } else { path }
}

/// When a route applies.
#[derive(Debug, Default)]
pub struct RouteMatch {
    /// To which paths.
    pub path: PathMatch,
    /// Paths in any case (no matter for expressions).
    pub ignore_case: bool,
    /// What else must hold.
    pub more: Option<Box<Conditions>>,
}

/// Which paths a route is for (the query is no part of the path).
#[derive(Debug)]
pub enum PathMatch {
    /// All that begin with this.
    Prefix(Box<str>),
    /// This one.
    Exact(Box<str>),
    /// This one and those below it.
    SeparatedPrefix(Box<str>),
    /// Those that the expression describes from their first to their last character.
    Regex(Regex),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// What must hold beside the path.
#[derive(Debug, Default)]
pub struct Conditions {
    /// All of these.
    pub headers: Vec<HeaderMatch>,
    /// All of these.
    pub query: Vec<QueryMatch>,
    /// It is gRPC.
    pub grpc: bool,
    /// A share of the requests that fulfil the rest.
    pub fraction: Option<Percent>,
}

/// A condition on one header.
#[derive(Debug)]
pub struct HeaderMatch {
    /// Which.
    pub field: Field,
    /// What it must be.
    pub is: HeaderIs,
    /// It must not be that.
    pub invert: bool,
    /// One that is not there is an empty one.
    pub missing_is_empty: bool,
}

/// What a condition looks at.
#[derive(Debug, PartialEq)]
pub enum Field {
    /// `:method`.
    Method,
    /// `:path`: path and query.
    Path,
    /// `:authority`, or `host`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// A header; lower case.
    Named(Box<str>),
}

/// What a header must be.
#[derive(Debug)]
pub enum HeaderIs {
    /// There, or not there.
    Present(bool),
    /// This text.
    Text(StringMatch),
    /// A whole number from the first up to, but not including, the second.
    Number(i64, i64),
}

/// A condition on one parameter of the query.
#[derive(Debug)]
pub struct QueryMatch {
    /// Its name.
    pub name: Box<str>,
    /// What its first value must be; `None`: anything.
    pub is: Option<StringMatch>,
}

/// A condition on a text.
#[derive(Debug)]
pub struct StringMatch {
    /// What it must be.
    pub is: Text,
    /// In any case (no matter for expressions).
    pub ignore_case: bool,
}

/// What a text must be.
#[derive(Debug)]
pub enum Text {
    /// This.
    Exact(Box<str>),
    /// Begin with this.
    Prefix(Box<str>),
    /// End with this.
    Suffix(Box<str>),
    /// Have this in it.
    Contains(Box<str>),
    /// As the expression says, from its first to its last character.
    Regex(Regex),
}

/// An expression that describes a whole text.
pub fn whole(expression: &str) -> Result<Regex, String> {
    // By itself first: a parenthesis must not close the group around it.
    Regex::new(expression)
        .and_then(|_| Regex::new(&format!(r"\A(?:{expression})\z")))
        .map_err(|error| error.to_string().lines().last().unwrap_or_default().to_owned())
}

impl RouteMatch {
    /// Whether a request matches; `path` is that of its target.
    pub fn matches(&self, head: &impl Head, path: &str) -> bool {
        self.path.matches(path, self.ignore_case) && self.more.as_ref().is_none_or(|more| more.hold(head))
    }
}

impl PathMatch {
    /// Whether `path` (without a query) matches.
    pub fn matches(&self, path: &str, ignore_case: bool) -> bool {
        match self {
            Self::Prefix(prefix) => starts(path, prefix, ignore_case),
            Self::Exact(exact) => exact.len() == path.len() && starts(path, exact, ignore_case),
            Self::SeparatedPrefix(prefix) => {
                starts(path, prefix, ignore_case) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }

    /// How much of a path that matches is what was looked for.
    pub fn matched(&self, path: &str) -> usize {
        match self {
            Self::Prefix(text) | Self::Exact(text) | Self::SeparatedPrefix(text) => text.len(),
            Self::Regex(_) => path.len(),
        }
    }
}

fn starts(text: &str, prefix: &str, ignore_case: bool) -> bool {
    let Some(begin) = text.as_bytes().get(..prefix.len()) else {
        return false;
    };
    match ignore_case {
        false => begin == prefix.as_bytes(),
        true => begin.eq_ignore_ascii_case(prefix.as_bytes()),
    }
}

impl Conditions {
    fn hold(&self, head: &impl Head) -> bool {
        self.headers.iter().all(|h| h.matches(head))
            && self.query.iter().all(|q| q.matches(head.target()))
            && (!self.grpc || is_grpc(head))
            && self.fraction.is_none_or(Percent::hit)
    }
}

/// Whether a request is gRPC.
pub fn is_grpc(head: &impl Head) -> bool {
    let mut grpc = false;
    head.values("content-type", &mut |value| grpc |= is_grpc_type(value));
    grpc
}

/// Whether this content type is gRPC's. That of gRPC-Web is another: there the status stands in the content.
pub fn is_grpc_type(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl HeaderMatch {
    /// Whether the headers of a request fulfil it. Of several of one name, one that does is enough.
    pub fn matches(&self, head: &impl Head) -> bool {
        let mut present = true;
        let mut holds = false;
        match &self.field {
            Field::Method => holds = self.holds(head.method().as_bytes()),
            Field::Path => holds = self.holds(head.target().as_bytes()),
            Field::Authority => holds = self.holds(head.host().as_bytes()),
            Field::Scheme => holds = self.holds(head.scheme().as_bytes()),
            Field::Named(name) => {
                present = false;
                head.values(name, &mut |value| {
                    present = true;
                    holds |= self.holds(value);
                });
            }
        }
        if !present {
            match &self.is {
                HeaderIs::Present(wanted) => holds = !wanted,
                _ if self.missing_is_empty => holds = self.holds(b""),
                // Of what is not there nothing can be said, nor the contrary.
                _ => return false,
            }
        }
        holds != self.invert
    }

    fn holds(&self, value: &[u8]) -> bool {
        match &self.is {
            HeaderIs::Present(wanted) => *wanted,
            HeaderIs::Text(text) => text.matches(value),
            HeaderIs::Number(first, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*first..*end).contains(&number)),
        }
    }
}

impl QueryMatch {
    fn matches(&self, target: &str) -> bool {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let query = query.split('#').next().unwrap_or_default();
        let mut parameters = query.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
        match parameters.find(|(name, _)| *name == &*self.name) {
            None => false,
            Some((_, value)) => self.is.as_ref().is_none_or(|is| is.matches(value.as_bytes())),
        }
    }
}

impl StringMatch {
    /// Whether a text fulfils it.
    pub fn matches(&self, value: &[u8]) -> bool {
        let same = |a: &[u8], b: &str| match self.ignore_case {
            false => a == b.as_bytes(),
            true => a.eq_ignore_ascii_case(b.as_bytes()),
        };
        match &self.is {
            Text::Exact(text) => same(value, text),
            Text::Prefix(text) => value.get(..text.len()).is_some_and(|begin| same(begin, text)),
            Text::Suffix(text) => {
                let begin = value.len().checked_sub(text.len());
                begin.is_some_and(|begin| same(&value[begin..], text))
            }
            Text::Contains(text) => text.is_empty() || value.windows(text.len()).any(|piece| same(piece, text)),
            Text::Regex(regex) => regex.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Target and headers.
    struct Asked(&'static str, &'static [(&'static str, &'static str)]);

    impl Head for Asked {
        fn method(&self) -> &str {
            "GET"
        }
        fn target(&self) -> &str {
            self.0
        }
        fn host(&self) -> &str {
            "svc:80"
        }
        fn scheme(&self) -> &str {
            "http"
        }
        fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
            self.1
                .iter()
                .filter(|(n, _)| *n == name)
                .for_each(|(_, v)| see(v.as_bytes()));
        }
    }

    fn header(name: &str, is: HeaderIs) -> HeaderMatch {
        HeaderMatch {
            field: Field::Named(name.into()),
            is,
            invert: false,
            missing_is_empty: false,
        }
    }

    fn text(is: Text) -> StringMatch {
        StringMatch { is, ignore_case: false }
    }

    #[test]
    fn paths() {
        let exact = PathMatch::Exact("/a".into());
        assert!(exact.matches("/a", false) && !exact.matches("/a/", false) && !exact.matches("/A", false));
        assert!(exact.matches("/A", true));
        let separated = PathMatch::SeparatedPrefix("/a".into());
        assert!(separated.matches("/a", false) && separated.matches("/a/b", false) && !separated.matches("/ab", false));
        assert!(PathMatch::Prefix("/a".into()).matches("/ab", false));
        let regex = PathMatch::Regex(whole("/a|/v[0-9]+").unwrap());
        assert!(regex.matches("/a", false) && regex.matches("/v12", false));
        assert!(!regex.matches("/a/", false) && !regex.matches("x/v1", false));
        assert_eq!(path_of("/x?y#z"), "/x");
        assert_eq!(path_of("*"), "/");
        assert_eq!(path_of("?a"), "/");
    }

    #[test]
    fn expressions_describe_the_whole_text() {
        assert!(whole("a)(b").is_err() && whole("(").is_err());
        let either = whole("a|bc").unwrap();
        assert!(either.is_match(b"a") && either.is_match(b"bc") && !either.is_match(b"abc"));
        assert!(!either.is_match(b"a\n"));
    }

    #[test]
    fn one_of_several_headers_is_enough() {
        let asked = Asked("/", &[("x", "1"), ("x", "2"), ("y", "7")]);
        let is = |name, is| header(name, is).matches(&asked);
        assert!(is("x", HeaderIs::Text(text(Text::Exact("2".into())))));
        assert!(!is("x", HeaderIs::Text(text(Text::Exact("1,2".into())))));
        assert!(is("x", HeaderIs::Present(true)) && is("z", HeaderIs::Present(false)));
        assert!(
            is("y", HeaderIs::Number(7, 8)) && !is("y", HeaderIs::Number(6, 7)) && is("x", HeaderIs::Number(2, 99))
        );
        assert!(is("y", HeaderIs::Text(text(Text::Contains("".into())))));
    }

    #[test]
    fn what_is_not_there_matches_nothing_but_its_absence() {
        let asked = Asked("/", &[]);
        let mut not = header("x", HeaderIs::Text(text(Text::Exact("1".into()))));
        not.invert = true;
        assert!(!not.matches(&asked));
        not.missing_is_empty = true;
        assert!(not.matches(&asked));
        let mut absent = header("x", HeaderIs::Present(true));
        assert!(!absent.matches(&asked));
        absent.invert = true;
        assert!(absent.matches(&asked));
    }

    #[test]
    fn parameters_are_those_of_the_query() {
        let is = |target, name: &str, is| {
            let name = name.into();
            QueryMatch { name, is }.matches(target)
        };
        assert!(is("/?a=1&b", "b", None) && !is("/a=1", "a", None) && !is("/?ab=1", "a", None));
        assert!(is("/?a=1&a=2", "a", Some(text(Text::Exact("1".into())))));
        assert!(!is("/?a=1&a=2", "a", Some(text(Text::Exact("2".into())))));
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let fields: &'static [(&str, &str)] = Vec::leak(vec![("content-type", kind)]);
            assert_eq!(is_grpc(&Asked("/", fields)), grpc, "{kind}");
        }
    }
}
