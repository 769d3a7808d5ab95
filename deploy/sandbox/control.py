"""How tests drive the network and read what really happened: `/control/*`. No login; JSON only."""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.sandbox.attempts import AttemptLog
from deploy.sandbox.faults import ArmedFault, Fault, Faults
from deploy.sandbox.settings import Mode
from deploy.sandbox.store import Network, UsernameTakenError
from deploy.sandbox.weibo import SCOPE as WEIBO_SCOPE

M = TypeVar("M", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModeChange(_Body):
    mode: Mode | None = None
    media_milliseconds: float | None = Field(default=None, ge=0)


class NewUser(_Body):
    username: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_]+([.-]+[A-Za-z0-9_]+)*$", max_length=30)
    ]
    password: str = Field(min_length=1)
    display_name: str = ""
    followers: int = Field(default=0, ge=0)


class TokenLife(_Body):
    seconds: float | None = Field(gt=0)
    """None: as usual, that is for ever, or 30 days on Weibo."""


class Revocation(_Body):
    username: str


class WeiboApp(_Body):
    client_id: str = Field(pattern=r"^[0-9]{1,20}$")
    client_secret: str = Field(min_length=1)
    redirect_uri: str = Field(pattern=r"^https?://")


class Reset(_Body):
    accounts: bool = False
    log: bool = False


class Range(_Body):
    after: int = Field(default=0, ge=0)
    limit: int = Field(default=100_000, ge=1, le=100_000)


class ControlError(Exception):
    """The request is wrong; the status and why."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Control:
    """The control endpoints. `start_afresh` fills a network that lost its accounts."""

    def __init__(
        self,
        *,
        network: Network,
        faults: Faults,
        attempts: AttemptLog,
        operations: frozenset[str],
        start_afresh: Callable[[], None],
    ) -> None:
        self._network = network
        self._faults = faults
        self._attempts = attempts
        self._operations = operations
        self._start_afresh = start_afresh

    def routes(self) -> list[Route]:
        return [
            _route("/control/log", "GET", self.log),
            _route("/control/attempts", "GET", self.attempts),
            _route("/control/faults", "GET", self.list_faults),
            _route("/control/faults", "POST", self.arm_fault),
            _route("/control/faults", "DELETE", self.clear_faults),
            _route("/control/mode", "GET", self.show_mode),
            _route("/control/mode", "POST", self.set_mode),
            _route("/control/users", "GET", self.list_users),
            _route("/control/users", "POST", self.create_user),
            _route("/control/tokens", "POST", self.set_token_life),
            _route("/control/revocations", "POST", self.revoke_tokens),
            _route("/control/weibo_apps", "POST", self.create_weibo_app),
            _route("/control/reset", "POST", self.reset),
        ]

    async def log(self, request: Request) -> Response:
        asked = _checked(Range, dict(request.query_params))
        posts = self._network.published(asked.after, asked.limit)
        return JSONResponse({"posts": posts, "last_sequence": self._network.sequence})

    async def attempts(self, request: Request) -> Response:
        asked = _checked(Range, dict(request.query_params))
        attempts = self._attempts.read(asked.after, asked.limit)
        return JSONResponse({"attempts": attempts, "last_attempt": self._attempts.last})

    async def list_faults(self, _: Request) -> Response:
        return JSONResponse({"faults": [_armed(armed) for armed in self._faults.armed]})

    async def arm_fault(self, request: Request) -> Response:
        fault = await _body(Fault, request)
        if fault.operation != "*" and fault.operation not in self._operations:
            raise ControlError(422, f"operation: must be * or one of {', '.join(sorted(self._operations))}")
        return JSONResponse(_armed(self._faults.arm(fault)), 201)

    async def clear_faults(self, _: Request) -> Response:
        self._faults.armed.clear()
        return Response(status_code=204)

    async def show_mode(self, _: Request) -> Response:
        return JSONResponse(
            {"mode": self._network.mode, "media_milliseconds": self._network.media_milliseconds}
        )

    async def set_mode(self, request: Request) -> Response:
        change = await _body(ModeChange, request)
        self._network.set_mode(
            self._network.mode if change.mode is None else change.mode,
            self._network.media_milliseconds
            if change.media_milliseconds is None
            else change.media_milliseconds,
        )
        return await self.show_mode(request)

    async def list_users(self, _: Request) -> Response:
        users = [
            {
                "id": str(account.id),
                "username": account.username,
                "display_name": account.display_name,
                "followers": account.followers,
            }
            for account in self._network.accounts.values()
        ]
        return JSONResponse({"users": users})

    async def create_user(self, request: Request) -> Response:
        new = await _body(NewUser, request)
        try:
            account = self._network.create_user(
                new.username, new.password, new.display_name or new.username, new.followers
            )
        except UsernameTakenError as error:
            raise ControlError(409, f"username: {new.username} is taken") from error
        return JSONResponse({"id": str(account.id), "username": account.username}, 201)

    async def set_token_life(self, request: Request) -> Response:
        self._network.set_token_life((await _body(TokenLife, request)).seconds)
        return Response(status_code=204)

    async def revoke_tokens(self, request: Request) -> Response:
        asked = await _body(Revocation, request)
        tokens = [
            each
            for each in self._network.tokens.values()
            if each.account and each.account.username == asked.username
        ]
        for token in tokens:
            self._network.revoke_token(token)
        return JSONResponse({"revoked": len(tokens)})

    async def create_weibo_app(self, request: Request) -> Response:
        app = await _body(WeiboApp, request)
        self._network.create_application(
            "Tests",
            [app.redirect_uri],
            [WEIBO_SCOPE],
            None,
            client_id=app.client_id,
            client_secret=app.client_secret,
        )
        return Response(status_code=204)

    async def reset(self, request: Request) -> Response:
        asked = await _body(Reset, request)
        self._network.reset(accounts=asked.accounts, log=asked.log)
        if asked.log:
            self._attempts.clear()
        self._faults.armed.clear()
        self._start_afresh()
        return Response(status_code=204)


def _route(path: str, method: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ControlError as error:
            return JSONResponse({"error": str(error)}, error.status)

    return Route(path, endpoint, methods=[method])


async def _body(model: type[M], request: Request) -> M:
    """JSON only, which a form on some web page cannot send from a developer's browser."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ControlError(415, "send application/json")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise ControlError(422, _reasons(error)) from error


def _checked(model: type[M], values: dict[str, str]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ControlError(422, _reasons(error)) from error


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())


def _armed(armed: ArmedFault) -> dict[str, object]:
    return {**armed.fault.model_dump(mode="json"), "applied": armed.applied}
