"""Starts a proxy with a listener and a cluster for each exchange: ours, and the two that ours is compared with.

Every field that is set has its reason; what is not set is the program's default.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from harness import WEIR, tool

START_SECONDS = 20.0
STOP_SECONDS = 5.0
FIRST_PORT, LAST_PORT = 20100, 32000
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
UPSTREAM = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
PRESERVE = "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
OURS, ENVOY, HAPROXY = "weir", "envoy", "haproxy"
Pair = tuple[int, int]  # a listener's port and its upstream's


def free_ports(number: int) -> list[int]:
    """Loopback ports below the range that the kernel gives to clients."""
    found = []
    start = FIRST_PORT + os.getpid() * 7 % (LAST_PORT - FIRST_PORT - 2000)
    for port in range(start, LAST_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == number:
            return found
    raise RuntimeError(f"no {number} free ports")


def manager(kind: str, profile: str, cluster: str, codec: str) -> dict:
    """The HTTP connection manager of one listener."""
    config: dict = {
        "@type": HCM,
        "stat_prefix": "conformance",
        "codec_type": codec,
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "name": "all",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"name": "all", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
                }
            ],
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    if profile == "slow":
        config["request_headers_timeout"] = "1s"
        config["stream_idle_timeout"] = "3s"
    if kind == ENVOY:
        # What ours does without being told: HTTP/1.0, trailers, the case of names.
        config["http_protocol_options"] = {
            "accept_http_10": True,
            "enable_trailers": True,
            "header_key_format": {"stateful_formatter": {"name": "preserve_case", "typed_config": {"@type": PRESERVE}}},
        }
    return config


def bootstrap(kind: str, profile: str, pairs: list[Pair], codec: str = "HTTP1") -> str:
    """One listener and one cluster a pair, in the format that Envoy and ours share."""
    listeners, clusters = [], []
    for listener, upstream in pairs:
        name = f"u{upstream}"
        listeners.append(
            {
                "name": f"l{listener}",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": listener}},
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "envoy.filters.network.http_connection_manager",
                                "typed_config": manager(kind, profile, name, codec),
                            }
                        ]
                    }
                ],
            }
        )
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
        cluster: dict = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        if kind == ENVOY:
            http1 = {
                "enable_trailers": True,
                "header_key_format": {
                    "stateful_formatter": {"name": "preserve_case", "typed_config": {"@type": PRESERVE}}
                },
            }
            cluster["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": UPSTREAM,
                    "explicit_http_config": {"http_protocol_options": http1},
                }
            }
        clusters.append(cluster)
    return json.dumps(
        {"node": {"id": "conformance", "cluster": "conformance"}, "static_resources": {"listeners": listeners, "clusters": clusters}},
        indent=1,
    )


def haproxy_configuration(profile: str, pairs: list[Pair], http2: bool = False) -> str:
    """One frontend and one backend a pair. No retries: an exchange sees each request once."""
    head, client = ("1s", "3s") if profile == "slow" else ("60s", "60s")
    lines = [
        "global",
        "  nbthread 1",
        "defaults",
        "  mode http",
        "  retries 0",
        "  timeout connect 1s",
        f"  timeout client {client}",
        f"  timeout server {client}",
        "  timeout tunnel 60s",
        f"  timeout http-request {head}",
        f"  timeout http-keep-alive {client}",
    ]
    for listener, upstream in pairs:
        lines += [
            f"frontend f{listener}",
            f"  bind 127.0.0.1:{listener}" + (" proto h2" if http2 else ""),
            f"  default_backend b{upstream}",
            f"backend b{upstream}",
            f"  server s 127.0.0.1:{upstream}",
        ]
    return "\n".join(lines) + "\n"


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Proxy:
    """A proxy process with a configuration; the context ends it."""

    def __init__(self, kind: str, profile: str, pairs: list[Pair], codec: str = "HTTP1", drain_seconds: int = 1):
        self.kind, self.pairs = kind, pairs
        self.folder = tempfile.TemporaryDirectory(prefix="conformance-")
        folder = Path(self.folder.name)
        self.log = folder / "log"
        if kind == HAPROXY:
            file = folder / "haproxy.cfg"
            file.write_text(haproxy_configuration(profile, pairs, http2=codec == "HTTP2"))
            command = [tool("haproxy"), "-db", "-q", "-f", str(file)]
        else:
            file = folder / "bootstrap.yaml"
            file.write_text(bootstrap(kind, profile, pairs, codec))
            if kind == ENVOY:
                command = [tool("envoy"), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
            else:
                [metrics] = free_ports(1 + len(pairs))[-1:]
                program = os.environ.get("WEIR_CONFORMANCE_PROGRAM", str(WEIR))
                command = [program, "proxy", "-c", str(file), "--metrics-address", f"127.0.0.1:{metrics}"]
                command += ["--drain-seconds", str(drain_seconds)]
        self.command = command

    def __enter__(self) -> Proxy:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        for listener, _ in self.pairs:
            while not accepts(listener):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = self.log.read_text(errors="replace")[-1500:]
                    self.__exit__()
                    raise RuntimeError(f"{self.kind} does not listen: {text}")
                time.sleep(0.02)
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_SECONDS)
        self.folder.cleanup()

    def alive(self) -> bool:
        return self.process.poll() is None
