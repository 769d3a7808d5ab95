"""`/healthz`, `/readyz` and the landing page."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway.admission import Snapshots

_LANDING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Numerator</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:17px/1.6 system-ui,sans-serif;max-width:40rem;margin:14vh auto;padding:0 1.5rem;color:#1c2430}
h1{font-size:2.2rem;margin:0}a{color:#0b5cad}p.l{color:#5a6676;margin-top:.2rem}li{margin:.3rem 0}</style>
<h1>Numerator</h1><p class="l">The enterprise edition of a microblog network, as a platform of services.</p>
<ul><li><a href="/docs">API reference</a>, to read</li><li><a href="/openapi.json">OpenAPI 3.1</a>, for programs</li>
<li><a href="/readyz">State</a> of the services behind this gateway</li></ul>
<p>Members log in at <code>POST /v1/sessions</code>; partner apps get tokens at <code>POST /oauth2/token</code>.</p></html>"""


class Health:
    """What a load balancer, an operator and a curious person look at first."""

    def __init__(self, services: Callable[[], Awaitable[dict[str, str]]], snapshots: Snapshots) -> None:
        self._services = services
        self._snapshots = snapshots

    async def live(self, _request: Request) -> Response:
        """The process runs and answers."""
        return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})

    async def ready(self, _request: Request) -> Response:
        """200 when every service serves and admissions are known; 503 otherwise, with the state of each."""
        services = await self._services()
        snapshot = self._snapshots.current
        ready = snapshot is not None and all(state == "SERVING" for state in services.values())
        return JSONResponse(
            {
                "status": "ready" if ready else "not ready",
                "services": services,
                "snapshotVersion": snapshot.version if snapshot else None,
            },
            status_code=200 if ready else 503,
            headers={"cache-control": "no-store"},
        )

    async def landing(self, _request: Request) -> Response:
        """Links for people."""
        return HTMLResponse(
            _LANDING, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )
