"""Applications, the authorization code flow, and tokens."""

import base64
import hashlib
import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest

REDIRECT_URI = "https://client.example/cb?tenant=7"
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123456789"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def app(server):
    return server.app(REDIRECT_URI, scopes="profile read write:statuses")


def asked(app, **changes):
    request = {
        "response_type": "code",
        "client_id": app["client_id"],
        "redirect_uri": REDIRECT_URI,
        "scope": "profile write:statuses",
        "state": "a&b=1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    return request | changes


def authorize(server, app, **changes):
    login = {"username": "tianshan", "password": "sandbox-password", "decision": "approve"}
    return server.http.post("/oauth/authorize", data=login | asked(app, **changes))


def answer_of(response):
    assert response.status_code == 302, response.text
    return {
        name: values[0] for name, values in parse_qs(urlsplit(response.headers["location"]).query).items()
    }


def exchange(server, app, code, /, **changes):
    body = {
        "grant_type": "authorization_code",
        "code": code,
        "client_id": app["client_id"],
        "client_secret": app["client_secret"],
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
    }
    return server.http.post("/oauth/token", data=body | changes)


def test_authorize__page_leads_to_a_token(server, app):
    """A browser that fills in the page as served ends with a code, and the code with a token of this user."""
    page = server.http.get("/oauth/authorize", params=asked(app))
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    form = {name: unescape(value) for name, value in hidden}
    decided = server.http.post(
        "/oauth/authorize",
        data=form | {"username": "tianshan", "password": "sandbox-password", "decision": "approve"},
    )
    answer = answer_of(decided)
    assert decided.headers["location"].startswith(REDIRECT_URI + "&")
    assert answer["state"] == "a&b=1"

    reply = exchange(server, app, answer["code"])
    assert reply.status_code == 200
    assert reply.json()["token_type"] == "Bearer"
    assert reply.json()["scope"] == "profile write:statuses"
    headers = {"Authorization": f"Bearer {reply.json()['access_token']}"}
    me = server.http.get("/api/v1/accounts/verify_credentials", headers=headers).json()
    assert me["username"] == "tianshan"
    info = server.http.get("/oauth/userinfo", headers=headers).json()
    assert info["sub"] == f"{server.url}/users/tianshan"
    assert info["preferred_username"] == "tianshan"


def test_authorize__picked_user_needs_no_password(server, app):
    """The list on the page stands in for a login."""
    answer = answer_of(
        server.http.post("/oauth/authorize", data=asked(app) | {"decision": "pick", "pick": "alice"})
    )
    token = exchange(server, app, answer["code"]).json()["access_token"]
    me = server.http.get("/api/v1/accounts/verify_credentials", headers={"Authorization": f"Bearer {token}"})
    assert me.json()["username"] == "alice"


def test_authorize__wrong_password_shows_the_page_again(server, app):
    """No code is given, and the request is kept in the form."""
    reply = authorize(server, app, password="guess")
    assert reply.status_code == 401
    assert "not a user name and its password" in reply.text
    assert CHALLENGE in reply.text


def test_authorize__denied(server, app):
    """The client learns of it, with its state."""
    answer = answer_of(authorize(server, app, decision="deny"))
    assert answer["error"] == "access_denied"
    assert answer["state"] == "a&b=1"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "unknown"},
        {"redirect_uri": REDIRECT_URI + "&x=1"},
        {"redirect_uri": "https://evil.example/"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_authorize__untrusted_request_sends_nobody_anywhere(server, app, changes, method):
    """An unknown client, or a redirect URI that is not exactly registered, is an error page."""
    if method == "GET":
        reply = server.http.get("/oauth/authorize", params=asked(app, **changes))
    else:
        reply = authorize(server, app, **changes)
    assert reply.status_code == 400
    assert "location" not in reply.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "push"}, "invalid_scope"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
    ],
)
def test_authorize__bad_request_is_told_to_the_client(server, app, changes, error):
    """What is wrong with the rest goes back by redirect."""
    assert answer_of(server.http.get("/oauth/authorize", params=asked(app, **changes)))["error"] == error


def test_authorize__out_of_band_shows_the_code(server):
    """A client without a redirect URI gets its code on a page."""
    app = server.app("urn:ietf:wg:oauth:2.0:oob", scopes="profile write:statuses")
    reply = authorize(server, app, redirect_uri="urn:ietf:wg:oauth:2.0:oob")
    page = server.http.get(reply.headers["location"])
    code = re.search(r'<code class="code">([^<]+)</code>', page.text)[1]
    assert exchange(server, app, code, redirect_uri="urn:ietf:wg:oauth:2.0:oob").status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"code_verifier": "another-verifier-of-at-least-forty-three-characters"}, 400, "invalid_grant"),
        ({"code_verifier": ""}, 400, "invalid_grant"),
        ({"redirect_uri": "https://client.example/other"}, 400, "invalid_grant"),
        ({"code": "unknown"}, 400, "invalid_grant"),
        ({"client_secret": "guess"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
def test_token__refused(server, app, changes, status, error):
    """A wrong verifier, redirect URI, code, secret or grant type gets no token."""
    code = answer_of(authorize(server, app))["code"]
    reply = exchange(server, app, code, **changes)
    assert (reply.status_code, reply.json()["error"]) == (status, error)


def test_token__code_of_another_client(server, app):
    """A code is good only for the client that asked for it."""
    code = answer_of(authorize(server, app))["code"]
    assert exchange(server, server.app(REDIRECT_URI), code).json()["error"] == "invalid_grant"
    assert exchange(server, app, code).status_code == 200


def test_token__replayed_code_revokes_the_first_token(server, app):
    """Who shows a code twice may be a thief: nobody keeps the token."""
    code = answer_of(authorize(server, app))["code"]
    first = exchange(server, app, code).json()["access_token"]
    assert exchange(server, app, code).json()["error"] == "invalid_grant"
    reply = server.http.get(
        "/api/v1/accounts/verify_credentials", headers={"Authorization": f"Bearer {first}"}
    )
    assert reply.status_code == 401


def test_token__basic_authentication_and_json(server, app):
    """The client may name itself in a header, and send JSON."""
    code = answer_of(authorize(server, app))["code"]
    body = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
    }
    reply = server.http.post("/oauth/token", json=body, auth=(app["client_id"], app["client_secret"]))
    assert reply.status_code == 200


def test_client_credentials__is_nobody(server, app):
    """An application's own token says which application it is, and cannot act as a user."""
    token = exchange(server, app, "", grant_type="client_credentials", scope="read").json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert server.http.get("/api/v1/apps/verify_credentials", headers=headers).json()["name"] == "Tests"
    assert server.http.get("/api/v1/accounts/verify_credentials", headers=headers).status_code == 422


def test_revoke__ends_the_token_and_is_idempotent(server, app):
    """A revoked token opens nothing; another client cannot revoke it."""
    token = exchange(server, app, answer_of(authorize(server, app))["code"]).json()["access_token"]
    other = server.app(REDIRECT_URI)
    client = {key: app[key] for key in ("client_id", "client_secret")}
    stranger = {key: other[key] for key in ("client_id", "client_secret")}
    headers = {"Authorization": f"Bearer {token}"}

    assert server.http.post("/oauth/revoke", data=stranger | {"token": token}).status_code == 403
    assert server.http.get("/api/v1/accounts/verify_credentials", headers=headers).status_code == 200
    for _ in range(2):
        reply = server.http.post("/oauth/revoke", data=client | {"token": token})
        assert (reply.status_code, reply.json()) == (200, {})
    assert server.http.get("/api/v1/accounts/verify_credentials", headers=headers).status_code == 401


def test_scopes__bound_what_a_token_may_do(user):
    """A token for reading cannot write."""
    reply = user("tianshan", "read").post("hello")
    assert reply.status_code == 403
    assert reply.json() == {"error": "This action is outside the authorized scopes"}


def test_app__bad_redirect_uri_or_scope(server):
    """Relative, script and fragment URIs, and unknown scopes, are refused."""
    for body in (
        {"redirect_uris": "/cb"},
        {"redirect_uris": "javascript:alert(1)"},
        {"redirect_uris": "https://client.example/#x"},
        {"redirect_uris": "https://client.example/", "scopes": "everything"},
    ):
        reply = server.http.post("/api/v1/apps", data={"client_name": "Tests", **body})
        assert reply.status_code == 422, body


def test_metadata__names_true_endpoints(server):
    """Discovery tells S256, and endpoints that exist."""
    found = server.http.get("/.well-known/oauth-authorization-server").json()
    assert found["code_challenge_methods_supported"] == ["S256"]
    for name in (
        "authorization_endpoint",
        "token_endpoint",
        "revocation_endpoint",
        "app_registration_endpoint",
    ):
        assert server.http.options(found[name]).status_code == 405
