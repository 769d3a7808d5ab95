"""Mastodon, and every server that speaks its API."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
from pydantic import SecretStr

from services.accounts.model import Profile
from services.accounts.networks import (
    Application,
    Authorization,
    authorization_incomplete,
    network_refused,
    network_unavailable,
)

SCOPES = (
    "read:accounts",
    "read:notifications",
    "read:statuses",
    "write:media",
    "write:statuses",
)
"""The least with which publishing can do its work."""

_SECONDS = 4.0
"""For a connection, and for each part of an answer."""
_BYTES = 256 * 1024
"""The longest answer that is read."""
_LENGTH = 1_000
"""The longest value that is kept, in characters."""
_NODEINFO = "http://nodeinfo.diaspora.software/ns/schema/"


class MastodonNetwork:
    """
    The OAuth2 client. One instance serves all threads; `close` it at the end.

    Follows no redirect, no proxy of the environment and no link to another origin: whom we talk to is whom the
    caller named. Which servers may be named is the caller's business.
    """

    def __init__(self, client_name: str = "Numerator") -> None:
        self._client_name = client_name
        self._http = httpx.Client(timeout=_SECONDS, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register(self, server: str, redirect_uri: str) -> Application:
        told = self._call(
            "POST",
            server,
            "/api/v1/apps",
            json={
                "client_name": self._client_name,
                "redirect_uris": redirect_uri,
                "scopes": " ".join(SCOPES),
            },
        )
        endpoints = self._discover(server)
        return Application(
            server=server,
            redirect_uri=redirect_uri,
            client_id=_text(told, "client_id", server),
            client_secret=SecretStr(_text(told, "client_secret", server)),
            authorize_endpoint=_own(endpoints.get("authorization_endpoint", "/oauth/authorize"), server),
            token_endpoint=_own(endpoints.get("token_endpoint", "/oauth/token"), server),
            revoke_endpoint=_own(endpoints.get("revocation_endpoint", "/oauth/revoke"), server),
        )

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:
        query = {
            "response_type": "code",
            "client_id": application.client_id,
            "redirect_uri": application.redirect_uri,
            "scope": " ".join(SCOPES),
            "state": state,
            # Servers before 4.3 pass it over, as RFC 6749 (3.1) demands; the others hold us to it.
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            # Asks who it is each time, or only the account that the browser is logged in with could be bound.
            "force_login": "true",
        }
        return f"{application.authorize_endpoint}?{urlencode(query)}"

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        server = application.server
        told = self._call(
            "POST",
            server,
            application.token_endpoint,
            data={
                "grant_type": "authorization_code",
                "code": code,
                "client_id": application.client_id,
                "client_secret": application.client_secret.get_secret_value(),
                "redirect_uri": application.redirect_uri,
                "code_verifier": verifier.get_secret_value(),
            },
        )
        token = _text(told, "access_token", server)
        _check_scopes(told.get("scope"), server)
        holder = self._call(
            "GET",
            server,
            "/api/v1/accounts/verify_credentials",
            headers={"Authorization": f"Bearer {token}"},
        )
        software, version = self._software(server)
        handle = _shown(holder.get("username")) or _text(holder, "acct", server)
        profile = Profile(
            network_account_id=_text(holder, "id", server),
            handle=handle,
            display_name=_shown(holder.get("display_name")) or handle,
            software=software,
            software_version=version,
        )
        return Authorization(SecretStr(token), profile)

    def revoke(self, application: Application, token: SecretStr) -> None:
        self._call(
            "POST",
            application.server,
            application.revoke_endpoint,
            data={
                "client_id": application.client_id,
                "client_secret": application.client_secret.get_secret_value(),
                "token": token.get_secret_value(),
            },
        )

    def _discover(self, server: str) -> Mapping[str, Any]:
        """Where the server's OAuth2 is (RFC 8414). Servers before 4.3 do not tell; there it is where it always was."""
        status, told = self._request("GET", server, "/.well-known/oauth-authorization-server")
        return told if status == httpx.codes.OK else {}

    def _software(self, server: str) -> tuple[str, str]:
        """What the server runs, by NodeInfo. `unknown` when it does not tell: publishing then takes it for the worst."""
        _, index = self._request("GET", server, "/.well-known/nodeinfo")
        links = index.get("links")
        for link in links if isinstance(links, list) else ():
            if isinstance(link, dict) and str(link.get("rel")).startswith(_NODEINFO):
                _, told = self._request("GET", server, _own(link.get("href"), server))
                software = told.get("software")
                if isinstance(software, dict) and _shown(software.get("name")):
                    return _shown(software["name"]).lower(), _shown(software.get("version"))
        return "unknown", ""

    def _call(self, method: str, server: str, path: str, **options: Any) -> Mapping[str, Any]:
        """The object that the server answers with, when it does what we ask."""
        status, told = self._request(method, server, path, **options)
        if httpx.codes.is_success(status):
            return told
        if httpx.codes.is_client_error(status) and status != httpx.codes.TOO_MANY_REQUESTS:
            raise network_refused(server, status)
        raise network_unavailable(server)

    def _request(self, method: str, server: str, path: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        """The status and the object of an answer; an empty object when it is none."""
        try:
            with self._http.stream(method, urljoin(server, path), **options) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _BYTES:
                        raise network_unavailable(server)
        # What httpx says may quote the request; only its kind goes on.
        except (httpx.HTTPError, httpx.InvalidURL):
            raise network_unavailable(server) from None
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            told = None
        return answer.status_code, told if isinstance(told, dict) else {}


def _text(told: Mapping[str, Any], key: str, server: str) -> str:
    """A value that every server of this kind tells: ids and secrets, all of them printable ASCII."""
    value = told.get(key)
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= _LENGTH
        or not (value.isascii() and value.isprintable())
    ):
        raise network_unavailable(server)
    return value


def _shown(value: object) -> str:
    """A text for people, as far as it can be kept; whatever else a server tells is empty."""
    return value.replace("\0", "")[:_LENGTH] if isinstance(value, str) else ""


def _own(url: object, server: str) -> str:
    """An absolute URL of the server. One that leads elsewhere is not followed, or a server could send us anywhere."""
    absolute = urljoin(server, str(url))
    if urlsplit(absolute)[:2] != urlsplit(server)[:2]:
        raise network_unavailable(server)
    return absolute


def _check_scopes(granted: object, server: str) -> None:
    """Servers that grant all that was asked for need not say so (RFC 6749, 5.1)."""
    if granted is None:
        return
    given = str(granted).split()
    missing = [scope for scope in SCOPES if scope not in given and scope.partition(":")[0] not in given]
    if missing:
        raise authorization_incomplete(server, " ".join(missing))
