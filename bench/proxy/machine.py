"""Processes of a measurement: started on a core, waited for with a time limit, accounted for, and ended.

What the operating system says about a process comes from /proc: CPU time from task/*/schedstat (nanoseconds that the scheduler gave
each thread, user and system together), the share of the kernel from stat (ticks), memory from smaps_rollup.
"""

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROXY_CORE, LOAD_CORE = 0, 1
TICK = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """A measurement that did not come about, and why."""


def dies_with_us():
    """In the child: whatever becomes of the benchmark, the child does not outlive it."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """All processes that a benchmark started, and its directory. Nothing is left when it is closed."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="weir-bench-")
        self.directory = Path(self.folder.name)
        self.running = []
        self.spinners = {}
        self.port = 20_000 + os.getpid() * 37 % 8_000

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            end(process)
        self.folder.cleanup()

    def free_port(self):
        """A port below the ephemeral ones that nobody listens on."""
        for _ in range(2_000):
            self.port += 1
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", self.port))
                    return self.port
                except OSError:
                    continue
        raise Failure("no free port")

    def start(self, name, command, core):
        """Starts a program on a core; what it says goes to NAME.log."""
        # A process group of its own, to end it whole; not a session: the scheduler shares a core among sessions first, so that a
        # spinner in another session would take half of it whatever its class.
        log = self.directory / f"{name}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                process_group=0, preexec_fn=dies_with_us,
            )
        process.log, process.began = log, began
        self.running.append(process)
        return process

    def stop(self, process):
        end(process)
        self.running.remove(process)

    def spin(self):
        """A spinner of the lowest class on each core: a core that never halts treats fast and slow proxies alike."""
        for core in (PROXY_CORE, LOAD_CORE):
            self.spinners[core] = self.start(f"spinner-{core}", ["chrt", "-i", "0", "sh", "-c", "while :; do :; done"], core)

    def wait_for(self, what, condition, process, seconds=20.0, pause=0.01):
        """Waits until the condition holds; a process that ends meanwhile, or the time limit, is a failure."""
        limit = time.monotonic() + seconds
        while not condition():
            if process.poll() is not None:
                raise Failure(f"{what}: ended with code {process.returncode}: {last_lines(process.log)}")
            if time.monotonic() > limit:
                raise Failure(f"{what}: not within {seconds:.0f} s: {last_lines(process.log)}")
            time.sleep(pause)


def end(process):
    """Ends a process with all that it started: asked first, then made to."""
    for sign, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
            if sign == signal.SIGTERM:
                # What it started may still be there.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            break
        except subprocess.TimeoutExpired:
            continue


def last_lines(log, count=3):
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-count:]) or "it said nothing"


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_us(pid):
    """CPU microseconds of all threads of a process since its start: (user and system, of these system)."""
    total = sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return total / 1000, int(fields[12]) / TICK * 1e6


def pss_kb(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise Failure(f"no Pss of process {pid}")
