"""The broker's management API, as far as we use it."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from deploy.rabbitmq.definitions import Definitions

_TIMEOUT_SECONDS = 30.0


class ManagementError(RuntimeError):
    """The broker could not be asked, or refused; the message says why."""


class Management:
    """A broker's definitions. `url` holds the administrator's name and password; all methods raise ManagementError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._http = httpx.Client(
            base_url=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
            auth=(unquote(parts.username or ""), unquote(parts.password or "")),
            timeout=_TIMEOUT_SECONDS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def definitions(self) -> dict[str, Any]:
        """What the broker knows, but for exclusive queues."""
        found: dict[str, Any] = self._request("GET").json()
        return found

    def import_definitions(self, definitions: Definitions) -> None:
        """
        Make what is missing, and change what can be changed: users, rights and policies.

        Exchanges and queues that are there stay as they are, whatever their arguments.
        """
        self._request("POST", definitions)

    def _request(self, method: str, body: Definitions | None = None) -> httpx.Response:
        try:
            return self._http.request(method, "/api/definitions", json=body).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise ManagementError(
                f"the broker answers {error.response.status_code}: {error.response.text}"
            ) from None
        except httpx.HTTPError as error:
            raise ManagementError(f"the broker's management API does not answer: {error}") from None
