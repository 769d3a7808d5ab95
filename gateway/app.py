"""The application: everything put together, and what runs beside it."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numerator
from google.protobuf.descriptor import FileDescriptor
from numerator.accounts.v1 import accounts_pb2 as accounts
from numerator.accounts.v1 import apps_pb2 as apps
from numerator.accounts.v1 import binding_pb2 as binding
from numerator.accounts.v1 import identity_providers_pb2 as identity_providers
from numerator.accounts.v1 import sessions_pb2 as sessions
from numerator.analytics.v1 import analytics_pb2 as analytics
from numerator.rollout.v1 import serving_pb2 as rollout
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admission import Admissions
from gateway.api import Api
from gateway.backends import Backends
from gateway.catalogue import read_methods, stub_files
from gateway.comments import read_comments
from gateway.docs import render_docs
from gateway.health import Health
from gateway.identity import GATEWAY, AccessTokens
from gateway.invitations import PATH as INVITATIONS_PATH
from gateway.invitations import Invitations
from gateway.keys import Keys
from gateway.limits import RequestLimits, StageRates, TokenBuckets
from gateway.login import Login, LoginTries
from gateway.observe import Observe
from gateway.ofrep import PATH as OFREP_PATH
from gateway.ofrep import Ofrep
from gateway.ofrep_events import PATH as EVENTS_PATH
from gateway.ofrep_events import EventStreams, EventTokens
from gateway.oidc import PATH as OIDC_PATH
from gateway.oidc import OidcLogins
from gateway.openapi import build_openapi
from gateway.replica import Exposures, Heartbeat
from gateway.revocations import RevocationPull, Revocations
from gateway.routes import Routes, not_allowed
from gateway.serving import Knowledge
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from gateway.snapshots import Intake, Kept, Pull, Push
from gateway.usage import Usage
from services.chassis.clock import Clock, SystemClock
from services.chassis.ids import new_id
from services.chassis.metrics import gauge
from services.chassis.principal import Principal, PrincipalSigner

API_VERSION = "v1"
_ACCOUNTS = accounts.DESCRIPTOR.services_by_name["AccountsService"].full_name
_SESSIONS = sessions.DESCRIPTOR.services_by_name["SessionService"].full_name
_APPS = apps.DESCRIPTOR.services_by_name["AppService"].full_name
_BINDING = binding.DESCRIPTOR.services_by_name["BindingService"].full_name
_PROVIDERS = identity_providers.DESCRIPTOR.services_by_name["IdentityProviderService"].full_name
_ANALYTICS = analytics.DESCRIPTOR.services_by_name["AnalyticsService"].full_name
_SERVING = rollout.DESCRIPTOR.services_by_name["ServingService"].full_name
_MARK_SECONDS = 1.0
_LOGIN_BURST = 20
ADDRESS_BURST = 200
_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """
    The gateway in one event loop. Make it there: gRPC's channels belong to the loop that made them.

    Attributes:
        app: the ASGI application.
        knowledge: what is known of flags and admissions.
        health: what it answers to probes; `leaving` is set there before it stops.
        stopping: set when the process is about to stop; streams end then.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        files: Sequence[FileDescriptor] | None = None,
        descriptors: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            settings: where everything is.
            files: whose services are served; all generated stubs by default.
            descriptors: the FileDescriptorSet with comments; the stubs' own by default.
            clock: for tests.

        Raises:
            ValueError: two methods have the same route, a route cannot be served, or a service has no address.
        """
        clock = clock or SystemClock()
        files = stub_files() if files is None else files
        methods = read_methods(files)
        key = settings.private_key.get_secret_value()
        keys = Keys(key, settings.public_keys)
        self.revocations = Revocations(clock)
        tokens = AccessTokens(keys, settings.public_url, self.revocations)
        self.stopping = asyncio.Event()
        self.knowledge = Knowledge(clock, settings.stale_seconds)
        self._settings = settings
        self._backends = Backends(settings.services, [*files], PrincipalSigner(key), clock)
        intake = Intake(self.knowledge)
        self._kept = Kept(settings.snapshot_file) if settings.snapshot_file else None
        if self._kept:
            self._kept.load(intake)
        self._pull = Pull(intake, self._get_snapshot, self._get_admissions)
        self._push = Push(settings.amqp_url.get_secret_value(), intake, self._pull.ask)
        exposures, stage_rates = Exposures(), StageRates()
        self._usage = Usage(self._record_usage, clock, settings.usage_seconds)
        self._measure()
        admissions = Admissions(self.knowledge, domain=f"gateway-{new_id()}")
        limits = RequestLimits(
            credential_rate=settings.credential_rate,
            tenant_rate=settings.tenant_rate,
            tenant_concurrency=settings.tenant_concurrency,
        )
        tries = LoginTries(
            by_account=TokenBuckets(settings.login_rate, _LOGIN_BURST),
            by_address=TokenBuckets(settings.login_address_rate, ADDRESS_BURST),
        )
        api = Api(
            routes=Routes(methods),
            backends=self._backends,
            tokens=tokens,
            admissions=admissions,
            exposures=exposures,
            limits=limits,
            tries=tries,
            stage_rates=stage_rates,
            clock=clock,
            stopping=self.stopping,
            upload_seconds=settings.upload_seconds,
            stream_seconds=settings.stream_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        events = EventStreams(
            knowledge=self.knowledge,
            tokens=tokens,
            event_tokens=EventTokens(keys, settings.public_url),
            limits=limits,
            clock=clock,
            public_url=settings.public_url,
            stopping=self.stopping,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        ofrep = Ofrep(admissions=admissions, tokens=tokens, limits=limits, clock=clock, events=events)
        login = Login(tokens=tokens, clock=clock, tries=tries, authenticate_client=self._authenticate_client)
        member_sessions = Sessions(
            tokens=tokens,
            clock=clock,
            tries=tries,
            open_session=self._open_session,
            refresh_session=self._refresh_session,
        )
        oidc_logins = OidcLogins(
            sessions=member_sessions,
            tries=tries,
            start_login=self._start_login,
            complete_login=self._complete_login,
            secure=settings.public_url.startswith("https://"),
        )
        invitations = Invitations(
            admissions=admissions,
            exposures=exposures,
            limits=limits,
            open_invitation=self._open_invitation,
            complete_invitation=self._complete_invitation,
            secure=settings.public_url.startswith("https://"),
        )
        comments = read_comments(_stub_descriptors() if descriptors is None else descriptors)
        document = build_openapi(methods, comments, server=settings.public_url, version=API_VERSION)
        self.health = health = Health(
            self._backends.names, self._backends.health, self.knowledge, self.revocations
        )
        self._revocation_pull = RevocationPull(self.revocations, self._list_revocations)
        self._heartbeat = Heartbeat(
            self.knowledge,
            exposures,
            self._report_replica,
            set_count=lambda count: setattr(stage_rates, "gateways", count),
            leaving=lambda: health.leaving,
        )
        own: Mapping[str, ASGIApp] = {
            "/": _Own(GET=health.landing),
            "/bound": _Own(GET=invitations.bound),
            "/healthz": _Own(GET=health.live),
            "/readyz": _Own(GET=health.ready),
            "/openz": _Own(GET=health.open),
            "/openapi.json": _Own(GET=_fixed(_dump(document), "application/json")),
            "/docs": _Own(
                GET=_fixed(
                    render_docs(document).encode(), "text/html", {"content-security-policy": _DOCS_POLICY}
                )
            ),
            "/oauth2/token": _Own(POST=login.token),
            "/v1/sessions": _Own(POST=member_sessions.open),
            "/v1/sessions:refresh": _Own(POST=member_sessions.refresh),
            "/v1/sessions:startOidc": _Own(POST=oidc_logins.start),
            "/.well-known/jwks.json": _Own(GET=_fixed(_dump(keys.jwks), "application/json")),
            "/.well-known/oauth-authorization-server": _Own(
                GET=_fixed(_dump(_oauth_metadata(document, settings.public_url)), "application/json")
            ),
            EVENTS_PATH: events,
        }
        below: Mapping[str, ASGIApp] = {
            OFREP_PATH: ofrep,
            INVITATIONS_PATH: invitations,
            OIDC_PATH: oidc_logins,
        }
        self.app = Observe(
            _Paths(own, below, api), answered=self._usage.answered, leaving=lambda: health.leaving
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep what is known new, and tell others of it, while the block runs; close everything after it."""
        running = [
            self._pull.run(),
            self._revocation_pull.run(),
            self.health.watch(),
            self._usage.run(),
            self._heartbeat.run(),
            self._grow_old(),
            *([self._kept.run(self.knowledge)] if self._kept else []),
        ]
        tasks = [asyncio.create_task(each) for each in running]
        self._push.start()
        try:
            yield
        finally:
            self.stopping.set()
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await asyncio.to_thread(self._push.stop)
            if self._kept:
                await asyncio.to_thread(self._kept.save, self.knowledge)
            await asyncio.gather(self._heartbeat.leave(), self._usage.finish())
            await self._backends.close()

    async def _grow_old(self) -> None:
        while True:
            await asyncio.sleep(_MARK_SECONDS)
            self.knowledge.mark()

    def _measure(self) -> None:
        knowledge = self.knowledge
        gauge(
            "numerator.gateway.snapshot.version",
            "The snapshot that is served; -1: none.",
            lambda: [(knowledge.snapshot.version if knowledge.snapshot else -1, {})],
        )
        gauge(
            "numerator.gateway.admissions.version",
            "The admissions that are served; -1: none.",
            lambda: [(knowledge.admissions.version if knowledge.admissions else -1, {})],
        )
        gauge(
            "numerator.gateway.snapshot.staleness",
            "Time since snapshot and admissions were last known to be the newest.",
            lambda: [(knowledge.staleness(), {})],
            unit="s",
        )
        revocations = self.revocations
        gauge(
            "numerator.gateway.revocations.age",
            "Time since the list of revoked access tokens was last known to be the newest.",
            lambda: [(revocations.age(), {})],
            unit="s",
        )
        gauge(
            "numerator.gateway.revocations.known",
            "Members, clients and sessions of which older access tokens are refused.",
            lambda: [(len(revocations), {})],
        )

    async def _get_snapshot(self, request: rollout.GetSnapshotRequest) -> rollout.Snapshot:
        return await self._backends.ask(
            "rollout", f"/{_SERVING}/GetSnapshot", request, rollout.Snapshot, GATEWAY
        )

    async def _get_admissions(self, request: rollout.GetAdmissionsRequest) -> rollout.GetAdmissionsResponse:
        return await self._backends.ask(
            "rollout", f"/{_SERVING}/GetAdmissions", request, rollout.GetAdmissionsResponse, GATEWAY
        )

    async def _report_replica(self, request: rollout.ReportReplicaRequest) -> rollout.ReportReplicaResponse:
        return await self._backends.ask(
            "rollout", f"/{_SERVING}/ReportReplica", request, rollout.ReportReplicaResponse, GATEWAY
        )

    async def _record_usage(self, request: analytics.RecordUsageRequest) -> analytics.RecordUsageResponse:
        return await self._backends.ask(
            "analytics", f"/{_ANALYTICS}/RecordUsage", request, analytics.RecordUsageResponse, GATEWAY
        )

    async def _open_invitation(
        self, request: binding.OpenInvitationRequest, caller: Principal
    ) -> binding.OpenInvitationResponse:
        return await self._backends.ask(
            "accounts", f"/{_BINDING}/OpenInvitation", request, binding.OpenInvitationResponse, caller
        )

    async def _complete_invitation(
        self, request: binding.CompleteInvitationRequest, caller: Principal
    ) -> binding.CompleteInvitationResponse:
        return await self._backends.ask(
            "accounts", f"/{_BINDING}/CompleteInvitation", request, binding.CompleteInvitationResponse, caller
        )

    async def _authenticate_client(self, request: accounts.AuthenticateClientRequest) -> accounts.Identity:
        return await self._backends.ask(
            "accounts", f"/{_ACCOUNTS}/AuthenticateClient", request, accounts.Identity, GATEWAY
        )

    async def _list_revocations(self, request: apps.ListRevocationsRequest) -> apps.ListRevocationsResponse:
        return await self._backends.ask(
            "accounts", f"/{_APPS}/ListRevocations", request, apps.ListRevocationsResponse, GATEWAY
        )

    async def _open_session(self, request: sessions.OpenSessionRequest) -> sessions.OpenedSession:
        return await self._backends.ask(
            "accounts", f"/{_SESSIONS}/OpenSession", request, sessions.OpenedSession, GATEWAY
        )

    async def _refresh_session(self, request: sessions.RefreshSessionRequest) -> sessions.OpenedSession:
        return await self._backends.ask(
            "accounts", f"/{_SESSIONS}/RefreshSession", request, sessions.OpenedSession, GATEWAY
        )

    async def _start_login(
        self, request: identity_providers.StartLoginRequest
    ) -> identity_providers.StartLoginResponse:
        return await self._backends.ask(
            "accounts", f"/{_PROVIDERS}/StartLogin", request, identity_providers.StartLoginResponse, GATEWAY
        )

    async def _complete_login(
        self, request: identity_providers.CompleteLoginRequest
    ) -> sessions.OpenedSession:
        return await self._backends.ask(
            "accounts", f"/{_PROVIDERS}/CompleteLogin", request, sessions.OpenedSession, GATEWAY
        )


class _Own:
    """A path of the gateway's own, with a handler for each HTTP method that it takes."""

    def __init__(self, **handlers: Handler) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route_template"] = scope["path"]
        refusal = not_allowed(self._handlers)
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=refusal.headers)(scope, receive, send)
            return
        handler = self._handlers.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            raise refusal
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


class _Paths:
    """Our own paths; what is below a prefix; the protos' for all others."""

    def __init__(self, own: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._own = own
        self._below = below
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        below = (
            app for prefix, app in self._below.items() if path == prefix or path.startswith(f"{prefix}/")
        )
        await self._own.get(path, next(below, self._rest))(scope, receive, send)


def _fixed(content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Handler:
    """A handler for content that does not change while the process lives."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    all_headers = {"etag": etag, "cache-control": "no-cache", **(headers or {})}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=all_headers)
        return Response(content, media_type=media_type, headers=all_headers)

    return answer


def _oauth_metadata(document: dict[str, Any], url: str) -> dict[str, Any]:
    """RFC 8414."""
    flow = document["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"]
    return {
        "issuer": url,
        "token_endpoint": f"{url}/oauth2/token",
        "jwks_uri": f"{url}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": list(flow["scopes"]),
        "service_documentation": f"{url}/docs",
    }


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _stub_descriptors() -> bytes:
    return (Path(next(iter(numerator.__path__))) / "descriptors.binpb").read_bytes()
