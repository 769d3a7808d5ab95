"""
`/bound`: where a network sends the browser of somebody who agreed to a binding that nobody was invited to (for those who were,
see `gateway.invitations`).

The page says what to do with what the network handed over. It completes nothing by itself: whoever started the binding does,
with their own credentials.
"""

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"
_PAGE = Environment(autoescape=True).from_string("""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Numerator</title><meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:17px/1.6 system-ui,sans-serif;max-width:42rem;margin:10vh auto;padding:0 1.5rem;color:#1c2430}
h1{font-size:1.8rem}pre{background:#f2f4f7;padding:1rem;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}
</style>
{% if code and state %}
<h1>One step left</h1>
<p>The network agreed. Whoever started the binding completes it within ten minutes:</p>
<pre>POST /v1/enterprises/{enterprise}/accounts:completeBinding
{"state": {{ state | tojson }}, "code": {{ code | tojson }}{% if iss %}, "iss": {{ iss | tojson }}{% endif %}}</pre>
{% else %}
<h1>Nothing was bound</h1>
<p>The network did not agree{% if error %}: {{ error }}{% endif %}. Start another binding when you want to try again.</p>
{% endif %}</html>""")


async def bound(request: Request) -> Response:
    """Say what to do with the code, or that there is none. What stands in the URL is shown, escaped, and kept nowhere."""
    answer = {name: request.query_params.get(name, "")[:2000] for name in ("code", "state", "error", "iss")}
    return HTMLResponse(
        _PAGE.render(answer),
        headers={
            "content-security-policy": _POLICY,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
        },
    )
