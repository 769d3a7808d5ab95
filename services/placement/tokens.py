"""
A decision's token: what was decided, signed, so that only what we decided can be reported as seen or signed up for.

JSON and an HMAC-SHA256 (RFC 2104) over it, both base64url. It is readable on purpose: it says nothing that its holder, the
network, does not know.
"""

import base64
import hmac
import json
from dataclasses import asdict, dataclass
from datetime import datetime

from services.chassis.errors import Kind, ServiceError, invalid


@dataclass(frozen=True, slots=True)
class Token:
    """What was decided. `expires` is in Unix seconds."""

    decision: str
    person: str
    placement: str
    touchpoint: str
    expires: int


class Tokens:
    """Signs and reads tokens with one key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, token: Token) -> str:
        """The token as it travels."""
        body = json.dumps(asdict(token), separators=(",", ":")).encode()
        return f"{_encode(body)}.{_encode(self._mac(body))}"

    def read(self, text: str, now: datetime) -> Token:
        """What a token says. Raises INVALID_ARGUMENT `BAD_DECISION_TOKEN`, FAILED_PRECONDITION `DECISION_EXPIRED`."""
        head, _, tail = text.partition(".")
        try:
            body, mac = _decode(head), _decode(tail)
        except ValueError:
            raise _bad() from None
        # The text itself must be ours, not only what it decodes to: base64 can write the same bytes in several ways.
        if not hmac.compare_digest(mac, self._mac(body)) or text != f"{_encode(body)}.{_encode(mac)}":
            raise _bad()
        token = Token(**json.loads(body))
        if token.expires <= now.timestamp():
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "DECISION_EXPIRED",
                "the decision is too old: ask for a new one",
                metadata={"decision": token.decision},
            )
        return token

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _bad() -> ServiceError:
    return invalid("token", "must be the token of a decision, as it was given", reason="BAD_DECISION_TOKEN")
