"""Logins by a real, certified identity provider that knows nothing of us, over the real gateway and services."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.demo.client import Gateway
from deploy.demo.story import PASSWORD
from tests.contract.oidc.tools import Browser, provider
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = "a secret of the client: %+"


@dataclass
class Company:
    """An enterprise whose members are users of a provider: `owner`, `li`; `unverified` is Li's address, too; `stranger` nobody's."""

    public: Gateway
    name: str
    owner: Gateway
    issuer: str
    users: dict[str, dict[str, Any]]

    @property
    def client(self) -> dict[str, Any]:
        """What the provider knows us as."""
        redirect_uri = f"{self.public.url}/oidc/{self.name.partition('/')[2]}"
        return {"client_id": "numerator", "client_secret": SECRET, "redirect_uris": [redirect_uri]}

    def browser(self) -> Browser:
        """Somebody's browser."""
        return Browser(self.public.url)

    def connect(self) -> dict[str, Any]:
        """Set the provider, which has to run."""
        settings = {"issuer": self.issuer, "clientId": "numerator", "clientSecret": SECRET}
        answer = httpx.patch(
            f"{self.public.url}/v1/{self.name}/identityProvider",
            json=settings,
            headers={"authorization": f"Bearer {self.owner.token}"},
            timeout=30,
        )
        connected: dict[str, Any] = answer.raise_for_status().json()
        return connected


def make_company(public: Gateway) -> Company:
    """A company of its own, with a provider's address that is free."""
    unique = uuid4().hex[:12]
    owner_email, li = f"owner-{unique}@x.example", f"li-{unique}@x.example"
    account = {"displayName": "OIDC", "ownerEmail": owner_email, "ownerPassword": PASSWORD}
    name = public.post("/v1/enterprises", account)["name"]
    owner = public.login(owner_email, PASSWORD)
    owner.post(
        f"/v1/{name}/members", {"email": li, "displayName": "Li", "role": "EDITOR", "password": PASSWORD}
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{free.getsockname()[1]}"
    users = {
        "owner": {"email": owner_email, "email_verified": True},
        "li": {"email": li, "email_verified": True},
        "unverified": {"email": li, "email_verified": False},
        "stranger": {"email": f"stranger-{unique}@x.example", "email_verified": True},
    }
    return Company(public, name, owner, issuer, users)


@pytest.fixture
def company(world: World) -> Iterator[Company]:
    """A company whose provider runs, and is set."""
    made = make_company(world.story.public)
    with provider(made.issuer, made.client, made.users):
        assert made.connect()["redirectUri"] == made.client["redirect_uris"][0]
        yield made


def reason(answer: httpx.Response) -> tuple[int, str]:
    """Why a request was refused."""
    return answer.status_code, answer.json()["reason"]


def test_login__by_forms_and_redirects(company: Company) -> None:
    """The session works as one by password does: its token is taken, it is refreshed, and ends."""
    answer = company.browser().log_in(company.name, "li")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    session = answer.json()
    assert (session["enterprise"], session["roles"]) == (company.name, ["EDITOR"])
    li = Gateway(company.public.url, session["access_token"])
    (listed,) = li.get(f"/v1/{session['member']}/sessions")["sessions"]
    assert (listed["name"], listed["byProvider"], listed["current"]) == (session["session"], True, True)
    refreshed = company.public.post(
        "/v1/sessions:refresh", {"refresh_token": session["refresh_token"]}, once=True
    )
    assert refreshed["session"] == session["session"]
    assert company.browser().log_in(company.name, "li").json()["member"] == session["member"]


def test_login__of_users_who_are_nobody_here(company: Company) -> None:
    """An address that is not verified, and one that no member has."""
    assert reason(company.browser().log_in(company.name, "unverified")) == (401, "EMAIL_UNVERIFIED")
    assert reason(company.browser().log_in(company.name, "stranger")) == (401, "MEMBER_UNKNOWN")


def test_redirect__works_once_and_in_its_browser(company: Company) -> None:
    """Shown again, shown by another browser, with another state, at another company's address."""
    browser = company.browser()
    back = browser.agree(browser.start(company.name).json()["authorization_url"], "owner")
    assert reason(company.browser().visit(back)) == (401, "LOGIN_STATE_INVALID")
    assert reason(browser.visit(back.replace(company.name[12:], "another"))) == (401, "LOGIN_STATE_INVALID")
    assert browser.visit(back).status_code == 200
    assert reason(browser.visit(back)) == (401, "LOGIN_STATE_USED")

    other = browser.start(company.name).json()["authorization_url"]
    state = httpx.URL(other).params["state"]
    replayed = str(httpx.URL(back).copy_set_param("state", state))
    assert reason(browser.visit(replayed)) == (401, "LOGIN_REFUSED")  # the provider knows the code


def test_provider__of_another_company(company: Company, world: World) -> None:
    """It names members of its own company only, also where they have the address of somebody else's."""
    other = make_company(world.story.public)
    other.users["li"] = company.users["li"]
    with provider(other.issuer, other.client, other.users):
        other.connect()
        assert reason(other.browser().log_in(other.name, "li")) == (401, "MEMBER_UNKNOWN")
        assert other.browser().log_in(other.name, "owner").json()["enterprise"] == other.name


def test_provider__with_other_keys_meanwhile(world: World) -> None:
    """It signs with new ones since the login began; away, it is told that it is."""
    company = make_company(world.story.public)
    browser = company.browser()
    with provider(company.issuer, company.client, company.users):
        company.connect()
        assert browser.log_in(company.name, "owner").status_code == 200
        url = browser.start(company.name).json()["authorization_url"]
    fresh = company.browser()
    with provider(company.issuer, company.client, company.users):
        assert browser.visit(browser.agree(url, "owner")).status_code == 200
        back = fresh.agree(fresh.start(company.name).json()["authorization_url"], "owner")
    assert reason(fresh.visit(back)) == (503, "IDENTITY_PROVIDER_UNAVAILABLE")


def test_start__where_there_is_no_provider(world: World) -> None:
    """The same for a company without one and for none at all; other words are no names."""
    company = make_company(world.story.public)
    for name in (company.name, "enterprises/none"):
        assert reason(company.browser().start(name)) == (409, "IDENTITY_PROVIDER_MISSING")
    assert reason(company.browser().start("x")) == (400, "INVALID_ARGUMENT")
