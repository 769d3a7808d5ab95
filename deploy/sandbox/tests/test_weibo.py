"""The sandbox as Weibo: OAuth2 of its own kind, and who somebody is."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest

REDIRECT_URI = "https://client.example/cb"
APP = {"client_id": "2045", "client_secret": "s3cret"}
LOGIN = {"username": "tianshan", "password": "sandbox-password", "decision": "approve"}


@pytest.fixture
def weibo(server):
    """A sandbox that knows our app."""
    server.control("weibo_apps", **APP, redirect_uri=REDIRECT_URI)
    return server


def decide(server, **changes):
    asked = {"client_id": APP["client_id"], "redirect_uri": REDIRECT_URI, "state": "a&b=1", **LOGIN}
    return server.http.post("/oauth2/authorize", data=asked | changes)


def answer_of(response):
    assert response.status_code == 302, response.text
    query = parse_qs(urlsplit(response.headers["location"]).query)
    return {name: values[0] for name, values in query.items()}


def exchange(server, code, /, **changes):
    body = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI, **APP}
    return server.http.post("/oauth2/access_token", data=body | changes)


def bind(server, **changes):
    return exchange(server, answer_of(decide(server, **changes))["code"]).json()


def test_authorize__page_leads_to_a_token(weibo):
    """A browser that fills in the page ends with a token, which says whose it is, and of which app."""
    asked = {
        "client_id": APP["client_id"],
        "redirect_uri": REDIRECT_URI,
        "state": "s",
        "forcelogin": "true",
        "response_type": "code",
    }
    page = weibo.http.get("/oauth2/authorize", params=asked)
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    form = {name: unescape(value) for name, value in hidden}
    assert 'action="/oauth2/authorize"' in page.text
    answer = answer_of(weibo.http.post("/oauth2/authorize", data=form | LOGIN))
    assert answer["state"] == "s"

    told = exchange(weibo, answer["code"]).json()
    assert told["expires_in"] == told["remind_in"] == str(30 * 86_400)
    info = weibo.http.post("/oauth2/get_token_info", data={"access_token": told["access_token"]}).json()
    assert (str(info["uid"]), info["appkey"]) == (told["uid"], APP["client_id"])
    person = weibo.http.get(
        "/2/users/show.json",
        params={"uid": told["uid"]},
        headers={"Authorization": f"OAuth2 {told['access_token']}"},
    ).json()
    assert (person["idstr"], person["screen_name"]) == (told["uid"], "tianshan")


def test_authorize__denied(weibo):
    """The client learns of it as Weibo tells it, with its state."""
    answer = answer_of(decide(weibo, decision="deny"))
    assert (answer["error"], answer["error_code"], answer["state"]) == ("access_denied", "21330", "a&b=1")


@pytest.mark.parametrize(
    "changes",
    [{"client_id": "1"}, {"redirect_uri": "https://thief.example/"}, {"response_type": "token"}],
)
def test_authorize__sends_nobody_where_it_should_not(weibo, changes):
    """A request of an unknown app, or with another redirect URI, ends on a page."""
    assert decide(weibo, **changes).status_code == 400


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"code": "guess"}, 21325),
        ({"client_secret": "guess"}, 21324),
        ({"client_id": "1"}, 21324),
        ({"redirect_uri": "https://client.example/other"}, 21322),
        ({"grant_type": "password"}, 21328),
    ],
)
def test_access_token__refused(weibo, changes, code):
    """Errors are numbers in the body; the code is still good for the right request."""
    given = answer_of(decide(weibo))["code"]
    refused = exchange(weibo, given, **changes)
    assert refused.json()["error_code"] == code
    assert refused.json()["request"] == "/oauth2/access_token"
    assert "access_token" in exchange(weibo, given).json()


def test_access_token__code_works_once(weibo):
    """As an app is to expect."""
    code = answer_of(decide(weibo))["code"]
    assert "access_token" in exchange(weibo, code).json()
    assert exchange(weibo, code).json()["error_code"] == 21325


def test_revoke__ends_a_token(weibo):
    """And another revocation says that there is none."""
    token = {"access_token": bind(weibo)["access_token"]}
    assert weibo.http.post("/oauth2/revokeoauth2", data=token).json() == {"result": "true"}
    assert weibo.http.post("/oauth2/revokeoauth2", data=token).json()["error_code"] == 21332


def test_tokens__are_of_one_api_only(weibo, user):
    """As those of two networks: neither takes the other's, and people have other ids."""
    told = bind(weibo)
    headers = {"Authorization": f"Bearer {told['access_token']}"}
    posted = weibo.http.post("/api/v1/statuses", json={"status": "Hello"}, headers=headers)
    assert posted.status_code == 403
    other = user("tianshan")
    assert other.me["id"] != told["uid"]
    token = other.http.headers["Authorization"].removeprefix("Bearer ")
    refused = weibo.http.post("/oauth2/get_token_info", data={"access_token": token})
    assert refused.json()["error_code"] == 21332


def test_token_life__is_as_told(weibo, eventually):
    """Both APIs say when a token expires, and keep to it; a refresh token gets the next one, once."""
    weibo.control("tokens", seconds=0.2)
    told = bind(weibo)
    info = {"access_token": told["access_token"]}
    eventually(lambda: weibo.http.post("/oauth2/get_token_info", data=info).json().get("error_code") == 21327)
    weibo.control("tokens", seconds=3600)
    assert bind(weibo)["expires_in"] == "3600"

    app = weibo.app()
    asked = {"client_id": app["client_id"], "redirect_uri": app["redirect_uris"][0], "scope": "read"}
    decided = weibo.http.post("/oauth/authorize", data={"response_type": "code"} | asked | LOGIN)
    client = {key: app[key] for key in ("client_id", "client_secret")}
    first = weibo.http.post(
        "/oauth/token",
        data={"grant_type": "authorization_code", "code": answer_of(decided)["code"], **asked, **client},
    ).json()
    assert first["expires_in"] == 3600
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], **client}
    second = weibo.http.post("/oauth/token", data=again).json()
    assert second["access_token"] != first["access_token"]
    assert weibo.http.post("/oauth/token", data=again).json()["error"] == "invalid_grant"
    weibo.control("tokens", seconds=None)
    assert (
        "expires_in"
        not in weibo.http.post(
            "/oauth/token", data={**again, "refresh_token": second["refresh_token"]}
        ).json()
    )


@pytest.mark.parametrize("code", [10023, "21327"])
def test_errors__of_choice(weibo, code):
    """A number or a text, as the fault has it: clients have to take both."""
    weibo.control("faults", operation="users_show", kind="refused", error_code=code, count=1)
    told = bind(weibo)
    headers = {"Authorization": f"OAuth2 {told['access_token']}"}
    show = {"uid": told["uid"]}
    assert weibo.http.get("/2/users/show.json", params=show, headers=headers).json()["error_code"] == code
    assert weibo.http.get("/2/users/show.json", params=show, headers=headers).json()["idstr"] == told["uid"]


def test_users_show__unknown(weibo):
    """There is nobody of this id."""
    token = bind(weibo)["access_token"]
    answer = weibo.http.get("/2/users/show.json", params={"uid": "1", "access_token": token})
    assert answer.json()["error_code"] == 20003


def test_tokens__outlive_a_restart(own_server):
    """With their lives, and the app that the demonstration has."""
    server = own_server(weibo_redirect_uri=REDIRECT_URI)
    app = {"client_id": "1234567890", "client_secret": "sandbox-weibo-secret"}
    code = answer_of(decide(server, client_id=app["client_id"]))["code"]
    token = {"access_token": exchange(server, code, **app).json()["access_token"]}
    server.kill()
    server.start()
    info = server.http.post("/oauth2/get_token_info", data=token).json()
    assert info["appkey"] == app["client_id"]
    assert 0 < int(info["expire_in"]) <= 30 * 86_400


def test_revocations__end_a_users_tokens_in_both_apis(weibo, user):
    """Who takes back what apps may do ends all of their own tokens, and nobody else's."""
    one, other = user("tianshan"), user("li-na")
    token = {"access_token": bind(weibo)["access_token"]}
    assert weibo.control("revocations", username="tianshan") == {"revoked": 2}
    assert weibo.http.post("/oauth2/get_token_info", data=token).json()["error_code"] == 21332
    url = "/api/v1/accounts/verify_credentials"
    assert [each.http.get(url).status_code for each in (one, other)] == [401, 200]
