//! What routes do: `RouteAction`, `RedirectAction`, `DirectResponseAction`.

use std::mem::take;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString};
use envoy_types::pb::envoy::config::route::v3 as pb;
use http::header::{HeaderName, HeaderValue};

use super::{Inherited, edit, retry_policy};
use crate::config::decode::fault;
use crate::config::decode::{Decoded, Within, nothing_left, optional_duration, reject};
use crate::config::fault::Percent;
use crate::config::route::edit::{PathRewrite, Redirect, Rewrite};
use crate::config::route::{
    Action, Clusters, Forward, HashOn, Longest, Mirror, OfCall, ResponseText, Share, Split, TextPart,
};

/// Envoy's default for whole requests.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A route to clusters.
pub(super) fn forward(mut rest: pb::RouteAction, inherited: &Inherited) -> Decoded<Forward> {
    use pb::route_action::{ClusterNotFoundResponseCode as Missing, ClusterSpecifier, HostRewriteSpecifier};
    let clusters = match rest.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(name)) => Clusters::One(name.into()),
        Some(ClusterSpecifier::WeightedClusters(clusters)) => {
            Clusters::Split(Box::new(split(clusters).within("weighted_clusters")?))
        }
        Some(_) => return reject("cluster_specifier", "must be cluster or weighted_clusters"),
        None => return reject("cluster", "is missing; either cluster or weighted_clusters must be set"),
    };
    let timeout = optional_duration("timeout", &rest.timeout.take())?.unwrap_or(TIMEOUT);
    let longest = match rest.max_stream_duration.take() {
        Some(duration) => longest(duration).within("max_stream_duration")?,
        None => None,
    };
    let idle_timeout = optional_duration("idle_timeout", &rest.idle_timeout.take())?;
    let retry = match rest.retry_policy.take() {
        Some(policy) => retry_policy(policy).within("retry_policy")?,
        None => inherited.retry.clone().unwrap_or_default(),
    };
    let missing = match Missing::try_from(take(&mut rest.cluster_not_found_response_code)) {
        Ok(Missing::ServiceUnavailable) => 503,
        Ok(Missing::NotFound) => 404,
        Ok(Missing::InternalServerError) => 500,
        Err(_) => return reject("cluster_not_found_response_code", "is unknown"),
    };
    let host = match rest.host_rewrite_specifier.take() {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host_literal(host)?),
        Some(_) => return reject("host_rewrite_specifier", "must be host_rewrite_literal"),
    };
    let path = path_rewrite(take(&mut rest.prefix_rewrite), rest.regex_rewrite.take())?;
    let mut hash = Vec::new();
    for (i, policy) in take(&mut rest.hash_policy).into_iter().enumerate() {
        hash.push(hash_policy(policy).within(format_args!("hash_policy[{i}]"))?);
    }
    let mut mirrors = Vec::new();
    let own = take(&mut rest.request_mirror_policies);
    let policies = if own.is_empty() { inherited.mirrors.clone() } else { own };
    for (i, policy) in policies.into_iter().enumerate() {
        mirrors.push(mirror(policy).within(format_args!("request_mirror_policies[{i}]"))?);
    }
    // Whether a response is to be cut off, or one is too slow, is the same question here.
    nothing_left(&rest)?;
    Ok(Forward {
        clusters,
        timeout: (!timeout.is_zero()).then_some(timeout),
        longest,
        idle_timeout,
        missing,
        retry,
        hash: hash.into(),
        rewrite: (host.is_some() || path.is_some()).then(|| Box::new(Rewrite { host, path })),
        mirrors: mirrors.into(),
    })
}

/// `None` where there is no limit.
fn longest(mut rest: pb::route_action::MaxStreamDuration) -> Decoded<Option<Box<Longest>>> {
    let limit = |field, value| Ok(optional_duration(field, &value)?.filter(|limit| !limit.is_zero()));
    let silent = limit("max_stream_duration", rest.max_stream_duration.take())?;
    let grpc = match rest.grpc_timeout_header_max.take() {
        None => None,
        some => Some(OfCall {
            most: limit("grpc_timeout_header_max", some)?,
            less: limit("grpc_timeout_header_offset", rest.grpc_timeout_header_offset.take())?.unwrap_or_default(),
        }),
    };
    nothing_left(&rest)?;
    let longest = Longest { silent, grpc };
    Ok((longest != Longest::default()).then(|| Box::new(longest)))
}

fn split(mut rest: pb::WeightedCluster) -> Decoded<Split> {
    let mut shares = Vec::with_capacity(rest.clusters.len());
    for (i, cluster) in take(&mut rest.clusters).into_iter().enumerate() {
        shares.push(share(cluster).within(format_args!("clusters[{i}]"))?);
    }
    let total: u64 = shares.iter().map(|s| u64::from(s.weight)).sum();
    if total == 0 || total > u32::MAX.into() {
        return reject(
            "clusters",
            format!("the sum of the weights is {total}; right would be 1 to {}", u32::MAX),
        );
    }
    // The sum is what counts, whatever it is said to be.
    #[allow(deprecated)]
    (rest.total_weight = None);
    rest.runtime_key_prefix.clear();
    nothing_left(&rest)?;
    let mut shares = shares.into_iter();
    match shares.next() {
        Some(first) => Ok(Split {
            first,
            rest: shares.collect(),
            total,
        }),
        None => reject("clusters", "is empty; right would be at least one {name, weight}"),
    }
}

fn share(mut rest: pb::weighted_cluster::ClusterWeight) -> Decoded<Share> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let cluster = take(&mut rest.name);
    if cluster.is_empty() {
        return reject("name", "is missing");
    }
    let weight = rest.weight.take().map_or(0, |w| w.value);
    let host = match rest.host_rewrite_specifier.take() {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host_literal(host)?),
    };
    let request = edit::request(&mut rest.request_headers_to_add, &mut rest.request_headers_to_remove)?;
    let response = edit::response(&mut rest.response_headers_to_add, &mut rest.response_headers_to_remove)?;
    let edits = Inherited::default().edits((request, response)).some();
    let fault = fault::per_filter(take(&mut rest.typed_per_filter_config))?.0;
    nothing_left(&rest)?;
    Ok(Share {
        cluster: cluster.into(),
        weight,
        edits,
        host,
        fault,
    })
}

fn host_literal(host: String) -> Decoded<Box<str>> {
    match http::uri::Authority::try_from(host.as_str()) {
        Ok(authority) if !host.contains('@') => Ok(authority.as_str().into()),
        _ => reject("host_rewrite_literal", format!("{host:?} is no host")),
    }
}

type Substitution = envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

fn path_rewrite(prefix: String, regex: Option<Substitution>) -> Decoded<Option<PathRewrite>> {
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => Ok(Some(PathRewrite::Prefix(path_text("prefix_rewrite", prefix)?))),
        (true, Some(regex)) => edit::substitution(regex).map(Some).within("regex_rewrite"),
        (false, Some(_)) => reject("regex_rewrite", "must not stand beside prefix_rewrite"),
    }
}

/// A text that may stand in a target.
fn path_text(field: &str, text: String) -> Decoded<Box<str>> {
    match text.bytes().find(|b| !(b'!'..=b'~').contains(b)) {
        None => Ok(text.into()),
        Some(_) => reject(field, format!("{text:?} has characters that no path may have")),
    }
}

fn mirror(mut rest: pb::route_action::RequestMirrorPolicy) -> Decoded<Mirror> {
    let cluster = take(&mut rest.cluster);
    if cluster.is_empty() {
        return reject("cluster", "is missing");
    }
    let share = match rest.runtime_fraction.take() {
        None => Percent::ALL,
        Some(fraction) => fault::runtime_percent(fraction).within("runtime_fraction")?,
    };
    let suffix = !take(&mut rest.disable_shadow_host_suffix_append);
    let host = take(&mut rest.host_rewrite_literal);
    let host = (!host.is_empty()).then(|| host_literal(host)).transpose()?;
    // Copies are traced like any other request of their proxy.
    rest.trace_sampled = None;
    nothing_left(&rest)?;
    Ok(Mirror {
        cluster: cluster.into(),
        share,
        suffix,
        host,
    })
}

fn hash_policy(mut rest: pb::route_action::HashPolicy) -> Decoded<HashOn> {
    use pb::route_action::hash_policy::PolicySpecifier;
    let terminal = take(&mut rest.terminal);
    match rest.policy_specifier.take() {
        Some(PolicySpecifier::Header(mut header)) => {
            let name = take(&mut header.header_name);
            nothing_left(&header).within("header")?;
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => Ok(HashOn::Header {
                    name: name.as_str().into(),
                    terminal,
                }),
                Err(_) => reject("header.header_name", format!("{name:?} is no name of a header")),
            }
        }
        Some(PolicySpecifier::Cookie(mut cookie)) => {
            let name = take(&mut cookie.name);
            let token = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return reject("cookie.name", format!("{name:?} is no name of a cookie"));
            }
            let ttl = optional_duration("cookie.ttl", &cookie.ttl.take())?;
            let path = take(&mut cookie.path);
            if path.contains(';') || HeaderValue::from_str(&path).is_err() {
                return reject("cookie.path", format!("{path:?} is no path"));
            }
            nothing_left(&cookie).within("cookie")?;
            Ok(HashOn::Cookie {
                name: name.into(),
                ttl,
                path: path.into(),
                terminal,
            })
        }
        _ => reject("policy_specifier", "must be header or cookie"),
    }
}

/// A redirect.
pub(super) fn redirect(mut rest: pb::RedirectAction) -> Decoded<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let status = match RedirectResponseCode::try_from(take(&mut rest.response_code)) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return reject("response_code", "is unknown"),
    };
    let scheme = match rest.scheme_rewrite_specifier.take() {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if scheme.is_empty() => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.parse::<http::uri::Scheme>() {
            Ok(scheme) => Some(scheme.as_str().into()),
            Err(_) => return reject("scheme_redirect", format!("{scheme:?} is no scheme")),
        },
    };
    let host = take(&mut rest.host_redirect);
    let host = match http::uri::Authority::try_from(host.as_str()) {
        _ if host.is_empty() => None,
        Ok(_) if !host.contains('@') => Some(host.into()),
        _ => return reject("host_redirect", format!("{host:?} is no host")),
    };
    let port = match take(&mut rest.port_redirect) {
        0 => None,
        number => Some(crate::config::decode::port("port_redirect", number)?),
    };
    let (path, rewrite) = match rest.path_rewrite_specifier.take() {
        None => (None, None),
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.is_empty() => (None, None),
        Some(PathRewriteSpecifier::PathRedirect(path)) => (Some(path_text("path_redirect", path)?), None),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => (None, path_rewrite(prefix, None)?),
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => (None, path_rewrite(String::new(), Some(regex))?),
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return reject("path_rewrite", "is not supported by this proxy; leave it unset");
        }
    };
    let strip_query = take(&mut rest.strip_query);
    nothing_left(&rest)?;
    Ok(Redirect {
        status,
        scheme,
        host,
        port,
        path,
        rewrite,
        strip_query,
    })
}

/// A response of the proxy's own.
pub(super) fn respond(mut rest: pb::DirectResponseAction) -> Decoded<Action> {
    let number = take(&mut rest.status);
    let status = u16::try_from(number).ok().filter(|s| (200..600).contains(s));
    let Some(status) = status.and_then(|s| http::StatusCode::from_u16(s).ok()) else {
        return reject(
            "status",
            format!("{number} is no status of a response; right would be 200 to 599"),
        );
    };
    let mut body = match rest.body.take() {
        None => ResponseText::Fixed(Bytes::new()),
        Some(source) => ResponseText::Fixed(inline(source).within("body")?),
    };
    if let Some(format) = rest.body_format.take() {
        body = body_format(format).within("body_format")?;
    }
    nothing_left(&rest)?;
    Ok(Action::Respond { status, body })
}

fn inline(source: DataSource) -> Decoded<Bytes> {
    match source.specifier {
        Some(Specifier::InlineString(text)) => Ok(Bytes::from(text)),
        Some(Specifier::InlineBytes(bytes)) => Ok(Bytes::from(bytes)),
        _ => reject("", "must be inline_string or inline_bytes"),
    }
}

/// A text with places for the original destination, in place of the fixed body.
fn body_format(mut rest: SubstitutionFormatString) -> Decoded<ResponseText> {
    let Some(Format::TextFormatSource(source)) = rest.format.take() else {
        return reject("text_format_source", "is missing");
    };
    let text = inline(source).within("text_format_source")?;
    let Ok(text) = std::str::from_utf8(&text) else {
        return reject("text_format_source", "is not UTF-8");
    };
    if text.matches('%').count() % 2 == 1 {
        let open = text.rsplit('%').next().unwrap_or_default();
        let right = "right would be %NAME%, or %% for the sign itself";
        return reject("text_format_source", format!("\"%{open}\" has no end; {right}"));
    }
    let mut parts = Vec::new();
    // Every second piece between percent signs names a value; an empty name is the sign itself.
    for (i, piece) in text.split('%').enumerate() {
        parts.push(match (i % 2, piece) {
            (0, text) => TextPart::Text(text.to_owned()),
            (_, "") => TextPart::Text("%".to_owned()),
            (_, "DOWNSTREAM_LOCAL_ADDRESS") => TextPart::Destination,
            (_, "DOWNSTREAM_LOCAL_PORT") => TextPart::DestinationPort,
            (_, other) => {
                let known = "known are DOWNSTREAM_LOCAL_ADDRESS and DOWNSTREAM_LOCAL_PORT";
                return reject("text_format_source", format!("%{other}% is unknown; {known}"));
            }
        });
    }
    if rest.content_type == "text/plain" {
        rest.content_type.clear();
    }
    nothing_left(&rest)?;
    Ok(ResponseText::Parts(parts))
}
