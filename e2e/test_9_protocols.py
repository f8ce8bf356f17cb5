"""Through the released proxy: large bodies both ways, in little memory; gRPC as grpcurl speaks it."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection

from conformance.proxies import OURS, UPSTREAM, Proxy, free_ports
from harness import tool

SIZE = int(os.environ.get("WEIR_E2E_LARGE_BYTES", 5 << 30))
PIECE = bytes(1 << 20)
# What a proxy that streams may take more than one that is idle.
GROWTH_MAX_KB = 20 << 10
# Of one transfer; half of what the test as a whole may take.
TRANSFER_SECONDS = 140


def memory_kb(pid, field):
    with open(f"/proc/{pid}/status") as status:
        [line] = [line for line in status if line.startswith(field)]
    return int(line.split()[1])


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as refs:
        refs.write("5")


def read_head(connection):
    """The head and what came behind it."""
    text = b""
    while b"\r\n\r\n" not in text:
        more = connection.recv(65536)
        if not more:
            return None, b""
        text += more
    head, rest = text.split(b"\r\n\r\n", 1)
    return head.decode().lower(), rest


def discard(connection, length):
    """Reads so many bytes into the same buffer."""
    buffer = memoryview(bytearray(1 << 20))
    while length:
        n = connection.recv_into(buffer[: min(len(buffer), length)])
        assert n, f"it ends {length} bytes too early"
        length -= n


def discard_chunks(connection, rest):
    """Reads a body of chunks; `rest` came with the head. Returns the length of its content."""
    total, buffer = 0, bytearray(rest)
    while True:
        while b"\r\n" not in buffer:
            more = connection.recv(65536)
            assert more, f"it ends after {total} bytes"
            buffer += more
        line, _, buffer = buffer.partition(b"\r\n")
        size = int(line, 16)
        here = min(len(buffer), size)
        del buffer[:here]
        discard(connection, size - here)
        total += size
        while len(buffer) < 2:
            more = connection.recv(65536)
            assert more, f"it ends after {total} bytes"
            buffer += more
        assert buffer[:2] == b"\r\n"
        del buffer[:2]
        if size == 0:
            return total


def send(connection, size, chunked):
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    for _ in range(size // len(PIECE)):
        connection.sendall(piece)
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def framing(size, chunked):
    return "transfer-encoding: chunked" if chunked else f"content-length: {size}"


def serve(connection):
    """Answers one connection's requests: sends what the path asks for, or says how much came."""
    with connection:
        connection.settimeout(TRANSFER_SECONDS)
        while True:
            head, rest = read_head(connection)
            if head is None:
                return
            method, path, _ = head.split(" ", 2)
            chunked = "chunked" in head
            if method == "get":
                size = int(path[1:].split("?")[0])
                connection.sendall(f"HTTP/1.1 200 X\r\n{framing(size, chunked)}\r\n\r\n".encode())
                send(connection, size, chunked)
                continue
            if chunked:
                seen = discard_chunks(connection, rest)
            else:
                [line] = [line for line in head.split("\r\n") if line.startswith("content-length")]
                seen = int(line.split(":")[1])
                discard(connection, seen - len(rest))
            text = str(seen)
            connection.sendall(f"HTTP/1.1 200 X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())


@contextlib.contextmanager
def endpoint():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def upload(port, size, chunked):
    with socket.create_connection(("127.0.0.1", port), timeout=TRANSFER_SECONDS) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: svc\r\n{framing(size, chunked)}\r\n\r\n".encode())
        send(connection, size, chunked)
        head, body = read_head(connection)
        assert head and head.startswith("http/1.1 200"), head
        while len(body) < len(str(size)):
            body += connection.recv(100)
        assert int(body) == size


def download(port, size, chunked):
    with socket.create_connection(("127.0.0.1", port), timeout=TRANSFER_SECONDS) as connection:
        path = f"/{size}?chunked" if chunked else f"/{size}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: svc\r\n\r\n".encode())
        head, rest = read_head(connection)
        assert head and head.startswith("http/1.1 200"), head
        if chunked:
            assert discard_chunks(connection, rest) == size
        else:
            discard(connection, size - len(rest))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_large_bodies_pass_in_little_memory(chunked):
    [port] = free_ports(1)
    with endpoint() as upstream, Proxy(OURS, "plain", [(port, upstream)]) as proxy:
        # Buffers are made, code is loaded.
        upload(port, 1 << 20, chunked)
        download(port, 1 << 20, chunked)
        forget_peak(proxy.process.pid)
        before = memory_kb(proxy.process.pid, "VmRSS")
        for what, transfer in (("up", upload), ("down", download)):
            begin = time.monotonic()
            transfer(port, SIZE, chunked)
            seconds = time.monotonic() - begin
            print(f"{what}: {SIZE} bytes in {seconds:.1f} s, {SIZE / seconds / 1e6:.0f} MB/s")
        growth = memory_kb(proxy.process.pid, "VmHWM") - before
        print(f"memory: {before} kB, {growth} kB more at the peak")
        assert growth < GROWTH_MAX_KB
        assert proxy.alive()


SERVICE = "test.Numbers"


def describe():
    """The service's description, for its own use and for reflection: a pool, and the class of its only message."""
    file = descriptor_pb2.FileDescriptorProto(name="numbers.proto", package="test", syntax="proto3")
    value = file.message_type.add(name="Number").field.add(name="value", number=1)
    value.type, value.label = value.TYPE_INT64, value.LABEL_OPTIONAL
    service = file.service.add(name="Numbers")
    for name, reads, writes in (("Double", 0, 0), ("Count", 0, 1), ("Sum", 1, 0), ("Running", 1, 1), ("Wait", 0, 0)):
        service.method.add(
            name=name,
            input_type=".test.Number",
            output_type=".test.Number",
            client_streaming=bool(reads),
            server_streaming=bool(writes),
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool, message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Number"))


@contextlib.contextmanager
def numbers():
    """A gRPC server with one method of each kind, and reflection; gives its port."""
    pool, number = describe()
    over = threading.Event()

    def double(request, context):
        if request.value < 0:
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing below zero")
        return number(value=request.value * 2)

    def count(request, _):
        return (number(value=i) for i in range(1, request.value + 1))

    def add(requests, _):
        return number(value=sum(request.value for request in requests))

    def running(requests, _):
        total = 0
        for request in requests:
            total += request.value
            yield number(value=total)

    def wait(request, _):
        over.wait(60)
        return request

    kinds = {
        "Double": (grpc.unary_unary_rpc_method_handler, double),
        "Count": (grpc.unary_stream_rpc_method_handler, count),
        "Sum": (grpc.stream_unary_rpc_method_handler, add),
        "Running": (grpc.stream_stream_rpc_method_handler, running),
        "Wait": (grpc.unary_unary_rpc_method_handler, wait),
    }
    handlers = {
        name: kind(serve_call, request_deserializer=number.FromString, response_serializer=number.SerializeToString)
        for name, (kind, serve_call) in kinds.items()
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        over.set()
        server.stop(1).wait(10)


def grpc_proxy(port, upstream, direction):
    """A proxy whose listener has a direction and whose endpoint speaks HTTP/2."""
    proxy = Proxy(OURS, "plain", [(port, upstream)], codec="AUTO")
    file = Path(proxy.folder.name) / "bootstrap.yaml"
    config = json.loads(file.read_text())
    for listener in config["static_resources"]["listeners"]:
        listener["traffic_direction"] = direction
    two = {"@type": UPSTREAM, "explicit_http_config": {"http2_protocol_options": {}}}
    for cluster in config["static_resources"]["clusters"]:
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": two}
    file.write_text(json.dumps(config))
    return proxy


def grpcurl(port, *arguments, data=None):
    command = [tool("grpcurl"), "-plaintext", "-authority", "svc"]
    command += ["-d", " ".join(json.dumps({"value": value}) for value in data)] if data is not None else []
    options = [a for a in arguments if a.startswith("-") or a.replace(".", "").isdigit()]
    command += [*options, f"127.0.0.1:{port}", *(a for a in arguments if a not in options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def values(done):
    """The numbers that were answered; 64-bit ones are text in JSON."""
    assert done.returncode == 0, done.stderr
    return [int(line.split(":")[1].strip().strip('"')) for line in done.stdout.splitlines() if "value" in line]


@pytest.mark.parametrize("direction", ["OUTBOUND", "INBOUND"])
def test_grpcurl_makes_every_kind_of_call(direction):
    [port] = free_ports(1)
    with numbers() as upstream, grpc_proxy(port, upstream, direction):
        assert SERVICE in grpcurl(port, "list").stdout.split()
        assert "rpc Running ( stream .test.Number ) returns ( stream .test.Number )" in grpcurl(port, "describe", SERVICE).stdout
        assert values(grpcurl(port, f"{SERVICE}/Double", data=[21])) == [42]
        assert values(grpcurl(port, f"{SERVICE}/Count", data=[500])) == list(range(1, 501))
        assert values(grpcurl(port, f"{SERVICE}/Sum", data=range(1, 101))) == [5050]
        assert values(grpcurl(port, f"{SERVICE}/Running", data=[1, 2, 3])) == [1, 3, 6]
        failed = grpcurl(port, f"{SERVICE}/Double", data=[-1])
        assert "Code: NotFound" in failed.stderr and "nothing below zero" in failed.stderr
        late = grpcurl(port, "-max-time", "0.5", f"{SERVICE}/Wait", data=[1])
        assert "DeadlineExceeded" in late.stderr, late.stderr
        assert values(grpcurl(port, f"{SERVICE}/Double", data=[4])) == [8]
