"""Tokens: what we signed is read, and nothing else."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.chassis.errors import Kind, ServiceError
from services.placement.settings import Settings
from services.placement.tokens import Token, Tokens

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
TOKEN = Token("d1", "ann", "enterprises/e/campaigns/c/placements/p", "HOME_FEED", int(NOON.timestamp()) + 60)
TOKENS = Tokens("a-key-of-the-tests-with-32-characters")


def refusal(text: str, now: datetime = NOON) -> str:
    """The reason for which a token is not read."""
    with pytest.raises(ServiceError) as refused:
        TOKENS.read(text, now)
    if refused.value.violations:
        assert refused.value.kind is Kind.INVALID_ARGUMENT
        return refused.value.violations[0].reason
    return refused.value.reason


@given(st.builds(Token, st.text(), st.text(), st.text(), st.text(), st.integers(2**31, 2**40)))
def test_read__gives_back_what_was_signed(token: Token) -> None:
    """Whatever stands in it."""
    assert TOKENS.read(TOKENS.sign(token), NOON) == token


def test_read__refuses_every_tampering() -> None:
    """Every character changed to every other, which base64 may read as the same bytes; and a thousand other mutations."""
    good = TOKENS.sign(TOKEN)
    other = TOKENS.sign(Token("d2", "bo", TOKEN.placement, TOKEN.touchpoint, TOKEN.expires + 10**6))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \nπ"
    mutants = {good[:at] + each + good[at + 1 :] for at in range(len(good)) for each in alphabet}
    randomly = random.Random(20261101)
    while len(mutants) < len(good) * (len(alphabet) - 1) + 1_000:
        at, to = sorted(randomly.choices(range(len(good)), k=2))
        mutants |= {
            good[:at] + randomly.choice(alphabet) + good[at:],  # added
            good[:at] + good[to:],  # taken away
            good[:at] + good[at:to][::-1] + good[to:],  # turned round
            good[:at] + other[at:to] + good[to:],  # joined
        }
    for mutant in mutants - {good, other}:
        assert refusal(mutant) == "BAD_DECISION_TOKEN", mutant


@pytest.mark.parametrize("text", ["", ".", "a.b", "é.é", "." * 50, "x" * 2_000])
def test_read__refuses_what_is_no_token(text: str) -> None:
    """With the same reason, whatever it is."""
    assert refusal(text) == "BAD_DECISION_TOKEN"


def test_read__refuses_another_key() -> None:
    """A new key makes all tokens that are out worthless."""
    assert refusal(Tokens("another-key-of-the-tests-with-32-chars").sign(TOKEN)) == "BAD_DECISION_TOKEN"


def test_read__refuses_an_old_decision() -> None:
    """From the very second at which it ends."""
    text = TOKENS.sign(TOKEN)
    assert TOKENS.read(text, NOON + timedelta(seconds=59)) == TOKEN
    assert refusal(text, NOON + timedelta(seconds=60)) == "DECISION_EXPIRED"


def test_settings__refuse_a_weak_key_and_a_life_beyond_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short key could be guessed; a long life would let an exposure be recorded twice."""
    good = {
        "DATABASE_URL": "postgresql://x",
        "AMQP_URL": "amqp://x",
        "PRINCIPAL_PUBLIC_KEY": "-----BEGIN",
        "TOKEN_KEY": "k" * 32,
        "TOKEN_LIFE": "PT30M",
    }
    for name, value in good.items():
        monkeypatch.setenv(f"PLACEMENT_{name}", value)
    assert Settings().token_life == timedelta(minutes=30)
    for name, value in (("TOKEN_KEY", "k" * 31), ("TOKEN_LIFE", "PT0S"), ("TOKEN_LIFE", "P1DT1S")):
        with monkeypatch.context() as changed:
            changed.setenv(f"PLACEMENT_{name}", value)
            with pytest.raises(ValidationError):
                Settings()
