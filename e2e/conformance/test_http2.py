"""HTTP/2 frames against our proxy's server side: prior knowledge from the client, HTTP/1.1 to the upstream. RFC 9113.

`WEIR_CONFORMANCE_PROXY=envoy` (or `haproxy`) plays the same frames through another proxy, to see that the suite is sane.
"""

import os
import select
import struct
import time
from pathlib import Path

import hpack
import pytest

from frames import (
    ACK, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, ERRORS, GOAWAY, HEADER_TABLE_SIZE, HEADERS,
    INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, PADDED, PING, PRIORITIZED, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, Client, block, frame, literal, request, setting,
)
from proxies import ENVOY, OURS, Proxy, free_ports
from upstream import LARGE, Upstream

KIND = os.environ.get("WEIR_CONFORMANCE_PROXY", OURS)
# A flood may cost the proxy this much memory, and no more.
FLOOD_BYTES = 32 << 20
# What may be on its way to an upstream that does not read: windows, and the buffers of the kernel.
HELD_BYTES = 128 << 20

PROTOCOL = {"goaway:PROTOCOL_ERROR"}
# The library behind our HTTP/2 says PROTOCOL_ERROR for every frame and header block that cannot be read, where the RFC has a
# closer word. The connection ends either way, and clients treat all of them alike.
SIZE = {"goaway:FRAME_SIZE_ERROR", "goaway:PROTOCOL_ERROR"}
COMPRESSION = {"goaway:COMPRESSION_ERROR", "goaway:PROTOCOL_ERROR"}
# A malformed request is a stream error of type PROTOCOL_ERROR (8.1.1), which may be raised to one of the connection
# (5.4.2); an answer of 400 may be sent before.
MALFORMED = {"rst:PROTOCOL_ERROR", "goaway:PROTOCOL_ERROR", "400"}


@pytest.fixture(scope="module")
def upstream():
    running = Upstream()
    yield running
    running.close()


@pytest.fixture(scope="module")
def proxy(upstream):
    running = Proxy(KIND, "plain", [(free_ports(1)[0], upstream.port)], codec="HTTP2").__enter__()
    yield running
    running.__exit__()


@pytest.fixture
def port(proxy, upstream):
    upstream.seen.clear()
    upstream.go.clear()
    yield proxy.pairs[0][0]
    upstream.go.set()
    assert proxy.alive(), proxy.log.read_text()[-2000:]


@pytest.fixture
def client(port):
    with Client(port) as connected:
        connected.until("settings", lambda: connected.settings_seen)
        yield connected


def code(error):
    return struct.pack(">I", ERRORS.index(error))


def changed(**fields):
    """A plain request with pseudo-fields replaced, or left out where None."""
    plain = dict(request())
    for name, value in fields.items():
        plain.pop(b":" + name.encode())
        if value is not None:
            plain[b":" + name.encode()] = value
    return list(plain.items())


def opened(c, path=b"/wait"):
    """A request that stays open."""
    c.headers(1, request(path))


def posting(c, more=None):
    """A request whose content is still to come."""
    c.headers(1, request(b"/echo", b"POST", more), END_HEADERS)


def with_length(c, length, data):
    posting(c, [(b"content-length", length)])
    c.frame(DATA, END_STREAM, 1, data)


def finished(c):
    """A stream that is closed on both sides."""
    c.get(1)


def was_reset(c):
    opened(c)
    c.frame(RST_STREAM, 0, 1, code("CANCEL"))


def both(*actions):
    def run(c):
        for action in actions:
            action(c)

    return run


def sends(kind, flags=0, stream=0, payload=b""):
    return lambda c: c.frame(kind, flags, stream, payload)


def asks(fields, flags=END_HEADERS | END_STREAM):
    return lambda c: c.headers(1, fields, flags)


def extra(*fields):
    return asks(request(more=list(fields)))


HALF = block(request())[:10], block(request())[10:]
# name, RFC 9113 section and reason, what is sent, what may come of it, the stream that is asked about
ERROR_CASES = [
    ("settings-with-stream", "6.5: on stream 0 only", sends(SETTINGS, 0, 1), PROTOCOL),
    ("settings-odd-length", "6.5: a multiple of six octets", sends(SETTINGS, 0, 0, b"12345"), SIZE),
    ("settings-ack-with-payload", "6.5: an ACK is empty", sends(SETTINGS, ACK, 0, setting(1, 1)), SIZE),
    ("settings-push-2", "6.5.2: 0 or 1", sends(SETTINGS, 0, 0, setting(ENABLE_PUSH, 2)), PROTOCOL),
    ("settings-window-large", "6.5.2: at most 2^31-1", sends(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1 << 31)), {"goaway:FLOW_CONTROL_ERROR", *PROTOCOL}),
    ("settings-frame-size-small", "6.5.2: at least 2^14", sends(SETTINGS, 0, 0, setting(MAX_FRAME_SIZE, 100)), PROTOCOL),
    ("settings-frame-size-large", "6.5.2: at most 2^24-1", sends(SETTINGS, 0, 0, setting(MAX_FRAME_SIZE, 1 << 24)), PROTOCOL),
    ("settings-window-overflow", "6.9.2: a change that makes a window too large", both(opened, sends(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFF0000)), sends(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0x7FFFFFFF))), {"goaway:FLOW_CONTROL_ERROR", "rst:FLOW_CONTROL_ERROR"}),
    ("ping-with-stream", "6.7: on stream 0 only", sends(PING, 0, 1, b"12345678"), PROTOCOL),
    ("ping-short", "6.7: eight octets", sends(PING, 0, 0, b"1234567"), SIZE),
    ("ping-long", "6.7: eight octets", sends(PING, 0, 0, b"123456789"), SIZE),
    ("goaway-with-stream", "6.8: on stream 0 only", sends(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    ("window-update-0", "6.9: an increment of 0 on the connection", sends(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    ("window-update-0-stream", "6.9: an increment of 0 on a stream", both(opened, sends(WINDOW_UPDATE, 0, 1, bytes(4))), {"rst:PROTOCOL_ERROR", *PROTOCOL}),
    ("window-update-short", "6.9: four octets", sends(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    ("window-update-overflow", "6.9.1: the connection's window above 2^31-1", both(sends(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), sends(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")), {"goaway:FLOW_CONTROL_ERROR"}),
    ("window-update-overflow-stream", "6.9.1: a stream's window above 2^31-1", both(opened, sends(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")), {"rst:FLOW_CONTROL_ERROR", "goaway:FLOW_CONTROL_ERROR"}),
    ("window-update-idle", "5.1: a stream that never was", sends(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)), PROTOCOL),
    ("frame-too-large-data", "4.2: above SETTINGS_MAX_FRAME_SIZE", both(posting, lambda c: c.frame(DATA, 0, 1, bytes(c.settings.get(MAX_FRAME_SIZE, 1 << 14) + 1))), {"rst:FRAME_SIZE_ERROR", *SIZE}),
    ("frame-too-large-headers", "4.2: a header block's frame is always an error of the connection", lambda c: c.frame(HEADERS, 0, 1, bytes(c.settings.get(MAX_FRAME_SIZE, 1 << 14) + 1)), SIZE),
    ("frame-length-maximal", "4.2: sixteen megabytes announced", lambda c: c.send(b"\xff\xff\xff\0\0\0\0\0\1"), SIZE | PROTOCOL),
    ("data-stream-0", "6.1: never on stream 0", sends(DATA, 0, 0, b"x"), PROTOCOL),
    ("data-idle", "5.1: a stream that never was", sends(DATA, 0, 1, b"x"), PROTOCOL),
    ("data-half-closed", "5.1: after END_STREAM", both(opened, sends(DATA, 0, 1, b"x")), {"rst:STREAM_CLOSED", "goaway:STREAM_CLOSED", *PROTOCOL}),
    ("data-padding-too-long", "6.1: padding longer than the frame", both(posting, sends(DATA, PADDED, 1, b"\x05abc")), PROTOCOL),
    ("data-padded-empty", "6.1: no room for the pad length", both(posting, sends(DATA, PADDED, 1)), SIZE | PROTOCOL),
    ("headers-stream-0", "6.2: never on stream 0", sends(HEADERS, END_HEADERS, 0, block(request())), PROTOCOL),
    ("headers-even-stream", "5.1.1: a client's streams are odd", sends(HEADERS, END_HEADERS | END_STREAM, 2, block(request())), PROTOCOL),
    ("headers-lower-stream", "5.1.1: stream numbers grow", both(lambda c: c.get(5), asks(request())), {"goaway:PROTOCOL_ERROR", "goaway:STREAM_CLOSED"}),
    ("headers-half-closed", "5.1: after END_STREAM", both(opened, asks(request())), {"rst:STREAM_CLOSED", "goaway:STREAM_CLOSED", *PROTOCOL, "rst:PROTOCOL_ERROR"}),
    ("headers-padding-too-long", "6.2: padding longer than the frame", sends(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\xff" + block(request())[:20]), PROTOCOL),
    ("headers-priority-short", "6.2: the flag wants five octets", sends(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, b"\0\0"), SIZE | PROTOCOL),
    ("hpack-index-0", "RFC 7541 6.1: index 0", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\x80"), COMPRESSION),
    ("hpack-index-beyond", "RFC 7541 2.3.3: beyond both tables", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\x7f"), COMPRESSION),
    ("hpack-integer-endless", "RFC 7541 5.1: an integer too large", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" + b"\xff" * 20 + b"\x7f"), COMPRESSION),
    ("hpack-string-cut", "RFC 7541 5.2: a string longer than the block", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\0\x7fabc"), COMPRESSION),
    ("hpack-huffman-eos", "RFC 7541 5.2: the EOS symbol in a string", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\0\x84\xff\xff\xff\xff\x01a"), COMPRESSION),
    ("hpack-huffman-padding", "RFC 7541 5.2: padding above seven bits", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\0\x82\x1f\xff\x01a"), COMPRESSION),
    ("hpack-table-too-large", "RFC 7541 6.3: above SETTINGS_HEADER_TABLE_SIZE", sends(HEADERS, END_HEADERS | END_STREAM, 1, b"\x3f\xff\xff\xff\x07" + block(request())), COMPRESSION),
    ("continuation-alone", "6.10: no header block is open", sends(CONTINUATION, END_HEADERS, 1, block(request())), PROTOCOL),
    ("continuation-interrupted", "6.10: a PING within a header block", both(sends(HEADERS, END_STREAM, 1, HALF[0]), sends(PING, 0, 0, b"12345678")), PROTOCOL),
    ("continuation-other-stream", "6.10: another stream's", both(sends(HEADERS, END_STREAM, 1, HALF[0]), sends(CONTINUATION, END_HEADERS, 3, HALF[1])), PROTOCOL),
    ("continuation-unknown-frame", "5.5: not even an unknown frame", both(sends(HEADERS, END_STREAM, 1, HALF[0]), sends(0x42, 0, 1, b"x")), PROTOCOL),
    ("push-promise", "8.4: a client cannot push", sends(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block(request())), PROTOCOL),
    ("rst-stream-0", "6.4: never on stream 0", sends(RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    ("rst-idle", "6.4: a stream that never was", sends(RST_STREAM, 0, 1, bytes(4)), PROTOCOL),
    ("rst-short", "6.4: four octets", both(opened, sends(RST_STREAM, 0, 1, bytes(3))), SIZE),
    ("priority-short", "6.3: five octets", both(opened, sends(PRIORITY, 0, 1, bytes(4))), {"rst:FRAME_SIZE_ERROR", *SIZE}),
    ("priority-stream-0", "6.3: never on stream 0", sends(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    ("name-upper-case", "8.2.1: names are lower case", extra((b"X-One", b"y")), MALFORMED),
    ("name-empty", "8.2.1: a name is a token", extra((b"", b"y")), MALFORMED),
    ("name-with-space", "8.2.1: a name is a token", extra((b"x y", b"y")), MALFORMED),
    ("name-with-colon", "8.2.1: a colon only at the front of a pseudo-field", extra((b"x:y", b"z")), MALFORMED),
    ("name-non-ascii", "8.2.1: not above 127", extra((b"x\xe4", b"z")), MALFORMED),
    ("value-nul", "8.2.1: no NUL in a value", extra((b"x", b"a\0b")), MALFORMED),
    ("value-lf", "8.2.1: no LF in a value: it would split an HTTP/1 request", extra((b"x", b"a\nevil: 1")), MALFORMED),
    ("value-cr", "8.2.1: no CR in a value", extra((b"x", b"a\r\nevil: 1")), MALFORMED),
    ("connection-field", "8.2.2: connection-specific", extra((b"connection", b"close")), MALFORMED),
    ("keep-alive-field", "8.2.2: connection-specific", extra((b"keep-alive", b"timeout=5")), MALFORMED),
    ("transfer-encoding-field", "8.2.2: connection-specific", extra((b"transfer-encoding", b"chunked")), MALFORMED),
    ("upgrade-field", "8.2.2: connection-specific", extra((b"upgrade", b"websocket")), MALFORMED),
    ("te-other", "8.2.2: TE says trailers or nothing", extra((b"te", b"gzip")), MALFORMED),
    ("pseudo-unknown", "8.3: unknown", extra((b":odd", b"y")), MALFORMED),
    ("pseudo-status", "8.3: of answers only", asks([*request(), (b":status", b"200")]), MALFORMED),
    ("pseudo-after-field", "8.3: before all others", asks([*changed(path=None), (b"x", b"y"), (b":path", b"/ok")]), MALFORMED),
    ("pseudo-twice", "8.3.1: exactly one", asks([*request(), (b":path", b"/other")]), MALFORMED),
    ("method-missing", "8.3.1: exactly one", asks(changed(method=None)), MALFORMED),
    ("scheme-missing", "8.3.1: exactly one", asks(changed(scheme=None)), MALFORMED),
    ("path-missing", "8.3.1: exactly one", asks(changed(path=None)), MALFORMED),
    ("path-empty", "8.3.1: not empty", asks(changed(path=b"")), MALFORMED),
    ("path-no-slash", "8.3.1: begins with a slash", asks(changed(path=b"abc")), MALFORMED),
    ("path-with-space", "8.3.1, RFC 3986: it would split an HTTP/1 request line", asks(changed(path=b"/a HTTP/1.1")), MALFORMED),
    ("path-with-lf", "8.2.1: it would split an HTTP/1 request", asks(changed(path=b"/a\r\nevil: 1")), MALFORMED),
    ("method-no-token", "8.3.1: a token", asks(changed(method=b"GET /evil")), MALFORMED),
    ("authority-and-host-differ", "8.3.1: they must not differ", asks([*request(), (b"host", b"other")]), MALFORMED | {"200"}),
    ("authority-userinfo", "8.3.1: no userinfo", asks(changed(authority=b"user@a")), MALFORMED),
    ("connect-with-path", "8.5: CONNECT has neither scheme nor path", asks(changed(method=b"CONNECT")), MALFORMED | {"404", "405", "501"}),
    ("length-too-short", "8.1.1: more content than said", lambda c: with_length(c, b"2", b"abc"), MALFORMED),
    ("length-too-long", "8.1.1: less content than said", lambda c: with_length(c, b"4", b"abc"), MALFORMED),
    ("length-without-content", "8.1.1: the header ends the stream", extra((b"content-length", b"3")), MALFORMED),
    ("length-twice", "8.1.1: two different ones", both(lambda c: with_length(c, b"3", b"")), MALFORMED),
    ("length-no-number", "8.1.1: digits", lambda c: with_length(c, b"+3", b"abc"), MALFORMED),
    # Ours leaves such a field out, so that the endpoint never sees it.
    ("trailers-with-pseudo", "8.1: no pseudo-fields in trailers", both(posting, sends(HEADERS, END_HEADERS | END_STREAM, 1, literal(b":path", b"/"))), {*MALFORMED, "200"}),
    ("trailers-without-end", "8.1: trailers end the stream", both(posting, sends(HEADERS, END_HEADERS, 1, literal(b"x", b"y"))), MALFORMED),
]


@pytest.mark.parametrize("case", ERROR_CASES, ids=lambda case: case[0])
def test_error(client, upstream, case):
    _, why, action, allowed = case
    action(client)
    outcome = client.outcome()
    if KIND == ENVOY and any(each.startswith("goaway") for each in allowed):
        # 5.4.1 has GOAWAY as a "should": Envoy closes without a word.
        allowed = allowed | {"close"}
    assert outcome in allowed, f"RFC 9113 {why}; {client.told()}"
    if outcome == "close" or outcome.startswith("goaway"):
        client.until("the end of the connection", lambda: client.closed or client.read(1.0))
    else:
        assert client.get(101).status == 200, "a stream error must leave the connection usable"
    whole = [each for each in upstream.seen if not each.cut and each.head.start.split(b" ")[1] not in (b"/ok", b"/wait", b"/echo")]
    assert not whole, f"reached the upstream: {[each.head.start for each in whole]}"


# What comes before anything else.


def test_preface_wrong(port):
    with Client(port, preface=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + frame(SETTINGS)) as c:
        assert c.outcome() in {"goaway:PROTOCOL_ERROR", "close"}


def test_preface_without_settings(port):
    """3.4: the client's first frame is SETTINGS."""
    with Client(port, preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(PING, 0, 0, b"12345678")) as c:
        # Ours answers the ping and goes on waiting for settings.
        c.until("an answer of any kind", lambda: c.closed or c.goaways or c.pings or c.read(0.05))


def test_http1_request_is_refused(port):
    """3.4: an HTTP/1 request is no preface."""
    with Client(port, preface=b"") as c:
        c.socket.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        c.take = lambda *_: None
        c.until("the end of the connection", lambda: c.closed or c.read(1.0))


# What must work.


def test_settings_are_acknowledged(client):
    client.until("an ACK", lambda: client.acks == 1)
    client.frame(SETTINGS, 0, 0, setting(0xABCD, 7) + setting(HEADER_TABLE_SIZE, 0))
    client.until("a second ACK", lambda: client.acks == 2)
    assert client.get(1).status == 200


def test_ping(client):
    client.frame(PING, 0, 0, b"weirping")
    client.until("the ping's ACK", lambda: client.pings == [b"weirping"])
    client.frame(PING, ACK, 0, b"whatever")
    assert client.get(1).status == 200
    assert client.pings == [b"weirping"], "an ACK must not be answered"


def test_unknown_frames_flags_and_bits_are_ignored(client):
    """4.1, 5.5: types, flags and the reserved bit that nobody knows mean nothing."""
    client.frame(0x42, 0xFF, 0, b"odd")
    client.frame(0x43, 0, 7, b"odd")
    client.frame(PING, 0xFE, 0, b"12345678")
    client.frame(WINDOW_UPDATE, 0, 1 << 31, struct.pack(">I", 1 << 31 | 5))
    client.frame(HEADERS, END_HEADERS | END_STREAM | 0xC2, 1, block(request()))
    client.until("an answer", lambda: client.answer(1).ended)
    assert client.answer(1).status == 200


def test_request_becomes_http1(client, upstream):
    more = [(b"x-one", b"\xe4"), (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"te", b"trailers")]
    client.headers(1, request(b"/ok?q=1", more=more))
    client.until("an answer", lambda: client.answer(1).ended)
    [seen] = upstream.seen
    assert seen.head.start == b"GET /ok?q=1 HTTP/1.1"
    assert seen.head.values("host") == [b"a"]
    assert seen.head.values("x-one") == [b"\xe4"]
    assert seen.head.values("cookie") == [b"a=b; c=d"], "8.2.3: crumbs are joined towards HTTP/1"
    assert not [name for name, _ in seen.head.fields if name.startswith(b":")]
    assert bytes(client.answer(1).body) == b"ok"


def test_authority_missing_host_given(client, upstream):
    """8.3.1: a request that comes from HTTP/1 may have Host only."""
    client.headers(1, [*changed(authority=None), (b"host", b"b")])
    client.until("an answer", lambda: client.answer(1).ended)
    assert client.answer(1).status == 200
    assert upstream.seen[0].head.values("host") == [b"b"]


@pytest.mark.parametrize("length", [True, False], ids=["with-length", "without-length"])
def test_post(client, upstream, length):
    posting(client, [(b"content-length", b"6")] if length else [])
    client.frame(DATA, 0, 1, b"abc")
    client.frame(DATA, PADDED, 1, b"\x04de" + bytes(4))
    client.frame(DATA, 0, 1)
    client.frame(DATA, END_STREAM | PADDED, 1, b"\0f")
    client.until("an answer", lambda: client.answer(1).ended)
    assert bytes(client.answer(1).body) == b"abcdef"
    assert upstream.seen[0].body.framing == ("length" if length else "chunked")


def test_header_block_in_pieces(client, upstream):
    """6.10: a block may be cut anywhere, also into empty frames."""
    whole = block(request(b"/pieces", more=[(b"x", b"y" * 100)]))
    client.frame(HEADERS, END_STREAM, 1)
    # Few pieces: many small ones are a known attack, against which there is a bound.
    client.frame(CONTINUATION, 0, 1)
    for at in range(0, len(whole), 60):
        client.frame(CONTINUATION, 0, 1, whole[at : at + 60])
    client.frame(CONTINUATION, END_HEADERS, 1)
    client.until("an answer", lambda: client.answer(1).ended)
    assert upstream.paths() == [b"/pieces"]


def test_header_table_is_shared(client, upstream):
    """RFC 7541 2.3: what one request puts into the table the next may use."""
    encoder = hpack.Encoder()
    for stream in (1, 3, 5):
        fields = request(b"/ok", more=[(b"x-one", b"value"), (b"x-n", b"%d" % stream)])
        client.frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(fields))
        client.until("an answer", lambda stream=stream: client.answer(stream).ended)
    assert [seen.head.values("x-n") for seen in upstream.seen] == [[b"1"], [b"3"], [b"5"]]
    assert all(seen.head.values("x-one") == [b"value"] for seen in upstream.seen)


def test_rejected_request_keeps_the_table(client, upstream):
    """4.3: a block that is refused still changes the table; otherwise all later ones are read wrongly."""
    encoder = hpack.Encoder()
    bad = request(b"/ok", more=[(b"connection", b"close"), (b"x-one", b"value")])
    client.frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode(bad))
    outcome = client.outcome()
    assert outcome in MALFORMED
    if outcome.startswith("goaway"):
        return
    good = request(b"/ok", more=[(b"x-one", b"value")])
    client.frame(HEADERS, END_HEADERS | END_STREAM, 3, encoder.encode(good))
    client.until("an answer", lambda: client.answer(3).ended)
    assert upstream.seen[-1].head.values("x-one") == [b"value"]


def test_trailers_of_an_answer(client):
    client.headers(1, request(b"/trailers", more=[(b"te", b"trailers")]))
    client.until("an answer", lambda: client.answer(1).ended)
    answer = client.answer(1)
    assert bytes(answer.body) == b"abc"
    assert (b"grpc-status", b"0") in answer.trailers
    assert (b"x-more", b"y") in answer.trailers
    assert not dict(answer.heads[0]).get(b"transfer-encoding")


def test_trailers_of_a_request(client, upstream):
    posting(client)
    client.frame(DATA, 0, 1, b"abc")
    client.frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(b"x-sum", b"1"))
    client.until("an answer", lambda: client.answer(1).ended)
    assert [(name.lower(), value) for name, value in upstream.seen[0].body.trailers] == [(b"x-sum", b"1")]


def test_head(client):
    client.headers(1, request(method=b"HEAD"))
    client.until("an answer", lambda: client.answer(1).ended)
    assert dict(client.answer(1).final)[b"content-length"] == b"1234"
    assert not client.answer(1).body


@pytest.mark.parametrize("status", [204, 304])
def test_no_content(client, status):
    answer = client.get(1, b"/%d" % status)
    assert answer.status == status
    assert not answer.body
    assert client.get(3).status == 200


def test_interim_answer(client):
    """8.1: interim answers come before the final one; a proxy may drop them (RFC 9110 15.2)."""
    answer = client.get(1, b"/hints")
    assert answer.status == 200
    assert [answer.status_of(head) for head in answer.heads] in ([200], [103, 200])


def test_hop_by_hop_fields_end_here(client):
    """8.2.2: connection-specific fields of an HTTP/1 answer do not reach HTTP/2; names become lower case."""
    fields = dict(client.get(1, b"/hop").final)
    assert fields[b"x-upper"] == b"Y"
    assert not {b"connection", b"keep-alive", b"x-mine", b"X-Upper"} & fields.keys()


def test_answer_that_is_cut(client):
    """8.1: an answer that is not whole is reset, not ended."""
    client.headers(1, request(b"/cut"))
    client.until("a reset", lambda: client.answer(1).reset or client.answer(1).ended)
    assert client.answer(1).reset, client.told()
    assert client.get(3).status == 200


def test_early_answer(client):
    """8.1: an answer before the request is complete; RST_STREAM with NO_ERROR may ask to stop sending."""
    client.headers(1, request(b"/early", b"POST"), END_HEADERS)
    client.until("an answer", lambda: client.answer(1).ended or client.answer(1).reset)
    assert client.answer(1).status == 403
    assert client.answer(1).reset in ("", "NO_ERROR")
    client.frame(DATA, END_STREAM, 1, b"late")
    assert client.get(3).status == 200, "5.1: frames that cross a close are ignored"


def test_frames_after_reset_are_ignored(client):
    """5.1: what crosses our own RST_STREAM is the other side's; what we send after ours is an error of the stream at most."""
    opened(client)
    client.frame(RST_STREAM, 0, 1, code("CANCEL"))
    client.frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 10))
    client.frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 15))
    assert client.get(3).status == 200


def test_priority_of_any_stream_is_ignored(client):
    """5.3.2, 6.3: priorities mean nothing any more, on streams of any state, itself named or not."""
    client.frame(PRIORITY, 0, 9, struct.pack(">IB", 3, 15))
    client.frame(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 11, struct.pack(">IB", 1 << 31, 255) + block(request()))
    client.until("an answer", lambda: client.answer(11).ended)
    assert client.answer(11).status == 200


def test_priority_on_itself(client):
    """RFC 7540 5.3.1 made it a stream error; RFC 9113 5.3.2 drops priorities: ignored or an error, never more."""
    client.frame(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, struct.pack(">IB", 1, 15) + block(request()))
    assert client.outcome() in {"200", "rst:PROTOCOL_ERROR", "goaway:PROTOCOL_ERROR"}


def test_reset_cancels_the_upstream(client, upstream):
    opened(client)
    client.until("the request at the upstream", lambda: upstream.seen or client.read(0.05))
    client.frame(RST_STREAM, 0, 1, code("CANCEL"))
    client.until("the end of the upstream's request", lambda: upstream.seen[0].cut or client.read(0.05))
    assert client.get(3).status == 200


def test_streams_run_side_by_side(client, upstream):
    opened(client)
    assert client.get(3).status == 200
    assert not client.answer(1).ended
    upstream.go.set()
    client.until("the first answer", lambda: client.answer(1).ended)


# Flow control.


def test_small_window_is_respected(port):
    with Client(port, settings=setting(INITIAL_WINDOW_SIZE, 10), credit=False) as c:
        c.headers(1, request(b"/large"))
        c.until("ten octets", lambda: len(c.answer(1).body) >= 10)
        c.frame(PING, 0, 0, b"12345678")
        c.until("the ping's ACK", lambda: c.pings)
        assert len(c.answer(1).body) == 10
        c.frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 5))
        c.until("five more", lambda: len(c.answer(1).body) >= 15)
        c.frame(PING, 0, 0, b"87654321")
        c.until("the ping's ACK", lambda: len(c.pings) == 2)
        assert len(c.answer(1).body) == 15


def test_window_of_the_connection_is_respected(port):
    with Client(port, settings=setting(INITIAL_WINDOW_SIZE, 1 << 20), credit=False) as c:
        c.headers(1, request(b"/large"))
        c.until("the whole window", lambda: len(c.answer(1).body) >= 65535)
        c.frame(PING, 0, 0, b"12345678")
        c.until("the ping's ACK", lambda: c.pings)
        assert len(c.answer(1).body) == 65535


def test_window_that_becomes_negative(port):
    """6.9.2: a smaller initial window applies to open streams, which may then owe."""
    with Client(port, settings=setting(INITIAL_WINDOW_SIZE, 100), credit=False) as c:
        c.headers(1, request(b"/large"))
        c.until("the window", lambda: len(c.answer(1).body) >= 100)
        c.frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0))
        c.until("both ACKs", lambda: c.acks == 2)
        c.frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 90))
        c.frame(PING, 0, 0, b"12345678")
        c.until("the ping's ACK", lambda: c.pings)
        assert len(c.answer(1).body) == 100, "the window was -100 + 90"
        c.frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 11))
        c.until("one more", lambda: len(c.answer(1).body) >= 101)


def test_large_answer(client):
    answer = client.get(1, b"/large")
    assert len(answer.body) == LARGE


def test_stalled_stream_holds_nobody_up(port):
    with Client(port, settings=setting(INITIAL_WINDOW_SIZE, 0), credit=False) as c:
        c.headers(1, request(b"/large"))
        c.headers(3, request(b"/204"))
        c.until("the other stream's answer", lambda: c.answer(3).ended)
        assert c.answer(3).status == 204


def test_client_is_held_back_and_cannot_exceed_the_window(client, upstream):
    """5.2, 6.9.1: an upstream that does not read stops the credit; data beyond it is a flow-control error."""
    client.headers(1, request(b"/hold", b"POST"), END_HEADERS)
    sent, quiet = 0, time.monotonic()
    window = client.settings.get(INITIAL_WINDOW_SIZE, 65535)
    while time.monotonic() - quiet < 1.0:
        left = min(65535 + client.windows.get(0, 0), window + client.windows.get(1, 0)) - sent
        assert sent < HELD_BYTES, f"took {sent} bytes that nobody reads"
        if left > 0:
            size = min(left, 1 << 14)
            client.frame(DATA, 0, 1, bytes(size))
            sent, quiet = sent + size, time.monotonic()
        else:
            client.read(0.1)
    client.frame(DATA, 0, 1, b"beyond")
    assert client.outcome() in {"goaway:FLOW_CONTROL_ERROR", "rst:FLOW_CONTROL_ERROR"}


# Limits and floods.


def memory(proxy):
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


@pytest.fixture
def bounded(proxy, port):
    """A flood on one connection leaves another served, and the proxy's memory bounded."""
    with Client(port) as other:
        assert other.get(1).status == 200
        before = memory(proxy)
        yield
        assert other.get(3).status == 200
        assert memory(proxy) - before < FLOOD_BYTES


def flood(c, piece, times):
    """Sends until the proxy ends the connection or all is sent; reads what comes so that nothing is held up by us."""
    batch = piece * 100 if isinstance(piece, bytes) else None
    for number in range(times // 100):
        c.send(batch or b"".join(piece(number * 100 + i) for i in range(100)))
        while not c.closed and readable(c):
            c.read(0.1)
        if c.closed or c.error:
            return


def readable(c):
    return bool(select.select([c.socket], [], [], 0)[0])


def ended_or_served(c, stream):
    """A flood may end the connection (ENHANCE_YOUR_CALM, or a close) or be borne; then the connection still works."""
    if not (c.closed or c.error):
        c.headers(stream, request())
        c.until("an answer or the end", lambda: c.answer(stream).ended or c.closed or c.error)
    assert c.error in ("", "ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "INTERNAL_ERROR")


def test_rapid_reset(client, upstream, bounded):
    """Requests that are reset at once run up no work behind the limit of streams: ended, or borne in bounds."""
    cancel = code("CANCEL")
    flood(
        client,
        lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, block(request(b"/wait")))
        + frame(RST_STREAM, 0, 2 * n + 1, cancel),
        20_000,
    )
    ended_or_served(client, 100_001)


def test_made_you_reset(client, upstream, bounded):
    """The same by making the proxy reset: a bad WINDOW_UPDATE on each stream."""
    flood(
        client,
        lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, block(request(b"/wait")))
        + frame(WINDOW_UPDATE, 0, 2 * n + 1, bytes(4)),
        20_000,
    )
    ended_or_served(client, 100_001)


def test_settings_flood(client, bounded):
    flood(client, frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 65535)), 50_000)
    ended_or_served(client, 1)


def test_ping_flood(client, bounded):
    flood(client, frame(PING, 0, 0, b"12345678"), 50_000)
    ended_or_served(client, 1)


@pytest.mark.parametrize("piece", [frame(PING, 0, 0, b"12345678"), frame(SETTINGS)], ids=["ping", "settings"])
def test_flood_without_reading(port, bounded, piece):
    """A client that does not read the ACKs must not pile them up in the proxy."""
    with Client(port, receive=4096) as c:
        c.socket.settimeout(2.0)
        try:
            for _ in range(2_000):
                c.socket.sendall(piece * 1000)
        except OSError:
            # Held back or cut off: both are bounds.
            pass


def test_empty_data_flood(client, bounded):
    posting(client)
    flood(client, frame(DATA, 0, 1), 50_000)
    if not (client.closed or client.error or client.answer(1).reset):
        client.frame(DATA, END_STREAM, 1, b"end")
        client.until("an answer or the end", lambda: client.answer(1).ended or client.closed or client.error)
    assert client.error in ("", "ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "INTERNAL_ERROR")


def test_priority_flood(client, bounded):
    flood(client, lambda n: frame(PRIORITY, 0, 2 * n + 1, struct.pack(">IB", 0, n % 256)), 50_000)
    ended_or_served(client, 200_001)


def test_window_update_flood(client, bounded):
    opened(client)
    flood(client, frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)), 50_000)
    ended_or_served(client, 3)


@pytest.mark.parametrize("payload", [b"", literal(b"x", b"y" * 1000)], ids=["empty", "full"])
def test_continuation_flood(client, upstream, bounded, payload):
    """A header block without an end: refused at the limit, not kept. Empty frames may be borne: they leave nothing."""
    client.frame(HEADERS, END_STREAM, 1, block(request()))
    flood(client, frame(CONTINUATION, 0, 1, payload), 50_000)
    if not payload and not (client.closed or client.error):
        client.frame(CONTINUATION, END_HEADERS, 1)
        client.until("an answer or the end", lambda: client.answer(1).ended or client.closed or client.error)
        return
    client.until("the end of the connection", lambda: client.closed or client.error)
    assert not upstream.seen[1:]


def test_hpack_bomb(client, upstream, bounded):
    """RFC 7541 7.3: one large field in the table, named again and again."""
    bomb = b"\x40" + literal(b"x", b"y" * 3000)[1:] + b"\xbe" * 15_000
    whole = block(request()) + bomb
    client.frame(HEADERS, END_HEADERS | END_STREAM if len(whole) <= 16384 else END_STREAM, 1, whole[:16384])
    if len(whole) > 16384:
        client.frame(CONTINUATION, END_HEADERS, 1, whole[16384:])
    outcome = client.outcome()
    assert outcome in {"431", "400"} or outcome.startswith(("rst:", "goaway:")) or outcome == "close"
    assert len(upstream.seen) <= 1


def test_large_header_list(client, upstream):
    """10.5.1: above the limit: 431, or an error of the stream or the connection."""
    client.frame(HEADERS, END_STREAM, 1, block(request()))
    for _ in range(70):
        client.frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 15_000))
    client.frame(CONTINUATION, END_HEADERS, 1)
    outcome = client.outcome()
    assert outcome in {"431", "400", "close"} or outcome.startswith(("rst:", "goaway:"))
    assert not upstream.seen


def test_too_many_streams_are_refused(client, upstream):
    """5.1.2: streams above SETTINGS_MAX_CONCURRENT_STREAMS are refused; those below it are served."""
    most = client.settings.get(MAX_CONCURRENT_STREAMS)
    assert most and most <= 5_000, f"the proxy allows {most} streams at once"
    for number in range(most + 1):
        client.headers(2 * number + 1, request(b"/wait"))
    last = 2 * most + 1
    outcome = client.outcome(last)
    assert outcome in {"rst:REFUSED_STREAM", "rst:PROTOCOL_ERROR", "goaway:PROTOCOL_ERROR", "goaway:ENHANCE_YOUR_CALM"}


def test_goaway_of_the_client(client, upstream):
    """6.8: a client that goes away still gets what it asked for."""
    opened(client)
    client.frame(GOAWAY, 0, 0, bytes(8))
    upstream.go.set()
    client.until("the answer", lambda: client.answer(1).ended)
    assert client.answer(1).status == 200


def test_goaway_on_shutdown(upstream):
    """6.8: at its end a proxy says GOAWAY with NO_ERROR, finishes what it has taken, and closes."""
    upstream.go.clear()
    upstream.seen.clear()
    running = Proxy(KIND, "plain", [(free_ports(1)[0], upstream.port)], codec="HTTP2", drain_seconds=10).__enter__()
    if KIND != OURS:
        running.__exit__()
        pytest.skip("how a proxy is told to drain differs")
    try:
        with Client(running.pairs[0][0]) as c:
            opened(c)
            c.until("settings", lambda: c.settings_seen)
            c.until("the request at the upstream", lambda: upstream.seen or c.read(0.05))
            running.process.terminate()
            c.until("GOAWAY", lambda: c.goaways)
            assert c.goaways[0][0] == "NO_ERROR"
            assert not c.answer(1).ended
            upstream.go.set()
            c.until("the answer", lambda: c.answer(1).ended)
            assert c.answer(1).status == 200
            c.until("the end of the connection", lambda: c.closed or c.read(1.0))
    finally:
        upstream.go.set()
        running.__exit__()
