"""The proxies that are compared, and what each is started with.

Enters: a kind of traffic (http1, http2, grpc, tcp) and the upstream's port. Leaves: a running proxy, or why it cannot be had. The files are
in peers/; those that are named *mesh* are made from the golden snapshots of the control plane, so that they are what it sends.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machine import PROXY_CORE, Failure, accepts, children

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SNAPSHOTS = ROOT / "crates" / "control" / "testdata" / "snapshots"
ENVOY_FLAGS = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]


@dataclass
class Running:
    """A proxy that runs."""

    name: str
    process: object
    pid: int
    port: int
    admin: int
    # The process that receives the proxy's access logs, where that is another.
    supervisor: int | None = None


def program(name, variable=None):
    """The path of a program: what a variable says, the project's own tools, or PATH."""
    found = os.environ.get(variable or "", "") or shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}:/usr/sbin")
    if not found:
        raise Failure(f"{name} is not installed: make tools-bench")
    return found


def weir():
    return os.environ.get("WEIR", str(ROOT / "target" / "release" / "weir"))


def weir_knows(flag):
    """Whether the proxy of this build has a flag."""
    text = subprocess.run([weir(), "proxy", "--help"], capture_output=True, text=True, timeout=10, check=False).stdout
    return flag in text


def fill(file, values):
    text = (HERE / "peers" / file).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def golden(name):
    text = (SNAPSHOTS / f"{name}.snap").read_text()
    return json.loads(text.split("---\n", 2)[2])["snapshot"]


def only(resources):
    """The one resource that stands for a Service."""
    [found] = [value for name, value in resources.items() if name.endswith(".outbound") and ("|" in name or name.startswith("10."))]
    return found


def mesh(engine, kind, values):
    """The bootstrap that holds what the control plane sends an engine for one Service of one pod.

    Three things differ, none of them on the way of a request: the listener has a socket of its own in place of the redirection,
    routes and endpoints stand in the file and not behind a subscription, and the endpoint's address is that of the upstream.
    """
    http = golden("engine-envoy" if engine == "envoy" else "simple-http")
    snapshot = golden("tcp") if kind == "tcp" else http
    listener, cluster, endpoints = only(snapshot["lds"]), only(snapshot["cds"]), only(snapshot["eds"])
    listener["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": values["PORT"]}}
    del listener["bind_to_port"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if kind == "tcp" and engine == "envoy":
        blocked = http["lds"]["outbound"]["default_filter_chain"]["filters"][0]["typed_config"]
        filters |= {k: blocked[k] for k in ("access_log", "access_log_options") if k in blocked}
    if "rds" in filters:
        del filters["rds"]
        filters["route_config"] = only(snapshot["rds"])
    del cluster["eds_cluster_config"]
    first = endpoints["endpoints"][0]["lb_endpoints"][:1]
    first[0]["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": values["UPSTREAM"]}
    cluster |= {"type": "STATIC", "load_assignment": {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": first}]}}
    if os.geteuid() != 0:
        # A socket mark needs a right that an ordinary user has not.
        del cluster["upstream_bind_config"]
    if kind in ("http2", "grpc"):
        # What the control plane sends for a port labelled so.
        options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        options["explicit_http_config"] = {"http2_protocol_options": {}}
    return json.dumps({
        "node": {"id": "productpage-5df889bcff-aaaaa.default", "cluster": "bench"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": values["ADMIN"]}}},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }, indent=1)


def idle_filters(text):
    """The same with every filter of the mesh set so that it acts on no request: timeouts nobody reaches, retries nobody needs, faults and
    traces of no request (sampling 0 %)."""
    file = json.loads(text)
    resources = file["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    traced = golden("tracing")
    traced_manager = only({k: v for k, v in traced["lds"].items() if k.startswith("10.96.0.20")})["filter_chains"][0]["filters"][0]["typed_config"]
    manager["generate_request_id"] = traced_manager["generate_request_id"]
    manager["tracing"] = traced_manager["tracing"] | {"random_sampling": {"value": 0}}
    manager["stream_idle_timeout"] = "300s"
    resources["clusters"].append(traced["cds"]["tracing"])
    nobody = {"denominator": "MILLION", "numerator": 0}
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route["route"] |= {"timeout": "60s", "idle_timeout": "60s"}
            route["route"]["retry_policy"] |= {"per_try_timeout": "30s", "retry_on": "5xx,connect-failure,refused-stream,reset"}
            route["typed_per_filter_config"] = {"envoy.filters.http.fault": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"http_status": 503, "percentage": nobody}, "delay": {"fixed_delay": "1s", "percentage": nobody},
                "response_rate_limit": {"fixed_limit": {"limit_kbps": 64}, "percentage": nobody},
            }}
    thresholds = resources["clusters"][0]["circuit_breakers"]["thresholds"][0]
    thresholds |= {"max_connections": 1000, "max_pending_requests": 1000, "max_requests": 1000}
    return json.dumps(file, indent=1)


def weir_command(config, values, *flags):
    return [weir(), "proxy", "-c", config, "--metrics-address", f"127.0.0.1:{values['METRICS']}", "--workers", "1", *flags]


def configuration(name, kind, values):
    """Text of the configuration file and its ending."""
    if name in ("weir", "weir_quiet"):
        return mesh("weir", kind, values), "json"
    if name == "weir_filters":
        return idle_filters(mesh("weir", kind, values)), "json"
    if name == "envoy_mesh":
        return mesh("envoy", kind, values), "json"
    if name in ("envoy", "weir_lean"):
        return fill(f"envoy-{'http2' if kind == 'grpc' else kind}.yaml", values), "yaml"
    file = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[name].replace(".", f"-{kind}.", 1)
    if not (HERE / "peers" / file).exists():
        file = file.replace("grpc", "http2")
    if not (HERE / "peers" / file).exists():
        raise Failure(f"{name} has no {kind} to its upstream")
    return fill(file, values), file.rsplit(".", 1)[1]


def command(name, config, values):
    if name == "weir_quiet":
        return weir_command(config, values, "--no-metrics")
    if name.startswith("weir"):
        return weir_command(config, values)
    if name == "envoy":
        return [program("envoy"), "-c", config, *ENVOY_FLAGS]
    if name == "envoy_mesh":
        # As the agent starts it: the supervisor runs Envoy and receives its access logs.
        state = Path(config).parent / f"state-{values['PORT']}"
        return [weir(), "envoy-supervisor", "-c", config, "--metrics-address", f"127.0.0.1:{values['METRICS']}",
                "--state-dir", state, "--envoy", program("envoy"), "--drain-seconds", "1"]
    if name == "haproxy":
        return [program("haproxy"), "-db", "-f", config]
    return [program("nginx"), "-c", config, "-p", Path(config).parent]


def own_copy(machine, name, program_path):
    """A copy of a program that no other process runs: PSS would divide its pages by the number of those who do."""
    copy = machine.directory / f"{name}-program"
    if not copy.exists():
        shutil.copy(program_path, copy)
    return copy


def start(machine, name, kind, upstream, text=None, alone=False):
    """Starts a peer for a kind of traffic; returns when its port is open. `alone`: from a copy of its program."""
    values = {"PORT": machine.free_port(), "ADMIN": machine.free_port(), "METRICS": machine.free_port(), "UPSTREAM": upstream,
              "DIR": machine.directory}
    made, ending = text(values) if text else configuration(name, kind, values)
    config = machine.directory / f"{name}-{kind}-{values['PORT']}.{ending}"
    config.write_text(made)
    first, *rest = command(name, config, values)
    if alone:
        first = own_copy(machine, name, first)
    process = machine.start(f"{name}-{values['PORT']}", [first, *rest], PROXY_CORE)
    try:
        machine.wait_for(f"{name} ({kind})", lambda: accepts(values["PORT"]), process, 60, 0.002)
    except Failure:
        machine.stop(process)
        raise
    # `taskset` becomes the program that it starts, so the process is the proxy; under the supervisor it is its child.
    running = Running(name, process, process.pid, values["PORT"], values["ADMIN" if name == "envoy" else "METRICS"])
    if name == "envoy_mesh":
        running.supervisor = process.pid
        [running.pid] = children(process.pid)
    return running
