"""
What a process answers on its metrics port: `/metrics`, `/healthz` and `/readyz`.

Nothing here waits for anything: the probes are read from memory, so that they answer while what they tell about
hangs.
"""

import asyncio
import socketserver
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SILENCE_SECONDS = 10.0
"""How long an event loop may do one thing before its process counts as dead."""

_BEAT_SECONDS = 0.5

Check = Callable[[], str]
"""Says at once, from memory, what is wrong; an empty text for nothing."""


class Probes:
    """
    The probes of a process, and the server that answers them.

    `/healthz` is 200 while the process is alive, `/readyz` while it can do its work; 503 with the reason in plain
    text otherwise. Until a process says when it is ready, it is not.
    """

    def __init__(self, registry: CollectorRegistry, port: int) -> None:
        """Serve on all addresses; port 0 takes a free one. Raises OSError when it is taken."""
        self._checks: dict[str, Check] = {"/healthz": lambda: "", "/readyz": lambda: "it starts"}
        self._server = make_server("", port, self._app(make_wsgi_app(registry)), _Server, _Quiet)
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="probes", daemon=True).start()

    def alive_when(self, check: Check) -> None:
        """The process is alive while `check` has nothing to say; by default as long as it answers at all."""
        self._checks["/healthz"] = check

    def ready_when(self, check: Check) -> None:
        """The process is ready while `check` has nothing to say."""
        self._checks["/readyz"] = check

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def _app(self, metrics: "WSGIApplication") -> "WSGIApplication":
        def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> "list[bytes]":
            path = environ["PATH_INFO"]
            if path == "/metrics":
                return list(metrics(environ, start_response))
            check = self._checks.get(path)
            status, text = "404 Not Found", "/metrics, /healthz, /readyz"
            if check:
                wrong = check()
                status, text = ("503 Service Unavailable", wrong) if wrong else ("200 OK", "ok")
            start_response(
                status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
            )
            return [f"{text}\n".encode()]

        return app


class Pulse:
    """Beats from within an event loop, and so knows whether the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to beat; ends with the loop."""
        self._loop = loop
        self._beat()

    def reason(self) -> str:
        """What is wrong with the loop, for `Probes.alive_when`."""
        silence = time.monotonic() - self._last
        return f"the event loop stands still for {silence:.0f} s" if silence > SILENCE_SECONDS else ""

    def _beat(self) -> None:
        self._last = time.monotonic()
        self._loop.call_later(_BEAT_SECONDS, self._beat)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    """Logs no requests: there are several a second."""

    timeout = 5.0  # seconds, for a client that connects and says nothing

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        pass
