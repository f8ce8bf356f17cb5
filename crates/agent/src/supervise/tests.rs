//! The life of one pod's proxy, with a program that stands in for it and an API server of a few lines.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::cluster::ControlNames;
use crate::cni::Request;
use crate::plan::{Skip, Spec};
use crate::pods::Pods;
use crate::redirect;
use crate::testing::Net;

/// Ready as soon as it listens; ends a moment after SIGTERM; notes in the file `asked` what it is asked to do.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, json, signal, socketserver, sys, threading
bootstrap = json.load(open(sys.argv[sys.argv.index("-c") + 1]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def do_POST(self):
        open("asked", "a").write(self.path + "\n")
        self.do_GET()
    def address_string(self): return "-"
    def log_message(self, *_): pass
class Server(socketserver.ThreadingUnixStreamServer): daemon_threads = True
server = Server(bootstrap["admin"]["address"]["pipe"]["path"], Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(0.3, lambda: __import__("os")._exit(0)).start())
server.serve_forever()
"#;

/// Gives tokens and remembers annotations; or never answers what is said of annotations.
async fn api(annotations: Arc<Mutex<Vec<String>>>, hangs: bool) -> kube::Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let annotations = annotations.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let annotations = annotations.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    if path.ends_with("/token") {
                        body["status"] = json!({"token": "t", "expirationTimestamp": "2100-01-01T00:00:00Z"});
                    } else if path.contains("/pods/") {
                        if hangs {
                            std::future::pending::<()>().await;
                        }
                        let written = body["metadata"]["annotations"]["traffic.envoy.proxy"].as_str().unwrap();
                        annotations.lock().unwrap().push(written.to_owned());
                        body["metadata"]["name"] = json!("a-1");
                    }
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body.to_string()))))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    kube::Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

struct Fixture {
    net: Net,
    root: tempfile::TempDir,
    annotations: Arc<Mutex<Vec<String>>>,
    shared: Arc<Shared>,
    pod: PodId,
}

impl Fixture {
    async fn new() -> Self {
        Self::with_api(false).await
    }

    async fn with_api(hangs: bool) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        let exe = root.path().join("weir");
        std::fs::write(&exe, STAND_IN).unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        let annotations = Arc::<Mutex<Vec<String>>>::default();
        let control = ControlPlane {
            target: "10.96.0.7:18000".into(),
            server_name: "c".into(),
            ca: "PEM".into(),
        };
        let shared = Shared {
            run_dir: root.path().join("run"),
            launch: Launch {
                exe,
                envoy: "envoy".into(),
                metrics_address: "0.0.0.0:8900".into(),
                drain: Duration::from_secs(5),
            },
            cgroup: None,
            cluster: Cluster::new(
                api(annotations.clone(), hangs).await,
                "node".into(),
                ControlNames::default(),
            ),
            runtime: Runtime::new(Path::new("/nonexistent/cri.sock")),
            control: watch::channel(Some(control)).1,
            host_ip: watch::channel(None).1,
            calls: Semaphore::new(2),
        };
        let pod = PodId {
            namespace: "default".into(),
            name: "a-1".into(),
            uid: "u-1".into(),
            service_account: "sa".into(),
            workload: "a".into(),
        };
        Self {
            net: Net::new(),
            root,
            annotations,
            shared: Arc::new(shared),
            pod,
        }
    }

    fn directory(&self) -> Directory {
        Directory::new(&self.root.path().join("run"), &self.pod.uid).unwrap()
    }

    fn want(&self) -> Want {
        let spec = Spec {
            engine: Engine::Weir,
            skip: Skip::default(),
        };
        let sandbox = Sandbox {
            id: "s1".into(),
            netns: self.net.pod(),
        };
        Want {
            plan: Plan::Run(spec),
            sandbox: Some(sandbox),
            ..Want::keep()
        }
    }

    fn start(&self, record: Option<Record>, want: Want, agent: &CancellationToken) -> Handle {
        let annotated = record.is_none().then(String::new);
        Handle::start(
            self.shared.clone(),
            self.pod.clone(),
            record,
            annotated,
            want,
            None,
            agent.clone(),
        )
        .unwrap()
    }

    async fn redirected(&self) -> bool {
        redirect::verify(&self.net.pod(), &Skip::default()).await.is_ok()
    }

    fn annotation(&self) -> Option<String> {
        self.annotations.lock().unwrap().last().cloned()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(id) = self.directory().record().and_then(|r| r.process) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Waits for a status; returns the proxy's id.
async fn serving(handle: &mut Handle, other_than: &str) -> String {
    let is = |s: &Status| matches!(s, Status::Serving { proxy, .. } if proxy != other_than);
    let status = tokio::time::timeout(Duration::from_secs(10), handle.status.wait_for(is)).await;
    match &*status.expect("not serving in time").unwrap() {
        Status::Serving { proxy, .. } => proxy.clone(),
        other => panic!("{other:?}"),
    }
}

async fn wait_for(status: &mut watch::Receiver<Status>, what: &str, is: impl FnMut(&Status) -> bool) {
    let reached = tokio::time::timeout(Duration::from_secs(30), status.wait_for(is)).await;
    reached.unwrap_or_else(|_| panic!("not in time: {what}")).unwrap();
}

async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn started_restarted_adopted_and_drained() {
    let fixture = Fixture::new().await;
    let agent = CancellationToken::new();
    let mut handle = fixture.start(None, fixture.want(), &agent);
    let first = serving(&mut handle, "").await;
    assert_eq!(first.len(), 64);
    assert!(fixture.redirected().await);
    until("annotated", || async { fixture.annotation().as_ref() == Some(&first) }).await;

    // The proxy dies.
    let record = fixture.directory().record().unwrap();
    let pid = record.process.unwrap().pid;
    let killed = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let second = serving(&mut handle, &first).await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(fixture.redirected().await);
    until("annotated anew", || async {
        fixture.annotation().as_ref() == Some(&second)
    })
    .await;

    // The agent goes; proxy and redirection stay; the next agent takes over the same process.
    agent.cancel();
    until("task ended", || async { handle.want.receiver_count() == 0 }).await;
    let records = Directory::records(&fixture.shared.run_dir);
    let kept = records[0].process.unwrap();
    let agent = CancellationToken::new();
    let mut handle = fixture.start(records.into_iter().next(), Want::keep(), &agent);
    assert_eq!(serving(&mut handle, "").await, second);
    assert_eq!(fixture.directory().record().unwrap().process, Some(kept));
    assert!(Process::adopt(kept, "run/proxies/u-1").is_some());

    // Disabled.
    handle.update(|want| want.plan = Plan::Off);
    let ended = handle.status.wait_for(|s| *s == Status::Ended);
    drop(
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("not drained in time")
            .unwrap(),
    );
    assert!(Process::adopt(kept, "").is_none());
    assert!(!fixture.directory().path().exists());
    assert_eq!(fixture.annotation().as_deref(), Some(""));
    assert!(redirect::verify(&fixture.net.pod(), &Skip::default()).await.is_err());
}

#[tokio::test]
async fn a_dead_proxy_of_an_earlier_agent_is_replaced_and_a_pod_that_goes_takes_all_with_it() {
    let fixture = Fixture::new().await;
    let agent = CancellationToken::new();
    let mut handle = fixture.start(None, fixture.want(), &agent);
    let first = serving(&mut handle, "").await;
    agent.cancel();
    until("task ended", || async { handle.want.receiver_count() == 0 }).await;
    let record = fixture.directory().record().unwrap();
    let pid = record.process.unwrap().pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();

    let agent = CancellationToken::new();
    let mut handle = fixture.start(Some(record), Want::keep(), &agent);
    assert_ne!(serving(&mut handle, &first).await, first);
    let id = fixture.directory().record().unwrap().process.unwrap();
    assert_ne!(id.pid, pid);

    handle.update(|want| want.gone = true);
    let ended = handle.status.wait_for(|s| *s == Status::Ended);
    drop(
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("not gone in time")
            .unwrap(),
    );
    assert!(Process::adopt(id, "").is_none());
    assert!(!fixture.directory().path().exists());
}

/// An agent that comes meanwhile says it once more, for it cannot know; nothing else is touched.
#[tokio::test]
async fn the_proxy_of_a_leaving_pod_sends_its_clients_away_and_serves_on() {
    let fixture = Fixture::new().await;
    let agent = CancellationToken::new();
    let mut handle = fixture.start(None, fixture.want(), &agent);
    let proxy = serving(&mut handle, "").await;
    let record = fixture.directory().record().unwrap();
    let asked = || std::fs::read_to_string(fixture.directory().path().join("asked")).unwrap_or_default();
    let leave = |want: &mut Want| (want.plan, want.leaving) = (Plan::Keep, true);
    handle.update(leave);
    let once = "/drain_listeners?graceful&skip_exit&inboundonly\n";
    until("asked", || async { asked() == once }).await;
    // Another look at the pod says nothing twice.
    handle.update(|want| want.absent = true);
    handle.update(|want| want.absent = false);
    assert!(matches!(&*handle.status.borrow(), Status::Serving { proxy: now, .. } if *now == proxy));

    agent.cancel();
    until("task ended", || async { handle.want.receiver_count() == 0 }).await;
    assert_eq!(asked(), once);
    let agent = CancellationToken::new();
    let mut want = Want::keep();
    leave(&mut want);
    let handle = fixture.start(Some(record.clone()), want, &agent);
    until("asked by the next agent", || async { asked() == once.repeat(2) }).await;
    assert!(fixture.redirected().await);
    assert_eq!(fixture.directory().record().unwrap().process, record.process);
    handle.update(|want| want.gone = true);
    until("gone", || async { handle.ended() }).await;
}

#[tokio::test]
async fn an_agent_stops_while_the_api_server_hangs() {
    let fixture = Fixture::with_api(true).await;
    let agent = CancellationToken::new();
    let mut handle = fixture.start(None, fixture.want(), &agent);
    serving(&mut handle, "").await;
    agent.cancel();
    until("task ended", || async { handle.want.receiver_count() == 0 }).await;
    assert!(!handle.status.borrow().eq(&Status::Ended), "the proxy stays");
    assert!(fixture.directory().record().is_some());
}

/// A sandbox that is made anew comes before the proxy of the old one has gone: nothing of the new one goes with it.
#[tokio::test]
async fn the_proxy_of_a_sandbox_made_anew_waits_for_the_end_of_the_old_one() {
    let fixture = Fixture::new().await;
    let agent = CancellationToken::new();
    let pods = Pods::adopt(fixture.shared.clone(), agent.clone());
    let ensure = |id: &str, netns: PathBuf| {
        let sandbox = Sandbox { id: id.into(), netns };
        let wanted = Want {
            sandbox: Some(sandbox),
            ..fixture.want()
        };
        pods.ensure(&fixture.pod, None, |want| *want = wanted.clone()).unwrap()
    };
    let is = |id: &'static str| move |s: &Status| matches!(s, Status::Serving { sandbox, .. } if sandbox == id);
    let mut first = ensure("s1", fixture.net.pod());
    wait_for(&mut first, "the first proxy", is("s1")).await;
    let request = Request {
        command: crate::cni::Command::Del,
        namespace: fixture.pod.namespace.clone(),
        pod: fixture.pod.name.clone(),
        uid: fixture.pod.uid.clone(),
        sandbox: "s1".into(),
        netns: fixture.net.pod(),
    };
    assert!(pods.gone(&request).is_some());
    let mut second = ensure("s2", fixture.net.peer());
    assert!(
        matches!(&*second.borrow(), Status::Working(on) if on.contains("earlier sandbox")),
        "the old one has just been told"
    );
    wait_for(&mut second, "the second proxy", is("s2")).await;
    assert_eq!(*first.borrow(), Status::Ended);
    let record = fixture
        .directory()
        .record()
        .expect("the record of the new one is there");
    assert_eq!(record.sandbox.id, "s2");
    assert!(Process::adopt(record.process.unwrap(), "run/proxies/u-1").is_some());
    pods.gone(&Request {
        sandbox: "s2".into(),
        ..request
    });
    wait_for(&mut second, "the end of the second proxy", |s| *s == Status::Ended).await;
}

#[tokio::test]
async fn a_new_sandbox_gets_a_new_proxy() {
    let fixture = Fixture::new().await;
    let agent = CancellationToken::new();
    let mut handle = fixture.start(None, fixture.want(), &agent);
    let first = serving(&mut handle, "").await;
    handle.update(|want| {
        want.sandbox = Some(Sandbox {
            id: "s2".into(),
            netns: fixture.net.peer(),
        })
    });
    assert_ne!(serving(&mut handle, &first).await, first);
    assert_eq!(fixture.directory().record().unwrap().sandbox.id, "s2");
    assert!(redirect::verify(&fixture.net.peer(), &Skip::default()).await.is_ok());
    handle.update(|want| want.gone = true);
    let ended = handle.status.wait_for(|s| *s == Status::Ended);
    drop(
        tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("not gone in time")
            .unwrap(),
    );
}
