"""
People who use the network, for tests and demonstrations: they post, repost, comment and favourite.

They are ordinary clients: they log in by OAuth, and call nothing but the Mastodon API.
"""

from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

from deploy.sandbox.users import PASSWORD

_REDIRECT_URI = "http://127.0.0.1/done"
_SCOPES = "read write"


class Person:
    """One user, logged in. Raises `httpx.HTTPStatusError` when the network refuses."""

    def __init__(self, url: str, username: str, password: str = PASSWORD) -> None:
        self.username = username
        self._http = httpx.Client(base_url=url, timeout=10)
        self._http.headers["Authorization"] = f"Bearer {self._log_in(username, password)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def post(self, text: str, *, in_reply_to_id: str | None = None, **fields: object) -> dict[str, Any]:
        return self._call("POST", "/api/v1/statuses", status=text, in_reply_to_id=in_reply_to_id, **fields)

    def comment(self, status_id: str, text: str) -> dict[str, Any]:
        """Answer a post, addressing its author as clients do."""
        author = self._call("GET", f"/api/v1/statuses/{status_id}")["account"]["acct"]
        return self.post(f"@{author} {text}", in_reply_to_id=status_id)

    def repost(self, status_id: str) -> dict[str, Any]:
        return self._call("POST", f"/api/v1/statuses/{status_id}/reblog")

    def favourite(self, status_id: str) -> dict[str, Any]:
        return self._call("POST", f"/api/v1/statuses/{status_id}/favourite")

    def _call(self, method: str, path: str, **body: object) -> dict[str, Any]:
        response = self._http.request(method, path, json=body or None)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def _log_in(self, username: str, password: str) -> str:
        registration = {"client_name": "People", "redirect_uris": _REDIRECT_URI, "scopes": _SCOPES}
        app = self._call("POST", "/api/v1/apps", **registration)
        asked = {
            "response_type": "code",
            "client_id": app["client_id"],
            "redirect_uri": _REDIRECT_URI,
            "scope": _SCOPES,
            "username": username,
            "password": password,
        }
        answer = self._http.post("/oauth/authorize", data=asked)
        if not answer.is_redirect:
            answer.raise_for_status()
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        exchange = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": app["client_id"],
            "client_secret": app["client_secret"],
            "redirect_uri": _REDIRECT_URI,
        }
        token: str = self._call("POST", "/oauth/token", **exchange)["access_token"]
        return token
