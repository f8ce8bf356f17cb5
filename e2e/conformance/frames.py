"""HTTP/2 frames as bytes, and a client that sends whatever a test wants and notes what comes back. RFC 9113, RFC 7541."""

from __future__ import annotations

import dataclasses
import socket
import struct
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
WAIT_SECONDS = 8.0
Fields = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value: int, bits: int, first: int) -> bytes:
    """An integer with a prefix, RFC 7541 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out) + bytes([value])


def literal(name: bytes, value: bytes) -> bytes:
    """A field that is not put into the table, without Huffman coding: any bytes at all can be written so."""
    return b"\0" + integer(len(name), 7, 0) + name + integer(len(value), 7, 0) + value


def block(fields: Fields) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def request(path: bytes = b"/ok", method: bytes = b"GET", more: Fields | None = None) -> Fields:
    return [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path), *(more or [])]


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def error_name(code: int) -> str:
    return ERRORS[code] if code < len(ERRORS) else f"error {code}"


@dataclasses.dataclass
class Answer:
    """What came on one stream."""

    heads: list[list[tuple[bytes, bytes]]] = dataclasses.field(default_factory=list)
    body: bytearray = dataclasses.field(default_factory=bytearray)
    ended: bool = False
    reset: str = ""

    @property
    def final(self) -> list[tuple[bytes, bytes]] | None:
        return next((head for head in self.heads if self.status_of(head) >= 200), None)

    @staticmethod
    def status_of(head: list[tuple[bytes, bytes]]) -> int:
        return int(dict(head).get(b":status", b"0"))

    @property
    def status(self) -> int:
        return self.status_of(self.final) if self.final else 0

    @property
    def trailers(self) -> list[tuple[bytes, bytes]]:
        return self.heads[-1] if self.heads and b":status" not in dict(self.heads[-1]) else []


class Client:
    """A connection with prior knowledge. It acknowledges settings and, unless told otherwise, gives credit for data."""

    def __init__(self, port: int, settings: bytes = b"", preface: bytes | None = None, credit: bool = True, receive: int = 0):
        self.socket = socket.socket()
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.credit = credit
        self.buffer = bytearray()
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.settings_seen = self.acks = 0
        self.pings: list[bytes] = []
        self.goaways: list[tuple[str, int]] = []
        self.windows: dict[int, int] = {}
        self.closed = False
        self.pending: tuple[int, int, bytes] | None = None
        self.send(PREFACE + frame(SETTINGS, payload=settings) if preface is None else preface)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """A proxy that has closed the connection is seen when reading."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, BrokenPipeError):
            pass

    def frame(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.send(frame(kind, flags, stream, payload))

    def headers(self, stream: int, fields: Fields, flags: int = END_HEADERS | END_STREAM) -> None:
        self.frame(HEADERS, flags, stream, block(fields))

    def answer(self, stream: int) -> Answer:
        return self.answers.setdefault(stream, Answer())

    @property
    def error(self) -> str:
        """The error of the connection, if there is one."""
        return next((code for code, _ in self.goaways if code != "NO_ERROR"), "")

    def until(self, what: str, probe, seconds: float = WAIT_SECONDS):
        deadline = time.monotonic() + seconds
        while True:
            found = probe()
            if found:
                return found
            if self.closed:
                found = probe()
                if found:
                    return found
            left = deadline - time.monotonic()
            assert not self.closed, f"closed while waiting for {what}; {self.told()}"
            assert left > 0, f"waited {seconds:.0f} s for {what}; {self.told()}"
            self.read(left)

    def told(self) -> str:
        return f"goaway {self.goaways}, streams { {s: (a.status, a.reset, len(a.body), a.ended) for s, a in self.answers.items()} }"

    def read(self, seconds: float) -> None:
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        self.buffer += data
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big")
            payload = bytes(self.buffer[9 : 9 + length])
            del self.buffer[: 9 + length]
            self.take(kind, flags, stream, payload)

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert len(payload) <= 1 << 14, "a frame above the size that we allow"
        assert self.pending is None or (kind == CONTINUATION and stream == self.pending[0]), "a header block interrupted"
        assert self.settings_seen or kind == SETTINGS or kind == GOAWAY, f"the first frame is of type {kind}"
        if kind == SETTINGS and flags & ACK:
            assert not payload
            self.acks += 1
        elif kind == SETTINGS:
            self.settings_seen += 1
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                self.settings[name] = value
            self.frame(SETTINGS, ACK)
        elif kind == PING:
            if flags & ACK:
                self.pings.append(payload)
            else:
                self.frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            self.goaways.append((error_name(code), last))
        elif kind == RST_STREAM:
            self.answer(stream).reset = error_name(struct.unpack(">I", payload)[0])
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + struct.unpack(">I", payload)[0]
        elif kind == DATA:
            answer = self.answer(stream)
            padding = payload[0] + 1 if flags & PADDED else 0
            answer.body += payload[1 if padding else 0 : len(payload) - max(padding - 1, 0)]
            answer.ended |= bool(flags & END_STREAM)
            if self.credit and payload:
                more = struct.pack(">I", len(payload))
                self.send(frame(WINDOW_UPDATE, 0, 0, more) + (b"" if answer.ended else frame(WINDOW_UPDATE, 0, stream, more)))
        elif kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                padding = payload[0] if flags & PADDED else 0
                payload = payload[bool(flags & PADDED) + (5 if flags & PRIORITIZED else 0) : len(payload) - padding]
                self.pending = (stream, flags, payload)
            else:
                self.pending = (stream, self.pending[1], self.pending[2] + payload)
            if flags & END_HEADERS:
                _, first, whole = self.pending
                self.pending = None
                answer = self.answer(stream)
                answer.heads.append([(bytes(n), bytes(v)) for n, v in self.decoder.decode(whole, raw=True)])
                answer.ended |= bool(first & END_STREAM)

    def outcome(self, stream: int = 1) -> str:
        """What became of a stream: `goaway:CODE`, `rst:CODE`, `close`, or the status of its whole answer."""

        def known() -> str:
            if self.error:
                return f"goaway:{self.error}"
            answer = self.answer(stream)
            if answer.reset and not answer.ended:
                return f"rst:{answer.reset}"
            if answer.ended:
                return str(answer.status)
            return "close" if self.closed else ""

        return self.until(f"an outcome of stream {stream}", known)

    def get(self, stream: int, path: bytes = b"/ok") -> Answer:
        """A plain request, to see that the connection still works."""
        self.headers(stream, request(path))
        self.until(f"the answer on stream {stream}", lambda: self.answer(stream).ended)
        return self.answer(stream)
