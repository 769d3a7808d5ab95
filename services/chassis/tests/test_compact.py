"""The one form of a signed token."""

import pytest

from services.chassis.compact import is_compact


def test_is_compact__takes_what_encoders_write() -> None:
    """Three parts, without padding, whatever their length."""
    for signature in ("AA", "AAA", "AAAA", "-_-_"):
        assert is_compact(f"eyJ.e30.{signature}")


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a.b.c.d", "a.b.", "a..AA", ".b.AA", "a.b.AB", "a.b.AAB", "a.b.AA==", "a.b.A A", "a.b.A!A", "a.b.A",
     "a.b.++++", "a.b.AAAAA", "é.b.AA", "a.b.AA\n"],
)  # fmt: skip
def test_is_compact__refuses_every_other_spelling(token: str) -> None:
    """Also those that decode to the same bytes: stray bits at the end, padding, characters that decoders pass over."""
    assert not is_compact(token)
