"""A server on this machine's loopback, for what is fetched."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Served:
    """Files by path, and how they are served.

    Attributes:
        files: by path.
        limit: bytes after which a connection ends; None: none.
        asked: (path, start) of every request.
        waits: set to let a request that reached the limit end; None: it ends at once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.limit: int | None = None
        self.asked: list[tuple[str, int]] = []
        self.waits: threading.Event | None = None


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.files.get(self.path)
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            served.asked.append((self.path, start))
            if content is None or start >= len(content):
                self.send_error(404 if content is None else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : served.limit])
            if served.limit is not None and served.waits is not None:
                served.waits.wait(60)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Served(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
