//! What a route changes about heads: headers, host, path; and where a redirect leads.
//!
//! Enters: a head that can be changed. Leaves: the changed head. All is prepared when the configuration is decoded.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;

use super::matching::{Head, RouteMatch, path_of};

/// Headers that can be changed.
pub trait Fields {
    /// Whether one of this name is there.
    fn has(&self, name: &HeaderName) -> bool;
    /// Takes all of this name away.
    fn remove(&mut self, name: &HeaderName);
    /// Adds one, whatever is there.
    fn append(&mut self, name: &HeaderName, value: &HeaderValue);
}

impl Fields for HeaderMap {
    fn has(&self, name: &HeaderName) -> bool {
        self.contains_key(name)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.remove(name);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        // It fails only for more headers than any limit lets in.
        let _ = self.try_append(name.clone(), value.clone());
    }
}

impl Fields for Vec<(HeaderName, HeaderValue)> {
    fn has(&self, name: &HeaderName) -> bool {
        self.iter().any(|(n, _)| n == name)
    }

    fn remove(&mut self, name: &HeaderName) {
        self.retain(|(n, _)| n != name);
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.push((name.clone(), value.clone()));
    }
}

/// A request's head that can be changed.
pub trait Editable: Head + Fields {
    /// Replaces path and query.
    fn set_target(&mut self, target: String);
    /// Replaces the host that the endpoint is told.
    fn set_host(&mut self, host: &str);
    /// Adds what every request has and the client did not send, so that it can be changed too.
    fn settle(&mut self, request_id: bool);
    /// The protocol of the message, as access logs name it.
    fn protocol(&self) -> &'static str;
}

/// What is done to headers at one place of the configuration: first some go, then some come.
#[derive(Debug, Default, PartialEq)]
pub struct Level {
    /// These go.
    pub remove: Vec<HeaderName>,
    /// These come.
    pub add: Vec<Add>,
}

/// A header that comes.
#[derive(Debug, PartialEq)]
pub struct Add {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// If one is there already.
    pub append: Append,
}

/// What happens to a header that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// Both stay.
    Always,
    /// The new one is not added.
    IfAbsent,
    /// The new one takes its place.
    Overwrite,
    /// The new one takes its place, and comes only if there is one.
    OverwriteIfPresent,
}

impl Level {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Does it.
    pub fn apply(&self, fields: &mut impl Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        // What is looked for is what was there before any of these came.
        let wanted = |add: &&Add| match add.append {
            Append::Always | Append::Overwrite => true,
            Append::IfAbsent => !fields.has(&add.name),
            Append::OverwriteIfPresent => fields.has(&add.name),
        };
        let overwrites = |add: &Add| matches!(add.append, Append::Overwrite | Append::OverwriteIfPresent);
        let wanted: Vec<&Add> = self.add.iter().filter(wanted).collect();
        for add in wanted.iter().filter(|add| overwrites(add)) {
            fields.remove(&add.name);
            fields.append(&add.name, &add.value);
        }
        for add in wanted.iter().filter(|add| !overwrites(add)) {
            fields.append(&add.name, &add.value);
        }
    }
}

/// Changes of headers, the most specific place first.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Edits {
    /// Of requests.
    pub request: Vec<Arc<Level>>,
    /// Of responses.
    pub response: Vec<Arc<Level>>,
}

impl Edits {
    /// `None` where nothing is done.
    pub fn some(self) -> Option<Box<Self>> {
        let nothing = self.request.is_empty() && self.response.is_empty();
        (!nothing).then(|| Box::new(self))
    }

    /// Changes a request.
    pub fn request(&self, fields: &mut impl Fields) {
        self.request.iter().for_each(|level| level.apply(fields));
    }

    /// Changes a response.
    pub fn response(&self, fields: &mut impl Fields) {
        self.response.iter().for_each(|level| level.apply(fields));
    }
}

/// A new host and path for the endpoint.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// In place of the host.
    pub host: Option<Box<str>>,
    /// Of the path.
    pub path: Option<PathRewrite>,
}

/// A new path; the query stays.
#[derive(Debug)]
pub enum PathRewrite {
    /// In place of what the route looked for.
    Prefix(Box<str>),
    /// In place of each piece that the expression describes; `${1}` stands for its first group.
    Regex(Regex, Box<str>),
}

/// Where the target stood before it was rewritten.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

impl PathRewrite {
    /// The new target of a request that matched.
    pub fn rewrite(&self, route: &RouteMatch, target: &str) -> String {
        let path = path_of(target);
        // Shorter than the path only where that was none.
        let rest = target.get(path.len()..).unwrap_or_default();
        let rest = if target.starts_with('?') { target } else { rest };
        match self {
            Self::Prefix(new) => {
                let kept = path.get(route.path.matched(path)..).unwrap_or_default();
                format!("{new}{kept}{rest}")
            }
            Self::Regex(regex, new) => format!("{}{rest}", regex.replace_all(path, &**new)),
        }
    }
}

impl Rewrite {
    /// Changes a request that matched. `note`: the endpoint is told the old path.
    pub fn apply(&self, route: &RouteMatch, head: &mut impl Editable, note: bool) {
        if let Some(host) = &self.host {
            head.set_host(host);
        }
        if let Some(path) = &self.path {
            let new = path.rewrite(route, head.target());
            if note && let Ok(old) = HeaderValue::from_str(head.target()) {
                head.remove(&ORIGINAL_PATH);
                head.append(&ORIGINAL_PATH, &old);
            }
            head.set_target(new);
        }
    }
}

/// Where clients are sent instead.
#[derive(Debug, Default)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http`, `https`, ...; `None`: as it was.
    pub scheme: Option<Box<str>>,
    /// `None`: as it was.
    pub host: Option<Box<str>>,
    /// `None`: as it was, where the host stays.
    pub port: Option<u16>,
    /// Path, and query if it has one, in place of those of the request.
    pub path: Option<Box<str>>,
    /// Else a new path made of the old one.
    pub rewrite: Option<PathRewrite>,
    /// The query of the request goes.
    pub strip_query: bool,
}

impl Redirect {
    /// The new location of a request that matched.
    pub fn location(&self, route: &RouteMatch, head: &impl Head) -> String {
        let scheme = self.scheme.as_deref().unwrap_or_else(|| head.scheme());
        let host = match &self.host {
            Some(host) => host,
            None => self.kept_host(head, scheme),
        };
        let rewritten;
        let old = match &self.rewrite {
            None => head.target(),
            Some(rewrite) => {
                rewritten = rewrite.rewrite(route, head.target());
                &rewritten
            }
        };
        let query_at = old.find('?').unwrap_or(old.len());
        let has_query = self.path.as_ref().is_some_and(|path| path.contains('?'));
        let (path, query) = match &self.path {
            Some(path) if has_query => (&**path, ""),
            Some(path) => (&**path, &old[query_at..]),
            None => (&old[..query_at], &old[query_at..]),
        };
        let query = if self.strip_query { "" } else { query };
        match self.port {
            Some(port) => format!("{scheme}://{host}:{port}{path}{query}"),
            None => format!("{scheme}://{host}{path}{query}"),
        }
    }

    /// The host of the request, without a port where another one is meant, or where it was the usual one of the scheme
    /// that is left.
    fn kept_host<'a>(&self, head: &'a impl Head, scheme: &str) -> &'a str {
        let host = head.host();
        let colon = match host.starts_with('[') {
            true => host.rfind("]:").map(|at| at + 1),
            false => host.rfind(':'),
        };
        let Some(colon) = colon else { return host };
        let (name, port) = host.split_at(colon);
        let usual = matches!((head.scheme(), port), ("http", ":80") | ("https", ":443"));
        match self.port.is_some() || (scheme != head.scheme() && usual) {
            true => name,
            false => host,
        }
    }
}
