"""The secret by which a browser that comes back from elsewhere is known to be the one that was sent there: a cookie."""

import re
import secrets

from starlette.requests import Request
from starlette.responses import Response

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_SECONDS = 15 * 60  # a little longer than what is begun may take


class BrowserSecret:
    """A cookie that no script reads. What it proves, the accounts service decides."""

    def __init__(self, name: str, *, secure: bool) -> None:
        """`secure`: whether browsers reach us by HTTPS, so that the cookie is never sent otherwise."""
        self._secure = secure
        # With this prefix no other host of the domain can set it. Browsers demand HTTPS for it.
        self._name = f"__Host-{name}" if secure else name

    def given(self, request: Request) -> str:
        """What the browser shows; empty when it shows nothing that is ours."""
        shown = request.cookies.get(self._name, "")
        return shown if _SECRET.fullmatch(shown) else ""

    def of(self, request: Request) -> str:
        """The browser's secret, or a new one. The same for all windows, so that they do not disturb each other."""
        return self.given(request) or secrets.token_urlsafe(32)

    def keep(self, secret: str, response: Response) -> None:
        """Have the browser keep it for a quarter of an hour, from now."""
        response.set_cookie(
            self._name,
            secret,
            max_age=_SECONDS,
            path="/",
            secure=self._secure,
            httponly=True,
            # It has to come along when somebody else sends the browser back.
            samesite="lax",
        )
