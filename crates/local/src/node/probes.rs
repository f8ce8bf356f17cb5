//! Readiness, liveness and startup probes of one running container.
//!
//! Enters: probe definitions and a way to ask the container. Leaves: whether it is ready and started, and a word when it
//! has to be killed. The state machine is pure; the asking is in `ask`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Node;
use super::exec;
use super::state::PodRuntime;

/// Proxies recognise probes by it.
const USER_AGENT: &str = "kube-probe/1.37";
/// What is read of a probe's answer.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// What a message quotes of it.
const QUOTED_MAX: usize = 256;

/// A process that has just started need not answer yet: liveness is first asked after this long, or a period if shorter.
const LIVENESS_REST: Duration = Duration::from_secs(3);
/// Nor is it news, for this long, that it does not.
const SILENT: Duration = Duration::from_secs(1);

/// Counts results against the thresholds.
#[derive(Clone, Debug)]
pub struct Counter {
    failure_threshold: i32,
    success_threshold: i32,
    run: i32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Counter {
    /// No verdict yet.
    pub fn new(probe: &Probe) -> Self {
        Self {
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            run: 0,
            last: None,
            verdict: None,
        }
    }

    /// Takes a result; the verdict when enough in a row agree and it is a new one, or failures reach their threshold again.
    pub fn record(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        if self.run < threshold || (self.verdict == Some(success)) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The container must be killed, and why.
    Unhealthy(String),
}

/// One container under probes.
pub struct Probed {
    pub node: Arc<Node>,
    pub runtime: Arc<PodRuntime>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub pod_ip: Ipv4Addr,
}

impl Probed {
    /// Runs all probes until dropped; sets `started` and `ready`, and sends a verdict when the container must die.
    pub async fn run(self, verdicts: mpsc::Sender<Verdict>) {
        let name = &self.container.name;
        let began = Instant::now();
        if let Some(probe) = &self.container.startup_probe
            && !self.until_started(probe, began, &verdicts).await
        {
            return;
        }
        self.runtime.update(name, |view| view.started = true);
        let readiness = async {
            match &self.container.readiness_probe {
                None => self.runtime.update(name, |view| view.ready = true),
                Some(probe) => self.readiness(probe, began).await,
            }
        };
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                self.liveness(probe, &verdicts).await;
            }
        };
        tokio::join!(readiness, liveness);
    }

    async fn until_started(&self, probe: &Probe, began: Instant, verdicts: &mpsc::Sender<Verdict>) -> bool {
        let mut counter = Counter::new(probe);
        tokio::time::sleep(initial_delay(probe)).await;
        loop {
            let result = self.ask(probe).await;
            if let Err(message) = &result
                && began.elapsed() > SILENT
            {
                self.unhealthy("Startup", message);
            }
            match counter.record(result.is_ok()) {
                Some(true) => return true,
                Some(false) => {
                    let message = format!(
                        "Container {} failed startup probe, will be restarted",
                        self.container.name
                    );
                    let _ = verdicts.send(Verdict::Unhealthy(message)).await;
                    return false;
                }
                None => tokio::time::sleep(period(probe)).await,
            }
        }
    }

    async fn readiness(&self, probe: &Probe, began: Instant) {
        let mut counter = Counter::new(probe);
        tokio::time::sleep(initial_delay(probe)).await;
        let mut ready = false;
        // Until first ready, ask more often than the period: kubelets too look at once, and a start should be fast.
        let eager = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        loop {
            let result = self.ask(probe).await;
            if let Err(message) = &result
                && (ready || waited >= period(probe))
                && began.elapsed() > SILENT
            {
                self.unhealthy("Readiness", message);
            }
            if let Some(verdict) = counter.record(result.is_ok()) {
                ready = verdict;
                self.runtime.update(&self.container.name, |view| view.ready = verdict);
            }
            let wait = if ready || waited >= period(probe) {
                period(probe)
            } else {
                eager.min(period(probe))
            };
            waited += wait;
            tokio::time::sleep(wait).await;
        }
    }

    async fn liveness(&self, probe: &Probe, verdicts: &mpsc::Sender<Verdict>) {
        let mut counter = Counter::new(probe);
        tokio::time::sleep(initial_delay(probe).max(period(probe).min(LIVENESS_REST))).await;
        loop {
            let result = self.ask(probe).await;
            if let Err(message) = &result {
                self.unhealthy("Liveness", message);
            }
            if counter.record(result.is_ok()) == Some(false) {
                let message = format!(
                    "Container {} failed liveness probe, will be restarted",
                    self.container.name
                );
                let _ = verdicts.send(Verdict::Unhealthy(message)).await;
                return;
            }
            tokio::time::sleep(period(probe)).await;
        }
    }

    fn unhealthy(&self, kind: &str, message: &str) {
        let message = format!("{kind} probe failed: {message}");
        self.node
            .events
            .warning(&self.pod, Some(&self.container.name), "Unhealthy", message);
    }

    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
        let asked = async {
            if let Some(http) = &probe.http_get {
                http_get(http, &self.container, self.pod_ip).await
            } else if let Some(tcp) = &probe.tcp_socket {
                let address = address(tcp.host.as_deref(), &tcp.port, &self.container, self.pod_ip)?;
                TcpStream::connect(address)
                    .await
                    .map(drop)
                    .map_err(|error| format!("dial tcp {address}: {error}"))
            } else if let Some(command) = &probe.exec {
                let argv = command.command.clone().unwrap_or_default();
                exec::run(&self.node, &self.runtime, &self.container.name, argv)
                    .await
                    .map(drop)
            } else {
                Err("this node knows httpGet, tcpSocket and exec probes only".into())
            }
        };
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }
}

/// Asks an HTTP server of the container, from the node's network; a status below 400 is a success.
pub async fn http_get(action: &HTTPGetAction, container: &Container, pod_ip: Ipv4Addr) -> Result<(), String> {
    if action
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    {
        return https_reachable(action, container, pod_ip).await;
    }
    let address = address(action.host.as_deref(), &action.port, container, pod_ip)?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let url = format!("http://{address}{path}");
    let failed = |error: &dyn std::fmt::Display| format!("Get \"{url}\": {error}");
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::get(path)
        .header("user-agent", USER_AGENT)
        .header("accept", "*/*");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address.to_string());
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let answered = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = answered.status();
    let body = Limited::new(answered.into_body(), BODY_BYTES_MAX).collect().await;
    driver.abort();
    if (200..400).contains(&status.as_u16()) {
        return Ok(());
    }
    let text = body
        .map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
        .unwrap_or_default();
    let quoted: String = text.chars().take(QUOTED_MAX).collect();
    Err(
        format!("HTTP probe failed with statuscode: {} {quoted}", status.as_u16())
            .trim_end()
            .to_string(),
    )
}

/// An HTTPS probe does not verify certificates; that the server speaks TLS and answers is what counts.
async fn https_reachable(action: &HTTPGetAction, container: &Container, pod_ip: Ipv4Addr) -> Result<(), String> {
    let address = address(action.host.as_deref(), &action.port, container, pod_ip)?;
    let failed = |error: &dyn std::fmt::Display| format!("Get \"https://{address}\": {error}");
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let connector = super::tls::unverified_connector().map_err(|e| failed(&e))?;
    let name = rustls_pki_types::ServerName::IpAddress(IpAddr::V4(pod_ip).into());
    let stream = connector.connect(name, stream).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let driver = tokio::spawn(connection);
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let request = http::Request::get(path)
        .header("user-agent", USER_AGENT)
        .header("host", address.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let status = sender
        .send_request(request)
        .await
        .map_err(|e| failed(&e))?
        .status()
        .as_u16();
    driver.abort();
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

/// Where a probe goes: a number, or the name of one of the container's ports.
pub fn address(
    host: Option<&str>,
    port: &IntOrString,
    container: &Container,
    pod_ip: Ipv4Addr,
) -> Result<SocketAddr, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            ports
                .iter()
                .find(|p| p.name.as_ref() == Some(name))
                .map(|p| p.container_port)
                .or(name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok());
    let number = number.ok_or_else(|| format!("couldn't find port: {port:?}"))?;
    let ip = match host.filter(|host| !host.is_empty()) {
        None => IpAddr::V4(pod_ip),
        Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(host) => host.parse().map_err(|_| format!("host {host} is not an address"))?,
    };
    Ok(SocketAddr::new(ip, number))
}

fn initial_delay(probe: &Probe) -> Duration {
    seconds(probe.initial_delay_seconds, 0)
}

fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds, 10).max(Duration::from_secs(1))
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_enough_results_in_a_row() {
        let probe = Probe {
            failure_threshold: Some(3),
            success_threshold: Some(2),
            ..Probe::default()
        };
        let mut counter = Counter::new(&probe);
        let results = [
            true, true, true, false, false, true, false, false, false, false, true, true,
        ];
        let verdicts: Vec<_> = results.into_iter().map(|result| counter.record(result)).collect();
        let mut expected = vec![None; 12];
        (expected[1], expected[8], expected[11]) = (Some(true), Some(false), Some(true));
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn ports_are_found_by_name() {
        let ports = serde_json::json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(ports).unwrap();
        let ip = Ipv4Addr::new(10, 244, 1, 2);
        let named = |name: &str| address(None, &IntOrString::String(name.into()), &container, ip);
        assert_eq!(named("http").unwrap().to_string(), "10.244.1.2:8080");
        assert!(named("nope").unwrap_err().contains("couldn't find port"));
        assert_eq!(address(None, &IntOrString::Int(1), &container, ip).unwrap().port(), 1);
    }
}
