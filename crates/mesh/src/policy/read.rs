//! Labels to a [`Policy`]. A bad value is a problem on the object that has it, and says nothing: the next object's
//! counts, then the mesh's default.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::duration;
use weir_api::labels::{self, InvalidValue};
use weir_api::percent::Percent;

use super::{Balance, Fault, HashOn, LbPolicy, Limits, Outlier, Policy, RetryCounts, Timeouts, Tracing};
use crate::objects::object_ref;
use crate::problems::{Problems, field};
use crate::settings::Defaults;

/// Smallest and largest status that an abort may answer.
const STATUS: std::ops::RangeInclusive<u16> = 200..=599;
const STATUS_DEFAULT: u16 = 503;

/// An object whose labels count.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) meta: &'a ObjectMeta,
}

impl<'a> Source<'a> {
    pub(crate) fn service(meta: &'a ObjectMeta) -> Self {
        Self {
            api_version: "v1",
            kind: "Service",
            meta,
        }
    }
}

/// A value that was read, and what is doubtful about how it was written.
pub(crate) type Written<T> = (T, Option<String>);

/// The objects whose labels make a policy, and where their problems go.
pub(crate) struct Labels<'a, 'p> {
    /// The Pod and its workload, for single addresses: they stand above the Services.
    pub(crate) pod: &'a [Source<'a>],
    /// The Services, the first counts first.
    pub(crate) services: &'a [Source<'a>],
    /// What holds where neither says anything.
    pub(crate) defaults: &'a Defaults,
    pub(crate) problems: &'p mut Problems,
}

impl Labels<'_, '_> {
    /// The policy.
    pub(crate) fn policy(&mut self) -> Policy {
        let keys = self.pod.iter().chain(self.services);
        if !keys.into_iter().any(|source| speaks(source.meta)) {
            return self.defaults.policy();
        }
        Policy {
            balance: self.balance(),
            connect_timeout: self
                .of_service(labels::CONNECTION_TIMEOUT, read_duration)
                .or(self.defaults.connect_timeout)
                .filter(|d| !d.is_zero()),
            limits: self.limits(),
            outlier: self.outlier(),
            timeouts: self.timeouts(),
            retries: self.retries(),
            fault: self.fault(),
            tracing: self.tracing(),
        }
    }

    fn balance(&mut self) -> Balance {
        let policy: LbPolicy = self.of_service(labels::LB_POLICY, parsed).unwrap_or_default();
        let cookie = self.of_service(labels::HASH_COOKIE_NAME, token);
        let ttl = self.of_service(labels::HASH_COOKIE_TTL, seconds);
        let header = self.of_service(labels::HASH_HEADER_NAME, token);
        if ttl.is_some() && cookie.is_none() {
            let missing = format!("has no effect without {}", labels::HASH_COOKIE_NAME);
            self.doubt(labels::HASH_COOKIE_TTL, &missing);
        }
        let mut hash = Vec::new();
        hash.extend(cookie.map(|name| HashOn::Cookie { name, ttl }));
        hash.extend(header.map(HashOn::Header));
        if policy.hashes() && hash.is_empty() {
            let missing = format!(
                "nothing is hashed, so that requests go anywhere; set {} or {}",
                labels::HASH_COOKIE_NAME,
                labels::HASH_HEADER_NAME
            );
            self.doubt(labels::LB_POLICY, &missing);
        }
        if !policy.hashes() && !hash.is_empty() {
            let what = format!(
                "has no effect on {policy}; set {} to RING_HASH or MAGLEV",
                labels::LB_POLICY
            );
            for key in [labels::HASH_COOKIE_NAME, labels::HASH_HEADER_NAME] {
                self.doubt(key, &what);
            }
            hash.clear();
        }
        Balance {
            policy,
            hash,
            panic_percent: self.of_service(labels::LB_PANIC_THRESHOLD, whole_percent),
        }
    }

    fn limits(&mut self) -> Limits {
        let retries = self.of_service(labels::RETRIES_MAX, number).filter(|n| *n > 0);
        let own_budget = self.of_service(labels::RETRIES_BUDGET, parsed);
        if retries.is_some() && own_budget.is_some() {
            let other = format!("has no effect beside {}; keep one of them", labels::RETRIES_BUDGET);
            self.doubt(labels::RETRIES_MAX, &other);
        }
        // A number that was asked for is not overruled by a share that nobody asked for here.
        let usual = self.defaults.retry_budget.filter(|_| retries.is_none());
        let mut limit = |key| self.of_service(key, number).filter(|n| *n > 0);
        Limits {
            retries,
            connections: limit(labels::CONNECTION_MAX),
            pending: limit(labels::REQUEST_MAX_PENDING),
            requests: limit(labels::REQUEST_MAX),
            retry_budget: own_budget.or(usual),
        }
    }

    fn outlier(&mut self) -> Outlier {
        let usual = self.defaults.outlier;
        let ejection_time = self
            .of_service(labels::OUTLIER_EJECTION_TIME, read_duration)
            .filter(|d| !d.is_zero());
        Outlier {
            enabled: self
                .of_service(labels::OUTLIER_ENABLED, boolean)
                .unwrap_or(usual.enabled),
            gateway_errors: self
                .of_service(labels::OUTLIER_GATEWAY_ERRORS, number)
                .unwrap_or(usual.gateway_errors),
            server_errors: self
                .of_service(labels::OUTLIER_5XX, number)
                .unwrap_or(usual.server_errors),
            ejection_time: ejection_time.unwrap_or(usual.ejection_time),
            ejected_percent_max: self
                .of_service(labels::OUTLIER_MAX_EJECTION_PERCENT, whole_percent)
                .unwrap_or(usual.ejected_percent_max),
        }
    }

    fn timeouts(&mut self) -> Timeouts {
        let usual = self.defaults.timeouts;
        let mut timeout =
            |key, usual: Option<Duration>| self.any(key, read_duration).or(usual).filter(|d| !d.is_zero());
        Timeouts {
            request: timeout(labels::REQUEST_TIMEOUT, usual.request),
            per_try: timeout(labels::REQUEST_PER_TRY_TIMEOUT, usual.per_try),
            idle: timeout(labels::REQUEST_IDLE_TIMEOUT, usual.idle),
        }
    }

    fn retries(&mut self) -> super::Retries {
        let usual = self.defaults.retries;
        RetryCounts {
            server_error: self.any(labels::RETRIES_5XX, number).or(usual.server_error),
            connect_failure: self
                .any(labels::RETRIES_CONNECT_FAILURE, number)
                .or(usual.connect_failure),
            gateway_error: self.any(labels::RETRIES_GATEWAY_ERROR, number).or(usual.gateway_error),
        }
        .combined()
    }

    fn fault(&mut self) -> Fault {
        let time = self
            .any(labels::FAULT_DELAY_TIME, read_duration)
            .filter(|d| !d.is_zero());
        let delayed: Option<Percent> = self.any(labels::FAULT_DELAY_PERCENTAGE, parsed);
        let status = self.any(labels::FAULT_ABORT_STATUS, status);
        let aborted: Option<Percent> = self.any(labels::FAULT_ABORT_PERCENTAGE, parsed);
        let without = |key: &str| format!("has no effect until {key} is set");
        if time.is_some() && delayed.is_none() {
            self.doubt(labels::FAULT_DELAY_TIME, &without(labels::FAULT_DELAY_PERCENTAGE));
        }
        if time.is_none() && delayed.is_some_and(|p| !p.is_zero()) {
            self.doubt(labels::FAULT_DELAY_PERCENTAGE, &without(labels::FAULT_DELAY_TIME));
        }
        if status.is_some() && aborted.is_none() {
            self.doubt(labels::FAULT_ABORT_STATUS, &without(labels::FAULT_ABORT_PERCENTAGE));
        }
        let some = |percent: Option<Percent>| percent.filter(|p| !p.is_zero());
        Fault {
            delay: time.zip(some(delayed)),
            abort: some(aborted).map(|share| (status.unwrap_or(STATUS_DEFAULT), share)),
            rate_kib_s: self.any(labels::RATE_LIMIT, number).filter(|n| *n > 0),
        }
    }

    /// As the labels of the Pod say, and the Services' below it.
    pub(crate) fn tracing(&mut self) -> Tracing {
        let enabled = self.any(labels::TRACING_ENABLED, boolean).unwrap_or_default();
        let sampling = self.any(labels::TRACING_SAMPLING, parsed);
        if sampling.is_some() && !enabled {
            let missing = format!("has no effect without {}: \"true\"", labels::TRACING_ENABLED);
            self.doubt(labels::TRACING_SAMPLING, &missing);
        }
        let usual = self.defaults.sampling.unwrap_or(Percent::ALL);
        Tracing {
            sampling: enabled.then(|| sampling.unwrap_or(usual)),
        }
    }

    /// The value of a key that Pods and Services may have.
    fn any<T>(&mut self, key: &str, read: fn(&str) -> Result<Written<T>, InvalidValue>) -> Option<T> {
        let sources = self.pod.iter().chain(self.services);
        first(sources, key, read, self.problems)
    }

    /// The value of a key that only Services may have.
    fn of_service<T>(&mut self, key: &str, read: fn(&str) -> Result<Written<T>, InvalidValue>) -> Option<T> {
        first(self.services.iter(), key, read, self.problems)
    }

    /// Tells every object that has the key.
    fn doubt(&mut self, key: &str, what: &str) {
        for source in self.pod.iter().chain(self.services) {
            if labels::value(source.meta, key).is_some() {
                let object = object_ref(source.api_version, source.kind, source.meta);
                self.problems.warn(object, field(source.meta, key), what);
            }
        }
    }
}

/// Tells of keys that do nothing where they stand.
pub(crate) fn idle_keys(source: &Source<'_>, place: labels::Place, problems: &mut Problems) {
    for (key, why) in labels::idle(source.meta, place) {
        let object = object_ref(source.api_version, source.kind, source.meta);
        problems.warn(object, field(source.meta, key), why);
    }
}

/// Whether an object may have any of the keys; nearly none has, and then there is nothing to look up.
fn speaks(meta: &ObjectMeta) -> bool {
    let any = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.as_ref().is_some_and(|map| {
            map.range(labels::PREFIX.to_owned()..)
                .next()
                .is_some_and(|(k, _)| k.starts_with(labels::PREFIX))
        })
    };
    any(&meta.labels) || any(&meta.annotations)
}

/// The first good value. An empty one says nothing.
fn first<'a, T>(
    sources: impl Iterator<Item = &'a Source<'a>>,
    key: &str,
    read: fn(&str) -> Result<Written<T>, InvalidValue>,
    problems: &mut Problems,
) -> Option<T> {
    for source in sources {
        let Some(text) = labels::value(source.meta, key).filter(|text| !text.is_empty()) else {
            continue;
        };
        let object = || object_ref(source.api_version, source.kind, source.meta);
        match read(text) {
            Ok((value, doubt)) => {
                if let Some(doubt) = doubt {
                    problems.warn(object(), field(source.meta, key), doubt);
                }
                return Some(value);
            }
            Err(why) => problems.error(object(), field(source.meta, key), why.to_string()),
        }
    }
    None
}

// How texts are read; the mesh's own settings are read by the same.

pub(crate) fn read_duration(text: &str) -> Result<Written<Duration>, InvalidValue> {
    duration::parse(text).map(|read| (read.value, read.hint))
}

/// A number without a unit means seconds, as cookies count them.
fn seconds(text: &str) -> Result<Written<Duration>, InvalidValue> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => read_duration(&format!("{text}s")),
        false => read_duration(text),
    }
}

pub(crate) fn parsed<T: std::str::FromStr<Err = InvalidValue>>(text: &str) -> Result<Written<T>, InvalidValue> {
    text.parse().map(|value| (value, None))
}

pub(crate) fn boolean(text: &str) -> Result<Written<bool>, InvalidValue> {
    labels::parse_bool(text).map(|value| (value, None))
}

pub(crate) fn number(text: &str) -> Result<Written<u32>, InvalidValue> {
    text.parse().map(|value| (value, None)).map_err(|_| {
        InvalidValue(format!(
            "{text:?} is not a number; write a whole one from 0 to {}",
            u32::MAX
        ))
    })
}

pub(crate) fn whole_percent(text: &str) -> Result<Written<u8>, InvalidValue> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>();
    number
        .ok()
        .filter(|n| *n <= 100)
        .map(|value| (value, None))
        .ok_or_else(|| InvalidValue(format!("{text:?} is not a whole percentage; write 0 to 100")))
}

fn status(text: &str) -> Result<Written<u16>, InvalidValue> {
    let status = text.parse::<u16>().ok().filter(|status| STATUS.contains(status));
    status.map(|value| (value, None)).ok_or_else(|| {
        InvalidValue(format!(
            "{text:?} is not a status; write {} to {}",
            STATUS.start(),
            STATUS.end()
        ))
    })
}

/// A name of a header or cookie (RFC 9110, 5.6.2).
fn token(text: &str) -> Result<Written<String>, InvalidValue> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.bytes().all(good) {
        Ok((text.to_owned(), None))
    } else {
        Err(InvalidValue(format!(
            "{text:?} is not a name of a header or cookie; write letters, digits and hyphens, such as x-user"
        )))
    }
}
