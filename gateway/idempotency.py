"""The `Idempotency-Key` header: the request's `request_id`, by which the service makes a repeated write one effect."""

import re
import uuid

from google.protobuf.message import Message

from gateway.catalogue import Method, limits
from gateway.errors import Problem, invalid

HEADER = "idempotency-key"
_LONGEST = 255
_DEFAULT_LENGTH = 1000
_KEY = re.compile(r"[\x21-\x7e]+")
_NAMESPACE = uuid.UUID("6f0e7a52-6b86-5a3d-9d0b-0d2f1f0e5d11")


def apply_key(method: Method, request: Message, key: str | None) -> None:
    """
    Put the header's key into the request.

    A key that does not fit the field's limits is replaced by a UUID made of it, always the same one. Reads ignore
    the header, and so do writes that are idempotent by nature.

    Raises:
        Problem: 400 for a key that is none, or differs from the `request_id` in the request, or on a write that
            cannot honour it: ignoring it there would promise what we do not keep.
    """
    if key is None:
        return
    # The IETF draft writes the key as a structured string, in quotes; most clients leave them out.
    key = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if len(key) > _LONGEST or not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", f"must be 1 to {_LONGEST} visible ASCII characters")
    field = method.request_id
    if field is None:
        if method.idempotent:
            return
        raise Problem(400, "IDEMPOTENCY_KEY_UNSUPPORTED", "this route takes no Idempotency-Key; leave it out")
    derived = _fit(key, limits(field).max_length or _DEFAULT_LENGTH, limits(field).pattern)
    given = getattr(request, field.name)
    if given and given not in (key, derived):
        raise invalid("Idempotency-Key", "differs from the request's requestId; give one of them")
    setattr(request, field.name, derived)


def _fit(key: str, longest: int, pattern: str) -> str:
    if len(key) <= longest and (not pattern or re.fullmatch(pattern, key)):
        return key
    return str(uuid.uuid5(_NAMESPACE, key))
