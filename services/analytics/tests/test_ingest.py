"""Files of engagement: each line is judged by what came before it, counts once, and is answered for."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numerator.analytics.v1 import analytics_pb2 as pb

from services.analytics import rpc, store, usecases
from services.analytics.model import Kind, fact_of_line
from services.analytics.tests.plain import Plain
from services.analytics.tests.world import (
    APP,
    NOON,
    OWNER,
    TIANSHAN,
    World,
    fact,
    new_enterprise,
    post,
    raw,
    repost,
)
from services.chassis.database import Tenant
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.outcomes import field_reasons_of, reason_of
from services.chassis.testing.rpc import client, member, operator


def told(report: pb.IngestEngagementsResponse) -> dict[str, int]:
    """A report, without what is zero."""
    counts = {
        "accepted": report.accepted_count,
        "duplicates": report.duplicate_count,
        "orphans": report.orphan_count,
        **report.rejected_by_reason,
    }
    assert report.rejected_count == sum(report.rejected_by_reason.values())
    return {name: count for name, count in counts.items() if count}


NAMES = st.sampled_from(["a", "b", "c", "post:a", "越"])
SECONDS = st.integers(0, 3)
KINDS = st.sampled_from(["repost", "comment", "favourite"])
LINES = st.lists(
    st.builds(post, NAMES, SECONDS)
    | st.builds(repost, NAMES, NAMES, SECONDS, parent=st.none() | NAMES, type=KINDS),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(files=st.lists(LINES, min_size=1, max_size=3), cut=st.integers(1, 10))
def test_take_in__any_files_in_any_parts__as_a_plain_count(
    database: TemporaryDatabase, files: list[list[dict[str, Any]]], cut: int
) -> None:
    """Repeated ids, unknown posts, times before the post, parents anywhere: the counts of a plain loop over the lines."""
    enterprise, plain = new_enterprise(), Plain()
    for lines in files:
        facts = [(number, fact_of_line(line)) for number, line in enumerate(lines, start=1)]
        report = usecases.Report()
        for first in range(0, len(facts), cut):
            with database.transaction(Tenant(enterprise)) as tx:
                usecases.take_in(tx, enterprise, facts[first : first + cut], report)
        with database.transaction(Tenant(enterprise)) as tx:
            usecases.count_orphans(tx, enterprise, report)
            logged = [json.loads(change.body)["rows"] for change in tx.changes(store.FACTS, after=0)]
        counts = {"accepted": report.accepted, "duplicates": report.duplicates, "orphans": report.orphans}
        assert {k: v for k, v in {**counts, **report.rejected}.items() if v} == plain.read(lines)
    ids = [row[0] for rows in logged for row in rows]
    assert len(ids) == len(set(ids)) == len(plain.ids)


def test_ingest__real_life__is_answered_line_by_line(world: World) -> None:
    """What was taken in, what was known, what was skipped and why, by the numbers of the lines."""
    lines = [
        post("p"),
        repost("r1"),
        repost("r2", parent="r1"),
        repost("r3", parent="gone"),
        repost("r1"),
        repost("r4", "nowhere"),
        repost("r5", seconds=-1),
        {"type": "repost", "post": "p", "user": "u", "time": 0},
        repost("r6", type="hug"),
    ]
    report = world.ingest(raw(lines) + b"{broken\n" + b"x" * 70_000 + b"\n" + raw([repost("r7")]))

    assert told(report) == {
        "accepted": 5,
        "duplicates": 1,
        "orphans": 1,
        "UNKNOWN_POST": 1,
        "TIME_BEFORE_POST": 1,
        "MISSING_FIELD": 1,
        "BAD_VALUE": 1,
        "MALFORMED_JSON": 1,
        "LINE_TOO_LONG": 1,
    }
    assert [(each.line, each.reason) for each in report.problems] == [
        (6, "UNKNOWN_POST"), (7, "TIME_BEFORE_POST"), (8, "MISSING_FIELD"), (9, "BAD_VALUE"),
        (10, "MALFORMED_JSON"), (11, "LINE_TOO_LONG"),
    ]  # fmt: skip
    assert "nowhere" in report.problems[0].description
    assert NOON.isoformat() in report.problems[1].description
    assert world.number("reposts") == 4


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_ingest__again__changes_nothing(world: World, piece: int) -> None:
    """However the bytes are cut: all are duplicates, the log and the numbers stay, and an orphan is told once."""
    lines = [post("p"), *(repost(f"r{n}", parent="gone" if n == 3 else None) for n in range(10))]
    assert told(world.ingest(lines, piece=piece)) == {"accepted": 11, "orphans": 1}
    newest = world.newest()

    assert told(world.ingest(lines, piece=piece)) == {"duplicates": 11}

    assert world.newest() == newest
    assert world.number("reposts") == 10


def test_ingest__order_within_a_file__counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line before its post is refused wherever the file is cut; sent again, when the post is known, it counts."""
    monkeypatch.setattr(rpc, "_BATCH", 2)
    lines = [repost("early"), post("p"), repost("late")]

    assert told(world.ingest(lines)) == {"accepted": 2, "UNKNOWN_POST": 1}
    assert told(world.ingest(lines)) == {"accepted": 1, "duplicates": 2}


def test_ingest__parent_later_in_the_file__is_no_orphan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come in no order: only what is unknown at their end is an orphan, and a rejected line is unknown."""
    monkeypatch.setattr(rpc, "_BATCH", 2)
    lines = [
        post("p"),
        repost("r1", parent="r2"),
        repost("r3", parent="refused"),
        repost("refused", "nowhere"),
        repost("r2"),
        repost("r4", parent="p"),
    ]

    assert told(world.ingest(lines)) == {"accepted": 5, "UNKNOWN_POST": 1, "orphans": 2}


def test_ingest__about_a_post_of_ours__knows_its_publication(world: World) -> None:
    """A post that we published is known, and what people did with it counts for the publication and the account."""
    name = f"{TIANSHAN}/publications/1"
    ours = fact("post:77", Kind.POST, post="77", publication=name, account=f"{TIANSHAN}/accounts/brand")
    with world.database.transaction(Tenant(TIANSHAN)) as tx:
        usecases.remember_post(tx, TIANSHAN, ours)

    assert told(world.ingest([post("77", -60), repost("r", "77")])) == {"accepted": 1, "duplicates": 1}

    rows = world.ask(["posts", "reposts"], ["publication", "account"]).rows
    assert [(list(row.dimensions), list(row.values)) for row in rows] == [
        ([name, f"{TIANSHAN}/accounts/brand"], [1, 1])
    ]


def test_ingest__before_we_told_of_the_post__learns_it_later(world: World) -> None:
    """A file may know a post before publishing's event comes; from then on engagement counts for the publication."""
    name = f"{TIANSHAN}/publications/1"
    world.ingest([post("77"), repost("r1", "77")])
    with world.database.transaction(Tenant(TIANSHAN)) as tx:
        usecases.remember_post(
            tx, TIANSHAN, fact("post:77", Kind.POST, NOON, post="77", publication=name, account="a")
        )

    world.ingest([repost("r2", "77")])

    assert world.number("posts") == 1
    publications = {row.dimensions[0]: row.values[0] for row in world.ask(["reposts"], ["publication"]).rows}
    assert publications == {"": 1, name: 1}


def test_ingest__two_files_at_once__count_each_event_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same events in another order, from two apps at the same time: neither fails, and nothing counts twice."""
    monkeypatch.setattr(rpc, "_BATCH", 5)
    lines = [post("p"), *(repost(f"r{n}") for n in range(60))]
    start = threading.Barrier(2)

    def send(part: list[dict[str, Any]]) -> pb.IngestEngagementsResponse:
        start.wait(10)
        return world.ingest(part)

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(send, [lines, [lines[0], *reversed(lines[1:])]]))

    assert sum(report.accepted_count for report in reports) == 61
    assert sum(report.duplicate_count for report in reports) == 61
    assert world.number("reposts") == 60


@pytest.mark.parametrize("whole", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_ingest__nothing__is_nothing(world: World, whole: bytes) -> None:
    """An empty file is a file."""
    assert world.ingest(whole) == pb.IngestEngagementsResponse()


def test_ingest__no_message__names_the_parent(world: World) -> None:
    """A stream without a message says not even whose it is."""
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(OWNER).IngestEngagements(iter([]))

    assert field_reasons_of(refused.value) == {"parent": "REQUIRED"}


def test_ingest__tells_a_hundred_problems_and_counts_all(world: World) -> None:
    """A file of nothing but mistakes does not make an answer without end."""
    report = world.ingest(b"[]\n" * 250)

    assert told(report) == {"MALFORMED_JSON": 250}
    assert [each.line for each in report.problems] == list(range(1, 101))


def test_ingest__who_may(world: World) -> None:
    """Members who work with numbers or posts, and apps with the scope; nobody else."""
    assert told(world.ingest([post("p")], APP)) == {"accepted": 1}
    refusals = {
        "ROLE_MISSING": member(TIANSHAN, ["RESPONDER"]),
        "SCOPE_MISSING": client(TIANSHAN, ["analytics.read"]),
        "CALLER_NOT_ALLOWED": operator(),
    }
    for reason, principal in refusals.items():
        with pytest.raises(grpc.RpcError) as refused:
            world.ingest([post("p")], principal, TIANSHAN)
        assert reason_of(refused.value) == reason


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase]) -> TemporaryDatabase:
    """An empty database; one for all examples of a property."""
    return make_database("analytics")
