"""What surrounds every request: its id, span, metrics, access log, and problems as answers."""

import re
import time
from collections.abc import Callable

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.errors import Problem, internal, problem_response
from gateway.limits import ClientGoneError
from services.chassis.ids import new_id
from services.chassis.logs import get_logger

CLIENT_GONE = 499
"""The status that logs and metrics show for a request whose client went away (nginx's number)."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROPAGATOR = TraceContextTextMapPropagator()
_PROBES = frozenset({"/healthz", "/readyz", "/openz"})

_log = get_logger("gateway.access")


class Observe:
    """ASGI middleware; the outermost, and so the place where what nobody foresaw is logged and answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        answered: Callable[[Scope, int, float], None],
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            app: what answers.
            answered: is called after each request with its status and how many seconds it took.
            leaving: whether the process is about to stop; clients are then asked to connect anew, elsewhere.
        """
        self._app = app
        self._answered = answered
        self._leaving = leaving
        self._tracer = trace.get_tracer("numerator")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        status = 0
        going = {"http.request.method": method, "url.scheme": scope["scheme"]}
        began = time.monotonic()
        metrics.active.add(1, going)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["x-request-id"] = request_id
                answered.setdefault("x-content-type-options", "nosniff")
                if self._leaving():
                    answered["connection"] = "close"
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            self._tracer.start_as_current_span(
                method,
                context=_PROPAGATOR.extract(headers),
                kind=trace.SpanKind.SERVER,
                attributes={
                    "http.request.method": method,
                    "url.scheme": scope["scheme"],
                    "numerator.request_id": request_id,
                },
            ) as span,
        ):
            try:
                await self._app(scope, receive, answer)
            except Problem as problem:
                span.set_attribute("numerator.reason", problem.reason)
                await problem_response(problem, scope["path"])(scope, receive, answer)
            except ClientGoneError:
                status = CLIENT_GONE
            except Exception:
                _log.exception("request.failed", method=method, path=scope["path"])
                if status:
                    raise  # The answer has begun: only a broken connection tells that it is not whole.
                await problem_response(internal(), scope["path"])(scope, receive, answer)
            finally:
                metrics.active.add(-1, going)
                route = scope.get("route_template", "")
                seconds = time.monotonic() - began
                span.update_name(f"{method} {route}".strip())
                span.set_attribute("http.response.status_code", status)
                attributes = {**going, "http.response.status_code": status}
                if route:
                    attributes["http.route"] = route
                    span.set_attribute("http.route", route)
                if status >= 500:  # noqa: PLR2004 -- a server's error
                    attributes["error.type"] = str(status)
                    span.set_status(trace.StatusCode.ERROR)
                metrics.requests.record(seconds, attributes)
                self._answered(scope, status, seconds)
                # Probes ask several times a second, and say nothing new.
                level = _log.debug if route in _PROBES else _log.info
                level(
                    "request.answered",
                    method=method,
                    route=route,
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )
