"""HTTP to servers of networks, and what can be believed of their answers."""

import json
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic import SecretStr

from services.accounts.networks import (
    Application,
    Renewal,
    leads_elsewhere,
    network_refused,
    network_unavailable,
)

_SECONDS = 4.0
"""For a connection, and for each part of an answer."""
_BYTES = 256 * 1024
"""The longest answer that is read."""
_LENGTH = 1_000
"""The longest value that is kept, in characters."""
_LONGEST_LIFE = timedelta(days=3650)


class Caller:
    """
    Calls servers. One instance serves all threads; `close` it at the end.

    Follows no redirect, no proxy of the environment and no link to another origin: whom we talk to is whom the
    caller named. Which servers may be named is the caller's business.
    """

    def __init__(self) -> None:
        self._http = httpx.Client(timeout=_SECONDS, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, server: str, path: str, **options: Any) -> Mapping[str, Any]:
        """
        The object that the server answers with, when it does what we ask.

        Raises UNAVAILABLE (`NETWORK_UNAVAILABLE`), or FAILED_PRECONDITION: `NETWORK_REFUSED` when it says no,
        `NETWORK_LEADS_ELSEWHERE` when it sends us on.
        """
        status, told = self.request(method, server, path, **options)
        check_status(status, server)
        return told

    def request(self, method: str, server: str, path: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        """The status and the object of an answer; an empty object when it is none. Raises `NETWORK_UNAVAILABLE`."""
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


def check_status(status: int, server: str) -> None:
    """Raise what an answer's status means, unless it is a success."""
    if httpx.codes.is_success(status):
        return
    if httpx.codes.is_redirect(status):
        raise leads_elsewhere(server)
    if says_no(status):
        raise network_refused(server, status)
    raise network_unavailable(server)


def says_no(status: int) -> bool:
    """Whether the server has understood and does not do it. That there were too many requests is no such answer."""
    return httpx.codes.is_client_error(status) and status != HTTPStatus.TOO_MANY_REQUESTS


def text(told: Mapping[str, Any], key: str, server: str) -> str:
    """A value that every server of this kind tells: ids and secrets, all of them printable ASCII."""
    value = told.get(key)
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= _LENGTH
        or not (value.isascii() and value.isprintable())
    ):
        raise network_unavailable(server)
    return value


def optional_text(told: Mapping[str, Any], key: str, server: str) -> str | None:
    """A value that not every server tells; None when it is missing, null or empty."""
    return text(told, key, server) if told.get(key) else None


def shown(value: object) -> str:
    """A text for people, as far as it can be kept; whatever else a server tells is empty."""
    return value.replace("\0", "")[:_LENGTH] if isinstance(value, str) else ""


def whole_number(value: object) -> int | None:
    """A whole number that a server writes as a number or as a text; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _LENGTH // 50:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def life(told: Mapping[str, Any], key: str = "expires_in") -> timedelta | None:
    """How long a token lives, in seconds as a number or a text. None: for ever, or the server does not say."""
    seconds = whole_number(told.get(key))
    if seconds is None or seconds <= 0:
        return None
    return min(timedelta(seconds=min(seconds, 10**9)), _LONGEST_LIFE)


def refresh_form(application: Application, refresh_token: SecretStr) -> dict[str, str]:
    """How the next token is asked for (RFC 6749, 6)."""
    return {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token.get_secret_value(),
        "client_id": application.client_id,
        "client_secret": application.client_secret.get_secret_value(),
    }


def renewal(told: Mapping[str, Any], server: str) -> Renewal:
    """What a server answers with, as the next token. Raises `NETWORK_UNAVAILABLE`."""
    again = optional_text(told, "refresh_token", server)
    return Renewal(
        SecretStr(text(told, "access_token", server)), life(told), SecretStr(again) if again else None
    )


def own(url: object, server: str) -> str:
    """An absolute URL of the server. Raises `NETWORK_LEADS_ELSEWHERE`, or a server could send us anywhere."""
    absolute = find_own(url, server)
    if absolute is None:
        raise leads_elsewhere(server)
    return absolute


def find_own(url: object, server: str) -> str | None:
    """An absolute URL of the server; None for one that leads elsewhere, or is none."""
    try:
        absolute = urljoin(server, str(url))
        return absolute if urlsplit(absolute)[:2] == urlsplit(server)[:2] else None
    except ValueError:
        return None
