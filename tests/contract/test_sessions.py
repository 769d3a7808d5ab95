"""Members' sessions over HTTP, on the real gateway and services: from the login to the refusal of a token that is not expired."""

from uuid import uuid4

import httpx
import pytest

from deploy.demo.client import Gateway, Problem, eventually
from deploy.demo.story import PASSWORD
from tests.world import World


def refused(gateway: Gateway, path: str) -> str | None:
    """Why a read is refused; None while it is not."""
    try:
        gateway.get(path)
    except Problem as problem:
        return problem.reason
    return None


@pytest.fixture
def company(world: World) -> tuple[str, str]:
    """A company that nobody else uses: its name, and its owner's address."""
    email = f"owner-{uuid4().hex}@x.example"
    registered = world.story.public.post(
        "/v1/enterprises", {"displayName": "X", "ownerEmail": email, "ownerPassword": PASSWORD}
    )
    return registered["name"], email


def test_session__ends_everywhere_within_seconds(world: World, company: tuple[str, str]) -> None:
    """Of two sessions one is ended from the other: its access token is refused within 5 s, and it is not refreshed."""
    name, email = company
    login = {"email": email, "password": PASSWORD}
    one, other = (world.story.public.post("/v1/sessions", login, once=True) for _ in range(2))
    mine, lost = (Gateway(world.story.public.url, each["access_token"]) for each in (one, other))
    listed = {each["name"]: each for each in mine.get(f"/v1/{one['member']}/sessions")["sessions"]}
    assert set(listed) == {one["session"], other["session"]}
    assert [session for session, each in listed.items() if each.get("current")] == [one["session"]]
    assert refused(lost, f"/v1/{name}") is None

    mine.delete(f"/v1/{other['session']}")

    assert eventually(lambda: refused(lost, f"/v1/{name}"), what="the refusal", seconds=5) == "TOKEN_REVOKED"
    assert refused(mine, f"/v1/{name}") is None
    with pytest.raises(Problem) as ended:
        world.story.public.post("/v1/sessions:refresh", {"refresh_token": other["refresh_token"]}, once=True)
    assert (ended.value.status, ended.value.reason) == (401, "SESSION_ENDED")
    refreshed = world.story.public.post(
        "/v1/sessions:refresh", {"refresh_token": one["refresh_token"]}, once=True
    )
    assert (refreshed["session"], refreshed["expires_in"]) == (one["session"], 600)


def test_member__is_invited_and_removed(world: World, company: tuple[str, str]) -> None:
    """The invitation's token makes a member of a stranger; once removed, nothing of theirs works."""
    name, email = company
    owner = world.story.public.login(email, PASSWORD)
    guest = f"guest-{uuid4().hex}@x.example"
    invited = owner.post(f"/v1/{name}/memberInvitations", {"email": guest, "role": "ANALYST"})
    accepted = world.story.public.post(
        "/v1/memberInvitations:accept",
        {"token": invited["token"], "displayName": "Guest", "password": PASSWORD},
        once=True,
    )
    came = world.story.public.login(guest, PASSWORD)
    assert refused(came, f"/v1/{name}") is None
    owner.delete(f"/v1/{accepted['name']}")
    assert eventually(lambda: refused(came, f"/v1/{name}"), what="the refusal", seconds=5) == "TOKEN_REVOKED"
    answer = httpx.post(
        f"{world.story.public.url}/v1/sessions", json={"email": guest, "password": PASSWORD}, timeout=30
    )
    assert (answer.status_code, answer.json()["reason"]) == (401, "CREDENTIALS_INVALID")
