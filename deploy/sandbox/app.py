"""Puts the network together as one ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy.sandbox import users
from deploy.sandbox.api import Api
from deploy.sandbox.attempts import AttemptLog
from deploy.sandbox.calls import Guard
from deploy.sandbox.control import Control
from deploy.sandbox.faults import Faults, FaultyProtocol
from deploy.sandbox.oauth import OAuth
from deploy.sandbox.pages import Pages
from deploy.sandbox.settings import SandboxSettings
from deploy.sandbox.store import Network
from deploy.sandbox.weibo import SCOPE as WEIBO_SCOPE
from deploy.sandbox.weibo import Weibo


def build(settings: SandboxSettings) -> Starlette:
    """Open the network in its data directory. Raises `BlockingIOError` if another sandbox has it."""
    network = Network(
        settings.data_dir,
        mode=settings.mode,
        media_milliseconds=settings.media_milliseconds,
        idempotency_seconds=settings.idempotency_seconds,
    )
    attempts = AttemptLog(settings.data_dir / "attempts.jsonl")
    faults = Faults(settings.seed)
    guard = Guard(network, faults, attempts, settings.rate_limit)
    pages = Pages(settings, network)
    oauth = OAuth(settings, network, pages)
    weibo = Weibo(settings, network, pages)
    operations = [*oauth.operations(), *weibo.operations(), *Api(settings, network).operations()]

    def start_afresh() -> None:
        if settings.demo_users and not network.accounts:
            for username, display_name, followers in (*users.COMPANY, *users.PEOPLE):
                network.create_user(username, users.PASSWORD, display_name, followers)
        known = network.applications.get(users.WEIBO_KEY)
        if settings.demo_users and (known is None or known.redirect_uris != [settings.weibo_redirect_uri]):
            network.create_application(
                "Numerator",
                [settings.weibo_redirect_uri],
                [WEIBO_SCOPE],
                None,
                client_id=users.WEIBO_KEY,
                client_secret=users.WEIBO_SECRET,
            )

    start_afresh()
    names = frozenset(operation.name for operation in operations)
    control = Control(
        network=network, faults=faults, attempts=attempts, operations=names, start_afresh=start_afresh
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        network.close()
        attempts.close()

    async def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if request.url.path.startswith(("/api/", "/oauth/", "/oauth2/", "/2/", "/control/")):
            return JSONResponse({"error": "Record not found" if status == 404 else "Not allowed"}, status)
        return pages.problem("There is nothing here.", status)

    return Starlette(
        routes=[
            Route("/health", health),
            *(guard.route(operation) for operation in operations),
            *oauth.routes(),
            *weibo.routes(),
            *(control.routes() if settings.control else []),
            *pages.routes(),
        ],
        exception_handlers={HTTPException: not_found},
        lifespan=lifespan,
    )


async def health(_: Request) -> Response:
    return PlainTextResponse("OK")


def serve(settings: SandboxSettings) -> None:
    """Run until told to stop. Connections that hang in a black hole are cut after two seconds."""
    uvicorn.run(
        build(settings),
        host=settings.host,
        port=settings.port,
        http=FaultyProtocol,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        log_level="warning",
    )
