"""Mastodon, and every server that speaks its API."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from services.accounts.model import Profile
from services.accounts.networks import (
    Application,
    Authorization,
    Renewal,
    authorization_incomplete,
    leads_elsewhere,
    network_refused,
    network_unavailable,
)
from services.accounts.networks.calls import (
    Caller,
    check_status,
    find_own,
    life,
    optional_text,
    own,
    refresh_form,
    renewal,
    says_no,
    shown,
    text,
)

SCOPES = (
    "read:accounts",
    "read:notifications",
    "read:statuses",
    "write:media",
    "write:statuses",
)
"""The least with which publishing can do its work."""

_ENDPOINTS = {
    "authorization_endpoint": "/oauth/authorize",
    "token_endpoint": "/oauth/token",
    "revocation_endpoint": "/oauth/revoke",
}
"""What a server tells, and where it is when it does not."""
_NODEINFO = "http://nodeinfo.diaspora.software/ns/schema/"


class MastodonNetwork:
    """
    The OAuth2 client. One instance serves all threads; `close` it at the end.

    Servers from 4.3 on tell where their OAuth2 is and what it can (RFC 8414); at others it is where it always was.
    """

    def __init__(self, client_name: str = "Numerator") -> None:
        self._client_name = client_name
        self._server = Caller()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @property
    def known_servers(self) -> None:
        return None

    def register(self, server: str, redirect_uri: str) -> Application:
        # First, so that we are not registered with who then leads us elsewhere.
        metadata = self._discover(server)
        authorize, token, revoke = (
            own(metadata.get(name, usual), server) for name, usual in _ENDPOINTS.items()
        )
        told = self._server.call(
            "POST",
            server,
            "/api/v1/apps",
            json={
                "client_name": self._client_name,
                "redirect_uris": redirect_uri,
                "scopes": " ".join(SCOPES),
            },
        )
        return Application(
            server=server,
            redirect_uri=redirect_uri,
            client_id=text(told, "client_id", server),
            client_secret=SecretStr(text(told, "client_secret", server)),
            authorize_endpoint=authorize,
            token_endpoint=token,
            revoke_endpoint=revoke,
            issuer=optional_text(metadata, "issuer", server) or "",
            names_issuer=metadata.get("authorization_response_iss_parameter_supported") is True,
            pkce=_takes_challenges(metadata),
        )

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:
        query = {
            "response_type": "code",
            "client_id": application.client_id,
            "redirect_uri": application.redirect_uri,
            "scope": " ".join(SCOPES),
            "state": state,
            # Asks who it is each time, or only the account that the browser is logged in with could be bound.
            "force_login": "true",
        }
        if application.pkce:
            query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        return f"{application.authorize_endpoint}?{urlencode(query)}"

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        server = application.server
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": application.client_id,
            "client_secret": application.client_secret.get_secret_value(),
            "redirect_uri": application.redirect_uri,
        }
        if application.pkce:
            asked["code_verifier"] = verifier.get_secret_value()
        told = self._server.call("POST", server, application.token_endpoint, data=asked)
        token = text(told, "access_token", server)
        _check_scopes(told.get("scope"), server)
        holder = self._server.call(
            "GET",
            server,
            "/api/v1/accounts/verify_credentials",
            headers={"Authorization": f"Bearer {token}"},
        )
        software, version = self._software(server)
        handle = shown(holder.get("username")) or text(holder, "acct", server)
        profile = Profile(
            network_account_id=text(holder, "id", server),
            handle=handle,
            display_name=shown(holder.get("display_name")) or handle,
            software=software,
            software_version=version,
        )
        refresh_token = optional_text(told, "refresh_token", server)
        return Authorization(
            SecretStr(token), profile, life(told), SecretStr(refresh_token) if refresh_token else None
        )

    def refresh(self, application: Application, refresh_token: SecretStr) -> Renewal:
        server = application.server
        status, told = self._server.request(
            "POST", server, application.token_endpoint, data=refresh_form(application, refresh_token)
        )
        # Of all that a server may refuse only this is about the account, and not about us (RFC 6749, 5.2).
        if says_no(status) and told.get("error") == "invalid_grant":
            raise network_refused(server, status)
        if status != HTTPStatus.OK:
            raise network_unavailable(server)
        return renewal(told, server)

    def revoke(self, application: Application, token: SecretStr) -> None:
        self._server.call(
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
        """
        What the server tells of its OAuth2 (RFC 8414); nothing where it has no such page, as before 4.3.

        A server that is only out of order is not taken for an old one, which would be asked with less protection.
        """
        status, told = self._server.request("GET", server, "/.well-known/oauth-authorization-server")
        if says_no(status):
            return {}
        check_status(status, server)
        issuer = optional_text(told, "issuer", server)
        # It must be the one that was asked (RFC 8414, 3.3). Mastodon's own ends in a slash.
        if issuer is not None and issuer.rstrip("/") != server:
            raise leads_elsewhere(server)
        return told

    def _software(self, server: str) -> tuple[str, str]:
        """What the server runs, by NodeInfo. `unknown` when it does not tell: publishing then takes it for the worst."""
        _, index = self._server.request("GET", server, "/.well-known/nodeinfo")
        links = index.get("links")
        for link in links if isinstance(links, list) else ():
            if not isinstance(link, dict) or not str(link.get("rel")).startswith(_NODEINFO):
                continue
            page = find_own(link.get("href"), server)
            if page is not None:
                _, told = self._server.request("GET", server, page)
                software = told.get("software")
                if isinstance(software, dict) and shown(software.get("name")):
                    return shown(software["name"]).lower(), shown(software.get("version"))
        return "unknown", ""


def _check_scopes(granted: object, server: str) -> None:
    """Servers that grant all that was asked for need not say so (RFC 6749, 5.1)."""
    if granted is None:
        return
    given = str(granted).split()
    missing = [scope for scope in SCOPES if scope not in given and scope.partition(":")[0] not in given]
    if missing:
        raise authorization_incomplete(server, " ".join(missing))


def _takes_challenges(metadata: Mapping[str, Any]) -> bool:
    """
    Whether to send a challenge of PKCE: unless the server says what it takes, and this is not in it.

    A server that does not say passes it over when it does not know it, as RFC 6749 (3.1) demands, and holds us to it once it
    does: it may be upgraded tomorrow.
    """
    methods = metadata.get("code_challenge_methods_supported")
    return not isinstance(methods, list) or "S256" in methods
