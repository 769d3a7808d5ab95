"""Servers of networks for the tests: the sandbox, and servers that answer as they are told."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx

from services.accounts.tests.world import REDIRECT_URI
from services.chassis.testing.servers import ROOT
from services.chassis.testing.waiting import eventually

Routes = dict[str, tuple[int, Any]]
"""What to answer: `{"POST /oauth/token": (200, {…})}`."""


@contextlib.contextmanager
def running_sandbox(directory: Path) -> Iterator[str]:
    """A sandbox network in a process of its own, by its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {  # noqa: TID251 -- what a child process gets
        "SANDBOX_PORT": str(port),
        "SANDBOX_DATA_DIR": str(directory),
        "SANDBOX_WEIBO_REDIRECT_URI": REDIRECT_URI,
    }
    process = subprocess.Popen([sys.executable, "-m", "deploy.sandbox"], cwd=ROOT, env=environment)
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").is_success
        return False

    try:
        eventually(healthy, timeout=20)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def scripted_servers() -> Iterator[Callable[..., str]]:
    """
    Starts servers: `start(routes)` gives a URL. It notes in `sent` the forms that were posted, where given.

    Routes may be changed while the server runs; what is not among them is 404.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(routes: Routes, sent: list[dict[str, list[str]]] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if sent is not None and self.command == "POST":
                    sent.append(parse_qs(body.decode()))
                path = self.path.partition("?")[0]
                status, told = routes.get(f"{self.command} {path}", (404, {"error": "not found"}))
                raw = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", raw.decode())
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815 -- http.server's names

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    try:
        yield start
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
