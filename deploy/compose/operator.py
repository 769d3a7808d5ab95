"""Asking the gateway as one of the platform's staff: for what no command of its own exists."""

from typing import Any
from uuid import uuid4

import httpx

from deploy.compose.stack import Stack, StackError

TIMEOUT = 30.0
"""Seconds that an answer may take."""


def ask(stack: Stack, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    What the gateway answers the OAuth2 client `operator`.

    Args:
        stack: has the gateway, and the secrets.
        method: of HTTP.
        path: with its query, as `/v1/enterprises/x/freezes`.
        body: as JSON.

    Raises StackError with the problem that the gateway tells of, or when it does not answer.
    """
    secret = (stack.settings.numerator_secrets / "operator-client-secret").read_text()
    try:
        with httpx.Client(base_url=stack.gateway_url, timeout=TIMEOUT) as gateway:
            form = {"grant_type": "client_credentials"}
            token = _read(gateway.post("/oauth2/token", data=form, auth=("operator", secret)))["access_token"]
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
            return _read(gateway.request(method, path, json=body, headers=headers))
    except httpx.HTTPError as error:
        raise StackError(f"no answer of the gateway at {stack.gateway_url}: {error}") from None


def _read(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise StackError(f"the gateway answered {answer.status_code}: {answer.text}")
    read: dict[str, Any] = answer.json() if answer.content else {}
    return read
