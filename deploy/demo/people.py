"""The people of the story: a member who consents in a browser, and anybody who looks at the network."""

import weakref
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from deploy.demo.client import patiently


class _Form(HTMLParser):
    """The first form of a page: where it goes, and what is filled in already."""

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
        page = browser.get(authorization_url).raise_for_status()
        form = _Form()
        form.feed(page.text)
        answers = {"username": username, "password": password, "decision": "approve"}
        agreed = browser.post(urljoin(str(page.url), form.action), data={**form.fields, **answers})
        if not agreed.is_redirect:
            raise RuntimeError(
                f"the network answered {agreed.status_code} instead of a redirect: {agreed.text[:200]}"
            )
        handed = parse_qs(urlsplit(agreed.headers["location"]).query)
    return {name: values[0] for name, values in handed.items()}


class Network:
    """The network as everybody sees it, without an account; and the switch that the sandbox has for bad days."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10)
        weakref.finalize(self, self._http.close)

    def posts_of(self, username: str) -> list[dict[str, Any]]:
        """An account's newest posts."""
        account = self._get("/api/v1/accounts/lookup", acct=username)
        return list(self._get(f"/api/v1/accounts/{account['id']}/statuses", limit=40))

    def replies_to(self, post: str) -> list[dict[str, Any]]:
        """What was answered to a post."""
        return list(self._get(f"/api/v1/statuses/{post}/context")["descendants"])

    def refuse_posts(self, count: int) -> None:
        """Have it refuse the next so many posts."""
        fault = {"operation": "post_status", "kind": "refused", "count": count}
        self._http.post("/control/faults", json=fault).raise_for_status()

    def _get(self, path: str, **query: Any) -> Any:
        return patiently(lambda: self._http.get(path, params=query)).raise_for_status().json()
