"""Admission: a lookup that is closed whatever is missing, and says why."""

import time
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.evaluation_context import EvaluationContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.admission import AdmissionProvider, Admissions
from gateway.errors import Problem
from gateway.serving import NO_ADMISSIONS, NO_SNAPSHOT, Knowledge, unpack
from gateway.tests.snapshots_made import (
    ACTIVE_ONLY,
    FLAG,
    NEXT_STEPS,
    document,
    enterprise,
    envelope,
    flag,
    knowing,
    record,
    rollout,
)
from services.chassis.clock import SystemClock
from services.chassis.telemetry import ATTRIBUTES
from services.chassis.testing.measures import counted

IN = "enterprises/in"
X = "enterprises/x"
REQUIRES = {"if": [{"and": [ACTIVE_ONLY["if"][0], {"==": [{"var": "verified"}, True]}]}, "on", "off"]}
KILLED = {"rule": flag(state="DISABLED"), "rollouts": {FLAG: rollout(killed=True)}}


def admissions(tree=None, *records, **more) -> Admissions:
    return Admissions(knowing(tree or document(), *records, **more), domain=str(uuid4()))


def refusal(subject: Admissions, who=X, what=FLAG) -> Problem:
    with pytest.raises(Problem) as caught:
        subject.require(what, who)
    return caught.value


# --- who passes


def test_require__admitted():
    """An ACTIVE record passes, also when it is asked again, and says what its stage allows."""
    subject = admissions(document(rollouts={FLAG: rollout(requestsPerMinute=30)}), record("ACTIVE"))

    first, again = subject.require(FLAG, IN), subject.require(FLAG, IN)

    assert again is first
    assert (first.admitted, first.reason, first.admission.stage) == (True, "", "private-beta")
    assert first.rollout.limits.requests_per_minute == 30


def test_require__waitlisted_says_why_and_what_next():
    """Who waits is told the reason, the place and the next step."""
    ahead = [record("WAITLISTED", f"enterprises/{n}", queue_key=f"1{n}") for n in range(2)]
    waiting = record("WAITLISTED", X, reason="NOT_VERIFIED", queue_key="2")

    problem = refusal(admissions(None, *ahead, waiting))

    assert (problem.status, problem.reason) == (403, "NOT_ADMITTED")
    assert problem.metadata == {"feature": FLAG, "enterprise": X, "reason": "NOT_VERIFIED"}
    assert "place 3 on the waitlist" in problem.detail
    assert problem.extensions["admission"] == {
        "state": "WAITLISTED",
        "stage": "private-beta",
        "reason": "NOT_VERIFIED",
        "position": 3,
        "nextStep": "Ask for verification.",
    }


@pytest.mark.parametrize(
    ("tree", "records", "reason"),
    [
        ({}, [], "NOT_ON_THE_LIST"),
        ({}, [record("SUSPENDED", X, reason="ELIGIBILITY_LOST")], "ELIGIBILITY_LOST"),
        ({}, [record("SOMETHING_NEW", X, reason="SOME_REASON")], "SOME_REASON"),
        (KILLED, [record("ACTIVE", X)], "EDITION_KILLED"),
        (KILLED, [], "NOT_ON_THE_LIST"),
        (KILLED, [record("WAITLISTED", X, reason="NOT_VERIFIED")], "NOT_VERIFIED"),
        ({"rollouts": {FLAG: rollout(killed=True)}}, [record("ACTIVE", X)], "EDITION_KILLED"),
        ({"rule": flag(state="DISABLED")}, [record("ACTIVE", X)], "EDITION_KILLED"),
        ({"rule": flag(REQUIRES)}, [record("ACTIVE", X)], "PREREQUISITE_OFF"),
        ({"rollouts": {}}, [record("ACTIVE", X)], "PREREQUISITE_OFF"),
    ],
)
def test_require__reasons(tree, records, reason):
    """The record says why, and what can be done; one that is ACTIVE is held up by something else."""
    problem = refusal(admissions(document(**tree), *records))

    assert problem.metadata["reason"] == problem.extensions["admission"]["reason"] == reason
    assert problem.extensions["admission"]["nextStep"] == NEXT_STEPS.get(reason, "").replace(
        "{enterprise}", X
    )


def test_require__with_the_prerequisite():
    """The same record passes once the prerequisite holds."""
    subject = admissions(document(rule=flag(REQUIRES)), record("ACTIVE"), enterprises=[enterprise(IN)])

    assert subject.require(FLAG, IN).admitted


def test_require__no_flag_no_rollout_no_enterprise():
    """Without flag, without rollout and without enterprise the door is closed."""
    assert (
        refusal(admissions(None, record("ACTIVE")), IN, "unheard-of").metadata["reason"] == "NOT_ON_THE_LIST"
    )
    assert refusal(admissions(None, record("ACTIVE")), None).status == 403
    nothing = Knowledge(SystemClock(), 60)
    nothing.take_snapshot(NO_SNAPSHOT)
    nothing.take_admissions(NO_ADMISSIONS, instead_of=None)
    assert refusal(Admissions(nothing, domain=str(uuid4()))).status == 403


def test_require__an_ordinary_flag():
    """A flag without a rollout may guard a method too: its rule alone decides."""
    panel = flag({"if": [{"==": [{"var": "plan"}, "enterprise"]}, "on", "off"]})
    subject = admissions(document(flags={"panel": panel}), enterprises=[enterprise(IN, plan="enterprise")])

    assert subject.require("panel", IN).rollout is None
    assert refusal(subject, X, "panel").metadata["reason"] == "NOT_ON_THE_LIST"


def test_require__nothing_known():
    """Before the first snapshot nobody passes: 503 with a time to come back."""
    problem = refusal(Admissions(Knowledge(SystemClock(), 60), domain=str(uuid4())), IN)

    assert (problem.status, problem.reason) == (503, "ADMISSIONS_UNKNOWN")
    assert problem.retry_after is not None


@pytest.mark.parametrize("fail_mode", ["LAST_GOOD", "CLOSED", "SOMETHING_NEW"])
def test_require__old_knowledge(fail_mode, monkeypatch):
    """Last good knowledge serves on; a flag that closes answers 503 until somebody confirms what is known."""
    subject = admissions(document(rollouts={FLAG: rollout(fail_mode=fail_mode)}), record("ACTIVE"))
    knowledge = subject._knowledge
    assert subject.require(FLAG, IN).admitted
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    knowledge.mark()

    if fail_mode == "LAST_GOOD":
        assert subject.require(FLAG, IN).admitted
    else:
        with counted(1, "numerator_gateway_admissions_total", outcome="REFUSED", reason="ADMISSIONS_STALE"):
            problem = refusal(subject, IN)
        assert (problem.status, problem.reason) == (503, "ADMISSIONS_UNKNOWN")
    knowledge.confirm_snapshot()
    knowledge.confirm_admissions()
    assert subject.require(FLAG, IN).admitted


def test_decide__follows_each_change():
    """A remembered decision does not outlive the records that it was made from."""
    subject = admissions(None, record("ACTIVE"))
    knowledge = subject._knowledge
    assert subject.decide(FLAG, IN).admitted

    have = knowledge.admissions
    knowledge.take_admissions(have.changed(2, "b", [record("SUSPENDED")], []), instead_of=have)
    suspended = subject.decide(FLAG, IN)
    have = knowledge.admissions
    knowledge.take_admissions(have.changed(3, "c", [record("ACTIVE")], []), instead_of=have)
    again = subject.decide(FLAG, IN)
    knowledge.take_snapshot(unpack(envelope(document(2, rule=flag(state="DISABLED")))))
    killed = subject.decide(FLAG, IN)

    assert [suspended.admitted, again.admitted, killed.admitted] == [False, True, False]


def test_decide__does_not_remember_what_the_time_decides():
    """A rule that asks for the time is asked each time."""
    timed = flag({"if": [{">": [{"var": ["$flagd.timestamp", 0]}, 1]}, "on", "off"]})
    subject = admissions(document(flags={"timed": timed}))

    assert subject.decide("timed", IN).admitted
    assert subject._knowledge.serving.memo == {}


# --- whatever comes

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["active", "ACTIV", "on"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["state", "stage", "enterprise-edition", "x", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["admissions", "admissions.enterprise-edition.state", "state", "enterprise"]), _VALUES
    ),
    st.none() | st.text(),
)
def test_provider__odd_contexts_never_admit(attributes, targeting_key):
    """Whatever the context holds or lacks, the flag is on only for the word ACTIVE in its place."""
    provider = AdmissionProvider(knowing(document()))

    details = provider.resolve_boolean_details(
        flag_key=FLAG, default_value=False, evaluation_context=EvaluationContext(targeting_key, attributes)
    )

    assert details.value is False


@given(st.text(), st.text().filter(lambda state: state not in ("", "ACTIVE")))
def test_decide__only_active_records_admit(who, state):
    """No enterprise with another state, and none without a record, is admitted."""
    subject = admissions(None, record(state, who))

    assert not subject.decide(FLAG, who).admitted
    assert not subject.decide(FLAG, who + "x").admitted
    assert not subject.decide(state, who).admitted


# --- telemetry


def test_client__tells_of_each_evaluation():
    """An evaluation that was not remembered leaves OpenTelemetry's event, of which only what is allowed leaves the process."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    subject = admissions(None, record("ACTIVE"))

    with provider.get_tracer("test").start_as_current_span("request"):
        for _ in range(3):
            subject.require(FLAG, IN)

    (event,) = spans.get_finished_spans()[0].events
    assert event.name == "feature_flag.evaluation"
    told = {key: value for key, value in event.attributes.items() if key in ATTRIBUTES}
    assert told == {
        "feature_flag.key": FLAG,
        "feature_flag.result.variant": "on",
        "feature_flag.result.reason": "targeting_match",
        "feature_flag.provider.name": "numerator",
        "feature_flag.context.id": IN,
    }


def test_require__is_counted():
    """Each answer counts, with its reason."""
    subject = admissions(None, record("ACTIVE"))

    with counted(2, "numerator_gateway_admissions_total", outcome="ADMITTED"):
        subject.require(FLAG, IN)
        subject.require(FLAG, IN)
    with counted(1, "numerator_gateway_admissions_total", outcome="REFUSED", reason="NOT_ON_THE_LIST"):
        refusal(subject)
