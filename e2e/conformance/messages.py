"""HTTP/1 messages, read as strictly as RFC 9112 allows: what a proxy emits is judged here too.

Enters: bytes that a proxy sent. Leaves: messages, or `Malformed`. It shares no code with any proxy under test.
"""

from __future__ import annotations

import dataclasses
import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/1\.[01]")
STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class Malformed(AssertionError):
    """The proxy sent bytes that are no HTTP/1 message."""


@dataclasses.dataclass
class Head:
    start: bytes
    fields: list[tuple[bytes, bytes]]

    def values(self, name: str | bytes) -> list[bytes]:
        wanted = (name.encode() if isinstance(name, str) else name).lower()
        return [value for field, value in self.fields if field.lower() == wanted]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]


def take_head(buffer: bytearray, response: bool) -> Head | None:
    """Takes a complete head off the buffer, or leaves it when it is not complete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > 4 << 20:
            raise Malformed("a head above 4 MiB")
        return None
    lines = bytes(buffer[:end]).split(b"\r\n")
    kind = STATUS_LINE if response else REQUEST_LINE
    if not kind.fullmatch(lines[0]):
        raise Malformed(f"bad start line {lines[0][:80]!r}")
    fields = []
    for line in lines[1:]:
        match = FIELD.fullmatch(line)
        if not match:
            raise Malformed(f"bad field line {line[:80]!r}")
        fields.append((match[1], match[2]))
    del buffer[: end + 4]
    return Head(lines[0], fields)


def take_fields(buffer: bytearray) -> list[tuple[bytes, bytes]] | None:
    """Takes a trailer section off the buffer."""
    if buffer[:2] == b"\r\n":
        del buffer[:2]
        return []
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    fields = []
    for line in bytes(buffer[:end]).split(b"\r\n"):
        match = FIELD.fullmatch(line)
        if not match:
            raise Malformed(f"bad trailer line {line[:80]!r}")
        fields.append((match[1], match[2]))
    del buffer[: end + 4]
    return fields


class Body:
    """The content that follows a head, decoded as it comes."""

    def __init__(self, head: Head, response: bool, bodiless: bool = False):
        self.data = bytearray()
        self.trailers: list[tuple[bytes, bytes]] = []
        self.done = False
        self.left: int | None = None
        lengths = head.values("content-length")
        codings = head.values("transfer-encoding")
        if lengths and codings:
            raise Malformed("both Content-Length and Transfer-Encoding")
        if len(lengths) > 1 or any(not re.fullmatch(rb"[0-9]+", value) for value in lengths):
            raise Malformed(f"bad Content-Length {lengths!r}")
        if bodiless or (response and (head.status < 200 or head.status in (204, 304))):
            if codings and response and head.status < 300 and (head.status < 200 or head.status == 204):
                raise Malformed(f"Transfer-Encoding in a {head.status}")
            self.framing = "none"
            self.done = True
        elif codings:
            if [value.lower() for value in codings] != [b"chunked"]:
                raise Malformed(f"Transfer-Encoding {codings!r}")
            self.framing = "chunked"
        elif lengths:
            self.framing = "length"
            self.left = int(lengths[0])
            self.done = self.left == 0
        elif response:
            self.framing = "close"
        else:
            self.framing = "none"
            self.done = True

    def feed(self, buffer: bytearray, eof: bool) -> None:
        """Takes off the buffer what belongs to this body."""
        while not self.done:
            if self.framing == "close":
                self.data += buffer
                buffer.clear()
                self.done = eof
                return
            if self.left is not None:
                piece = buffer[: self.left]
                self.data += piece
                del buffer[: len(piece)]
                self.left -= len(piece)
                if self.left:
                    return
                if self.framing == "length":
                    self.done = True
                    return
                if len(buffer) < 2:
                    return
                if buffer[:2] != b"\r\n":
                    raise Malformed(f"chunk is followed by {bytes(buffer[:8])!r}")
                del buffer[:2]
                self.left = None
            end = buffer.find(b"\r\n")
            if end < 0:
                return
            match = CHUNK.fullmatch(bytes(buffer[:end]))
            if not match:
                raise Malformed(f"bad chunk size {bytes(buffer[:end])[:40]!r}")
            size = int(match[1], 16)
            if size == 0:
                rest = buffer[end + 2 :]
                fields = take_fields(rest)
                if fields is None:
                    return
                self.trailers = fields
                buffer[:] = rest
                self.done = True
                return
            del buffer[: end + 2]
            self.left = size
