//! Which route a request takes: virtual hosts by `Host`, routes by what they match, the first that does.
//!
//! Enters: decoded route configurations. Leaves: a [`Match`]. Knows no clusters but by name.

pub mod edit;
pub mod matching;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_xds::snapshot::NO_CLUSTER;

use super::Map;
use super::fault::{Fault, Percent};
pub use super::retry::RetryPolicy;
use crate::random;
use edit::{Edits, Redirect, Rewrite};
use matching::{Head, RouteMatch, path_of};

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
    /// The port in a request's host does not matter.
    pub ignore_port: bool,
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

/// What is done with some requests.
#[derive(Debug, Default)]
pub struct Route {
    /// Name, for people.
    pub name: Arc<str>,
    /// When it applies.
    pub matching: RouteMatch,
    /// What is done.
    pub action: Action,
    /// Changes of headers: of the route, then of the virtual host, then of the whole table.
    pub edits: Option<Box<Edits>>,
    /// Faults in place of those of the listener.
    pub fault: Option<Arc<Fault>>,
    /// What traces call it.
    pub operation: Option<Arc<str>>,
    /// Which of its requests are traced; `None`: as the listener says.
    pub tracing: Option<Sampling>,
}

/// Which requests are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Of those that nobody decided about.
    pub random: Percent,
    /// Of all, at last.
    pub overall: Percent,
    /// Of those whose client asks for it.
    pub client: Percent,
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
    /// The client is sent elsewhere.
    Redirect(Box<Redirect>),
    /// To an endpoint of a cluster.
    Forward(Forward),
}

impl Default for Action {
    fn default() -> Self {
        Self::Respond {
            status: http::StatusCode::OK,
            body: ResponseText::Fixed(Bytes::new()),
        }
    }
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
    /// One cluster or several.
    pub clusters: Clusters,
    /// From the request's head to the end of the response; `None`: no limit.
    pub timeout: Option<Duration>,
    /// How long a request may take as a whole, from its head on, tries and all; `None`: as long as the rest lets it.
    pub longest: Option<Box<Longest>>,
    /// A request on which nothing moves for this long is given up; zero: never; `None`: as the listener says.
    pub idle_timeout: Option<Duration>,
    /// The status where the cluster is not there.
    pub missing: u16,
    /// When to try again.
    pub retry: RetryPolicy,
    /// By what endpoints are chosen where the cluster does so by a hash; the first that a request has.
    pub hash: Box<[HashOn]>,
    /// A new host and path.
    pub rewrite: Option<Box<Rewrite>>,
    /// Who gets copies.
    pub mirrors: Box<[Mirror]>,
}

/// How long a request may take, which it may say itself as a call of gRPC does.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// One that says nothing; `None`: no limit.
    pub silent: Option<Duration>,
    /// One that says it in `grpc-timeout`; `None`: as one that says nothing.
    pub grpc: Option<OfCall>,
}

/// What is made of the time that a call of gRPC is said to have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OfCall {
    /// It counts as so long at most; `None`: it counts as it is.
    pub most: Option<Duration>,
    /// So much of it is for others.
    pub less: Duration,
}

impl Longest {
    /// The time of one request.
    pub fn of(&self, head: &impl matching::Head) -> Option<Duration> {
        let Some(of_call) = &self.grpc else { return self.silent };
        let mut said = None;
        head.values("grpc-timeout", &mut |value| said = said.or_else(|| grpc_timeout(value)));
        let Some(said) = said else { return self.silent };
        let time = of_call.most.map_or(said, |most| most.min(said));
        Some(time.saturating_sub(of_call.less))
    }
}

/// The time that a call has: up to eight digits and a unit (gRPC over HTTP/2, "Timeout"). `None`: it is none.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// To which clusters a route leads.
#[derive(Debug)]
pub enum Clusters {
    /// All to this one.
    One(Arc<str>),
    /// Drawn for each request.
    Split(Box<Split>),
}

/// Clusters that share the requests of a route.
#[derive(Debug)]
pub struct Split {
    /// The first of the resource.
    pub first: Share,
    /// The others.
    pub rest: Vec<Share>,
    /// Sum of the weights, above 0.
    pub total: u64,
}

/// One of those clusters.
#[derive(Debug)]
pub struct Share {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Its part of the sum.
    pub weight: u32,
    /// Changes of headers, before those of the route.
    pub edits: Option<Box<Edits>>,
    /// A new host, before that of the route.
    pub host: Option<Box<str>>,
    /// Faults in place of those of the route.
    pub fault: Option<Arc<Fault>>,
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

/// Who gets copies of requests; its responses are thrown away.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Of how many.
    pub share: Percent,
    /// The copies name another host: the same with `-shadow`.
    pub suffix: bool,
    /// The copies name this host.
    pub host: Option<Box<str>>,
}

impl Forward {
    /// The cluster of the next request; with its part of a split, where there is one.
    pub fn draw(&self) -> (&Arc<str>, Option<&Share>) {
        let split = match &self.clusters {
            Clusters::One(name) => return (name, None),
            Clusters::Split(split) => split,
        };
        let mut left = random::below(split.total);
        let mut share = &split.first;
        for next in &split.rest {
            match left.checked_sub(share.weight.into()) {
                None => break,
                Some(rest) => (left, share) = (rest, next),
            }
        }
        (&share.cluster, Some(share))
    }

    /// How long nothing may move on a request.
    pub fn stall(&self, http: &super::Http) -> Option<Duration> {
        match self.idle_timeout {
            None => http.stall_timeout,
            own => own.filter(|limit| !limit.is_zero()),
        }
    }

    /// All clusters that requests may go to, but for copies.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let (first, rest) = match &self.clusters {
            Clusters::One(name) => (name, &[][..]),
            Clusters::Split(split) => (&split.first.cluster, &split.rest[..]),
        };
        std::iter::once(first).chain(rest.iter().map(|share| &share.cluster))
    }
}

/// The outcome of a look-up.
#[derive(Debug)]
pub struct Match<'a> {
    /// The configured domain that matched; `None` for the catch-all `*`.
    pub authority: Option<&'a Arc<str>>,
    /// The route.
    pub route: &'a Route,
}

/// A host without its port. The colons within an address of IPv6 stand in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
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
            if self.suffixes.iter().any(|(s, ..)| &**s == suffix) {
                return Err(twice());
            }
            self.suffixes.push((suffix.into(), host, Arc::clone(domain)));
        } else if let Some(prefix) = domain.strip_suffix('*') {
            if self.prefixes.iter().any(|(p, ..)| &**p == prefix) {
                return Err(twice());
            }
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
    pub fn find(&self, head: &impl Head) -> Option<Match<'_>> {
        let (index, authority) = self.host(head.host())?;
        let host = self.hosts.get(index)?;
        let path = path_of(head.target());
        let route = host.routes.iter().find(|r| r.matching.matches(head, path))?;
        Some(Match { authority, route })
    }

    fn host(&self, host: &str) -> Option<(usize, Option<&Arc<str>>)> {
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let host = match self.ignore_port {
            true => without_port(&host),
            false => &*host,
        };
        if let Some((index, domain)) = self.exact.get(host) {
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

    /// Names of all clusters that routes lead to, those of copies included: what has to be there before the table is used.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let forwards = self
            .hosts
            .iter()
            .flat_map(|h| &h.routes)
            .filter_map(|r| match &r.action {
                Action::Forward(forward) => Some(forward),
                Action::Respond { .. } | Action::Redirect(_) => None,
            });
        let named = forwards.flat_map(|f| f.clusters().chain(f.mirrors.iter().map(|m| &m.cluster)));
        named.filter(|name| ***name != *NO_CLUSTER)
    }
}

/// A request of which only host and target are known.
#[derive(Debug)]
pub struct Target<'a>(pub &'a str, pub &'a str);

impl Head for Target<'_> {
    fn method(&self) -> &str {
        "GET"
    }
    fn target(&self) -> &str {
        self.1
    }
    fn host(&self) -> &str {
        self.0
    }
    fn scheme(&self) -> &str {
        "http"
    }
    fn values(&self, _name: &str, _see: &mut dyn FnMut(&[u8])) {}
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
                    ..Route::default()
                })],
            })
            .collect();
        RouteTable::new("t".into(), hosts)
    }

    /// A head with nothing but times of a call.
    struct Call(&'static [&'static str]);

    impl matching::Head for Call {
        fn method(&self) -> &str {
            "POST"
        }
        fn target(&self) -> &str {
            "/a.B/C"
        }
        fn host(&self) -> &str {
            "a"
        }
        fn scheme(&self) -> &str {
            "http"
        }
        fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
            if name == "grpc-timeout" {
                self.0.iter().for_each(|value| see(value.as_bytes()));
            }
        }
    }

    #[test]
    fn a_call_says_how_long_it_may_take() {
        let ms = Duration::from_millis;
        let said = |values| {
            Longest {
                grpc: Some(OfCall::default()),
                ..Longest::default()
            }
            .of(&Call(values))
        };
        let cases: [(&'static [&'static str], _); 8] = [
            (&["2H"], Some(ms(7_200_000))),
            (&["1M"], Some(ms(60_000))),
            (&["99999999S"], Some(Duration::from_secs(99_999_999))),
            (&["0m"], Some(Duration::ZERO)),
            (&["1500u"], Some(Duration::from_micros(1500))),
            (&["7n"], Some(Duration::from_nanos(7))),
            (&["1s", "5m", "6m"], Some(ms(5))),
            (&[], None),
        ];
        for (values, time) in cases {
            assert_eq!(said(values), time, "{values:?}");
        }
        for none in [
            "",
            "m",
            "5",
            "-1S",
            "+1S",
            " 1S",
            "1 S",
            "123456789m",
            "1.5S",
            "\u{661}S",
        ] {
            assert_eq!(grpc_timeout(none.as_bytes()), None, "{none:?}");
        }
        let limited = Longest {
            silent: Some(ms(9)),
            grpc: Some(OfCall {
                most: Some(ms(100)),
                less: ms(30),
            }),
        };
        let times = [&["1S"][..], &["80m"], &["20m"], &[], &["x"]].map(|values| limited.of(&Call(values)));
        assert_eq!(times, [70, 50, 0, 9, 9].map(|time| Some(ms(time))));
        let deaf = Longest {
            silent: Some(ms(9)),
            grpc: None,
        };
        assert_eq!(deaf.of(&Call(&["1m"])), Some(ms(9)));
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
            let m = table.find(&Target(host, "/x?y=1")).unwrap();
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
    fn the_port_of_a_host_does_not_matter_where_the_table_says_so() {
        let mut table = table(&[("exact", &["shop", "[::1]"]), ("suffix", &["*.com"])]).unwrap();
        let hosts = ["shop:8080", "[::1]:80", "a.com:1"];
        let find = |table: &RouteTable, host: &str| table.find(&Target(host, "/")).map(|m| m.route.name.to_string());
        assert_eq!(hosts.map(|host| find(&table, host)), [None, None, None]);
        table.ignore_port = true;
        let names = ["exact", "exact", "suffix"].map(|name| Some(name.to_owned()));
        assert_eq!(hosts.map(|host| find(&table, host)), names);
        assert_eq!(find(&table, "[::1]").as_deref(), Some("exact"));
        assert_eq!(find(&table, "other:80"), None);
    }

    #[test]
    fn a_domain_may_stand_once() {
        assert!(table(&[("a", &["x"]), ("b", &["x"])]).unwrap_err().contains("\"x\""));
        for wild in ["*", "*.x", "x.*"] {
            let error = table(&[("a", &[wild]), ("b", &[wild])]).unwrap_err();
            assert!(error.contains(wild), "{error}");
        }
    }

    #[test]
    fn requests_are_drawn_by_weight() {
        let share = |cluster: &str, weight| Share {
            cluster: cluster.into(),
            weight,
            edits: None,
            host: None,
            fault: None,
        };
        let forward = Forward {
            clusters: Clusters::Split(Box::new(Split {
                first: share("none", 0),
                rest: vec![share("one", 1), share("three", 3)],
                total: 4,
            })),
            timeout: None,
            longest: None,
            idle_timeout: None,
            missing: 503,
            retry: RetryPolicy::default(),
            hash: Box::default(),
            rewrite: None,
            mirrors: Box::default(),
        };
        let mut counts: Map<Arc<str>, u32> = Map::default();
        for _ in 0..40_000 {
            *counts.entry(Arc::clone(forward.draw().0)).or_default() += 1;
        }
        assert_eq!(counts.get("none"), None);
        assert!((9_500..10_500).contains(&counts["one"]), "{counts:?}");
        let names: Vec<_> = forward.clusters().map(|c| &**c).collect();
        assert_eq!(names, ["none", "one", "three"]);
    }
}
