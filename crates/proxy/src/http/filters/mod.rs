//! What a request goes through between its head and its endpoint: the route, faults, changes of its head.
//!
//! ```text
//!  head ─▶ edge ─▶ route ─▶ trace ─▶ faults ─▶ changes ─▶ endpoint
//!                             │          │          └──────── response ─▶ changes ─▶ bandwidth ─▶ client
//!                             │          └─▶ error, or the route's own reply
//!                             └─▶ what traces are told; access logs are told at the end
//! ```
//!
//! Enters: the head of a request of either version. Leaves: a [`Decision`], and the head as the endpoint gets it. A route
//! that asks for none of it costs a few comparisons with nothing.

pub mod bandwidth;
mod edge;
pub mod mirror;

use std::time::Duration;

use http::header::{self, HeaderValue};

use super::attempts::Target;
use super::record::Record;
use super::reply::{Reply, Unanswered};
use crate::access_log::Entry;
use crate::config::fault::Abort;
use crate::config::route::edit::{Editable, Edits, Fields, Redirect};
use crate::config::route::matching::{Head, is_grpc};
use crate::config::route::{Forward, Route};
use crate::config::stats::FaultKind;
use crate::config::{Action, Active, Http};
use crate::flow::Flow;
use crate::trace::{self, Context};

/// What is to be done with a request.
pub struct Decision<'a> {
    /// It waits first.
    pub delay: Option<Duration>,
    /// So long it may take, from its head on.
    pub longest: Option<Duration>,
    /// Then this is done.
    pub verdict: Verdict<'a>,
    /// With responses of endpoints.
    pub shaping: Shaping<'a>,
}

/// Where a request ends.
pub enum Verdict<'a> {
    /// The proxy answers by itself.
    Reply(Reply),
    /// The same, for want of somebody else.
    Unanswered(Unanswered),
    /// At an endpoint.
    Forward(Target<'a>),
}

/// What is done to the response of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shaping<'a> {
    /// Changes of headers: of the part of a split, then of the route.
    edits: [Option<&'a Edits>; 2],
    /// So many bytes a second go to the client.
    pub rate: Option<u64>,
}

impl Shaping<'_> {
    /// Whether headers of responses are changed.
    pub fn edits(&self) -> bool {
        self.edits.iter().any(Option::is_some)
    }

    /// Changes the headers of a response.
    pub fn apply(&self, fields: &mut impl Fields) {
        for edits in self.edits.into_iter().flatten() {
            edits.response(fields);
        }
    }
}

/// Finds the route of a request, draws its faults, and changes its head as the route says.
pub fn decide<'a>(
    head: &mut impl Editable,
    active: &'a Active,
    http: &'a Http,
    flow: &Flow,
    secure: bool,
    record: &mut Record,
) -> Decision<'a> {
    let decision = judge(head, active, http, flow, secure, record);
    if http.access_log && record.is_open() {
        record.log(Entry::read(head, http.generate_request_id));
    }
    decision
}

fn judge<'a>(
    head: &mut impl Editable,
    active: &'a Active,
    http: &'a Http,
    flow: &Flow,
    secure: bool,
    record: &mut Record,
) -> Decision<'a> {
    if let Some(edge) = &http.edge
        && let Some(reply) = edge::admit(head, edge, http, flow, secure)
    {
        return Decision {
            delay: None,
            longest: None,
            verdict: Verdict::Reply(reply),
            shaping: Shaping::default(),
        };
    }
    let found = active.table_of(http).and_then(|table| table.find(head));
    let route = found.as_ref().map(|found| found.route);
    record.authority(found.and_then(|found| found.authority.cloned()));
    let context = trace(head, http, route, flow, record);
    let drawn = match route.map(|route| &route.action) {
        Some(Action::Forward(forward)) => Some((forward, forward.draw())),
        _ => None,
    };
    let share = drawn.and_then(|(_, (_, share))| share);
    let mut decision = Decision {
        delay: None,
        longest: None,
        verdict: Verdict::Unanswered(Unanswered::NoCluster(503)),
        shaping: Shaping {
            edits: [
                share.and_then(|share| share.edits.as_deref()),
                route.and_then(|route| route.edits.as_deref()),
            ],
            rate: None,
        },
    };
    if let Some(filter) = &http.fault {
        let own = share.and_then(|s| s.fault.as_ref());
        let fault = own.or_else(|| route.and_then(|r| r.fault.as_ref())).unwrap_or(filter);
        if !fault.is_none() {
            let lot = fault.draw();
            (decision.delay, decision.shaping.rate) = (lot.delay, lot.limit);
            let kinds = [
                (lot.delay.is_some(), FaultKind::Delay),
                (lot.limit.is_some(), FaultKind::Limit),
                (lot.abort.is_some(), FaultKind::Abort),
            ];
            for (_, kind) in kinds.into_iter().filter(|(drawn, _)| *drawn) {
                record.fault(kind);
            }
            if let Some(abort) = lot.abort {
                decision.verdict = Verdict::Reply(aborted(abort, is_grpc(head)));
                return decision;
            }
        }
    }
    decision.verdict = match (route, drawn) {
        (Some(route), Some((forward, (cluster, share)))) => match active.clusters.get(cluster) {
            None => Verdict::Unanswered(Unanswered::NoCluster(forward.missing)),
            Some(cluster) => {
                let target = Target {
                    cluster,
                    forward,
                    share,
                };
                decision.longest = forward.longest.as_ref().and_then(|longest| longest.of(head));
                change(head, http, route, forward, target);
                if let Some(context) = &context {
                    context.write(head);
                }
                Verdict::Forward(target)
            }
        },
        (Some(route), None) => {
            record.direct_response();
            Verdict::Reply(own_reply(head, route, flow))
        }
        (None, _) => {
            record.no_route();
            Verdict::Reply(Reply::new(404, ""))
        }
    };
    decision
}

/// Decides whether traces are told of a request; leaves what goes on with it. Without tracing nothing is done.
fn trace(
    head: &mut impl Editable,
    http: &Http,
    route: Option<&Route>,
    flow: &Flow,
    record: &mut Record,
) -> Option<Context> {
    let tracing = http.tracing.as_deref().filter(|_| record.is_open())?;
    let (context, trace) = trace::begin(tracing, flow.direction, route, head, http.generate_request_id);
    record.trace(trace);
    Some(context)
}

/// Changes the head of a request as its route says, in Envoy's order.
fn change(head: &mut impl Editable, http: &Http, route: &Route, forward: &Forward, target: Target<'_>) {
    let share = target.share;
    let own = share.is_some_and(|share| share.edits.is_some() || share.host.is_some());
    if !own && route.edits.is_none() && forward.rewrite.is_none() {
        return;
    }
    head.settle(http.generate_request_id);
    if let Some(share) = share {
        if let Some(edits) = &share.edits {
            edits.request(head);
        }
        if let Some(host) = &share.host {
            head.set_host(host);
        }
    }
    if let Some(edits) = &route.edits {
        edits.request(head);
    }
    if let Some(rewrite) = &forward.rewrite {
        rewrite.apply(&route.matching, head, http.original_path);
    }
}

/// The reply of a route that leads nowhere.
fn own_reply(head: &impl Head, route: &Route, flow: &Flow) -> Reply {
    let (mut reply, location) = match &route.action {
        Action::Redirect(redirect) => {
            let location = redirect.location(&route.matching, head);
            (Reply::new(redirect.status, ""), Some(location))
        }
        Action::Respond { status, body } => {
            let reply = Reply::new(status.as_u16(), body.render(flow.destination));
            // Such a response without a location would say nothing.
            let moved = status.is_redirection() || status.as_u16() == 201;
            (
                reply,
                moved.then(|| Redirect::default().location(&route.matching, head)),
            )
        }
        Action::Forward(_) => (Reply::default(), None),
    };
    if let Some(value) = location.and_then(|text| HeaderValue::try_from(text).ok()) {
        reply.fields.push((header::LOCATION, value));
    }
    if let Some(edits) = &route.edits {
        edits.response(&mut reply.fields);
    }
    reply
}

/// The reply to a request that is given up on purpose.
fn aborted(abort: Abort, grpc: bool) -> Reply {
    const TEXT: &str = "fault filter abort";
    match (abort, grpc) {
        (Abort::Grpc(status), true) => Reply::grpc(status, TEXT),
        (Abort::Http(status), true) => Reply::new(status, TEXT).in_grpc(),
        (Abort::Http(status), false) => Reply::new(status, TEXT),
        // A status that this client cannot be told.
        (Abort::Grpc(_), false) => Reply::new(200, TEXT),
    }
}
