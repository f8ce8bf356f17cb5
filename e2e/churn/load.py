"""Steady load of several kinds, every answer verified. Runs in the churn's client pods, and on the host for the gateway.

Enters: which kinds, where to, how many requests a second. Leaves: lines of JSON: a failure as it happens, the totals every half second. A
client of the kind that applications have: it takes a new connection when the old one was closed before a request, and sends a request
again only where its protocol says that nobody has seen it. Everything else that is not the right answer is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import os
import socket
import ssl
import struct
import sys
import time

TIMEOUT = 10.0
BODY = bytes(range(97, 123)) * 800
FAILURES_TOLD = 200
STREAM_SECONDS = 15


class Failure(Exception):
    """Not the answer that was asked for."""

    def __init__(self, what: str, **more):
        super().__init__(what)
        self.more = more


class Ledger:
    def __init__(self):
        self.totals: dict[str, dict[str, int]] = {}
        self.open: dict[int, float] = {}
        self.tickets = itertools.count()
        self.told = 0

    @contextlib.asynccontextmanager
    async def count(self, kind: str, what: str):
        counts = self.totals.setdefault(kind, {"sent": 0, "good": 0, "failed": 0, "again": 0})
        counts["sent"] += 1
        ticket, begin = next(self.tickets), time.time()
        self.open[ticket] = begin
        try:
            async with asyncio.timeout(TIMEOUT + (STREAM_SECONDS if kind == "tcp" else 0)):
                yield counts
            counts["good"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the request met
            counts["failed"] += 1
            self.told += 1
            if self.told <= FAILURES_TOLD:
                more = getattr(error, "more", {})
                tell({"failure": {"at": time.time(), "began": begin, "kind": kind, "request": what, "error": f"{type(error).__name__}: {error}", **more}})
        finally:
            del self.open[ticket]

    async def report(self):
        while True:
            await asyncio.sleep(0.5)
            oldest = time.time() - min(self.open.values(), default=time.time())
            tell({"totals": self.totals, "oldest": round(oldest, 2)})


def tell(line: dict):
    print(json.dumps(line), flush=True)


def variety(number: int) -> tuple[str, str, bytes]:
    """Method, path and body of the n-th request: most are small, some take long, some are large."""
    match number % 10:
        case 3:
            return "GET", "/?size=60000", b""
        case 6:
            return "GET", "/?delay=400ms", b""
        case 8:
            return "POST", "/", BODY
        case _:
            return "GET", "/", b""


def verify(status: int, headers: dict[str, str], body: bytes, path: str, sent: bytes):
    """An answer of the echo application to just this request."""
    told = {"status": status, "headers": headers, "body": body[:300].decode(errors="replace")}
    if status != 200:
        raise Failure(f"status {status}", **told)
    try:
        echo = json.loads(body)
    except ValueError:
        raise Failure(f"the body of {len(body)} bytes is cut or not the application's", **told) from None
    padding = len(echo.get("padding", ""))
    if echo["path"] != path or echo["body_bytes"] != len(sent) or padding != (60000 if "size" in path else 0):
        raise Failure("the answer is to another request", **told)


class Http1:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer, self.used = reader, writer, 0

    @classmethod
    async def connect(cls, options):
        return cls(*await connect(options, options.web, "http/1.1"))

    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing() and self.used < 200

    async def ask(self, host: str, number: int, keep: bool) -> bool:
        """Whether the connection can carry one more."""
        method, path, body = variety(number)
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nx-number: {number}\r\n"
        head += f"Content-Length: {len(body)}\r\n" if body else ""
        head += "\r\n" if keep else "Connection: close\r\n\r\n"
        self.used += 1
        self.writer.write(head.encode() + body)
        try:
            await self.writer.drain()
            status, headers, answer = await self.read()
        except asyncio.IncompleteReadError as error:
            raise Failure(f"closed under request {self.used} of the connection, {len(error.partial)} bytes of an answer came") from None
        except ConnectionError as error:
            raise Failure(f"{error} under request {self.used} of the connection") from None
        verify(status, headers, answer, path, body)
        return keep and headers.get("connection", "").lower() != "close"

    async def read(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() != "chunked":
            headers["connection"] = "close"
            return status, headers, await self.reader.read()
        body = b""
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return status, headers, body

    def close(self):
        self.writer.close()


@functools.cache
def tls_context(protocol: str) -> ssl.SSLContext:
    """Made once: a connection is not to cost this client more than the handshake. Whose the certificate is has its own tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


async def connect(options, target, protocol: str | None = None):
    """TLS, where it is asked for, is for connections that speak a protocol of HTTP."""
    host, _, port = target.rpartition(":")
    more = {}
    if options.tls and protocol:
        more = {"ssl": tls_context(protocol), "server_hostname": options.host}
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20, **more)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, writer


async def kept(ledger: Ledger, options, number: int):
    """HTTP/1.1, connections used again and again."""
    connection = None
    for turn in itertools.count(number):
        async with ledger.count("http1 kept", "{} {}".format(*variety(turn))):
            using, connection = connection, None
            if using and not using.usable():
                using.close()
                using = None
            using = using or await Http1.connect(options)
            try:
                again = await using.ask(options.host, turn, True)
            except BaseException:
                using.close()
                raise
            if again:
                connection = using
            else:
                using.close()
        yield


async def fresh(ledger: Ledger, options, number: int):
    """HTTP/1.1, a connection a request."""
    for turn in itertools.count(number):
        async with ledger.count("http1 fresh", "{} {}".format(*variety(turn))):
            connection = await Http1.connect(options)
            try:
                await connection.ask(options.host, turn, False)
            finally:
                connection.close()
        yield


class Http2:
    """One HTTP/2 connection with prior knowledge, for GETs; several at the same time."""

    DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
    NEVER_SEEN = 7  # REFUSED_STREAM

    @classmethod
    async def connect(cls, options):
        import hpack

        self = cls()
        self.reader, self.writer = await connect(options, options.web, "h2")
        self.decoder, self.encoder = hpack.Decoder(), hpack.Encoder()
        self.next, self.streams, self.going = 1, {}, False
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20)) + self.frame(self.WINDOW, 0, 0, struct.pack(">I", 1 << 20)))
        self.task = asyncio.create_task(self.read())
        return self

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def usable(self):
        return not self.going and not self.task.done()

    async def ask(self, host: str, number: int):
        """Raises `Unseen` where the protocol says that the request was not processed."""
        _, path, _ = variety(number if number % 10 != 8 else 0)
        stream, self.next = self.next, self.next + 2
        answer = self.streams[stream] = {"done": asyncio.get_running_loop().create_future(), "headers": None, "body": bytearray()}
        block = self.encoder.encode([(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path), ("x-number", str(number))])
        self.writer.write(self.frame(self.HEADERS, 0x5, stream, block))
        try:
            await answer["done"]
        finally:
            self.streams.pop(stream, None)
            if self.going and not self.streams:
                self.writer.close()
        headers = answer["headers"]
        verify(int(headers.pop(":status")), headers, bytes(answer["body"]), path, b"")

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF
                self.take(kind, flags, stream, await self.reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.going = True
            for stream, answer in list(self.streams.items()):
                if not answer["done"].done():
                    answer["done"].set_exception(Failure(f"the connection ended under stream {stream}: {type(error).__name__}"))
            self.writer.close()

    def take(self, kind, flags, stream, payload):
        answer = self.streams.get(stream)
        if kind == self.HEADERS:
            if flags & 0x8:
                payload = payload[1 : len(payload) - payload[0]]
            assert flags & 0x4, "continuation frames are not expected of small heads"
            fields = dict(self.decoder.decode(payload))
            if answer and answer["headers"] is None:
                answer["headers"] = fields
        elif kind == self.DATA:
            if answer:
                answer["body"] += payload[1 : len(payload) - payload[0]] if flags & 0x8 else payload
            if payload:
                credit = struct.pack(">I", len(payload))
                self.writer.write(self.frame(self.WINDOW, 0, 0, credit) + (b"" if flags & 1 else self.frame(self.WINDOW, 0, stream, credit)))
        elif kind == self.SETTINGS and not flags & 1:
            self.writer.write(self.frame(self.SETTINGS, 1, 0))
        elif kind == self.PING and not flags & 1:
            self.writer.write(self.frame(self.PING, 1, 0, payload))
        elif kind == self.GOAWAY:
            self.going = True
            last = int.from_bytes(payload[:4]) & 0x7FFFFFFF
            for other, waiting in self.streams.items():
                if other > last and not waiting["done"].done():
                    waiting["done"].set_exception(Unseen("GOAWAY"))
        elif kind == self.RST and answer and not answer["done"].done():
            code = int.from_bytes(payload)
            answer["done"].set_exception(Unseen("REFUSED_STREAM") if code == self.NEVER_SEEN else Failure(f"stream {stream} reset with error {code}"))
            return
        if kind in (self.HEADERS, self.DATA) and flags & 1 and answer and not answer["done"].done():
            answer["done"].set_result(None)


class Unseen(Exception):
    """The server says that it did not process the request."""


class Http2Pool:
    """One connection that all workers share; another when it ends."""

    def __init__(self, options):
        self.options, self.connection, self.lock = options, None, asyncio.Lock()

    async def get(self):
        async with self.lock:
            if self.connection is None or not self.connection.usable():
                self.connection = await Http2.connect(self.options)
            return self.connection


async def http2(ledger: Ledger, options, number: int):
    options.pool = pool = getattr(options, "pool", None) or Http2Pool(options)
    for turn in itertools.count(number):
        async with ledger.count("http2", variety(turn)[1]) as counts:
            for _ in range(3):
                connection = await pool.get()
                try:
                    await connection.ask(options.host, turn)
                    break
                except Unseen:
                    counts["again"] += 1
            else:
                raise Failure("refused three times")
        yield


async def grpc_calls(ledger: Ledger, options, number: int):
    """gRPC: most calls are unary over a kept channel; now and then one streams, and the channel is a new one."""
    import grpc

    channel = grpc.aio.insecure_channel(options.calls)
    for turn in itertools.count(number):
        what = "Count" if turn % 10 == 4 else "Echo"
        async with ledger.count("grpc", what):
            try:
                if what == "Echo":
                    sent = BODY if turn % 10 == 8 else str(turn).encode()
                    answer = await channel.unary_unary("/churn.Calls/Echo")(sent, timeout=TIMEOUT)
                    if answer != sent:
                        raise Failure("the answer is to another request")
                else:
                    got = [int(message) async for message in channel.unary_stream("/churn.Calls/Count")(b"10", timeout=TIMEOUT)]
                    if got != list(range(10)):
                        raise Failure(f"the stream ended after {len(got)} of 10 messages")
            except grpc.aio.AioRpcError as error:
                raise Failure(f"{error.code().name}: {error.details()}", debug=error.debug_error_string()[:500]) from None
        if turn % 50 == 49:
            await channel.close()
            channel = grpc.aio.insecure_channel(options.calls)
        yield


async def tcp(ledger: Ledger, options, number: int):
    """TCP: a stream for a while, each byte verified, ended in order."""
    while True:
        sent = verified = 0
        async with ledger.count("tcp", f"a stream of {STREAM_SECONDS} s"):
            reader, writer = await connect(options, options.sink)
            try:
                end = time.monotonic() + STREAM_SECONDS
                while time.monotonic() < end:
                    message = os.urandom(512)
                    writer.write(message)
                    await writer.drain()
                    sent += len(message)
                    if await asyncio.wait_for(reader.readexactly(len(message)), TIMEOUT) != message:
                        raise Failure(f"other bytes came back after {verified}")
                    verified += len(message)
                    await asyncio.sleep(0.1)
                writer.write_eof()
                if more := await asyncio.wait_for(reader.read(), TIMEOUT):
                    raise Failure(f"{len(more)} bytes came that were never sent")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise Failure(f"cut after {verified} bytes: {type(error).__name__}") from None
            finally:
                writer.close()
        yield


KINDS = {"kept": (kept, 2, 1.0), "fresh": (fresh, 2, 0.5), "http2": (http2, 4, 1.0), "grpc": (grpc_calls, 2, 0.5), "tcp": (tcp, 2, None)}


async def worker(kind, ledger, options, number, workers, share):
    """Sends at its part of the rate; what is late is not made up for in a burst."""
    interval = workers / (options.rate * share) if share else 0.0
    due = time.monotonic() + interval * number / workers
    async for _ in kind(ledger, options, number * 7):
        due = max(due + interval, time.monotonic() - 1)
        await asyncio.sleep(max(due - time.monotonic(), 0))


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", required=True)
    parser.add_argument("--rate", type=float, default=20, help="requests a second, of each kind about so many")
    parser.add_argument("--web", default="web:80")
    parser.add_argument("--host", default="web")
    parser.add_argument("--tls", action="store_true", help="HTTP over TLS")
    parser.add_argument("--calls", default="calls:50051")
    parser.add_argument("--sink", default="sink:7000")
    options = parser.parse_args()
    ledger = Ledger()
    tasks = [asyncio.create_task(ledger.report())]
    for name in options.kinds.split(","):
        kind, workers, share = KINDS[name]
        tasks += [asyncio.create_task(worker(kind, ledger, options, number, workers, share)) for number in range(workers)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    sys.exit(f"a worker ended: {[task.exception() for task in done]}")


if __name__ == "__main__":
    asyncio.run(main())
