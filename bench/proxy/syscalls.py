"""System calls a request: counted by strace in a run of its own, since it slows what it watches."""

import re
import shutil
import signal
import subprocess

import load
import peers
from machine import LOAD_CORE, Failure, dies_with_us

SECONDS = 3


def count(machine, upstream, names, report):
    """Counts on 32 keep-alive connections, after a warm-up without strace; attaching and parting are at rest."""
    if not shutil.which("strace"):
        report.fault("strace is not installed: make tools-bench")
        return
    report.line(f"\nsystem calls a request: 32 connections, /small\n  {'':12}{'calls':>8}  which")
    for name in names:
        running = None
        try:
            running = peers.start(machine, name, "http1", upstream)
            load.wrk(running.port, "/small", 32, 1)
            seen, calls = watch(machine, running)
            if seen.failed or not seen.requests:
                raise Failure(f"{seen.failed} FAILED of {seen.requests}: {seen.note}")
            each = {call: number / seen.requests for call, number in calls.items()}
            total = sum(each.values())
            which = ", ".join(f"{call} {number:.2f}" for call, number in sorted(each.items(), key=lambda e: -e[1]) if number >= 0.01)
            report.line(f"  {name:12}{total:8.2f}  {which}")
            report.value(f"proxy.h1_32.syscalls.{name}", f"{total:.2f}")
        except Failure as why:
            report.missing("syscalls", name, why)
        finally:
            if running:
                machine.stop(running.process)


def watch(machine, running):
    log = machine.directory / f"strace-{running.port}"
    command = ["taskset", "-c", str(LOAD_CORE), "strace", "-c", "-f", "-o", str(log), "-p", str(running.pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0, preexec_fn=dies_with_us)
    machine.running.append(strace)
    try:
        # It says so once it is attached.
        line = strace.stderr.readline()
        if "attached" not in line:
            raise Failure(f"strace: {line.strip()}")
        seen = load.wrk(running.port, "/small", 32, SECONDS)
        strace.send_signal(signal.SIGINT)
        strace.wait(20)
    finally:
        strace.stderr.close()
        machine.stop(strace)
    calls = {}
    for row in log.read_text().splitlines():
        found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", row)
        if found and found[2] != "total":
            calls[found[2]] = int(found[1])
    return seen, calls
