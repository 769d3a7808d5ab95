"""A partner's system that is told of events: it listens for webhooks, and believes what is signed (docs/webhooks.md)."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deploy.demo.client import Json

FRESH_SECONDS = 300
"""How old a request may be: older ones may be copies of what somebody has overheard."""


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Json:
        """What it tells."""
        told: Json = json.loads(self.body)
        return told

    @property
    def signatures(self) -> list[str]:
        """There are two while the secret changes."""
        return self.headers["webhook-signature"].split()

    def signed_by(self, secret: str) -> bool:
        """Whether the request is fresh, and one of its signatures is by this secret."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) <= FRESH_SECONDS
        return fresh and any(hmac.compare_digest(wanted, given) for given in self.signatures)


class Receiver:
    """
    Listens in a thread of its own, on a port that is free.

    Attributes:
        url: of the webhook endpoint.
        secrets: that it believes; whoever registers the endpoint puts them here.
        believed: requests that one of them has signed, oldest first. All others are answered 401.
    """

    def __init__(self, address: str) -> None:
        self.secrets: list[str] = []
        self.believed: list[Received] = []
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(take(Received(headers, body)))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The story tells what matters."""

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_port}/numerator"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def first(self, event_type: str, **data: str) -> Received | None:
        """The first believed request of this type with these data."""
        return next(
            (
                each
                for each in self.believed
                if each.event["type"] == event_type and data.items() <= each.event["data"].items()
            ),
            None,
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: Received) -> HTTPStatus:
        if not any(map(request.signed_by, self.secrets)):
            return HTTPStatus.UNAUTHORIZED
        self.believed.append(request)
        return HTTPStatus.NO_CONTENT
