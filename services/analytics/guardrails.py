"""
Guardrails' numbers: counted by enterprise and window of time, and told to whoever has to stop a rollout in time.

Freshness is told with them, and never better than it is known:
- of what gateways report: the latest time through which any of them has reported. When all are silent it stands still. One
  that is silent among others is not noticed here.
- of what events tell: the time of the latest probe that came back to us through the broker. When our consumer hears
  nothing it stands still. An event that is tried again, or that its service could not send yet, comes later; then its
  window is told anew.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import groupby

from numerator.events.v1.analytics_pb2 import ConsumerProbed, GuardrailMeasured

from services.analytics import store
from services.analytics.model import GUARDRAILS, Guardrail, Source, Tally
from services.chassis.database import Transaction
from services.chassis.timestamps import stamp

KEPT = timedelta(days=30)
"""How long a window is remembered, and how late something may come to be counted in it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SAMPLES = 1_000  # in one event
_AT_ONCE = 5_000  # in one transaction


def count(
    tx: Transaction, metric: Guardrail, enterprise: str, time: datetime, *, bad: bool, window: timedelta
) -> None:
    """
    Count one thing that happened.

    Call it before anything is appended to a change log: others who count for the enterprise wait until the transaction ends,
    and all who append wait for one another.
    """
    _add(tx, [Tally(metric, time, enterprise, 1, int(bad))], window)


def report(tx: Transaction, tallies: Iterable[Tally], through: datetime, window: timedelta) -> None:
    """Add what a gateway has counted until `through`. One whose clock is ahead makes nothing look newer than now."""
    store.note_measured(tx, Source.GATEWAYS, min(through, tx.now))
    _add(tx, tallies, window)


def heard(tx: Transaction, probe_time: datetime) -> None:
    """A probe that was told at this time came through."""
    store.note_measured(tx, Source.EVENTS, min(probe_time, tx.now))


def tell(tx: Transaction, source: Source, *, window: timedelta, every: timedelta) -> bool:
    """
    Tell what has changed of a source's numbers, and until when they are known; needs the scope PLATFORM.

    It does nothing when it was done less than `every` ago: of several worker processes the first one tells.

    Returns whether there is a backlog: call it again then, in a new transaction.
    """
    if not store.lock_untold(tx, source, since=tx.now - every):
        return False
    tallies = store.take_changed(tx, GUARDRAILS[source], _AT_ONCE)
    backlog = len(tallies) == _AT_ONCE
    through = None if backlog else store.measured_through(tx, source)
    for (metric, window_start), group in groupby(
        tallies, key=lambda tally: (tally.metric, tally.window_start)
    ):
        _emit(tx, metric, through, window, window_start=window_start, tallies=list(group))
    if backlog:
        return True
    changed = {tally.metric for tally in tallies}
    for metric in GUARDRAILS[source]:
        if through and metric not in changed:
            _emit(tx, metric, through, window)
    if source is Source.EVENTS:
        tx.emit(ConsumerProbed(probe_time=stamp(tx.now)), subject="analytics")
    store.note_told(tx, source)
    return False


def purge(tx: Transaction) -> int:
    """Forget some of the windows that have served their time; needs the scope PLATFORM. Returns how many numbers."""
    return store.purge_usage(tx, tx.now - KEPT)


def _add(tx: Transaction, tallies: Iterable[Tally], window: timedelta) -> None:
    oldest = tx.now - KEPT
    kept = [
        tally._replace(window_start=tally.window_start - (tally.window_start - _EPOCH) % window)
        for tally in tallies
        if tally.window_start >= oldest
    ]
    if kept:
        store.add_usage(tx, kept)


def _emit(
    tx: Transaction,
    metric: str,
    through: datetime | None,
    window: timedelta,
    *,
    window_start: datetime | None = None,
    tallies: Iterable[Tally] = (),
) -> None:
    """Tell a metric's numbers of one window, in as many events as they need; without one only the freshness."""
    samples = [
        GuardrailMeasured.Sample(enterprise=tally.enterprise, count=tally.total, bad=tally.bad)
        for tally in tallies
    ]
    for begin in range(0, max(1, len(samples)), _SAMPLES):
        told = GuardrailMeasured(
            metric=metric,
            samples=samples[begin : begin + _SAMPLES],
            window_seconds=int(window.total_seconds()),
        )
        if window_start:
            told.window_start.CopyFrom(stamp(window_start))
        if through:
            told.measured_through.CopyFrom(stamp(through))
        tx.emit(told, subject=metric)
