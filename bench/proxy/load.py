"""Load generators: wrk for HTTP/1 and TCP, h2load for HTTP/2 and gRPC. Each runs on the load's core and tells what it saw."""

import re
import statistics
import subprocess
from dataclasses import dataclass

from machine import LOAD_CORE, Failure, dies_with_us

UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


@dataclass
class Seen:
    """What a load generator saw."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    failed: int
    note: str = ""


def run(command, seconds):
    try:
        done = subprocess.run(["taskset", "-c", str(LOAD_CORE), *map(str, command)], capture_output=True, text=True,
                              timeout=seconds + 20, preexec_fn=dies_with_us, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[0]} did not end in {seconds + 20} s") from None
    if done.returncode != 0:
        raise Failure(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()[-300:]}")
    return done.stdout


def wrk(port, path, connections, seconds, close=False):
    header = ["-H", "Connection: close"] if close else []
    text = run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s", *header,
                f"http://127.0.0.1:{port}{path}"], seconds)
    count = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    if not count:
        raise Failure(f"wrk says: {text[-300:]}")

    def percentile(which):
        found = re.search(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m)$", text, re.M)
        return float(found[1]) * UNITS[found[2]] if found else float("nan")

    failures = [line.strip() for line in text.splitlines() if "Socket errors" in line or "Non-2xx" in line]
    failed = sum(int(n) for line in failures for n in re.findall(r"(?:connect|read|write|timeout|responses:?) (\d+)", line))
    return Seen(int(count[1]), float(count[2]) * UNITS[count[3]] / 1e6, percentile(50), percentile(99), failed, "; ".join(failures))


def h2load(port, path, connections, streams, seconds, log, message=None):
    extra = ["-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers"] if message else []
    log.unlink(missing_ok=True)
    text = run(["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}", *extra,
                f"http://127.0.0.1:{port}{path}"], seconds)
    count = re.search(r"requests: \d+ total, \d+ started, (\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored", text)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if not count or not codes:
        raise Failure(f"h2load says: {text[-300:]}")
    done = int(count[1])
    wrong = max(int(count[2]), sum(int(codes[n]) for n in (2, 3, 4)))
    times = sorted(int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines() if line)
    if not times:
        return Seen(0, seconds, float("nan"), float("nan"), max(wrong, 1), "no request was answered")
    return Seen(done, seconds, statistics.median(times), times[int(len(times) * 0.99)], wrong, codes[0] if wrong else "")
