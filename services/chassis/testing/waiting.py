"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 10, interval: float = 0.02) -> T:
    """
    The first true value of `predicate`, asked again and again.

    Raises:
        AssertionError: it was not true within `timeout` seconds; says what it was last.

    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout} s, but still {value!r}")
        time.sleep(interval)
    return value
