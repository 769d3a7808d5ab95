"""Plans, rollouts and enterprises for the tests of the rules, by hand and at random; and what must be so after each decision."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from services.rollout.decision import explain, ineligible, is_control, quota_of, refusal
from services.rollout.model import (
    AdmissionState,
    Cause,
    Listed,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
    Subject,
)
from services.rollout.plan import (
    Action,
    Audience,
    AudienceKind,
    Guardrail,
    GuardrailKind,
    Hold,
    Narrowing,
    Plan,
    Policies,
    Segment,
    Stage,
    Worse,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
VERIFIED = {"==": [{"var": "verified"}, True]}
GOLD = {"==": [{"var": "tier"}, "gold"]}
TIERS = ("gold", "silver")

_INELIGIBLE = frozenset(
    {
        Reason.DENIED,
        Reason.NOT_VERIFIED,
        Reason.VERIFICATION_REVOKED,
        Reason.NOT_ELIGIBLE,
        Reason.ELIGIBILITY_LOST,
    }
)


LEGAL: Mapping[str, Mapping[RolloutState, RolloutState]] = MappingProxyType(
    {
        "arm": {RolloutState.DRAFT: RolloutState.ARMED},
        "start": dict.fromkeys([RolloutState.DRAFT, RolloutState.ARMED], RolloutState.RUNNING),
        "advance": {RolloutState.RUNNING: RolloutState.RUNNING},
        "jump": {RolloutState.RUNNING: RolloutState.RUNNING},
        "pause": {RolloutState.RUNNING: RolloutState.PAUSED},
        "resume": {RolloutState.PAUSED: RolloutState.RUNNING},
        "rollback": dict.fromkeys(
            [RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.COMPLETED], RolloutState.ROLLED_BACK
        ),
        "restart": {RolloutState.ROLLED_BACK: RolloutState.RUNNING},
        "complete": {RolloutState.RUNNING: RolloutState.COMPLETED},
        "archive": dict.fromkeys(
            [RolloutState.DRAFT, RolloutState.COMPLETED, RolloutState.ROLLED_BACK], RolloutState.ARCHIVED
        ),
        "kill": {state: state for state in RolloutState},
        "unkill": {state: state for state in RolloutState},
    }
)
"""Where each verb leads from where. One that was rolled back to its start is ARMED again when it is restarted."""


def make_rollout(
    *stages: Stage,
    at: int | None = -1,
    state: RolloutState = RolloutState.RUNNING,
    killed: bool = False,
    since: datetime = NOW,
    cause: Cause = Cause.NONE,
    **plan: Any,
) -> Rollout:
    """A rollout in the stage `at` of its stages; in none when that is None."""
    found = stages or (Stage("all"),)
    stage = None if at is None else found[at]
    return Rollout(
        "rollouts/edition",
        "enterprise-beta",
        "rollouts/edition",
        Plan("edition", found, **plan),
        "clients/author",
        create_time=NOW,
        update_time=NOW,
        state=state,
        stage=stage.id if stage else "",
        stage_time=since if stage else None,
        basis_points=stage.basis_points if stage else 0,
        killed=killed,
        cause=cause,
    )


def make_record(
    number: int = 1,
    *,
    verified: bool = True,
    bucket: int = 0,
    control_bucket: int = 9_999,
    listed: Listed | None = None,
    invited: int | None = None,
    joined: int | None = None,
    tier: str = "gold",
    **fields: Any,
) -> Record:
    """An enterprise's record; by itself it is eligible, within every share and never was in."""
    name = f"enterprises/e{number}"
    attributes = {"verified": verified, "enterprise": name, "tier": tier}
    return Record(
        Subject(name, number, bucket, control_bucket, attributes, listed, invited, joined), **fields
    )


def with_subject(record: Record, *, attributes: dict[str, Any] | None = None, **fields: Any) -> Record:
    """The record of an enterprise of which something else is known."""
    subject = record.subject
    merged = {**subject.attributes, **(attributes or {})}
    return replace(record, subject=replace(subject, attributes=merged, **fields))


def holding(records: Iterable[Record]) -> dict[str, str]:
    """Who has a seat, with the stage of the admission."""
    return {record.enterprise: record.stage for record in records if record.held}


def active(records: Iterable[Record]) -> set[str]:
    """Who is in."""
    return {record.enterprise for record in records if record.is_active}


def check_decided(rollout: Rollout, records: Iterable[Record]) -> None:
    """Fail unless records are what a decision may leave. Not for a rollout that was killed since the last one."""
    everybody = list(records)
    held, quota = sum(record.held for record in everybody), quota_of(rollout)
    seats = [record.seat for record in everybody if record.seat is not None]
    assert len(seats) == len(set(seats)), "a seat is taken twice"
    for record in everybody:
        if record.held:
            assert record.reason is ineligible(rollout.plan, record)
            assert record.state is (AdmissionState.SUSPENDED if record.reason else AdmissionState.ACTIVE)
            assert record.seat is not None
            assert record.admit_time is not None
            assert record.source is not Source.NONE
            assert record.stage
            assert not record.queue_key
        elif (reason := refusal(rollout, record)) is Reason.NONE:
            assert quota, "somebody who could have a seat lacks one"
            assert held >= quota, "a place is left free"
            assert record.reason is Reason.QUOTA_FULL
            assert record.queue_key
        else:
            assert record.reason in {reason, Reason.NARROWED}
            was_in = AdmissionState.WAITLISTED if record.seat is None else AdmissionState.SUSPENDED
            revoked = record.reason is Reason.REVOKED
            assert record.state is (AdmissionState.REVOKED if revoked else was_in)
            # Who joined the waitlist has a place on it, unless it could not come in at all.
            could = not revoked and not ineligible(rollout.plan, record)
            assert bool(record.queue_key) == (could and record.subject.joined is not None)
        assert record.is_active == (record.reason is Reason.NONE)
        if record.reason in _INELIGIBLE:
            assert not record.is_active
        steps = explain(rollout, record, held)
        assert all(step.holds for step in steps[:-1])
        assert steps[-1].holds == (record.is_active and not rollout.killed)


def check_control(rollout: Rollout, before: Iterable[Record], after: Iterable[Record]) -> None:
    """Fail when somebody of the control group came in for no other reason than its bucket, and the rollout was not completed."""
    was_in = holding(before)
    others = {stage.audience.kind for stage in rollout.plan.stages} - {AudienceKind.EVERYONE}
    for record in after:
        if record.held and record.enterprise not in was_in and is_control(rollout.plan, record.subject):
            called = record.source is Source.MANUAL or record.subject.listed is Listed.ALLOW
            invited = record.subject.invited is not None
            assert called or invited or others or rollout.state is RolloutState.COMPLETED


# At random


@st.composite
def plans(
    draw: st.DrawFn, *, tenants: int = 8, most_stages: int = 4, moves: bool = False, **fields: Any
) -> Plan:
    """
    A plan that has no mistake, with its text, so that it can be stored.

    Args:
        draw: of hypothesis.
        tenants: how many enterprises may be named in it.
        most_stages: named s0, s1 and so on.
        moves: also what lets it move, or keeps it from moving: holds, approvals, a breaker.
        fields: of the plan, as they are.
    """
    count = draw(st.integers(1, most_stages))
    shares = sorted(draw(st.lists(_shares, min_size=count, max_size=count)))
    quotas = sorted(draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)))
    named = st.frozensets(
        st.integers(1, tenants).map("enterprises/e{}".format), min_size=1, max_size=max(2, tenants // 3)
    )
    audiences = st.one_of(
        st.just(Audience()),
        st.just(Audience()),
        st.just(Audience(AudienceKind.SEGMENT, segment="gold")),
        st.just(Audience(AudienceKind.INVITED)),
        st.just(Audience(AudienceKind.JOINED)),
        st.builds(Audience, st.just(AudienceKind.TENANTS), tenants=named),
    )
    plan = Plan(
        stages=tuple(
            Stage(
                f"s{index}",
                draw(audiences),
                shares[index],
                draw(st.sampled_from([0, quotas[index], quotas[index]])),
                draw(_holds) if moves else Hold(),
                ramp=draw(st.sampled_from([timedelta(0), timedelta(0), timedelta(hours=2)])),
            )
            for index in range(count)
        ),
        eligible=draw(st.sampled_from([VERIFIED, VERIFIED, {"and": [VERIFIED, GOLD]}, GOLD])),
        control_share=draw(st.sampled_from([0, 0, 1_000, 5_000])),
        segments={"gold": Segment(rule=GOLD)},
        policies=Policies(narrowing=draw(st.sampled_from(Narrowing))),
        approvals_to_start=draw(st.sampled_from([0, 0, 0, 1])) if moves else 0,
        approvals_to_change=draw(st.sampled_from([0, 0, 0, 1])) if moves else 0,
        guardrails=draw(_checks) if moves else (),
        **{"rollout": "edition", **fields},
    )
    return replace(plan, text=json.dumps(plan.outline))


_shares = st.sampled_from([100, 1_000, 2_500, 5_000, 7_500, 10_000])
_holds = st.sampled_from(
    [
        Hold(),
        Hold(time=timedelta(minutes=30)),
        Hold(time=timedelta(hours=1), approvals=1),
        Hold(approvals=1),
        Hold(exposures=1),
    ]
)
METRIC = "gateway.error_rate"
"""What the breakers of random plans look at."""
_breakers = st.builds(
    Guardrail,
    st.just(GuardrailKind.BREAKER),
    st.just(METRIC),
    worse=st.just(Worse.UP),
    vs_control=st.just(False),
    max_rate=st.just(0.05),
    alpha=st.just(0.0),
    min_samples=st.just(10),
    windows=st.just(1),
    action=st.sampled_from([Action.ROLLBACK, Action.PAUSE]),
    dry_run=st.just(False),
)
_checks = st.one_of(st.just(()), st.tuples(_breakers))
