"""A real HTTP server that stands for a phone, by Apprise's service for programs (json://)."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PICTURE = b"\xff\xd8 a picture \xff\xd9"


class Phone(ThreadingHTTPServer):
    """A service that people read, and the port of a run that has pictures."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.came: list[dict[str, Any]] = []
        self.fails: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str = "phone") -> str:
        return f"json://127.0.0.1:{self.server_port}/{path}?token=Hunter2-phone"

    def titles(self, path: str = "phone") -> list[str]:
        return [each["title"] for each in self.came if each["path"].startswith(f"/{path}")]


class _Handler(BaseHTTPRequestHandler):
    server: Phone

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        failed = any(self.path.startswith(f"/{path}") for path in self.server.fails)
        if not failed:
            self.server.came.append({"path": self.path, **json.loads(body)})
        self._answer(500 if failed else 200, b"")

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self._answer(200, PICTURE)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""
