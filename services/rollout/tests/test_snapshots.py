"""Snapshots: their content, versions and hashes, and when there is a new one."""

import hashlib
import json
import zlib

import pytest
from numerator.events.v1 import rollout_pb2 as events

from services.rollout.tests.world import FLAG, World, enterprise


def test_snapshot__before_the_first_rollout__is_version_0(world: World) -> None:
    """Nobody is in, and reading writes nothing."""
    snapshot = world.snapshot()

    assert (snapshot.version, snapshot.document) == (0, b"")
    assert not world.rows("snapshots")


def test_snapshot__told_and_pulled__are_the_same(world: World) -> None:
    """Version, hash and bytes; the hash is that of the document, which says its own version."""
    world.create()
    world.do("Start")
    world.verify(1)

    pulled, pushed = world.snapshot(), world.told(events.SnapshotPublished)[-1]

    assert (pulled.version, pulled.sha256, pulled.document) == (
        pushed.version,
        pushed.sha256,
        pushed.document,
    )
    document = zlib.decompress(pulled.document)
    assert hashlib.sha256(document).hexdigest() == pulled.sha256
    assert json.loads(document)["version"] == pulled.version


def test_snapshot__if_newer__leaves_out_what_the_caller_has(world: World) -> None:
    """The document comes to whoever has another version, also a later one, as after a restore of the database."""
    world.create()
    version = world.snapshot().version

    assert world.snapshot(if_newer=version).document == b""
    assert world.snapshot(if_newer=version).version == version
    assert world.snapshot(if_newer=version - 1).document
    assert world.snapshot(if_newer=version + 1).document


def test_snapshot__is_published_only_when_it_says_something_new(world: World) -> None:
    """Versions have no gaps, and what changes no answer of a gateway makes none."""
    world.create()
    world.do("Start")
    world.verify(1)
    newest = world.snapshot().version

    world.do("Pause")  # nobody waits
    world.do("Resume")
    world.verify(1)

    assert world.snapshot().version == newest
    world.tell(2, verified=False)
    assert world.snapshots_told() == list(range(1, newest + 2))


def test_snapshot__one_for_a_change_of_several_rollouts(world: World) -> None:
    """An enterprise is news to each rollout, and the gateways are told once."""
    world.create()
    world.create("rollouts/other", flag="other")
    newest = world.snapshot().version

    world.verify(1)

    assert world.snapshot().version == newest + 1
    assert set(world.document()["admissions"]) == {FLAG, "other"}


def test_snapshot__killed__disables_the_flag_and_keeps_admissions(world: World) -> None:
    """The flag is off for everybody; back, all is as it was, but for the version."""
    world.create()
    world.do("Start")
    world.verify(1, 2, 3)
    before = world.document()
    world.do("Kill")
    killed = world.document()
    world.do("Unkill")
    after = world.document()

    assert killed["flags"]["flags"][FLAG]["state"] == "DISABLED"
    assert killed["admissions"][FLAG][enterprise(1)] == before["admissions"][FLAG][enterprise(1)]
    assert {**after, "version": before["version"]} == before


@pytest.mark.parametrize("widenings", [1, 2])
def test_rollback__serves_what_was_served_before(world: World, widenings: int) -> None:
    """In the document that gateways serve from: the same flags, and the same enterprises in, with the same records."""
    world.create()
    world.do("Start")
    world.verify(*range(1, 9))

    def served() -> tuple[object, dict[str, object]]:
        document = world.document()
        inside = {
            name: record
            for name, record in document["admissions"][FLAG].items()
            if record["state"] == "ACTIVE"
        }
        return document["flags"], inside

    before = [served()]
    for _ in range(widenings):
        world.do("Advance")
        before.append(served())
    widest = before.pop()
    while before:
        world.do("Rollback")
        assert served() == before.pop()

    world.do("Resume")
    for _ in range(widenings):
        world.do("Advance")
    flags, inside = served()
    assert flags == widest[0]
    assert inside.keys() == widest[1].keys()
