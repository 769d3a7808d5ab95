"""What surrounds each API operation: who calls, may they, how often, which fault strikes, what is logged."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.sandbox.attempts import AttemptLog
from deploy.sandbox.faults import (
    AFTER,
    BEFORE,
    Fault,
    Faults,
    Kind,
    client_gone,
    close_connection,
    reset_connection,
)
from deploy.sandbox.model import Account, Token
from deploy.sandbox.settings import Mode
from deploy.sandbox.store import Network

RATE_WINDOW = timedelta(minutes=5)
MAX_BODY_BYTES = 20 * 1024 * 1024


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, error: str, description: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.body: dict[str, object] = {"error": error}
        if description:
            self.body["error_description"] = description


class Access(Enum):
    """Whose token an operation needs."""

    ANYONE = auto()
    TOKEN = auto()
    """An application's own will do."""
    USER = auto()


@dataclass(frozen=True, slots=True)
class Parameters:
    """The query, form or JSON object of a call; `name[]` is a list called `name`."""

    values: Mapping[str, Any]

    @classmethod
    async def of(cls, request: Request) -> "Parameters":
        """Raises `ApiError` (400) for a body that cannot be read."""
        values: dict[str, Any] = {}
        items: list[tuple[str, Any]] = [*request.query_params.multi_items()]
        content_type = request.headers.get("content-type", "").partition(";")[0]
        if content_type == "application/json":
            values |= _json_object(await request.body())
        elif content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
            try:
                items += (await request.form()).multi_items()
            except HTTPException as error:
                raise ApiError(400, "Bad Request", error.detail) from error
        for name, value in items:
            if name.endswith("[]"):
                values.setdefault(name[:-2], []).append(value)
            else:
                values[name] = value
        return cls(values)

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str | int | float):
            raise ApiError(422, f"Validation failed: {name} must be a string")
        text = str(value)
        if not text.isprintable():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ApiError(422, f"Validation failed: {name} is not valid Unicode") from error
        return text

    def require(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise ApiError(400, "invalid_request", f"Missing required parameter: {name}.")
        return value

    def flag(self, name: str) -> bool:
        return self.values.get(name) in (True, "true", "1", "on")

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name) or []
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]

    def identifier(self, name: str) -> int | None:
        """An id given by the client. Raises `ApiError` (404) for one that cannot be."""
        value = self.text(name)
        return read_id(value) if value else None

    def upload(self, name: str) -> UploadFile | None:
        value = self.values.get(name)
        return value if isinstance(value, UploadFile) else None


def read_id(value: str) -> int:
    """Raises `ApiError` (404) for what is no id."""
    if not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise ApiError(404, "Record not found")
    return int(value)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError(400, "Error occurred while parsing request parameters") from error
    if not isinstance(value, dict):
        raise ApiError(400, "Error occurred while parsing request parameters")
    return value


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation by an authenticated caller, if any."""

    request: Request
    token: Token | None

    @property
    def viewer(self) -> Account | None:
        return self.token.account if self.token else None

    @property
    def me(self) -> Account:
        """Who calls, in an operation for users."""
        if self.viewer is None:
            raise ApiError(422, "This method requires an authenticated user")
        return self.viewer

    @property
    def path_id(self) -> int:
        return read_id(self.request.path_params["id"])

    async def parameters(self) -> Parameters:
        return await Parameters.of(self.request)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API: how it is reached, and by whom. Its name is that of its handler."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.ANYONE
    scopes: tuple[str, ...] = ()
    """Any of these; a caller without a token needs none where anyone may call."""

    @property
    def name(self) -> str:
        return getattr(self.handler, "__name__", "")


@dataclass(slots=True)
class RateLimiter:
    """Counts calls in windows of five minutes that begin with a caller's first call."""

    limit: int
    _windows: dict[str, tuple[datetime, int]] = field(default_factory=dict)

    def count(self, caller: str) -> tuple[int, datetime]:
        """Count a call. Returns what remains (below 0: too many) and when the window ends."""
        now = datetime.now(UTC)
        end, used = self._windows.get(caller, (now, 0))
        if end <= now:
            end, used = now + RATE_WINDOW, 0
        self._windows[caller] = (end, used + 1)
        return self.limit - used - 1, end


class Guard:
    """Runs operations."""

    def __init__(self, network: Network, faults: Faults, attempts: AttemptLog, rate_limit: int) -> None:
        self._network = network
        self._faults = faults
        self._attempts = attempts
        self._limiter = RateLimiter(rate_limit)

    def route(self, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self._run(operation, request)

        return Route(operation.path, endpoint, methods=[operation.method], name=operation.name)

    async def _run(self, operation: Operation, request: Request) -> Response:
        started = time.perf_counter()
        bearer = _bearer(request)
        token = self._network.token(bearer) if bearer else None
        username = token.account.username if token and token.account else None
        attempt = self._attempts.received(operation.name, username, request.headers.get("idempotency-key"))

        delay = self._faults.draw(operation.name, username, {Kind.LATENCY})
        if delay:
            await asyncio.sleep(delay.milliseconds / 1000)
        fault = self._faults.draw(operation.name, username, BEFORE)
        response: Response | None = None
        if fault is None:
            response = await self._answer(operation, Call(request, token), bearer)
            if response.status_code < 400:
                fault = self._faults.draw(operation.name, username, AFTER)
        if fault:
            response = await self._inflict(fault, request)

        struck = fault or delay
        self._attempts.ended(
            attempt,
            http_status=response.status_code if response else None,
            fault=struck.kind if struck else None,
            milliseconds=(time.perf_counter() - started) * 1000,
        )
        return response or Response()  # nobody reads the latter: the connection is gone

    async def _answer(self, operation: Operation, call: Call, bearer: str | None) -> Response:
        client = call.request.client.host if call.request.client else ""
        remaining, reset = self._limiter.count(bearer or client)
        try:
            _admit(call.request, remaining)
            _authorise(operation, call, bearer)
            response = await operation.handler(call)
        except ApiError as error:
            response = JSONResponse(error.body, error.status)
        response.headers.update(self._rate_headers(max(0, remaining), reset))
        return response

    async def _inflict(self, fault: Fault, request: Request) -> Response | None:
        match fault.kind:
            case Kind.TOO_MANY_REQUESTS:
                reset = datetime.now(UTC) + timedelta(seconds=fault.retry_after)
                return JSONResponse({"error": "Too many requests"}, 429, self._rate_headers(0, reset))
            case Kind.REFUSED if fault.error_code is not None:
                told = {"error": "refused", "error_code": fault.error_code, "request": request.url.path}
                return JSONResponse(told, 400)
            case Kind.REFUSED:
                return JSONResponse({"error": "Validation failed: refused"}, 422)
            case Kind.LOST_REPLY_AFTER_COMMIT:
                close_connection(request)
            case Kind.RESET_BEFORE:
                await request.body()  # or some clients would fail at sending, others at receiving
                reset_connection(request)
            case Kind.BLACK_HOLE:
                pass
            case _:
                return JSONResponse({"error": "Internal server error"}, 500)
        await client_gone(request)
        return None

    def _rate_headers(self, remaining: int, reset: datetime) -> dict[str, str]:
        """Mastodon says when in ISO 8601, others in epoch seconds."""
        when = str(int(reset.timestamp())) if self._network.mode is Mode.IGNORES else _iso(reset)
        return {
            "X-RateLimit-Limit": str(self._limiter.limit),
            "X-RateLimit-Remaining": str(remaining),
            "X-RateLimit-Reset": when,
        }


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _bearer(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() or None if kind.lower() == "bearer" else None


def _admit(request: Request, remaining: int) -> None:
    if remaining < 0:
        raise ApiError(429, "Too many requests")
    if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:
        raise ApiError(413, "Payload too large")


def _authorise(operation: Operation, call: Call, bearer: str | None) -> None:
    if (bearer or operation.access is not Access.ANYONE) and call.token is None:
        raise ApiError(401, "The access token is invalid")
    if operation.access is Access.USER and call.viewer is None:
        raise ApiError(422, "This method requires an authenticated user")
    if call.token and operation.scopes and not any(map(call.token.allows, operation.scopes)):
        raise ApiError(403, "This action is outside the authorized scopes")
