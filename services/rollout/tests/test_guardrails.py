"""What guardrails say of a stage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.guardrails import (
    LEAST_ENTERPRISES,
    Analysis,
    Look,
    Outcome,
    Reading,
    Readings,
    Sample,
    check,
)
from services.rollout.model import Cause
from services.rollout.plan import Action, Guardrail, GuardrailKind, Policies, Worse
from services.rollout.statistics import Arm, lower_bound

ERRORS, SLOW, BOUND = "publish.error_rate", "gateway.latency_over_300ms", "binding.success_rate"
ENTERED = datetime(2026, 3, 2, 8, tzinfo=UTC)
NOW = ENTERED + timedelta(hours=2)
LOOK = Look(NOW, ENTERED, stages=1, policies=Policies(), treated_share=0.5, at_gate=False)
WELL, BAD = Arm(200, 0.02, 0.002), Arm(200, 0.10, 0.009)
ROLLBACK, PAUSE, WARN = Action.ROLLBACK, Action.PAUSE, Action.WARN


def compared(metric: str = ERRORS, action: Action = ROLLBACK, **fields: Any) -> Guardrail:
    """A check against the control group."""
    fields = {"kind": GuardrailKind.GUARDRAIL, "windows": 1, "min_samples": 0, "dry_run": False} | fields
    return Guardrail(
        metric=metric, worse=Worse.UP, vs_control=True, max_rate=None, alpha=0.05, action=action, **fields
    )


def breaker(metric: str = ERRORS, action: Action = ROLLBACK, **fields: Any) -> Guardrail:
    """A check against a fixed rate of 5 %."""
    fields = {"windows": 2, "min_samples": 200, "dry_run": False} | fields
    return Guardrail(
        kind=GuardrailKind.BREAKER,
        metric=metric,
        worse=Worse.UP,
        vs_control=False,
        max_rate=0.05,
        alpha=0,
        action=action,
        **fields,
    )


def measured(treatment: Arm = WELL, control: Arm = WELL, *minutes: Sample, metric: str = ERRORS) -> Readings:
    """One metric, measured up to now."""
    return Readings({metric: Reading(NOW, treatment, control, minutes)}, treatment.n, control.n)


def looked(guardrail: Guardrail, readings: Readings, **fields: Any) -> Analysis:
    """A look with one check."""
    return check([guardrail], readings, replace(LOOK, **fields))


# Against the control group


def test_check__no_harm__passes() -> None:
    """Enough enterprises, and nothing that is surely worse."""
    analysis = looked(compared(), measured())

    assert (analysis.outcome, analysis.action, analysis.cause) == (Outcome.PASS, None, Cause.NONE)
    assert analysis.may_advance
    assert analysis.verdicts[0].lower is not None
    assert analysis.verdicts[0].lower < 0


def test_check__nothing_to_check__passes() -> None:
    """A plan need not have guardrails."""
    assert check([], Readings(), LOOK).may_advance


@pytest.mark.parametrize("at_gate", [False, True])
@pytest.mark.parametrize("action", [ROLLBACK, PAUSE])
def test_check__harm__acts_also_while_it_waits_at_the_gate(action: Action, *, at_gate: bool) -> None:
    """And says why, in numbers."""
    analysis = looked(compared(action=action), measured(BAD), at_gate=at_gate)

    assert (analysis.outcome, analysis.action, analysis.cause) == (Outcome.FAIL, action, Cause.GUARDRAIL)
    assert not analysis.may_advance
    assert analysis.reason == (
        "publish.error_rate: 10.00% of 200 enterprises in the stage, 2.00% of 200 in the control group; surely worse by "
        "5.86% or more, 1 of 1 times in a row (alpha 0.05)"
    )


def test_check__better_than_the_control_group__passes() -> None:
    """The bound has one side."""
    assert looked(compared(), measured(WELL, BAD)).outcome is Outcome.PASS


def test_check__rate_of_success__is_worse_when_it_falls() -> None:
    """What is measured is what went wrong; what is told is what went well."""
    verdict = looked(compared(BOUND), measured(BAD, WELL, metric=BOUND)).verdicts[0]

    assert verdict.outcome is Outcome.FAIL
    assert (verdict.treatment, verdict.control) == (pytest.approx(0.90), pytest.approx(0.98))


def test_check__signal__pauses_in_its_own_name() -> None:
    """So that people see what stopped it."""
    analysis = looked(compared(action=PAUSE, kind=GuardrailKind.SIGNAL), measured(BAD))

    assert (analysis.action, analysis.cause) == (PAUSE, Cause.SIGNAL)


@pytest.mark.parametrize(
    ("treated", "control", "min_samples"),
    [(LEAST_ENTERPRISES - 1, 500, 0), (500, LEAST_ENTERPRISES - 1, 0), (99, 500, 100), (500, 0, 0)],
)
def test_check__too_few_enterprises__is_inconclusive_whatever_they_show(
    treated: int, control: int, min_samples: int
) -> None:
    """It holds the stage, and pauses only when nothing else holds it."""
    guardrail = compared(min_samples=min_samples)
    few = measured(Arm(treated, 1.0, 0.0), Arm(control, 0.0, 0.0))

    waiting = looked(guardrail, few, treated_share=None)
    at_gate = looked(guardrail, few, treated_share=None, at_gate=True)

    assert (waiting.outcome, waiting.action, waiting.cause) == (Outcome.INCONCLUSIVE, None, Cause.NONE)
    assert (at_gate.outcome, at_gate.action, at_gate.cause) == (
        Outcome.INCONCLUSIVE,
        PAUSE,
        Cause.INCONCLUSIVE,
    )
    assert not waiting.may_advance
    assert not at_gate.may_advance
    assert f"too few enterprises, {treated} in the stage and {control} in the control group" in waiting.reason


def test_check__too_few_for_a_signal__holds_nothing() -> None:
    """A signal speaks up or does not."""
    few = measured(Arm(3, 0.5, 0.1))

    assert looked(compared(kind=GuardrailKind.SIGNAL), few, treated_share=None).may_advance


def test_check__alpha__is_split_over_checks_of_the_kind_and_over_stages() -> None:
    """Two guardrails in a plan of three stages have a sixth each; signals do not count."""
    guardrails = [compared(), compared(SLOW), compared(kind=GuardrailKind.SIGNAL)]

    verdict = check(guardrails, measured(BAD), replace(LOOK, stages=3)).verdicts[0]

    assert verdict.lower == lower_bound(BAD, WELL, alpha=0.05 / 6)


def test_check__failures__act_only_so_many_in_a_row() -> None:
    """Before that they hold the stage; a pass begins the count anew."""
    guardrail = compared(windows=3)
    seen, previous = [], ()
    for tick, arm in enumerate([BAD, BAD, WELL, BAD, BAD, BAD]):
        now = NOW + tick * timedelta(minutes=1)
        readings = Readings({ERRORS: Reading(now, arm, WELL)}, 200, 200)
        analysis = looked(guardrail, readings, now=now, previous=previous)
        seen.append((analysis.action, analysis.verdicts[0].failures, analysis.may_advance))
        previous = analysis.verdicts

    assert seen == [
        (None, 1, False),
        (None, 2, False),
        (None, 0, True),
        (None, 1, False),
        (None, 2, False),
        (ROLLBACK, 3, False),
    ]


def test_check__same_data_again__is_no_second_failure() -> None:
    """Looks come more often than minutes."""
    guardrail = compared(windows=2)
    first = looked(guardrail, measured(BAD))

    again = looked(guardrail, measured(BAD), now=NOW + timedelta(seconds=15), previous=first.verdicts)

    assert (again.action, again.verdicts[0].failures) == (None, 1)
    assert again.verdicts[0].outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("reading", "outcome"),
    [(Reading(NOW, BAD, WELL), Outcome.NO_DATA), (Reading(NOW + timedelta(hours=1)), Outcome.INCONCLUSIVE)],
)
def test_check__what_cannot_be_judged__keeps_the_count(reading: Reading, outcome: Outcome) -> None:
    """A gap between two failures is neither a failure nor a pass."""
    guardrail = compared(windows=2)
    first = looked(guardrail, measured(BAD))
    gap = looked(
        guardrail, Readings({ERRORS: reading}), now=NOW + timedelta(hours=1), previous=first.verdicts
    )
    later = NOW + timedelta(hours=1, minutes=1)
    after = Readings({ERRORS: Reading(later, BAD, WELL)}, 200, 200)

    assert gap.outcome is outcome
    assert looked(guardrail, after, now=later, previous=gap.verdicts).action is ROLLBACK


@pytest.mark.parametrize("guardrail", [compared(dry_run=True), breaker(dry_run=True)])
def test_check__dry_run__tells_and_does_nothing(guardrail: Guardrail) -> None:
    """Not even when the arms are wrong, or data is missing."""
    failing = measured(BAD, WELL, Sample(500, 400), Sample(500, 400))
    told = looked(guardrail, failing)

    assert told.verdicts[0].outcome is Outcome.FAIL
    for analysis in (
        told,
        looked(guardrail, replace(failing, both=7)),
        looked(guardrail, failing, now=NOW + timedelta(days=1)),
    ):
        assert (analysis.outcome, analysis.action, analysis.may_advance) == (Outcome.PASS, None, True)


def test_check__warning__tells_and_holds_nothing() -> None:
    """And when it has nothing to go by, it does not even tell."""
    failed = looked(compared(action=WARN), measured(BAD))
    few = looked(compared(action=WARN), measured(Arm(2, 0.5, 0.1)), treated_share=None)

    assert (failed.outcome, failed.action, failed.may_advance) == (Outcome.FAIL, WARN, True)
    assert (few.outcome, few.action, few.may_advance) == (Outcome.PASS, None, True)


# Data


@pytest.mark.parametrize("through", [None, ENTERED - timedelta(hours=1), ENTERED])
def test_check__just_entered__waits_for_data(through: datetime | None) -> None:
    """Nothing of the stage can be measured yet, however old what was measured before is."""
    readings = Readings({ERRORS: Reading(through)})

    analysis = looked(compared(), readings, now=ENTERED + timedelta(minutes=30), at_gate=True)

    assert (analysis.outcome, analysis.action, analysis.may_advance) == (Outcome.WAITING, None, False)


@pytest.mark.parametrize(
    "readings", [Readings(), Readings({ERRORS: Reading(ENTERED + timedelta(minutes=89), WELL, WELL)})]
)
@pytest.mark.parametrize("guardrail", [compared(), breaker()])
def test_check__data_missing__pauses(guardrail: Guardrail, readings: Readings) -> None:
    """Never measured, or not for longer than the plan bears: it is not a failure of the edition, and no pass."""
    analysis = looked(guardrail, readings)

    assert (analysis.outcome, analysis.action, analysis.cause) == (Outcome.NO_DATA, PAUSE, Cause.NO_DATA)
    assert not analysis.may_advance
    assert "the plan bears 30 min" in analysis.reason


def test_check__data_missing_and_policy_only_warns__still_holds_the_stage() -> None:
    """No stage advances by silence."""
    analysis = looked(compared(), Readings(), policies=Policies(no_data_action=WARN))

    assert (analysis.action, analysis.may_advance) == (WARN, False)


def test_check__data_missing_of_one_metric__others_still_act() -> None:
    """Who cannot see one thing looks all the more at the others."""
    readings = measured(BAD)

    analysis = check([compared(SLOW), compared()], readings, LOOK)

    assert [each.outcome for each in analysis.verdicts] == [Outcome.NO_DATA, Outcome.FAIL]
    assert (analysis.outcome, analysis.action) == (Outcome.FAIL, ROLLBACK)


# Arms


def test_check__sizes_other_than_configured__pauses_and_compares_nothing() -> None:
    """A quarter against a tenth is as it should be; a half against a half is not, and then no difference means anything."""
    share = 2500 / 3500
    right = replace(measured(BAD), treated=500, control=200)
    wrong = replace(measured(BAD), treated=350, control=350)

    assert looked(compared(), right, treated_share=share).action is ROLLBACK
    analysis = looked(compared(), wrong, treated_share=share)
    assert (analysis.outcome, analysis.action, analysis.cause) == (Outcome.SRM, PAUSE, Cause.SRM)
    assert analysis.verdicts[0].outcome is Outcome.SRM
    assert (
        "350 enterprises are seen in the stage and 350 in the control group, where 500 and 200"
        in analysis.reason
    )
    assert looked(compared(), wrong, treated_share=None).action is ROLLBACK


def test_check__enterprise_in_both_arms__pauses() -> None:
    """The arms are mixed: one is enough."""
    analysis = looked(compared(), replace(measured(), both=1))

    assert (analysis.outcome, analysis.action, analysis.cause) == (
        Outcome.MULTIPLE_EXPOSURE,
        PAUSE,
        Cause.MULTIPLE_EXPOSURE,
    )


def test_check__order__decides_the_cause_among_equals() -> None:
    """Data, sizes, both arms, checks; then nothing is left."""
    policies = Policies(no_data_action=PAUSE, srm=PAUSE)
    guardrails = [compared(action=PAUSE), breaker(SLOW, PAUSE)]
    burning = Reading(NOW, windows=(Sample(500, 400), Sample(500, 400)))
    metrics = {ERRORS: Reading(NOW, BAD, WELL), SLOW: burning}

    def outcome(readings: Readings) -> Outcome:
        return check(guardrails, readings, replace(LOOK, policies=policies)).outcome

    assert outcome(Readings({SLOW: burning}, 900, 100, both=1)) is Outcome.NO_DATA
    assert outcome(Readings(metrics, 900, 100, both=1)) is Outcome.SRM
    assert outcome(Readings(metrics, 500, 500, both=1)) is Outcome.MULTIPLE_EXPOSURE
    assert outcome(Readings(metrics, 500, 500)) is Outcome.FAIL


@pytest.mark.parametrize("wrong", [{"treated": 900}, {"both": 1}])
def test_check__breaker__acts_even_when_the_arms_are_wrong(wrong: dict[str, int]) -> None:
    """It looks at the treatment alone, and rolling back is more than pausing."""
    burning = replace(measured(WELL, WELL, Sample(500, 400), Sample(500, 400)), **wrong)

    analysis = check([breaker(), compared()], burning, LOOK)

    assert (analysis.action, analysis.cause) == (ROLLBACK, Cause.GUARDRAIL)


# Breakers


@pytest.mark.parametrize(
    ("minutes", "outcome", "action"),
    [
        ([(300, 15), (300, 15)], Outcome.PASS, None),  # 5 % is borne
        ([(300, 16), (300, 16)], Outcome.FAIL, ROLLBACK),
        ([(300, 30), (300, 15)], Outcome.PASS, None),
        ([(300, 15), (300, 30)], Outcome.FAIL, None),  # one of two
        ([(100, 100), (99, 99)], Outcome.INCONCLUSIVE, None),  # 199 of 200
        ([(100, 100), (100, 100)], Outcome.FAIL, ROLLBACK),
        ([(300, 300), (0, 0)], Outcome.PASS, None),  # quiet
        ([(0, 0), (0, 0)], Outcome.INCONCLUSIVE, None),
        ([], Outcome.INCONCLUSIVE, None),
        ([(300, 300), (300, 300), (300, 0)], Outcome.PASS, None),  # over
    ],
)
def test_breaker__acts_on_so_many_bad_minutes_in_a_row(
    minutes: list[tuple[int, int]], outcome: Outcome, action: Action | None
) -> None:
    """Two minutes above 5 %, with 200 samples in them."""
    readings = measured(WELL, WELL, *(Sample(*each) for each in minutes))

    analysis = looked(breaker(), readings)

    assert (analysis.verdicts[0].outcome, analysis.action) == (outcome, action)
    assert analysis.may_advance is (outcome is not Outcome.FAIL)


# Everything

arms = st.builds(Arm, st.integers(0, 500), st.floats(0, 1), st.floats(0, 0.25))
samples = st.integers(0, 1000).flatmap(lambda count: st.builds(Sample, st.just(count), st.integers(0, count)))
moments = st.integers(-120, 120).map(lambda minutes: ENTERED + timedelta(minutes=minutes))
checks = st.builds(
    lambda make, metric, action, dry_run, windows: make(metric, action, dry_run=dry_run, windows=windows),
    st.sampled_from([compared, breaker]),
    st.sampled_from([ERRORS, SLOW, BOUND]),
    st.sampled_from(Action),
    st.booleans(),
    st.integers(1, 3),
)

readings_of_all_kinds = st.builds(
    Readings,
    st.dictionaries(
        st.sampled_from([ERRORS, SLOW, BOUND]),
        st.builds(Reading, st.none() | moments, arms, arms, st.lists(samples, max_size=4).map(tuple)),
    ),
    treated=st.integers(0, 500),
    control=st.integers(0, 500),
    both=st.integers(0, 1),
)


@given(st.lists(checks, max_size=4), readings_of_all_kinds, st.none() | st.floats(0, 1), st.booleans())
def test_check__whatever_is_measured__is_consistent(
    guardrails: list[Guardrail], readings: Readings, share: float | None, at_gate: bool
) -> None:
    """A stage that is stopped does not advance; each action has a cause and a reason; what is dry acts never."""
    analysis = check(guardrails, readings, replace(LOOK, treated_share=share, at_gate=at_gate))

    assert len(analysis.verdicts) == len(guardrails)
    assert (analysis.action is None) == (analysis.cause is Cause.NONE)
    assert analysis.reason
    if analysis.action in {PAUSE, ROLLBACK} or analysis.outcome not in {Outcome.PASS, Outcome.FAIL}:
        assert not analysis.may_advance
    if all(each.dry_run for each in guardrails):
        assert analysis.may_advance
    if analysis.action is ROLLBACK:
        assert any(each.action is ROLLBACK and not each.dry_run for each in guardrails)
