"""A server on this machine that records every request and misbehaves on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class PatientServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # with the usual 5, eight clients at once wait a second for each other


class FakeServer:
    """Serves `files` by URL path, records every request, and misbehaves as `script` demands."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}  # in place of the hash of the content
        self.headers: dict[str, dict[str, str]] = {}  # further headers by path
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.script: dict[str, list[Callable[[Handler, bytes], None]]] = {}  # by path, one for each of its GETs
        self.statuses: dict[str, list[int]] = {}  # by path, one for each of its requests
        self.honours_range = True
        self.honours_if_range = True
        self.release = threading.Event()

        class BoundHandler(Handler):
            fake = self

        self.http = PatientServer(("127.0.0.1", 0), BoundHandler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def etag(self, path: str) -> str | None:
        return self.etags.get(path, f'"{hashlib.sha256(self.files[path]).hexdigest()}"')

    def gets(self, end: str = "") -> list[str | None]:
        """The Range headers of all GETs of paths with this end."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(end)]

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # or the body of an answer waits for the client to acknowledge the headers
    fake: FakeServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *arguments: object) -> None:
        """Keep stderr clean."""

    def answer(self) -> None:
        fake, path = self.fake, self.path.partition("?")[0]
        fake.requests.append((self.command, path, self.headers["Range"]))
        if fake.statuses.get(path):
            self.refuse(fake.statuses[path].pop(0))
        elif path not in fake.files:
            self.refuse(404)
        else:
            self.serve(path)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        for header, value in self.fake.headers.get(str(status), {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self, path: str) -> None:
        fake, content, etag = self.fake, self.fake.files[path], self.fake.etag(path)
        start = self.first_byte(etag)
        if start and start >= len(content):
            self.refuse(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        headers = {"Content-Length": str(len(content) - start), "ETag": etag or "", **fake.headers.get(path, {})}
        for header, value in headers.items():
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            steps = fake.script.get(path)
            send = steps.pop(0) if steps else send_all
            send(self, content[start:])

    def first_byte(self, etag: str | None) -> int:
        span = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if span is None or not self.fake.honours_range:
            return 0
        condition = self.headers["If-Range"]
        if self.fake.honours_if_range and condition is not None and condition != etag:
            return 0
        return int(span[1])


def send_all(handler: Handler, body: bytes) -> None:
    handler.wfile.write(body)


def cut_after(count: int) -> Callable[[Handler, bytes], None]:
    """Send `count` bytes, then drop the connection."""
    return lambda handler, body: send_all(handler, body[:count])


def hold_after(count: int) -> Callable[[Handler, bytes], None]:
    """Send `count` bytes, then nothing until the test releases the server."""

    def send(handler: Handler, body: bytes) -> None:
        send_all(handler, body[:count])
        handler.wfile.flush()
        handler.fake.release.wait(20)

    return send
