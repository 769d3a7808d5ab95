"""
OFREP, the OpenFeature Remote Evaluation Protocol: any OpenFeature client can ask us for flags.

Members and clients ask for their own enterprise, operators for any. What rules may know of an enterprise always comes from
us; what else a client tells is for ordinary flags, never for who is in a rollout. The answers stay within what the
specification (https://github.com/open-feature/protocol) allows and its clients bear: value, variant and metadata are always
there, errors always have details, and no reason is given that the specification does not list.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails
from opentelemetry import trace
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.admission import Admissions
from gateway.callers import introduce
from gateway.catalogue import Shape
from gateway.errors import Problem, problem_headers
from gateway.flags import Flag
from gateway.identity import ANONYMOUS, AccessTokens
from gateway.limits import Body, RequestLimits
from gateway.ofrep_events import EventStreams
from gateway.routes import not_allowed
from gateway.transcoding import parse_json
from services.chassis.clock import Clock
from services.chassis.principal import Principal

PATH = "/ofrep/v1/evaluate/flags"
MOST_BYTES = 64 * 1024

_REASONS = frozenset({"STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED"})
"""Those that the specification lists; for any other it has UNKNOWN."""
_CODES: Mapping[str, str] = {
    "FLAG_NOT_FOUND": "FLAG_NOT_FOUND",
    "INVALID_CONTEXT": "INVALID_CONTEXT",
    "MALFORMED_JSON": "PARSE_ERROR",
    "TARGETING_KEY_FOREIGN": "INVALID_CONTEXT",
    "TARGETING_KEY_MISSING": "TARGETING_KEY_MISSING",
}
"""The protocol's error codes by our reasons; GENERAL for any other."""
_CATCH_UP_SECONDS = 2.0


class Ofrep:
    """Evaluates one flag, or all. An ASGI application for PATH and what is below it."""

    def __init__(
        self,
        *,
        admissions: Admissions,
        tokens: AccessTokens,
        limits: RequestLimits,
        clock: Clock,
        events: EventStreams,
    ) -> None:
        self._admissions = admissions
        self._tokens = tokens
        self._limits = limits
        self._clock = clock
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = scope["path"].removeprefix(PATH).removeprefix("/")
        scope["route_template"] = f"{PATH}/{{key}}" if key else PATH
        if scope["method"] != "POST":
            refusal = not_allowed(["POST"])
            if scope["method"] != "OPTIONS":
                raise refusal
            await Response(status_code=204, headers=refusal.headers)(scope, receive, send)
            return
        try:
            response = await self._answer(scope, receive, key)
        except Problem as problem:
            trace.get_current_span().set_attribute("numerator.reason", problem.reason)
            response = _json(
                _error(key, problem.reason, problem.detail), problem.status, problem_headers(problem)
            )
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, key: str) -> Response:
        headers = Headers(scope=scope)
        principal = self._tokens.authenticate(headers.get("authorization"), self._clock.now())
        if principal is ANONYMOUS:
            raise Problem(401, "CREDENTIALS_MISSING", "log in, or send a client's access token")
        with self._limits.request(*introduce(scope, principal, Shape.UNARY)):
            body = await Body(receive, MOST_BYTES, headers.get("content-length")).whole()
            told = _context(body)
            enterprise = _enterprise(told, principal)
            if announced := QueryParams(scope["query_string"]).get("flagConfigEtag"):
                await self._events.caught_up(announced, _CATCH_UP_SECONDS)
            evaluation = _Evaluation(self._admissions, enterprise, told)
            if key:
                return evaluation.one(key)
            return evaluation.all(self._events.address(principal), headers.get("if-none-match", ""))


class _Evaluation:
    """Flags of one enterprise, by one state of the world."""

    def __init__(self, admissions: Admissions, enterprise: str, told: Mapping[str, Any]) -> None:
        """`told`: what the client says of itself. Raises 503 while nothing is known."""
        self._admissions = admissions
        self._serving = admissions.serving()
        self._enterprise = enterprise
        self._ours = self._serving.context_of(enterprise)
        names = self._serving.admissions.attribute_names
        theirs = {name: value for name, value in told.items() if name not in names}
        self._all = EvaluationContext(enterprise, {**theirs, **self._ours.attributes})

    def one(self, key: str) -> Response:
        """One flag: its value, or why there is none."""
        answer = self._evaluate(key)
        code = answer.get("errorCode")
        span = trace.get_current_span()
        span.set_attribute("feature_flag.key", key)
        span.set_attribute("feature_flag.result.variant", answer.get("variant", ""))
        return _json(answer, (404 if code == "FLAG_NOT_FOUND" else 400) if code else 200)

    def all(self, events: Mapping[str, str], known: str) -> Response:
        """All flags, and where the client hears of changes; 304 when `known` (If-None-Match) names just this answer."""
        response = _json(
            {
                "flags": [self._evaluate(key) for key in sorted(self._serving.snapshot.flags)],
                "eventStreams": [events],
                "metadata": {"version": self._serving.snapshot.version, "stale": self._serving.stale},
            }
        )
        etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        if etag in tags or "*" in tags:
            response = Response(status_code=304)
        response.headers.update({"etag": etag, "cache-control": "private, no-cache"})
        return response

    def _evaluate(self, key: str) -> dict[str, Any]:
        rollout = self._serving.snapshot.rollouts.get(key)
        details = self._serving.evaluate(key, self._ours if rollout else self._all)
        if details.error_code is not None:
            missing = details.error_code == ErrorCode.FLAG_NOT_FOUND
            reason = "FLAG_NOT_FOUND" if missing else "EVALUATION_FAILED"
            return _error(key, reason, details.error_message or "the flag's rule fails on this context")
        variant, value = _result(self._serving.snapshot.flags[key], details)
        metadata = {
            **details.flag_metadata,
            "version": self._serving.snapshot.version,
            "stale": self._serving.stale,
        }
        if rollout:
            decision = self._admissions.decide(key, self._enterprise)
            metadata |= {
                "rollout": rollout.rollout,
                "stage": rollout.stage,
                "decision": decision.reason or "ADMITTED",
            }
        reason = str(details.reason)
        return {
            "key": key,
            "value": value,
            "reason": reason if reason in _REASONS else "UNKNOWN",
            "variant": variant,
            "metadata": metadata,
        }


def _context(body: bytes) -> dict[str, Any]:
    """What the client says of itself. Raises 400."""
    tree = parse_json(body) if body else {}
    told = tree.get("context") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or not isinstance(told, dict | None):
        raise Problem(
            400, "INVALID_CONTEXT", 'the body must be an object, as {"context": {"targetingKey": "…"}}'
        )
    return dict(told or {})


def _enterprise(told: dict[str, Any], principal: Principal) -> str:
    """For whom flags are asked. Raises 400, or 403 when that is not the caller's to ask."""
    key = told.pop("targetingKey", None) or principal.enterprise
    if key is None:
        raise Problem(400, "TARGETING_KEY_MISSING", "name the enterprise as targetingKey, as enterprises/x")
    if not isinstance(key, str):
        raise Problem(400, "INVALID_CONTEXT", "targetingKey must be a string, as enterprises/x")
    if key != principal.enterprise and principal.kind != "OPERATOR":
        raise Problem(
            403, "TARGETING_KEY_FOREIGN", f"flags of {principal.enterprise} only: leave targetingKey out"
        )
    return key


def _result(flag: Flag, details: FlagResolutionDetails[Any]) -> tuple[str, Any]:
    """
    Variant and value. The protocol knows no default of the caller's: where the engine would give that, as of a flag that is
    off for everybody, it is the flag's own default variant, and never true.
    """
    if details.variant is not None:
        return details.variant, details.value
    default = flag.definition.get("defaultVariant")
    name = str(default).lower() if isinstance(default, bool) else default
    value = flag.definition["variants"].get(name)
    if value is None or value is True:
        return "", flag.nothing
    return str(name), float(value) if flag.kind == "float" else value


def _error(key: str, reason: str, detail: str) -> dict[str, Any]:
    return {
        **({"key": key} if key else {}),
        "errorCode": _CODES.get(reason, "GENERAL"),
        "errorDetails": detail,
        "reason": reason,
    }


def _json(tree: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status_code=status, headers=headers, media_type="application/json")
