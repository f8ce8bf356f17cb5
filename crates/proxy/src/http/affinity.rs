//! The hash by which requests of one client, or about one thing, come to one endpoint.
//!
//! Enters: what a route looks at, and the headers of a request. Leaves: a hash, and a cookie for those who have none. The
//! same headers have the same hash in every process.

use crate::balance::xxh64;
use crate::config::route::HashOn;
use crate::config::upstream::LbPolicy;
use crate::flow::Flow;

use super::attempts::Target;

/// By what the endpoint of a request is chosen.
#[derive(Debug, Default)]
pub struct Affinity {
    /// Of the request; `None`: it has nothing of what the route looks at.
    pub hash: Option<u64>,
    /// What `set-cookie` is to say.
    pub cookie: Option<String>,
}

/// The hash of a request with these headers; nothing where the cluster does not ask for one.
pub fn of<'h, H>(target: Target<'_>, flow: &Flow, headers: impl Fn() -> H) -> Affinity
where
    H: Iterator<Item = (&'h str, &'h [u8])>,
{
    let mut affinity = Affinity::default();
    if !matches!(
        target.cluster.spec.policy,
        LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
    ) {
        return affinity;
    }
    for on in &target.forward.hash {
        let (found, terminal) = match on {
            HashOn::Header { name, terminal } => {
                let mut named = headers().filter(|(n, _)| n.eq_ignore_ascii_case(name));
                (named.next().map(|(_, value)| xxh64(value, 0)), terminal)
            }
            HashOn::Cookie {
                name,
                ttl,
                path,
                terminal,
            } => {
                let cookies = headers().filter(|(n, _)| n.eq_ignore_ascii_case("cookie"));
                let mut values = cookies.filter_map(|(_, value)| cookie(value, name));
                let found = values.next().map(|value| xxh64(value, 0));
                let made = match (found, ttl) {
                    (None, Some(ttl)) => {
                        // Of the connection, so that requests beside each other get the same.
                        let connection = format!("{}{}", flow.source, flow.destination);
                        let value = format!("{:016x}", xxh64(connection.as_bytes(), 0));
                        let age = match ttl.as_secs() {
                            0 => String::new(),
                            seconds => format!("; Max-Age={seconds}"),
                        };
                        let path = if path.is_empty() {
                            String::new()
                        } else {
                            format!("; Path={path}")
                        };
                        affinity.cookie = Some(format!("{name}=\"{value}\"{age}{path}; HttpOnly"));
                        Some(xxh64(value.as_bytes(), 0))
                    }
                    (found, _) => found,
                };
                (made, terminal)
            }
        };
        let Some(found) = found else { continue };
        affinity.hash = Some(affinity.hash.map_or(found, |hash| hash.rotate_left(1) ^ found));
        if *terminal {
            break;
        }
    }
    affinity
}

/// The value of a cookie, without quotation marks around it.
fn cookie<'v>(field: &'v [u8], name: &str) -> Option<&'v [u8]> {
    let mut pairs = field.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        plain => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::cookie;

    #[test]
    fn cookies_are_found_by_their_whole_names() {
        let field = b"ab=1; b=\"two\"; c=3";
        assert_eq!(cookie(field, "b"), Some(&b"two"[..]));
        assert_eq!(cookie(field, "c"), Some(&b"3"[..]));
        assert_eq!(cookie(field, "a"), None);
        assert_eq!(cookie(b"b=\"", "b"), Some(&b"\""[..]));
    }
}
