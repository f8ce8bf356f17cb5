"""The cases that are timed: CPU a request, requests a second, latency. Peers take turns, and the median of their runs counts.

A ratio is the median of the ratios of each round, whose runs stand side by side: what disturbs a round disturbs both.
"""

import statistics
import time
from dataclasses import dataclass, field

import load
import peers
from machine import LOAD_CORE, PROXY_CORE, Failure, accepts, cpu_us

LARGE_BYTES = 64 << 10
ALL = ["weir", "envoy", "haproxy", "nginx", "envoy_mesh"]


@dataclass
class Case:
    """One shape of traffic."""

    name: str
    kind: str
    connections: int
    path: str = "/small"
    streams: int = 0
    close: bool = False
    peers: list = field(default_factory=lambda: list(ALL))


CASES = [
    # All filters against the leanest configuration, and metrics on against off, are told apart in this case.
    Case("h1_32", "http1", 32, peers=[*ALL, "weir_lean", "weir_quiet", "weir_filters"]),
    Case("h1_256", "http1", 256),
    Case("h1_64k", "http1", 32, path="/large"),
    Case("h1_close", "http1", 32, close=True),
    Case("h2_32x10", "http2", 10, streams=32),
    Case("grpc", "grpc", 10, path="/bench.Echo/Unary.grpc", streams=32),
    Case("tcp_64k", "tcp", 32, path="/large"),
]


@dataclass
class Run:
    """What one run cost."""

    seen: load.Seen
    cpu: float
    system: float
    supervisor: float


class Upstreams:
    """The servers behind the proxies, on the load's core: nginx for HTTP/1 and TCP, nghttpd for HTTP/2 and gRPC."""

    def __init__(self, machine):
        files = machine.directory / "files"
        (files / "bench.Echo").mkdir(parents=True)
        (files / "large").write_bytes(b"x" * LARGE_BYTES)
        (files / "small").write_bytes(b"x" * 100)
        # A gRPC message: not compressed, two bytes long.
        self.message = files / "bench.Echo" / "Unary.grpc"
        self.message.write_bytes(b"\0\0\0\0\x02hi")
        (machine.directory / "types").write_text("application/grpc grpc\n")
        values = {"PORT": machine.free_port(), "DIR": machine.directory}
        config = machine.directory / "upstream.conf"
        config.write_text(peers.fill("upstream.conf", values))
        plain, second, calls = values["PORT"], machine.free_port(), machine.free_port()
        started = [
            (plain, machine.start("upstream", [peers.program("nginx"), "-c", config, "-p", machine.directory], LOAD_CORE)),
            (second, self.nghttpd(machine, second, files, [])),
            (calls, self.nghttpd(machine, calls, files, ["--trailer=grpc-status: 0", f"--mime-types-file={machine.directory}/types"])),
        ]
        for port, process in started:
            machine.wait_for("upstream", lambda port=port: accepts(port), process)
        self.ports = {"http1": plain, "tcp": plain, "http2": second, "grpc": calls}

    @staticmethod
    def nghttpd(machine, port, files, flags):
        flags = ["--no-tls", "-n1", "-a", "127.0.0.1", "-d", files, "-m", "1000", *flags, port]
        return machine.start(f"upstream-{port}", [peers.program("nghttpd"), *flags], LOAD_CORE)


def shoot(machine, case, port, seconds, message):
    if case.streams:
        log = machine.directory / "h2load.log"
        return load.h2load(port, case.path, case.connections, case.streams, seconds, log, message if case.kind == "grpc" else None)
    return load.wrk(port, case.path, case.connections, seconds, case.close)


def one_run(machine, case, running, seconds, message):
    before, system = cpu_us(running.pid)
    other = cpu_us(running.supervisor)[0] if running.supervisor else 0.0
    seen = shoot(machine, case, running.port, seconds, message)
    after, system_after = cpu_us(running.pid)
    count = max(seen.requests, 1)
    supervisor = (cpu_us(running.supervisor)[0] - other) / count if running.supervisor else 0.0
    return Run(seen, (after - before) / count, (system_after - system) / count, supervisor)


def core_us(machine, running):
    """CPU microseconds of all of ours on the proxies' core, the spinner among them."""
    pids = [machine.spinners[PROXY_CORE].pid] + [one.pid for one in running] + [one.supervisor for one in running if one.supervisor]
    return sum(cpu_us(pid)[0] for pid in pids)


def measure(machine, upstreams, case, wanted, runs, seconds, report):
    """Runs a case over its peers; returns the runs of each peer that had no failed request, by round, and the direct ones."""
    running, results, direct = [], {}, []
    upstream = upstreams.ports[case.kind]
    message = upstreams.message
    try:
        for name in wanted:
            try:
                one = peers.start(machine, name, case.kind, upstream)
            except Failure as why:
                report.missing(case.name, name, why)
                continue
            running.append(one)
            shoot(machine, case, one.port, 1, message)
        began, ours = time.monotonic(), core_us(machine, running)
        for number in range(runs):
            seen = shoot(machine, case, upstream, seconds, message)
            report.check(case.name, "direct", seen)
            direct.append(seen)
            for one in running:
                run = one_run(machine, case, one, seconds, message)
                report.progress(f"{case.name} run {number + 1}/{runs} {one.name}: {run.cpu:.1f} us, {run.seen.requests / run.seen.seconds:.0f} rps")
                if report.check(case.name, one.name, run.seen):
                    results.setdefault(one.name, {})[number] = run
        # The spinner takes all that nobody else wants, so what is missing went to programs that are none of ours.
        others = 1 - (core_us(machine, running) - ours) / 1e6 / (time.monotonic() - began)
    finally:
        for one in running:
            machine.stop(one.process)
    return results, direct, others


def ratio(results, first, second):
    """Median over the rounds in which both ran well."""
    rounds = results[first].keys() & results[second].keys()
    return statistics.median(results[first][n].cpu / results[second][n].cpu for n in rounds) if rounds else None


def median(runs, figure):
    return statistics.median(figure(run) for run in runs)


def table(case, results, direct, others, report):
    """Prints the table of a case; returns the CPU a request of each peer."""
    p50, p99 = (median(direct, lambda s, f=f: getattr(s, f)) for f in ("p50_us", "p99_us"))
    report.line(f"\n{case.name}: {case.connections} connections" + (f" x {case.streams} streams" if case.streams else "") + f", {case.path}; other programs took {others:.0%} of the proxies' core")
    report.line(f"  {'':12}{'CPU us':>9}{'of it system':>14}{'spread':>14}{'rps':>9}{'p50 us over direct':>20}{'p99 us over direct':>20}")
    report.line(f"  {'direct':12}{'':>9}{'':>14}{'':>14}{median(direct, lambda s: s.requests / s.seconds):9.0f}{p50:20.0f}{p99:20.0f}  (absolute)")
    cpu = {}
    for name, by_round in results.items():
        runs = list(by_round.values())
        cpu[name] = median(runs, lambda r: r.cpu)
        spread = f"{min(r.cpu for r in runs):.1f}..{max(r.cpu for r in runs):.1f}"
        report.line(
            f"  {name:12}{cpu[name]:9.1f}{median(runs, lambda r: r.system):14.1f}{spread:>14}{median(runs, lambda r: r.seen.requests / r.seen.seconds):9.0f}"
            f"{median(runs, lambda r: r.seen.p50_us) - p50:20.0f}{median(runs, lambda r: r.seen.p99_us) - p99:20.0f}"
        )
        if runs[0].supervisor:
            report.line(f"  {'  its supervisor':12}{median(runs, lambda r: r.supervisor):5.1f}")
    return cpu
