"""Guardrails' numbers: counted once, told whenever they change, and never told to be fresher than they are."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.events.v1.accounts_pb2 import AccountBound, AccountReauthRequired
from numerator.events.v1.analytics_pb2 import ConsumerProbed, GuardrailMeasured
from numerator.events.v1.publishing_pb2 import DeliveryFailed

from services.analytics import guardrails
from services.analytics.tests.test_worker import BRAND, PUBLICATION, published
from services.analytics.tests.world import KUNLUN, NOON, OWNER, TIANSHAN, World, made_worker
from services.chassis.database import PLATFORM, Tenant
from services.chassis.messaging.envelope import Event
from services.chassis.testing.outcomes import reason_of, told
from services.chassis.testing.rpc import gateway, operator
from services.chassis.timestamps import stamp

MINUTE = timedelta(minutes=1)
TICK = timedelta(seconds=5)
PUBLISH, BINDING = "publish.error_rate", "binding.success_rate"
ERRORS, LATENCY = "gateway.error_rate", "gateway.latency_over_300ms"
FAILED = DeliveryFailed(delivery=f"{PUBLICATION}/deliveries/2", account=BRAND, reason="REJECTED_CONTENT")

Numbers = dict[tuple[str, datetime, str], tuple[int, int]]
"""Count and bad by metric, minute and enterprise, as whoever hears the events has them."""


def usage(
    enterprise: str = TIANSHAN,
    minute: datetime = NOON,
    requests: int = 1,
    server_errors: int = 0,
    slow: int = 0,
) -> pb.Usage:
    return pb.Usage(
        enterprise=enterprise, time=stamp(minute), requests=requests, server_errors=server_errors, slow=slow
    )


def report(
    number: int, *usages: pb.Usage, replica: str = "a", through: datetime = NOON
) -> pb.RecordUsageRequest:
    return pb.RecordUsageRequest(
        replica=replica, through_time=stamp(through), usages=usages, request_id=str(number)
    )


def send(world: World, *reports: pb.RecordUsageRequest) -> None:
    for each in reports:
        world.as_(gateway()).RecordUsage(each)


def hear(world: World, handler: str, message: Message, *, time: datetime = NOON) -> None:
    """The worker handles an event of TIANSHAN's, told at this time."""
    with world.database.transaction(Tenant(TIANSHAN)) as tx:
        getattr(made_worker(), handler)(tx, Event("id", "type", "s", TIANSHAN, time, message))


def probe(world: World) -> None:
    """The worker hears the latest probe that it has told."""
    told_time = told(world.database, ConsumerProbed)[-1].probe_time.ToDatetime()
    with world.database.transaction(PLATFORM) as tx:
        guardrails.heard(tx, told_time.replace(tzinfo=NOON.tzinfo))


def tell(world: World) -> list[GuardrailMeasured]:
    """A tick later the worker tells; gives what is new."""
    world.clock.advance(TICK)
    before = len(told(world.database, GuardrailMeasured))
    made_worker().tell(world.database)
    return told(world.database, GuardrailMeasured)[before:]


def numbers(events: list[GuardrailMeasured]) -> Numbers:
    """What events come to, for one who replaces what is known."""
    return {
        (event.metric, event.window_start.ToDatetime(tzinfo=NOON.tzinfo), sample.enterprise): (
            sample.count,
            sample.bad,
        )
        for event in events
        for sample in event.samples
    }


def through(events: list[GuardrailMeasured]) -> dict[str, datetime]:
    """Until when each metric is known."""
    return {
        event.metric: event.measured_through.ToDatetime(tzinfo=NOON.tzinfo)
        for event in events
        if event.HasField("measured_through")
    }


# --- what is counted


def test_deliveries__count_in_the_minute_of_their_end(world: World) -> None:
    """Published and failed ones, by the event's time and not by the post's."""
    hear(world, "on_delivery_published", published("1"), time=NOON + timedelta(seconds=59))
    hear(world, "on_delivery_published", published("2"), time=NOON + timedelta(seconds=60))
    hear(world, "on_delivery_failed", FAILED, time=NOON + timedelta(seconds=61))

    assert numbers(tell(world)) == {
        (PUBLISH, NOON, TIANSHAN): (1, 0),
        (PUBLISH, NOON + MINUTE, TIANSHAN): (2, 1),
    }


def test_bindings__are_bad_when_the_network_refuses_the_token(world: World) -> None:
    """A bound account is good; that the network wants a new authorisation is bad."""
    for _ in range(3):
        hear(world, "on_account_bound", AccountBound(account=BRAND))
    hear(world, "on_account_reauth_required", AccountReauthRequired(account=BRAND))

    assert numbers(tell(world)) == {(BINDING, NOON, TIANSHAN): (4, 1)}


def test_requests__count_for_errors_and_for_latency(world: World) -> None:
    """A report adds to what is there, for each enterprise and minute; the minute may be named by any time within it."""
    send(
        world,
        report(1, usage(requests=10, server_errors=2, slow=3), usage(KUNLUN, requests=5)),
        report(
            2, usage(requests=1, slow=1, minute=NOON + timedelta(seconds=30)), usage(minute=NOON + MINUTE)
        ),
    )

    assert numbers(tell(world)) == {
        (ERRORS, NOON, TIANSHAN): (11, 2),
        (ERRORS, NOON, KUNLUN): (5, 0),
        (ERRORS, NOON + MINUTE, TIANSHAN): (1, 0),
        (LATENCY, NOON, TIANSHAN): (11, 4),
        (LATENCY, NOON, KUNLUN): (5, 0),
        (LATENCY, NOON + MINUTE, TIANSHAN): (1, 0),
    }


def test_report__that_names_a_minute_twice__counts_both(world: World) -> None:
    """What belongs together is added up."""
    send(world, report(1, usage(requests=2), usage(requests=3, server_errors=1)))

    assert numbers(tell(world))[ERRORS, NOON, TIANSHAN] == (5, 1)


def test_reports__of_two_replicas__repeated_at_once__are_exact(world: World) -> None:
    """
    Two gateways count the same enterprises; every report is sent up to three times, side by side with the others and
    while the worker tells. The last word on every number is the sum of the different reports.
    """
    random = Random(4)
    reports = [
        report(
            number,
            *(usage(f"enterprises/e{e}", NOON + random.randrange(3) * MINUTE, 2, 1) for e in range(20)),
            replica=replica,
        )
        for replica in ("a", "b")
        for number in range(20)
    ]
    expected: dict[tuple[str, datetime, str], tuple[int, int]] = {}
    for each in (each for report_ in reports for each in report_.usages):
        key = (ERRORS, each.time.ToDatetime(tzinfo=NOON.tzinfo), each.enterprise)
        total, bad = expected.get(key, (0, 0))
        expected[key] = (total + 2, bad + 1)
    sent = [each for each in reports for _ in range(random.randint(1, 3))]
    random.shuffle(sent)

    heard: list[GuardrailMeasured] = []
    with ThreadPoolExecutor(8) as pool:
        for begin in range(0, len(sent), 10):
            done = [pool.submit(world.as_(gateway()).RecordUsage, each) for each in sent[begin : begin + 10]]
            heard += tell(world)
            for each in done:
                each.result()
    heard += tell(world)

    assert {key: value for key, value in numbers(heard).items() if key[0] == ERRORS} == expected


def test_report__is_known_by_its_replica(world: World) -> None:
    """Two gateways may give their reports the same ids; one gateway's id is one report's."""
    send(world, report(1, usage(), replica="a"), report(1, usage(), replica="b"))
    with pytest.raises(grpc.RpcError) as refused:
        send(world, report(1, usage(requests=2), replica="a"))

    assert reason_of(refused.value) == "IDEMPOTENCY_KEY_REUSED"
    assert numbers(tell(world))[ERRORS, NOON, TIANSHAN] == (2, 0)


@pytest.mark.parametrize("principal", [OWNER, operator()], ids=["member", "operator"])
def test_report__only_from_gateways(world: World, principal: Any) -> None:
    """Nobody else may say what was asked of a gateway."""
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(principal).RecordUsage(report(1, usage()))

    assert reason_of(refused.value) == "CALLER_NOT_ALLOWED"


# --- what is told


def test_told__is_what_changed_and_nothing_else(world: World) -> None:
    """A number is told once; one that is added to later is told anew, as a whole, with its own minute."""
    send(world, report(1, usage(requests=3), usage(KUNLUN)))
    first = tell(world)
    send(world, report(2, usage(requests=2, server_errors=1)))
    late = tell(world)
    nothing = tell(world)

    assert numbers(first)[ERRORS, NOON, TIANSHAN] == (3, 0)
    assert numbers(late) == {(ERRORS, NOON, TIANSHAN): (5, 1), (LATENCY, NOON, TIANSHAN): (5, 0)}
    assert numbers(nothing) == {}


def test_told__days_late__with_its_minute(world: World) -> None:
    """Up to 30 days; what is older is passed over, and hinders nothing."""
    world.clock.advance(timedelta(days=30))
    send(world, report(1, usage(minute=NOON), usage(minute=NOON - MINUTE), usage(minute=NOON + MINUTE)))

    assert {minute for _, minute, _ in numbers(tell(world))} == {NOON, NOON + MINUTE}


def test_told__without_samples__is_freshness_alone(world: World) -> None:
    """A quiet time is told too: the metric and until when it is known."""
    send(world, report(1, through=NOON - timedelta(seconds=1)))

    quiet = tell(world)

    assert [event.metric for event in quiet] == [ERRORS, LATENCY]
    assert through(quiet) == dict.fromkeys((ERRORS, LATENCY), NOON - timedelta(seconds=1))
    assert not any(event.samples or event.HasField("window_start") for event in quiet)


def test_told__by_the_first_of_several_workers(world: World) -> None:
    """Two processes with the same timetable tell once."""
    send(world, report(1, usage()))
    world.clock.advance(TICK)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(made_worker().tell, [world.database] * 2))

    assert [event.metric for event in told(world.database, GuardrailMeasured)] == [ERRORS, LATENCY]
    assert len(told(world.database, ConsumerProbed)) == 1


def test_told__with_many_enterprises__in_several_events(world: World) -> None:
    """A thousand samples in an event at most."""
    send(world, report(1, *(usage(f"enterprises/e{number}") for number in range(1_001))))

    events = [event for event in tell(world) if event.metric == ERRORS]

    assert sorted(len(event.samples) for event in events) == [1, 1_000]
    assert len(numbers(events)) == 1_001


def test_backlog__is_told_at_once__and_is_fresh_only_at_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than fits into a transaction: told in several, of which the last one says until when all is known."""
    monkeypatch.setattr(guardrails, "_AT_ONCE", 4)
    send(world, report(1, *(usage(minute=NOON - number * MINUTE) for number in range(5))))

    events = tell(world)

    assert len(numbers(events)) == 10
    assert [event.HasField("measured_through") for event in events] == [False] * 8 + [True] * 2


# --- how fresh it is


def test_freshness__of_gateways__is_of_the_latest_report(world: World) -> None:
    """Of whichever replica; a late report does not set it back, and one that never ends in time does not hold it."""
    send(world, report(1, replica="a", through=NOON - timedelta(seconds=2)))
    send(world, report(1, replica="b", through=NOON - timedelta(seconds=9)))

    assert through(tell(world))[ERRORS] == NOON - timedelta(seconds=2)


def test_freshness__of_silent_gateways__stands_still(world: World) -> None:
    """A gateway that stops to report makes nothing look fresh; a clock that is ahead does not either."""
    send(world, report(1, through=NOON + timedelta(hours=1)))

    assert [through(tell(world))[ERRORS] for _ in range(3)] == [NOON] * 3


def test_freshness__before_any_report__is_not_told(world: World) -> None:
    """Nothing is known of gateways that have never reported, nor of events before one came through."""
    assert tell(world) == []


def test_freshness__of_events__is_of_the_probe_that_came_through(world: World) -> None:
    """Without its consumer the worker goes on to tell, and what it tells gets old."""
    tell(world)
    first = world.clock.now()
    probe(world)
    heard = [through(tell(world)) for _ in range(3)]
    probe(world)

    assert heard == [{PUBLISH: first, BINDING: first}] * 3
    assert through(tell(world)) == {PUBLISH: first + 3 * TICK, BINDING: first + 3 * TICK}


def test_freshness__of_events__numbers_come_before_it_too(world: World) -> None:
    """What is counted before the first probe came back is told without a word on freshness."""
    hear(world, "on_delivery_failed", FAILED)

    (event,) = tell(world)

    assert (numbers([event]), through([event])) == ({(PUBLISH, NOON, TIANSHAN): (1, 1)}, {})


# --- what is kept


def test_purge__forgets_after_30_days(world: World) -> None:
    """Minutes that nothing can be counted in any more."""
    send(world, report(1, usage(minute=NOON), usage(minute=NOON + MINUTE)))
    world.clock.advance(guardrails.KEPT + timedelta(seconds=1))

    made_worker().purge(world.database)

    assert {row["window_start"] for row in world.rows("usage")} == {NOON + MINUTE}


def test_usage__is_seen_by_its_enterprise_only(world: World) -> None:
    """As every table of tenants."""
    send(world, report(1, usage(TIANSHAN), usage(KUNLUN)))

    with world.database.transaction(Tenant(KUNLUN)) as tx:
        assert {row["enterprise"] for row in tx.execute("select enterprise from usage")} == {KUNLUN}


def test_telling__waits_for_nobody_who_counts(world: World) -> None:
    """A handler that has not committed holds nothing up; its number is told the next time."""
    hear(world, "on_delivery_failed", FAILED)
    with world.database.transaction(Tenant(TIANSHAN)) as tx:
        made_worker().on_delivery_failed(tx, Event("id", "type", "s", TIANSHAN, NOON, FAILED))
        with ThreadPoolExecutor(1) as pool:
            during = pool.submit(partial(tell, world)).result(timeout=5)

    assert numbers(during) == {}
    assert numbers(tell(world)) == {(PUBLISH, NOON, TIANSHAN): (2, 2)}
