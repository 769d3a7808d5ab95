"""
A plugin of pytest, `-p tests.verify.rollout_counting`: notes with each test how many lives of the rollout service it has tried,
and how many deeds in them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest

from services.rollout.tests import deeds


@pytest.fixture(autouse=True)
def counted(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    """Counts for the time of a test."""
    counts: Counter[str] = Counter()

    def count(place: Any, name: str, what: str) -> None:
        function = getattr(place, name)

        @wraps(function)
        def counting(*arguments: Any) -> Any:
            counts[what] += 1
            return function(*arguments)

        monkeypatch.setattr(place, name, counting)

    count(deeds, "wipe", "lives")
    count(deeds.Doing, "do", "deeds")
    yield
    for what, number in counts.items():
        record_property(what, number)
