//! A real cluster from the outside: the example `up` in namespaces of its own, driven through its kubeconfig.
//!
//! Needs to be root, or a machine that allows user namespaces; fails loudly otherwise.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use weir_api::cri;

const DEADLINE: Duration = Duration::from_secs(30);
/// An ordinary user for the runs without root.
const USER: u32 = 12345;

/// A running `up`; killed when dropped.
struct Cluster {
    child: Child,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start(user: Option<u32>) -> Self {
        let dir = tempfile::Builder::new().prefix("weir-cluster-").tempdir().unwrap();
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples/up");
        assert!(
            program.exists(),
            "{} is missing: run `cargo test`, which builds examples",
            program.display()
        );
        if let Some(user) = user {
            // An ordinary user may not be able to reach the target directory.
            let copy = dir.path().join("up");
            fs::copy(&program, &copy).unwrap();
            program = copy;
            std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
        }
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--api", &free_address(), "--metrics", &free_address()])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.path().join("log")).unwrap())
            .stderr(fs::File::create(dir.path().join("errors")).unwrap());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let cluster = Self {
            child: command.spawn().unwrap(),
            dir,
        };
        wait_for("the kubeconfig", || cluster.log().contains("export KUBECONFIG"));
        cluster
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("log") + &read("errors")
    }

    async fn client(&self) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = Kubeconfig::read_from(self.data().join("kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }

    /// Every process of the cluster, by the host's pids.
    fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.child.id() as i32];
        let mut at = 0;
        while at < all.len() {
            all.extend(children(all[at]));
            at += 1;
        }
        all
    }

    fn node_pid(&self) -> i32 {
        children(self.child.id() as i32)[0]
    }

    /// Waits until `up` has ended and nothing of it is left.
    fn assert_gone(mut self, processes: &[i32], clean: bool) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < DEADLINE, "up does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        wait_for("the end of all processes", || processes.iter().all(|pid| !alive(*pid)));
        if clean {
            assert!(!self.data().exists(), "the data directory is left: {}", self.log());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts are left");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    for task in tasks {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < DEADLINE, "no {what} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn need_root(why: &str) {
    assert!(nix::unistd::geteuid().is_root(), "needs root {why}");
}

async fn wait_pod(pods: &Api<Pod>, name: &str, what: &str, done: impl Fn(&Pod) -> bool) -> Pod {
    let began = Instant::now();
    loop {
        let pod = pods.get(name).await.unwrap();
        if done(&pod) {
            return pod;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "pod {name} is not {what}: {:#?}",
            pod.status
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn pod(name: &str, spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).unwrap()
}

async fn create(pods: &Api<Pod>, name: &str, spec: serde_json::Value) {
    // The controller that makes the service account may need a moment.
    let began = Instant::now();
    while let Err(error) = pods.create(&PostParams::default(), &pod(name, spec.clone())).await {
        assert!(began.elapsed() < DEADLINE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server whose page tells what its container sees.
const SERVER: &str = r#"
import http.server, os, socket, sys, signal
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), sys.exit(0)))
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        read = lambda path: open(path).read().strip()
        text = "\n".join([str(os.getpid()), socket.gethostname(), os.environ["COLOR"], read("/etc/settings/color"),
            read("/var/run/secrets/kubernetes.io/serviceaccount/namespace"), read("/etc/resolv.conf"), self.client_address[0],
            read("/shared/made-by-init")])
        self.send_response(200); self.end_headers(); self.wfile.write(text.encode())
    def log_message(self, *args): pass
print("serving", flush=True)
http.server.HTTPServer(("", 8000), H).serve_forever()
"#;

fn server_spec() -> serde_json::Value {
    json!({
        "terminationGracePeriodSeconds": 20,
        "initContainers": [{"name": "init", "image": "any", "command": ["sh", "-c", "echo made > /shared/made-by-init"],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [{
            "name": "server", "image": "any", "command": ["python3", "-c", SERVER],
            "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}],
            "ports": [{"name": "http", "containerPort": 8000}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
            "livenessProbe": {"exec": {"command": ["test", "-f", "/shared/made-by-init"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}, {"name": "shared", "mountPath": "/shared"}]
        }],
        "volumes": [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "shared", "emptyDir": {}}]
    })
}

/// The page of the server, fetched by a pod of its own.
async fn fetch(pods: &Api<Pod>, name: &str, url: &str) -> String {
    let script = format!("import urllib.request as u; print(u.urlopen('{url}', timeout=5).read().decode())");
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "x", "command": ["python3", "-c", script]}]});
    create(pods, name, spec).await;
    let done = wait_pod(pods, name, "done", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
    let log = pods.logs(name, &LogParams::default()).await.unwrap();
    assert_eq!(phase(&done), "Succeeded", "{log}");
    log
}

async fn pods_live_and_die(cluster: &Cluster) {
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = json!({"metadata": {"name": "settings"}, "data": {"color": "blue"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap())
        .await
        .unwrap();

    create(&pods, "server", server_spec()).await;
    let server = wait_pod(&pods, "server", "ready", ready).await;
    let ip = server.status.unwrap().pod_ip.unwrap();
    let page = fetch(&pods, "client", &format!("http://{ip}:8000/")).await;
    let lines: Vec<&str> = page.lines().collect();
    assert_eq!(lines[..5], ["1", "server", "blue", "blue", "default"], "{page}");
    assert_eq!(lines[5], "nameserver 10.96.0.10");
    assert!(
        lines[8].starts_with("10.244.") && lines[8] != "10.244.0.1",
        "the client's own address: {page}"
    );
    assert_eq!(lines[9], "made");

    // A ConfigMap's change reaches the running container.
    let patch = json!({"data": {"color": "green"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let began = Instant::now();
    for attempt in 0.. {
        let page = fetch(&pods, &format!("look-{attempt}"), &format!("http://{ip}:8000/")).await;
        if page.lines().nth(3) == Some("green") {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{page}");
    }

    // SIGTERM arrives, the log tells, the object goes as soon as the process has ended.
    let began = Instant::now();
    let followed = tokio::spawn({
        let pods = pods.clone();
        async move {
            pods.logs(
                "server",
                &LogParams {
                    follow: true,
                    container: Some("server".into()),
                    ..LogParams::default()
                },
            )
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    pods.delete("server", &DeleteParams::default()).await.unwrap();
    while pods.get_opt("server").await.unwrap().is_some() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the pod's grace was waited for"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(followed.await.unwrap().unwrap(), "serving\nterminated\n");
}

async fn failures_are_told(cluster: &Cluster) {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    create(
        &pods,
        "crash",
        json!({"containers": [{"name": "c", "image": "x", "command": ["sh", "-c", "echo boom; exit 7"]}]}),
    )
    .await;
    create(
        &pods,
        "image",
        json!({"containers": [{"name": "c", "image": "nginx:1"}]}),
    )
    .await;
    let waiting = |pod: &Pod| -> String {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        let state = statuses
            .first()
            .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
        state.unwrap_or_default()
    };
    wait_pod(&pods, "image", "ErrImagePull", |pod| waiting(pod) == "ErrImagePull").await;
    wait_pod(&pods, "image", "ImagePullBackOff", |pod| {
        waiting(pod) == "ImagePullBackOff"
    })
    .await;
    let crashed = wait_pod(&pods, "crash", "CrashLoopBackOff", |pod| {
        waiting(pod) == "CrashLoopBackOff"
    })
    .await;
    let status = &crashed.status.unwrap().container_statuses.unwrap()[0];
    assert_eq!(status.restart_count, 1);
    assert_eq!(
        status
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        7
    );
    let previous = LogParams {
        previous: true,
        ..LogParams::default()
    };
    assert_eq!(pods.logs("crash", &previous).await.unwrap(), "boom\n");
    // Where the files of a container that ended go is nobody's business but must not grow: its view is gone.
    let dir = cluster
        .data()
        .join("node/pods")
        .join(crashed.metadata.uid.unwrap())
        .join("containers");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

/// The calls that an agent makes, on the socket as the node's processes see it.
async fn cri_answers(cluster: &Cluster) {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    create(
        &pods,
        "asked",
        json!({"containers": [{"name": "c", "image": "x", "command": ["sleep", "1000"]}]}),
    )
    .await;
    let pod = wait_pod(&pods, "asked", "ready", ready).await;
    let root = format!("/proc/{}/root", cluster.node_pid());
    let socket = format!("unix:{root}/run/containerd/containerd.sock");
    let channel = tonic::transport::Endpoint::try_from(socket)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    let uid = pod.metadata.uid.clone().unwrap();
    let filter = cri::PodSandboxFilter {
        label_selector: [(cri::LABEL_POD_UID.to_string(), uid.clone())].into(),
        ..cri::PodSandboxFilter::default()
    };
    let asked = cri::ListPodSandboxRequest { filter: Some(filter) };
    let list: cri::ListPodSandboxResponse = call(&mut client, "ListPodSandbox", asked).await;
    assert_eq!(list.items.len(), 1);
    assert_eq!(list.items[0].metadata.as_ref().unwrap().name, "asked");
    let asked = cri::PodSandboxStatusRequest {
        pod_sandbox_id: list.items[0].id.clone(),
        verbose: true,
    };
    let status: cri::PodSandboxStatusResponse = call(&mut client, "PodSandboxStatus", asked).await;
    assert_eq!(
        status.status.unwrap().network.unwrap().ip,
        pod.status.unwrap().pod_ip.unwrap()
    );
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let path = namespaces.iter().find(|n| n["type"] == "network").unwrap()["path"]
        .as_str()
        .unwrap();
    // The path is a network namespace in the node's view: the one of the pod's process. /var/run is a link there.
    use std::os::unix::fs::MetadataExt;
    let path = path.replace("/var/run/", "/run/");
    let inode = |path: &str| fs::metadata(path).map(|meta| meta.ino());
    let pod_inode = inode(&format!("{root}{path}")).unwrap();
    assert_ne!(
        pod_inode,
        inode(&format!("/proc/{}/ns/net", cluster.node_pid())).unwrap()
    );
    let owners = cluster
        .processes()
        .into_iter()
        .filter(|pid| inode(&format!("/proc/{pid}/ns/net")).ok() == Some(pod_inode));
    assert_eq!(owners.count(), 1, "one process lives in the pod's namespace");
}

async fn call<Q, A>(client: &mut tonic::client::Grpc<tonic::transport::Channel>, method: &str, asked: Q) -> A
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::try_from(format!("/{}/{method}", cri::SERVICE)).unwrap();
    let codec = tonic_prost::ProstCodec::default();
    client
        .unary(tonic::Request::new(asked), path, codec)
        .await
        .unwrap()
        .into_inner()
}

/// A chained plugin is called with the pod's namespace before its containers start, and after they have ended; while it
/// fails the pod waits, and an event says why.
async fn chained_plugins_are_called(cluster: &Cluster) {
    let root = cluster.data().join("node/root");
    let told = cluster.dir.path().join("told");
    fs::create_dir_all(&told).unwrap();
    fs::write(told.join("fail"), "").unwrap();
    let script = format!(
        "#!/bin/sh\ncd {}\ncat > $CNI_COMMAND.json\n\
         if [ -e fail ]; then echo '{{\"code\": 7, \"msg\": \"not yet\"}}'; exit 1; fi\n\
         {{ echo $CNI_ARGS; echo $CNI_IFNAME; nsenter --net=$CNI_NETNS ip -o -4 address show eth0; }} > $CNI_COMMAND.new\n\
         mv $CNI_COMMAND.new $CNI_COMMAND.txt\n",
        told.display()
    );
    use std::os::unix::fs::PermissionsExt;
    let plugin = root.join("opt/cni/bin/told");
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    // It is chained into the node's own list, whose first plugin is not a program.
    let list = root.join("etc/cni/net.d/10-weir-local.conflist");
    let own = fs::read_to_string(&list).unwrap();
    let mut chained: serde_json::Value = serde_json::from_str(&own).unwrap();
    chained["plugins"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "told", "key": "value"}));
    fs::write(&list, chained.to_string()).unwrap();

    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    create(
        &pods,
        "chained",
        json!({"containers": [{"name": "c", "image": "x", "command": ["cat", "/nowhere"]}]}),
    )
    .await;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(client);
    let began = Instant::now();
    loop {
        let list = events.list(&kube::api::ListParams::default()).await.unwrap();
        let message = |event: &k8s_openapi::api::core::v1::Event| event.message.clone().unwrap_or_default();
        if list.iter().any(|event| {
            event.reason.as_deref() == Some("FailedCreatePodSandBox") && message(event).contains("not yet")
        }) {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "no event tells of the plugin");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(pods.get("chained").await.unwrap().status.unwrap().pod_ip.is_none());
    fs::remove_file(told.join("fail")).unwrap();
    let started = |pod: &Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| status.container_statuses.iter().flatten().any(|c| c.restart_count > 0))
    };
    let pod = wait_pod(&pods, "chained", "started", started).await;
    let ip = pod.status.unwrap().pod_ip.unwrap();
    let text = |name: &str| fs::read_to_string(told.join(name)).unwrap_or_default();
    assert!(
        text("ADD.txt").contains("K8S_POD_NAMESPACE=default;K8S_POD_NAME=chained;"),
        "{}",
        text("ADD.txt")
    );
    assert!(
        text("ADD.txt").contains(&format!("inet {ip}/32")),
        "{}",
        text("ADD.txt")
    );
    let config: serde_json::Value = serde_json::from_str(&text("ADD.json")).unwrap();
    assert_eq!(config["key"], "value");
    assert_eq!(config["name"], "weir-local");
    assert_eq!(config["prevResult"]["ips"][0]["address"], format!("{ip}/32"));
    // What failing attempts left behind was undone by a DEL; the one that counts comes with the pod's end.
    let _ = fs::remove_file(told.join("DEL.txt"));
    pods.delete("chained", &DeleteParams::default().grace_period(1))
        .await
        .unwrap();
    wait_for("DEL", || text("DEL.txt").contains(&ip));
    fs::write(&list, own).unwrap();
}

async fn api_server_comes_back(cluster: &Cluster) {
    let client = cluster.client().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client);
    create(
        &pods,
        "steady",
        json!({"containers": [{"name": "c", "image": "x", "command": ["sleep", "1000"]}]}),
    )
    .await;
    let before = wait_pod(&pods, "steady", "ready", ready).await;
    let is_api_server = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("\0apiserver\0"))
    };
    let victim = children(cluster.node_pid()).into_iter().find(is_api_server).unwrap();
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let began = Instant::now();
    while nodes.get("weir-local").await.is_err() {
        assert!(began.elapsed() < DEADLINE, "{}", cluster.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = pods.get("steady").await.unwrap();
    assert_eq!(
        after.status.unwrap().container_statuses,
        before.status.unwrap().container_statuses
    );
    // And pods are still managed.
    create(
        &pods,
        "later",
        json!({"containers": [{"name": "c", "image": "x", "command": ["sleep", "1000"]}]}),
    )
    .await;
    wait_pod(&pods, "later", "ready", ready).await;
}

async fn a_deleted_node_comes_back(cluster: &Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client().await);
    let before = nodes.get("weir-local").await.unwrap().metadata.uid;
    nodes.delete("weir-local", &DeleteParams::default()).await.unwrap();
    let is_ready = |node: Node| {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        node.metadata.uid != before && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    // It is noticed at the next renewal of the lease.
    let began = Instant::now();
    while !nodes.get("weir-local").await.is_ok_and(is_ready) {
        assert!(began.elapsed() < DEADLINE * 2, "no node: {}", cluster.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_works_and_leaves_nothing() {
    need_root("to look into the mount namespace that the CRI socket is in");
    let cluster = Cluster::start(None);
    pods_live_and_die(&cluster).await;
    failures_are_told(&cluster).await;
    cri_answers(&cluster).await;
    chained_plugins_are_called(&cluster).await;
    api_server_comes_back(&cluster).await;
    a_deleted_node_comes_back(&cluster).await;
    let processes = cluster.processes();
    assert!(processes.len() > 4, "{processes:?}");
    kill(Pid::from_raw(cluster.child.id() as i32), Signal::SIGINT).unwrap();
    cluster.assert_gone(&processes, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_user_can_do_the_same() {
    need_root("to become an ordinary user");
    let cluster = Cluster::start(Some(USER));
    pods_live_and_die(&cluster).await;
    let processes = cluster.processes();
    kill(Pid::from_raw(cluster.child.id() as i32), Signal::SIGTERM).unwrap();
    cluster.assert_gone(&processes, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_process_dies_takes_the_others_along() {
    for victim in ["up", "node"] {
        let cluster = Cluster::start(None);
        let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
        create(
            &pods,
            "steady",
            json!({"containers": [{"name": "c", "image": "x", "command": ["sleep", "1000"]}]}),
        )
        .await;
        wait_pod(&pods, "steady", "ready", ready).await;
        let processes = cluster.processes();
        assert!(processes.len() > 3, "{processes:?}");
        let pid = if victim == "up" {
            cluster.child.id() as i32
        } else {
            cluster.node_pid()
        };
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        // Killed itself, `up` cannot clean its directory; the next start does.
        cluster.assert_gone(&processes, victim == "node");
    }
}

#[test]
fn what_is_taken_is_named() {
    let cluster = Cluster::start(None);
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    let up = program.join("examples/up");
    let run = |args: &[&str]| {
        let output = Command::new(&up).args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = run(&["--data-dir", cluster.data().to_str().unwrap()]);
    assert!(told.contains(&format!("(pid {})", cluster.child.id())), "{told}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let other = cluster.dir.path().join("other");
    let told = run(&["--data-dir", other.to_str().unwrap(), "--api", &address.to_string()]);
    assert!(told.contains(&format!("port {}", address.port())), "{told}");
    assert!(!Path::new(&other).exists(), "a start that failed left its directory");
}
