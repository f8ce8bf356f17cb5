"""`weir store` in the place of a Prometheus server: the same file, the same API, promtool as the client."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from conftest import free_port
from harness import WEIR, tool

PAGE = """# HELP requests_total All of them.
# TYPE requests_total counter
requests_total{code="200"} 7
go_goroutines 3
"""


class Target(BaseHTTPRequestHandler):
    """A page for those who know the password."""

    def do_GET(self):
        allowed = self.headers.get("Authorization") == "Basic dTpw"
        body = PAGE.encode() if allowed else b"who are you?"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Store:
    """A running `weir store`."""

    def __init__(self, folder, config, *arguments):
        self.port, self.config, self.log = free_port(), folder / "prometheus.yml", folder / "store.log"
        self.config.write_text(config)
        words = [str(WEIR), "store", f"--config.file={self.config}", f"--web.listen-address=127.0.0.1:{self.port}", *arguments]
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(words, stdout=log, stderr=log)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path, data=None):
        with urllib.request.urlopen(self.url + path, data=data, timeout=10) as answer:
            return answer.read().decode()

    def value(self, query):
        result = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": query})))["data"]["result"]
        return [sample["value"][1] for sample in result]

    def until(self, what, done, timeout=30):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            assert self.child.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError, KeyError):
                if done():
                    return
            time.sleep(0.1)
        pytest.fail(f"not within {timeout} s: {what}\n{self.log.read_text()}")

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        assert self.child.wait(20) == 0, self.log.read_text()


@pytest.fixture
def target():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Target)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def configuration(target, rules=""):
    return f"""
global: {{scrape_interval: 500ms}}
scrape_configs:
- job_name: app
  basic_auth: {{username: u, password: p}}
  static_configs: [{{targets: ['{target}'], labels: {{team: a}}}}]
  metric_relabel_configs: [{{source_labels: [__name__], regex: 'go_.*', action: drop}}]
- job_name: stranger
  static_configs: [{{targets: ['{target}']}}, {{targets: ['unwanted:1']}}]
  relabel_configs: [{{source_labels: [__address__], regex: 'unwanted.*', action: drop}}]
{rules}"""


def test_a_prometheus_yml_is_scraped_and_answered(tmp_path, target):
    store = Store(tmp_path, configuration(target))
    try:
        store.until("it is ready", lambda: store.get("/-/ready"))
        store.until("both targets are judged", lambda: len(store.value("up")) == 2)
        store.until("two scrapes", lambda: store.value('count_over_time(requests_total{job="app"}[1m])')[0] not in ("0", "1"))
        assert store.value('up{job="app"}') == ["1"] and store.value('up{job="stranger"}') == ["0"]
        assert store.value('requests_total{job="app",team="a",code="200"}') == ["7"]
        assert store.value("go_goroutines") == []
        assert store.value('scrape_samples_scraped{job="app"}') == ["2"]
        assert store.value('scrape_samples_post_metric_relabeling{job="app"}') == ["1"]

        targets = json.loads(store.get("/api/v1/targets"))["data"]
        by_pool = {t["scrapePool"]: t for t in targets["activeTargets"]}
        assert by_pool["app"]["health"] == "up" and by_pool["app"]["scrapeInterval"] == "500ms"
        assert by_pool["app"]["discoveredLabels"]["__address__"] == target
        assert "401" in by_pool["stranger"]["lastError"]
        [dropped] = targets["droppedTargets"]
        assert dropped["discoveredLabels"]["__address__"] == "unwanted:1" and targets["droppedTargetCounts"]["stranger"] == 1

        said = subprocess.run(
            [tool("promtool"), "query", "instant", store.url, "sum(requests_total)"], capture_output=True, text=True, timeout=30, check=True
        )
        assert "=> 7 @" in said.stdout
    finally:
        store.stop()


BLOCK = "".join(f'flood{{block="BLOCK",line="{line}"}} 1\n' for line in range(10_000)).encode()


class Flood(BaseHTTPRequestHandler):
    """Ten million series in one page, told apart by a label; packed if the path says so."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        packed = self.path.endswith("gzip")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        gzip = zlib.compressobj(1, wbits=31)
        with contextlib.suppress(OSError):
            for block in range(1000):
                piece = BLOCK.replace(b"BLOCK", b"%d" % block)
                if packed:
                    piece = gzip.compress(piece)
                if piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.server.blocks = max(self.server.blocks, block)
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def flood():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flood)
    server.blocks, server.daemon_threads = 0, True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def memory(pid, which):
    """MiB of a process: VmRSS now, VmHWM at its largest."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{which}:\s+(\d+) kB", status)[1]) / 1024


RULES = "metric_relabel_configs: [{source_labels: [block], regex: '1.*', action: drop}]"


# Rules may drop samples, so that with them the first two million have to be there.
@pytest.mark.parametrize("path, rules, mebibytes", [("/metrics", "", 64), ("/gzip", "", 64), ("/metrics", RULES, 256), ("/gzip", RULES, 256)],
                         ids=["plain", "gzip", "plain-rules", "gzip-rules"])
def test_ten_million_series_in_one_page_harm_nobody(tmp_path, target, flood, path, rules, mebibytes):
    store = Store(tmp_path, f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: good
  basic_auth: {{username: u, password: p}}
  static_configs: [{{targets: ['{target}']}}]
- job_name: flood
  metrics_path: {path}
  scrape_interval: 15s
  scrape_timeout: 15s
  sample_limit: 200000
  static_configs: [{{targets: ['127.0.0.1:{flood.server_address[1]}']}}]
  {rules}
""")
    try:
        store.until("the good target", lambda: store.value('up{job="good"}') == ["1"])
        began, before = time.time(), memory(store.child.pid, "VmRSS")

        def refused():
            targets = json.loads(store.get("/api/v1/targets"))["data"]["activeTargets"]
            return "samples that sample_limit allows" in next(t["lastError"] for t in targets if t["scrapePool"] == "flood")

        store.until("the flood to be refused", refused, 180)
        seconds = time.time() - began
        assert flood.blocks < 999, "the page was read to its end"
        assert memory(store.child.pid, "VmHWM") - before < mebibytes
        assert store.value('up{job="flood"}') == ["0"] and store.value("count(flood)") == []
        # A scrape every second, but for those that a busy machine may have cost.
        well = float(store.value(f'sum_over_time(up{{job="good"}}[{int(seconds) + 2}s])')[0])
        assert well >= seconds / 4, f"{well} good scrapes in {seconds:.0f} s"
    finally:
        store.stop()


def test_a_reload_keeps_what_is_good(tmp_path, target):
    store = Store(tmp_path, configuration(target), "--web.enable-lifecycle")
    try:
        store.until("it scrapes", lambda: store.value('up{job="app"}') == ["1"])
        store.config.write_text(configuration(target, rules="\nscrape_config: []\n"))
        with pytest.raises(urllib.error.HTTPError) as refused:
            store.get("/-/reload", data=b"")
        assert refused.value.code == 500 and "scrape_config: there is no such field here" in refused.value.read().decode()
        assert store.value('up{job="app"}') == ["1"]
        store.config.write_text(configuration(target).replace("job_name: stranger", "job_name: other"))
        store.child.send_signal(signal.SIGHUP)
        store.until("the new job is scraped", lambda: store.value('up{job="other"}') == ["0"])
        store.until("the old one has ended", lambda: store.value('up{job="stranger"}') == [])
        assert "job_name: other" in json.loads(store.get("/api/v1/status/config"))["data"]["yaml"]
        store.get("/-/quit", data=b"")
        assert store.child.wait(20) == 0
    finally:
        if store.child.poll() is None:
            store.stop()


def test_orders_are_taken_where_they_are_on(tmp_path, target):
    store = Store(tmp_path, configuration(target))
    try:
        store.until("it is ready", lambda: store.get("/-/ready"))
        for method in ("POST", "PUT"):
            for order in ("reload", "quit"):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(urllib.request.Request(f"{store.url}/-/{order}", method=method), timeout=10)
                assert (refused.value.code, refused.value.read()) == (403, b"Lifecycle API is not enabled.")
        with pytest.raises(urllib.error.HTTPError) as refused:
            store.get("/-/reload")
        assert refused.value.code == 405
        store.config.write_text(configuration(target).replace("job_name: stranger", "job_name: other"))
        store.child.send_signal(signal.SIGHUP)
        store.until("the new job is scraped", lambda: store.value('up{job="other"}') == ["0"])
    finally:
        store.stop()


def test_what_is_stored_outlives_the_process(tmp_path, target):
    arguments = [f"--storage.path={tmp_path / 'data'}", "--storage.retention=1d"]
    store = Store(tmp_path, configuration(target), *arguments)
    try:
        store.until("it scrapes", lambda: store.value('requests_total{job="app"}') == ["7"])
        asked = time.time()
    finally:
        store.stop()
    again = Store(tmp_path, "scrape_configs: []\n", *arguments)
    try:
        again.until("it is ready", lambda: again.get("/-/ready"))
        assert again.value(f'last_over_time(requests_total{{job="app"}}[1m] @ {asked:.3f})') == ["7"]
    finally:
        again.stop()


def test_a_wrong_file_is_told_and_nothing_starts(tmp_path):
    config = tmp_path / "prometheus.yml"
    config.write_text("scrape_configs:\n- job_name: a\n  consul_sd_configs: [{server: x}]\n")
    ended = subprocess.run([str(WEIR), "store", f"--config.file={config}"], capture_output=True, text=True, timeout=20, env={**os.environ})
    assert ended.returncode == 1
    assert f"{config}:3: scrape_configs[0].consul_sd_configs: is not supported; there are static_configs" in ended.stderr


# What YAML could take for numbers, switches, dates or nothing.
PLAIN = """version: 1.10, zip: 007, country: no, y1: y, hex: 0x1F, under: 1_000, exp: 1e3, tr: TRUE, inf: .inf, day: 2001-01-01,
    time: 1:30, octal: 0o17, signed: +1.0, nothing: ~, empty: , tagged: !!str 1.0, quoted: '007'"""
PLAIN_FILES = {
    "prometheus.yml": f"""
global:
  scrape_interval: 1h
  external_labels: {{{PLAIN}}}
rule_files: [rules.yml]
scrape_configs:
- job_name: n
  honor_labels: yes
  basic_auth: {{username: 007, password: 012345}}
  static_configs:
  - {{targets: ['127.0.0.1:1'], labels: &labels {{{PLAIN}}}}}
  - {{targets: ['127.0.0.1:2'], labels: {{<<: *labels, other: 1.0}}}}
  file_sd_configs: [{{files: [targets.yml, targets.json]}}]
  relabel_configs:
  - {{source_labels: [zip], regex: 007, target_label: replaced, replacement: 1.10}}
  - {{source_labels: [zip], regex: 7, target_label: replaced, replacement: wrong}}
""",
    "targets.yml": f"- {{targets: ['127.0.0.1:3'], labels: {{{PLAIN}}}}}\n",
    "targets.json": '[{"targets": ["127.0.0.1:4"], "labels": {"version": "1.10", "zip": "007"}}]',
    "rules.yml": f"""
groups:
- name: 1.0
  interval: 1h
  rules:
  - {{record: recorded, expr: 1, labels: {{{PLAIN}}}}}
  - {{alert: no, expr: vector(1), labels: {{{PLAIN}}}, annotations: {{{PLAIN}}}}}
""",
}


def test_texts_without_quotes_are_those_of_prometheus(tmp_path):
    """What both say of the same files: the targets and their labels, the rules, and external_labels where they are shown."""
    for name, text in PLAIN_FILES.items():
        (tmp_path / name).write_text(text)

    def without_empty(labels):
        return {name: value for name, value in labels.items() if value}

    def said_by(get):
        answers = {path: json.loads(get("/api/v1/" + path))["data"] for path in ("targets", "rules", "status/config")}
        groups = answers["rules"]["groups"]
        # A loader that resolves nothing: what is shown in quotes or without is a text.
        shown = yaml.load(answers["status/config"]["yaml"], yaml.BaseLoader)["global"]["external_labels"]
        return {
            "targets": sorted((t["scrapePool"], sorted(t["labels"].items())) for t in answers["targets"]["activeTargets"]),
            "rules": [
                (group["name"], rule["name"], rule["query"], without_empty(rule["labels"]), without_empty(rule.get("annotations", {})))
                for group in groups
                for rule in group["rules"]
            ],
            # Weir shows the file as it stands: nothing is nothing.
            "external_labels": {name: value for name, value in shown.items() if value not in ("", "null", "~")},
        }

    port = free_port()
    words = [tool("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
    log = tmp_path / "prometheus.log"
    with open(log, "ab") as out:
        prometheus = subprocess.Popen([*words, f"--storage.tsdb.path={tmp_path / 'tsdb'}"], stdout=out, stderr=out)
    store = Store(tmp_path, PLAIN_FILES["prometheus.yml"])
    try:
        def of_prometheus(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.read().decode()

        store.until("both to find four targets", lambda: all(len(said_by(get)["targets"]) == 4 for get in (of_prometheus, store.get)), 120)
        assert said_by(store.get) == said_by(of_prometheus)
        shown = json.loads(store.get("/api/v1/status/config"))["data"]["yaml"]
        assert "012345" not in shown and "<secret>" in shown
    finally:
        prometheus.kill()
        prometheus.wait(20)
        store.stop()
