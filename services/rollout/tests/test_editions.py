"""What an enterprise is told of its own admission, in every state."""

from datetime import timedelta

import pytest
from numerator.rollout.v1 import rollout_pb2 as pb

from services.chassis.database import PLATFORM
from services.chassis.testing.rpc import client
from services.rollout.tests.world import World, enterprise

A = pb.Admission


def told(edition: pb.Edition) -> tuple[bool, str, str, int]:
    return edition.admitted, A.State.Name(edition.state), edition.reason, edition.position


def test_edition__from_the_first_day_to_the_last(world: World) -> None:
    """Through every state: whether it is in, why not, its place, and what to do."""
    assert told(world.edition(1)) == (False, "STATE_UNSPECIFIED", "ROLLOUT_NOT_RUNNING", 0)
    world.create(stages=[("private-beta", 10_000, 1), ("open-beta", 10_000, 2)])
    assert told(world.edition(1)) == (False, "STATE_UNSPECIFIED", "NOT_ON_THE_LIST", 0)
    world.tell(1, verified=False)
    assert told(world.edition(1)) == (False, "WAITLISTED", "NOT_VERIFIED", 0)
    world.verify(1)
    assert told(world.edition(1)) == (False, "WAITLISTED", "ROLLOUT_NOT_RUNNING", 0)
    world.do("Start")
    world.verify(2)
    assert told(world.edition(1)) == (True, "ACTIVE", "", 0)
    assert told(world.edition(2)) == (False, "WAITLISTED", "QUOTA_FULL", 1)
    world.do("Pause")
    assert told(world.edition(1)) == (True, "ACTIVE", "", 0)
    assert told(world.edition(2)) == (False, "WAITLISTED", "ROLLOUT_NOT_RUNNING", 0)
    world.do("Resume")
    world.do("Advance")
    assert told(world.edition(2)) == (True, "ACTIVE", "", 0)
    assert [world.edition(n).stage for n in (1, 2)] == ["private-beta", "open-beta"]
    world.tell(1, verified=False)
    assert told(world.edition(1)) == (False, "SUSPENDED", "VERIFICATION_REVOKED", 0)
    world.verify(1)
    world.do("Kill")
    assert told(world.edition(1)) == (False, "ACTIVE", "EDITION_KILLED", 0)
    world.do("Unkill")
    world.do("Rollback")
    assert told(world.edition(1)) == (True, "ACTIVE", "", 0)
    assert told(world.edition(2)) == (False, "SUSPENDED", "STAGE_ROLLED_BACK", 0)
    assert world.edition(2).stage == ""
    world.do("Resume")
    assert told(world.edition(2)) == (False, "SUSPENDED", "QUOTA_FULL", 1)


def test_edition__says_what_to_do_and_of_whom_it_speaks(world: World) -> None:
    """The next step names the call to make; an app of the enterprise is told the same."""
    world.create()
    world.tell(1, verified=False)

    edition = world.as_(client(enterprise(1))).GetEdition(pb.GetEditionRequest())

    assert edition == world.edition(1)
    assert edition.enterprise == enterprise(1)
    assert f"POST /v1/{enterprise(1)}:requestVerification" in edition.next_step
    assert edition.snapshot_version == world.snapshot().version


@pytest.mark.parametrize("share", [1, 5_000, 10_000])
def test_edition__outside_the_share__waits_until_it_widens(world: World, share: int) -> None:
    """An enterprise is in exactly when its bucket is below the stage's share."""
    world.create(stages=[("some", share, 0), ("all", 10_000, 0)])
    world.do("Start")
    world.verify(*range(20))

    for admission in world.admissions():
        inside = admission.bucket < share
        assert (admission.state, admission.reason) == (
            (A.ACTIVE, "") if inside else (A.WAITLISTED, "NOT_IN_SHARE")
        )
    world.do("Advance")
    assert len(world.active()) == 20


def test_told__older_than_what_is_known__changes_nothing(world: World) -> None:
    """A verification that was held up must not undo its revocation, whichever queue was faster."""
    world.create()
    world.do("Start")
    world.tell(1, verified=False)

    world.tell(1, verified=True, late=timedelta(hours=1))

    assert world.edition(1).reason == "NOT_VERIFIED"
    assert len(world.rows("enterprises")) == 1


def test_suspended__keeps_its_seat_against_the_quota(world: World) -> None:
    """Nobody takes the place of an enterprise that is verified anew; its first admission stays on record."""
    world.create(stages=[("private-beta", 10_000, 1)])
    world.do("Start")
    world.verify(1)
    first = world.admissions()[0].admit_time
    world.clock.advance(timedelta(days=1))
    world.tell(1, verified=False)
    world.verify(2)
    assert world.active() == set()

    world.verify(1)

    assert world.active() == {enterprise(1)}
    assert world.admissions()[0].admit_time == first


def test_records__unchanged_ones_are_not_written(world: World) -> None:
    """One more enterprise on the list rewrites nobody else's record."""
    world.create()
    world.do("Start")
    world.verify(1, 2, 3)

    def versions() -> dict[str, str]:
        with world.database.transaction(PLATFORM) as tx:
            return {
                row["enterprise"]: row["xmin"]
                for row in tx.execute("select enterprise, xmin::text from admissions")
            }

    before = versions()
    world.verify(4)

    assert before.items() <= versions().items()
