"""What was made before there were plans is served as it was."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from numerator.rollout.v1 import admissions_pb2, serving_pb2
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.buckets import bucket_of
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, migrate
from services.chassis.testing.databases import PASSWORD, TemporaryDatabase
from services.chassis.testing.rpc import gateway
from services.chassis.testing.servers import ROOT
from services.rollout import plan, usecases
from services.rollout.tests.world import EDITION, FLAG, World, enterprise

FOLDER = ROOT / "services" / "rollout" / "migrations"
A = admissions_pb2.Admission

STAGES = """[{"id": "private-beta", "basis_points": 10000, "quota": 2}, {"id": "start", "basis_points": 10000, "quota": 3},
  {"id": "everybody", "basis_points": 10000, "quota": 0}]"""
SOME = (
    """[{"id": "some", "basis_points": 25, "quota": 0}, {"id": "more", "basis_points": 1250, "quota": 7}]"""
)
ADMISSIONS = [
    # enterprise, state, reason, stage, position, seat
    (1, "ACTIVE", "", "private-beta", 0, 1),
    (2, "SUSPENDED", "VERIFICATION_REVOKED", "private-beta", 0, 2),
    (3, "ACTIVE", "", "start", 0, 3),
    (4, "WAITLISTED", "QUOTA_FULL", "", 1, None),
    (5, "WAITLISTED", "NOT_VERIFIED", "", 0, None),
]
"""In the second stage, into which the third came by the widening; the second lost its verification since."""


@pytest.fixture
def old(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock, tmp_path: Path
) -> Iterator[TemporaryDatabase]:
    """A database as the first migration made it, with rollouts in it that were moved by the code of that time."""
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(FOLDER / "0001_rollout.sql", first)
    database = make_database("rollout", first, clock=clock)
    with database.transaction(PLATFORM) as tx:
        tx.executemany(
            """
            insert into rollouts (name, flag, salt, stages, state, stage, killed, anchors, revision, create_time, update_time)
            values (%s, %s, %s, %s::jsonb, %s, %s, %s, %s::jsonb, %s, %s, %s)
            """,
            [
                (EDITION, FLAG, EDITION, STAGES, "RUNNING", 1, False,
                 '[{"stage": 0, "seated": ["enterprises/e1", "enterprises/e2"]}]', 5, tx.now, tx.now),
                ("rollouts/draft", "draft-flag", "rollouts/draft", SOME, "DRAFT", None, False, "[]", 1, tx.now, tx.now),
                ("rollouts/dead", "dead-flag", "rollouts/dead", SOME, "PAUSED", 0, True, "[]", 9, tx.now, tx.now),
            ],
        )  # fmt: skip
        for number, state, reason, stage, position, seat in ADMISSIONS:
            tx.execute(
                "insert into enterprises (enterprise, verified, told_time) values (%s, %s, %s)",
                (enterprise(number), number in {1, 3, 4}, tx.now),
            )
            tx.execute(
                """
                insert into admissions (rollout, enterprise, state, reason, stage, position, bucket, seat, admit_time)
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (EDITION, enterprise(number), state, reason, stage, position, bucket_of(EDITION, enterprise(number)),
                 seat, tx.now if seat else None),
            )  # fmt: skip
        tx.execute(
            "insert into snapshots (version, sha256, document) values (41, 'of another form', 'x'::bytea)"
        )
    return database


@pytest.fixture
def world(old: TemporaryDatabase, serve: Callable[..., World]) -> World:
    """The service of today on that database."""
    migrate(old.admin_url, "rollout", FOLDER, PASSWORD)
    return serve(old)


def test_rollouts__become_plans_that_say_the_same(world: World) -> None:
    """Stages with shares and quotas, the present one by its name, and the plan as its first version."""
    found = {each.name: each for each in world.ops.ListRollouts(pb.ListRolloutsRequest()).rollouts}

    edition, draft, dead = (found[f"rollouts/{name}"] for name in ("edition", "draft", "dead"))
    assert (edition.state, edition.stage, edition.basis_points) == (pb.Rollout.RUNNING, "ring-start", 10_000)
    assert (edition.admitted_count, edition.waiting_count, edition.etag) == (2, 2, "5")
    assert (draft.state, draft.stage, draft.basis_points) == (pb.Rollout.DRAFT, "", 0)
    assert (dead.state, dead.stage, dead.killed, dead.basis_points) == (pb.Rollout.PAUSED, "some", True, 25)
    written = [(each.id, each.basis_points, each.quota) for each in plan.parse(draft.plan).stages]
    assert written == [("some", 25, 0), ("more", 1250, 7)]
    assert [(each.id, each.quota) for each in edition.stages] == [
        ("private-beta", 2), ("ring-start", 3), ("everybody", 0)
    ]  # fmt: skip
    version = world.ops.ListPlans(pb.ListPlansRequest(parent=EDITION)).plans[0]
    assert (version.version, version.plan) == (1, edition.plan)


def test_admissions__are_what_they_were(world: World) -> None:
    """For operators, for enterprises and for gateways, to whom all of them are told as new."""
    listed = {
        each.enterprise: (A.State.Name(each.state), each.reason, each.position) for each in world.admissions()
    }
    page = world.as_(gateway()).serving.GetAdmissions(serving_pb2.GetAdmissionsRequest())

    assert listed == {
        enterprise(number): (state, reason, position) for number, state, reason, _, position, _ in ADMISSIONS
    }
    assert world.edition(3).stage == "ring-start"
    assert {(each.enterprise, each.state) for each in page.records} == {
        (enterprise(number), state) for number, state, *_ in ADMISSIONS
    }
    assert {each.enterprise for each in page.enterprises} == {enterprise(n) for n in range(1, 6)}
    assert (page.whole, page.more) == (True, False)


def test_widenings__can_be_rolled_back_as_before(world: World) -> None:
    """To the first stage exactly, and then to before the start."""
    back = world.do("Rollback")

    assert (back.state, back.stage) == (pb.Rollout.ROLLED_BACK, "private-beta")
    assert world.active() == {enterprise(1)}
    assert world.edition(3).reason == "STAGE_ROLLED_BACK"
    world.do("Restart")
    world.clock.advance(timedelta(seconds=1))
    world.tell(2, verified=True)
    assert world.active() == {enterprise(1), enterprise(2)}
    assert world.do("Rollback").stage == ""
    assert world.active() == set()


def test_seats__are_kept_and_the_next_in_turn_comes_in(world: World) -> None:
    """The suspended one still holds its place in the quota of three; the widening lets the waiting one in."""
    world.verify(6)
    assert world.edition(6).reason == "QUOTA_FULL"
    world.do("Advance")

    assert world.active() == {enterprise(n) for n in (1, 3, 4, 6)}


def test_snapshot__of_the_old_form__is_replaced(world: World) -> None:
    """The worker publishes what is compiled today, without anybody changing anything."""
    with world.database.transaction(PLATFORM) as tx:
        usecases.publish(tx)

    assert world.snapshot().version == 42
    assert world.document()["rollouts"][FLAG]["stage"] == "ring-start"
