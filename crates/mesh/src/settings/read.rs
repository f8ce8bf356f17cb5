//! The ConfigMap's YAML to [`Settings`], field by field.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;
use weir_api::labels::{self, InvalidValue};
use weir_api::telemetry::{MESH_CONFIG, MESH_CONFIG_KEY};

use super::{Backend, Defaults, Ingress, Settings};
use crate::objects::{Key, Objects, object_ref};
use crate::policy::read::{Written, boolean, number, parsed, read_duration, whole_percent};
use crate::policy::{Outlier, RetryCounts, Timeouts};
use crate::problems::Problems;
use crate::telemetry::{self, Telemetry};

pub(super) fn settings(
    objects: &Objects,
    previous: &Settings,
    measured: &Telemetry,
    problems: &mut Problems,
) -> (Settings, Telemetry) {
    let kept = || (previous.clone(), measured.clone());
    let key = Key::new(labels::SYSTEM_NAMESPACE, MESH_CONFIG);
    let Some(object) = objects.config_maps.get(&key) else {
        return (Settings::default(), Telemetry::default());
    };
    let mut reading = Reading { object, problems };
    let Some(text) = object.data.as_ref().and_then(|data| data.get(MESH_CONFIG_KEY)) else {
        reading.complain("", "is missing; write settings such as outboundDefault: deny");
        return kept();
    };
    let file: Value = match serde_saphyr::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            reading.complain("", format!("is not YAML, and nothing of it is used: {error}"));
            return kept();
        }
    };
    const TABLES: [&str; 9] = [
        "outboundDefault",
        "engine",
        "accessLog",
        "timeouts",
        "retries",
        "outlier",
        "tracing",
        "metrics",
        "ingress",
    ];
    let Some(file) = reading.table(&file, "", &TABLES) else {
        return kept();
    };
    let (tracing, sampling) = reading.tracing(file, previous);
    let settings = Settings {
        outbound_default: reading
            .leaf(file, "outboundDefault", parsed, &Some(previous.outbound_default))
            .unwrap_or_default(),
        engine: reading.leaf(file, "engine", parsed, &previous.engine),
        access_log: reading
            .leaf(file, "accessLog", boolean, &Some(previous.access_log))
            .unwrap_or_default(),
        defaults: Defaults {
            sampling,
            ..reading.defaults(file, &previous.defaults)
        },
        tracing,
        ingress: reading.ingress(file, &previous.ingress),
    };
    (settings, telemetry::of_mesh(file, measured, &mut reading))
}

/// Reads one ConfigMap and tells what is wrong with it.
pub(crate) struct Reading<'a> {
    object: &'a ConfigMap,
    problems: &'a mut Problems,
}

static NOTHING: Value = Value::Null;

impl Reading<'_> {
    fn defaults(&mut self, file: &Value, previous: &Defaults) -> Defaults {
        let old = previous;
        let timeouts = self.sub(file, "timeouts", &["connect", "request", "perTry", "idle"]);
        let retries = self.sub(file, "retries", &["5xx", "connectFailure", "gatewayError", "budget"]);
        Defaults {
            connect_timeout: self.leaf(timeouts, "timeouts.connect", read_duration, &old.connect_timeout),
            timeouts: Timeouts {
                request: self.leaf(timeouts, "timeouts.request", read_duration, &old.timeouts.request),
                per_try: self.leaf(timeouts, "timeouts.perTry", read_duration, &old.timeouts.per_try),
                idle: self.leaf(timeouts, "timeouts.idle", read_duration, &old.timeouts.idle),
            },
            retries: RetryCounts {
                server_error: self.leaf(retries, "retries.5xx", number, &old.retries.server_error),
                connect_failure: self.leaf(retries, "retries.connectFailure", number, &old.retries.connect_failure),
                gateway_error: self.leaf(retries, "retries.gatewayError", number, &old.retries.gateway_error),
            },
            retry_budget: self.leaf(retries, "retries.budget", parsed, &old.retry_budget),
            outlier: self.outlier(file, old.outlier),
            sampling: None,
        }
    }

    fn outlier(&mut self, file: &Value, old: Outlier) -> Outlier {
        const FIELDS: [&str; 5] = [
            "enabled",
            "consecutiveGatewayErrors",
            "consecutive5xx",
            "ejectionTime",
            "maxEjectionPercent",
        ];
        let table = self.sub(file, "outlier", &FIELDS);
        let usual = Outlier::default();
        let time = self.leaf(table, "outlier.ejectionTime", read_duration, &Some(old.ejection_time));
        Outlier {
            enabled: self
                .leaf(table, "outlier.enabled", boolean, &Some(old.enabled))
                .unwrap_or(usual.enabled),
            gateway_errors: self
                .leaf(
                    table,
                    "outlier.consecutiveGatewayErrors",
                    number,
                    &Some(old.gateway_errors),
                )
                .unwrap_or(usual.gateway_errors),
            server_errors: self
                .leaf(table, "outlier.consecutive5xx", number, &Some(old.server_errors))
                .unwrap_or(usual.server_errors),
            ejection_time: time.filter(|d| !d.is_zero()).unwrap_or(usual.ejection_time),
            ejected_percent_max: self
                .leaf(
                    table,
                    "outlier.maxEjectionPercent",
                    whole_percent,
                    &Some(old.ejected_percent_max),
                )
                .unwrap_or(usual.ejected_percent_max),
        }
    }

    fn ingress(&mut self, file: &Value, previous: &Ingress) -> Ingress {
        let table = self.sub(file, "ingress", &["trustedHops", "httpsPort"]);
        let hops = self.leaf(table, "ingress.trustedHops", number, &Some(previous.trusted_hops));
        Ingress {
            trusted_hops: hops.unwrap_or_default(),
            https_port: self.leaf(table, "ingress.httpsPort", port, &previous.https_port),
        }
    }

    fn tracing(&mut self, file: &Value, previous: &Settings) -> (Backend, Option<weir_api::percent::Percent>) {
        let table = self.sub(file, "tracing", &["backend", "address", "sampling"]);
        let backend = Backend {
            format: self.leaf(table, "tracing.backend", parsed, &previous.tracing.format),
            address: self.leaf(table, "tracing.address", address, &previous.tracing.address),
        };
        let sampling = self.leaf(table, "tracing.sampling", parsed, &previous.defaults.sampling);
        (backend, sampling)
    }

    pub(crate) fn complain(&mut self, path: &str, why: impl std::fmt::Display) {
        let (object, field) = self.place(path);
        self.problems.error(object, field, why.to_string());
    }

    fn place(&self, path: &str) -> (weir_api::problem::ObjectRef, String) {
        let dot = if path.is_empty() { "" } else { "." };
        let object = object_ref("v1", "ConfigMap", &self.object.metadata);
        (object, format!("data[{MESH_CONFIG_KEY}]{dot}{path}"))
    }

    /// The value as a table; an empty one for what is left out. Fields that nobody knows are told, and do no harm.
    pub(crate) fn table<'v>(&mut self, value: &'v Value, path: &str, known: &[&str]) -> Option<&'v Value> {
        match value {
            Value::Null => Some(&NOTHING),
            Value::Object(fields) => {
                for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    self.complain(&path, format!("is unknown and not used; known: {}", known.join(", ")));
                }
                Some(value)
            }
            _ => {
                self.complain(path, format!("must be a table with {}", known.join(", ")));
                None
            }
        }
    }

    /// A table of the file; `None` where it is not one, and every field of it stays as it was.
    fn sub<'v>(&mut self, file: &'v Value, name: &str, known: &[&str]) -> Option<&'v Value> {
        self.table(&file[name], name, known)
    }

    /// One field, by its whole path: what it says, or what it said last if that is no value. Nothing where it is left
    /// out.
    fn leaf<'v, T: Clone>(
        &mut self,
        table: impl Into<Option<&'v Value>>,
        path: &str,
        read: fn(&str) -> Result<Written<T>, InvalidValue>,
        previous: &Option<T>,
    ) -> Option<T> {
        let Some(table) = table.into() else {
            return previous.clone();
        };
        let key = path.rsplit('.').next().unwrap_or(path);
        let value = match &table[key] {
            Value::Null => return None,
            value => text_of(value),
        };
        match read(value.trim()) {
            Ok((value, doubt)) => {
                if let Some(doubt) = doubt {
                    let (object, field) = self.place(path);
                    self.problems.warn(object, field, doubt);
                }
                Some(value)
            }
            Err(why) => self.kept(path, Err(why), previous),
        }
    }

    pub(crate) fn kept<T: Clone>(
        &mut self,
        path: &str,
        read: Result<Option<T>, InvalidValue>,
        previous: &Option<T>,
    ) -> Option<T> {
        read.unwrap_or_else(|why| {
            self.complain(path, format!("{why} (the last good value stays until then)"));
            previous.clone()
        })
    }
}

pub(crate) fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn port(text: &str) -> Result<Written<u16>, InvalidValue> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.map(|port| (port, None))
        .ok_or_else(|| InvalidValue(format!("{text:?} is not a port; write a number from 1 to 65535")))
}

/// `host:port`.
fn address(text: &str) -> Result<Written<(String, u16)>, InvalidValue> {
    let wrong = || {
        InvalidValue(format!(
            "{text:?} is no address; write host:port, such as zipkin.default:9411"
        ))
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bare {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    good.then(|| ((bare.unwrap_or(host).to_owned(), port), None))
        .ok_or_else(wrong)
}
