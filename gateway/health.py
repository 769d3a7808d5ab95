"""`/healthz`, `/readyz`, `/openz` and the landing page."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.revocations import Revocations
from gateway.serving import Knowledge
from services.chassis.readiness import CHECK_SECONDS

_LANDING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Numerator</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:17px/1.6 system-ui,sans-serif;max-width:40rem;margin:14vh auto;padding:0 1.5rem;color:#1c2430}
h1{font-size:2.2rem;margin:0}a{color:#0b5cad}p.l{color:#5a6676;margin-top:.2rem}li{margin:.3rem 0}</style>
<h1>Numerator</h1><p class="l">The enterprise edition of a microblog network, as a platform of services.</p>
<ul><li><a href="/docs">API reference</a>, to read</li><li><a href="/openapi.json">OpenAPI 3.1</a>, for programs</li>
<li><a href="/readyz">State</a> of the services behind this gateway</li></ul>
<p>Members log in at <code>POST /v1/sessions</code>; partner apps get tokens at <code>POST /oauth2/token</code>.</p></html>"""


class Health:
    """
    What a load balancer, an operator and a curious person look at first.

    Answers are what was last known, and so wait for nobody; `watch` keeps them new.
    """

    def __init__(
        self,
        names: Iterable[str],
        state_of: Callable[[str], Awaitable[str]],
        knowledge: Knowledge,
        revocations: Revocations,
    ) -> None:
        """
        Args:
            names: of the services.
            state_of: asks a service for its state, as `SERVING`.
            knowledge: of flags and admissions.
            revocations: of access tokens.
        """
        self._states = dict.fromkeys(names, "UNKNOWN")
        self._state_of = state_of
        self._knowledge = knowledge
        self._revocations = revocations
        self.leaving = False
        """Set when the process is about to stop, while it still takes requests."""

    async def watch(self) -> None:
        """Ask all services for their states, again and again, each on its own, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in self._states:
                group.create_task(self._watch(name))

    def reason(self) -> str:
        """Why the gateway is not ready; empty when it is."""
        away = [name for name, state in self._states.items() if state != "SERVING"]
        if not self._revocations.informed:
            away.append("revocations")
        return self._closed() or (f"missing: {', '.join(away)}" if away else "")

    async def live(self, _request: Request) -> Response:
        """The process runs and answers."""
        return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})

    async def ready(self, _request: Request) -> Response:
        """200 when every service serves and admissions are known; 503 otherwise, with the state of each."""
        serving = self._knowledge.serving
        wrong = self.reason()
        return JSONResponse(
            {
                "status": "not ready" if wrong else "ready",
                "services": self._states,
                "snapshotVersion": serving.snapshot.version if serving else None,
                "admissionsVersion": serving.admissions.version if serving else None,
                "stale": serving.stale if serving else True,
                **({"reason": wrong} if wrong else {}),
            },
            status_code=503 if wrong else 200,
            headers={"cache-control": "no-store"},
        )

    async def open(self, _request: Request) -> Response:
        """
        200 while this gateway takes requests, whichever services are away: what a load balancer asks.

        A balancer that asked for readiness would take all gateways away as soon as one service is.
        """
        wrong = self._closed()
        return JSONResponse(
            {"status": "closed", "reason": wrong} if wrong else {"status": "open"},
            status_code=503 if wrong else 200,
            headers={"cache-control": "no-store"},
        )

    async def landing(self, _request: Request) -> Response:
        """Links for people."""
        return HTMLResponse(
            _LANDING, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )

    def _closed(self) -> str:
        if self.leaving:
            return "it stops"
        return "" if self._knowledge.serving else "missing: flags and admissions"

    async def _watch(self, name: str) -> None:
        while True:
            self._states[name] = await self._state_of(name)
            await asyncio.sleep(CHECK_SECONDS)
