"""The page to which a network sends the browser back."""

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.bound import bound


async def visit(**query: str) -> httpx.Response:
    """Open the page as a browser does that a network sent."""
    transport = httpx.ASGITransport(Starlette(routes=[Route("/bound", bound)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as browser:
        return await browser.get("/bound", params=query)


async def test_bound__says_what_to_do() -> None:
    """Code and state are shown as they must be sent, and the page is kept nowhere."""
    answer = await visit(code="c0de", state="st4te")

    assert '"code": "c0de"' in answer.text
    assert '"state": "st4te"' in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_bound__denied() -> None:
    """Without a code nothing was bound, and the page says so."""
    answer = await visit(error="access_denied")

    assert "did not agree: access_denied" in answer.text


async def test_bound__escapes() -> None:
    """What stands in the URL never becomes markup."""
    answer = await visit(code="</pre><script>1</script>", state="<b>", error="<i>")

    assert "<script>" not in answer.text
    assert "<b>" not in answer.text
