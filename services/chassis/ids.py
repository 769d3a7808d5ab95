"""Identifiers: 26 lower-case characters of Crockford's base32 (no i, l, o, u), the form of a ULID."""

import hashlib
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26
_RANDOM_BITS = 80


def new_id() -> str:
    """A new identifier: sorts by the millisecond of its making, with 80 random bits after it."""
    return _encode((time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))


def deterministic_id(*parts: str) -> str:
    """
    The same identifier for the same parts, always; other parts never share it in practice (128 bits of
    SHA-256).
    """
    # Each part is preceded by its length, or ("ab", "c") and ("a", "bc") would be the same.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return _encode(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def _encode(number: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(_LENGTH)))
