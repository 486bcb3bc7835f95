"""A web server for tests, which answers as it is told and notes what it was asked."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Server:
    """files: by path ("/a.tar"). refused: by "METHOD /path", or "METHOD" alone, the statuses to answer first.

    told: the headers of every answer beside the length, which is told if `sized`. ranges: whether it knows
    them. asked: what it was asked, "METHOD /path".
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, list[int]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    sized: bool = True
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def status(self, method: str, path: str) -> int:
        for about in (f"{method} {path}", method):
            if self.refused.get(about):
                statuses = self.refused[about]
                return statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return 200 if path in self.files else 404


class _Handler(http.server.BaseHTTPRequestHandler):
    served: Server

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.served.files.get(self.path, b""))

    def _answer(self, body: bytes) -> None:
        self.served.asked.append(f"{self.command} {self.path}")
        status = self.served.status(self.command, self.path)
        if status != 200:
            self.send_error(status)
            return
        whole = len(self.served.files[self.path])
        ranged = self.served.ranges and "Range" in self.headers
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes 0-0/{whole if self.served.sized else '*'}")
        elif self.served.sized:
            self.send_header("Content-Length", str(whole))
        for name, value in self.served.told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:1] if ranged else body)

    def log_message(self, *args: object) -> None:
        return None


class _Listener(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # as many as ask at once


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server of these files, as long as the block lasts; its settings may be changed meanwhile."""
    served = Server(files)
    handler = type("Handler", (_Handler,), {"served": served})
    with _Listener(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
