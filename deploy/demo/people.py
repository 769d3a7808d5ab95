"""The people of the story: a member who consents in a browser, and others who act on the network's own API."""

from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx

_SCOPES = "read write"
_NOWHERE = "http://127.0.0.1/nowhere"
"""The phone's redirect address: it only reads the code in it and never calls it."""


class _Form(HTMLParser):
    """The first form of a page: where it goes and what is filled in already."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values.get("action", "")
        elif tag == "input" and values.get("type") == "hidden":
            self.fields[values["name"]] = values.get("value", "")


def consent(authorization_url: str, username: str, password: str) -> dict[str, str]:
    """
    Open the network's authorization page as a browser does, log in, and agree.

    Returns what the network hands over in its redirect: `code` and `state`.
    """
    with httpx.Client(timeout=10) as browser:
        page = browser.get(authorization_url)
        page.raise_for_status()
        form = _Form()
        form.feed(page.text)
        agreed = browser.post(
            urljoin(str(page.url), form.action),
            data={**form.fields, "username": username, "password": password, "decision": "approve"},
        )
        if not agreed.is_redirect:
            raise RuntimeError(
                f"the network answered {agreed.status_code} instead of a redirect: {agreed.text[:200]}"
            )
        handed = parse_qs(urlsplit(agreed.headers["location"]).query)
    return {name: values[0] for name, values in handed.items()}


@dataclass
class Network:
    """The network as its own users see it, through any Mastodon client's calls."""

    url: str

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, timeout=10)
        self._app: dict[str, str] = {}
        self._tokens: dict[str, str] = {}

    def posts_of(self, username: str, limit: int = 40) -> list[dict[str, Any]]:
        """An account's newest posts, as everybody sees them."""
        account = self._get("/api/v1/accounts/lookup", acct=username)
        return list(self._get(f"/api/v1/accounts/{account['id']}/statuses", limit=limit))

    def replies_to(self, post: str) -> list[dict[str, Any]]:
        """What was answered to a post."""
        return list(self._get(f"/api/v1/statuses/{post}/context")["descendants"])

    def repost(self, username: str, password: str, post: str) -> None:
        """Pass a post on."""
        self._post(f"/api/v1/statuses/{post}/reblog", username, password)

    def favourite(self, username: str, password: str, post: str) -> None:
        """Like a post."""
        self._post(f"/api/v1/statuses/{post}/favourite", username, password)

    def comment(self, username: str, password: str, post: str, text: str) -> str:
        """Answer a post; returns the answer's id."""
        return str(
            self._post("/api/v1/statuses", username, password, {"status": text, "in_reply_to_id": post})["id"]
        )

    def _get(self, path: str, **query: Any) -> Any:
        answer = self._http.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def _post(self, path: str, username: str, password: str, body: dict[str, Any] | None = None) -> Any:
        token = self._tokens.get(username) or self._log_in(username, password)
        answer = self._http.post(path, json=body or {}, headers={"authorization": f"Bearer {token}"})
        answer.raise_for_status()
        return answer.json()

    def _log_in(self, username: str, password: str) -> str:
        if not self._app:
            body = {"client_name": "A phone", "redirect_uris": _NOWHERE, "scopes": _SCOPES}
            self._app = self._http.post("/api/v1/apps", json=body).raise_for_status().json()
        query = {
            "response_type": "code",
            "client_id": self._app["client_id"],
            "redirect_uri": _NOWHERE,
            "scope": _SCOPES,
        }
        code = consent(f"{self.url}/oauth/authorize?{urlencode(query)}", username, password)["code"]
        answer = self._http.post(
            "/oauth/token",
            json={
                "grant_type": "authorization_code",
                "code": code,
                "client_id": self._app["client_id"],
                "client_secret": self._app["client_secret"],
                "redirect_uri": _NOWHERE,
            },
        )
        answer.raise_for_status()
        self._tokens[username] = str(answer.json()["access_token"])
        return self._tokens[username]
