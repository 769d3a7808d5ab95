"""
How OpenFeature clients hear that flags changed: server-sent events that say no more than "ask again" (OFREP, ADR 0008).

A browser cannot send a header when it opens such a stream, so the address that we give out holds a token, which is good for
nothing else.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import jwt
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.callers import introduce
from gateway.catalogue import Shape
from gateway.errors import Problem
from gateway.identity import ANONYMOUS, AccessTokens
from gateway.keys import Keys
from gateway.limits import RequestLimits
from gateway.routes import not_allowed
from gateway.serving import Knowledge, Serving
from services.chassis.clock import Clock
from services.chassis.principal import Principal

PATH = "/ofrep/v1/events"

_TYPE = "ofrep-events+jwt"
_AUDIENCE = "numerator-ofrep-events"
_WINDOW = timedelta(hours=1)
_LONGEST = timedelta(hours=1)
"""Clients take the end of a stream for a disturbance, so it comes rarely; but tokens end, and members leave."""


class EventTokens:
    """Signs and verifies what lets a bearer hear that flags of one enterprise, or any flags, changed."""

    def __init__(self, keys: Keys, issuer: str) -> None:
        """The keys are those of access tokens; type and audience keep the two apart."""
        self._keys = keys
        self._issuer = issuer

    def issue(self, principal: Principal, now: datetime) -> str:
        """A token for one to two hours: the same for a whole hour, so that addresses do not change all the time."""
        window = _WINDOW // timedelta(seconds=1)
        claims = {
            "iss": self._issuer,
            "aud": _AUDIENCE,
            "sub": principal.subject,
            "exp": (int(now.timestamp()) // window + 2) * window,
            "kind": principal.kind,
            "enterprise": principal.enterprise,
        }
        return self._keys.sign(claims, _TYPE)

    def verify(self, token: str, now: datetime) -> Principal:
        """Who has the token. Raises 401."""
        try:
            claims = self._keys.read(
                token, _TYPE, issuer=self._issuer, audience=_AUDIENCE, require=("exp", "sub")
            )
        except jwt.InvalidTokenError:
            raise _refused() from None
        if claims["exp"] <= now.timestamp():
            raise Problem(
                401, "TOKEN_EXPIRED", "the address has expired; evaluate all flags to get another one"
            )
        return Principal(kind=claims["kind"], subject=claims["sub"], enterprise=claims["enterprise"])


class EventStreams:
    """The streams of one gateway. An ASGI application; make it in the event loop that runs it."""

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        tokens: AccessTokens,
        event_tokens: EventTokens,
        limits: RequestLimits,
        clock: Clock,
        public_url: str,
        stopping: asyncio.Event,
        heartbeat_seconds: float,
    ) -> None:
        self._knowledge = knowledge
        self._tokens = tokens
        self._event_tokens = event_tokens
        self._limits = limits
        self._clock = clock
        self._public_url = public_url
        self._stopping = stopping
        self._heartbeat_seconds = heartbeat_seconds
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        knowledge.subscribe(lambda: self._loop.call_soon_threadsafe(self._wake))

    def address(self, principal: Principal) -> dict[str, str]:
        """Where the caller hears of changes, as OFREP's bulk evaluation tells it."""
        token = self._event_tokens.issue(principal, self._clock.now())
        return {"type": "sse", "url": f"{self._public_url}{PATH}?token={token}"}

    async def caught_up(self, etag: str, seconds: float) -> None:
        """
        Wait until this gateway serves what an event of another one has announced, but not longer than `seconds`.

        Without this, a client that asks at once could be told by a slower gateway that nothing has changed.
        """
        try:
            snapshot, admissions = (int(part) for part in etag.split("-"))
        except ValueError:
            return
        end = self._loop.time() + seconds
        while self._loop.time() < end:
            changed = self._changed
            serving = self._knowledge.serving
            if serving and serving.snapshot.version >= snapshot and serving.admissions.version >= admissions:
                return
            await asyncio.wait([asyncio.ensure_future(changed.wait())], timeout=end - self._loop.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell changes until the client goes, the gateway stops, or an hour has passed."""
        scope["route_template"] = PATH
        if scope["method"] != "GET":
            refusal = not_allowed(["GET"])
            refusal.headers["allow"] = "GET, OPTIONS"  # a stream has no HEAD
            if scope["method"] != "OPTIONS":
                raise refusal
            await Response(status_code=204, headers=refusal.headers)(scope, receive, send)
            return
        principal = self._principal(scope)
        with self._limits.request(*introduce(scope, principal, Shape.EVENTS)):
            response = StreamingResponse(
                self._stream(principal, Headers(scope=scope).get("last-event-id")),
                media_type="text/event-stream",
                headers={"cache-control": "no-store", "x-accel-buffering": "no"},
            )
            await response(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal:
        token = QueryParams(scope["query_string"]).get("token")
        if token:
            return self._event_tokens.verify(token, self._clock.now())
        principal = self._tokens.authenticate(Headers(scope=scope).get("authorization"), self._clock.now())
        if principal is ANONYMOUS:
            raise Problem(
                401,
                "CREDENTIALS_MISSING",
                "send an access token, or use the address that a bulk evaluation gives",
            )
        return principal

    async def _stream(self, principal: Principal, seen: str | None) -> AsyncIterator[bytes]:
        """
        An event whenever what the caller's evaluations depend on has changed; at first too, unless the client says that
        it has `seen` the newest.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        open_streams = {"rpc.method": "ofrep.v1/events"}
        metrics.streams.add(1, open_streams)
        end = self._loop.time() + _LONGEST.total_seconds()
        known: Any = None
        try:
            yield b"retry: 1000\n\n"
            while not stopping.done() and self._loop.time() < end:
                changed = self._changed
                serving = self._knowledge.serving
                if serving and (inputs := _inputs(serving, principal)) != known:
                    if known is not None or _version(serving) != seen:
                        yield _event(serving)
                    known = inputs
                change = asyncio.ensure_future(changed.wait())
                done, _ = await asyncio.wait(
                    {change, stopping}, timeout=self._heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                change.cancel()
                if not done:
                    yield b": alive\n\n"
        finally:
            metrics.streams.add(-1, open_streams)
            stopping.cancel()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _inputs(serving: Serving, principal: Principal) -> Any:
    """What the evaluations of a caller depend on."""
    if principal.enterprise is None:
        return serving.snapshot.version, serving.admissions.key, serving.stale
    known = serving.context_of(principal.enterprise).attributes
    return serving.snapshot.version, serving.snapshot.sha256, known, serving.stale


def _version(serving: Serving) -> str:
    return f"{serving.snapshot.version}-{serving.admissions.version}"


def _event(serving: Serving) -> bytes:
    modified = max(serving.snapshot_time, serving.admissions_time)
    data = {
        "type": "refetchEvaluation",
        "etag": _version(serving),
        "lastModified": int(modified.timestamp()),
    }
    return f"id: {_version(serving)}\nevent: message\ndata: {json.dumps(data)}\n\n".encode()


def _refused() -> Problem:
    return Problem(
        401, "CREDENTIALS_INVALID", "the address is not ours; evaluate all flags to get another one"
    )
