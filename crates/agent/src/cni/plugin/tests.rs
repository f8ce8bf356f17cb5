use std::os::unix::net::UnixListener;

use super::*;

fn environment(command: &str, namespace: &str) -> HashMap<String, String> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a-1;K8S_POD_UID=u-1");
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/proc/1/ns/net"),
        ("CNI_ARGS", &args),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

/// An agent that answers one request.
fn agent(directory: &Path, reply: &'static str) -> (PathBuf, std::thread::JoinHandle<String>) {
    let socket = directory.join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answered = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        writeln!(&stream, "{reply}").unwrap();
        line
    });
    (socket, answered)
}

fn config(version: &str, socket: &Path) -> String {
    json!({"cniVersion": version, "name": "n", "type": PLUGIN, "agentSocket": socket,
        "prevResult": {"cniVersion": "0.4.0", "ips": [{"address": "10.244.0.9/32"}]}})
    .to_string()
}

#[test]
fn add_asks_and_passes_the_previous_result_on() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, answered) = agent(directory.path(), r#""ok""#);
    let output = run(
        &environment("ADD", "default"),
        &config("1.0.0", &socket),
        Duration::ZERO,
    );
    let output = output.unwrap_or_else(|f| panic!("{}: {}", f.msg, f.details)).unwrap();
    assert_eq!(
        output,
        json!({"cniVersion": "1.0.0", "ips": [{"address": "10.244.0.9/32"}]})
    );
    let asked: Request = serde_json::from_str(&answered.join().unwrap()).unwrap();
    let expected = Request {
        command: Command::Add,
        namespace: "default".into(),
        pod: "a-1".into(),
        uid: "u-1".into(),
        sandbox: "c1".into(),
        netns: "/proc/1/ns/net".into(),
    };
    assert_eq!(asked, expected);
}

#[test]
fn a_refusal_is_an_error_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, _answered) = agent(directory.path(), r#"{"error":"no configuration yet"}"#);
    let failure = run(
        &environment("ADD", "default"),
        &config("0.3.1", &socket),
        Duration::ZERO,
    )
    .err()
    .unwrap();
    assert_eq!((failure.code, failure.details.as_str()), (101, "no configuration yet"));
}

#[test]
fn an_absent_agent_fails_add_but_never_del() {
    let nowhere = Path::new("/nonexistent/agent.sock");
    let failure = run(
        &environment("ADD", "default"),
        &config("1.1.0", nowhere),
        Duration::ZERO,
    )
    .err()
    .unwrap();
    assert_eq!(failure.code, 11);
    assert!(
        failure.details.contains("check that the weir-agent pod"),
        "{}",
        failure.details
    );
    for (environment, input) in [
        (environment("DEL", "default"), config("1.0.0", nowhere)),
        (HashMap::new(), "not json".into()),
    ] {
        let mut environment = environment;
        environment.insert("CNI_COMMAND".into(), "DEL".into());
        assert!(matches!(run(&environment, &input, Duration::ZERO), Ok(None)));
    }
}

#[test]
fn system_pods_pass_without_an_agent() {
    let config = config("1.0.0", Path::new("/nonexistent/agent.sock"));
    for namespace in SYSTEM_NAMESPACES {
        assert!(run(&environment("ADD", namespace), &config, Duration::ZERO).is_ok_and(|o| o.is_some()));
    }
}

#[test]
fn versions_and_bad_input() {
    let none = Path::new("/nonexistent");
    let spoken = run(&environment("VERSION", "d"), &config("1.1.0", none), Duration::ZERO)
        .ok()
        .flatten()
        .unwrap();
    assert_eq!(
        spoken["supportedVersions"],
        json!(["0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"])
    );
    let code = |environment, config: &str| run(&environment, config, Duration::ZERO).err().map(|f| f.code);
    assert_eq!(code(environment("ADD", "default"), &config("9.9", none)), Some(1));
    assert_eq!(code(environment("JUMP", "default"), &config("1.0.0", none)), Some(4));
    assert_eq!(code(environment("ADD", "default"), "{"), Some(6));
    let mut incomplete = environment("ADD", "default");
    incomplete.remove("CNI_NETNS");
    assert_eq!(code(incomplete, &config("1.0.0", none)), Some(4));
    assert!(matches!(
        run(&environment("CHECK", "default"), &config("1.0.0", none), Duration::ZERO),
        Ok(None)
    ));
    let alone = result(&json!({}), "0.3.1");
    assert_eq!(
        alone,
        json!({"cniVersion": "0.3.1", "interfaces": [], "ips": [], "routes": [], "dns": {}})
    );
}
