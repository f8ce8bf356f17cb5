//! Questions about traffic -> PromQL -> figures. The only place with PromQL text.
//!
//! A question about any number of resources costs the same few queries: the store groups by resource.
//!
//! Counts are exact differences of counters as they were sampled. `increase()` would extrapolate and so show requests
//! that nobody sent. With x the counter and w the window, per series:
//!
//! ```text
//! base  = x offset w, or the smallest value in w for a counter that is younger than w
//! count = last - base                                 as long as the counter only grew
//!         last + (max - base if max > last else 0)    when it was reset in w; what was counted after the last
//!                                                     sample before the reset is lost, as for any reader
//! ```
//!
//! Weir's own scraper writes the zero with which a counter begins; others know it from its first increment on. Where they scrape,
//! the base of such a counter is worked out: 0 if its target was scraped before it appeared, or began within w itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_api::traffic_metrics::Figures;
use weir_promql::remote::{Backend, Remote};
use weir_promql::{Engine, InstantSample};
use weir_series::names;

use crate::aggregated::BoxFuture;

/// Why the store has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the metric store cannot answer: {0}")]
pub struct QueryError(pub String);

/// A metric store that speaks PromQL.
pub trait Metrics: Send + Sync + 'static {
    /// The instant vector of an expression.
    fn instant<'a>(&'a self, expression: &'a str, at_ms: i64) -> BoxFuture<'a, Result<Vec<InstantSample>, QueryError>>;

    /// Whether counters begin with the zero that they had before.
    fn has_zeros(&self) -> bool;
}

impl Metrics for Engine {
    fn instant<'a>(&'a self, expression: &'a str, at_ms: i64) -> BoxFuture<'a, Result<Vec<InstantSample>, QueryError>> {
        let (engine, expression) = (self.clone(), expression.to_owned());
        Box::pin(async move {
            // The engine computes; the runtime's own threads must not wait for that.
            let evaluated = tokio::task::spawn_blocking(move || engine.instant(&expression, at_ms)).await;
            match evaluated {
                Ok(Ok(value)) => Ok(value.into_vector()),
                Ok(Err(error)) => Err(QueryError(error.to_string())),
                Err(error) => Err(QueryError(error.to_string())),
            }
        })
    }

    fn has_zeros(&self) -> bool {
        true
    }
}

impl Metrics for Remote {
    fn instant<'a>(&'a self, expression: &'a str, at_ms: i64) -> BoxFuture<'a, Result<Vec<InstantSample>, QueryError>> {
        Box::pin(async move {
            match Backend::instant(self, expression, at_ms).await {
                Ok(value) => Ok(value.into_vector()),
                Err(error) => Err(QueryError(error.to_string())),
            }
        })
    }

    fn has_zeros(&self) -> bool {
        false
    }
}

/// The kind of resource that traffic is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Deployments.
    Deployment,
    /// Namespaces.
    Namespace,
}

impl Kind {
    /// The label that names the resource on the proxy's own side; for namespaces it is the namespace.
    fn label(self) -> &'static str {
        match self {
            Kind::Pod => names::POD,
            Kind::Deployment => "deployment",
            Kind::Namespace => names::NAMESPACE,
        }
    }
}

/// One resource, or all of a namespace, or all. For [`Kind::Namespace`] only `name` counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Namespace of the resources.
    pub namespace: Option<String>,
    /// Name of the resource.
    pub name: Option<String>,
}

/// A resource: namespace ("" for namespaces) and name.
pub type Key = (String, String);

/// The end of a connection, as series name it.
#[derive(Clone, Copy)]
enum End {
    /// The proxy's own pod.
    Own,
    /// The destination of an outbound proxy.
    Dst,
    /// The source at an inbound proxy.
    Src,
}

impl End {
    fn prefix(self) -> &'static str {
        match self {
            End::Own => "",
            End::Dst => names::DST_PREFIX,
            End::Src => names::SRC_PREFIX,
        }
    }

    /// Labels that identify a resource of this kind.
    fn labels(self, kind: Kind) -> Vec<String> {
        let prefix = self.prefix();
        match kind {
            Kind::Namespace => vec![format!("{prefix}{}", names::NAMESPACE)],
            _ => vec![
                format!("{prefix}{}", names::NAMESPACE),
                format!("{prefix}{}", kind.label()),
            ],
        }
    }

    /// The resource that a sample is about; `None` where the series does not name one.
    fn key(self, kind: Kind, sample: &InstantSample) -> Option<Key> {
        let labels = self.labels(kind);
        let get = |i: usize| labels.get(i).map_or("", |l: &String| sample.labels.get(l)).to_owned();
        let key = if kind == Kind::Namespace {
            (String::new(), get(0))
        } else {
            (get(0), get(1))
        };
        (!key.1.is_empty()).then_some(key)
    }

    /// Matchers that restrict this end to a scope. A resource must be named in any case.
    fn matchers(self, kind: Kind, scope: &Scope) -> Vec<String> {
        let prefix = self.prefix();
        let equal = |label: &str, value: &str| format!("{prefix}{label}={}", quote(value));
        let mut matchers = Vec::new();
        if kind != Kind::Namespace
            && let Some(namespace) = &scope.namespace
        {
            matchers.push(equal(names::NAMESPACE, namespace));
        }
        matchers.push(match &scope.name {
            Some(name) => equal(kind.label(), name),
            None => format!("{prefix}{}!=\"\"", kind.label()),
        });
        // An aggregate is what its pods did: a reply that a proxy made for lack of a destination reached none of them.
        // That is not told by the pod's name, which proxies that measure by workload or service leave out.
        if kind != Kind::Pod {
            matchers.push(format!("{}!={}", names::ORIGIN, quote(names::ORIGIN_PROXY)));
        }
        matchers
    }
}

fn quote(value: &str) -> String {
    format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    )
}

/// What a counter had when the window began.
fn base(selector: &str, window: Duration, has_zeros: bool) -> String {
    let seconds = window.as_secs_f64();
    let window = format!("{}ms", window.as_millis());
    let smallest = format!("min_over_time({selector}[{window}])");
    if has_zeros {
        return format!("({selector} offset {window} or {smallest})");
    }
    let of_target = |metric: &str| format!("{metric}{{{}={}}}[{window}]", names::JOB, quote(names::JOB_PROXIES));
    let target = [names::NAMESPACE, names::POD, names::INSTANCE].join(",");
    // A target may have several series of its own, of other jobs or other labels: then the careful one of them.
    let scrapes = format!("min by ({target}) (sum_over_time({}))", of_target(names::UP));
    let started = of_target(names::PROCESS_START_TIME_SECONDS);
    let started = format!("min by ({target}) (min_over_time({started})) > time() - {seconds}");
    format!(
        "({selector} offset {window} \
         or 0 * (count_over_time({selector}[{window}]) < on ({target}) group_left () {scrapes}) \
         or 0 * ({smallest} and on ({target}) ({started})) \
         or {smallest})"
    )
}

/// How much each series of a counter grew in the window.
fn growth(selector: &str, window: Duration, has_zeros: bool) -> String {
    let w = format!("{}ms", window.as_millis());
    let last = format!("last_over_time({selector}[{w}])");
    let (min, max) = (
        format!("min_over_time({selector}[{w}])"),
        format!("max_over_time({selector}[{w}])"),
    );
    let base = base(selector, window, has_zeros);
    format!(
        "({last} - {base} and {min} >= {base} and {max} <= {last} \
         or {last} + ({max} - {base}) * ({max} > bool {last}))"
    )
}

fn selector(metric: &str, direction: &str, matchers: &[String]) -> String {
    let mut all = vec![format!("{}={}", names::DIRECTION, quote(direction))];
    all.extend_from_slice(matchers);
    format!("{metric}{{{}}}", all.join(","))
}

fn sum_by(labels: &[String], expression: &str) -> String {
    format!("sum by ({}) ({expression})", labels.join(","))
}

/// Traffic of any number of groups, before its latencies are worked out.
#[derive(Clone, Debug, Default)]
struct Tally {
    success: f64,
    failure: f64,
    aborted: f64,
    /// Upper bound in milliseconds -> requests up to it.
    buckets: Vec<(f64, f64)>,
}

impl Tally {
    fn figures(mut self) -> Option<Figures> {
        if self.success + self.failure + self.aborted <= 0.0 {
            return None;
        }
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let seconds = |q| quantile(q, &self.buckets).map(|ms| ms / 1000.0);
        Some(Figures {
            success: self.success.round() as u64,
            failure: self.failure.round() as u64,
            p50_s: seconds(0.5),
            p90_s: seconds(0.9),
            p99_s: seconds(0.99),
        })
    }
}

/// The q-quantile of cumulative buckets sorted by bound, interpolated as `histogram_quantile` does.
fn quantile(q: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let (&(last_bound, total), finite) = buckets.split_last()?;
    if last_bound != f64::INFINITY || total <= 0.0 || finite.is_empty() {
        return None;
    }
    let rank = q * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(bound, count) in finite {
        // Each series was read at its own time: a larger bound may seem to hold less.
        let count = count.max(below);
        if count >= rank && count > below {
            return Some(lower + (bound - lower) * (rank - below) / (count - below));
        }
        (lower, below) = (bound, count);
    }
    Some(lower)
}

/// Asks a store about traffic.
#[derive(Clone)]
pub struct Traffic {
    metrics: Arc<dyn Metrics>,
}

/// The traffic between two resources in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Who sent the requests.
    pub from: Key,
    /// Who answered them.
    pub to: Key,
    /// How much it was. Never without any request.
    pub figures: Figures,
}

impl Traffic {
    /// Asks this store.
    pub fn new(metrics: Arc<dyn Metrics>) -> Self {
        Traffic { metrics }
    }

    /// All traffic that resources received, as their own proxies saw it.
    pub async fn received_by_server(
        &self,
        kind: Kind,
        scope: &Scope,
        window: Duration,
        at_ms: i64,
    ) -> Result<BTreeMap<Key, Figures>, QueryError> {
        let own = End::Own;
        let tally = self.tally(
            "inbound",
            own.matchers(kind, scope),
            own.labels(kind),
            window,
            at_ms,
            |sample| own.key(kind, sample),
        );
        Ok(figures(tally.await?))
    }

    /// All traffic that resources received, as the senders' proxies saw it.
    pub async fn received_by_clients(
        &self,
        kind: Kind,
        scope: &Scope,
        window: Duration,
        at_ms: i64,
    ) -> Result<BTreeMap<Key, Figures>, QueryError> {
        let dst = End::Dst;
        let tally = self.tally(
            "outbound",
            dst.matchers(kind, scope),
            dst.labels(kind),
            window,
            at_ms,
            |sample| dst.key(kind, sample),
        );
        Ok(figures(tally.await?))
    }

    /// Traffic from the resources of a scope to any other, as the senders' proxies saw it.
    pub async fn sent(&self, kind: Kind, from: &Scope, window: Duration, at_ms: i64) -> Result<Vec<Flow>, QueryError> {
        self.flows(
            "outbound",
            kind,
            (End::Own, from),
            (End::Dst, &Scope::default()),
            window,
            at_ms,
        )
        .await
    }

    /// Traffic from any resource to those of a scope, as the senders' proxies saw it.
    pub async fn received(
        &self,
        kind: Kind,
        to: &Scope,
        window: Duration,
        at_ms: i64,
    ) -> Result<Vec<Flow>, QueryError> {
        self.flows(
            "outbound",
            kind,
            (End::Own, &Scope::default()),
            (End::Dst, to),
            window,
            at_ms,
        )
        .await
    }

    /// Traffic from any known resource to those of a scope, as the receivers' proxies saw it.
    pub async fn answered(
        &self,
        kind: Kind,
        to: &Scope,
        window: Duration,
        at_ms: i64,
    ) -> Result<Vec<Flow>, QueryError> {
        self.flows(
            "inbound",
            kind,
            (End::Src, &Scope::default()),
            (End::Own, to),
            window,
            at_ms,
        )
        .await
    }

    async fn flows(
        &self,
        direction: &str,
        kind: Kind,
        (from, from_scope): (End, &Scope),
        (to, to_scope): (End, &Scope),
        window: Duration,
        at_ms: i64,
    ) -> Result<Vec<Flow>, QueryError> {
        let matchers = [from.matchers(kind, from_scope), to.matchers(kind, to_scope)].concat();
        let labels = [from.labels(kind), to.labels(kind)].concat();
        let tally = self.tally(direction, matchers, labels, window, at_ms, |sample| {
            Some((from.key(kind, sample)?, to.key(kind, sample)?))
        });
        let flows = figures(tally.await?).into_iter();
        Ok(flows.map(|((from, to), figures)| Flow { from, to, figures }).collect())
    }

    /// Two queries, whatever the number of groups: counts and latency buckets.
    async fn tally<K: Ord>(
        &self,
        direction: &str,
        matchers: Vec<String>,
        labels: Vec<String>,
        window: Duration,
        at_ms: i64,
        key: impl Fn(&InstantSample) -> Option<K>,
    ) -> Result<BTreeMap<K, Tally>, QueryError> {
        let grouped = |metric: &str, label: &str, has_zeros| {
            let labels = [labels.clone(), vec![label.to_owned()]].concat();
            sum_by(
                &labels,
                &growth(&selector(metric, direction, &matchers), window, has_zeros),
            )
        };
        let counts = grouped(names::RESPONSE_TOTAL, names::CLASSIFICATION, self.metrics.has_zeros());
        // There are many more of these, and a share of them lies where the whole lies: not worth the search for zeros.
        let buckets = grouped(names::RESPONSE_LATENCY_MS_BUCKET, names::LE, true);
        let (counts, buckets) = futures::try_join!(
            self.metrics.instant(&counts, at_ms),
            self.metrics.instant(&buckets, at_ms)
        )?;
        let mut tally: BTreeMap<K, Tally> = BTreeMap::new();
        for sample in counts.iter().filter(|s| s.value.is_finite()) {
            let Some(key) = key(sample) else { continue };
            let entry = tally.entry(key).or_default();
            match sample.labels.get(names::CLASSIFICATION) {
                "success" => entry.success += sample.value,
                "failure" => entry.failure += sample.value,
                _ => entry.aborted += sample.value,
            }
        }
        for sample in buckets.iter().filter(|s| s.value.is_finite()) {
            let (Some(key), Ok(bound)) = (key(sample), sample.labels.get(names::LE).parse()) else {
                continue;
            };
            // Buckets alone, without a counted response, are no traffic.
            if let Some(entry) = tally.get_mut(&key) {
                entry.buckets.push((bound, sample.value));
            }
        }
        Ok(tally)
    }
}

fn figures<K: Ord>(tally: BTreeMap<K, Tally>) -> BTreeMap<K, Figures> {
    tally
        .into_iter()
        .filter_map(|(key, tally)| Some((key, tally.figures()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_as_histogram_quantile_computes_them() {
        let inf = f64::INFINITY;
        let buckets = [(1.0, 0.0), (2.0, 50.0), (3.0, 100.0), (inf, 100.0)];
        assert_eq!(quantile(0.5, &buckets), Some(2.0));
        assert_eq!(quantile(0.75, &buckets), Some(2.5));
        assert_eq!(quantile(0.99, &[(1.0, 0.0), (inf, 5.0)]), Some(1.0));
        assert_eq!(quantile(0.5, &[(1.0, 0.0), (inf, 0.0)]), None);
        assert_eq!(quantile(0.5, &[(1.0, 5.0)]), None);
        assert_eq!(quantile(0.5, &[]), None);
    }

    #[test]
    fn names_from_the_url_cannot_leave_their_quotes() {
        assert_eq!(quote("a\"} or up{x=\"\\\n"), r#""a\"} or up{x=\"\\\n""#);
    }
}
