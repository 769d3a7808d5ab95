"""A partner app's view of the platform: HTTP, JSON, bearer tokens, problem+json. Knows nothing that OpenAPI does not say."""

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from uuid import uuid4

import httpx

T = TypeVar("T")
Json = dict[str, Any]

PATIENCE = 30.0
"""For how many seconds a call is made again while nobody answers, or the answer is 503. Restarts take less."""


class Problem(Exception):  # noqa: N818 -- RFC 9457 calls it so
    """An answer of the gateway that is a problem (RFC 9457). `reason` is what programs branch on."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('detail', '')}")
        self.status = status
        self.body = body
        self.reason: str = body.get("reason", "")


class Bearer(httpx.Auth):
    """Sends a bearer token with each request. Empty: that of nobody in particular."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    @property
    def token(self) -> str:
        """The token at present."""
        return self._token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]  # nothing is sent back
        if token := self.token:
            request.headers["authorization"] = f"Bearer {token}"
        yield request


class Session(Bearer):
    """A member's session. Its token is refreshed long before it expires; where that fails, the member logs in again."""

    def __init__(self, url: str, email: str, password: str, *, totp: str = "", enterprise: str = "") -> None:
        super().__init__()
        self._url = url
        self._enterprise = {"enterprise": enterprise} if enterprise else {}
        self._login = {"email": email, "password": password, **self._enterprise}
        self._lock = threading.Lock()  # a refresh token works once: two threads must not show the same
        self._take(self._post("/v1/sessions", self._login | ({"totp": totp} if totp else {})))

    @property
    def token(self) -> str:
        with self._lock:
            if time.monotonic() > self._stale:
                try:
                    shown = {"refresh_token": self._refresh_token, **self._enterprise}
                    self._take(self._post("/v1/sessions:refresh", shown))
                except Problem as problem:
                    # The answer of a refresh before may have been lost, and then its token was used.
                    if problem.reason != "SESSION_ENDED":
                        raise
                    self._take(self._post("/v1/sessions", self._login))
            return self._token

    def _post(self, path: str, body: Json) -> Json:
        return read_json(patiently(lambda: httpx.post(f"{self._url}{path}", json=body, timeout=30)))

    def _take(self, opened: Json) -> None:
        self._token = opened["access_token"]
        self._refresh_token: str = opened["refresh_token"]
        self._stale = time.monotonic() + opened["expires_in"] / 2


class Gateway:
    """One caller of the gateway, whom `bearer` says: a token, a session, or by default nobody in particular."""

    def __init__(self, url: str, bearer: str | Bearer = "", *, timeout: float = 30) -> None:
        self.url = url
        self._bearer = bearer if isinstance(bearer, Bearer) else Bearer(bearer)
        self._http = httpx.Client(base_url=url, timeout=timeout, auth=self._bearer)
        weakref.finalize(self, self._http.close)  # callers come and go; nobody has to close them

    @property
    def token(self) -> str:
        """The bearer token at present."""
        return self._bearer.token

    def login(self, email: str, password: str, *, totp: str = "", enterprise: str = "") -> "Gateway":
        """Log a member in: with a code of their second factor, and for another enterprise than their own, if need be."""
        return Gateway(self.url, Session(self.url, email, password, totp=totp, enterprise=enterprise))

    def client(self, client_id: str, secret: str) -> "Gateway":
        """Authenticate a partner app or an operator by OAuth2 client credentials."""
        answer = self._http.post(
            "/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=httpx.BasicAuth(client_id, secret),
        )
        return Gateway(self.url, read_json(answer)["access_token"])

    def get(self, path: str, **query: Any) -> Json:
        """Read."""
        return read_json(patiently(lambda: self._http.get(path, params=query)))

    def list(self, path: str, field: str, **query: Any) -> Iterator[Json]:
        """Read all pages of a list."""
        token = ""
        while True:
            page = self.get(path, **query, **({"pageToken": token} if token else {}))
            yield from page.get(field, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def post(self, path: str, body: Json | None = None, *, once: bool = False) -> Json:
        """
        Write. The key makes it safe to send again when the answer is lost, and so it is sent again.

        `once` is for what the API takes a single time, as an authorization code: no key, no second try.
        """
        if once:
            return read_json(self._http.post(path, json=body or {}))
        headers = {"idempotency-key": str(uuid4())}
        return read_json(patiently(lambda: self._http.post(path, json=body or {}, headers=headers)))

    def delete(self, path: str) -> Json:
        """Delete."""
        return read_json(self._http.delete(path))

    def upload(self, path: str, lines: Iterable[bytes], *, timeout: float = 300) -> Json:
        """Stream JSON Lines."""
        return read_json(
            self._http.post(
                path, content=iter(lines), headers={"content-type": "application/x-ndjson"}, timeout=timeout
            )
        )

    def page(self, path: str) -> str:
        """A public HTML page."""
        answer = self._http.get(path)
        answer.raise_for_status()
        return answer.text

    def events(self, path: str, **query: Any) -> Iterator[Json]:
        """The data of a stream of server-sent events, until the server ends it."""
        with self._http.stream("GET", path, params=query, headers={"accept": "text/event-stream"}) as stream:
            if stream.status_code != httpx.codes.OK:
                stream.read()
                read_json(stream)
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))


def read_json(answer: httpx.Response) -> Json:
    """The body of an answer. Raises Problem for one that is none."""
    body: Json = answer.json() if answer.content else {}
    if answer.is_success:
        return body
    raise Problem(answer.status_code, body)


def patiently(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Make a call that may be made again, until it is answered; at last raises httpx.TransportError, or gives the 503."""
    deadline = time.monotonic() + PATIENCE
    pause = 0.1
    while True:
        last = time.monotonic() > deadline
        try:
            answer = call()
            if last or answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
        except httpx.TransportError:
            if last:
                raise
        time.sleep(pause)  # between two tries; the deadline above is what ends them
        pause = min(2 * pause, 1.0)


def eventually(ask: Callable[[], T | None], *, what: str, seconds: float = 30) -> T:
    """Ask until there is an answer. Raises TimeoutError, naming what was waited for."""
    deadline = time.monotonic() + seconds
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.1)  # between two polls; the deadline above is what ends the wait
    return answer
