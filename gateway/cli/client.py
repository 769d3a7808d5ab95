"""
The gateway as an operator meets it: HTTP, JSON, bearer tokens, problems. Knows nothing that OpenAPI does not say.

On `http.client`, because httpx alone takes longer to load than the rest of a command.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode, urlsplit

Json = dict[str, Any]

PAGE_SIZE = 500
"""The largest page that lists give."""
_SILENCE = 60.0
"""Seconds after which a silent stream counts as lost; a gateway says at least every 15 that it is alive."""
_EARLY = 30.0
"""Seconds before its end from which a cached token is not used any more."""


class Problem(Exception):  # noqa: N818 -- RFC 9457 calls it so
    """
    An answer of the gateway that is a problem (RFC 9457).

    Attributes:
        status: the HTTP status.
        document: the problem document.
        reason: what programs branch on; docs/errors.md lists them.
        sent: whether the request itself was sent, and so may have had its effect; False for a login that failed.
    """

    def __init__(self, status: int, document: Json, *, sent: bool = True) -> None:
        super().__init__(document.get("detail") or f"HTTP {status}")
        self.status = status
        self.document = document
        self.reason: str = document.get("reason", "")
        self.sent = sent

    @property
    def unwell(self) -> bool:
        """Whether the platform could not answer, rather than said no."""
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class UnreachableError(Exception):
    """
    No answer of a gateway.

    Attributes:
        sent: whether the request may have arrived, and so may have had its effect.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class TokenCache:
    """
    The access tokens of earlier runs, in files that only their owner can read, by gateway and client.

    A cache: what cannot be read is not there, and what cannot be written is not kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, url: str, client: str) -> str | None:
        """A token that is good for some time yet."""
        try:
            kept = json.loads(self._path(url, client).read_text())
            return str(kept["token"]) if kept["expires"] > time.time() + _EARLY else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, url: str, client: str, token: str, lifetime: float) -> None:
        """Keep a token for `lifetime` seconds."""
        path = self._path(url, client)
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Readable by its owner only from the beginning, and never seen half written.
            descriptor, fresh = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"token": token, "expires": time.time() + lifetime}, file)
            Path(fresh).replace(path)

    def _path(self, url: str, client: str) -> Path:
        return self._folder / f"{hashlib.sha256(f'{url} {client}'.encode()).hexdigest()[:32]}.json"


class Gateway:
    """A gateway, for one client. Each request has a connection of its own."""

    def __init__(
        self, url: str, client: str, read_secret: Callable[[], str], *, tokens: TokenCache, timeout: float
    ) -> None:
        """
        Args:
            url: without a slash at the end.
            client: the OAuth2 client's id.
            read_secret: gives its secret, when no token of an earlier run is good.
            tokens: where access tokens are kept between runs.
            timeout: seconds to wait for an answer.
        """
        self.url = url
        self._client = client
        self._read_secret = read_secret
        self._tokens = tokens
        self._timeout = timeout

    def get(self, path: str, query: Mapping[str, object] | None = None, *, timeout: float = 0) -> Json:
        """Read. `timeout` is for what takes longer than other calls."""
        with self._answer("GET", _target(path, query), timeout=timeout) as answer:
            return self._json(answer)

    def list(
        self, path: str, field: str, query: Mapping[str, object] | None = None, *, most: int = 0
    ) -> Json:
        """The first `most` (0: all) of a list, as one page: `{field: [...]}`."""
        found: list[Json] = []
        token = ""
        while True:
            size = min(PAGE_SIZE, most - len(found)) if most else PAGE_SIZE
            page = self.get(
                path, {**(query or {}), "pageSize": size, **({"pageToken": token} if token else {})}
            )
            found += page.get(field, [])
            token = page.get("nextPageToken", "")
            if not token or (most and len(found) >= most):
                return {field: found}

    def send(self, method: str, path: str, body: Json | None, key: str = "") -> Json:
        """Write. With the same `key` a repeated request has one effect."""
        headers = {"idempotency-key": key} if key else {}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        with self._answer(method, _target(path), content, headers) as answer:
            return self._json(answer)

    def fetch(self, path: str, query: Mapping[str, object]) -> tuple[str, bytes]:
        """A download: the name of its file, and the whole of it. Raises UnreachableError also when it breaks off."""
        with self._answer("GET", _target(path, query)) as answer:
            return answer.headers.get_filename("download"), answer.read()

    def events(self, path: str, last: str = "") -> Iterator[tuple[str, Json]]:
        """
        The id and the data of a stream's events, until the gateway ends it; after the one with the id `last`, if given.

        Raises Problem also for a stream that begins well and fails later.
        """
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        with self._answer("GET", _target(path), headers=headers, timeout=_SILENCE) as answer:
            event: dict[str, str] = {}
            for line in answer:
                field, colon, value = line.decode().rstrip("\r\n").partition(":")
                if field or colon:  # a line that begins with a colon says only that the stream is alive
                    event[field] = value.removeprefix(" ")
                elif "data" in event:
                    data = json.loads(event["data"])
                    if event.get("event") == "error":
                        raise Problem(data["status"], data)
                    yield event.get("id", ""), data
                    event = {}

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        target: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 0,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to an authenticated request, when it is a success. Raises Problem, UnreachableError."""

        def ask(token: str) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
            return self._ask(
                method, target, content, {**(headers or {}), "authorization": f"Bearer {token}"}, timeout
            )

        kept = self._tokens.get(self.url, self._client)
        with contextlib.ExitStack() as stack:
            answer = stack.enter_context(ask(kept or self._login()))
            if kept and answer.status == HTTPStatus.UNAUTHORIZED:  # the platform has other keys by now
                answer = stack.enter_context(ask(self._login()))
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise Problem(answer.status, self._json(answer))
            yield answer

    def _login(self) -> str:
        """An access token, by client credentials."""
        credentials = f"{quote_plus(self._client)}:{quote_plus(self._read_secret())}"
        headers = {
            "authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}",
            "content-type": "application/x-www-form-urlencoded",
        }
        try:
            with self._ask("POST", "/oauth2/token", b"grant_type=client_credentials", headers, 0) as answer:
                told = self._json(answer)
                if "error" in told:  # in the form of RFC 6749
                    told = {"reason": str(told["error"]).upper(), "detail": told.get("error_description", "")}
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise Problem(answer.status, told, sent=False)
                if "access_token" not in told:
                    raise self._stranger(answer)
        except UnreachableError as error:
            raise UnreachableError(str(error), sent=False) from None
        self._tokens.put(self.url, self._client, told["access_token"], told.get("expires_in", 0))
        return str(told["access_token"])

    @contextlib.contextmanager
    def _ask(
        self, method: str, target: str, content: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """One request and its answer, whatever that is. Raises UnreachableError, also while the answer is read."""
        parts = urlsplit(self.url)
        seconds = timeout or self._timeout
        connection = (
            http.client.HTTPSConnection(parts.netloc, timeout=seconds)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.netloc, timeout=seconds)
        )
        connected = False
        try:
            connection.connect()
            connected = True
            connection.request(method, parts.path + target, content, dict(headers))
            yield connection.getresponse()
        except TimeoutError:
            raise UnreachableError(f"{self.url}: no answer within {seconds:g} s", sent=connected) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.url}: {_why(error)}", sent=connected) from None
        finally:
            connection.close()

    def _json(self, answer: http.client.HTTPResponse) -> Json:
        try:
            tree = json.loads(answer.read())
        except ValueError:
            tree = None
        if not isinstance(tree, dict):
            raise self._stranger(answer)
        return tree

    def _stranger(self, answer: http.client.HTTPResponse) -> UnreachableError:
        return UnreachableError(
            f"{self.url}: no gateway of Numerator answers there (HTTP {answer.status})",
            sent=answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR,  # a balancer's words, perhaps
        )


def _target(path: str, query: Mapping[str, object] | None = None) -> str:
    return quote(path, safe="/:") + (f"?{urlencode(query)}" if query else "")


def _why(error: Exception) -> str:
    """Why no answer came, in few words."""
    match error:
        case socket.gaierror():
            return "the name of this host is not known"
        case ConnectionRefusedError():
            return "nobody listens there"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case http.client.RemoteDisconnected() | http.client.IncompleteRead() | ConnectionError():
            return "the connection broke off"
        case http.client.HTTPException():
            return "what answers there speaks no HTTP"
        case OSError():
            return (error.strerror or str(error)).lower()
    return str(error)
