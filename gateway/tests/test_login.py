"""Getting access tokens: OAuth2 client credentials with its own errors, and the login of members."""

import httpx
import pytest

from gateway.app import ADDRESS_BURST
from gateway.tests.test_api import problem

pytestmark = pytest.mark.asyncio(loop_scope="session")
APP = httpx.BasicAuth("app", "s3%3Acr+et")  # RFC 6749 has id and secret form-encoded in HTTP Basic
GRANT = {"grant_type": "client_credentials"}


async def test_client__by_basic_and_by_form(http):
    """Both ways to send a client's secret give a token that works."""
    by_basic = await http.post("/oauth2/token", data=GRANT, auth=APP)
    by_form = await http.post(
        "/oauth2/token", data={**GRANT, "client_id": "app", "client_secret": "s3:cr et"}
    )

    for answer in (by_basic, by_form):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        token = answer.json()
        assert (token["token_type"], token["expires_in"], token["scope"]) == (
            "Bearer",
            600,
            "boxes.read boxes.write",
        )
        made = await http.post(
            "/v1/enterprises/x/boxes",
            json={"displayName": "b"},
            headers={"authorization": f"Bearer {token['access_token']}"},
        )
        assert made.status_code == 200


async def test_client__fewer_scopes(http):
    """A client may ask for less than it has; the service then refuses what needs more."""
    token = (await http.post("/oauth2/token", data={**GRANT, "scope": "boxes.read"}, auth=APP)).json()

    answer = await http.post(
        "/v1/enterprises/x/boxes",
        json={"displayName": "b"},
        headers={"authorization": f"Bearer {token['access_token']}"},
    )

    assert token["scope"] == "boxes.read"
    await problem(answer, 403, "SCOPE_MISSING")


async def test_client__scopes_of_some_groups(http):
    """They are told like the others, may be asked for alone, and do not hold elsewhere."""
    auth = ("branch", "secret")
    all_of_them = (await http.post("/oauth2/token", data=GRANT, auth=auth)).json()
    one = (await http.post("/oauth2/token", data={**GRANT, "scope": "boxes.write"}, auth=auth)).json()

    answer = await http.post(
        "/v1/enterprises/x/boxes",
        json={"displayName": "b"},
        headers={"authorization": f"Bearer {one['access_token']}"},
    )

    assert (all_of_them["scope"], one["scope"]) == ("boxes.read boxes.write", "boxes.write")
    await problem(answer, 403, "SCOPE_MISSING")


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"data": {}, "auth": APP}, 400, "invalid_request"),
        ({"data": {"grant_type": "password"}, "auth": APP}, 400, "unsupported_grant_type"),
        ({"data": {**GRANT, "scope": "boxes.burn"}, "auth": APP}, 400, "invalid_scope"),
        ({"data": GRANT}, 401, "invalid_client"),
        ({"data": GRANT, "auth": ("app", "wrong")}, 401, "invalid_client"),
        ({"data": GRANT, "auth": ("nobody", "x")}, 401, "invalid_client"),
        ({"data": GRANT, "auth": ("x" * 100, "x")}, 400, "invalid_request"),
        ({"data": {**GRANT, "client_secret": "x"}, "auth": APP}, 400, "invalid_request"),
        ({"data": {**GRANT, "client_id": "other"}, "auth": APP}, 401, "invalid_client"),
        ({"data": GRANT, "headers": {"authorization": "Basic !"}}, 401, "invalid_client"),
        ({"data": GRANT, "headers": {"authorization": "Bearer x"}}, 401, "invalid_client"),
        ({"data": GRANT, "headers": {"authorization": "Basic YQ=="}}, 401, "invalid_client"),
        ({"json": GRANT, "auth": APP}, 400, "invalid_request"),
        (
            {
                "content": b"grant_type=client_credentials&grant_type=x",
                "headers": {"content-type": "application/x-www-form-urlencoded"},
                "auth": APP,
            },
            400,
            "invalid_request",
        ),
        (
            {
                "content": b"\xff=%ff",
                "headers": {"content-type": "application/x-www-form-urlencoded"},
                "auth": APP,
            },
            400,
            "invalid_request",
        ),
    ],
)
async def test_client__errors(http, request_, status, error):
    """Errors have the form and the names of RFC 6749."""
    answer = await http.post("/oauth2/token", **request_)

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert set(answer.json()) == {"error", "error_description"}
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic")


async def test_member__session(http):
    """A member gets a token for ten minutes and one to refresh it with, and hears who they are."""
    answer = await http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})

    session = answer.json()
    assert (session["member"], session["enterprise"], session["roles"]) == (
        "enterprises/x/members/m",
        "enterprises/x",
        ["OWNER"],
    )
    assert session["expires_in"] == 600
    assert 3590 <= session["refresh_expires_in"] <= 3600
    assert session["session"] == "enterprises/x/members/m/sessions/s1"
    assert answer.headers["cache-control"] == "no-store"


async def test_member__refreshes_the_session(gateway, services, member):
    """The next tokens come for the newest refresh token; services hear of the session, and of the device when it is refreshed."""
    opened = await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})
    refreshed = await gateway.http.post(
        "/v1/sessions:refresh",
        json={"refresh_token": opened.json()["refresh_token"]},
        headers={"user-agent": "browser/1"},
    )
    assert refreshed.status_code == 200
    assert refreshed.json()["refresh_token"] != opened.json()["refresh_token"]
    asked = services.sessions.requests[-1]
    assert (asked.user_agent, asked.address) == ("browser/1", "127.0.0.1")
    headers = {"authorization": f"Bearer {refreshed.json()['access_token']}"}
    await gateway.http.get("/v1/boxes/b", headers=headers)
    assert services.boxes.principals[-1].session == "s1"

    old = {"refresh_token": opened.json()["refresh_token"]}
    await problem(await gateway.http.post("/v1/sessions:refresh", json=old), 401, "SESSION_ENDED")
    await problem(await gateway.http.post("/v1/sessions:refresh", json={}), 400, "INVALID_ARGUMENT")


async def test_member__second_factor_is_passed_on(http, services):
    """With the code when there is one, and without the field when not."""
    for more in ({}, {"totp": "123456"}):
        await http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword", **more})
        assert services.sessions.requests[-1].totp == more.get("totp", "")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"email": "a@b.c", "password": "wrong"}, 401, "CREDENTIALS_INVALID"),
        ({"email": "a@b.c"}, 400, "INVALID_ARGUMENT"),
        ({"email": "a@b.c", "password": 5}, 400, "INVALID_ARGUMENT"),
        ({"email": "a@b.c", "password": "x", "otp": "1"}, 400, "INVALID_ARGUMENT"),
        ({"email": "a@b.c", "password": "x" * 300}, 400, "INVALID_ARGUMENT"),
        ({"email": "a\0b", "password": "x"}, 400, "INVALID_ARGUMENT"),
        ({"email": "\ud800", "password": "x"}, 400, "INVALID_ARGUMENT"),
        ([], 400, "INVALID_ARGUMENT"),
    ],
)
async def test_member__errors(http, body, status, reason):
    """A wrong login and a wrong request are told apart."""
    import json

    answer = await http.post(
        "/v1/sessions", content=json.dumps(body), headers={"content-type": "application/json"}
    )

    await problem(answer, status, reason)


async def test_login__guessing_is_slowed_down(make_gateway):
    """After twenty tries at one account the next waits, also with the right password; others may still log in."""
    async with make_gateway(login_rate=0.01) as gateway:
        for _ in range(20):
            await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "wrong"})
        answer = await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})
        other = await gateway.http.post("/oauth2/token", data=GRANT, auth=APP)

    await problem(answer, 429, "TOO_MANY_LOGINS")
    assert int(answer.headers["retry-after"]) > 50
    assert other.status_code == 200


async def test_login__other_ways_to_prove_a_password_count_too(make_gateway):
    """A method that proves a password takes from its address's tries to log in, and leaves the last for nobody else."""
    async with make_gateway(login_address_rate=0.01) as gateway:
        tries = [
            await gateway.http.post("/v1/enterprises/x/boxes:fill", content=b"")
            for _ in range(ADDRESS_BURST + 1)
        ]
        login = await gateway.http.post("/v1/sessions", json={"email": "a@b.c", "password": "pässword"})

    assert {each.status_code for each in tries[:-1]} == {tries[0].status_code} != {429}
    for answer in (tries[-1], login):
        await problem(answer, 429, "TOO_MANY_LOGINS")


async def test_token__revoked_kind_of_caller(http):
    """An expired or foreign token is a 401 also on a route that needs none."""
    await problem(
        await http.get("/v1/boxes/b", headers={"authorization": "Bearer x"}), 401, "CREDENTIALS_INVALID"
    )


async def test_discovery__documents(http):
    """A client finds keys and endpoints by the well-known documents."""
    metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    keys = (await http.get("/.well-known/jwks.json")).json()

    assert metadata["token_endpoint"].endswith("/oauth2/token")
    assert "boxes.write" in metadata["scopes_supported"]
    assert keys["keys"][0]["crv"] == "Ed25519"
    assert "d" not in keys["keys"][0]
