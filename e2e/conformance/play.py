"""Plays one exchange through a proxy, over sockets of its own, and says what came out.

Each exchange has a listener of the proxy and an upstream for itself, so that nothing is shared and all can run at once.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import socket
import struct

from exchanges import Exchange, Expectation, Step
from messages import Body, Head, Malformed, take_head

STEP_SECONDS = 6.0
# How long a sender must make no progress to count as held back.
HELD_SECONDS = 0.4
PROBE = b"GET /still-open HTTP/1.1\r\nHost: probe\r\n\r\n"
PROBE_LINE = b"GET /still-open HTTP/1.1"
PROBE_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstill"


class Mismatch(AssertionError):
    """The proxy did something else than the exchange allows."""


@dataclasses.dataclass
class Outcome:
    passed: bool
    trail: list[str]
    problem: str = ""

    def __str__(self) -> str:
        return ", ".join(self.trail) or "-" if self.passed else self.problem


class Link:
    """One connection to the proxy, from either side. Reads in the background unless paused."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, changed: asyncio.Event):
        self.reader, self.writer, self.changed = reader, writer, changed
        self.buffer = bytearray()
        self.received = 0
        self.sent = 0
        self.eof = False
        self.was_reset = False
        self.body: Body | None = None
        self.running = asyncio.Event()
        self.running.set()
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        try:
            while True:
                await self.running.wait()
                data = await self.reader.read(1 << 16)
                if not data:
                    break
                self.received += len(data)
                self.buffer += data
                self.changed.set()
        except OSError:
            self.was_reset = True
        self.eof = True
        self.changed.set()

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        self.writer.write(data)

    def unsent(self) -> int:
        return self.writer.transport.get_write_buffer_size()

    def finish(self) -> None:
        """Sends the end of the stream and goes on reading."""
        if self.writer.can_write_eof() and not self.writer.is_closing():
            self.writer.write_eof()

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.task.cancel()
        self.writer.close()


def show(data: bytes | bytearray, most: int = 60) -> str:
    text = repr(bytes(data[:most]))[1:]
    return text if len(data) <= most else f"{text}... ({len(data)} bytes)"


def peek_head(link: Link, response: bool) -> Head | None:
    return take_head(copy.copy(link.buffer), response)


def whole_request(link: Link) -> bool:
    """Whether the unread bytes hold a request with all of its content."""
    rest = copy.copy(link.buffer)
    head = take_head(rest, response=False)
    if head is None:
        return False
    body = Body(head, response=False)
    body.feed(rest, link.eof)
    return body.done


class Play:
    def __init__(self, exchange: Exchange, listener: int):
        self.exchange, self.listener = exchange, listener
        self.changed = asyncio.Event()
        self.client: Link | None = None
        self.upstreams: list[Link] = []
        self.current: Link | None = None
        self.trail: list[str] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstreams.append(Link(reader, writer, self.changed))
        self.changed.set()

    async def wait(self, what: str, probe, seconds: float = STEP_SECONDS):
        """Waits until probe() gives something; what the proxy did so far is in the message when it never does."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            self.changed.clear()
            found = probe()
            if found is not None and found is not False:
                return found
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise Mismatch(f"no {what} ({self.state()})")
            try:
                await asyncio.wait_for(self.changed.wait(), left)
            except TimeoutError:
                continue

    def state(self) -> str:
        client = "client closed" if self.client.eof else "client open"
        waiting = [show(link.buffer, 40) for link in self.upstreams if link.buffer]
        told = f", client got {show(self.client.buffer, 40)}" if self.client.buffer else ""
        return f"{client}{told}, upstream got {' and '.join(waiting) or 'nothing more'}"

    async def run(self, upstream: asyncio.Server | None) -> Outcome:
        problem = ""
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.listener), STEP_SECONDS)
            self.client = Link(reader, writer, self.changed)
            await self.steps(self.exchange.steps)
            if self.exchange.alternatives:
                await self.steps(await self.choose())
            self.nothing_left()
        except (Mismatch, Malformed) as error:
            problem = str(error)
        except OSError as error:
            problem = f"connection: {error}"
        finally:
            if upstream:
                upstream.close()
            for link in [*self.upstreams, *([self.client] if self.client else [])]:
                await link.close()
        return Outcome(not problem, self.trail, problem)

    async def choose(self) -> list[Step]:
        """The alternative that begins with what is seen first."""

        # Where the request may be cut, the upstream may see its head: only a whole request tells.
        may_cut = any(tail[0].verb == "cut" for tail in self.exchange.alternatives)

        def first() -> tuple[str, Head | None] | None:
            self.settle()
            for link in self.upstreams:
                head = peek_head(link, response=False)
                if head and (not may_cut or whole_request(link)):
                    return "upstream", head
            head = peek_head(self.client, response=True)
            if head:
                return "answer", head
            return ("close", None) if self.client.eof else None

        kind, head = await self.wait("reaction", first)
        problems = []
        for tail in self.exchange.alternatives:
            step = tail[0]
            try:
                if kind == "upstream" and step.verb.startswith("upstream"):
                    self.check_head(step, head)
                elif kind == "answer" and step.verb.startswith(("answer", "cut")):
                    self.check_status(step, head)
                elif kind == "close" and (step.verb == "end" or b"close" in step.value.split(b"|")):
                    pass
                else:
                    continue
            except Mismatch as error:
                problems.append(str(error))
                continue
            return tail
        if problems:
            raise Mismatch("; ".join(problems))
        raise Mismatch(f"{kind} {head.start.decode(errors='replace')!r}" if head else "closed without a word")

    async def steps(self, steps: list[Step]) -> None:
        for step in steps:
            await getattr(self, "do_" + step.verb.replace("-", "_"))(step)

    # What is sent.

    async def do_client(self, step: Step) -> None:
        self.client.send(step.value)
        await asyncio.sleep(0)

    async def do_slowly(self, step: Step) -> None:
        await self.bytewise(self.client, step.value)

    async def do_reply(self, step: Step) -> None:
        self.current.send(step.value)
        await asyncio.sleep(0)

    async def do_reply_slowly(self, step: Step) -> None:
        await self.bytewise(self.current, step.value)

    async def bytewise(self, link: Link, data: bytes) -> None:
        for i in range(len(data)):
            link.send(data[i : i + 1])
            # Lets the other side read: each byte is a segment, and most are a read, of its own.
            await asyncio.sleep(0.001)

    async def do_client_does(self, step: Step) -> None:
        await self.act(self.client, step.value.decode())

    async def do_upstream_does(self, step: Step) -> None:
        await self.act(self.current, step.value.decode())

    async def act(self, link: Link, what: str) -> None:
        verb, _, argument = what.partition(" ")
        match verb:
            case "half-close":
                link.finish()
            case "close":
                link.writer.close()
            case "reset":
                link.reset()
            case "pause":
                link.running.clear()
            case "resume":
                link.running.set()
            case "see-close":
                await self.see_close(link)
            case "drip":
                await self.drip(link, *argument.split(" ", 2))
            case "see-final":
                await self.see_final(argument)
            case "held-back":
                await self.held_back(link, int(argument))
            case _:
                raise ValueError(f"unknown action {what!r}")

    async def drip(self, link: Link, times: str, pause: str, data: str) -> None:
        """Sends the same bytes again and again, slowly, until the proxy closes."""
        for _ in range(int(times)):
            await asyncio.sleep(float(pause))
            if link.eof:
                return
            link.send(data.encode("latin-1"))

    async def see_final(self, statuses: str) -> None:
        """Passes over interim answers; a close without a final one is allowed."""

        def final() -> str | None:
            while (head := take_head(self.client.buffer, response=True)) is not None:
                if head.status >= 200:
                    self.client.body = Body(head, response=True)
                    return str(head.status)
            return "close" if self.client.eof else None

        status = await self.wait(f"final answer {statuses}", final)
        if status not in statuses.split("|"):
            raise Mismatch(f"final answer {status} instead of {statuses}")
        self.trail.append(status)
        if status != "close":
            await self.whole("client", self.client, Expectation())

    async def see_close(self, link: Link) -> None:
        """The proxy ends a connection; content that was not complete stays so."""
        unfinished = link.body is not None and not link.body.done
        await self.wait(f"close of the connection after {show(link.buffer)}", lambda: link.eof)
        if unfinished and link.body.framing == "close" and not link.was_reset:
            raise Mismatch("a cut answer looks like a whole one")
        if unfinished:
            link.body.feed(link.buffer, eof=True)
            if link.body.done:
                raise Mismatch(f"the upstream took {show(link.body.data)} for whole")
            link.buffer.clear()
        self.trail.append("cut upstream")

    async def held_back(self, link: Link, most: int) -> None:
        """A sender is held back when the proxy takes no more from it, and has not taken more than `most`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STEP_SECONDS
        since, before = loop.time(), link.unsent()
        while loop.time() - since < HELD_SECONDS:
            await asyncio.sleep(0.02)
            now = link.unsent()
            if now != before:
                since, before = loop.time(), now
            if loop.time() > deadline:
                raise Mismatch("the sender is not held back")
        taken = link.sent - link.unsent()
        if link.unsent() == 0 or taken > most:
            raise Mismatch(f"the proxy took {taken} bytes that nobody reads, more than {most}")
        self.trail.append("held back")

    # What is seen by the upstream.

    def settle(self) -> None:
        """Content that is still coming belongs to its request: it is no request of its own."""
        for link in self.upstreams:
            if link.body is not None and not link.body.done:
                link.body.feed(link.buffer, link.eof)

    def next_request(self) -> tuple[Link, Head] | None:
        self.settle()
        for link in self.upstreams:
            if link.body is None or link.body.done:
                head = take_head(link.buffer, response=False)
                if head:
                    return link, head
        return None

    def seen_or_refused(self) -> tuple[Link, Head] | None:
        found = self.next_request()
        if found is None and self.client.eof and not self.client.buffer:
            raise Mismatch("closed, nothing forwarded")
        if found is None and self.client.buffer:
            answer = peek_head(self.client, response=True)
            if answer and answer.status >= 200:
                raise Mismatch(f"answered {answer.status}, nothing forwarded")
        return found

    async def do_upstream_head(self, step: Step) -> None:
        # A reset client sees nothing any more; all others would see a refusal.
        watch = self.next_request if self.client.writer.is_closing() else self.seen_or_refused
        self.current, head = await self.wait(f"request {step.value.decode(errors='replace')!r}", watch)
        self.current.body = Body(head, response=False)
        self.trail.append("forwarded")
        self.check_head(step, head)
        self.check_framing(step.expect, self.current.body)

    async def do_upstream(self, step: Step) -> None:
        await self.do_upstream_head(step)
        await self.do_upstream_end(step)

    async def do_upstream_body(self, step: Step) -> None:
        await self.content("upstream", self.current, step.value)

    async def do_upstream_end(self, step: Step) -> None:
        await self.whole("upstream", self.current, step.expect)

    async def do_upstream_raw(self, step: Step) -> None:
        await self.raw("upstream", self.current, step.value)

    # What is seen by the client.

    async def do_answer_head(self, step: Step) -> None:
        await self.answer(step, bodiless=False)

    async def do_answer(self, step: Step) -> None:
        bodiless = step.expect.framing == ["none"]
        if await self.answer(step, bodiless) is not None:
            await self.whole("client", self.client, step.expect)

    async def answer(self, step: Step, bodiless: bool) -> Head | None:
        may_close = b"close" in step.value.split(b"|")

        def next_head() -> Head | str | None:
            head = take_head(self.client.buffer, response=True)
            if head is None and self.current is None:
                for link in self.upstreams:
                    taken = peek_head(link, response=False)
                    if taken:
                        raise Mismatch(f"forwarded {show(taken.start)} {self.fields(taken)} instead of {step.value.decode()}")
            if head is None and self.client.eof:
                if may_close and not self.client.buffer:
                    return "closed"
                raise Mismatch(f"closed instead of an answer {step.value.decode()} {show(self.client.buffer)}")
            return head

        head = await self.wait(f"answer {step.value.decode()}", next_head)
        if head == "closed":
            return None
        self.trail.append(str(head.status))
        self.client.body = Body(head, response=True, bodiless=bodiless)
        self.check_status(step, head)
        self.check_framing(step.expect, self.client.body)
        return head

    async def do_answer_body(self, step: Step) -> None:
        await self.content("client", self.client, step.value)

    async def do_answer_end(self, step: Step) -> None:
        await self.whole("client", self.client, step.expect)

    async def do_answer_raw(self, step: Step) -> None:
        await self.raw("client", self.client, step.value)

    async def do_cut(self, step: Step) -> None:
        """The request is broken within its content: its head may be forwarded, but never as a whole request."""

        def answered() -> bool:
            for link in self.upstreams:
                if whole_request(link):
                    raise Mismatch(f"forwarded a broken request as a whole: {show(link.buffer[-40:])}")
            return self.client.eof or peek_head(self.client, response=True) is not None

        await self.wait(f"answer {step.value.decode()}", answered)
        self.current = self.upstreams[0] if self.upstreams else None
        await self.do_answer(step)
        for link in self.upstreams:
            if link.buffer:
                self.trail.append("cut upstream")
                await self.wait("close of the connection with half a request", lambda link=link: link.eof)
                if whole_request(link):
                    raise Mismatch(f"forwarded a broken request as a whole: {show(link.buffer[-40:])}")
                link.buffer.clear()

    async def do_end(self, step: Step) -> None:
        match step.value:
            case b"closed":
                await self.wait("close by the proxy", lambda: self.client.eof)
                if self.client.buffer:
                    raise Mismatch(f"bytes after the last answer: {show(self.client.buffer)}")
                self.trail.append("closed")
            case b"kept":
                await self.probe()
                self.trail.append("kept")
            case b"any":
                if self.client.buffer:
                    raise Mismatch(f"bytes after the last answer: {show(self.client.buffer)}")
            case other:
                raise ValueError(f"end: {other!r}")

    async def probe(self) -> None:
        """The connection is still open: one more request goes through it."""
        if self.client.buffer:
            raise Mismatch(f"bytes after the last answer: {show(self.client.buffer)}")
        self.client.send(PROBE)
        try:
            link, head = await self.wait("request on the kept connection", self.seen_or_refused)
        except Mismatch as error:
            raise Mismatch(f"connection not kept: {error}") from error
        if head.start != PROBE_LINE:
            raise Mismatch(f"{head.start!r} instead of the request on the kept connection")
        link.body = Body(head, response=False)
        link.send(PROBE_ANSWER)
        answer = await self.wait("answer on the kept connection", lambda: take_head(self.client.buffer, response=True))
        self.client.body = Body(answer, response=True)
        await self.whole("client", self.client, Expectation(body=b"still"))

    # Checks.

    def fields(self, head: Head) -> str:
        """The fields that tell something, for a message."""
        known = (b"content-length", b"transfer-encoding", b"host")
        return show(b", ".join(name + b": " + value for name, value in head.fields if name.lower() in known), 100)

    async def content(self, side: str, link: Link, wanted: bytes) -> None:
        """The content so far is exactly `wanted`."""

        def seen() -> bool:
            link.body.feed(link.buffer, link.eof)
            return len(link.body.data) >= len(wanted)

        await self.wait(f"{len(wanted)} bytes of content at the {side}", seen)
        if link.body.data != wanted:
            raise Mismatch(f"{side} got content {show(link.body.data)} instead of {show(wanted)}")

    async def whole(self, side: str, link: Link, expect: Expectation) -> None:
        def ended() -> bool:
            link.body.feed(link.buffer, link.eof)
            if not link.body.done and link.eof:
                raise Mismatch(f"{side}: closed within the content after {len(link.body.data)} bytes")
            return link.body.done

        await self.wait(f"end of the content at the {side}", ended)
        body = link.body
        if expect.body is not None and body.data != expect.body:
            raise Mismatch(f"{side} got content {show(body.data)} instead of {show(expect.body)}")
        trailers = [(name.lower(), value) for name, value in body.trailers]
        for name, value in expect.trailers:
            if (name.lower().encode(), value) not in trailers:
                raise Mismatch(f"{side} misses trailer {name}: {show(value)}")
        for name in expect.no_trailer:
            if any(field == name.lower().encode() for field, _ in trailers):
                raise Mismatch(f"{side} got trailer {name}")

    async def raw(self, side: str, link: Link, wanted: bytes) -> None:
        await self.wait(f"{show(wanted)} at the {side}", lambda: len(link.buffer) >= len(wanted) or link.eof)
        if not link.buffer.startswith(wanted):
            raise Mismatch(f"{side} got {show(link.buffer)} instead of {show(wanted)}")
        del link.buffer[: len(wanted)]
        self.trail.append("raw")

    def check_status(self, step: Step, head: Head) -> None:
        allowed = step.value.split(b"|")
        if str(head.status).encode() not in allowed:
            raise Mismatch(f"answered {head.status} instead of {step.value.decode()}")
        self.check_fields(step.expect, head)

    def check_head(self, step: Step, head: Head) -> None:
        if head.start != step.value:
            raise Mismatch(f"forwarded {show(head.start)} instead of {show(step.value)}")
        self.check_fields(step.expect, head)

    def check_framing(self, expect: Expectation, body: Body) -> None:
        if expect.framing and body.framing not in expect.framing:
            raise Mismatch(f"framing {body.framing} instead of {'|'.join(expect.framing)}")

    def check_fields(self, expect: Expectation, head: Head) -> None:
        for name, value in expect.present:
            if value not in head.values(name):
                raise Mismatch(f"{name} is {head.values(name)!r:.80} instead of {show(value)}")
        for name in expect.absent:
            if head.values(name):
                raise Mismatch(f"{name} is there: {head.values(name)!r:.80}")
        for name, number in expect.count:
            if len(head.values(name)) != number:
                raise Mismatch(f"{len(head.values(name))} times {name} instead of {number}")
        if expect.order:
            names = [name.decode() for name, _ in head.fields if name.decode() in expect.order]
            if names != expect.order:
                raise Mismatch(f"order {names} instead of {expect.order}")

    def nothing_left(self) -> None:
        """No request has reached the upstream that the exchange does not name."""
        self.settle()
        for link in self.upstreams:
            if link.buffer:
                raise Mismatch(f"upstream got more: {show(link.buffer)}")
