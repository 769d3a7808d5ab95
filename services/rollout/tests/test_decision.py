"""Who is in, and why not: each rule by a table, and what holds for all of them by random populations."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout import decision
from services.rollout.decision import Taken, decide, explain
from services.rollout.model import (
    AdmissionState,
    Anchor,
    Listed,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
    next_step,
)
from services.rollout.plan import Audience, AudienceKind, Narrowing, Policies, Segment, Stage
from services.rollout.tests.populations import (
    GOLD,
    NOW,
    active,
    check_decided,
    holding,
    make_record,
    make_rollout,
    with_subject,
)

INVITED, JOINED = Audience(AudienceKind.INVITED), Audience(AudienceKind.JOINED)
GOLDEN = Audience(AudienceKind.SEGMENT, segment="gold")
SEGMENTS = {"gold": Segment(rule=GOLD)}
NAMED = Audience(AudienceKind.TENANTS, tenants=frozenset({"enterprises/e1"}))
NEVER_DECIDED = {Reason.NOT_ON_THE_LIST, Reason.PREREQUISITE_OFF}
"""What only the edition tells: of whom there is no record, and whose seat is no use yet."""


def one(rollout: Rollout, record: Record, **options: Any) -> Record:
    """What is decided of one enterprise alone."""
    return decide(rollout, [record], now=NOW, **options)[0]


# Why an enterprise is not in

SEATED: dict[str, Any] = {
    "state": AdmissionState.ACTIVE,
    "reason": Reason.NONE,
    "source": Source.BUCKET,
    "stage": "all",
    "seat": 1,
    "held": True,
    "admit_time": NOW,
}
HELD_BEFORE: dict[str, Any] = {**SEATED, "held": False, "state": AdmissionState.SUSPENDED}
REVOKED: dict[str, Any] = {**HELD_BEFORE, "state": AdmissionState.REVOKED, "reason": Reason.REVOKED}
HALF = Stage("half", basis_points=5_000)
REASONS: list[tuple[Reason, AdmissionState, dict[str, Any], dict[str, Any]]] = [
    (Reason.NONE, AdmissionState.ACTIVE, {}, {}),
    (Reason.NOT_VERIFIED, AdmissionState.WAITLISTED, {}, {"verified": False}),
    (Reason.NOT_VERIFIED, AdmissionState.SUSPENDED, {}, {"verified": False, **HELD_BEFORE}),
    (Reason.VERIFICATION_REVOKED, AdmissionState.SUSPENDED, {}, {"verified": False, **SEATED}),
    (Reason.NOT_ELIGIBLE, AdmissionState.WAITLISTED, {"eligible": GOLD}, {"tier": "silver"}),
    (Reason.ELIGIBILITY_LOST, AdmissionState.SUSPENDED, {"eligible": GOLD}, {"tier": "silver", **SEATED}),
    (Reason.DENIED, AdmissionState.WAITLISTED, {}, {"listed": Listed.DENY}),
    (Reason.DENIED, AdmissionState.SUSPENDED, {}, {"listed": Listed.DENY, **SEATED}),
    (Reason.DENIED, AdmissionState.WAITLISTED, {}, {"listed": Listed.DENY, "verified": False}),
    (Reason.REVOKED, AdmissionState.REVOKED, {}, REVOKED),
    (Reason.REVOKED, AdmissionState.REVOKED, {}, {**REVOKED, "verified": False}),
    (Reason.REVOKED, AdmissionState.REVOKED, {}, {**REVOKED, "listed": Listed.ALLOW}),
    (Reason.REVOKED, AdmissionState.REVOKED, {"state": RolloutState.COMPLETED}, REVOKED),
    (Reason.EDITION_KILLED, AdmissionState.WAITLISTED, {"killed": True}, {}),
    (Reason.NONE, AdmissionState.ACTIVE, {"killed": True}, SEATED),
    *(
        (Reason.ROLLOUT_NOT_RUNNING, AdmissionState.WAITLISTED, {"state": state}, {})
        for state in RolloutState
        if state not in {RolloutState.RUNNING, RolloutState.COMPLETED}
    ),
    *((Reason.NONE, AdmissionState.ACTIVE, {"state": state}, SEATED) for state in RolloutState),
    (
        Reason.STAGE_ROLLED_BACK,
        AdmissionState.SUSPENDED,
        {"state": RolloutState.ROLLED_BACK},
        {**HELD_BEFORE, "reason": Reason.STAGE_ROLLED_BACK},
    ),
    (
        Reason.NOT_IN_AUDIENCE,
        AdmissionState.WAITLISTED,
        {"stages": [Stage("a", INVITED), Stage("b", JOINED)]},
        {},
    ),
    (Reason.NOT_IN_SHARE, AdmissionState.WAITLISTED, {"stages": [HALF]}, {"bucket": 5_000}),
    (Reason.NONE, AdmissionState.ACTIVE, {"stages": [HALF]}, {"bucket": 4_999}),
    (Reason.NONE, AdmissionState.ACTIVE, {"stages": [HALF]}, {"bucket": 5_000, **SEATED}),
    (Reason.HELD_OUT, AdmissionState.WAITLISTED, {"control_share": 1_000}, {"control_bucket": 999}),
    (Reason.NONE, AdmissionState.ACTIVE, {"control_share": 1_000}, {"control_bucket": 1_000}),
    (
        Reason.NONE,
        AdmissionState.ACTIVE,
        {"control_share": 1_000, "state": RolloutState.COMPLETED},
        {"control_bucket": 999},
    ),
    (
        Reason.NARROWED,
        AdmissionState.SUSPENDED,
        {"stages": [HALF]},
        {"bucket": 5_000, **HELD_BEFORE, "reason": Reason.NARROWED},
    ),
    (
        Reason.NARROWED,
        AdmissionState.SUSPENDED,
        {"state": RolloutState.PAUSED},
        {**HELD_BEFORE, "reason": Reason.NARROWED},
    ),
]


@pytest.mark.parametrize(("reason", "state", "rollout", "record"), REASONS)
def test_decide__says_why(
    reason: Reason, state: AdmissionState, rollout: dict[str, Any], record: dict[str, Any]
) -> None:
    """Each reason, and the state that goes with it; deciding once more says the same, and explaining agrees."""
    fields = dict(rollout)
    made = make_rollout(*fields.pop("stages", ()), **fields)

    decided = one(made, make_record(**record))

    assert (decided.reason, decided.state) == (reason, state)
    assert one(made, decided) == decided
    check_decided(made, [decided])


def test_decide__a_full_stage_says_so() -> None:
    """The second of two finds the one place taken; it waits in its turn, and comes in when there are two."""
    first, second = decide(make_rollout(Stage("all", quota=1)), [make_record(1), make_record(2)], now=NOW)
    assert (first.reason, second.reason, second.state) == (
        Reason.NONE,
        Reason.QUOTA_FULL,
        AdmissionState.WAITLISTED,
    )
    assert second.queue_key

    assert active(decide(make_rollout(Stage("all", quota=2)), [first, second], now=NOW)) == {
        first.enterprise,
        second.enterprise,
    }


def test_decide__a_quota_counts_while_the_stage_runs() -> None:
    """A completed rollout has no quota, however its last stage was bounded."""
    bounded = make_rollout(Stage("all", quota=1), state=RolloutState.COMPLETED)

    assert len(active(decide(bounded, [make_record(1), make_record(2)], now=NOW))) == 2


def test_reasons__are_all_decided_or_told_by_the_edition() -> None:
    """The table above misses none, and each has a next step in words."""
    assert {reason for reason, *_ in REASONS} | {Reason.QUOTA_FULL} == set(Reason) - NEVER_DECIDED
    for reason in Reason:
        step = next_step(reason, "enterprises/e1")
        assert bool(step) == (reason is not Reason.NONE)
        assert "{" not in step


# By which rule an enterprise comes in

RULES: list[tuple[Source, list[Stage], dict[str, Any]]] = [
    (Source.ALLOW, [Stage("a", JOINED, 100)], {"listed": Listed.ALLOW, "bucket": 9_999}),
    (Source.INVITATION, [Stage("a", INVITED)], {"invited": 1}),
    (Source.INVITATION, [Stage("a", INVITED, 100)], {"invited": 1, "bucket": 9_999}),
    (Source.INVITATION, [Stage("a", JOINED)], {"invited": 1, "bucket": 9_999}),
    (Source.WAITLIST, [Stage("a", JOINED)], {"joined": 1}),
    (Source.NONE, [Stage("a", JOINED, 100)], {"joined": 1, "bucket": 100}),
    (Source.SEGMENT, [Stage("a", GOLDEN)], {}),
    (Source.NONE, [Stage("a", GOLDEN)], {"tier": "silver"}),
    (Source.NONE, [Stage("a", GOLDEN, 100)], {"bucket": 100}),
    (Source.SEGMENT, [Stage("a", NAMED)], {}),
    (Source.NONE, [Stage("a", NAMED)], {"number": 2}),
    (Source.BUCKET, [Stage("a", basis_points=100)], {"bucket": 99}),
    (Source.NONE, [Stage("a", basis_points=100)], {"bucket": 100}),
    (Source.NONE, [Stage("a")], {"control_bucket": 0}),
    (Source.SEGMENT, [Stage("a", GOLDEN)], {"control_bucket": 0}),
    # Whom a stage before takes, the next one takes too.
    (Source.SEGMENT, [Stage("a", GOLDEN), Stage("b", basis_points=100)], {"bucket": 9_999}),
    (Source.BUCKET, [Stage("a", basis_points=100), Stage("b", INVITED)], {"bucket": 99}),
    (Source.WAITLIST, [Stage("a", JOINED), Stage("b", INVITED)], {"joined": 1}),
]


@pytest.mark.parametrize(("source", "stages", "record"), RULES)
def test_admitting_rule__takes(source: Source, stages: list[Stage], record: dict[str, Any]) -> None:
    """Each rule, its share and its limits; in the last of the stages."""
    rollout = make_rollout(*stages, segments=SEGMENTS, control_share=100)

    decided = one(rollout, make_record(**record))

    assert decision.admitting_rule(rollout, decided.subject) is source
    assert decided.source is source
    assert decided.is_active == bool(source)


def test_admitting_rule__takes_invitations_only_from_their_stage_on() -> None:
    """Where a plan has a stage for the invited, an accepted invitation is good from that stage on."""
    stages = (Stage("a", NAMED), Stage("b", INVITED), Stage("c", basis_points=100))
    guest = make_record(2, invited=1, bucket=9_999)

    rules = [decision.admitting_rule(make_rollout(*stages, at=at), guest.subject) for at in range(3)]

    assert rules == [Source.NONE, Source.INVITATION, Source.INVITATION]


def test_admitting_rule__goes_by_the_share_of_the_moment() -> None:
    """While a stage ramps, its share is the rollout's; the shares of the stages before are their own."""
    rollout = make_rollout(Stage("a", basis_points=100), Stage("b", basis_points=5_000))
    ramping = replace(rollout, basis_points=50)

    assert decision.admitting_rule(ramping, make_record(bucket=99).subject) is Source.BUCKET
    assert decision.admitting_rule(ramping, make_record(bucket=100).subject) is Source.NONE
    assert decision.admitting_rule(rollout, make_record(bucket=100).subject) is Source.BUCKET


# Who comes first


def test_order__of_filling() -> None:
    """Who had a seat, the allow list, accepted invitations, the waitlist, buckets, arrival; one place after the other."""
    in_order = [
        make_record(9, **{**HELD_BEFORE, "seat": 1}, bucket=9_000),
        make_record(8, **{**HELD_BEFORE, "seat": 2}),
        make_record(6, listed=Listed.ALLOW, bucket=8_000, joined=9),
        make_record(7, listed=Listed.ALLOW, bucket=7_000, invited=5),
        make_record(5, invited=1, bucket=6_000, joined=8),
        make_record(4, invited=2, bucket=5_000),
        make_record(3, joined=1, bucket=4_000),
        make_record(2, joined=2, bucket=3_000),
        make_record(10, bucket=1_000),
        make_record(1, bucket=2_000),
        make_record(11, bucket=2_000),
    ]
    for quota in range(1, len(in_order) + 1):
        decided = decide(make_rollout(Stage("all", quota=quota)), reversed(in_order), now=NOW)

        assert active(decided) == {record.enterprise for record in in_order[:quota]}
        waiting = sorted((record.queue_key, record.enterprise) for record in decided if record.queue_key)
        assert [name for _, name in waiting] == [record.enterprise for record in in_order[quota:]]


@given(st.data())
def test_order__is_that_of_the_filling_one_by_one(data: st.DataObject) -> None:
    """Who comes in when a place is free is who was the first of those who waited for it, however the places come free."""
    count = data.draw(st.integers(1, 8))
    records = [
        make_record(
            number,
            bucket=data.draw(st.integers(0, 3)),
            listed=data.draw(st.sampled_from([None, Listed.ALLOW])),
            invited=data.draw(st.none() | st.just(number * 7 % 11)),
            joined=data.draw(st.none() | st.just(number * 5 % 11)),
        )
        for number in range(1, count + 1)
    ]
    one_by_one: list[str] = []
    decided = decide(make_rollout(Stage("all", quota=1)), records, now=NOW)
    for quota in range(2, count + 2):
        waiting = [record for record in decided if not record.is_active]
        first = min(waiting, key=lambda record: record.queue_key, default=None)
        before = active(decided)
        decided = decide(make_rollout(Stage("all", quota=quota)), decided, now=NOW)
        assert active(decided) - before == ({first.enterprise} if first else set())
        one_by_one += sorted(active(decided) - before)

    at_once = decide(make_rollout(Stage("all")), records, now=NOW)
    by_seat = sorted(at_once, key=lambda record: record.seat or 0)
    assert [record.enterprise for record in by_seat][1:] == one_by_one


# Seats


def test_seat__eligibility_outranks_stickiness__and_gives_the_same_place_back() -> None:
    """Who loses its verification is out, nobody takes the place meanwhile, and it comes back to the very same one."""
    rollout = make_rollout(Stage("all", quota=2))
    first, second, third = decide(rollout, [make_record(n) for n in (1, 2, 3)], now=NOW)

    lost = decide(
        rollout, [with_subject(first, attributes={"verified": False}), second, third], now=NOW + timedelta(1)
    )
    back = decide(
        rollout, [with_subject(lost[0], attributes={"verified": True}), *lost[1:]], now=NOW + timedelta(2)
    )

    assert active(lost) == {second.enterprise}
    assert lost[2].reason is Reason.QUOTA_FULL
    assert back == [first, second, third]


def test_seat__of_old_is_given_back_with_its_number_and_time() -> None:
    """Who had a seat before a rollback and comes in again keeps its number, and when it first came in."""
    before = make_record(**{**HELD_BEFORE, "reason": Reason.STAGE_ROLLED_BACK, "seat": 7})

    again = one(make_rollout(Stage("b")), before, others=Taken(last_seat=9))
    new = one(make_rollout(Stage("b")), make_record(), others=Taken(last_seat=9))

    later = decide(make_rollout(Stage("b")), [before], now=NOW + timedelta(1))[0]
    assert again == later
    assert (again.seat, again.admit_time, again.source, again.stage) == (7, NOW, Source.BUCKET, "b")
    assert new.seat == 10


def test_seat__stickiness_outranks_shares() -> None:
    """Who is in stays in when no rule would take it any more."""
    stages = (Stage("a", JOINED), Stage("b", basis_points=100))
    member = one(make_rollout(*stages, at=0), make_record(joined=1, bucket=9_999))

    left = one(make_rollout(*stages), with_subject(member, joined=None))

    assert left.is_active
    assert decision.admitting_rule(make_rollout(*stages), left.subject) is Source.NONE


def test_seat__revoked_is_for_good__until_somebody_admits_it_by_hand() -> None:
    """Neither a new verification nor a wider stage nor the allow list brings it back; a person does, to its old seat."""
    rollout = make_rollout(Stage("all", quota=1))
    member = one(rollout, make_record())
    revoked = one(
        rollout,
        replace(member, state=AdmissionState.REVOKED, reason=Reason.REVOKED, held=False, source=Source.NONE),
    )
    for change in (
        {"attributes": {"verified": False}},
        {"attributes": {"verified": True}},
        {"listed": Listed.DENY},
        {"listed": Listed.ALLOW},
    ):
        revoked = one(rollout, with_subject(revoked, **change))
        assert revoked.state is AdmissionState.REVOKED

    by_hand = one(rollout, replace(revoked, source=Source.MANUAL, state=AdmissionState.WAITLISTED))

    assert (by_hand.is_active, by_hand.source, by_hand.seat) == (True, Source.MANUAL, member.seat)


def test_seat__given_by_hand_needs_no_rule() -> None:
    """Whoever is admitted by hand is in without bucket and audience, and stays in."""
    rollout = make_rollout(Stage("a", INVITED))

    admitted = one(rollout, make_record(source=Source.MANUAL))

    assert admitted.is_active
    assert one(rollout, admitted) == admitted


# One alone


@given(st.data())
def test_decide__one_alone_comes_out_as_among_all(data: st.DataObject) -> None:
    """A change that concerns one enterprise and frees no seat is decided on its record, with the others summed up."""
    quota = data.draw(st.integers(0, 3))
    count = data.draw(st.integers(1, 6))
    rollout = make_rollout(Stage("all", basis_points=5_000, quota=quota), control_share=1_000)
    drawn = st.builds(
        make_record,
        verified=st.booleans(),
        bucket=st.sampled_from([0, 4_999, 5_000]),
        control_bucket=st.sampled_from([999, 1_000]),
        joined=st.none() | st.integers(0, 3),
    )
    numbered = [
        replace(data.draw(drawn).subject, enterprise=f"enterprises/e{n}", arrival=n) for n in range(count)
    ]
    before = decide(rollout, [Record(subject) for subject in numbered], now=NOW)
    index = data.draw(st.integers(0, count - 1))
    changed = with_subject(
        before[index],
        attributes={"verified": data.draw(st.booleans())},
        listed=data.draw(st.sampled_from([None, *Listed])),
        invited=data.draw(st.none() | st.integers(0, 3)),
    )
    others = [*before[:index], *before[index + 1 :]]
    taken = Taken(len(holding(others)), max((record.seat or 0 for record in before), default=0))

    among_all = decide(rollout, [*before[:index], changed, *before[index + 1 :]], now=NOW)

    assert decide(rollout, [changed], now=NOW, others=taken) == [among_all[index]]
    assert [*among_all[:index], *among_all[index + 1 :]] == others


# Explaining


def test_explain__asks_up_to_the_first_no() -> None:
    """The questions come in the order of the decision, with the values that they were asked of."""
    rollout = make_rollout(Stage("half", basis_points=5_000, quota=3))

    def told(record: Record, held: int = 0) -> list[tuple[str, bool]]:
        return [(step.rule, step.holds) for step in explain(rollout, record, held)]

    asked = ["NOT_KILLED", "NOT_REVOKED", "NOT_DENIED", "ELIGIBLE"]
    passed = [(name, True) for name in asked]
    assert told(make_record(**SEATED)) == [*passed, ("HAS_SEAT", True)]
    assert told(make_record(verified=False)) == [*passed[:3], ("ELIGIBLE", False)]
    assert told(make_record(listed=Listed.DENY)) == [*passed[:2], ("NOT_DENIED", False)]
    assert told(make_record(**REVOKED)) == [*passed[:1], ("NOT_REVOKED", False)]
    assert told(make_record(bucket=5_000)) == [*passed, ("RUNNING", True), ("WITHIN_STAGE", False)]
    assert told(make_record(**HELD_BEFORE, bucket=5_000))[-1] == ("WITHIN_STAGE", False)
    assert told(make_record(), held=3)[-1] == ("WITHIN_QUOTA", False)
    killed = replace(rollout, killed=True)
    assert [step.rule for step in explain(killed, make_record(), 0)] == ["NOT_KILLED"]
    assert (
        "bucket 5000 of 10000; half takes those below 5000"
        in explain(rollout, make_record(bucket=5_000), 0)[-1].detail
    )


# Widening and narrowing


def test_widening__moves_nobody_out__and_lets_in_whom_it_takes() -> None:
    """From the invited to 5 % of all: who was in stays in, whatever its bucket, and those below the share come."""
    stages = (Stage("a", INVITED), Stage("b", basis_points=500))
    guests = [make_record(1, invited=1, bucket=9_000), make_record(2, bucket=499), make_record(3, bucket=500)]
    before = decide(make_rollout(*stages, at=0), guests, now=NOW)

    after = decide(make_rollout(*stages), before, now=NOW)

    assert active(before) == {"enterprises/e1"}
    assert active(after) == {"enterprises/e1", "enterprises/e2"}


def narrowing(policy: Narrowing, stage: Stage, **fields: Any) -> Rollout:
    """A rollout in this stage, under a policy."""
    return make_rollout(stage, policies=Policies(narrowing=policy), segments=SEGMENTS, **fields)


def seated(count: int, **fields: Any) -> list[Record]:
    """Enterprises that are in; seat and bucket (of a hundred times) by their number."""
    return [make_record(n, bucket=n * 100, **{**SEATED, "seat": n, **fields}) for n in range(1, count + 1)]


WIDE = Stage("all", basis_points=10_000)
NARROWINGS: list[tuple[Narrowing, Stage, Stage, set[int]]] = [
    # Of ten, whose buckets are 100 to 1000: who leaves.
    (Narrowing.KEEP, WIDE, Stage("all", basis_points=501), set()),
    (Narrowing.KEEP, WIDE, Stage("all", quota=4), set()),
    (Narrowing.EXPEL_ALL, WIDE, Stage("all", basis_points=501), {6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_ALL, WIDE, Stage("all", quota=4), {5, 6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_ALL, WIDE, Stage("all", basis_points=501, quota=4), {5, 6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_ALL, WIDE, Stage("all", basis_points=501, quota=7), {6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_ALL, WIDE, Stage("all", INVITED), set(range(1, 11))),
    # A quota that is no smaller than it was expels nobody, though there are more.
    (Narrowing.EXPEL_ALL, Stage("all", quota=4), Stage("all", quota=5), set()),
    (Narrowing.EXPEL_ALL, Stage("all", quota=4), Stage("all", quota=4), set()),
    # 7 % of ten are none, but those below it stay; 80 % of ten are eight, though only seven have such buckets.
    (Narrowing.EXPEL_NEWEST_FIRST, WIDE, Stage("all", basis_points=701), {8, 9, 10}),
    (Narrowing.EXPEL_NEWEST_FIRST, WIDE, Stage("all", quota=4), {5, 6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_NEWEST_FIRST, WIDE, Stage("all", basis_points=501, quota=7), {6, 7, 8, 9, 10}),
    (Narrowing.EXPEL_NEWEST_FIRST, WIDE, Stage("all", INVITED), set(range(1, 11))),
]


@pytest.mark.parametrize(("policy", "old", "new", "left"), NARROWINGS)
def test_narrowing__expels_by_its_policy(policy: Narrowing, old: Stage, new: Stage, left: set[int]) -> None:
    """Who leaves an edited stage; they are told, keep their seats' order, and come first when it widens again."""
    before, after = narrowing(policy, old), narrowing(policy, new)

    records = decide(after, seated(10), now=NOW, narrowed=before)

    out = [record for record in records if not record.held]
    assert {record.seat for record in out} == left
    assert {record.reason for record in out} <= {Reason.NARROWED, Reason.QUOTA_FULL}
    assert {record.state for record in out} <= {AdmissionState.SUSPENDED}
    check_decided(after, records)
    assert decide(after, records, now=NOW) == records
    again = decide(before, [*records, make_record(11, listed=Listed.ALLOW)], now=NOW)
    if before.plan.stages[0].quota == 0:
        assert active(again) == {f"enterprises/e{number}" for number in range(1, 12)}
        assert [record.seat for record in again] == list(range(1, 12))


def test_narrowing__newest_first__keeps_the_oldest_up_to_the_share() -> None:
    """Half of ten are five: where only two have buckets below the half, the three oldest of the others stay."""
    fields = {"bucket": 9_000}
    records = [make_record(n, **{**SEATED, "seat": n}, **(fields if n <= 8 else {})) for n in range(1, 11)]
    half = narrowing(Narrowing.EXPEL_NEWEST_FIRST, Stage("all", basis_points=5_000))

    decided = decide(half, records, now=NOW, narrowed=narrowing(Narrowing.EXPEL_NEWEST_FIRST, WIDE))

    assert {record.seat for record in decided if record.held} == {9, 10, 1, 2, 3}


def test_narrowing__newest_first__counts_the_share_of_the_audience() -> None:
    """Half of the four golden ones are two, however many others are eligible."""
    old = narrowing(Narrowing.EXPEL_NEWEST_FIRST, Stage("all", GOLDEN))
    new = narrowing(Narrowing.EXPEL_NEWEST_FIRST, Stage("all", GOLDEN, 5_000))
    golden = [make_record(n, bucket=9_000, **{**SEATED, "seat": n}) for n in range(1, 5)]
    others = [make_record(n, tier="silver") for n in range(5, 20)]
    others += [make_record(n, verified=False) for n in range(20, 40)]

    decided = decide(new, [*golden, *others], now=NOW, narrowed=old)

    assert {record.seat for record in decided if record.held} == {1, 2}


@pytest.mark.parametrize("policy", [Narrowing.EXPEL_ALL, Narrowing.EXPEL_NEWEST_FIRST])
def test_narrowing__concerns_nobody_whom_no_rule_took(policy: Narrowing) -> None:
    """Who is in by hand, by the allow list, or because it came in earlier does not leave by an edit of a share."""
    by_hand, allowed, earlier, dropped = seated(4)
    everybody = [
        replace(by_hand, source=Source.MANUAL, stage="earlier"),
        with_subject(allowed, listed=Listed.ALLOW),
        with_subject(earlier, bucket=9_999),
        dropped,
    ]
    before = narrowing(policy, Stage("all", basis_points=9_000))
    after = narrowing(policy, Stage("all", basis_points=100))

    decided = decide(after, everybody, now=NOW, narrowed=before)

    assert decided[:3] == everybody[:3]
    assert active(decided) == {"enterprises/e1", "enterprises/e2", "enterprises/e3"}


@pytest.mark.parametrize(
    ("state", "leaves"),
    [
        (RolloutState.RUNNING, True),
        (RolloutState.PAUSED, True),
        (RolloutState.ROLLED_BACK, True),
        (RolloutState.COMPLETED, False),
    ],
)
def test_narrowing__is_done_wherever_a_stage_has_seats(state: RolloutState, leaves: bool) -> None:
    """Also while it is paused; but when it is completed everybody is taken, whatever the last stage was."""
    before = narrowing(Narrowing.EXPEL_ALL, WIDE, state=state)
    after = narrowing(Narrowing.EXPEL_ALL, Stage("all", basis_points=501, quota=9), state=state)

    decided = decide(after, seated(10, stage="earlier"), now=NOW, narrowed=before)

    assert holding(decided) == {
        f"enterprises/e{number}": "earlier" for number in range(1, 6 if leaves else 11)
    }
    check_decided(after, decided)


def test_narrowing__of_the_audience_and_of_the_control_group_counts() -> None:
    """Another segment drops those of the old one, and a larger control group those who belong to it now."""
    policy = Policies(narrowing=Narrowing.EXPEL_ALL)
    stage = Stage("all", GOLDEN)
    before = make_rollout(stage, policies=policy, segments=SEGMENTS)
    after = make_rollout(stage, policies=policy, segments={"gold": Segment(frozenset({"enterprises/e1"}))})
    assert active(decide(after, seated(2), now=NOW, narrowed=before)) == {"enterprises/e1"}

    before = make_rollout(WIDE, policies=policy, control_share=100)
    after = make_rollout(WIDE, policies=policy, control_share=1_000)
    members = seated(2)
    members[0] = with_subject(members[0], control_bucket=999)
    decided = decide(after, members, now=NOW, narrowed=before)
    assert active(decided) == {"enterprises/e2"}
    assert decided[0].reason is Reason.NARROWED


# Rollback


def test_rollback__gives_back_exactly_the_seats_of_the_anchor() -> None:
    """Who came since then loses its seat, who has lost it since then has it again; but what was revoked stays revoked."""
    members = seated(5)
    kept, unverified, expelled, revoked, newcomer = members
    anchor = Anchor("all", NOW, 5_000, {record.enterprise: "old" for record in members[:4]})
    now = [
        kept,
        with_subject(unverified, attributes={"verified": False}),
        replace(expelled, held=False, state=AdmissionState.SUSPENDED, reason=Reason.NARROWED),
        replace(revoked, held=False, state=AdmissionState.REVOKED, reason=Reason.REVOKED, source=Source.NONE),
        newcomer,
        make_record(6),
    ]
    rollout = make_rollout(state=RolloutState.ROLLED_BACK)

    back = decide(rollout, now, now=NOW, anchor=anchor)

    assert holding(back) == dict.fromkeys(["enterprises/e1", "enterprises/e2", "enterprises/e3"], "old")
    assert [(record.state.value, record.reason.value) for record in back] == [
        ("ACTIVE", ""),
        ("SUSPENDED", "VERIFICATION_REVOKED"),
        ("ACTIVE", ""),
        ("REVOKED", "REVOKED"),
        ("SUSPENDED", "STAGE_ROLLED_BACK"),
        ("WAITLISTED", "ROLLOUT_NOT_RUNNING"),
    ]
    assert decide(rollout, back, now=NOW) == back
    check_decided(rollout, back)


def test_rollback__gives_seats_beyond_a_quota_that_shrank__and_then_lets_nobody_in() -> None:
    """The anchor outranks the quota of a plan that was edited since."""
    anchor = Anchor("all", NOW, 10_000, {f"enterprises/e{number}": "all" for number in range(1, 4)})
    rollout = make_rollout(Stage("all", quota=2), state=RolloutState.ROLLED_BACK)
    back = decide(rollout, [*seated(3, held=False), make_record(4)], now=NOW, anchor=anchor)

    again = decide(replace(rollout, state=RolloutState.RUNNING), back, now=NOW)

    assert active(back) == active(again) == set(anchor.held)
    assert again[3].reason is Reason.QUOTA_FULL
