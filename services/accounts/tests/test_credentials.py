"""Passwords and client secrets."""

from typing import Literal

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from services.accounts import credentials
from services.accounts.credentials import (
    hash_password,
    hash_secret,
    new_secret,
    password_matches,
    secret_matches,
)


def test_password__matches_itself_only() -> None:
    """The right one, no other, and nothing where none is kept; by argon2id, with a salt."""
    kept = hash_password(SecretStr("correct horse battery"))
    assert kept.startswith("$argon2id$")
    assert kept != hash_password(SecretStr("correct horse battery"))
    assert password_matches(kept, SecretStr("correct horse battery"))
    assert not password_matches(kept, SecretStr("correct horse batterz"))
    assert not password_matches(None, SecretStr("correct horse battery"))


def test_password__takes_the_same_work_when_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown address costs one argon2 verification, like a known one: time does not tell them apart."""
    kept = hash_password(SecretStr("correct horse battery"))
    verified: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 -- its name
            verified.append(str(hash).rpartition("$")[0].rpartition("$")[0])
            return super().verify(hash, password)

    monkeypatch.setattr(credentials, "_HASHER", Counting())
    for each in (kept, None):
        assert not password_matches(each, SecretStr("wrong horse battery"))
    assert len(verified) == 2
    # The same algorithm with the same costs.
    assert verified[0] == verified[1]


def test_secret__matches_itself_only() -> None:
    """The right one, no other, and nothing where none is kept."""
    secret = new_secret()
    kept = hash_secret(secret)
    assert len(secret.get_secret_value()) == 43
    assert secret_matches(kept, secret)
    assert not secret_matches(kept, new_secret())
    assert not secret_matches(None, secret)
