"""The parts of handling a delivery that need no broker."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.messaging.handling import Delivery, original

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=20), inner),
    max_leaves=8,
)


def test_original__without_notes_on_the_way() -> None:
    """Ours and the broker's notes are left out, the message's own headers stay."""
    headers = {
        "id": "1",
        "numerator-reason": "R",
        "x-death": [],
        "x-first-death-queue": "q",
        "x-mine": 1,
        b"\xff": 1,
    }
    assert original(headers) == {"id": "1", "x-mine": 1}


@given(st.dictionaries(st.text(max_size=20), values, max_size=4))
def test_original__can_be_written(headers: dict[str, Any]) -> None:
    """Whatever headers came in, pika can send them on."""
    pika.BasicProperties(headers=original(headers)).encode()


def test_original__of_rare_types() -> None:
    """What pika does not know becomes text."""
    made = original(
        {"f": 1.5, "d": Decimal("1.5"), "t": datetime(2026, 1, 15, tzinfo=UTC), "l": [1.5, {"f": 2.5}]}
    )
    assert made == {"f": "1.5", "d": "1.5", "t": "2026-01-15 00:00:00+00:00", "l": ["1.5", {"f": "2.5"}]}


@pytest.mark.parametrize(("value", "attempts"), [(3, 3), (-1, 0), ("3", 0), (None, 0), ([], 0)])
def test_attempts__of_any_header(value: object, attempts: int) -> None:
    """A header that is no number counts as none."""
    assert Delivery({"numerator-attempts": value}, None, None, b"").attempts == attempts
