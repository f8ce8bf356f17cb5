"""Large bodies through the released proxy, both ways: its memory does not grow with them."""

import contextlib
import os
import socket
import threading
import time

import pytest

from conformance.proxies import OURS, Proxy, free_ports

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
