"""The gRPC application of the churn: after SIGTERM it is unready and serves on for a while, then finishes what it has, then ends."""

import signal
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

LAME_DUCK_SECONDS = 6


def count(request, _):
    for number in range(int(request)):
        yield str(number).encode()
        time.sleep(0.1)


def health(asked: threading.Event) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if asked.is_set() else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("0.0.0.0", 8080), Handler)


def main():
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("churn.Calls", handlers),))
    server.add_insecure_port("0.0.0.0:50051")
    server.start()
    threading.Thread(target=health(asked).serve_forever, daemon=True).start()
    asked.wait()
    # A well-behaved application: who has not heard of its end yet is served.
    time.sleep(LAME_DUCK_SECONDS)
    server.stop(3).wait()


if __name__ == "__main__":
    main()
