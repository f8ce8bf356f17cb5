"""Sends HTTP requests as a scenario orders them, and tells what came back. Runs inside pods and on the host.

Enters: an order (`Order`) as JSON a line. Leaves: a line of JSON for each answer, in order of completion, and an empty line after an
order's last. Nothing but the standard library, and nothing about the mesh.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BODY_MAX = 4096


@dataclass
class Order:
    url: str
    # Where to connect, as host:port; without it to the URL's own.
    to: str | None = None
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    count: int = 1
    # Requests at the same time.
    concurrency: int = 1
    # A connection carries more than one request.
    keep: bool = False
    # Requests a second, of all together; without it as fast as they go.
    rate: float | None = None
    # Instead of a count: until standard input ends.
    until_closed: bool = False
    timeout: float = 15.0


class Connection:
    """One HTTP/1.1 connection; the certificate is taken as it comes, and told."""

    def __init__(self, order: Order):
        self.order = order
        url = urlsplit(order.url)
        self.tls = url.scheme == "https"
        port = url.port or (443 if self.tls else 80)
        host, _, connect_port = (order.to or f"{url.hostname}:{port}").rpartition(":")
        raw = socket.create_connection((host, int(connect_port)), order.timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.certificate = None
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            raw = context.wrap_socket(raw, server_hostname=url.hostname)
            self.certificate = hashlib.sha256(raw.getpeercert(binary_form=True)).hexdigest()
        self.http = http.client.HTTPConnection(url.netloc, timeout=order.timeout)
        # The socket is ours: http.client must neither open another one nor open one again by itself.
        self.http.sock = raw
        self.http.auto_open = 0
        self.path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self.host = url.netloc

    def ask(self) -> tuple[dict, bool]:
        """The answer, and whether the connection can carry another request."""
        headers = {"Host": self.host, **self.order.headers}
        if not self.order.keep:
            headers["Connection"] = "close"
        self.http.request(self.order.method, self.path, self.order.body, headers)
        response = self.http.getresponse()
        body = response.read()
        answer = {
            "status": response.status,
            "headers": [[name.lower(), value] for name, value in response.getheaders()],
            "body": body[:BODY_MAX].decode(errors="replace"),
            "bytes": len(body),
            "certificate": self.certificate,
        }
        return answer, self.order.keep and not response.will_close

    def close(self):
        self.http.close()


class Run:
    def __init__(self, order: Order):
        self.order = order
        self.lock = threading.Lock()
        self.taken = 0
        self.over = threading.Event()
        self.start = time.monotonic()

    def take(self) -> bool:
        """Whether there is another request to send; waits until it is due."""
        with self.lock:
            if self.over.is_set() or (not self.order.until_closed and self.taken >= self.order.count):
                return False
            ticket = self.taken
            self.taken += 1
        if self.order.rate:
            due = self.start + ticket / self.order.rate - time.monotonic()
            return not self.over.wait(max(due, 0))
        return True

    def tell(self, answer: dict):
        line = json.dumps(answer)
        with self.lock:
            print(line, flush=self.order.until_closed)

    def work(self):
        connection = None
        while self.take():
            begin, used, again = time.monotonic(), connection is not None, False
            try:
                connection = connection or Connection(self.order)
                answer, again = connection.ask()
            except (OSError, http.client.HTTPException) as error:
                answer = {"status": 0, "error": f"{type(error).__name__}: {error}", "headers": [], "body": ""}
            answer |= {"seconds": round(time.monotonic() - begin, 4), "at": round(time.time(), 3), "kept": used}
            if connection and not again:
                connection.close()
                connection = None
            self.tell(answer)

    def run(self):
        """Until all answers are told; where it is to go on until standard input ends, until then."""
        workers = [threading.Thread(target=self.work, daemon=True) for _ in range(self.order.concurrency)]
        for worker in workers:
            worker.start()
        if self.order.until_closed:
            sys.stdin.read()
            self.over.set()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    while order := sys.stdin.readline():
        Run(Order(**json.loads(order))).run()
        print(flush=True)
