"""What gateways serve from: the snapshot of flags and stages, and the stream of admissions."""

import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from random import Random

import pytest
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import admissions_pb2, flags_pb2
from numerator.rollout.v1 import serving_pb2 as pb

from services.chassis.database import PLATFORM
from services.chassis.testing.rpc import gateway, operator
from services.chassis.testing.servers import ROOT
from services.rollout import serving
from services.rollout.tests.world import EDITION, FLAG, World, enterprise, plan

# The snapshot


def test_document__is_as_its_description_says(world: World) -> None:
    """The example of docs/rollouts.md is what the plan that it speaks of is compiled to."""
    text = (ROOT / "docs" / "rollouts.md").read_text()
    example = json.loads(re.search(r"```json\n(\{\n  \"version\".*?)```", text, re.DOTALL)[1])
    limits = "{requests_per_min: 30, bound_accounts: 20, live_placements: 5}"
    name = "rollouts/enterprise-edition"
    world.create(name, f"- {{ring: private-beta, limits: {limits}}}")
    world.do("Start", name)
    flags = flags_pb2.ApplyFlagsRequest(document="flags: {panel: {percent: 25%}}")
    world.as_(operator()).flags.ApplyFlags(flags)

    document = world.document()

    assert document.keys() == example.keys()
    assert document["flags"].keys() == example["flags"].keys()
    assert document["flags"]["$schema"] == example["flags"]["$schema"]
    assert document["flags"]["flags"][FLAG] == example["flags"]["flags"][FLAG]
    assert document["rollouts"] == example["rollouts"]
    assert document["buckets"] == example["buckets"]
    assert example["nextSteps"].keys() < document["nextSteps"].keys()


def test_document__compiles_what_is_required(world: World) -> None:
    """A rollout's flag, an ordinary one, and what these build on in turn; a killed one lets nobody through."""
    world.as_(operator()).flags.ApplyFlags(
        flags_pb2.ApplyFlagsRequest(document="flags: {leaf: {state: DISABLED}}")
    )
    world.create("rollouts/binding", "- {ring: b}", flag="binding", requires="[leaf]")
    world.create(stages="- {ring: a}", requires="[binding]")

    def conditions() -> list[object]:
        return world.document()["flags"]["flags"][FLAG]["targeting"]["if"][0]["and"]

    own = {"==": [{"var": "admissions.edition.state"}, "ACTIVE"]}
    binding = {"==": [{"var": "admissions.binding.state"}, "ACTIVE"]}
    assert conditions() == [own, binding, False]
    on = flags_pb2.ApplyFlagsRequest(document="flags: {leaf: {defaultVariant: on}}")
    world.as_(operator()).flags.ApplyFlags(on)
    assert conditions() == [own, binding, {"in": ["on", ["on"]]}]
    world.do("Kill", "rollouts/binding")
    assert conditions() == [own, False, binding, {"in": ["on", ["on"]]}]


def test_snapshot__before_the_first_rollout__is_version_0(world: World) -> None:
    """Nobody is in, and reading writes nothing."""
    snapshot = world.snapshot()
    shown = world.as_(operator()).serving.ShowSnapshot(pb.ShowSnapshotRequest())

    assert (snapshot.version, snapshot.document) == (0, b"")
    assert (shown.version, shown.document, shown.admissions_version) == (0, "", 0)
    assert not world.rows("snapshots")


def test_snapshot__told_pulled_and_shown__are_the_same(world: World) -> None:
    """Version, hash and bytes; the hash is that of the document, which says its own version."""
    world.create()
    world.do("Start")
    world.verify(1)

    pulled, pushed = world.snapshot(), world.told(events.SnapshotPublished)[-1]
    shown = world.as_(operator()).serving.ShowSnapshot(pb.ShowSnapshotRequest())

    assert (pulled.version, pulled.sha256, pulled.document) == (
        pushed.version,
        pushed.sha256,
        pushed.document,
    )
    document = zlib.decompress(pulled.document)
    assert hashlib.sha256(document).hexdigest() == pulled.sha256
    assert json.loads(document)["version"] == pulled.version
    assert (shown.version, shown.sha256, shown.document) == (pulled.version, pulled.sha256, document.decode())
    assert shown.admissions_version == world.edition(1).admissions_version


def test_snapshot__leaves_out_what_the_caller_has(world: World) -> None:
    """The document comes to whoever has another one, also a later version, or the same of another history."""
    world.create()
    newest = world.snapshot()

    known = world.snapshot(newest.version, newest.sha256)

    assert (known.version, known.sha256, known.document) == (newest.version, newest.sha256, b"")
    assert world.snapshot(newest.version - 1, newest.sha256).document
    assert world.snapshot(newest.version + 1, newest.sha256).document
    assert world.snapshot(newest.version, "another").document


def test_snapshot__is_published_only_when_it_says_something_new(world: World) -> None:
    """Versions have no gaps; admissions make none, nor does an approval or the same plan."""
    world.create(stages="- {ring: a, hold: {approvals: 1}}\n- {ring: b}")
    world.do("Start")
    newest = world.snapshot().version

    world.verify(1, 2)
    world.admit("RevokeAdmission", 1)
    world.apply(plan(stages="- {ring: a, hold: {approvals: 1}}\n- {ring: b}"))
    assert world.snapshot().version == newest
    world.do("Pause")

    assert world.snapshots_told() == list(range(1, newest + 2))


def test_snapshot__killed__disables_the_flag(world: World) -> None:
    """The flag is off for everybody; back, all is as it was, but for the version."""
    world.create()
    world.do("Start")
    before = world.document()
    world.do("Kill")
    killed = world.document()
    world.do("Unkill")
    after = world.document()

    assert (killed["flags"]["flags"][FLAG]["state"], killed["rollouts"][FLAG]["killed"]) == ("DISABLED", True)
    assert {**after, "version": before["version"]} == before


# The admissions


class Reader:
    """A gateway's knowledge of admissions, kept as docs/rollouts.md says."""

    def __init__(self, world: World) -> None:
        self._stub = world.as_(gateway()).serving
        self.key = (0, "")
        self.records: dict[tuple[str, str], tuple[str, str, str, str]] = {}
        self.enterprises: dict[str, tuple[bool, dict[str, str]]] = {}
        self.taken_anew = 0

    def pages(self) -> Iterator[pb.GetAdmissionsResponse]:
        """Ask for what is newer, page by page; what came is taken after the last one."""
        pages, cursor = [], ""
        while not pages or pages[-1].more:
            request = pb.GetAdmissionsRequest(since=self.key[0], token=self.key[1], cursor=cursor)
            pages.append(self._stub.GetAdmissions(request))
            cursor = pages[-1].cursor
            yield pages[-1]
        if pages[0].whole:
            self.records, self.enterprises = {}, {}
            self.taken_anew += 1
        for page in pages:
            self._take(page)
        self.key = (pages[0].version, pages[0].token)

    def pull(self) -> list[pb.GetAdmissionsResponse]:
        """Ask for all that is newer, at once."""
        return list(self.pages())

    def push(self, event: events.AdmissionsChanged) -> bool:
        """Take an event, if it follows what is known."""
        if (event.from_version, event.from_token) != self.key or not (event.records or event.enterprises):
            return False
        self._take(event)
        self.key = (event.version, event.token)
        return True

    def _take(self, told: pb.GetAdmissionsResponse | events.AdmissionsChanged) -> None:
        for each in told.records:
            self.records[each.flag, each.enterprise] = (each.state, each.stage, each.reason, each.queue_key)
        for each in told.enterprises:
            self.enterprises[each.enterprise] = (each.verified, dict(each.attributes))


def stored(world: World) -> tuple[object, object]:
    """What a gateway should know, by the database's word."""
    flags = {row["name"]: row["flag"] for row in world.rows("rollouts")}
    return (
        {
            (flags[row["rollout"]], row["enterprise"]): (
                row["state"],
                row["stage"],
                row["reason"],
                row["queue_key"],
            )
            for row in world.rows("admissions")
        },
        {row["enterprise"]: (row["verified"], row["attributes"]) for row in world.rows("enterprises")},
    )


def known(reader: Reader) -> tuple[object, object]:
    return reader.records, reader.enterprises


def test_admissions__before_the_first__are_none(world: World) -> None:
    """Version 0, and all of it."""
    page = world.as_(gateway()).serving.GetAdmissions(pb.GetAdmissionsRequest())

    assert page == pb.GetAdmissionsResponse(whole=True)


def test_admissions__told__chain_without_a_gap(world: World) -> None:
    """Whoever takes every event knows what is stored; so does who asks for everything, and who asks after each event."""
    pushed, asking = Reader(world), Reader(world)
    world.create()
    world.create("rollouts/other", "- {ring: all}", flag="other")
    world.do("Start")
    world.verify(1, 2, 3)
    asking.pull()
    world.tell(1, verified=False)
    world.do("Start", "rollouts/other")
    request = admissions_pb2.SetEnterpriseAttributesRequest(
        enterprise=enterprise(2), attributes={"plan": "gold"}
    )
    world.as_(operator()).admissions.SetEnterpriseAttributes(request)
    world.do("Rollback")

    chain = world.told(events.AdmissionsChanged)

    assert [pushed.push(event) for event in chain] == [True] * len(chain)
    assert [(event.from_version, event.version) for event in chain] == [(n, n + 1) for n in range(len(chain))]
    assert len({event.token for event in chain}) == len(chain)
    assert known(pushed) == stored(world)
    asking.pull()
    assert (known(asking), asking.key) == (known(pushed), pushed.key)
    assert asking.taken_anew == 1
    anew = Reader(world)
    anew.pull()
    assert known(anew) == stored(world)


def test_admissions__asked_again__say_nothing(world: World) -> None:
    """Whoever has the newest gets neither records nor enterprises."""
    world.create()
    world.verify(1)
    reader = Reader(world)
    reader.pull()

    again = reader.pull()

    assert [(len(each.records), len(each.enterprises), each.whole, each.more) for each in again] == [
        (0, 0, False, False)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_admissions__paged_while_they_change__lose_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """However records move between pages: after the next question everything is known as it is stored."""
    monkeypatch.setattr(serving, "_PAGE", 3)
    random, reader = Random(seed), Reader(world)
    world.create(stages="- {ring: a, quota: 4}\n- {ring: all}")
    world.create("rollouts/other", "- {ring: all}", flag="other")
    world.do("Start")
    world.do("Start", "rollouts/other")
    world.verify(*range(12))

    for _ in range(3):
        for page in reader.pages():
            assert len(page.records) <= 3 >= len(page.enterprises)
            number = random.randrange(16)
            world.tell(number, verified=random.random() < 0.5)
    before = reader.key
    reader.pull()

    assert reader.key > before
    assert known(reader) == stored(world)
    assert reader.taken_anew == 1


@pytest.mark.parametrize("loss", ["token", "version"])
def test_admissions__of_a_restored_database__are_taken_anew(world: World, loss: str) -> None:
    """A version that the service has not, or another of the same number: what the gateway had is forgotten."""
    world.create()
    world.do("Start")
    world.verify(1, 2)
    reader = Reader(world)
    reader.pull()
    reader.records["other", "enterprises/ghost"] = ("ACTIVE", "", "", "")
    with world.database.transaction(PLATFORM) as tx:
        if loss == "token":
            tx.execute("update admission_versions set token = 'of another history'")
        else:
            tx.execute("delete from admission_versions where version = %s", (reader.key[0],))

    assert reader.pull()[0].whole
    assert known(reader) == stored(world)


def test_admissions__an_event_of_another_history__is_not_taken(world: World) -> None:
    """Its token says so, though the numbers would fit."""
    world.create()
    world.verify(1)
    reader = Reader(world)
    reader.pull()
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("update admission_versions set token = 'of another history'")
    world.verify(2)

    assert not reader.push(world.told(events.AdmissionsChanged)[-1])


def test_admissions__too_many_for_an_event__are_asked_for(world: World) -> None:
    """More than 2,000 changes in one transaction are told by their version alone."""
    world.create(stages="- {ring: all}")
    with world.database.transaction(PLATFORM) as tx:
        tx.executemany(
            "insert into enterprises (enterprise, verified, told_time) values (%s, true, %s)",
            [(enterprise(number), tx.now) for number in range(2001)],
        )
    reader = Reader(world)
    reader.pull()
    world.do("Start")

    event = world.told(events.AdmissionsChanged)[-1]
    assert (event.from_version, event.version, len(event.records), len(event.enterprises)) == (0, 1, 0, 0)
    assert not reader.push(event)
    reader.pull()
    assert reader.key == (event.version, event.token)
    assert [state for state, *_ in reader.records.values()] == ["ACTIVE"] * 2001


def test_versions__older_than_a_day__are_forgotten(world: World) -> None:
    """Who comes back after that takes everything anew; the newest is kept for ever."""
    world.create()
    world.verify(1)
    old, fresh = Reader(world), Reader(world)
    old.pull()
    world.tick(hours=25)
    world.verify(2)
    fresh.pull()
    world.worker.forget(world.database)
    assert len(world.rows("admission_versions")) == 1

    old.pull()
    fresh.pull()

    assert (old.taken_anew, fresh.taken_anew) == (2, 1)
    assert known(old) == known(fresh) == stored(world)
    world.tick(hours=48)
    world.worker.forget(world.database)
    assert fresh.pull()[0].whole is False


@pytest.mark.parametrize("widenings", [1, 2])
def test_rollback__serves_what_was_served_before(world: World, widenings: int) -> None:
    """By both streams: the same flags and stages, and the same enterprises in, with the same records."""
    world.create()
    world.do("Start")
    world.verify(*range(1, 9))

    def served() -> tuple[object, object, object]:
        document, reader = world.document(), Reader(world)
        reader.pull()
        inside = {key: record for key, record in reader.records.items() if record[0] == "ACTIVE"}
        limits = document["rollouts"][FLAG] | {"state": ""}
        return document["flags"], limits, inside

    before = [served()]
    for _ in range(widenings):
        world.do("Advance")
        before.append(served())
    widest = before.pop()
    while before:
        world.do("Rollback")
        assert served() == before.pop()
        world.do("Restart")

    for _ in range(widenings):
        world.do("Advance")
    assert served() == widest
    assert world.get(EDITION).basis_points == 10_000
