"""
How instruments are made, the same way everywhere. The names, and what each label means, are in docs/telemetry.md.

A service keeps its instruments in its `metrics.py`. Labels have few values: never an enterprise, an account or a user.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation, UpDownCounter

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Buckets, in seconds, for what a program waits for."""

SLOW = (1, 5, 15, 30, 60, 300, 900, 3_600, 4 * 3_600, 24 * 3_600)
"""Buckets, in seconds, for what people wait for."""

STALE_SECONDS = 60.0
"""How long what was read from a database is told."""

_meter = metrics.get_meter("numerator")


def counter(name: str, description: str) -> Counter:
    """Counts what has happened."""
    return _meter.create_counter(name, description=description)


def running(name: str, description: str) -> UpDownCounter:
    """Counts what is going on: add 1 when it begins, -1 when it ends."""
    return _meter.create_up_down_counter(name, description=description)


def duration(name: str, description: str, buckets: Sequence[float] = QUICK) -> Histogram:
    """How long something took, in seconds."""
    return _meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=[float(bound) for bound in buckets]
    )


@contextmanager
def timed(histogram: Histogram, **labels: str) -> Iterator[None]:
    """Measure a block that ends well."""
    began = time.perf_counter()
    yield
    histogram.record(time.perf_counter() - began, labels)


Value = tuple[float, Mapping[str, str]]
"""A value with its labels."""


def gauge(name: str, description: str, read: Callable[[], Iterable[Value]], unit: str = "") -> None:
    """What `read` finds whenever it is looked at; it must find it in memory, at once."""

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for value, labels in read()]

    _meter.create_observable_gauge(name, [observe], unit, description)


class Reading:
    """
    A gauge that one process (the worker) reads from its database now and then, all of its values at a time.

    What is older than `STALE_SECONDS` is told no more: no value is better than one that is wrong.
    """

    def __init__(self, name: str, description: str, unit: str = "") -> None:
        self._values: list[Value] = []
        self._read = 0.0
        gauge(name, description, self._tell, unit)

    def set(self, values: Iterable[Value]) -> None:
        """These are the values from now on."""
        self._values, self._read = list(values), time.monotonic()

    def _tell(self) -> list[Value]:
        return self._values if time.monotonic() - self._read < STALE_SECONDS else []
