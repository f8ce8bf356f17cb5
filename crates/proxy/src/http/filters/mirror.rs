//! Copies of requests for others, whose responses are thrown away.
//!
//! Enters: a request on its way. Leaves: the same request to other clusters, in tasks of their own: the client waits for
//! none of them, and sees none of their failures. A copy whose cluster takes its body more slowly than the client sends it
//! is given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::request;
use tokio::task::spawn_local;

use crate::config::route::{Clusters, Forward, Mirror, RetryPolicy};
use crate::config::{Active, Cluster};
use crate::flow::Flow;
use crate::http::attempts::Target;
use crate::http::h1::body::Broken;
use crate::http::h2::upstream::{Client, End, Exchange};
use crate::http::lifetime::Lifetime;
use crate::http::message::{Frame, Source};
use crate::http::record::Record;

/// Copies that one worker has under way; beyond, none are made.
const COPIES_MAX: usize = 1024;
/// The longest that a copy may take whose route has no timeout.
const COPY_TIMEOUT: Duration = Duration::from_secs(600);
/// How long nothing may move on a copy whose route and chain say nothing of that: nobody would notice.
const COPY_STALL: Duration = Duration::from_secs(60);
/// Bytes of a body that wait for one copy.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// The copies to be made of one request.
pub struct Copies<'a> {
    to: Vec<(&'a Arc<Cluster>, &'a Mirror)>,
    timeout: Option<Duration>,
    stall: Option<Duration>,
}

impl<'a> Copies<'a> {
    /// Draws who gets a copy; `None`: nobody.
    pub fn draw(active: &'a Active, http: &crate::config::Http, forward: &'a Forward) -> Option<Self> {
        if forward.mirrors.is_empty() {
            return None;
        }
        let drawn = forward.mirrors.iter().filter(|mirror| mirror.share.hit());
        // A cluster that is not there gets none.
        let to: Vec<_> = drawn
            .filter_map(|mirror| Some((active.clusters.get(&mirror.cluster)?, mirror)))
            .collect();
        (!to.is_empty()).then(|| Self {
            to,
            timeout: forward.timeout,
            stall: forward.stall(http),
        })
    }

    /// Sends them; `body` makes that of each.
    pub fn send(
        self,
        flow: &Rc<Flow>,
        active: &Arc<Active>,
        record: &Record,
        head: (&request::Parts, &str),
        mut body: impl FnMut() -> Source<'static>,
    ) {
        let (parts, authority) = head;
        for (cluster, mirror) in self.to {
            let worker = &flow.worker;
            if worker.copies.get() >= COPIES_MAX {
                record.copy_refused();
                continue;
            }
            worker.copies.set(worker.copies.get() + 1);
            let host = match (&mirror.host, mirror.suffix) {
                (Some(host), _) => host.to_string(),
                (None, true) => shadow(authority),
                (None, false) => authority.to_owned(),
            };
            let (mut copy, ()) = http::Request::new(()).into_parts();
            (copy.method, copy.headers) = (parts.method.clone(), parts.headers.clone());
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            let uri = http::Uri::builder().scheme("http").authority(host.as_str());
            if let Ok(uri) = uri.path_and_query(target).build() {
                copy.uri = uri;
            }
            let forward = Forward {
                clusters: Clusters::One(Arc::clone(&mirror.cluster)),
                timeout: self.timeout,
                longest: None,
                idle_timeout: None,
                missing: 503,
                retry: RetryPolicy::default(),
                hash: Box::default(),
                rewrite: None,
                mirrors: Box::default(),
            };
            let one = One {
                flow: Rc::clone(flow),
                active: Arc::clone(active),
                cluster: Arc::clone(cluster),
                forward,
                stall: self.stall,
                record: record.shadow(),
                two: parts.version == http::Version::HTTP_2,
            };
            spawn_local(one.send(copy, host, body()));
        }
    }
}

/// The limits of a copy, by those of its request: one of them ends it, whatever is configured.
fn limits(timeout: Option<Duration>, stall: Option<Duration>) -> (Option<Duration>, Option<Duration>) {
    (Some(timeout.unwrap_or(COPY_TIMEOUT)), Some(stall.unwrap_or(COPY_STALL)))
}

/// The host of a copy: Envoy's mark, before the port.
fn shadow(authority: &str) -> String {
    let colon = match authority.starts_with('[') {
        true => authority.rfind("]:").map(|at| at + 1),
        false => authority.rfind(':'),
    };
    let (name, port) = authority.split_at(colon.unwrap_or(authority.len()));
    format!("{name}-shadow{port}")
}

/// One copy.
struct One {
    flow: Rc<Flow>,
    active: Arc<Active>,
    cluster: Arc<Cluster>,
    forward: Forward,
    stall: Option<Duration>,
    record: Record,
    /// The client speaks HTTP/2.
    two: bool,
}

impl Drop for One {
    fn drop(&mut self) {
        let copies = &self.flow.worker.copies;
        copies.set(copies.get().saturating_sub(1));
    }
}

impl One {
    async fn send(mut self, parts: request::Parts, authority: String, body: Source<'static>) {
        let mut time = Lifetime::new(&self.flow.worker);
        let (timeout, stall) = limits(self.forward.timeout, self.stall);
        time.limit_request(timeout, stall, Instant::now());
        let flow = Rc::clone(&self.flow);
        let exchange = Exchange {
            flow: &flow,
            parts,
            authority,
            body: Some(body),
            client: Client::Nobody { two: self.two },
            time: &mut time,
            record: &mut self.record,
            cookie: None,
            shaping: super::Shaping::default(),
        };
        let target = Target {
            cluster: &self.cluster,
            forward: &self.forward,
            share: None,
        };
        let (end, _) = exchange.run(&self.active, target).await;
        if let End::Unanswered(why) = end {
            tracing::debug!(
                ?why,
                cluster = &*self.cluster.spec.name,
                "a copy of a request has no answer"
            );
            why.reply(&mut self.record, false);
        }
    }
}

/// What of a body waits for a copy.
#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Nothing follows.
    ended: bool,
    /// There was too much, or the original broke off.
    broken: bool,
    waker: Option<Waker>,
}

impl Waiting {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Where the frames of a body go a second time.
pub struct CopySink(Rc<RefCell<Waiting>>);

/// Where they come out.
pub struct CopySource(Rc<RefCell<Waiting>>);

/// Both ends.
pub fn copy() -> (CopySink, CopySource) {
    let shared: Rc<RefCell<Waiting>> = Rc::default();
    (CopySink(Rc::clone(&shared)), CopySource(shared))
}

impl CopySink {
    /// The same frame for the copy.
    pub fn push(&self, frame: &Frame) {
        let mut waiting = self.0.borrow_mut();
        if waiting.broken || waiting.ended {
            return;
        }
        let frame = match frame {
            Frame::Data(data) => {
                waiting.bytes += data.len();
                Frame::Data(data.clone())
            }
            Frame::Trailers(trailers) => {
                waiting.ended = true;
                Frame::Trailers(trailers.clone())
            }
        };
        if waiting.bytes > WAITING_BYTES_MAX {
            waiting.broken = true;
            waiting.frames.clear();
        } else {
            waiting.frames.push_back(frame);
        }
        waiting.wake();
    }

    /// Nothing follows.
    pub fn end(&self) {
        let mut waiting = self.0.borrow_mut();
        waiting.ended = true;
        waiting.wake();
    }
}

impl Drop for CopySink {
    fn drop(&mut self) {
        let mut waiting = self.0.borrow_mut();
        waiting.broken |= !waiting.ended;
        waiting.wake();
    }
}

impl CopySource {
    /// Whether nothing comes any more.
    pub fn is_end(&self) -> bool {
        let waiting = self.0.borrow();
        waiting.ended && waiting.frames.is_empty()
    }

    /// The next frame; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Broken>> {
        let mut waiting = self.0.borrow_mut();
        if waiting.broken {
            return Poll::Ready(Err(Broken::Source));
        }
        match waiting.frames.pop_front() {
            Some(frame) => {
                if let Frame::Data(data) = &frame {
                    waiting.bytes -= data.len();
                }
                Poll::Ready(Ok(Some(frame)))
            }
            None if waiting.ended => Poll::Ready(Ok(None)),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for CopySource {
    fn drop(&mut self) {
        // Nobody wants the rest.
        let mut waiting = self.0.borrow_mut();
        waiting.broken = true;
        waiting.frames.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_name_another_host() {
        assert_eq!(shadow("svc"), "svc-shadow");
        assert_eq!(shadow("svc:80"), "svc-shadow:80");
        assert_eq!(shadow("[::1]:80"), "[::1]-shadow:80");
    }

    #[test]
    fn a_copy_ends_whatever_is_configured() {
        let second = Duration::from_secs(1);
        assert_eq!(limits(None, None), (Some(COPY_TIMEOUT), Some(COPY_STALL)));
        assert_eq!(limits(Some(second), Some(2 * second)), (Some(second), Some(2 * second)));
    }

    #[test]
    fn a_slow_copy_is_given_up() {
        let mut cx = Context::from_waker(Waker::noop());
        let (sink, mut source) = copy();
        assert!(source.poll_frame(&mut cx).is_pending());
        let piece = Frame::Data(vec![0; 100 * 1024].into());
        sink.push(&piece);
        sink.push(&piece);
        assert!(matches!(source.poll_frame(&mut cx), Poll::Ready(Ok(Some(_)))));
        sink.push(&piece);
        assert!(matches!(source.poll_frame(&mut cx), Poll::Ready(Ok(Some(_)))));
        (0..3).for_each(|_| sink.push(&piece));
        assert!(matches!(source.poll_frame(&mut cx), Poll::Ready(Err(_))));
        let (sink, mut source) = copy();
        sink.end();
        drop(sink);
        assert!(source.is_end() && matches!(source.poll_frame(&mut cx), Poll::Ready(Ok(None))));
        let (sink, mut source) = copy();
        drop(sink);
        assert!(matches!(source.poll_frame(&mut cx), Poll::Ready(Err(_))));
    }
}
