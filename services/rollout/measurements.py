"""
What guardrails look at and what they found: all SQL of the tables measurements, measured, analyses and exposures.

Apart from `store.py` because it is a subject of its own: nothing here knows how a rollout moves, and nothing there what is
measured. All functions look at many enterprises, so they need the scope PLATFORM.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from psycopg.types.json import Json, Jsonb
from pydantic import TypeAdapter

from services.chassis.database import Transaction
from services.rollout.guardrails import Analysis, Outcome, Reading, Readings, Sample, Verdict
from services.rollout.model import Cause
from services.rollout.plan import Action
from services.rollout.statistics import Arm

KEPT = timedelta(days=30)
"""How long measurements and analyses are kept. What a longer stage is judged by are its last 30 days."""

BATCH = 10_000
"""The most rows that one call of `prune` removes from one table."""

_WINDOW = timedelta(minutes=1)  # until analytics has told how long its windows are
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERDICTS = TypeAdapter(tuple[Verdict, ...])


@dataclass(frozen=True, slots=True)
class Exposure:
    """An enterprise's first use of what an edition does, not of its flag, in a stage."""

    rollout: str
    stage: str
    enterprise: str
    time: datetime


@dataclass(frozen=True, slots=True)
class KeptAnalysis:
    """An analysis as it was made; `sequence` grows with each."""

    sequence: int
    stage: str
    time: datetime
    analysis: Analysis


def record(
    tx: Transaction,
    metric: str,
    *,
    through: datetime | None = None,
    window_start: datetime | None = None,
    window: timedelta = _WINDOW,
    samples: Mapping[str, Sample] | None = None,
) -> None:
    """
    Remember what analytics tells of a metric.

    Numbers of a window only grow, so the larger ones win over those that are known, in whatever order they come; and so does the
    later `through`.

    Args:
        tx: waits for others that record the same metric.
        metric: as `publish.error_rate`.
        through: up to when everything is measured; None when that is not said.
        window_start: the beginning of the window of time of `samples`.
        window: how long the metric's windows are.
        samples: by enterprise, what it has done in the window so far.
    """
    tx.execute(
        """
        insert into measured (metric, through, "window") values (%s, %s, %s)
        on conflict (metric) do update set through = greatest(measured.through, excluded.through), "window" = excluded."window"
        """,
        (metric, through, window),
    )
    if not samples:
        return
    told = {
        "metric": metric,
        "window_start": window_start,
        "enterprises": list(samples),
        "counts": [each.count for each in samples.values()],
        "bads": [each.bad for each in samples.values()],
    }
    # First the sums of later windows, by what this one grows by.
    tx.execute(
        """
        with growth as (
          select told.enterprise, greatest(told.count - coalesce(known.count, 0), 0) as count,
                 greatest(told.bad - coalesce(known.bad, 0), 0) as bad
          from unnest(%(enterprises)s::text[], %(counts)s::bigint[], %(bads)s::bigint[]) as told (enterprise, count, bad)
          left join lateral (
            select row.count, row.bad from measurements as row
            where (row.metric, row.enterprise, row.window_start) = (%(metric)s, told.enterprise, %(window_start)s)
          ) as known on true
        )
        update measurements as later
        set count_sum = later.count_sum + growth.count, bad_sum = later.bad_sum + growth.bad
        from growth
        where (later.metric, later.enterprise) = (%(metric)s, growth.enterprise) and later.window_start > %(window_start)s
          and (growth.count, growth.bad) <> (0, 0)
        """,
        told,
    )
    tx.execute(
        """
        insert into measurements as known (metric, enterprise, window_start, count, bad, count_sum, bad_sum)
        select %(metric)s, told.enterprise, %(window_start)s, told.count, told.bad,
               coalesce(before.count_sum, 0) + told.count, coalesce(before.bad_sum, 0) + told.bad
        from unnest(%(enterprises)s::text[], %(counts)s::bigint[], %(bads)s::bigint[]) as told (enterprise, count, bad)
        left join lateral (
          select count_sum, bad_sum from measurements
          where metric = %(metric)s and enterprise = told.enterprise and window_start < %(window_start)s
          order by window_start desc limit 1
        ) as before on true
        on conflict (metric, enterprise, window_start) do update set
          count = greatest(known.count, excluded.count),
          bad = greatest(known.bad, excluded.bad),
          count_sum = known.count_sum + greatest(excluded.count - known.count, 0),
          bad_sum = known.bad_sum + greatest(excluded.bad - known.bad, 0)
        """,
        told,
    )


def readings(
    tx: Transaction,
    rollout: str,
    metrics: Collection[str],
    *,
    since: datetime,
    treated: Mapping[str, datetime],
    control: Collection[str],
    windows: Mapping[str, int],
) -> Readings:
    """
    What is measured of a stage, in whole windows.

    Each enterprise counts from the first whole window in which it is in its arm.

    Args:
        tx: has the present, from which 30 days are counted.
        rollout: whose exposures tell that somebody of the control group used the edition.
        metrics: those that are asked about.
        since: when the stage was entered.
        treated: the enterprises that are in, and since when.
        control: the enterprises of the control group.
        windows: by metric, how many of the newest windows breakers want to see.
    """
    since = max(since, tx.now - KEPT)
    window = _window(tx, metrics)
    first = since + (_EPOCH - since) % window
    arms = {
        # Each with the windows that it misses: a list of moments would take psycopg a tenth of a second.
        "treated": Json({name: max(ceil((moment - first) / window), 0) for name, moment in treated.items()}),
        "control": Json(dict.fromkeys(control, 0)),
        "metrics": list(metrics),
        "first": first,
        "window": window,
        "windows": Json(dict(windows)),
    }
    means = {
        (row["metric"], row["treated"]): Arm(row["enterprises"], row["mean"], row["variance"])
        for row in tx.execute(_MEANS, arms)
    }
    newest = {metric: [Sample(0, 0)] * number for metric, number in windows.items()}
    for row in tx.execute(_NEWEST, arms):
        newest[row["metric"]][-row["ago"]] = Sample(row["count"], row["bad"])
    through = tx.execute(
        "select metric, date_bin(%(window)s, through, 'epoch') as through from measured where metric = any (%(metrics)s)",
        arms,
    )
    used = tx.execute(
        "select distinct enterprise from exposures where rollout = %s and time >= %s and enterprise = any (%s)",
        (rollout, since, list(control)),
    )
    return Readings(
        {
            row["metric"]: Reading(
                row["through"],
                means.get((row["metric"], True), Arm()),
                means.get((row["metric"], False), Arm()),
                tuple(newest.get(row["metric"], ())),
            )
            for row in through
        },
        treated=means.get((None, True), Arm()).n,
        control=means.get((None, False), Arm()).n,
        both=len({row["enterprise"] for row in used} | (treated.keys() & set(control))),
    )


def _window(tx: Transaction, metrics: Collection[str]) -> timedelta:
    """How long the windows of these metrics are; while analytics is being set otherwise, the longest."""
    row = tx.execute(
        'select max("window") as longest from measured where metric = any (%s)', (list(metrics),)
    ).fetchall()[0]
    return row["longest"] or _WINDOW


# Lateral with a limit: where row-level security lets everything through, PostgreSQL expects a handful of rows, and would join
# thousands in a way that takes seconds.
_MEANS = """
    with arm as (
      select key as enterprise, %(first)s + value::int * %(window)s::interval as start, true as treated
      from json_each_text(%(treated)s)
      union all
      select key, %(first)s, false from json_each_text(%(control)s)
    ), done as (
      select measured.metric, arm.enterprise, arm.treated,
             last.count_sum - coalesce(before.count_sum, 0) as count, last.bad_sum - coalesce(before.bad_sum, 0) as bad
      from measured cross join arm
      cross join lateral (
        select row.count_sum, row.bad_sum from measurements as row
        where row.metric = measured.metric and row.enterprise = arm.enterprise
          and row.window_start >= arm.start and row.window_start < date_bin(%(window)s, measured.through, 'epoch')
        order by row.window_start desc limit 1
      ) as last
      left join lateral (
        select row.count_sum, row.bad_sum from measurements as row
        where row.metric = measured.metric and row.enterprise = arm.enterprise and row.window_start < arm.start
        order by row.window_start desc limit 1
      ) as before on true
      where measured.metric = any (%(metrics)s)
    )
    select metric, treated, count(distinct enterprise) as enterprises, avg(bad::float8 / count) as mean,
           coalesce(var_samp(bad::float8 / count), 0) as variance
    from done where count > 0
    group by grouping sets ((metric, treated), (treated))
"""
_NEWEST = """
    with arm as (
      select key as enterprise, %(first)s + value::int * %(window)s::interval as start from json_each_text(%(treated)s)
    ), newest as (
      select metric, date_bin(%(window)s, through, 'epoch') as through, value::int as windows
      from measured join json_each_text(%(windows)s) on key = metric
    )
    select newest.metric,
           (extract(epoch from newest.through - found.window_start) / extract(epoch from %(window)s::interval))::int as ago,
           sum(found.count)::bigint as count, sum(found.bad)::bigint as bad
    from newest cross join arm
    cross join lateral (
      select window_start, count, bad from measurements as row
      where row.metric = newest.metric and row.enterprise = arm.enterprise and row.window_start < newest.through
        and row.window_start >= greatest(arm.start, newest.through - newest.windows * %(window)s::interval)
      order by row.window_start desc limit newest.windows
    ) as found
    group by 1, 2
"""


def save_analysis(tx: Transaction, rollout: str, stage: str, analysis: Analysis) -> None:
    """Keep what a look found, at the transaction's time."""
    tx.execute(
        """
        insert into analyses (rollout, stage, time, outcome, action, cause, advance, reason, verdicts)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            rollout,
            stage,
            tx.now,
            analysis.outcome,
            analysis.action or "",
            analysis.cause,
            analysis.may_advance,
            analysis.reason,
            Jsonb(_VERDICTS.dump_python(analysis.verdicts, mode="json")),
        ),
    )


def page_analyses(
    tx: Transaction, rollout: str, *, limit: int, before: int | None = None
) -> list[KeptAnalysis]:
    """A rollout's analyses, newest first, older than the one with this sequence number."""
    rows = tx.execute(
        """
        select * from analyses where rollout = %(rollout)s and (%(before)s::bigint is null or sequence < %(before)s)
        order by sequence desc limit %(limit)s
        """,
        {"rollout": rollout, "before": before, "limit": limit},
    )
    return [
        KeptAnalysis(
            row["sequence"],
            row["stage"],
            row["time"],
            Analysis(
                _VERDICTS.validate_python(row["verdicts"]),
                Outcome(row["outcome"]),
                Action(row["action"]) if row["action"] else None,
                Cause(row["cause"]),
                row["advance"],
                row["reason"],
            ),
        )
        for row in rows
    ]


def last_analysis(tx: Transaction, rollout: str, *, since: datetime) -> Analysis | None:
    """The newest analysis since a stage was entered: its verdicts say how often checks have failed in a row."""
    newest = page_analyses(tx, rollout, limit=1)
    return newest[0].analysis if newest and newest[0].time >= since else None


def record_exposures(tx: Transaction, exposures: Iterable[Exposure]) -> None:
    """Remember first uses; of several of one enterprise in one stage the earliest is kept."""
    rows = [(each.rollout, each.stage, each.enterprise, each.time) for each in exposures]
    tx.execute(
        """
        insert into exposures as known (rollout, stage, enterprise, time)
        select rollout, stage, enterprise, min(time)
        from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[]) as told (rollout, stage, enterprise, time)
        group by rollout, stage, enterprise order by rollout, stage, enterprise
        on conflict (rollout, stage, enterprise) do update set time = excluded.time where excluded.time < known.time
        """,
        [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []],
    )


def count_exposures(tx: Transaction, rollout: str, stage: str) -> int:
    """How many enterprises have used the edition in a stage."""
    counted = tx.execute(
        "select count(*) as count from exposures where (rollout, stage) = (%s, %s)", (rollout, stage)
    )
    return int(counted.fetchall()[0]["count"])


def prune(tx: Transaction) -> int:
    """
    Remove measurements and analyses that are older than 30 days.

    Of each metric and enterprise the newest old row stays: from its sums the later ones are counted.

    Returns how many rows went. Call it again, in a new transaction, while that is not 0.
    """
    limits = {"before": tx.now - KEPT, "batch": BATCH}
    measurements = tx.execute(
        """
        delete from measurements where ctid = any (array(
          select old.ctid from measurements as old
          where old.window_start < %(before)s and exists (
            select from measurements as newer
            where newer.metric = old.metric and newer.enterprise = old.enterprise
              and newer.window_start > old.window_start and newer.window_start < %(before)s)
          limit %(batch)s))
        """,
        limits,
    )
    analyses = tx.execute(
        """
        delete from analyses where ctid = any (array(
          select ctid from analyses where time < %(before)s limit %(batch)s))
        """,
        limits,
    )
    return measurements.rowcount + analyses.rowcount
