//! Which route a request takes: virtual hosts by `Host`, routes by path.
//!
//! Enters: decoded route configurations. Leaves: a [`Match`]. Knows no clusters but by name.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Map;
pub use super::retry::RetryPolicy;

/// A route configuration, ready for look-ups.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Name of the resource.
    pub name: Arc<str>,
    /// In the order of the resource.
    pub hosts: Vec<VirtualHost>,
    exact: Map<Box<str>, (usize, Arc<str>)>,
    /// `*.example.com`, longest first.
    suffixes: Vec<(Box<str>, usize, Arc<str>)>,
    /// `example.*`, longest first.
    prefixes: Vec<(Box<str>, usize, Arc<str>)>,
    any: Option<usize>,
}

/// Hosts that share routes.
#[derive(Debug)]
pub struct VirtualHost {
    /// Name, for people.
    pub name: Arc<str>,
    /// The hosts, lower case: exact, `*.suffix`, `prefix.*`, `*`.
    pub domains: Vec<Arc<str>>,
    /// The first that matches is taken.
    pub routes: Vec<Arc<Route>>,
}

/// What is done with requests for some paths.
#[derive(Debug)]
pub struct Route {
    /// Name, for people.
    pub name: Arc<str>,
    /// When it applies.
    pub path: PathMatch,
    /// What is done.
    pub action: Action,
}

/// Which paths a route is for (the query is no part of the path).
#[derive(Debug, PartialEq)]
pub enum PathMatch {
    /// All that begin with this.
    Prefix(Box<str>),
    /// This one.
    Exact(Box<str>),
    /// This one and those below it.
    SeparatedPrefix(Box<str>),
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// The proxy answers by itself.
    Respond {
        /// HTTP status.
        status: http::StatusCode,
        /// Content.
        body: ResponseText,
    },
    /// To an endpoint of a cluster.
    Forward(Forward),
}

/// The content of a response that the proxy makes: texts, and places for what is known of the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseText {
    /// Always the same.
    Fixed(Bytes),
    /// Put together for each response.
    Parts(Vec<TextPart>),
}

/// A piece of a [`ResponseText`].
#[derive(Debug, Clone, PartialEq)]
pub enum TextPart {
    /// As it stands.
    Text(String),
    /// Where the client wanted to go: address and port.
    Destination,
    /// The port alone.
    DestinationPort,
}

impl ResponseText {
    /// The text for a client that wanted to go to `destination`.
    pub fn render(&self, destination: SocketAddr) -> Bytes {
        match self {
            Self::Fixed(bytes) => bytes.clone(),
            Self::Parts(parts) => parts
                .iter()
                .map(|part| match part {
                    TextPart::Text(text) => text.clone(),
                    TextPart::Destination => destination.to_string(),
                    TextPart::DestinationPort => destination.port().to_string(),
                })
                .collect::<String>()
                .into(),
        }
    }
}

/// To where a request goes and for how long.
#[derive(Debug)]
pub struct Forward {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// From the request's head to the end of the response; `None`: no limit.
    pub timeout: Option<Duration>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// By what endpoints are chosen where the cluster does so by a hash.
    pub hash: Box<[HashOn]>,
}

/// What the hash of a request is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// A header; the name is lower case.
    Header {
        /// Its name.
        name: Box<str>,
        /// Nothing behind this is looked at where it was there.
        terminal: bool,
    },
    /// A cookie.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// Made for those who have none, for this long (zero: until the client ends); `None`: never made.
        ttl: Option<Duration>,
        /// Below which path a made one is sent back; may be empty.
        path: Box<str>,
        /// Nothing behind this is looked at where it was there, or was made.
        terminal: bool,
    },
}

/// The outcome of a look-up.
#[derive(Debug)]
pub struct Match<'a> {
    /// The configured domain that matched; `None` for the catch-all `*`.
    pub authority: Option<&'a Arc<str>>,
    /// The route.
    pub route: &'a Route,
}

impl RouteTable {
    /// Indexes virtual hosts. `Err` names a domain that stands twice.
    pub fn new(name: Arc<str>, hosts: Vec<VirtualHost>) -> Result<Self, String> {
        let mut table = Self {
            name,
            ..Self::default()
        };
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                table.index(domain, index)?;
            }
        }
        table.suffixes.sort_by_key(|(s, ..)| std::cmp::Reverse(s.len()));
        table.prefixes.sort_by_key(|(p, ..)| std::cmp::Reverse(p.len()));
        table.hosts = hosts;
        Ok(table)
    }

    fn index(&mut self, domain: &Arc<str>, host: usize) -> Result<(), String> {
        let twice = || format!("domain {domain:?} stands in two virtual hosts");
        if &**domain == "*" {
            return if self.any.replace(host).is_none() {
                Ok(())
            } else {
                Err(twice())
            };
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            self.suffixes.push((suffix.into(), host, Arc::clone(domain)));
        } else if let Some(prefix) = domain.strip_suffix('*') {
            self.prefixes.push((prefix.into(), host, Arc::clone(domain)));
        } else if self
            .exact
            .insert((&**domain).into(), (host, Arc::clone(domain)))
            .is_some()
        {
            return Err(twice());
        }
        Ok(())
    }

    /// The route of a request, or `None` where no virtual host or no route matches.
    pub fn find(&self, host: &str, path: &str) -> Option<Match<'_>> {
        let (index, authority) = self.host(host)?;
        let host = self.hosts.get(index)?;
        let route = host.routes.iter().find(|r| r.path.matches(path))?;
        Some(Match { authority, route })
    }

    fn host(&self, host: &str) -> Option<(usize, Option<&Arc<str>>)> {
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if let Some((index, domain)) = self.exact.get(&*host) {
            return Some((*index, Some(domain)));
        }
        let longer = |pattern: &str| host.len() > pattern.len();
        let wild = self
            .suffixes
            .iter()
            .find(|(s, ..)| longer(s) && host.ends_with(&**s))
            .or_else(|| self.prefixes.iter().find(|(p, ..)| longer(p) && host.starts_with(&**p)));
        if let Some((_, index, domain)) = wild {
            return Some((*index, Some(domain)));
        }
        self.any.map(|index| (index, None))
    }

    /// Every route with the domain under which its series are made from the start: the longest name without a port of
    /// its virtual host; `None` for a catch-all.
    pub fn destinations(&self) -> impl Iterator<Item = (Option<&Arc<str>>, &Arc<Route>)> {
        self.hosts.iter().flat_map(|host| {
            let name = |d: &&Arc<str>| !d.contains(['*', ':']) && d.parse::<std::net::IpAddr>().is_err();
            let any = || host.domains.iter().find(|d| &***d != "*");
            let authority = host.domains.iter().filter(name).max_by_key(|d| d.len()).or_else(any);
            host.routes.iter().map(move |route| (authority, route))
        })
    }

    /// Names of all clusters that routes lead to.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts
            .iter()
            .flat_map(|h| &h.routes)
            .filter_map(|r| match &r.action {
                Action::Forward(forward) => Some(&forward.cluster),
                Action::Respond { .. } => None,
            })
    }
}

impl PathMatch {
    /// Whether `path` (with or without a query) matches.
    pub fn matches(&self, path: &str) -> bool {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        match self {
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Exact(exact) => path == &**exact,
            Self::SeparatedPrefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hosts: &[(&str, &[&str])]) -> Result<RouteTable, String> {
        let hosts = hosts
            .iter()
            .map(|(name, domains)| VirtualHost {
                name: (*name).into(),
                domains: domains.iter().map(|d| (*d).into()).collect(),
                routes: vec![Arc::new(Route {
                    name: (*name).into(),
                    path: PathMatch::Prefix("/".into()),
                    action: Action::Respond {
                        status: http::StatusCode::OK,
                        body: ResponseText::Fixed(Bytes::new()),
                    },
                })],
            })
            .collect();
        RouteTable::new("t".into(), hosts)
    }

    #[test]
    fn hosts_match_exactly_then_by_the_longest_wildcard_then_by_the_catch_all() {
        let table = table(&[
            ("exact", &["reviews", "reviews:9080"]),
            ("suffix", &["*.com", "*.example.com"]),
            ("prefix", &["reviews.*"]),
            ("any", &["*"]),
        ])
        .unwrap();
        let find = |host: &str| {
            let m = table.find(host, "/x?y=1").unwrap();
            (m.route.name.to_string(), m.authority.map(|a| a.to_string()))
        };
        assert_eq!(find("Reviews:9080"), ("exact".into(), Some("reviews:9080".into())));
        assert_eq!(find("a.example.com"), ("suffix".into(), Some("*.example.com".into())));
        assert_eq!(find("a.b.com"), ("suffix".into(), Some("*.com".into())));
        assert_eq!(find("reviews.default"), ("prefix".into(), Some("reviews.*".into())));
        assert_eq!(find("elsewhere"), ("any".into(), None));
        assert_eq!(find(""), ("any".into(), None));
    }

    #[test]
    fn a_domain_may_stand_once() {
        assert!(table(&[("a", &["x"]), ("b", &["x"])]).unwrap_err().contains("\"x\""));
        assert!(table(&[("a", &["*"]), ("b", &["*"])]).is_err());
    }

    #[test]
    fn paths() {
        assert!(PathMatch::Exact("/a".into()).matches("/a?b"));
        assert!(!PathMatch::Exact("/a".into()).matches("/a/"));
        assert!(PathMatch::SeparatedPrefix("/a".into()).matches("/a/b"));
        assert!(!PathMatch::SeparatedPrefix("/a".into()).matches("/ab"));
        assert!(PathMatch::Prefix("/a".into()).matches("/ab"));
    }
}
