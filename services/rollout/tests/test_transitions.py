"""How a rollout moves: which verb is possible in which state, what holds a stage, and how a ramp climbs."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import ServiceError
from services.rollout import transitions
from services.rollout.model import Anchor, Cause, Rollout, RolloutState
from services.rollout.plan import (
    Action,
    Audience,
    AudienceKind,
    Guardrail,
    GuardrailKind,
    Hold,
    Stage,
    Window,
    Worse,
)
from services.rollout.tests.populations import LEGAL, NOW, make_rollout
from services.rollout.transitions import Gate, Progress, gates, is_due

HOUR = timedelta(hours=1)
NOTHING = Progress()
STAGES = (Stage("a", basis_points=500), Stage("b", basis_points=2_500), Stage("c"))
ANCHOR = Anchor("a", NOW, 500, {})
BREAKER = Guardrail(
    GuardrailKind.BREAKER, "gateway.error_rate", Worse.UP, False, 0.05, 0.0, 200, 2, Action.ROLLBACK, False
)


def refused(what: Callable[[], object]) -> str:
    """The reason for which it is refused."""
    with pytest.raises(ServiceError) as error:
        what()
    return error.value.reason


# Which verb is possible where

VERBS: dict[str, Callable[[Rollout], Rollout]] = {
    "arm": lambda rollout: transitions.arm(rollout, 0),
    "start": lambda rollout: transitions.start(rollout, 0, NOW),
    "advance": lambda rollout: transitions.advance(rollout, (), NOW),
    "jump": lambda rollout: transitions.jump(rollout, "c", {}, NOW),
    "pause": lambda rollout: transitions.pause(rollout, Cause.USER, "lunch"),
    "resume": transitions.resume,
    "rollback": lambda rollout: transitions.rollback(rollout, ANCHOR, Cause.USER, "errors"),
    "restart": lambda rollout: transitions.restart(rollout, NOW),
    "complete": lambda rollout: transitions.complete(
        replace(rollout, stage="c") if rollout.stage else rollout
    ),
    "archive": transitions.archive,
    "kill": lambda rollout: transitions.kill(rollout, "fire"),
    "unkill": transitions.unkill,
}
REFUSALS = {
    "arm": {"ROLLOUT_NOT_STARTABLE"},
    "start": {"ROLLOUT_NOT_STARTABLE"},
    "resume": {"ROLLOUT_NOT_PAUSED"},
    "restart": {"ROLLOUT_NOT_ROLLED_BACK"},
    "archive": {"ROLLOUT_NOT_ENDED"},
}


@pytest.mark.parametrize("state", RolloutState)
@pytest.mark.parametrize("verb", VERBS)
def test_verb__is_possible_where_it_makes_sense(verb: str, state: RolloutState) -> None:
    """Each verb in each state: where it leads, or why it is refused."""
    outside = state in {RolloutState.DRAFT, RolloutState.ARMED}
    before = make_rollout(*STAGES, at=None if outside else 1, state=state)

    if state in LEGAL[verb]:
        assert VERBS[verb](before).state is LEGAL[verb][state]
    else:
        assert refused(lambda: VERBS[verb](before)) in REFUSALS.get(verb, {"ROLLOUT_NOT_RUNNING"})


def test_start__enters_the_first_stage() -> None:
    """With its share, from now on."""
    started = transitions.start(make_rollout(*STAGES, at=None, state=RolloutState.ARMED), 0, NOW)

    assert (started.stage, started.stage_time, started.basis_points) == ("a", NOW, 500)


@pytest.mark.parametrize(
    "verb",
    [transitions.arm, lambda it, given: transitions.start(it, given, NOW)],
)
@pytest.mark.parametrize("state", [RolloutState.DRAFT, RolloutState.ARMED])
def test_start__waits_for_approvals_whatever_the_way(
    verb: Callable[[Rollout, int], Rollout], state: RolloutState
) -> None:
    """It is the state that is guarded, not a route: neither arming nor starting passes by."""
    rollout = make_rollout(*STAGES, at=None, state=RolloutState.DRAFT, approvals_to_start=2)

    assert refused(lambda: verb(rollout, 1)) == "APPROVALS_MISSING"
    assert verb(rollout, 2).state in {RolloutState.ARMED, RolloutState.RUNNING}
    if state is RolloutState.ARMED:
        armed = replace(rollout, state=state)
        assert refused(lambda: transitions.start(armed, 1, NOW)) == "APPROVALS_MISSING"


def test_advance__goes_stage_by_stage() -> None:
    """To the last, and not further."""
    rollout = transitions.start(make_rollout(*STAGES, at=None, state=RolloutState.DRAFT), 0, NOW)
    for stage in STAGES[1:]:
        rollout = transitions.advance(rollout, (), NOW + HOUR)
        assert (rollout.stage, rollout.stage_time, rollout.basis_points) == (
            stage.id,
            NOW + HOUR,
            stage.basis_points,
        )

    assert refused(lambda: transitions.advance(rollout, (), NOW)) == "LAST_STAGE"


TIME, WINDOW = Gate("TIME", False, "1h of 4h"), Gate("WINDOW", False, "opens Mon 08:00 UTC")
MET, PERSON = Gate("EXPOSURES", True, "9 of 9"), Gate("PERSON", False, "waits for somebody to advance it")
APPROVALS = Gate("APPROVALS", False, "0 of 1")


@pytest.mark.parametrize(
    ("found", "usually", "skipping"),
    [
        ((), "", ""),
        ((MET,), "", ""),
        ((PERSON,), "", ""),
        ((TIME,), "HOLD_NOT_MET", ""),
        ((MET, WINDOW), "HOLD_NOT_MET", ""),
        ((APPROVALS,), "APPROVALS_MISSING", "APPROVALS_MISSING"),
        ((MET, APPROVALS), "APPROVALS_MISSING", "APPROVALS_MISSING"),
        ((TIME, APPROVALS), "HOLD_NOT_MET", "APPROVALS_MISSING"),
    ],
)
def test_advance__asks_the_gates(found: tuple[Gate, ...], usually: str, skipping: str) -> None:
    """A person may pass over what holds a stage, but not over others' approvals."""
    rollout = make_rollout(*STAGES, at=0)
    for skip_hold, reason in ((False, usually), (True, skipping)):
        if reason:
            assert refused(lambda: transitions.advance(rollout, found, NOW, skip_hold=skip_hold)) == reason  # noqa: B023
        else:
            assert transitions.advance(rollout, found, NOW, skip_hold=skip_hold).stage == "b"


def test_jump__passes_no_stage_that_asks_for_approvals() -> None:
    """Forward only past what is approved, the present stage too; backward always; elsewhere never."""
    asking = (
        Stage("a", hold=Hold(approvals=1)),
        Stage("b", hold=Hold(approvals=2)),
        Stage("c"),
        Stage("d", hold=Hold(approvals=1)),
    )

    def jump(at: int, to: str, **approvals: int) -> Rollout:
        return transitions.jump(make_rollout(*asking, at=at), to, approvals, NOW + HOUR)

    assert refused(lambda: jump(0, "b")) == "APPROVALS_MISSING"
    assert jump(0, "b", a=1).stage == "b"
    assert refused(lambda: jump(0, "c", a=1, b=1)) == "APPROVALS_MISSING"
    assert refused(lambda: jump(0, "d", b=2)) == "APPROVALS_MISSING"
    assert jump(0, "d", a=1, b=2).stage == "d"
    assert jump(3, "a").stage == "a"
    assert (jump(1, "b").stage, jump(1, "b").stage_time) == ("b", NOW + HOUR)
    assert refused(lambda: jump(0, "x")) == "INVALID_ARGUMENT"


# There and back


def test_rollback__restores_the_stage_of_the_anchor__and_says_why() -> None:
    """Stage, its time and its share; to the start, when that is where it was."""
    rollout = make_rollout(*STAGES, at=2, since=NOW + HOUR)

    back = transitions.rollback(rollout, ANCHOR, Cause.GUARDRAIL, "too many errors")
    out = transitions.rollback(rollout, Anchor("", None, 0, {}), Cause.USER, "")

    assert (back.stage, back.stage_time, back.basis_points) == ("a", NOW, 500)
    assert (back.cause, back.reason) == (Cause.GUARDRAIL, "too many errors")
    assert (out.stage, out.stage_time, out.basis_points, out.current_stage) == ("", None, 0, None)
    assert refused(lambda: transitions.rollback(rollout, None, Cause.USER, "")) == "NOTHING_TO_ROLL_BACK"


def test_rollback__to_a_stage_that_takes_less_by_now__has_its_share() -> None:
    """A share is never above its stage's own, also when the plan was edited since."""
    rollout = make_rollout(Stage("a", basis_points=100), Stage("b"))

    assert transitions.rollback(rollout, ANCHOR, Cause.USER, "").basis_points == 100
    ramping = replace(ANCHOR, basis_points=50)
    assert transitions.rollback(rollout, ramping, Cause.USER, "").basis_points == 50


def test_restart__begins_the_hold_anew() -> None:
    """From the stage that it was rolled back to; from the beginning, when that was before the first."""
    back = make_rollout(*STAGES, at=0, state=RolloutState.ROLLED_BACK, cause=Cause.GUARDRAIL)

    again = transitions.restart(replace(back, reason="errors"), NOW + HOUR)
    anew = transitions.restart(replace(back, stage="", stage_time=None), NOW)

    assert (again.state, again.stage, again.stage_time) == (RolloutState.RUNNING, "a", NOW + HOUR)
    assert (again.cause, again.reason) == (Cause.NONE, "")
    assert (anew.state, anew.stage) == (RolloutState.ARMED, "")


def test_pause__says_why__and_resume_forgets_it() -> None:
    """The stage goes on from when it was entered."""
    rollout = make_rollout(*STAGES, at=1)

    paused = transitions.pause(rollout, Cause.NO_DATA, "nothing is measured")

    assert (paused.cause, paused.reason) == (Cause.NO_DATA, "nothing is measured")
    assert transitions.resume(paused) == rollout


@pytest.mark.parametrize("state", RolloutState)
def test_kill__is_orthogonal__and_gives_back_what_was(state: RolloutState) -> None:
    """It changes nothing else, twice does no harm, and taken back everything is as it was, why it had stopped too."""
    stopped = state in {RolloutState.PAUSED, RolloutState.ROLLED_BACK}
    before = make_rollout(*STAGES, state=state, cause=Cause.USER if stopped else Cause.NONE)
    before = replace(before, reason="lunch" if stopped else "")

    killed = transitions.kill(transitions.kill(before, "fire"), "more fire")

    assert replace(killed, killed=False, reason="") == replace(before, reason="")
    assert killed.reason == ("lunch" if stopped else "fire")
    assert transitions.unkill(killed) == before


def test_complete__only_from_the_last_stage() -> None:
    """And it keeps the stage."""
    assert refused(lambda: transitions.complete(make_rollout(*STAGES, at=1))) == "NOT_LAST_STAGE"
    assert transitions.complete(make_rollout(*STAGES)).stage == "c"


# Another plan


def test_change_plan__keeps_what_is_in_use() -> None:
    """The flag, the stage in force and those that a rollback may go back to; an archived one is left alone."""
    rollout = make_rollout(*STAGES, at=1)

    def change(*stages: Stage, anchored: frozenset[str] = frozenset(), **fields: object) -> Rollout:
        return transitions.change_plan(
            rollout, replace(rollout.plan, stages=stages, **fields), "clients/other", anchored
        )

    changed = change(Stage("b"), Stage("d"))
    assert (changed.stage, changed.index, changed.plan_version, changed.author) == (
        "b",
        0,
        2,
        "clients/other",
    )
    assert refused(lambda: change(Stage("a"), Stage("c"))) == "STAGE_IN_USE"
    assert refused(lambda: change(Stage("b"), anchored=frozenset({"", "a"}))) == "STAGE_IN_USE"
    assert change(Stage("a"), Stage("b"), anchored=frozenset({"", "a"})).index == 1
    assert refused(lambda: change(Stage("b"), flag="other")) == "FLAG_FIXED"
    archived = replace(rollout, state=RolloutState.ARCHIVED)
    assert (
        refused(lambda: transitions.change_plan(archived, rollout.plan, "", frozenset()))
        == "ROLLOUT_ARCHIVED"
    )


@pytest.mark.parametrize(
    ("share", "new", "expected"),
    [
        (500, Stage("a", basis_points=2_000), 2_000),
        (500, Stage("a", basis_points=100), 100),
        # While it ramps the share stays, as far as the stage has it, and climbs on with the clock.
        (300, Stage("a", basis_points=2_000, ramp=HOUR), 300),
        (300, Stage("a", basis_points=200, ramp=HOUR), 200),
        (500, Stage("a", basis_points=2_000, ramp=HOUR), 500),
        (300, Stage("a", basis_points=500), 500),
    ],
)
def test_change_plan__of_the_stage_in_force_changes_its_share(share: int, new: Stage, expected: int) -> None:
    """At once where it does not ramp."""
    rollout = replace(make_rollout(Stage("a", basis_points=500, ramp=HOUR)), basis_points=share)

    changed = transitions.change_plan(rollout, replace(rollout.plan, stages=(new,)), "", frozenset())

    assert changed.basis_points == expected


# Ramps


def ramping(*stages: Stage, at: int = -1) -> Rollout:
    """A rollout that has just entered a stage."""
    rollout = make_rollout(*stages, at=at)
    return transitions.jump(rollout, rollout.stage, {}, NOW)


@pytest.mark.parametrize(
    ("stages", "minutes", "share"),
    [
        # From the stage before to its own share, in whole per cent.
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 0, 500),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 2, 500),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 3, 600),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 30, 1_500),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 59, 2_400),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 60, 2_500),
        ((Stage("a", basis_points=500), Stage("b", basis_points=2_500, ramp=HOUR)), 6_000, 2_500),
        # The first stage from nothing, and so one that is no share of more than the stage before.
        ((Stage("a", basis_points=1_000, ramp=HOUR),), 0, 0),
        ((Stage("a", basis_points=1_000, ramp=HOUR),), 30, 500),
        ((Stage("a"), Stage("b", basis_points=1_000, ramp=HOUR)), 0, 0),
        # Less than a per cent comes all at once, at the end.
        ((Stage("a", basis_points=50, ramp=HOUR),), 59, 0),
        ((Stage("a", basis_points=50, ramp=HOUR),), 60, 50),
    ],
)
def test_climb__is_a_function_of_the_clock(stages: tuple[Stage, ...], minutes: int, share: int) -> None:
    """The share of a stage that ramps, so many minutes after it was entered."""
    entered = ramping(*stages)

    assert transitions.climb(entered, NOW + timedelta(minutes=minutes)).basis_points == share


@given(
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.lists(st.integers(0, 10_000), max_size=8),
    st.integers(0, 10_000),
)
def test_climb__comes_out_the_same_however_often_and_late_it_is_asked(
    before: int, share: int, ramp: int, looks: list[int], end: int
) -> None:
    """Looking in between, at any times in any order up to the end, changes nothing; it never falls, nor exceeds the stage's."""
    entered = ramping(
        Stage("a", basis_points=before), Stage("b", basis_points=share, ramp=timedelta(seconds=ramp))
    )
    looked = entered
    for moment in [*(look % (end + 1) for look in looks), end]:
        climbed = transitions.climb(looked, NOW + timedelta(seconds=moment))
        assert looked.basis_points <= climbed.basis_points <= share
        looked = climbed

    assert looked == transitions.climb(entered, NOW + timedelta(seconds=end))
    assert transitions.climb(entered, NOW + timedelta(seconds=ramp)).basis_points == share


@pytest.mark.parametrize("state", sorted(set(RolloutState) - {RolloutState.RUNNING}))
def test_climb__only_while_it_runs(state: RolloutState) -> None:
    """Nothing widens a rollout that stands."""
    standing = replace(ramping(Stage("a", ramp=HOUR)), state=state)

    assert transitions.climb(standing, NOW + HOUR) is standing


# Gates

OPEN = Window(frozenset(range(7)), time(8), time(16), UTC)
GUARDED = {"guardrails": (BREAKER,)}


def kinds(rollout: Rollout, progress: Progress = NOTHING, now: datetime = NOW) -> list[tuple[str, bool]]:
    """The gates and whether each lets through."""
    return [(gate.kind, gate.met) for gate in gates(rollout, progress, now)]


def test_gates__come_in_their_order__approvals_last() -> None:
    """All of them, none met; then one after the other."""
    hold = Hold(time=4 * HOUR, exposures=3, approvals=2, window=OPEN)
    rollout = make_rollout(Stage("a", hold=hold), Stage("b"), at=0, **GUARDED)
    order = ["TIME", "EXPOSURES", "ANALYSIS", "WINDOW", "APPROVALS"]
    evening = NOW.replace(hour=20)

    assert kinds(rollout, now=NOW) == [(kind, kind == "WINDOW") for kind in order]
    assert kinds(rollout, now=evening) == [(kind, kind == "TIME") for kind in order]
    almost = Progress(exposures=2, approvals=1, may_advance=True)
    assert not {kind for kind, met in kinds(rollout, almost, NOW) if met} & {"EXPOSURES", "APPROVALS"}
    done = Progress(exposures=3, approvals=2, may_advance=True)
    assert kinds(rollout, done, NOW + 4 * HOUR) == [(kind, kind != "WINDOW") for kind in order]
    assert all(met for _, met in kinds(rollout, done, NOW + 20 * HOUR))


def test_gates__tell_how_far_they_are_and_until_when() -> None:
    """In words, and with the time where it is known."""
    hold = Hold(time=4 * HOUR, exposures=3, approvals=2, window=OPEN)
    rollout = make_rollout(Stage("a", hold=hold), Stage("b"), at=0, **GUARDED)

    told = {gate.kind: gate for gate in gates(rollout, Progress(2, 1), NOW.replace(hour=14))}

    assert (told["TIME"].detail, told["TIME"].meet_time) == ("2h of 4h", NOW + 4 * HOUR)
    assert told["EXPOSURES"].detail == "2 of 3 enterprises"
    assert told["APPROVALS"].detail == "1 of 2"
    closed = {gate.kind: gate for gate in gates(rollout, NOTHING, NOW.replace(hour=20))}["WINDOW"]
    assert closed.meet_time == datetime(2026, 11, 2, 8, tzinfo=UTC)


def test_gates__of_an_empty_hold_wait_for_a_person() -> None:
    """Also where guardrails watch; a rollout in no stage has none."""
    assert kinds(make_rollout(*STAGES, at=0)) == [("PERSON", False)]
    guarded = make_rollout(*STAGES, at=0, **GUARDED)
    assert kinds(guarded, Progress(may_advance=True)) == [("ANALYSIS", True), ("PERSON", False)]
    assert kinds(make_rollout(*STAGES, at=None, state=RolloutState.DRAFT)) == []


@pytest.mark.parametrize(
    ("state", "killed", "at", "met", "due"),
    [
        (RolloutState.RUNNING, False, 0, True, True),
        (RolloutState.RUNNING, False, 0, False, False),
        (RolloutState.RUNNING, True, 0, True, False),
        (RolloutState.RUNNING, False, 1, True, False),  # the last stage is completed by a person
        (RolloutState.PAUSED, False, 0, True, False),
        (RolloutState.ROLLED_BACK, False, 0, True, False),
        (RolloutState.COMPLETED, False, 1, True, False),
    ],
)
def test_is_due__when_nothing_holds_it(
    state: RolloutState, killed: bool, at: int, met: bool, due: bool
) -> None:
    """One stage that is not the last, running, not killed, all gates met."""
    held = make_rollout(
        Stage("a", hold=Hold(time=HOUR)), Stage("b", hold=Hold(time=HOUR)), at=at, state=state
    )
    now = NOW + (HOUR if met else timedelta(minutes=59))

    assert is_due(replace(held, killed=killed), gates(held, NOTHING, now), now) is due


def test_is_due__never_by_itself_where_a_person_is_waited_for() -> None:
    """A stage without a hold stays, however long."""
    rollout = make_rollout(*STAGES, at=0)

    assert not is_due(rollout, gates(rollout, NOTHING, NOW + 1_000 * HOUR), NOW + 1_000 * HOUR)


@pytest.mark.parametrize(
    ("state", "start", "due"),
    [
        (RolloutState.ARMED, -HOUR, True),
        (RolloutState.ARMED, timedelta(0), True),
        (RolloutState.ARMED, HOUR, False),
        (RolloutState.ARMED, None, False),
        (RolloutState.DRAFT, -HOUR, False),
    ],
)
def test_is_due__an_armed_one_at_its_time(state: RolloutState, start: timedelta | None, due: bool) -> None:
    """And a DRAFT never."""
    rollout = make_rollout(*STAGES, at=None, state=state, start_at=None if start is None else NOW + start)

    assert is_due(rollout, gates(rollout, NOTHING, NOW), NOW) is due
    assert not is_due(replace(rollout, killed=True), (), NOW)


def test_at_gate__when_time_and_exposures_are_met() -> None:
    """Then an inconclusive analysis is what holds the stage."""
    rollout = make_rollout(
        Stage("a", hold=Hold(time=HOUR, exposures=1, approvals=1)), Stage("b"), at=0, **GUARDED
    )

    assert not transitions.at_gate(gates(rollout, Progress(exposures=1), NOW))
    assert not transitions.at_gate(gates(rollout, NOTHING, NOW + HOUR))
    assert transitions.at_gate(gates(rollout, Progress(exposures=1), NOW + HOUR))


@pytest.mark.parametrize("hold", [Hold(), Hold(approvals=1), Hold(window=OPEN)])
def test_at_gate__never_where_neither_time_nor_exposures_are_asked_for(hold: Hold) -> None:
    """Or each such stage would be paused as inconclusive as soon as it begins."""
    rollout = make_rollout(Stage("a", hold=hold), Stage("b"), at=0, **GUARDED)

    assert not transitions.at_gate(gates(rollout, Progress(approvals=1), NOW))


def test_refusal__says_what_to_do_instead() -> None:
    """With the name and the state for programs."""
    with pytest.raises(ServiceError) as error:
        transitions.advance(make_rollout(*STAGES, at=0, state=RolloutState.PAUSED), (), NOW)

    assert str(error.value).endswith("rollouts/edition is PAUSED: resume it first")
    assert error.value.metadata == {"name": "rollouts/edition", "state": "PAUSED"}


def test_audience__of_stages_is_no_matter_of_moving() -> None:
    """A ramp climbs over the share, whomever the stages take."""
    invited = Audience(AudienceKind.INVITED)

    entered = ramping(Stage("a", invited, 1_000), Stage("b", invited, 3_000, ramp=HOUR))

    assert transitions.climb(entered, NOW + HOUR / 2).basis_points == 2_000
