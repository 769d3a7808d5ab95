"""Passwords and client secrets: made, hashed, compared. Neither is ever kept as it is."""

import hashlib
import hmac
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from pydantic import SecretStr

# argon2id as OWASP advises where memory is shared: 19 MiB, two passes; some 20 ms.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_NOBODYS_PASSWORD = _HASHER.hash(secrets.token_urlsafe(32))


def hash_password(password: SecretStr) -> str:
    """What to keep of a password."""
    return _HASHER.hash(password.get_secret_value())


def password_matches(kept: str | None, password: SecretStr) -> bool:
    """Whether it is the one. With nothing to compare with (None) it takes as long, so that time tells nothing."""
    try:
        _HASHER.verify(kept or _NOBODYS_PASSWORD, password.get_secret_value())
    except VerifyMismatchError:
        return False
    return kept is not None


def is_outdated(kept: str) -> bool:
    """Whether a password was hashed in another way than is done now, and should be hashed anew when it is known again."""
    return _HASHER.check_needs_rehash(kept)


def new_secret() -> SecretStr:
    """256 random bits in 43 characters."""
    return SecretStr(secrets.token_urlsafe(32))


def hash_secret(secret: SecretStr) -> bytes:
    """What to keep of a random secret. A fast hash will do: nobody can guess 256 bits."""
    return hashlib.sha256(secret.get_secret_value().encode()).digest()


def secret_matches(kept: bytes | None, secret: SecretStr) -> bool:
    """Whether it is the one; in the same time when there is nothing to compare with (None)."""
    same = hmac.compare_digest(kept or bytes(hashlib.sha256().digest_size), hash_secret(secret))
    return same and kept is not None
