"""Questions, as they are asked: numbers with their definitions, pages, freshness, and what is refused."""

from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.analytics.v1 import analytics_pb2 as pb

from services.analytics.model import METRICS, Kind
from services.analytics.tests.world import APP, NOON, TIANSHAN, World, fact, post, repost
from services.chassis.errors import Kind as ErrorKind
from services.chassis.errors import ServiceError
from services.chassis.paging import encode_token
from services.chassis.testing.outcomes import field_reasons_of, reason_of
from services.chassis.testing.rpc import anonymous, client, operator


def at(seconds: float) -> Timestamp:
    """A moment so many seconds after noon."""
    stamp = Timestamp()
    stamp.FromDatetime(NOON + timedelta(seconds=seconds))
    return stamp


def rows(response: pb.QueryMetricsResponse) -> list[tuple[list[str], list[float]]]:
    return [(list(row.dimensions), list(row.values)) for row in response.rows]


def test_ask__what_was_just_accepted__is_in(world: World) -> None:
    """A question sees what was answered for before it, and says until when."""
    for number in range(5):
        world.ingest([post("p"), repost(f"r{number}")])
        answer = world.ask(["reposts"])
        assert rows(answer) == [([], [number + 1])]
        assert answer.fresh_time.ToDatetime(tzinfo=NOON.tzinfo) == world.clock.now()


def test_ask__of_nobody__is_zero(world: World) -> None:
    """Where nothing happened every number is 0, and there are no rows by dimension."""
    answer = world.ask(list(METRICS))

    assert rows(answer) == [([], [0.0] * len(METRICS))]
    assert rows(world.ask(["reach"], ["day"])) == []


def test_ask__by_minute_in_a_range(world: World) -> None:
    """The beginning counts, the end does not; minutes are told in UTC."""
    world.ingest([post("p"), *(repost(f"r{n}", seconds=30 * n) for n in range(1, 7))])

    answer = world.ask(["reposts", "posts"], ["minute"], start_time=at(30), end_time=at(150))

    assert rows(answer) == [
        (["2026-01-15T12:00:00Z"], [1, 0]),
        (["2026-01-15T12:01:00Z"], [2, 0]),
        (["2026-01-15T12:02:00Z"], [1, 0]),
    ]


def test_ask__time_range__is_exact_to_the_microsecond(world: World) -> None:
    """A fact at the beginning counts, one a microsecond before does not."""
    world.remember([fact("a", time=NOON), fact("b", time=NOON + timedelta(microseconds=1))])

    assert world.number("reposts", start_time=at(0.000_001)) == 1
    assert world.number("reposts", end_time=at(0.000_001)) == 1
    assert world.number("reposts", start_time=at(0), end_time=at(0.000_002)) == 2
    assert (
        world.number(
            "reposts",
            start_time=Timestamp(seconds=-62_135_596_800),
            end_time=Timestamp(seconds=253_402_300_799),
        )
        == 2
    )


def test_ask__people__are_counted_once_and_nobody_is_nobody(world: World) -> None:
    """Reach counts each person once over all kinds, and none whom we do not know."""
    world.remember(
        [
            fact("1", Kind.REPOST, person="a"),
            fact("2", Kind.COMMENT, person="a"),
            fact("3", Kind.EXPOSURE, person="b"),
            fact("4", Kind.EXPOSURE, person="a"),
            fact("5", Kind.MENTION),
        ]
    )

    metrics = ["engagements", "engaged_people", "reach", "exposures"]
    assert rows(world.ask(metrics)) == [([], [3, 1, 2, 2])]


def test_ask__filters__must_all_hold(world: World) -> None:
    """Of one filter any value, of several all."""
    world.ingest([post(p) for p in "abc"] + [repost(f"{p}{n}", p, 60 * n) for p in "abc" for n in range(3)])

    filters = [
        pb.Filter(dimension="post", values=["a", "b", "z"]),
        pb.Filter(dimension="minute", values=["2026-01-15T12:01:00Z"]),
    ]
    assert rows(world.ask(["reposts"], ["post"], filters=filters)) == [(["a"], [1]), (["b"], [1])]


def test_ask__pages__are_of_the_moment_of_the_first(world: World) -> None:
    """What comes in between two pages changes neither rows nor numbers nor the moment."""
    world.ingest([post(f"p{n}") for n in range(5)])
    first = world.ask(["posts"], ["post"], page_size=2)
    seen, token = rows(first), first.next_page_token
    while token:
        world.clock.advance(timedelta(minutes=1))
        world.ingest([post(f"p{len(seen)}-new"), post("a-new")])
        page = world.ask(["posts"], ["post"], page_size=2, page_token=token)
        assert page.fresh_time == first.fresh_time
        seen, token = seen + rows(page), page.next_page_token

    assert seen == [([f"p{n}"], [1]) for n in range(5)]
    assert len(world.ask(["posts"], ["post"]).rows) == 8


def test_ask__token_of_another_question__is_refused(world: World) -> None:
    """A page goes on with its own question."""
    world.ingest([post("a"), post("b")])
    token = world.ask(["posts"], ["post"], page_size=1).next_page_token

    with pytest.raises(grpc.RpcError) as refused:
        world.ask(["reposts"], ["post"], page_size=1, page_token=token)

    assert field_reasons_of(refused.value) == {"page_token": "PAGE_TOKEN_INVALID"}


@pytest.mark.parametrize("key", [(-1, 1, 1), (1, -1, 1), (1, 1, 1 << 62), (1, 1), ("1", 1, 1)])
def test_ask__token_that_somebody_has_made__is_refused(world: World, key: tuple[int, ...]) -> None:
    """What no page ends with is no place to go on from."""
    question = pb.QueryMetricsRequest(parent=TIANSHAN, metrics=["posts"], dimensions=["post"])

    with pytest.raises(grpc.RpcError) as refused:
        world.ask(["posts"], ["post"], page_token=encode_token(key, query=question))

    assert field_reasons_of(refused.value) == {"page_token": "PAGE_TOKEN_INVALID"}


def test_ask__store_behind__says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store cannot take facts in, answers do not claim to be fresh; when it can, all are there."""
    held = ServiceError(ErrorKind.UNAVAILABLE, "FACTS_UNAVAILABLE", "a full disk")
    apply = world.columns.apply
    failing = True

    def sometimes(changes) -> None:
        if failing:
            raise held
        apply(changes)

    monkeypatch.setattr(world.follower, "_apply", sometimes)
    world.ingest([post("p")])
    answer = world.ask(["posts"])
    assert (rows(answer), answer.HasField("fresh_time")) == ([([], [0])], False)
    failing = False

    assert world.follower.caught_up(world.newest(), 10)
    assert world.number("posts") == 1


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"metrics": []}, {"metrics": "REQUIRED"}),
        ({"metrics": ["reach", "luck"]}, {"metrics[1]": "UNKNOWN_METRIC"}),
        ({"dimensions": ["weather"]}, {"dimensions[0]": "UNKNOWN_DIMENSION"}),
        ({"dimensions": ["day", "post", "kind", "hour"]}, {"dimensions": "TOO_MANY"}),
        ({"dimensions": ["day", "day"]}, {"dimensions": "DIMENSION_REPEATED"}),
        (
            {"filters": [pb.Filter(dimension="id", values=["x"])]},
            {"filters[0].dimension": "UNKNOWN_DIMENSION"},
        ),
        ({"filters": [pb.Filter(dimension="post")]}, {"filters[0].values": "REQUIRED"}),
        ({"start_time": at(5), "end_time": at(5)}, {"end_time": "TIME_RANGE_EMPTY"}),
        ({"page_size": -1}, {"page_size": "INVALID"}),
    ],
)
def test_ask__wrong__names_the_field(world: World, fields, wrong: dict[str, str]) -> None:
    """What does not exist, or is too much, is said by its place."""
    with pytest.raises(grpc.RpcError) as refused:
        world.ask(**fields)

    assert field_reasons_of(refused.value) == wrong


def test_ask__who_may(world: World) -> None:
    """Members and apps with the scope."""
    assert rows(world.ask(["reach"], (), APP)) == [([], [0])]
    for reason, principal in {
        "SCOPE_MISSING": client(TIANSHAN, ["engagements.write"]),
        "CALLER_NOT_ALLOWED": operator(),
        "CREDENTIALS_MISSING": anonymous(),
    }.items():
        with pytest.raises(grpc.RpcError) as refused:
            world.ask(["reach"], (), principal, parent=TIANSHAN)
        assert reason_of(refused.value) == reason


def test_metrics__are_listed_for_everybody(world: World) -> None:
    """The registry, in pages, each with what it means and its unit."""
    stub, listed, token = world.as_(anonymous()), [], ""
    while True:
        page = stub.ListMetrics(pb.ListMetricsRequest(page_size=4, page_token=token))
        listed += page.metrics
        token = page.next_page_token
        if not token:
            break

    assert [each.name for each in listed] == list(METRICS)
    assert all(each.description and each.unit and each.version for each in listed)
