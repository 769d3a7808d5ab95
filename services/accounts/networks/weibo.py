"""
Weibo, API v2.

Its OAuth2 is of its own kind: apps are registered by hand, there is no PKCE, tokens expire, and errors are numbers in
the body, as texts or as numbers, with HTTP statuses that are not documented.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from services.accounts.model import Profile
from services.accounts.networks import (
    Application,
    Authorization,
    NetworkRefusedError,
    Renewal,
    authorization_mismatch,
    network_refused,
    network_unavailable,
)
from services.accounts.networks.calls import (
    Caller,
    check_status,
    life,
    optional_text,
    refresh_form,
    renewal,
    shown,
    text,
    whole_number,
)

_TRANSIENT = frozenset(
    {10001, 10002, 10003, 10009, 10010, 10011, 10022, 10023, 10024, 21331}
)  # fmt: skip
"""The server is out of order or busy, or we have asked too often: another try may succeed."""


_NOT_AUTHORIZED = frozenset({"21301", "21314", "21315", "21316", "21317", "21319", "21325", "21327"})
"""The account's holder has to agree again."""


class WeiboNetwork:
    """The OAuth2 client. One instance serves all threads; `close` it at the end."""

    def __init__(self, apps: Mapping[str, tuple[str, SecretStr]]) -> None:
        """`apps`: what each server knows us as, App Key and App Secret, by the server's base URL in its normal form."""
        self._apps = dict(apps)
        self._server = Caller()

    @property
    def known_servers(self) -> frozenset[str]:
        return frozenset(self._apps)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def register(self, server: str, redirect_uri: str) -> Application:
        key, secret = self._apps[server]
        return Application(
            server=server,
            redirect_uri=redirect_uri,
            client_id=key,
            client_secret=secret,
            authorize_endpoint=f"{server}/oauth2/authorize",
            token_endpoint=f"{server}/oauth2/access_token",
            revoke_endpoint=f"{server}/oauth2/revokeoauth2",
            pkce=False,
        )

    def authorize_url(self, application: Application, *, state: str, challenge: str) -> str:  # noqa: ARG002
        query = {
            "response_type": "code",
            "client_id": application.client_id,
            "redirect_uri": application.redirect_uri,
            "state": state,
            # Asks who it is each time, or only the account that the browser is logged in with could be bound.
            "forcelogin": "true",
        }
        return f"{application.authorize_endpoint}?{urlencode(query)}"

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:  # noqa: ARG002
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
            },
        )
        token = text(told, "access_token", server)
        uid = _uid(told, "uid", server)
        # Whose token it is is not to be believed by the `uid` alone: it could be one that was given to another app.
        info = self._call("POST", server, "/oauth2/get_token_info", data={"access_token": token})
        if _number_as_text(info.get("appkey")) != application.client_id:
            raise authorization_mismatch(server, "appkey")
        if _uid(info, "uid", server) != uid:
            raise authorization_mismatch(server, "uid")
        holder = self._call(
            "GET",
            server,
            "/2/users/show.json",
            params={"uid": uid},
            # The token could also stand in the query, where logs would have it.
            headers={"Authorization": f"OAuth2 {token}"},
        )
        if _uid(holder, "idstr" if "idstr" in holder else "id", server) != uid:
            raise authorization_mismatch(server, "uid")
        handle = shown(holder.get("screen_name"))
        if not handle:
            raise network_unavailable(server)
        profile = Profile(
            network_account_id=uid,
            handle=handle,
            display_name=shown(holder.get("name")) or handle,
            software="weibo",
            software_version="",
        )
        refresh_token = optional_text(told, "refresh_token", server)
        return Authorization(
            SecretStr(token), profile, life(told), SecretStr(refresh_token) if refresh_token else None
        )

    def refresh(self, application: Application, refresh_token: SecretStr) -> Renewal:
        """Weibo gives refresh tokens to apps on telephones only; whoever got one may use it here."""
        server, form = application.server, refresh_form(application, refresh_token)
        try:
            return renewal(self._call("POST", server, application.token_endpoint, data=form), server)
        except NetworkRefusedError as refused:
            if refused.metadata.get("code") in _NOT_AUTHORIZED:
                raise
            raise network_unavailable(server) from None

    def revoke(self, application: Application, token: SecretStr) -> None:
        self._call(
            "POST",
            application.server,
            application.revoke_endpoint,
            data={"access_token": token.get_secret_value()},
        )

    def _call(self, method: str, server: str, path: str, **options: Any) -> Mapping[str, Any]:
        """The object of an answer that is no error. What is an error is said by the body; the status only where it is not."""
        status, told = self._server.request(method, server, path, **options)
        code = whole_number(told.get("error_code"))
        if code in _TRANSIENT:
            raise network_unavailable(server)
        if code is not None:
            raise network_refused(server, status, str(code))
        check_status(status, server)
        return told


def _uid(told: Mapping[str, Any], key: str, server: str) -> str:
    """An account's id: a number in some answers, a text in others, always kept as a text."""
    number = whole_number(told.get(key))
    if number is None or number <= 0:
        raise network_unavailable(server)
    return str(number)


def _number_as_text(value: object) -> str:
    return value if isinstance(value, str) else str(whole_number(value))
