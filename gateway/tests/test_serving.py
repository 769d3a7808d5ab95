"""What is served: documents that are taken whole or not at all, tables that follow from each other, knowledge that grows old."""

import json
import time
from datetime import timedelta

import pytest
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import Reason

from gateway import serving as subject
from gateway.serving import NO_ADMISSIONS, NO_SNAPSHOT, BadSnapshotError, Knowledge, unpack
from gateway.tests.snapshots_made import FLAG, document, enterprise, envelope, flag, knowing, record, rollout
from services.chassis.buckets import bucket_of

IN = "enterprises/in"


# --- the document


def test_unpack__what_it_says():
    """Version, flags, stages with their limits, next steps."""
    stage = rollout(requestsPerMinute=30, boundAccounts=20)
    snapshot = unpack(envelope(document(812, rollouts={FLAG: stage})))

    assert (snapshot.version, list(snapshot.flags)) == (812, [FLAG])
    assert snapshot.rollouts[FLAG].limits.requests_per_minute == 30
    assert snapshot.rollouts[FLAG].limits.live_placements == 0
    assert snapshot.next_step("NOT_ON_THE_LIST", IN) == (
        "Ask for verification with POST /v1/enterprises/in:requestVerification."
    )
    assert snapshot.next_step("UNHEARD_OF", IN) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"document": envelope(document()).document[:-5]},
        {"document": b"no zlib"},
        {"document": b""},
        {"version": 2},
    ],
)
def test_unpack__damage(change):
    """Wrong hash, cut or foreign bytes, another version: refused."""
    damaged = envelope(document())
    for field, value in change.items():
        setattr(damaged, field, value)

    with pytest.raises(BadSnapshotError):
        unpack(damaged)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1"},
        {"version": True},
        {"version": -1},
        {"flags": None},
        {"flags": {}},
        {"flags": {"flags": []}},
        {"flags": {"flags": {FLAG: None}}},
        {"flags": {"flags": {FLAG: flag({"fractional": []})}}},
        {"rollouts": None},
        {"rollouts": {FLAG: {}}},
        {"rollouts": {FLAG: {**rollout(), "killed": "no"}}},
        {"rollouts": {FLAG: {**rollout(), "limits": {"requestsPerMinute": -1}}}},
        {"rollouts": {FLAG: {**rollout(), "limits": {"requestsPerMinute": 1.5}}}},
        {"buckets": {"panel": 1}},
        {"buckets": []},
        {"nextSteps": None},
        {"nextSteps": {"NOT_VERIFIED": 1}},
    ],
)
def test_unpack__another_form(change):
    """What has not the form of a snapshot is refused whole; so is one flag that may not be served."""
    made = envelope({**document(), **change})
    made.version = 1 if "version" in change else made.version

    with pytest.raises(BadSnapshotError, match=r"form|flag"):
        unpack(made)


def test_unpack__too_long(monkeypatch):
    """A document that unpacks to more than we hold is refused before it is held."""
    monkeypatch.setattr(subject, "MOST_BYTES", 100)

    with pytest.raises(BadSnapshotError, match="longer"):
        unpack(envelope(document()))


def test_unpack__compiles_only_what_changed():
    """Flags that are as before are the same objects; one that changed is not."""
    panel, other = flag({"if": [{"var": "verified"}, "on", "off"]}), flag()
    first = unpack(envelope(document(1, flags={"panel": panel, "other": other})))
    second = unpack(envelope(document(2, flags={"panel": flag(), "other": other})), first)

    assert second.flags["other"] is first.flags["other"]
    assert second.flags["panel"] is not first.flags["panel"]
    assert second.flags["panel"].definition == flag()


# --- the table


def test_table__follows():
    """A change makes a new table; the old one stays as it was; a record without a state is gone."""
    before = NO_ADMISSIONS.changed(
        1, "a", [record("ACTIVE"), record("ACTIVE", "enterprises/b")], [enterprise(IN)]
    )

    after = before.changed(
        2,
        "b",
        [record("SUSPENDED", reason="R"), record("", "enterprises/b")],
        [enterprise(IN, verified=False, plan="x")],
    )

    assert (before.key, after.key) == ((1, "a"), (2, "b"))
    assert before.record(FLAG, IN).state == "ACTIVE"
    assert after.record(FLAG, IN) == subject.Admission("SUSPENDED", "private-beta", "R", "")
    assert before.record(FLAG, "enterprises/b") is not None
    assert after.record(FLAG, "enterprises/b") is None
    assert after.record("other", IN) is None
    assert (before.enterprise(IN).verified, after.enterprise(IN).attributes) == (True, {"plan": "x"})
    assert not after.enterprise("enterprises/unheard-of").verified


def test_table__all_of_it_makes_the_same_one():
    """What is kept on disk is what was served."""
    table = NO_ADMISSIONS.changed(
        7,
        "t",
        [record("ACTIVE"), record("WAITLISTED", "enterprises/w", reason="QUOTA_FULL", queue_key="4")],
        [enterprise(IN, plan="enterprise")],
    )

    told = table.all()
    again = NO_ADMISSIONS.changed(told.version, told.token, told.records, told.enterprises)

    assert (again.key, again.all()) == (table.key, told)


def test_table__positions():
    """The place among all who wait for the flag, by the text of their keys; it follows the changes."""
    waiting = [record("WAITLISTED", f"enterprises/{n}", queue_key=f"4{n:03d}") for n in (7, 3, 11)]
    other = record("WAITLISTED", "enterprises/3", flag="other", queue_key="0")
    table = NO_ADMISSIONS.changed(1, "a", [*waiting, other, record("ACTIVE")], [])

    assert [table.position(FLAG, f"enterprises/{n}") for n in (3, 7, 11)] == [1, 2, 3]
    assert table.position("other", "enterprises/3") == 1
    assert table.position(FLAG, IN) == table.position(FLAG, "enterprises/none") == 0
    moved = table.changed(2, "b", [record("ACTIVE", "enterprises/3")], [])
    assert [moved.position(FLAG, f"enterprises/{n}") for n in (3, 7, 11)] == [0, 1, 2]


# --- the context


def test_context__as_documented():
    """What rules can ask for, in the form of docs/rollouts.md."""
    tree = document(
        rollouts={FLAG: rollout(), "other": rollout("other-edition")}, buckets={"panel": "flags/panel"}
    )
    serving = knowing(
        tree, record("ACTIVE"), enterprises=[enterprise(IN, plan="enterprise", admissions="mine")]
    ).serving

    context = serving.context_of(IN)

    assert context.targeting_key == IN
    assert context.attributes == {
        "enterprise": IN,
        "verified": True,
        "plan": "enterprise",
        "bucket": {"panel": bucket_of("flags/panel", IN)},
        "admissions": {
            "enterprise-edition": {"state": "ACTIVE", "stage": "private-beta"},
            "other-edition": {"state": "NONE", "stage": ""},
        },
    }
    unknown = serving.context_of("enterprises/unheard-of").attributes
    assert unknown["verified"] is False
    assert unknown["admissions"]["enterprise-edition"] == {"state": "NONE", "stage": ""}


def test_evaluate__every_type():
    """Each flag gives a value of its own type, with variant and metadata; one that is not there is an error."""
    flags = {
        "text": {"variants": {"a": "x"}},
        "whole": {"variants": {"a": 3}},
        "number": {"variants": {"a": 2.5}},
        "tree": {"variants": {"a": {"k": 1}}, "metadata": {"owner": "ops"}},
        "off": {"variants": {"a": True}, "state": "DISABLED"},
    }
    flags = {key: {"state": "ENABLED", "defaultVariant": "a", **each} for key, each in flags.items()}
    serving = knowing(document(flags=flags), record("ACTIVE")).serving

    told = {key: serving.evaluate(key, serving.context_of(IN)) for key in (FLAG, *flags, "none")}

    assert [told[key].value for key in told] == [True, "x", 3, 2.5, {"k": 1}, False, None]
    assert (told[FLAG].variant, told[FLAG].reason) == ("on", Reason.TARGETING_MATCH)
    assert told["tree"].flag_metadata == {"owner": "ops"}
    assert told["off"].reason == Reason.DISABLED
    assert told["none"].error_code == "FLAG_NOT_FOUND"


# --- knowledge


def test_knowledge__only_newer_snapshots():
    """An older or equal version changes nothing, unless the service itself went back from what we have."""
    knowledge = knowing(document(5))
    five = knowledge.snapshot

    for version in (5, 4):
        assert not knowledge.take_snapshot(unpack(envelope(document(version))))
    assert not knowledge.take_snapshot(
        unpack(envelope(document(3))), instead_of=unpack(envelope(document(5)))
    )
    assert knowledge.serving.snapshot is five
    assert knowledge.take_snapshot(unpack(envelope(document(3))), instead_of=five)
    assert knowledge.serving.snapshot.version == 3


def test_knowledge__nothing_is_served_before_both_are_known(clock):
    """Flags without admissions, or the other way round, are no knowledge."""
    for order in (("snapshot", "admissions"), ("admissions", "snapshot")):
        knowledge = Knowledge(clock, 60)
        for step in order:
            assert knowledge.serving is None
            if step == "snapshot":
                knowledge.take_snapshot(NO_SNAPSHOT)
            else:
                knowledge.take_admissions(NO_ADMISSIONS, instead_of=None)
        assert not knowledge.serving.stale


def test_knowledge__swaps_one_and_keeps_the_other(clock):
    """Each change is one new serving, which says since when each half is served; whoever wants to know is told."""
    knowledge, told = knowing(document(1), record("ACTIVE"), clock=clock), []
    knowledge.subscribe(lambda: told.append(knowledge.serving))
    first, began = knowledge.serving, clock.now()
    clock.advance(timedelta(seconds=3))

    knowledge.take_snapshot(unpack(envelope(document(2))))

    second = knowledge.serving
    assert second is not first
    assert told == [second]
    assert second.admissions is first.admissions
    assert (first.snapshot_time, second.snapshot_time) == (began, clock.now())
    assert second.admissions_time == began
    assert second.memo == {}


def test_knowledge__grows_old(monkeypatch):
    """It is stale when one half has not been confirmed for long, and fresh when it is."""
    knowledge, told = knowing(document(), stale_seconds=60), []
    knowledge.subscribe(lambda: told.append(knowledge.serving.stale))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 59)
    knowledge.confirm_snapshot()
    knowledge.mark()
    assert not knowledge.serving.stale
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)

    knowledge.mark()
    assert knowledge.serving.stale
    assert knowledge.staleness() > 60
    knowledge.confirm_snapshot()
    assert knowledge.serving.stale
    knowledge.confirm_admissions()
    assert not knowledge.serving.stale
    assert knowledge.staleness() < 3
    assert told == [True, False]


def test_knowledge__from_disk_is_stale(clock):
    """What nobody has confirmed is stale, however fast we started."""
    knowledge = Knowledge(clock, 60)
    knowledge.take_snapshot(unpack(envelope(document())), newest=False)
    knowledge.take_admissions(NO_ADMISSIONS, instead_of=None, newest=False)
    assert knowledge.serving.stale

    knowledge.confirm_snapshot()
    knowledge.confirm_admissions()

    assert not knowledge.serving.stale


# --- what is old


@pytest.mark.parametrize(
    ("fail_mode", "value", "reason"), [("LAST_GOOD", True, "TARGETING_MATCH"), ("CLOSED", False, "STALE")]
)
def test_resolve__stale(fail_mode, value, reason, monkeypatch):
    """A flag that closes lets nobody in on old knowledge; others go on; both say that it is old."""
    knowledge = knowing(document(rollouts={FLAG: rollout(fail_mode=fail_mode)}), record("ACTIVE"))
    fresh = knowledge.serving.evaluate(FLAG, knowledge.serving.context_of(IN))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    knowledge.mark()

    old = knowledge.serving.evaluate(FLAG, knowledge.serving.context_of(IN))

    assert (fresh.value, fresh.flag_metadata) == (True, {})
    assert (old.value, old.reason, old.flag_metadata) == (value, reason, {"stale": True})


def test_resolve__of_the_wrong_type_or_without_a_context():
    """The default, with an error code."""
    serving = knowing(document(), record("ACTIVE")).serving

    wrong = serving.resolve("string", FLAG, "x", serving.context_of(IN))

    assert (wrong.value, wrong.error_code) == ("x", "TYPE_MISMATCH")
    assert serving.resolve("boolean", FLAG, False, None).value is False
    assert serving.resolve("boolean", FLAG, False, EvaluationContext(IN)).value is False
    assert json.dumps(serving.context_of(IN).attributes)
