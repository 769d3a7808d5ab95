"""
Pages of long lists (google.aip.dev/158): sizes, and opaque tokens that only continue the query they came
from.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime

from google.protobuf.message import Message

from services.chassis.errors import ServiceError, invalid

_CHECK_BYTES = 8
_PAGING_FIELDS = ("page_token", "page_size")
_INTEGERS = 1 << 63
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")
"""What JSON can say and PostgreSQL cannot keep: NUL, and halves of surrogate pairs."""

Kind = type[str] | type[int] | type[datetime]


def page_size(requested: int, default: int = 50, maximum: int = 500) -> int:
    """How many items to return: `default` for 0, at most `maximum`. Raises INVALID_ARGUMENT below 0."""
    if requested < 0:
        raise invalid("page_size", f"must be 0 (meaning {default}) to {maximum}")
    return min(requested or default, maximum)


def encode_token(after: Sequence[str | int], *, query: Message | str) -> str:
    """
    The token of the page that follows the item whose sort key is `after`.

    `query` is the list request, or a text that stands for it: the token is good for the same query only.
    """
    body = json.dumps(list(after), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(body, query) + body).decode().rstrip("=")


def decode_token(token: str, kinds: Sequence[Kind], *, query: Message | str) -> tuple[str | int, ...] | None:
    """
    The sort key after which the page begins; None for the first page (an empty token).

    `kinds` are those of its values; `datetime` is a time as `datetime.isoformat` writes it.

    Raises INVALID_ARGUMENT when the token is not ours or came from another query.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise token_refused() from None
    check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if check != _check(body, query):
        raise token_refused()
    try:
        key = json.loads(body)
    except ValueError:
        raise token_refused() from None
    # Whoever reads this can make a token that passes the check: what is in it goes to the database.
    fits = isinstance(key, list) and len(key) == len(kinds)
    if not fits or not all(_is_a(kind, value) for kind, value in zip(kinds, key, strict=True)):
        raise token_refused()
    return tuple(key)


def _is_a(kind: Kind, value: object) -> bool:
    if kind is int:
        return type(value) is int and -_INTEGERS <= value < _INTEGERS
    if not isinstance(value, str) or _NO_TEXT.search(value):
        return False
    try:
        return kind is str or datetime.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _check(body: bytes, query: Message | str) -> bytes:
    """Guards against mistakes, not forgers: a token grants nothing that the query itself would not."""
    if isinstance(query, Message):
        asked = type(query)()
        asked.CopyFrom(query)
        for field in _PAGING_FIELDS:
            if field in asked.DESCRIPTOR.fields_by_name:
                asked.ClearField(field)
        text = asked.DESCRIPTOR.full_name.encode() + b"\0" + asked.SerializeToString(deterministic=True)
    else:
        text = query.encode()
    return hashlib.sha256(len(text).to_bytes(8) + text + body).digest()[:_CHECK_BYTES]


def token_refused() -> ServiceError:
    """What is raised for a token that is not ours."""
    return invalid(
        "page_token",
        "must be a next_page_token of the same request; leave it empty to begin again",
        reason="PAGE_TOKEN_INVALID",
    )
