"""What a proxy holds and how soon it serves: idle, with idle connections, with many destinations; and what its figures cost to read."""

import http.client
import multiprocessing
import os
import resource
import socket
import statistics
import time

import many
import peers
from machine import Failure, cpu_us, dies_with_us, pss_kb

NAMES = ["weir", "envoy", "haproxy", "nginx"]
CONNECTIONS = 1_000
ASKED = 200
RENDERS = 5
PACE_S = 0.001
QUIET_S = 0.5
READ_LIMIT_S = 120


def ask(port, host="bench", path="/small"):
    """One request on a connection of its own; its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def settled_pss_kb(pid):
    """PSS once it does not change any more by a hundredth, or after five seconds. Not of a start: Weir gives back what only that
    needed after two seconds."""
    time.sleep(3)
    last = pss_kb(pid)
    for _ in range(10):
        time.sleep(0.5)
        now = pss_kb(pid)
        if abs(now - last) * 100 < last:
            return now
        last = now
    return last


def answer_of(connection):
    """Reads one answer with a content length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            raise Failure("a connection was closed before its answer")
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        piece = connection.recv(65_536)
        if not piece:
            raise Failure("a connection was closed within its answer")
        body += piece
    return int(head.split()[1])


def idle(machine, upstream, names, report):
    """PSS without traffic, and with many connections that have had one request each and are kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, CONNECTIONS * 2 + 500), hard), hard))
    report.line(f"\nidle_{CONNECTIONS}: PSS kB\n  {'':12}{'idle':>10}{f'{CONNECTIONS} connections':>20}")
    for name in names:
        try:
            running = peers.start(machine, name, "http1", upstream, alone=True)
        except Failure as why:
            report.missing("idle", name, why)
            continue
        opened = []
        try:
            before = settled_pss_kb(running.pid)
            for _ in range(CONNECTIONS):
                connection = socket.create_connection(("127.0.0.1", running.port), timeout=10)
                opened.append(connection)
                connection.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
                if answer_of(connection) != 200:
                    raise Failure("a request was not answered with 200")
            after = settled_pss_kb(running.pid)
            report.line(f"  {name:12}{before:10}{after:20}")
            report.value(f"proxy.idle.pss_mb.{name}", f"{before / 1024:.1f}")
            report.value(f"proxy.idle_{CONNECTIONS}.pss_mb.{name}", f"{after / 1024:.1f}")
        except (Failure, OSError) as why:
            report.fault(f"idle_{CONNECTIONS}: {name}: {why}")
        finally:
            for connection in opened:
                connection.close()
            machine.stop(running.process)


def clusters(machine, upstream, count, names, report):
    """PSS, time to ready and whether requests are served, with many destinations."""
    report.line(f"\nclusters_{count}:\n  {'':12}{'PSS kB':>10}{'kB each':>10}{'ready s':>10}{'CPU s':>10}{'served':>12}")
    for name in names:
        running = None
        try:
            one = peers.start(machine, name, "http1", upstream, many.text(name, 1), alone=True)
            base = settled_pss_kb(one.pid)
            machine.stop(one.process)
            running = peers.start(machine, name, "http1", upstream, many.text(name, count), alone=True)
            last = many.HOST.format(count - 1)
            machine.wait_for(f"{name}: the last of {count} clusters", lambda: ask(running.port, last) == 200, running.process, 120, 0.005)
            ready, spent = time.monotonic() - running.process.began, cpu_us(running.pid)[0] / 1e6
            size = settled_pss_kb(running.pid)
            step = max(count // ASKED, 1)
            asked = range(0, count, step)
            served = sum(ask(running.port, many.HOST.format(number)) == 200 for number in asked)
            report.line(f"  {name:12}{size:10}{(size - base) / count:10.1f}{ready:10.2f}{spent:10.2f}{f'{served}/{len(asked)}':>12}")
            report.value(f"proxy.clusters_{count}.pss_mb.{name}", f"{size / 1024:.1f}")
            report.value(f"proxy.clusters_{count}.kb_each.{name}", f"{(size - base) / count:.2f}")
            report.value(f"proxy.clusters_{count}.ready_s.{name}", f"{ready:.2f}")
            report.value(f"proxy.clusters_{count}.ready_cpu_s.{name}", f"{spent:.2f}")
            if served != len(asked):
                report.fault(f"clusters_{count}: {name}: only {served} of {len(asked)} destinations were served")
            if name in ("weir", "envoy") and count >= 10_000:
                exposition(running, count, report)
        except (Failure, OSError) as why:
            report.missing(f"clusters_{count}", name, why)
        finally:
            if running:
                machine.stop(running.process)


def paced(port, host, over):
    """One connection that asks once a millisecond until told that it is over; how long each answer took, microseconds, sorted."""
    times_us = []
    request = f"GET /small HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        while not over():
            began = time.perf_counter()
            connection.sendall(request)
            if answer_of(connection) != 200:
                raise Failure("a request while figures are rendered was not answered with 200")
            times_us.append((time.perf_counter() - began) * 1e6)
            time.sleep(PACE_S)
    return sorted(times_us)


def page(port, path):
    """Reads a page without looking at it: its length, and seconds to its first byte and to its end. In small portions: a large one
    is copied in one go, for which the client that is timed would wait."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        began = time.monotonic()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        buffer, length, first = bytearray(64 << 10), 0, None
        while piece := connection.recv_into(buffer):
            first = first or time.monotonic() - began
            length += piece
        return length, first or 0.0, time.monotonic() - began


def read_pages(port, path, pipe):
    """A process of its own, and of the idle class, from which the core is taken at once, so that reading takes nothing from the requests
    that are timed. Reads a page each time that it is told to."""
    dies_with_us()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while pipe.recv():
        pipe.send(page(port, path))


def exposition(running, count, report):
    """How fast the page of all series is rendered, and how much longer requests take meanwhile.

    Rounds of quiet and of reading take turns. What disturbs the machine makes single requests late in both, so the median of the rounds'
    differences counts."""
    path = "/metrics" if running.name.startswith("weir") else "/stats/prometheus"
    page(running.admin, path)
    host = many.HOST.format(1)
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    reader = context.Process(target=read_pages, args=(running.admin, path, its), daemon=True)
    reader.start()
    its.close()
    pages, p99s, longest = [], [], []
    try:
        for _ in range(RENDERS):
            limit = time.monotonic() + READ_LIMIT_S
            began = time.monotonic()
            ours.send(True)
            loaded = paced(running.port, host, lambda limit=limit: ours.poll() or not reader.is_alive() or time.monotonic() > limit)
            if not ours.poll():
                raise Failure(f"{running.name}: {path} was not read in {READ_LIMIT_S} s")
            pages.append(ours.recv())
            over = time.monotonic() + max(time.monotonic() - began, QUIET_S)
            quiet = paced(running.port, host, lambda over=over: time.monotonic() > over)
            p99s.append(loaded[int(len(loaded) * 0.99)] - quiet[int(len(quiet) * 0.99)])
            longest.append(loaded[-1] - quiet[-1])
    except (EOFError, BrokenPipeError):
        raise Failure(f"{running.name}: {path} could not be read") from None
    finally:
        reader.kill()
        reader.join(5)
    length = pages[0][0]
    speeds = sorted(size / seconds / 1e6 for size, _, seconds in pages)
    first = statistics.median(first for _, first, _ in pages)
    p99, worst, speed = (statistics.median(figure) for figure in (p99s, longest, speeds))
    report.line(f"    {running.name}: {path} {length / 1e6:.1f} MB, first byte after {first * 1000:.0f} ms, {speed:.0f} MB/s "
                f"({speeds[0]:.0f}..{speeds[-1]:.0f}); requests meanwhile, medians of {RENDERS} pages: p99 {p99:+.0f} us, "
                f"longest {worst:+.0f} us ({min(longest):+.0f}..{max(longest):+.0f})")
    report.value(f"proxy.clusters_{count}.exposition_mb_s.{running.name}", f"{speed:.0f}")
    report.value(f"proxy.clusters_{count}.exposition_delay_p99_us.{running.name}", f"{p99:.0f}")
    report.value(f"proxy.clusters_{count}.exposition_delay_max_us.{running.name}", f"{worst:.0f}")
