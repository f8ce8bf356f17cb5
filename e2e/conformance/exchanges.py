"""Reads exchanges: what a client sends, what the upstream must see and answers, what the client must see.

An exchange file is plain text; README.md documents the format. Nothing here opens a socket.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "v": b"\v", "f": b"\f", "0": b"\0", "\\": b"\\", "{": b"{"}
TOKEN = re.compile(r"\\x([0-9A-Fa-f]{2})|\\(.)|\{(\d+)\*((?:[^}\\]|\\.)*)\}|(.)", re.DOTALL)
NOTES = ("envoy", "haproxy")
SENDING = ("client", "slowly", "reply", "reply-slowly")
EXPECTING = (
    "upstream", "upstream-head", "upstream-body", "upstream-end", "upstream-raw",
    "answer", "answer-head", "answer-body", "answer-end", "answer-raw", "end",
)
ACTIONS = ("client-does", "upstream-does")
MACROS = ("passes", "refused", "cut")


@dataclasses.dataclass
class Expectation:
    """What is asserted about one message beyond its first line."""

    present: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    absent: list[str] = dataclasses.field(default_factory=list)
    order: list[str] = dataclasses.field(default_factory=list)
    count: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    trailers: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    no_trailer: list[str] = dataclasses.field(default_factory=list)
    body: bytes | None = None
    framing: list[str] | None = None


@dataclasses.dataclass
class Step:
    verb: str
    value: bytes
    expect: Expectation = dataclasses.field(default_factory=Expectation)
    line: int = 0


@dataclasses.dataclass
class Exchange:
    name: str
    file: str
    why: str = ""
    profile: str = "plain"
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: list[Step] = dataclasses.field(default_factory=list)
    alternatives: list[list[Step]] = dataclasses.field(default_factory=list)


class BadFile(ValueError):
    """The exchange file is wrong, not the proxy."""


def unescape(text: str) -> bytes:
    """The bytes that a text of the file stands for."""
    out = bytearray()
    for match in TOKEN.finditer(text):
        code, letter, times, repeated, plain = match.groups()
        if code is not None:
            out.append(int(code, 16))
        elif letter is not None:
            if letter not in ESCAPES:
                raise BadFile(f"unknown escape \\{letter}")
            out += ESCAPES[letter]
        elif times is not None:
            out += unescape(repeated) * int(times)
        else:
            out += plain.encode()
    return bytes(out)


def assertion(expect: Expectation, text: str) -> None:
    """One indented line below an expectation."""
    if text.startswith("!trailer "):
        expect.no_trailer.append(text.removeprefix("!trailer ").strip())
        return
    if text.startswith("!"):
        expect.absent.append(text[1:].strip())
        return
    name, colon, value = text.partition(":")
    if not colon:
        raise BadFile(f"no colon in {text!r}")
    value = value.removeprefix(" ")
    match name:
        case "body":
            expect.body = unescape(value)
        case "order":
            expect.order = value.split()
        case "count":
            field, number = value.split()
            expect.count.append((field, int(number)))
        case "framing":
            expect.framing = value.split("|")
        case "trailer":
            field, _, content = value.partition(":")
            expect.trailers.append((field.strip(), unescape(content.strip())))
        case _:
            expect.present.append((name, unescape(value)))


def expand(step: Step) -> list[Step]:
    """The steps that a shorthand stands for."""
    if step.verb == "passes":
        return [
            Step("upstream", step.value, step.expect, step.line),
            Step("reply", OK, line=step.line),
            Step("answer", b"200", Expectation(body=b"ok"), step.line),
            Step("end", b"kept", line=step.line),
        ]
    if step.verb == "refused":
        return [Step("answer", step.value, step.expect, step.line), Step("end", b"closed", line=step.line)]
    if step.verb == "cut":
        return [step, Step("end", b"closed", line=step.line)]
    return [step]


def read(path: Path) -> list[Exchange]:
    """All exchanges of a file, in its order."""
    found: list[Exchange] = []
    target: list[Step] = []
    step: Step | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            if line.startswith("= "):
                step = None
                found.append(Exchange(line[2:].strip(), path.name))
                target = found[-1].steps
            elif not line.strip() or line.startswith("##"):
                continue
            elif not found:
                raise BadFile("text before the first exchange")
            elif line.startswith("# "):
                found[-1].why = f"{found[-1].why} {line[2:].strip()}".strip()
            elif line.startswith("  "):
                if step is None:
                    raise BadFile("an indented line belongs to a step")
                if step.verb in SENDING:
                    step.value += unescape(line[2:])
                else:
                    assertion(step.expect, line.strip())
            else:
                verb, colon, value = line.partition(":")
                value = value.strip()
                if verb in NOTES:
                    found[-1].notes[verb] = value
                elif verb == "profile":
                    found[-1].profile = value
                elif verb in ("either", "or"):
                    target = []
                    found[-1].alternatives.append(target)
                    step = None
                elif colon and verb in SENDING + EXPECTING + ACTIONS + MACROS:
                    step = Step(verb, unescape(value), line=number)
                    target.append(step)
                else:
                    raise BadFile(f"unknown verb {verb!r}")
        except (BadFile, ValueError) as error:
            raise BadFile(f"{path.name}:{number}: {error}") from error
    for exchange in found:
        exchange.steps = [part for step in exchange.steps for part in expand(step)]
        exchange.alternatives = [[part for step in tail for part in expand(step)] for tail in exchange.alternatives]
        check(exchange)
    return found


def check(exchange: Exchange) -> None:
    """An exchange says why it exists and how it ends, so that nothing passes by asserting nothing."""
    where = f"{exchange.file}: {exchange.name}"
    if not exchange.why:
        raise BadFile(f"{where}: says not why")
    for tail in exchange.alternatives or [exchange.steps]:
        if not tail or tail[-1].verb != "end":
            raise BadFile(f"{where}: does not say how it ends")
        if exchange.alternatives and tail[0].verb not in ("upstream", "upstream-head", "answer", "answer-head", "cut", "end"):
            raise BadFile(f"{where}: an alternative must begin with what is seen")
    if exchange.alternatives and exchange.steps and exchange.steps[-1].verb == "end":
        raise BadFile(f"{where}: ends before its alternatives")


def read_all(folder: Path = HERE / "http1") -> list[Exchange]:
    """Every exchange of a folder; names are unique."""
    found = [exchange for path in sorted(folder.glob("*.txt")) for exchange in read(path)]
    names = [exchange.name for exchange in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadFile(f"names used twice: {', '.join(twice)}")
    return found
