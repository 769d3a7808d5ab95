"""What is kept of measurements, analyses and exposures, and what guardrails read of it."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Tenant, Transaction
from services.chassis.testing.databases import TemporaryDatabase
from services.rollout import measurements
from services.rollout.guardrails import Look, Outcome, Reading, Readings, Sample, Verdict, check
from services.rollout.measurements import Exposure
from services.rollout.plan import Action, Policies
from services.rollout.statistics import Arm
from services.rollout.tests.guardrail_simulation import GUARDRAIL, METRIC, arm

ROLLOUT, STAGE = "rollouts/edition", "ring-3"
ENTERED = datetime(2026, 3, 2, 8, 0, 30, tzinfo=UTC)
OTHER = "gateway.error_rate"


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> TemporaryDatabase:
    """Rollout's, an hour after the stage was entered."""
    return make_database("rollout", clock=FixedClock(ENTERED + timedelta(hours=1)))


@pytest.fixture
def tx(database: TemporaryDatabase) -> Iterator[Transaction]:
    """A transaction as the worker has it."""
    with database.transaction(PLATFORM) as transaction:
        yield transaction


def minute(number: int) -> datetime:
    """A whole minute; 0 is the one in which the stage was entered."""
    return ENTERED.replace(second=0) + number * timedelta(minutes=1)


def enterprise(number: int) -> str:
    """An enterprise's name."""
    return f"enterprises/e{number}"


def record(
    tx: Transaction, number: int, samples: Mapping[int, tuple[int, int]], *, metric: str = METRIC
) -> None:
    """What enterprises did in a minute, by their numbers; measured to its end."""
    told = {enterprise(each): Sample(*sample) for each, sample in samples.items()}
    measurements.record(tx, metric, through=minute(number + 1), window_start=minute(number), samples=told)


def read(
    tx: Transaction,
    treated: Mapping[int, datetime],
    control: tuple[int, ...] = (),
    *,
    windows: Mapping[str, int] | None = None,
    since: datetime = ENTERED,
) -> Readings:
    """What a stage is judged by."""
    return measurements.readings(
        tx,
        ROLLOUT,
        [METRIC, OTHER],
        since=since,
        treated={enterprise(each): moment for each, moment in treated.items()},
        control=[enterprise(each) for each in control],
        windows=windows or {},
    )


# Measurements


def test_readings__are_the_means_of_enterprises(tx: Transaction) -> None:
    """Each enterprise counts once, however much it does; who did nothing counts not at all."""
    record(tx, 1, {1: (10, 1), 2: (1000, 500), 5: (4, 1)})
    record(tx, 2, {1: (10, 4), 3: (2, 0), 6: (8, 8)})

    found = read(tx, dict.fromkeys([1, 2, 3, 4], ENTERED), (5, 6, 7))

    treated, control = arm([5 / 20, 0.5, 0.0]), arm([0.25, 1.0])
    reading = found.metrics[METRIC]
    assert (reading.treatment.n, reading.control.n) == (3, 2) == (found.treated, found.control)
    assert reading.treatment.mean == pytest.approx(treated.mean)
    assert reading.treatment.variance == pytest.approx(treated.variance)
    assert reading.control.mean == pytest.approx(control.mean)
    assert reading.control.variance == pytest.approx(control.variance)
    assert reading.measured_through == minute(3)
    assert found.both == 0


def test_readings__one_enterprise__has_no_variance(tx: Transaction) -> None:
    """And an arm without any is empty."""
    record(tx, 1, {1: (4, 1)})

    reading = read(tx, {1: ENTERED}, (2,)).metrics[METRIC]

    assert (reading.treatment, reading.control) == (Arm(1, 0.25, 0.0), Arm())


def test_readings__begin_with_the_first_whole_minute_in_the_arm(tx: Transaction) -> None:
    """What was before the stage, or before the admission, is not held against it."""
    for number in range(-2, 6):
        record(tx, number, dict.fromkeys((1, 2, 3), (10, 10 if number < 1 else number)))

    admissions = {1: ENTERED - timedelta(days=1), 2: minute(2), 3: minute(2) + timedelta(seconds=1)}
    means = {
        each: read(tx, {each: moment}).metrics[METRIC].treatment.mean for each, moment in admissions.items()
    }

    assert (
        means[1] == pytest.approx((1 + 2 + 3 + 4 + 5) / 50) == read(tx, {}, (1,)).metrics[METRIC].control.mean
    )
    assert means[2] == pytest.approx((2 + 3 + 4 + 5) / 40)
    assert means[3] == pytest.approx((3 + 4 + 5) / 30)


def test_readings__end_with_what_is_measured(tx: Transaction) -> None:
    """A minute of which not everything is in does not count yet."""
    record(tx, 1, {1: (10, 1)})
    sample = {enterprise(1): Sample(10, 9)}
    measurements.record(
        tx, METRIC, through=minute(2) + timedelta(seconds=40), window_start=minute(2), samples=sample
    )

    before = read(tx, {1: ENTERED}).metrics[METRIC]
    measurements.record(tx, METRIC, through=minute(3))
    after = read(tx, {1: ENTERED}).metrics[METRIC]

    assert (before.measured_through, before.treatment.mean) == (minute(2), pytest.approx(0.1))
    assert (after.measured_through, after.treatment.mean) == (minute(3), pytest.approx(0.5))


def test_readings__metric_that_nobody_measured__is_missing(tx: Transaction) -> None:
    """And one of which only samples came is not measured up to any time."""
    measurements.record(tx, OTHER, window_start=minute(1), samples={enterprise(1): Sample(1, 0)})

    assert read(tx, {1: ENTERED}) == Readings({OTHER: Reading()})


def test_readings__enterprises_seen__are_those_of_any_metric(tx: Transaction) -> None:
    """Each once."""
    record(tx, 1, {1: (1, 0), 2: (1, 0), 8: (1, 0)})
    record(tx, 1, {2: (1, 0), 3: (1, 0), 9: (0, 0)}, metric=OTHER)

    found = read(tx, dict.fromkeys([1, 2, 3, 4], ENTERED), (8, 9))

    assert (found.treated, found.control) == (3, 1)


def test_readings__newest_minutes__are_those_of_the_treatment_and_the_quiet_ones(tx: Transaction) -> None:
    """Oldest first, up to what is measured; for the metrics that are asked for."""
    record(tx, 1, {1: (7, 7)})
    record(tx, 2, {1: (10, 1), 2: (10, 2), 3: (50, 50)})
    record(tx, 4, {2: (5, 5)})
    record(tx, 4, {1: (1, 1)}, metric=OTHER)
    measurements.record(tx, METRIC, window_start=minute(5), samples={enterprise(1): Sample(9, 9)})

    found = read(tx, {1: ENTERED, 2: minute(1)}, (3,), windows={METRIC: 3})

    assert found.metrics[METRIC].windows == (Sample(20, 3), Sample(0, 0), Sample(5, 5))
    assert found.metrics[OTHER].windows == ()


def test_readings__who_is_in_both_arms__is_counted(tx: Transaction) -> None:
    """By the lists, or because somebody of the control group used the edition in the stage; each once."""
    later, earlier = ENTERED + timedelta(minutes=1), ENTERED - timedelta(minutes=1)
    measurements.record_exposures(
        tx,
        [
            Exposure(ROLLOUT, STAGE, enterprise(1), later),
            Exposure(ROLLOUT, STAGE, enterprise(2), later),
            Exposure(ROLLOUT, STAGE, enterprise(3), later),
            Exposure(ROLLOUT, "ring-2", enterprise(4), earlier),
            Exposure("rollouts/other", STAGE, enterprise(5), later),
        ],
    )

    assert read(tx, {1: ENTERED}, (4, 5)).both == 0
    assert read(tx, {1: ENTERED, 2: ENTERED}, (2, 3, 4, 5)).both == 2


def test_record__in_whatever_order_and_however_often__is_the_same(tx: Transaction) -> None:
    """Numbers only grow, so the larger ones are right; sums follow also when an old minute grows late."""
    random = Random(4)
    last = {
        (number, each): Sample(random.randrange(20, 40), random.randrange(20))
        for number in range(1, 6)
        for each in range(8)
        if random.random() < 0.7
    }
    events = [
        (number, each, Sample(sample.count * part // 3, sample.bad * part // 3))
        for (number, each), sample in last.items()
        for part in (1, 2, 3, 3)
    ]
    random.shuffle(events)
    for number, each, sample in events:
        record(tx, number, {each: (sample.count, sample.bad)})

    reading = read(tx, dict.fromkeys(range(8), minute(2)), windows={METRIC: 4}).metrics[METRIC]

    sums: dict[int, Sample] = {}
    for (number, each), sample in last.items():
        if number >= 2:
            known = sums.get(each, Sample(0, 0))
            sums[each] = Sample(known.count + sample.count, known.bad + sample.bad)
    expected = arm(each.bad / each.count for each in sums.values())
    assert reading.treatment.n == expected.n
    assert reading.treatment.mean == pytest.approx(expected.mean)
    assert reading.treatment.variance == pytest.approx(expected.variance)
    assert [each.count for each in reading.windows] == [
        sum(sample.count for (number, _), sample in last.items() if number == slot) for slot in range(2, 6)
    ]


def test_record__the_later_time_wins(tx: Transaction) -> None:
    """Events overtake each other, and some say nothing of it."""
    for through in (minute(5), minute(3), None):
        measurements.record(tx, METRIC, through=through)

    assert read(tx, {}).metrics[METRIC].measured_through == minute(5)


def test_prune__removes_what_is_old_and_changes_no_reading(database: TemporaryDatabase) -> None:
    """Not even that of a stage that is older than all that is kept; repeated, it removes nothing more."""
    now = ENTERED + timedelta(hours=1)
    horizon = (now - measurements.KEPT).replace(second=0)
    moments = [
        *(now.replace(second=0) - timedelta(days=50, minutes=each) for each in range(5)),
        *(horizon + timedelta(minutes=each) for each in range(-10, 10)),
    ]
    with database.transaction(PLATFORM) as tx:
        for moment in sorted(moments):
            for metric in (METRIC, OTHER):
                told = {enterprise(each): Sample(10, moment.minute % (each + 2)) for each in range(3)}
                measurements.record(tx, metric, through=now, window_start=moment, samples=told)
        lone = {enterprise(9): Sample(1, 0)}
        measurements.record(tx, OTHER, window_start=horizon - timedelta(minutes=20), samples=lone)
        measurements.record(tx, METRIC, window_start=horizon - timedelta(minutes=15), samples=lone)

        def seen() -> list[Readings]:
            entered = (ENTERED, now - timedelta(days=29), now - timedelta(days=40))
            return [
                read(tx, {0: entered[2], 1: now - timedelta(days=35)}, (2,), since=each) for each in entered
            ]

        before = seen()
        removed = measurements.prune(tx)

        # The minute of the horizon began before it, so it is the newest old one, and stays.
        assert removed == 2 * 3 * 15
        assert seen() == before
        assert before[2].treated == 2
        assert measurements.prune(tx) == 0
        kept = tx.execute("select from measurements where enterprise = %s", (enterprise(9),))
        assert len(kept.fetchall()) == 2


def test_prune__removes_old_analyses(database: TemporaryDatabase) -> None:
    """What a look found a month ago."""
    analysis = check([], Readings(), _look())
    with database.transaction(PLATFORM) as tx:
        measurements.save_analysis(tx, ROLLOUT, STAGE, analysis)
        tx.execute("update analyses set time = time - %s - interval '1 minute'", (measurements.KEPT,))
        measurements.save_analysis(tx, ROLLOUT, STAGE, analysis)

        assert measurements.prune(tx) == 1
        assert len(measurements.page_analyses(tx, ROLLOUT, limit=9)) == 1


@pytest.mark.parametrize("table", ["measurements", "exposures"])
def test_rows__are_seen_by_their_enterprise_only(database: TemporaryDatabase, table: str) -> None:
    """A tenant's transaction sees its own."""
    with database.transaction(PLATFORM) as tx:
        record(tx, 1, {1: (1, 0), 2: (1, 0)})
        measurements.record_exposures(
            tx, [Exposure(ROLLOUT, STAGE, enterprise(each), ENTERED) for each in (1, 2)]
        )
    with database.transaction(Tenant(enterprise(1))) as tx:
        assert [row["enterprise"] for row in tx.execute(f"select enterprise from {table}")] == [enterprise(1)]


# Analyses


def _look(previous: tuple[Verdict, ...] = ()) -> Look:
    now = ENTERED + timedelta(hours=1)
    return Look(now, ENTERED, 1, Policies(), treated_share=0.5, at_gate=True, previous=previous)


def test_analysis__of_what_is_measured__rolls_back(tx: Transaction) -> None:
    """From the events of a bad minute to the verdict."""
    treated, control = range(60), tuple(range(60, 120))
    samples = {each: (20, 2 + each % 3) for each in treated} | {each: (20, each % 2) for each in control}
    record(tx, 55, samples)

    analysis = check([GUARDRAIL], read(tx, dict.fromkeys(treated, ENTERED), control), _look())

    assert (analysis.outcome, analysis.action) == (Outcome.FAIL, Action.ROLLBACK)


def test_analyses__kept__are_as_they_were_made(tx: Transaction) -> None:
    """Newest first, page by page, of one rollout."""
    reading = Reading(minute(58), Arm(200, 0.1, 0.009), Arm(200, 0.02, 0.002))
    failed = check([GUARDRAIL], Readings({METRIC: reading}, 200, 200), _look())
    silent = check([GUARDRAIL], Readings(), _look(failed.verdicts))
    for analysis in (failed, silent, failed):
        measurements.save_analysis(tx, ROLLOUT, STAGE, analysis)
    measurements.save_analysis(tx, "rollouts/other", STAGE, silent)

    first = measurements.page_analyses(tx, ROLLOUT, limit=2)
    rest = measurements.page_analyses(tx, ROLLOUT, limit=2, before=first[-1].sequence)

    assert [each.analysis for each in first] == [failed, silent]
    assert [each.analysis for each in rest] == [failed]
    assert {(each.stage, each.time) for each in (*first, *rest)} == {(STAGE, tx.now)}


def test_last_analysis__is_of_this_stage(tx: Transaction) -> None:
    """In a new stage nothing has failed in a row yet."""
    analysis = check([GUARDRAIL], Readings(), _look())
    assert measurements.last_analysis(tx, ROLLOUT, since=ENTERED) is None

    measurements.save_analysis(tx, ROLLOUT, STAGE, analysis)

    assert measurements.last_analysis(tx, ROLLOUT, since=ENTERED) == analysis
    assert measurements.last_analysis(tx, ROLLOUT, since=tx.now + timedelta(seconds=1)) is None


# Exposures


def test_exposures__told_again__count_once_and_keep_the_first_time(tx: Transaction) -> None:
    """Within one call and between calls."""
    for moments in ([5, 3, 4], [2, 6], [9], []):
        measurements.record_exposures(
            tx, [Exposure(ROLLOUT, STAGE, enterprise(1), minute(each)) for each in moments]
        )
    measurements.record_exposures(tx, [Exposure(ROLLOUT, "ring-4", enterprise(2), minute(1))])

    assert measurements.count_exposures(tx, ROLLOUT, STAGE) == 1
    assert measurements.count_exposures(tx, ROLLOUT, "ring-4") == 1
    assert measurements.count_exposures(tx, ROLLOUT, "ring-5") == 0
    first = tx.execute("select time from exposures where stage = %s", (STAGE,)).fetchall()
    assert [row["time"] for row in first] == [minute(2)]
