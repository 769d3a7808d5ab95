"""What an enterprise is told of its own admission and may do about it: the edition, the waitlist, invitations."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.rollout.v1 import admissions_pb2 as pb

from services.chassis.database import PLATFORM
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import client, member, operator
from services.rollout.tests.world import EDITION, World, enterprise, plan, refusal, refused

A = pb.Admission
INVITED = "- {ring: invited, audience: {waitlist: invited}, quota: 2}\n- {ring: all}"
JOINED = "- {ring: joined, audience: {waitlist: joined}, quota: 2}\n- {ring: all}"


def told(edition: pb.Edition) -> tuple[bool, str, str, int]:
    return edition.admitted, A.State.Name(edition.state), edition.reason, edition.position


# The edition


def test_edition__from_the_first_day_to_the_last(world: World) -> None:
    """Through every state: whether it is in, why not, its place, and what to do."""
    assert told(world.edition(1)) == (False, "STATE_UNSPECIFIED", "ROLLOUT_NOT_RUNNING", 0)
    world.create(stages="- {ring: private-beta, quota: 1}\n- {ring: open-beta, quota: 2}")
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
    world.do("Restart")
    assert told(world.edition(2)) == (False, "SUSPENDED", "QUOTA_FULL", 1)
    world.admit("RevokeAdmission", 2)
    assert told(world.edition(2)) == (False, "REVOKED", "REVOKED", 0)


def test_edition__says_what_to_do_and_of_whom_it_speaks(world: World) -> None:
    """The next step names the call to make; an app of the enterprise is told the same."""
    world.create()
    world.tell(1, verified=False)

    edition = world.as_(client(enterprise(1))).edition.GetEdition(pb.GetEditionRequest())

    assert edition == world.edition(1)
    assert edition.enterprise == enterprise(1)
    assert f"POST /v1/{enterprise(1)}:requestVerification" in edition.next_step
    assert edition.snapshot_version == world.snapshot().version
    assert edition.admissions_version > 0


def test_edition__tells_the_limits_of_the_stage(world: World) -> None:
    """Those of the stage that the rollout is in, to whoever is in."""
    stages = "- {ring: a, quota: 1, limits: {bound_accounts: 4, requests_per_min: 30}}\n- {ring: b, quota: 1}"
    world.create(stages=stages)
    world.do("Start")
    world.verify(1, 2)

    limits = world.edition(1).limits
    assert (limits.bound_accounts, limits.requests_per_minute, limits.live_placements) == (4, 30, 0)
    assert not world.edition(2).HasField("limits")
    world.do("Advance")
    assert world.edition(1).limits.bound_accounts == 0


@pytest.mark.parametrize(("share", "basis_points"), [("0.01%", 1), ("50%", 5_000), ("100%", 10_000)])
def test_edition__outside_the_share__waits_until_it_widens(
    world: World, share: str, basis_points: int
) -> None:
    """An enterprise is in exactly when its bucket is below the stage's share."""
    world.create(stages=f"- {{ring: some, percent: {share}}}\n- {{ring: all}}")
    world.do("Start")
    world.verify(*range(20))

    for admission in world.admissions():
        inside = admission.bucket < basis_points
        assert (admission.state, admission.reason) == (
            (A.ACTIVE, "") if inside else (A.WAITLISTED, "NOT_IN_SHARE")
        )
    world.do("Advance")
    assert len(world.active()) == 20


def test_edition__where_a_prerequisite_is_off__is_closed_for_the_while(world: World) -> None:
    """Who has a seat keeps it; as soon as what the plan builds on opens, so does this."""
    world.create("rollouts/binding", "- {ring: b, quota: 1}", flag="binding")
    world.do("Start", "rollouts/binding")
    world.create(stages="- {ring: a}", requires="[binding]")
    world.do("Start")
    world.verify(1, 2)

    assert told(world.edition(1)) == (True, "ACTIVE", "", 0)
    assert told(world.edition(2)) == (False, "ACTIVE", "PREREQUISITE_OFF", 0)
    world.do("Kill", "rollouts/binding")
    assert told(world.edition(1)) == (False, "ACTIVE", "PREREQUISITE_OFF", 0)
    world.do("Unkill", "rollouts/binding")
    world.apply(plan("rollouts/binding", "- {ring: b}", flag="binding"))
    assert world.edition(2).admitted


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
    world.create(stages="- {ring: private-beta, quota: 1}")
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


# The waitlist


def join(world: World, number: int, **fields: str) -> pb.Edition:
    """An enterprise joins the waitlist."""
    return world.as_(member(enterprise(number))).edition.JoinWaitlist(pb.JoinWaitlistRequest(**fields))


def leave(world: World, number: int) -> pb.Edition:
    """An enterprise leaves it."""
    return world.as_(member(enterprise(number))).edition.LeaveWaitlist(pb.LeaveWaitlistRequest())


def test_join__opens_a_stage_that_is_for_those_who_joined(world: World) -> None:
    """In the order of joining, not of arrival, while there are places; the others are told to join."""
    world.create(stages=JOINED)
    world.do("Start")
    world.verify(1, 2, 3, 4)
    assert {world.edition(n).reason for n in (1, 2, 3, 4)} == {"NOT_IN_AUDIENCE"}
    assert "POST /v1/edition/waitlist:join" in world.edition(1).next_step

    assert told(join(world, 3)) == (True, "ACTIVE", "", 0)
    assert told(join(world, 1)) == (True, "ACTIVE", "", 0)
    assert told(join(world, 4)) == (False, "WAITLISTED", "QUOTA_FULL", 1)
    assert told(join(world, 2)) == (False, "WAITLISTED", "QUOTA_FULL", 2)

    assert {each.source for each in world.admissions() if each.state == A.ACTIVE} == {"WAITLIST"}
    assert (world.edition(4).on_waitlist, world.edition(1).on_waitlist) == (True, True)


def test_join__before_it_is_verified__counts_from_then(world: World) -> None:
    """Who joins early keeps the place, and enters with the verification."""
    world.create(stages=JOINED)
    world.do("Start")
    for number in (1, 2, 3):
        world.tell(number, verified=False)
        assert told(join(world, number)) == (False, "WAITLISTED", "NOT_VERIFIED", 0)

    world.verify(3, 2, 1)

    assert world.active() == {enterprise(3), enterprise(2)}
    assert told(world.edition(1)) == (False, "WAITLISTED", "QUOTA_FULL", 1)


def test_join__again__changes_nothing(world: World) -> None:
    """Neither the place nor the trail."""
    world.create()
    world.tell(1, verified=False)
    first = join(world, 1, request_id="r1")
    before = world.rows("waitlist_entries"), len(world.audit())

    assert join(world, 1, request_id="r1") == first
    assert join(world, 1) == first
    assert (world.rows("waitlist_entries"), len(world.audit())) == before


def test_leave__gives_up_the_place_but_no_seat(world: World) -> None:
    """Who is in stays in; who leaves and joins again comes last."""
    world.create(stages=JOINED)
    world.do("Start")
    world.verify(1, 2, 3, 4)
    for number in (1, 2, 3, 4):
        join(world, number)

    assert leave(world, 1).admitted
    assert told(leave(world, 3)) == (False, "WAITLISTED", "NOT_IN_AUDIENCE", 0)
    assert world.edition(4).position == 1
    assert join(world, 3).position == 2
    assert leave(world, 9).reason == "NOT_ON_THE_LIST"


def test_join__without_a_rollout_or_unknown__is_refused(world: World) -> None:
    """There is nothing to wait for yet, or nobody told of the enterprise."""
    none = refused(join, world, 1)
    world.create()
    unknown = refused(join, world, 1)

    assert (none.reason, none.text) == (
        "ROLLOUT_NOT_RUNNING", "there is no rollout of the edition yet; try again later",
    )  # fmt: skip
    assert (unknown.kind, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


# Invitations


def invite(
    world: World, number: int | None = None, *, expire: timedelta | None = None, **fields: str
) -> pb.Invitation:
    """An invitation, for one enterprise or for whoever has the token."""
    invitation = pb.Invitation(note="for a design partner", enterprise=enterprise(number) if number else "")
    if expire is not None:
        invitation.expire_time.CopyFrom(stamp(world, expire))
    request = pb.CreateInvitationRequest(parent=EDITION, invitation=invitation, **fields)
    return world.as_(operator()).admissions.CreateInvitation(request)


def stamp(world: World, ahead: timedelta) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(world.clock.now() + ahead)
    return time


def accept(world: World, number: int, token: str, **fields: str) -> pb.Edition:
    """An enterprise accepts an invitation."""
    request = pb.AcceptInvitationRequest(token=token, **fields)
    return world.as_(member(enterprise(number))).edition.AcceptInvitation(request)


def invitations(world: World) -> dict[str, pb.Invitation]:
    """All invitations by name."""
    request = pb.ListInvitationsRequest(parent=EDITION)
    return {each.name: each for each in world.as_(operator()).admissions.ListInvitations(request).invitations}


def states(world: World) -> list[str]:
    """Where the invitations stand, newest first."""
    return [pb.Invitation.State.Name(each.state) for each in invitations(world).values()]


@pytest.fixture
def invited(world: World) -> World:
    """A rollout in a stage for the invited, of two places, and five who are verified."""
    world.create(stages=INVITED)
    world.do("Start")
    world.verify(1, 2, 3, 4, 5)
    return world


def test_invitation__accepted__opens_the_stage(invited: World) -> None:
    """In the order of acceptance while there are places; the list says who accepted which, and no token."""
    made = [invite(invited) for _ in range(3)]
    assert told(accept(invited, 4, made[2].token)) == (True, "ACTIVE", "", 0)
    assert told(accept(invited, 1, made[0].token)) == (True, "ACTIVE", "", 0)
    assert told(accept(invited, 2, made[1].token)) == (False, "WAITLISTED", "QUOTA_FULL", 1)

    listed = invitations(invited)
    accepted = {name: each.accepted_by for name, each in listed.items()}
    assert accepted == {
        made[0].name: enterprise(1), made[1].name: enterprise(2), made[2].name: enterprise(4),
    }  # fmt: skip
    assert not any(each.token for each in listed.values())
    assert {each.source for each in invited.admissions() if each.state == A.ACTIVE} == {"INVITATION"}
    assert states(invited) == ["ACCEPTED"] * 3
    assert made[0].expire_time == stamp(invited, timedelta(days=14))


def test_invitation__is_good_once(invited: World) -> None:
    """Who accepted it is answered as before, however often; nobody else gets in by it."""
    token = invite(invited).token
    first = accept(invited, 1, token)
    trail = len(invited.audit())

    assert accept(invited, 1, token) == first
    assert len(invited.audit()) == trail
    used = refused(accept, invited, 2, token)
    assert (used.reason, used.text) == (
        "INVITATION_USED",
        "the invitation has been accepted; ask for a new one",
    )
    assert not invited.edition(2).admitted


def test_invitation__accepted_by_eight_at_once__lets_one_in(invited: World) -> None:
    """Whoever was first; all others are told that it was used."""
    token = invite(invited).token
    invited.verify(*range(10, 18))

    def outcome(number: int) -> str:
        try:
            accept(invited, number, token)
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"

    with ThreadPoolExecutor(8) as pool:
        outcomes = Counter(pool.map(outcome, range(10, 18)))

    assert outcomes == {"OK": 1, "INVITATION_USED": 7}
    assert len(invited.active()) == 1


def test_invitation__expires_and_is_revoked(invited: World) -> None:
    """Then it is worthless; an accepted one cannot be revoked, and stays accepted when its time is over."""
    stub = invited.as_(operator()).admissions
    late, revoked, used = invite(invited, expire=timedelta(hours=1)), invite(invited), invite(invited)
    accept(invited, 3, used.token)
    taken_back = stub.RevokeInvitation(pb.RevokeInvitationRequest(name=revoked.name))
    invited.clock.advance(timedelta(hours=1))

    assert pb.Invitation.State.Name(taken_back.state) == "REVOKED"
    too_late, gone = refused(accept, invited, 1, late.token), refused(accept, invited, 1, revoked.token)
    assert (too_late.reason, too_late.text) == (
        "INVITATION_EXPIRED",
        "the invitation is too old; ask for a new one",
    )
    assert (gone.reason, gone.text) == (
        "INVITATION_REVOKED",
        "the invitation was taken back; ask for a new one",
    )
    assert refusal(stub.RevokeInvitation, pb.RevokeInvitationRequest(name=used.name)) == "INVITATION_USED"
    unknown = pb.RevokeInvitationRequest(name=f"{EDITION}/invitations/nowhere")
    assert refusal(stub.RevokeInvitation, unknown) == "NOT_FOUND"
    assert [pb.Invitation.State.Name(invitations(invited)[each.name].state) for each in (late, revoked, used)] == [
        "EXPIRED", "REVOKED", "ACCEPTED",
    ]  # fmt: skip
    assert not invited.edition(1).admitted


def test_invitation__of_somebody_else__is_as_one_that_is_not(invited: World) -> None:
    """Whose it is cannot be found out; and it is still good for whom it is meant."""
    token = invite(invited, 2).token

    foreign, made_up = refused(accept, invited, 1, token), refused(accept, invited, 1, "nothing")

    assert foreign == made_up
    assert (foreign.kind, foreign.reason, foreign.text) == (
        grpc.StatusCode.NOT_FOUND, "INVITATION_UNKNOWN", "there is no such invitation for you; ask for a new one",
    )  # fmt: skip
    assert accept(invited, 2, token).admitted


def test_invitation__accepted_by_who_is_not_eligible__waits_for_the_verification(invited: World) -> None:
    """It is used, and counts from then on."""
    invited.tell(8, verified=False)
    assert told(accept(invited, 8, invite(invited).token)) == (False, "WAITLISTED", "NOT_VERIFIED", 0)

    invited.verify(8)

    assert invited.edition(8).admitted


def test_invitation__of_an_enterprise_that_nobody_told_of__stays_open(invited: World) -> None:
    """The refusal leaves nothing behind."""
    token = invite(invited).token
    before = invited.everything()

    assert refusal(accept, invited, 99, token) == "NOT_FOUND"
    assert invited.everything() == before


@pytest.mark.parametrize("ahead", [timedelta(0), -timedelta(1), timedelta(days=91)])
def test_invite__for_no_time_or_too_long__is_refused(world: World, ahead: timedelta) -> None:
    """It must lie ahead, at most 90 days."""
    world.create()

    told = refused(invite, world, expire=ahead)

    assert told.fields == {"invitation.expire_time": "INVALID"}
    assert told.text == "invitation.expire_time: must be in the future, at most 90 days"


def test_invite__repeated__tells_no_token(world: World) -> None:
    """The same invitation, whose token was told once."""
    world.create()
    first = invite(world, request_id="r1")

    again = invite(world, request_id="r1")

    assert (again.name, again.token) == (first.name, "")
    assert len(first.token) >= 43
    assert len(invitations(world)) == 1


def test_invitations__are_listed_newest_first(world: World) -> None:
    """Page by page; those of one moment come once."""
    world.create()
    names = []
    for hours in (0, 0, 1, 1, 0):
        world.clock.advance(timedelta(hours=hours))
        names.append(invite(world).name)

    def walk(size: int) -> list[str]:
        found, token = [], ""
        while True:
            request = pb.ListInvitationsRequest(parent=EDITION, page_size=size, page_token=token)
            page = world.as_(operator()).admissions.ListInvitations(request)
            found += [each.name for each in page.invitations]
            token = page.next_page_token
            if not token:
                return found

    whole = walk(500)
    assert [set(whole[:2]), {whole[2]}, set(whole[3:])] == [set(names[3:]), {names[2]}, set(names[:2])]
    assert walk(2) == walk(1) == whole
    unknown = pb.ListInvitationsRequest(parent="rollouts/nowhere")
    assert refusal(world.as_(operator()).admissions.ListInvitations, unknown) == "NOT_FOUND"


def test_token__is_nowhere(invited: World, logged: Callable[[], str]) -> None:
    """Neither stored nor told nor logged nor written down, whether it is made, asked for, refused or accepted."""
    made = invite(invited, request_id="r1")
    revoked = invite(invited, 2, request_id="r2")
    refusal(accept, invited, 1, revoked.token, request_id="r3")
    accept(invited, 1, made.token, request_id="r4")
    refusal(accept, invited, 3, made.token, request_id="r5")
    invited.as_(operator()).admissions.RevokeInvitation(pb.RevokeInvitationRequest(name=revoked.name))

    lines = logged()
    kept = json.dumps(invited.everything())
    anchored = "".join(path.read_text() for path in invited.anchors.iterdir())
    trail = str(invited.audit())
    assert "INVITATION_USED" in lines
    for token in (made.token, revoked.token):
        raw = token.encode()
        for form in (
            token,
            raw.hex(),
            base64.b64encode(raw).decode(),
            base64.urlsafe_b64decode(token + "=").hex(),
        ):
            for place in (lines, kept, anchored, trail):
                assert form not in place
