//! Texts of a prometheus.yml: what they mean, and what is said of wrong ones.

use super::*;

fn refused(text: &str) -> ConfigError {
    match Config::parse(text, Path::new("/etc/prometheus")) {
        Ok(_) => panic!("{text} was taken"),
        Err(error) => error,
    }
}

/// What is said, without the line.
fn error(text: &str) -> String {
    let error = ConfigError {
        line: None,
        ..refused(text)
    };
    error.to_string()
}

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/prometheus")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    let table = [
        (
            "scrape_configs:\n- {}",
            "scrape_configs[0].job_name: every job needs a name",
        ),
        (
            "scrape_configs:\n- {job_name: a}\n- {job_name: a}",
            "scrape_configs: \"a\" is the name of two jobs: names must differ",
        ),
        (
            "global: {scrape_interval: 5}",
            "global.scrape_interval: \"5\" is no duration such as 15s, 1m30s or 500ms",
        ),
        (
            "global: {scrape_interval: 5s, scrape_timeout: 10s}",
            "global.scrape_timeout: must not be longer than scrape_interval",
        ),
        (
            "global: {scrape_intervall: 5s}",
            "global.scrape_intervall: there is no such field here; there are ",
        ),
        (
            "scrape_configs:\n- {job_name: a, sample_limit: many}",
            "scrape_configs[0].sample_limit: a whole number from 0 must stand here, not \"many\"",
        ),
        (
            "scrape_configs:\n- {job_name: a, scheme: ftp}",
            "scrape_configs[0].scheme: \"ftp\" is neither http nor https",
        ),
        (
            "scrape_configs:\n- {job_name: a, consul_sd_configs: [{server: x}]}",
            "scrape_configs[0].consul_sd_configs: is not supported; there are static_configs, file_sd_configs",
        ),
        (
            "scrape_configs:\n- {job_name: a, static_configs: [{targets: ['http://x']}]}",
            "scrape_configs[0].static_configs[0].targets: \"http://x\" must be an address like",
        ),
        (
            "scrape_configs:\n- {job_name: a, basic_auth: {username: u, password: p}, bearer_token: t}",
            "scrape_configs[0].bearer_token: there is basic_auth already: write one of the two",
        ),
        (
            "scrape_configs:\n- {job_name: a, oauth2: {client_id: x}}",
            "scrape_configs[0].oauth2: is not supported; use authorization with credentials_file",
        ),
        (
            "scrape_configs:\n- {job_name: a, tls_config: {cert_file: x}}",
            "scrape_configs[0].tls_config.cert_file: a certificate needs its key",
        ),
        (
            "scrape_configs:\n- {job_name: a, kubernetes_sd_configs: [{role: pods}]}",
            "scrape_configs[0].kubernetes_sd_configs[0].role: \"pods\" is no role; there are pod, endpoints",
        ),
        (
            "scrape_configs:\n- {job_name: a, scrape_protocols: [Text]}",
            "scrape_configs[0].scrape_protocols: \"Text\" is no protocol; there are PrometheusProto",
        ),
        (
            "scrape_configs:\n- {job_name: a, relabel_configs: [{action: hashmod, target_label: x}]}",
            "scrape_configs[0].relabel_configs[0].modulus: hashmod needs a number of 1 or more",
        ),
        (
            "remote_read: [{url: x}]",
            "remote_read: is not supported; a store answers from what it holds itself",
        ),
        (
            "global: {rule_query_offset: 1m}",
            "global.rule_query_offset: is not supported; there is query_offset in each group",
        ),
        (
            "storage: {exemplars: {max_exemplars: 100000}}",
            "storage.exemplars.max_exemplars: is not supported; no exemplars are kept",
        ),
        (
            "remote_write: [{url: 'http://x/', queue_config: {min_shards: 5, max_shards: 2}}]",
            "remote_write[0].queue_config.min_shards: must not be larger than max_shards",
        ),
        (
            "remote_write: [{url: 'http://x/', queue_config: {min_backoff: 5s, max_backoff: 1s}}]",
            "remote_write[0].queue_config.min_backoff: must not be longer than max_backoff",
        ),
        (
            "remote_write: [{url: 'http://x/', send_exemplars: true}]",
            "remote_write[0].send_exemplars: true is not supported; there are no exemplars",
        ),
        (
            "remote_write: [{url: 'http://x/', send_native_histograms: false}]",
            "remote_write[0].send_native_histograms: false is not supported; they are sent",
        ),
        (
            "remote_write: [{url: 'http://x/', queue_config: {retry_on_http_429: false}}]",
            "remote_write[0].queue_config.retry_on_http_429: false is not supported",
        ),
        (
            "scrape_config: []",
            "scrape_config: there is no such field here; there are alerting, global, remote_write, rule_files, scrape_config_files, scrape_configs, storage",
        ),
        ("- a", "a mapping must stand here, not a list"),
        ("a: [", "is no YAML: "),
    ];
    for (text, message) in table {
        assert!(error(text).starts_with(message), "{text}: {}", error(text));
    }
    // (text, the line that is wrong)
    let lines = [
        ("global:\n  scrape_interval: 5s\n  scrape_interval: 6s\n", Some(3)),
        ("global:\n  scrape_timeout:\n    5\n", Some(2)),
        (
            "scrape_configs:\n- job_name: a\n  scheme: http\n  shceme: http\n",
            Some(4),
        ),
        ("scrape_configs:\n- job_name: a\n- metrics_path: /\n", Some(3)),
        (
            "scrape_configs:\n- job_name: a\n  static_configs:\n  - targets:\n    - [a]\n",
            Some(5),
        ),
        (
            "scrape_configs:\n- job_name: a\n  relabel_configs:\n  - action: keep\n  - action: keeep\n",
            Some(5),
        ),
        ("a: 1\nb: [\n", Some(2)),
    ];
    for (text, line) in lines {
        assert_eq!(refused(text).line, line, "{text}: {}", refused(text));
    }
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, "global:\n  external_labels: {a: [b]}\n").unwrap_or_else(|e| panic!("{e}"));
    let said = Config::load(&file).err().map(|e| e.to_string()).unwrap_or_default();
    let expected = format!(
        "{}:2: global.external_labels.a: a text must stand here, not a list",
        file.display()
    );
    assert_eq!(said, expected);
    let missing = Config::load(Path::new("/nowhere/prometheus.yml"))
        .err()
        .map(|e| e.to_string());
    assert!(missing.is_some_and(|m| m.starts_with("/nowhere/prometheus.yml: cannot be read: ")));
}

/// Taken by their word they would send without a pause, or give every request no time.
#[test]
fn times_of_zero_stand_for_the_usual_ones() {
    let zeros = "
alerting: {alertmanagers: [{timeout: 0s, static_configs: [{targets: ['a:9093']}]}]}
remote_write:
- url: http://x/
  remote_timeout: 0s
  queue_config: {batch_send_deadline: 0s, min_backoff: 0s, max_backoff: 0s}
  metadata_config: {send_interval: 0s}
";
    let usual = "
alerting: {alertmanagers: [{static_configs: [{targets: ['a:9093']}]}]}
remote_write:
- url: http://x/
  queue_config: {}
  metadata_config: {}
";
    let (zeros, usual) = (config(zeros), config(usual));
    assert_eq!(zeros.remote_write, usual.remote_write);
    assert_eq!(zeros.alertmanagers, usual.alertmanagers);
    assert!(!usual.alertmanagers[0].timeout.is_zero() && usual.remote_write[0].metadata_interval.is_some());
}

/// A configuration as many have it.
#[test]
fn a_whole_file() {
    let text = "
global:
  scrape_interval: 15s
  external_labels: {cluster: eu, replica: 0}
rule_files: [rules/*.yml]
alerting:
  alertmanagers: [{path_prefix: /am/, static_configs: [{targets: ['alertmanager:9093']}]}]
remote_write:
- url: http://long-term/api/v1/write
scrape_configs:
- job_name: prometheus
  static_configs:
  - targets: ['localhost:9090', 'localhost:9091']
    labels: {team: a}
- job_name: kubernetes-pods
  scrape_interval: 5s
  honor_labels: true
  sample_limit: 1000
  body_size_limit: 10MB
  label_limit: 0
  kubernetes_sd_configs:
  - role: pod
    namespaces: {names: [default]}
    selectors: [{role: pod, label: app=x}]
  relabel_configs:
  - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
    action: keep
    regex: true
  - source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port]
    action: replace
    regex: ([^:]+)(?::\\d+)?;(\\d+)
    replacement: $1:$2
    target_label: __address__
- job_name: node
  scheme: https
  tls_config: {ca_file: ca.crt, insecure_skip_verify: true}
  bearer_token_file: /var/run/token
  file_sd_configs: [{files: ['targets/*.json'], refresh_interval: 1m}]
  http_sd_configs: [{url: 'http://sd/targets'}]
";
    let config = config(text);
    assert_eq!(config.global.scrape_interval, Duration::from_secs(15));
    assert_eq!(config.global.scrape_timeout, Duration::from_secs(10));
    assert_eq!(config.global.external_labels["replica"], "0");
    assert_eq!(config.rule_files, [PathBuf::from("/etc/prometheus/rules/*.yml")]);
    assert_eq!(config.remote_write[0].url, "http://long-term/api/v1/write");
    assert_eq!(config.alertmanagers[0].url, "http://alertmanager:9093/am");
    let [prometheus, pods, node] = config.jobs.as_slice() else {
        panic!("three jobs")
    };
    assert_eq!(prometheus.interval, Duration::from_secs(15));
    assert!(matches!(&prometheus.discovery[0], Discovery::Static(groups) if groups[0].targets.len() == 2));
    assert_eq!(
        (pods.interval, pods.timeout),
        (Duration::from_secs(5), Duration::from_secs(5))
    );
    assert!(pods.honor_labels && pods.relabel.len() == 2);
    assert_eq!(
        (pods.limits.samples, pods.limits.body_bytes, pods.limits.labels),
        (1000, 10 << 20, u64::MAX)
    );
    assert!(
        matches!(&pods.discovery[0], Discovery::Kubernetes(k) if k.namespaces == ["default"] && k.selectors.len() == 1)
    );
    let token = PathBuf::from("/var/run/token");
    assert_eq!(
        node.http.authorization,
        Some(Authorization::File {
            kind: "Bearer".to_owned(),
            path: token
        })
    );
    assert!(
        matches!(&node.discovery[0], Discovery::File { files, .. } if files[0] == Path::new("/etc/prometheus/targets/*.json"))
    );
    assert_eq!(
        config,
        Config::parse(text, Path::new("/etc/prometheus")).unwrap_or_else(|e| panic!("{e}"))
    );
}

/// Values that YAML could take for something else, and the texts that Prometheus makes of them.
const PLAIN: &str = "version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE, inf: .inf, \
                     day: 2001-01-01, time: 1:30, plus: +1.0, str: !!str 1.0, quoted: '007'";
const TEXTS: [(&str, &str); 14] = [
    ("country", "no"),
    ("day", "2001-01-01"),
    ("exp", "1e3"),
    ("hex", "0x1F"),
    ("inf", ".inf"),
    ("plus", "+1.0"),
    ("quoted", "007"),
    ("str", "1.0"),
    ("time", "1:30"),
    ("tr", "TRUE"),
    ("under", "1_000"),
    ("version", "1.10"),
    ("y1", "y"),
    ("zip", "007"),
];

#[test]
fn texts_without_quotes_stay_as_they_were_written() {
    let text = format!(
        "
global:
  external_labels: &labels {{{PLAIN}}}
scrape_configs:
- job_name: n
  basic_auth: {{username: 007, password: 012345}}
  params: {{a: [1.10, no]}}
  static_configs:
  - targets: [a:1]
    labels: *labels
  - targets: [b:1]
    labels: {{<<: *labels, zip: 008, nothing: ~, empty: }}
  relabel_configs:
  - {{source_labels: [zip], regex: 007, target_label: a, replacement: 1.10}}
  - {{source_labels: [zip], regex: 0x1F, separator: ~, target_label: b, replacement: no}}
"
    );
    let config = config(&text);
    let pairs = |labels: &BTreeMap<String, String>| -> Vec<(String, String)> { labels.clone().into_iter().collect() };
    let expected = TEXTS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(pairs(&config.global.external_labels), expected);
    let job = &config.jobs[0];
    assert_eq!(job.name, "n");
    assert_eq!(job.params, [("a".to_owned(), vec!["1.10".to_owned(), "no".to_owned()])]);
    let Discovery::Static(groups) = &job.discovery[0] else {
        panic!("static targets")
    };
    assert_eq!(pairs(&groups[0].labels), expected);
    let other = &groups[1].labels;
    assert_eq!((other["zip"].as_str(), other["version"].as_str()), ("008", "1.10"));
    assert_eq!((other["nothing"].as_str(), other["empty"].as_str()), ("", ""));
    let (user, password) = ("007".to_owned(), "012345".to_owned());
    assert_eq!(job.http.authorization, Some(Authorization::Basic { user, password }));
    let relabelled = |zip| {
        let mut labels: crate::relabel::LabelSet = [("zip", zip)].into_iter().collect();
        crate::relabel::apply(&job.relabel, &mut labels);
        (labels.get("a").to_owned(), labels.get("b").to_owned())
    };
    assert_eq!(relabelled("007"), ("1.10".to_owned(), String::new()));
    assert_eq!(relabelled("0x1F"), (String::new(), "no".to_owned()));
    assert_eq!(relabelled("7"), (String::new(), String::new()));
    // What is shown means the same.
    let again = Config::parse(&config.text.replace("<secret>", "012345"), Path::new("/etc/prometheus"));
    assert_eq!(again.map(|c| (c.global, c.jobs)), Ok((config.global, config.jobs)));
}

#[test]
fn numbers_and_switches_as_yaml_writes_them() {
    let text = "
scrape_configs:
- job_name: a
  honor_labels: yes
  honor_timestamps: off
  sample_limit: 1_000
  label_limit: 0x10
  target_limit: 1e3
  label_name_length_limit: 010
  label_value_length_limit: '7'
  scrape_interval: 0
  body_size_limit: ~
";
    let job = &config(text).jobs[0];
    assert!(job.honor_labels && !job.honor_timestamps);
    let limits = &job.limits;
    let read = [
        limits.samples,
        limits.labels,
        limits.targets,
        limits.label_name_bytes,
        limits.label_value_bytes,
        limits.body_bytes,
    ];
    assert_eq!(read, [1000, 16, 1000, 8, 7, Limits::default().body_bytes]);
    for (field, message) in [
        (
            "sample_limit: 1.5",
            "a whole number from 0 must stand here, not \"1.5\"",
        ),
        (
            "sample_limit: .inf",
            "a whole number from 0 must stand here, not \".inf\"",
        ),
        ("sample_limit: -1", "a whole number from 0 must stand here, not \"-1\""),
        ("sample_limit: [1]", "a whole number from 0 must stand here, not a list"),
        ("honor_labels: 1", "true or false must stand here, not a number"),
        ("metrics_path: {}", "a text must stand here, not a mapping"),
    ] {
        let said = error(&format!("scrape_configs: [{{job_name: a, {field}}}]"));
        assert!(said.ends_with(&format!(": {message}")), "{field}: {said}");
    }
}

#[test]
fn an_empty_file_is_a_configuration() {
    assert!(config("").jobs.is_empty());
    assert!(config("# nothing\n").jobs.is_empty());
    assert!(config("global:\nscrape_configs:\n").jobs.is_empty());
}

#[test]
fn secrets_are_not_shown() {
    let text = "scrape_configs:\n- {job_name: a, basic_auth: {username: u, password: hush}}\n- {job_name: b, authorization: {credentials: hush}}";
    let shown = format!("{:?}", config(text).jobs);
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn patterns_of_files() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    for name in ["a.yml", "ab.yml", "b.yml", "a.json"] {
        std::fs::write(folder.path().join(name), "").unwrap_or_else(|e| panic!("{e}"));
    }
    let names = |pattern: &str| -> Vec<String> {
        let files = matching_files(&folder.path().join(pattern));
        files
            .iter()
            .map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names("*.yml"), ["a.yml", "ab.yml", "b.yml"]);
    assert_eq!(names("a*.yml"), ["a.yml", "ab.yml"]);
    assert_eq!(names("a.yml"), ["a.yml"]);
    assert_eq!(names("x*"), [""; 0]);
}

#[test]
fn the_examples_of_the_documentation_can_be_typed() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut examples = 0;
    for page in ["remote-write.md", "scraping.md", "store-server.md", "backends.md"] {
        let text = std::fs::read_to_string(docs.join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        let blocks = text.split("```").skip(1).step_by(2);
        let written = blocks.filter_map(|block| match block.split_once("prometheus.yml <<'YAML'\n") {
            Some((_, here)) => here.split_once("\nYAML").map(|(yaml, _)| yaml),
            None => block.strip_prefix("yaml\n"),
        });
        for example in written {
            // One shows how a file is refused.
            let wanted = !example.starts_with("# consul.yml");
            let read = Config::parse(example, &docs).map(drop);
            assert_eq!(read.is_ok(), wanted, "{page}: {read:?}\n{example}");
            examples += 1;
        }
    }
    assert!(examples >= 3, "{examples} examples were found");
}
