"""The audit trail: what is written, what stands outside the database, and that no forgery passes."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.chain import GENESIS, Mistake, Verification
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, PUBLIC, Database, Tenant
from services.chassis.testing.databases import TemporaryDatabase
from services.rollout import audit
from services.rollout.audit import AuditEvent, Entry
from services.rollout.tests.tampering import (
    LATER,
    Forger,
    Trail,
    cut,
    delete,
    edit,
    insert,
    reorder,
    reseal,
    tamper_everywhere,
    write_trail,
)

ROLLOUT = "rollouts/edition"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~é"), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from(["a", "b", "/c", "~d", "é"]), json_values, max_size=4)


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """An empty trail."""
    return make_database("rollout", clock=clock)


@pytest.fixture
def anchors(tmp_path: Path) -> Iterator[Path]:
    """Where this process anchors."""
    directory = tmp_path / "anchors"
    audit.anchor_to(directory)
    yield directory
    audit.anchor_to(None)


@pytest.fixture
def trail(database: TemporaryDatabase, tmp_path: Path) -> Trail:
    """Forty events, anchored in `tmp_path / "anchors"`."""
    return write_trail(database, tmp_path / "anchors", 40, random.Random(1))


@pytest.fixture
def forger(database: TemporaryDatabase, tmp_path: Path) -> Iterator[Forger]:
    """A superuser."""
    forger = Forger(database, tmp_path / "anchors")
    yield forger
    forger.close()


def write(
    database: Database, cause: str = "rollout.paused", rollout: str = ROLLOUT, **fields: Any
) -> AuditEvent:
    """Write one event down."""
    fields = {"actor": "clients/operator", "detail": {"reason": "a test"}} | fields
    with database.transaction(PLATFORM) as tx:
        return audit.append(tx, cause=cause, rollout=rollout, **fields)


def verify(database: Database, anchors: Path | None, **options: Any) -> Verification:
    """Verify the trail."""
    with database.transaction(PLATFORM) as tx:
        return audit.verify(tx, anchors, **options)


def everything(database: Database) -> list[AuditEvent]:
    """All events."""
    with database.transaction(PLATFORM) as tx:
        return audit.list_events(tx, None, limit=1000, ascending=True)


def lines(anchors: Path) -> list[dict[str, Any]]:
    """What is anchored, in all files."""
    return [json.loads(line) for path in anchors.iterdir() for line in path.read_text().splitlines()]


# What is written


@pytest.mark.parametrize(
    ("event", "content", "expected"),
    [
        (
            AuditEvent(
                1,
                datetime(2026, 1, 15, 12, tzinfo=UTC),
                "clients/operator",
                "rollout.started",
                "rollouts/edition",
                None,
                {},
                0,
                GENESIS,
                "",
            ),
            (
                '{"actor":"clients/operator","cause":"rollout.started","detail":{},"enterprise":null,"rollout":"rollouts/edition",'
                '"sequence":1,"snapshotVersion":0,"time":"2026-01-15T12:00:00.000000+00:00"}'
            ),
            "d1fefb7f5c48d3293f7c851111ee37c40daad6d9a13115c468c1cc72ac389c70",
        ),
        (
            AuditEvent(
                58,
                datetime(2026, 12, 31, 23, 59, 59, 42, tzinfo=UTC),
                "scheduler",
                "admission.granted",
                "rollouts/版",
                "enterprises/e1",
                {"b": [1, 2.5, True, None], "a": {"ü": '"\\\n'}},
                812,
                "ab" * 32,
                "",
            ),
            (
                '{"actor":"scheduler","cause":"admission.granted","detail":{"a":{"ü":"\\"\\\\\\n"},"b":[1,2.5,true,null]},'
                '"enterprise":"enterprises/e1","rollout":"rollouts/版","sequence":58,"snapshotVersion":812,'
                '"time":"2026-12-31T23:59:59.000042+00:00"}'
            ),
            "7e6375bf67d85cb6c92be75973a8249ea6e936adbd23829a4c1d3b3d4e047b6a",
        ),
    ],
)
def test_hash__golden_vectors(event: AuditEvent, content: str, expected: str) -> None:
    """The form is frozen: what was sealed once verifies for ever, with any tool that knows SHA-256."""
    assert audit.hash_of(event) == expected
    assert hashlib.sha256((event.previous_hash + content).encode()).hexdigest() == expected


def test_append__makes_a_chain(database: TemporaryDatabase, clock: FixedClock) -> None:
    """Numbers follow each other over transactions, each event carries the hash before it, and what is read is what was written."""
    first = write(database, enterprise="enterprises/e1", snapshot_version=3)
    with database.transaction(PLATFORM) as tx:
        more = audit.append_all(tx, [Entry("scheduler", f"cause {n}", ROLLOUT) for n in range(3)])
        assert audit.append_all(tx, []) == []

    written = [first, *more]
    assert [event.sequence for event in written] == [1, 2, 3, 4]
    assert [event.previous_hash for event in written] == [GENESIS, *(event.hash for event in written[:-1])]
    assert (first.time, first.enterprise, first.snapshot_version) == (clock.now(), "enterprises/e1", 3)
    assert first.detail == {"reason": "a test"}
    assert everything(database) == written


def test_append__any_detail__verifies(database: TemporaryDatabase, anchors: Path) -> None:
    """The database writes some numbers in its own way; the hash is of what it gives back."""

    @settings(max_examples=150)
    @given(st.lists(json_objects, min_size=1, max_size=3))
    def check(details: list[dict[str, Any]]) -> None:
        with database.transaction(PLATFORM) as tx:
            written = audit.append_all(tx, [Entry("a", "c", ROLLOUT, detail=detail) for detail in details])
            assert audit.list_events(tx, None, limit=len(details)) == written[::-1]

    check()
    verification = verify(database, anchors)
    assert verification.ok
    assert verification.checked >= 150


def test_append__at_once__leaves_no_gap(database: TemporaryDatabase, anchors: Path) -> None:
    """Eight threads write at the same time: every number once, one chain, all of it covered."""
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: write(database).sequence, range(80)))

    assert sorted(numbers) == list(range(1, 81))
    assert verify(database, anchors, grace=timedelta()) == Verification(80, 80, 80, ())


def test_append__rolled_back__leaves_nothing(database: TemporaryDatabase, anchors: Path) -> None:
    """Neither an event nor an anchor of something that was not committed."""
    with pytest.raises(psycopg.errors.DivisionByZero), database.transaction(PLATFORM) as tx:  # noqa: PT012 -- one by one
        audit.append(tx, actor="a", cause="c", rollout=ROLLOUT, detail={})
        tx.execute("select 1 / 0")
    assert everything(database) == []
    assert lines(anchors) == []


def test_append__in_a_tenants_transaction__is_refused(database: TemporaryDatabase) -> None:
    """It would not see the newest event; nor could it verify."""
    for scope in (Tenant("enterprises/e1"), PUBLIC):
        with database.transaction(scope) as tx:
            with pytest.raises(ValueError, match="PLATFORM"):
                audit.append(tx, actor="a", cause="c", rollout=ROLLOUT, detail={})
            with pytest.raises(ValueError, match="PLATFORM"):
                audit.verify(tx, None)


@pytest.mark.parametrize(
    "statement",
    ["update audit_events set actor = 'x'", "delete from audit_events", "truncate audit_events"],
)
def test_service__can_only_append(database: TemporaryDatabase, statement: str) -> None:
    """The service's own role may not change or remove what is written."""
    write(database)
    with pytest.raises(psycopg.errors.InsufficientPrivilege), database.transaction(PLATFORM) as tx:
        tx.execute(statement)


def test_tenants__see_what_concerns_them_only(database: TemporaryDatabase) -> None:
    """Events of other enterprises, and of none, are not theirs."""
    for enterprise in ("enterprises/e1", "enterprises/e2", None):
        write(database, enterprise=enterprise)
    for scope, expected in ((Tenant("enterprises/e1"), ["enterprises/e1"]), (PUBLIC, [])):
        with database.transaction(scope) as tx:
            assert [event.enterprise for event in audit.list_events(tx, None, limit=10)] == expected


def test_list__pages_both_ways(database: TemporaryDatabase) -> None:
    """Newest first before a number, or oldest first behind it; of one rollout or of all."""
    for number in range(1, 7):
        write(database, rollout=f"rollouts/r{number % 2}")
    with database.transaction(PLATFORM) as tx:

        def numbers(rollout: str | None, **options: Any) -> list[int]:
            return [event.sequence for event in audit.list_events(tx, rollout, limit=2, **options)]

        assert numbers(None) == [6, 5]
        assert numbers(None, after=5) == [4, 3]
        assert numbers(None, ascending=True) == [1, 2]
        assert numbers(None, after=2, ascending=True) == [3, 4]
        assert numbers("rollouts/r1") == [5, 3]
        assert numbers("rollouts/r1", after=3) == [1]
        assert numbers("rollouts/r0", after=2, ascending=True) == [4, 6]
        assert numbers("rollouts/other") == []


def test_watchers__are_woken(database: TemporaryDatabase) -> None:
    """Who waits for events is woken by the commit of one."""
    with database.changes_listener().subscribe(audit.WAKES) as subscription:
        assert subscription.wait(10), "the listener wakes all when it begins"
        subscription.clear()
        write(database)
        assert subscription.wait(10)


# Anchors


def test_anchors__one_line_for_each_transaction(
    database: TemporaryDatabase, anchors: Path, clock: FixedClock
) -> None:
    """The newest event's number, hash and the time, in a file of this process."""
    first = write(database)
    clock.advance(timedelta(seconds=1))
    with database.transaction(PLATFORM) as tx:
        last = audit.append_all(tx, [Entry("a", "c", ROLLOUT)] * 3)[-1]
        assert len(lines(anchors)) == 1, "nothing is anchored before the commit"

    assert lines(anchors) == [
        {"sequence": 1, "hash": first.hash, "time": "2026-01-15T12:00:00+00:00"},
        {"sequence": 4, "hash": last.hash, "time": "2026-01-15T12:00:01+00:00"},
    ]
    assert verify(database, anchors, grace=timedelta()) == Verification(4, 4, 4, ())


def test_anchors__of_several_processes__share_a_directory(database: TemporaryDatabase, anchors: Path) -> None:
    """Each start writes a file of its own, and verifying reads all of them."""
    write(database)
    audit.anchor_to(anchors)
    write(database)

    assert sorted(len(path.read_text().splitlines()) for path in anchors.iterdir()) == [1, 1]
    assert verify(database, anchors) == Verification(2, 2, 2, ())


@pytest.mark.parametrize("covered_by", ["anchor_head", "append"])
def test_anchors__process_died_before_it_anchored__is_made_up_for(
    database: TemporaryDatabase, anchors: Path, clock: FixedClock, covered_by: str
) -> None:
    """Its event is told as not covered; the next process to start, or the next event, covers it."""
    write(database)
    audit.anchor_to(None)
    clock.advance(timedelta(hours=1))
    write(database)
    write(database)
    assert verify(database, anchors).ok, "it may be about to be anchored"
    clock.advance(timedelta(hours=1))
    assert verify(database, anchors) == Verification(
        3, 3, 1, (Mistake(2, "is covered by no anchor, nor is what follows"),)
    )

    audit.anchor_to(anchors)
    if covered_by == "append":
        write(database)
    else:
        with database.transaction(PLATFORM) as tx:
            audit.anchor_head(tx)
            audit.anchor_head(tx)
    verification = verify(database, anchors, grace=timedelta())
    assert verification.ok
    assert verification.anchored == verification.head
    assert len(lines(anchors)) == 2


def test_anchor_head__of_an_empty_trail__is_nothing(database: TemporaryDatabase, anchors: Path) -> None:
    """Nothing to anchor, nothing to complain of."""
    with database.transaction(PLATFORM) as tx:
        audit.anchor_head(tx)
    assert lines(anchors) == []
    assert verify(database, anchors) == Verification(0, 0, 0, ())


def test_anchors__none__is_a_mistake(database: TemporaryDatabase, tmp_path: Path) -> None:
    """No directory, a missing one, or one without anchors does not pass as soon as there is an event."""
    (tmp_path / "empty").mkdir()
    places = [None, tmp_path / "missing", tmp_path / "empty"]
    assert all(verify(database, place).ok for place in places)
    write(database)
    for place in places:
        assert verify(database, place).mistakes == (Mistake(0, "there are events, and no anchors"),)


def test_anchors__cannot_be_written__does_not_undo_what_is_committed(
    database: TemporaryDatabase, anchors: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The event stands, the failure is logged, and the next anchor covers it."""
    away = anchors.rename(anchors.with_name("away"))
    write(database)
    assert verify(database, anchors).mistakes
    away.rename(anchors)
    write(database)
    assert verify(database, anchors) == Verification(2, 2, 2, ())


def test_anchors__half_a_line__is_passed_over(database: TemporaryDatabase, anchors: Path) -> None:
    """A process that dies while it writes leaves half a line at the end; anything else that is no anchor is told."""
    write(database)
    (file,) = anchors.iterdir()
    with file.open("a") as half:
        half.write('{"hash": "12')
    assert verify(database, anchors).ok
    for other in ("not JSON", "[]", '{"sequence": "1", "hash": "x"}', '{"hash": "x"}'):
        file.with_name("other.jsonl").write_text(other + "\n")
        assert verify(database, anchors).mistakes == (Mistake(0, "line 1 of other.jsonl is no anchor"),)


def test_anchor_to__where_nothing_can_be_written__is_refused_at_the_start(tmp_path: Path) -> None:
    """A directory that cannot be is found out when the process starts, not at the first event."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        audit.anchor_to(tmp_path / "file" / "anchors")


# Forgeries


@pytest.mark.parametrize("kind", [edit, delete, insert, reorder, cut])
def test_forgery__is_found(trail: Trail, forger: Forger, kind: Callable[..., None]) -> None:
    """At the beginning, in the middle, at the end; with all hashes computed anew, and without."""
    for place in (0, 17, 39):
        for resealed in (False, True):
            forged = list(trail)
            kind(forged, place, random.Random(place))
            if resealed:
                reseal(forged)
            assert forger.verified(trail, forged).mistakes, (place, resealed)


def test_forgery__is_told_by_event(trail: Trail, forger: Forger) -> None:
    """One mistake for one edit, at the event; what follows is not blamed."""
    forged = list(trail)
    edit(forged, 17, random.Random(1))
    edit(forged, 30, random.Random(1))
    what = "is not what was written: its hash is another"
    assert forger.verified(trail, forged) == Verification(40, 40, 40, (Mistake(18, what), Mistake(31, what)))

    forged = list(trail)
    delete(forged, 17, random.Random(1))
    missing, loose = "follows 17: events are missing, or were put in", "does not continue the one before it"
    expected = Verification(39, 40, 40, (Mistake(19, missing), Mistake(19, loose)))
    assert forger.verified(trail, forged) == expected


def test_forgery__put_in_at_the_end__is_found(trail: Trail, forger: Forger) -> None:
    """An event without a flaw behind the last one: no anchor covers it."""
    forged = list(trail)
    insert(forged, 40, random.Random(1))
    reseal(forged)
    assert forger.verified(trail, forged) == Verification(
        41, 41, 40, (Mistake(41, "is covered by no anchor, nor is what follows"),)
    )


def test_forgery__everything_written_anew__is_found(trail: Trail, forger: Forger) -> None:
    """A trail that is right in itself and another one than was anchored; it ends with as many mistakes as are asked for."""
    forged = list(trail)
    edit(forged, 0, random.Random(1))
    reseal(forged)
    verification = forger.verified(trail, forged, most=3)
    assert [mistake.what for mistake in verification.mistakes] == ["is not what was anchored"] * 3
    assert verification.checked < 40


def test_forgery__all_events_gone__is_found(trail: Trail, forger: Forger) -> None:
    """The anchors remember."""
    assert forger.verified(trail, []).mistakes == (
        Mistake(0, "is the last, but events up to 40 were anchored"),
    )


@pytest.mark.parametrize(
    "statement",
    [
        """
        alter table audit_events drop constraint audit_events_pkey;
        insert into audit_events select * from audit_events where sequence = 20
        """,
        """
        alter table audit_events drop constraint audit_events_pkey;
        alter table audit_events alter sequence drop not null;
        update audit_events set sequence = null where sequence = 40
        """,
        "update audit_events set time = 'infinity' where sequence = 20",
        "update audit_events set time = '20000-01-01' where sequence = 40",
        "update audit_events set detail = ('[' || repeat('9', 5000) || ']')::jsonb where sequence = 20",
        "update audit_events set detail = (repeat('[', 3000) || repeat(']', 3000))::jsonb where sequence = 20",
        "update audit_events set hash = upper(hash) where sequence = 40",
        "alter table audit_events alter actor drop not null; update audit_events set actor = null where sequence = 20",
    ],
)
def test_forgery__of_what_a_superuser_alone_can_write__is_found(
    database: TemporaryDatabase, clock: FixedClock, trail: Trail, tmp_path: Path, statement: str
) -> None:
    """Without the table's constraints, and with values that Python cannot read: a mistake, not a crash."""
    with psycopg.connect(database.admin_url, options="-c search_path=rollout") as superuser:
        superuser.execute(statement)
    clock.advance(LATER)
    assert verify(database, tmp_path / "anchors").mistakes


def test_forgeries__anywhere__are_all_found(database: TemporaryDatabase, tmp_path: Path) -> None:
    """Edit, delete, insert, reorder, cut; 20 places each, half of them with all hashes computed anew."""
    outcome = tamper_everywhere(database, tmp_path / "all", 20, events=200)
    assert (outcome.found, outcome.total, outcome.missed) == (100, 100, ())


# Patches


def applied(operations: list[dict[str, Any]], document: dict[str, Any]) -> dict[str, Any]:
    """The document after a JSON Patch of objects."""
    result: dict[str, Any] = json.loads(json.dumps(document))
    for each in operations:
        *path, key = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]]
        target = result
        for part in path:
            target = target[part]
        assert target.pop(key, None) == each.get("before")
        if each["op"] != "remove":
            target[key] = each["value"]
    return result


@given(json_objects, json_objects)
def test_patch__leads_from_before_to_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Applied to what was there it gives what is there; and it is empty only when nothing changed."""
    operations = audit.patch(before, after)
    assert applied(operations, before) == after
    assert bool(operations) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))


def test_patch__tells_what_was_there() -> None:
    """In the form of RFC 6902, with what was there before."""
    before = {"state": "RUNNING", "stage": {"id": "a", "quota": 1}, "killed": 1}
    after = {"state": "PAUSED", "stage": {"id": "a", "quota": 2}, "killed": True, "cause": "USER"}
    assert audit.patch(before, after) == [
        {"op": "add", "path": "/cause", "value": "USER"},
        {"op": "replace", "path": "/killed", "before": 1, "value": True},
        {"op": "replace", "path": "/stage/quota", "before": 1, "value": 2},
        {"op": "replace", "path": "/state", "before": "RUNNING", "value": "PAUSED"},
    ]
