"""The allow and the deny list: who comes before others, who never comes in, and until when."""

from datetime import UTC, datetime, timedelta

import pytest
from numerator.rollout.v1 import admissions_pb2 as pb

from services.chassis.testing.rpc import member, operator
from services.rollout.tests.world import EDITION, World, enterprise, plan, refusal, refused

ALLOW, DENY = pb.ListEntry.ALLOW, pb.ListEntry.DENY


def put(
    world: World, number: int, kind: pb.ListEntry.Kind.ValueType, until: datetime | None = None, **fields: str
) -> pb.ListEntry:
    """An enterprise, on a list."""
    entry = pb.ListEntry(enterprise=enterprise(number), kind=kind, reason="a test")
    if until:
        entry.expire_time.FromDatetime(until)
    request = pb.SetListEntryRequest(parent=EDITION, entry=entry, **fields)
    return world.as_(operator()).admissions.SetListEntry(request)


def take(world: World, number: int) -> pb.ListEntry:
    """An enterprise, off its list."""
    request = pb.DeleteListEntryRequest(parent=EDITION, enterprise=enterprise(number))
    return world.as_(operator()).admissions.DeleteListEntry(request)


def listed(world: World, size: int = 50) -> list[tuple[str, str]]:
    """The entries, page by page."""
    found, token = [], ""
    while True:
        request = pb.ListListEntriesRequest(parent=EDITION, page_size=size, page_token=token)
        page = world.as_(operator()).admissions.ListListEntries(request)
        found += [(each.enterprise, pb.ListEntry.Kind.Name(each.kind)) for each in page.entries]
        token = page.next_page_token
        if not token:
            return found


@pytest.fixture
def closed(world: World) -> World:
    """A rollout in a stage for one named enterprise, and three others who are verified."""
    world.create(stages="- {ring: a, audience: {tenants: [enterprises/x]}, quota: 2}\n- {ring: all}")
    world.do("Start")
    world.verify(1, 2, 3)
    return world


def test_allow__lets_in_whatever_the_stage_is_for(closed: World) -> None:
    """While there is a place; then it waits before all others."""
    put(closed, 1, ALLOW)
    put(closed, 2, ALLOW)
    put(closed, 3, ALLOW)

    assert closed.active() == {enterprise(1), enterprise(2)}
    assert {each.source for each in closed.admissions() if each.state == pb.Admission.ACTIVE} == {"ALLOW"}
    assert (closed.edition(3).reason, closed.edition(3).position) == ("QUOTA_FULL", 1)


def test_allow__is_not_eligibility(closed: World) -> None:
    """Who is not verified waits for that."""
    closed.tell(9, verified=False)
    put(closed, 9, ALLOW)
    assert closed.edition(9).reason == "NOT_VERIFIED"

    closed.verify(9)

    assert closed.edition(9).admitted


def test_allow__of_the_control_group__takes_it_in(world: World) -> None:
    """What a person decides goes before what a hash decides."""
    world.create(stages="- {ring: a}", control_share="50%")
    world.do("Start")
    world.verify(*range(10))
    held_out = next(each for each in world.admissions() if each.reason == "HELD_OUT").enterprise

    put(world, int(held_out.removeprefix("enterprises/e")), ALLOW)

    assert held_out in world.active()


def test_deny__closes_for_who_is_in_and_for_who_waits(world: World) -> None:
    """The seat is kept; off the list it is as before."""
    world.create(stages="- {ring: a, quota: 1}")
    world.do("Start")
    world.verify(1, 2)

    put(world, 1, DENY)
    put(world, 2, DENY)
    closed = {n: (world.edition(n).admitted, world.edition(n).reason) for n in (1, 2)}
    take(world, 1)
    take(world, 2)

    assert closed == {1: (False, "DENIED"), 2: (False, "DENIED")}
    assert world.edition(1).admitted
    assert world.edition(2).reason == "QUOTA_FULL"


def test_entry__replaces_the_one_before(closed: World) -> None:
    """An enterprise is on one list at most."""
    put(closed, 1, ALLOW)
    assert closed.edition(1).admitted

    put(closed, 1, DENY)

    assert closed.edition(1).reason == "DENIED"
    assert listed(closed) == [(enterprise(1), "DENY")]


def test_allow__deleted__puts_nobody_out(closed: World) -> None:
    """Who came in by it stays in; a second time there is nothing to delete."""
    put(closed, 1, ALLOW)

    assert take(closed, 1).kind == ALLOW

    assert closed.active() == {enterprise(1)}
    assert refusal(take, closed, 1) == "NOT_FOUND"


def test_allow__expired__lets_nobody_in_any_more(world: World) -> None:
    """At its time, to the second, it is off the list."""
    world.create(stages="- {ring: a, percent: 0.01%}")
    world.do("Start")
    world.tell(1, verified=False)
    put(world, 1, ALLOW, world.clock.now() + timedelta(hours=1))
    world.tick(minutes=59, seconds=59)
    assert len(listed(world)) == 1

    world.tick(seconds=1)
    world.verify(1)

    assert listed(world) == []
    assert world.edition(1).reason == "NOT_IN_SHARE"


def test_allow__expired__puts_nobody_out(world: World) -> None:
    """As when it is deleted."""
    world.create(stages="- {ring: a, percent: 0.01%}")
    world.do("Start")
    world.verify(1)
    put(world, 1, ALLOW, world.clock.now() + timedelta(hours=1))

    world.tick(hours=2)

    assert listed(world) == []
    assert world.edition(1).admitted


def test_deny__expired__lets_in_at_once(world: World) -> None:
    """Nobody has to do anything."""
    world.create(stages="- {ring: a}")
    world.do("Start")
    world.verify(1)
    put(world, 1, DENY, world.clock.now() + timedelta(hours=1))
    assert not world.edition(1).admitted

    world.tick(hours=1)

    assert world.edition(1).admitted


def test_entries__are_written_down_with_their_reasons(closed: World) -> None:
    """Who put whom on which list, until when, and took them off."""
    put(closed, 1, DENY, datetime(2026, 2, 1, tzinfo=UTC))
    take(closed, 1)

    trail = [(each.cause, each.enterprise, each.actor) for each in closed.audit(EDITION)]
    assert ("list.entered", enterprise(1), "operators/tester") in trail
    assert ("list.left", enterprise(1), "operators/tester") in trail
    entered = next(each.detail for each in closed.audit() if each.cause == "list.entered")
    assert entered == '{"expire_time": "2026-02-01T00:00:00+00:00", "list": "DENY", "reason": "a test"}'


def test_entries__are_listed_by_enterprise(closed: World) -> None:
    """Page by page."""
    for number, kind in ((3, DENY), (1, ALLOW), (2, ALLOW)):
        put(closed, number, kind)

    expected = [(enterprise(1), "ALLOW"), (enterprise(2), "ALLOW"), (enterprise(3), "DENY")]
    assert listed(closed) == listed(closed, size=1) == listed(closed, size=2) == expected


def test_entry__wrong__is_refused(closed: World) -> None:
    """No list, no enterprise, a time that has passed, somebody nobody told of, no such rollout."""
    now = closed.clock.now()
    assert refused(put, closed, 1, pb.ListEntry.KIND_UNSPECIFIED).fields == {"entry.kind": "REQUIRED"}
    assert refused(put, closed, 1, ALLOW, now).fields == {"entry.expire_time": "INVALID"}
    assert refusal(put, closed, 99, ALLOW) == "NOT_FOUND"
    stub = closed.as_(operator()).admissions
    entry = pb.ListEntry(enterprise="x", kind=ALLOW, reason="a test")
    wrong = refused(stub.SetListEntry, pb.SetListEntryRequest(parent=EDITION, entry=entry))
    assert wrong.fields == {"entry.enterprise": "INVALID"}
    nowhere = pb.ListListEntriesRequest(parent="rollouts/nowhere")
    assert refusal(stub.ListListEntries, nowhere) == "NOT_FOUND"
    assert listed(closed) == []


def test_entry__repeated_request__has_one_effect(closed: World) -> None:
    """The answer of the first time; the trail has it once."""
    first = put(closed, 1, ALLOW, request_id="r1")
    take(closed, 1)

    assert put(closed, 1, ALLOW, request_id="r1") == first
    assert listed(closed) == []


def test_filling__comes_in_its_order(world: World) -> None:
    """Who had a seat, the allow list, accepted invitations, the waitlist, then buckets."""
    world.create(stages="- {ring: a, quota: 1}\n- {ring: all}")
    world.do("Start")
    world.verify(0)
    world.verify(1, 2, 3, 4, 5)
    admissions = world.as_(operator()).admissions
    world.as_(member(enterprise(3))).edition.JoinWaitlist(pb.JoinWaitlistRequest())
    invitation = admissions.CreateInvitation(pb.CreateInvitationRequest(parent=EDITION))
    world.as_(member(enterprise(2))).edition.AcceptInvitation(
        pb.AcceptInvitationRequest(token=invitation.token)
    )
    put(world, 1, ALLOW)

    places = sorted((world.edition(n).position, n) for n in (1, 2, 3))
    assert places == [(1, 1), (2, 2), (3, 3)]
    buckets = {
        n: each.bucket for each in world.admissions() for n in (4, 5) if each.enterprise == enterprise(n)
    }
    rest = sorted((4, 5), key=lambda n: buckets[n])
    assert [world.edition(n).position for n in rest] == [4, 5]
    for quota in (2, 3, 4, 5, 6):
        world.apply(plan(stages=f"- {{ring: a, quota: {quota}}}\n- {{ring: all}}"))
        assert world.active() == {enterprise(n) for n in (0, 1, 2, 3, *rest)[:quota]}
