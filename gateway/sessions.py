"""Members' sessions: `POST /v1/sessions` logs in, `POST /v1/sessions:refresh` goes on. The accounts service keeps them."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from numerator.accounts.v1 import sessions_pb2 as pb
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import Problem, invalid
from gateway.identity import MEMBER_LIFETIME, AccessTokens
from gateway.limits import Body
from gateway.login import BODY_BYTES, NO_STORE, LoginTries, principal_of
from gateway.transcoding import parse_json
from services.chassis.clock import Clock

OpenSession = Callable[[pb.OpenSessionRequest], Awaitable[pb.OpenedSession]]
RefreshSession = Callable[[pb.RefreshSessionRequest], Awaitable[pb.OpenedSession]]


class Sessions:
    """The endpoints that give members their access tokens."""

    def __init__(
        self,
        *,
        tokens: AccessTokens,
        clock: Clock,
        tries: LoginTries,
        open_session: OpenSession,
        refresh_session: RefreshSession,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._tries = tries
        self._open_session = open_session
        self._refresh_session = refresh_session

    async def open(self, request: Request) -> Response:
        """Log a member in with address and password."""
        given = await read_fields(request, required=("email", "password"), optional=("totp", "enterprise"))
        self._tries.count(request, f"member {given['email']}")
        return self.answer(
            await self._open_session(pb.OpenSessionRequest(**_named(given), **device_of(request)))
        )

    async def refresh(self, request: Request) -> Response:
        """Give a member the next access token, and the next refresh token."""
        given = await read_fields(request, required=("refresh_token",), optional=("enterprise",))
        self._tries.count(request)
        return self.answer(
            await self._refresh_session(pb.RefreshSessionRequest(**_named(given), **device_of(request)))
        )

    def answer(self, opened: pb.OpenedSession) -> Response:
        """A session that was opened: the access token, and what gets the next one."""
        principal = principal_of(opened.identity)
        now = self._clock.now()
        lifetime = MEMBER_LIFETIME
        if opened.HasField("rights_end_time"):
            lifetime = min(lifetime, opened.rights_end_time.ToDatetime(now.tzinfo) - now)
        token = self._tokens.issue(principal, lifetime, now, opened.identity)
        refreshable = opened.session.expire_time.ToDatetime(now.tzinfo) - now
        reply: dict[str, Any] = {
            **token.reply(),
            "refresh_token": opened.refresh_token,
            "refresh_expires_in": int(refreshable.total_seconds()),
            "session": opened.session.name,
            "member": principal.subject,
            "enterprise": principal.enterprise,
            "roles": sorted(principal.roles),
        }
        return JSONResponse(reply, headers=NO_STORE)


async def read_fields(
    request: Request, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """The fields of a JSON body, all of them texts that are not empty."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")
    body = Body(request.receive, BODY_BYTES, request.headers.get("content-length"))
    tree = parse_json(await body.whole())
    if not isinstance(tree, dict):
        raise invalid("body", "must be a JSON object")
    for name in tree.keys() - {*required, *optional}:
        raise invalid(name, "is no field of this request", "UNKNOWN_FIELD")
    return {name: _text(tree, name) for name in (*required, *optional) if name in required or name in tree}


def _named(given: dict[str, str]) -> dict[str, str]:
    """The fields as accounts calls them."""
    return {"acts_for" if name == "enterprise" else name: value for name, value in given.items()}


def _text(tree: dict[str, Any], name: str) -> str:
    value = tree.get(name)
    # JSON can say half of a surrogate pair, which is no character.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise invalid(name, "must be a string of printable characters that is not empty")
    return value


def device_of(request: Request) -> dict[str, str]:
    """From where a request comes, as accounts is told."""
    return {
        "address": request.client.host if request.client else "",
        "user_agent": request.headers.get("user-agent", ""),
    }
