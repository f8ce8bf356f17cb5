"""An HTTP/1 upstream whose path says how it answers; it notes the requests that reach it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from messages import Body, Head, take_head

LARGE = 4 << 20
IDLE_SECONDS = 60.0


class Seen:
    """One request, and the connection it came on."""

    def __init__(self, head: Head, body: Body):
        self.head, self.body = head, body
        self.cut = False


class Upstream:
    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.seen: list[Seen] = []
        self.go = threading.Event()
        self.open: set[socket.socket] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self) -> None:
        self.go.set()
        for each in [self.listening, *self.open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def paths(self) -> list[bytes]:
        return [each.head.start.split(b" ")[1] for each in self.seen]

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.open.add(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        buffer = bytearray()
        connection.settimeout(IDLE_SECONDS)
        with contextlib.suppress(OSError), connection:
            while True:
                head = take_head(buffer, response=False)
                if head is None:
                    data = connection.recv(1 << 16)
                    if not data:
                        break
                    buffer += data
                    continue
                seen = Seen(head, Body(head, response=False))
                self.seen.append(seen)
                path = head.start.split(b" ")[1]
                if path == b"/early":
                    connection.sendall(b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
                    break
                if path == b"/hold":
                    self.go.wait(IDLE_SECONDS)
                seen.body.feed(buffer, False)
                while not seen.body.done:
                    data = connection.recv(1 << 16)
                    if not data:
                        seen.cut = True
                        return
                    buffer += data
                    seen.body.feed(buffer, False)
                if path == b"/cut":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
                    break
                if path == b"/wait":
                    connection.settimeout(0.05)
                    deadline = time.monotonic() + IDLE_SECONDS
                    while not self.go.is_set() and time.monotonic() < deadline:
                        try:
                            if not connection.recv(1 << 16):
                                seen.cut = True
                                return
                        except TimeoutError:
                            continue
                    connection.settimeout(IDLE_SECONDS)
                connection.sendall(self.answer(path, head, seen.body))
        self.open.discard(connection)

    def answer(self, path: bytes, head: Head, body: Body) -> bytes:
        match path:
            case b"/large":
                return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE
            case b"/trailers":
                return (
                    b"HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\nX-More: y\r\n\r\n"
                )
            case b"/204":
                return b"HTTP/1.1 204 No Content\r\nX-One: y\r\n\r\n"
            case b"/304":
                return b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n"
            case b"/hints":
                return b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            case b"/hop":
                return b"HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nX-Upper: Y\r\nContent-Length: 2\r\n\r\nok"
            case b"/echo":
                return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body.data) + bytes(body.data)
        if head.method == b"HEAD":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
