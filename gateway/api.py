"""
The routes of the protos: an HTTP request in, one RPC, an HTTP answer out.

The steps, each of which may refuse: route, identity, admission, limits, body, idempotency key, message, call.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

import grpc.aio
from google.api import httpbody_pb2
from google.protobuf.message import Message
from opentelemetry import trace
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.admission import Admissions
from gateway.backends import Backends
from gateway.callers import introduce
from gateway.catalogue import Method, Shape
from gateway.downloads import download
from gateway.errors import Problem
from gateway.idempotency import HEADER, apply_key
from gateway.identity import ANONYMOUS, AccessTokens
from gateway.limits import Body, ClientGoneError, RequestLimits, StageRates
from gateway.login import LoginTries
from gateway.replica import Exposures
from gateway.routes import Route, Routes
from gateway.serving import RolloutStage
from gateway.transcoding import render_json
from gateway.uploads import Upload
from services.chassis.clock import Clock
from services.chassis.principal import Principal
from services.chassis.rpc.access import DEFAULT_DEADLINE_SECONDS

T = TypeVar("T")
_MOST_PARAMETERS = 200
_FIRST_EVENT_SECONDS = 0.3
_PAGE_HEADERS = {
    # Pages are made by services, in part from what people wrote: no script, no frame, no plug-in runs in them.
    "content-security-policy": (
        "default-src 'none'; img-src https: http: data:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
}


class Api:
    """The ASGI application for everything that has a route in the protos."""

    def __init__(
        self,
        *,
        routes: Routes,
        backends: Backends,
        tokens: AccessTokens,
        admissions: Admissions,
        exposures: Exposures,
        limits: RequestLimits,
        tries: LoginTries,
        stage_rates: StageRates,
        clock: Clock,
        stopping: asyncio.Event,
        upload_seconds: float,
        stream_seconds: float,
        heartbeat_seconds: float,
    ) -> None:
        self._routes = routes
        self._backends = backends
        self._tokens = tokens
        self._admissions = admissions
        self._exposures = exposures
        self._limits = limits
        self._tries = tries
        self._stage_rates = stage_rates
        self._clock = clock
        self._stopping = stopping
        self._upload_seconds = upload_seconds
        self._stream_seconds = stream_seconds
        self._heartbeat_seconds = heartbeat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Problem before anything is sent."""
        headers = Headers(scope=scope)
        route, path = self._route(scope)
        if route is None:
            await Response(status_code=204, headers=path)(scope, receive, send)
            return
        method = route.method
        scope["route_template"] = route.binding.path.text
        principal = self._tokens.authenticate(headers.get("authorization"), self._clock.now())
        limited = introduce(scope, principal, method.shape)
        stage = self._admit(method, principal, path)
        if stage and principal.enterprise:
            self._stage_rates.take(method.access.feature, principal.enterprise, stage)
            principal = replace(principal, limits=stage.limits.told())
        if method.access.login:
            self._tries.count(Request(scope))
        with self._limits.request(*limited):
            body = Body(receive, method.body_bytes, headers.get("content-length"))
            if method.shape is Shape.UPLOAD:
                response = await self._upload(
                    route, path, scope, headers=headers, principal=principal, body=body
                )
            else:
                content = await body.whole()
                _check_media(content, headers)
                request = route.reader.read(path, _query(scope), content)
                apply_key(method, request, headers.get(HEADER))
                if method.shape is Shape.EVENTS:
                    response = await self._events(method, request, headers, principal, scope)
                elif method.shape is Shape.DOWNLOAD:
                    response = await self._download(method, request, principal, receive)
                else:
                    response = await self._unary(route, request, principal, receive)
            await response(scope, receive, send)

    def _route(self, scope: Scope) -> tuple[Route | None, dict[str, str]]:
        raw_path = scope["raw_path"].decode("ascii")
        if scope["method"] == "OPTIONS":
            try:
                self._routes.find("OPTIONS", raw_path)
            except Problem as problem:
                if "allow" not in problem.headers:
                    raise
                return None, problem.headers
        route, path = self._routes.find(scope["method"], raw_path)
        if scope["method"] == "HEAD" and route.method.shape in (Shape.EVENTS, Shape.DOWNLOAD):
            raise Problem(
                405, "METHOD_NOT_ALLOWED", "a stream has no HEAD", headers={"allow": "GET, OPTIONS"}
            )
        return route, path

    def _admit(self, method: Method, principal: Principal, path: dict[str, str]) -> RolloutStage | None:
        """Let the caller pass, and give the stage that its enterprise was admitted to, if a rollout guards the method."""
        if principal is ANONYMOUS and "ANONYMOUS" not in method.callers:
            raise Problem(401, "CREDENTIALS_MISSING", "log in, or send a client's access token")
        if not method.access.feature or principal.kind == "OPERATOR":
            return None
        # A route that is open to anybody belongs to the enterprise that its path names.
        named = "/".join(path.get("parent", path.get("name", "")).split("/")[:2])
        enterprise = principal.enterprise or (named if named.startswith("enterprises/") else None)
        stage = self._admissions.require(method.access.feature, enterprise).rollout
        if stage and enterprise:
            self._exposures.note((method.access.feature, enterprise, stage.stage))
        span = trace.get_current_span()
        span.set_attribute("feature_flag.key", method.access.feature)
        span.set_attribute("feature_flag.result.variant", "on")
        return stage

    async def _unary(
        self, route: Route, request: Message, principal: Principal, receive: Receive
    ) -> Response:
        method = route.method
        seconds = method.access.deadline_seconds or DEFAULT_DEADLINE_SECONDS
        call = self._backends.begin(method, principal, seconds, request)
        reply = await self._reply(call, method, receive)
        if isinstance(reply, httpbody_pb2.HttpBody):
            return Response(reply.data, media_type=reply.content_type, headers=_PAGE_HEADERS)
        return Response(render_json(reply, route.binding.response_body), media_type="application/json")

    async def _upload(
        self,
        route: Route,
        path: dict[str, str],
        scope: Scope,
        *,
        headers: Headers,
        principal: Principal,
        body: Body,
    ) -> Response:
        """Pass the body on while it comes: it is never held as a whole."""
        method = route.method
        if headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "UNSUPPORTED_ENCODING", "send the body without a content encoding")
        request = route.reader.read(path, _query(scope))
        apply_key(method, request, headers.get(HEADER))
        seconds = method.access.deadline_seconds or self._upload_seconds
        media = headers.get("content-type", "application/octet-stream")
        upload = Upload(body, request, route.binding.body, media)
        try:
            reply = await upload.send(partial(self._backends.begin_upload, method, principal, seconds))
        except grpc.RpcError as error:
            raise self._backends.problem(error, method.service) from None
        return Response(render_json(reply, route.binding.response_body), media_type="application/json")

    async def _download(
        self, method: Method, request: Message, principal: Principal, receive: Receive
    ) -> Response:
        """What fails before the first piece is still a problem document."""
        seconds = method.access.deadline_seconds or self._stream_seconds
        call = self._backends.begin(method, principal, seconds, request)
        first = await self._awaited(_next(call), call, method, receive)
        name: str = getattr(request, "name", "")
        return download(name, first or httpbody_pb2.HttpBody(), partial(_next, call), call.cancel)

    async def _reply(self, call: Any, method: Method, receive: Receive) -> Message:
        """The call's reply."""

        async def reply() -> Message:
            message: Message = await call
            return message

        return await self._awaited(reply(), call, method, receive)

    async def _awaited(self, work: Coroutine[Any, Any, T], call: Any, method: Method, receive: Receive) -> T:
        """What comes of a call. A client that goes away meanwhile cancels it."""
        try:
            return await _unless_gone(work, receive, call.cancel)
        except grpc.aio.AioRpcError as error:
            raise self._backends.problem(error, method.service) from None

    async def _events(
        self, method: Method, request: Message, headers: Headers, principal: Principal, scope: Scope
    ) -> Response:
        """A server stream as server-sent events. What fails before the first event is still a problem document."""
        seen = headers.get("last-event-id")
        if method.resume and seen:
            _resume(request, method.resume[1], seen)
        seconds = method.access.deadline_seconds or self._stream_seconds
        call = self._backends.begin(method, principal, seconds, request)
        first = asyncio.ensure_future(_next(call))
        done, _ = await asyncio.wait({first}, timeout=_FIRST_EVENT_SECONDS)
        if done and isinstance(error := first.exception(), grpc.aio.AioRpcError):
            raise self._backends.problem(error, method.service)
        return StreamingResponse(
            self._stream(call, first, method, scope["path"], headers.get("authorization")),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    def _revoked(self, authorization: str | None) -> Problem | None:
        """Why a stream has to end whose caller was let in, if it has to."""
        try:
            self._tokens.authenticate(authorization, self._clock.now())
        except Problem as problem:
            return problem if problem.reason == "TOKEN_REVOKED" else None
        return None

    async def _stream(
        self,
        call: Any,
        first: "asyncio.Future[Message | None]",
        method: Method,
        path: str,
        authorization: str | None,
    ) -> AsyncIterator[bytes]:
        following: asyncio.Future[Message | None] = first
        stopping = asyncio.ensure_future(self._stopping.wait())
        going = {"rpc.method": method.rpc_path.lstrip("/")}
        newest = self._tokens.revocations.last
        metrics.streams.add(1, going)
        try:
            yield b"retry: 1000\n\n"
            while True:
                awaited: set[asyncio.Future[Any]] = {following, stopping}
                done, _ = await asyncio.wait(
                    awaited,
                    timeout=self._heartbeat_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stopping in done:
                    return
                if newest != (newest := self._tokens.revocations.last) and (
                    problem := self._revoked(authorization)
                ):
                    yield _event("error", json.dumps(problem.document(path), ensure_ascii=False).encode())
                    return
                if following not in done:
                    yield b": alive\n\n"
                    continue
                try:
                    message = following.result()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                        problem = self._backends.problem(error, method.service)
                        yield _event("error", json.dumps(problem.document(path), ensure_ascii=False).encode())
                    return
                if message is None:
                    return
                last = getattr(message, method.resume[0]) if method.resume else None
                yield _event("message", render_json(message), last)
                following = asyncio.ensure_future(_next(call))
        finally:
            metrics.streams.add(-1, going)
            call.cancel()
            stopping.cancel()
            following.cancel()
            await asyncio.gather(following, stopping, return_exceptions=True)


async def _next(call: Any) -> Message | None:
    message = await call.read()
    return None if message is grpc.aio.EOF else cast("Message", message)


async def _unless_gone(work: Coroutine[Any, Any, T], receive: Receive, cancel: Callable[[], Any]) -> T:
    """The result of `work`; when the client closes the connection first, `cancel` it and raise ClientGoneError."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            cancel()
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _query(scope: Scope) -> list[tuple[str, str]]:
    try:
        text = scope["query_string"].decode()
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except UnicodeDecodeError:
        raise Problem(400, "MALFORMED_QUERY", "the query is not UTF-8") from None
    except ValueError:
        raise Problem(
            400, "MALFORMED_QUERY", f"the query has more than {_MOST_PARAMETERS} parameters"
        ) from None


def _check_media(content: bytes, headers: Headers) -> None:
    if not content:
        return
    media = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")
    if headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "UNSUPPORTED_ENCODING", "send the body without a content encoding")


def _resume(request: Message, field: str, seen: str) -> None:
    """Go on after the event that the client saw last."""
    try:
        setattr(request, field, int(seen) if isinstance(getattr(request, field), int) else seen)
    except (ValueError, TypeError):
        raise Problem(400, "INVALID_ARGUMENT", "Last-Event-ID is none that this stream has sent") from None


def _event(kind: str, data: bytes, last: object = None) -> bytes:
    head = f"id: {last}\n" if last else ""
    name = "" if kind == "message" else f"event: {kind}\n"
    return f"{head}{name}data: ".encode() + data + b"\n\n"
