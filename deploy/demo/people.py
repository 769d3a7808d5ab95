"""The people of the story: a member who consents in a browser, and anybody who looks at the network."""

import weakref
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urljoin, urlsplit, urlunsplit

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


def follow_invitation(gateway: str, link: str, username: str, password: str, *, agrees: bool = True) -> None:
    """
    What an account's holder does with an invitation's link, in one browser: open it, answer on the network's page, come back.

    Whatever comes of it, the holder is told on the last page, and the enterprise by the row of its batch.
    """
    with httpx.Client(base_url=gateway, timeout=30) as browser:
        # Links have the platform's public address, which we may know under another one, as from another container.
        opened = browser.get(_below_origin(link))
        if not opened.is_redirect:
            raise RuntimeError(f"the invitation of @{username} answered {opened.status_code}")
        decision = "approve" if agrees else "deny"
        back = decide(
            browser, opened.headers["location"], username=username, password=password, decision=decision
        )
        browser.get(_below_origin(back))


def decide(browser: httpx.Client, authorization_url: str, **answers: str) -> str:
    """Answer the network's authorization page without looking at it; returns where it sends the browser."""
    page, _, query = authorization_url.partition("?")
    return str(browser.post(page, data={**dict(parse_qsl(query)), **answers}).headers["location"])


def _below_origin(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path, parts.query, ""))


class Network:
    """The network as everybody sees it, without an account; and the switches that the sandbox has for tests and bad days."""

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

    def settle(self, username: str, password: str) -> None:
        """Make sure that there is somebody of this name."""
        made = self._http.post("/control/users", json={"username": username, "password": password})
        if made.status_code != httpx.codes.CONFLICT:
            made.raise_for_status()

    def refuse_posts(self, count: int) -> None:
        """Have it refuse the next so many posts."""
        self._control("faults", operation="post_status", kind="refused", count=count)

    def delay_post(self, username: str, milliseconds: int) -> None:
        """Have it take its time with an account's next post."""
        self._control(
            "faults", operation="post_status", kind="latency", count=1, accounts=[username],
            milliseconds=milliseconds,
        )  # fmt: skip

    def revoke_tokens(self, username: str) -> None:
        """Have somebody take back what apps may do for them, as in their settings."""
        self._control("revocations", username=username)

    def _control(self, switch: str, **body: object) -> None:
        self._http.post(f"/control/{switch}", json=body).raise_for_status()

    def _get(self, path: str, **query: Any) -> Any:
        return patiently(lambda: self._http.get(path, params=query)).raise_for_status().json()
