"""Admission: a lookup that is closed whatever is missing, and snapshots that are taken whole or not at all."""

import hashlib
import json
import zlib
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.evaluation_context import EvaluationContext

from gateway.admission import (
    EMPTY,
    AdmissionProvider,
    Admissions,
    BadSnapshotError,
    Snapshot,
    Snapshots,
    context_of,
    unpack,
)
from gateway.errors import Problem
from gateway.tests.snapshots_made import FLAG, document, flag, packed, record


def admissions(tree=None) -> Admissions:
    snapshots = Snapshots()
    if tree is not None:
        snapshots.offer(*packed(tree))
    return Admissions(snapshots, domain=str(uuid4()))


def refusal(subject: Admissions, enterprise="enterprises/x") -> Problem:
    with pytest.raises(Problem) as caught:
        subject.require(FLAG, enterprise)
    return caught.value


def test_require__admitted():
    """An ACTIVE record passes, also when it is asked again."""
    subject = admissions(document())

    subject.require(FLAG, "enterprises/in")
    subject.require(FLAG, "enterprises/in")
    assert subject.decide(FLAG, "enterprises/in").admission.stage == "private-beta"


def test_require__waitlisted_says_why_and_what_next():
    """Who waits is told the reason, the place and the next call."""
    waiting = record(
        "WAITLISTED", reason="NOT_VERIFIED", position=3, nextStep="POST /v1/enterprises/x:requestVerification"
    )

    problem = refusal(admissions(document(records={"enterprises/x": waiting})))

    assert (problem.status, problem.reason) == (403, "NOT_ADMITTED")
    assert problem.extensions["admission"] == {
        "state": "WAITLISTED",
        "stage": "private-beta",
        "reason": "NOT_VERIFIED",
        "position": 3,
        "nextStep": "POST /v1/enterprises/x:requestVerification",
    }


def test_require__no_record_no_rollout_no_enterprise():
    """Without record, without rollout and without enterprise the door is closed, and says what to do."""
    assert "requestVerification" in refusal(admissions(document())).detail
    nothing = admissions()
    nothing.snapshots.take(EMPTY)
    assert refusal(nothing).status == 403
    assert refusal(admissions(document()), None).status == 403


def test_require__killed():
    """A disabled flag beats an ACTIVE record."""
    problem = refusal(admissions(document(rule=flag(state="DISABLED"))), "enterprises/in")

    assert problem.metadata["reason"] == "EDITION_KILLED"


def test_require__no_snapshot():
    """Before the first snapshot nobody passes: 503 with a time to come back."""
    problem = refusal(admissions(), "enterprises/in")

    assert (problem.status, problem.reason) == (503, "ADMISSIONS_UNKNOWN")
    assert problem.retry_after is not None


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["active", "ACTIV", "on"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["state", "stage", "x", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["admission", "admission.state", "state", "enterprise", "bucket"]), _VALUES
    ),
    st.none() | st.text(),
)
def test_provider__odd_contexts_never_admit(attributes, targeting_key):
    """Whatever the context holds or lacks, the flag is on only for the word ACTIVE in its place."""
    state = attributes.get("admission")
    if isinstance(state, dict) and state.get("state") == "ACTIVE":
        del attributes["admission"]
    snapshots = Snapshots()
    snapshots.offer(*packed(document()))

    details = AdmissionProvider(snapshots).resolve_boolean_details(
        flag_key=FLAG, default_value=False, evaluation_context=EvaluationContext(targeting_key, attributes)
    )

    assert details.value is False


@given(st.text(), st.text().filter(lambda state: state not in ("", "ACTIVE")))
def test_decide__only_active_records_admit(enterprise, state):
    """No enterprise with another state, and none without a record, is admitted."""
    subject = admissions(document(records={enterprise: record(state)}))

    assert not subject.decide(FLAG, enterprise).admitted
    assert not subject.decide(FLAG, enterprise + "x").admitted
    assert not subject.decide(state, enterprise).admitted


def deep(levels):
    rule = {"var": "x"}
    for _ in range(levels):
        rule = [rule]
    return {"if": rule}


@pytest.mark.parametrize(
    "rule",
    [
        {"if": [{"<": [{"var": "bucket"}, 2500]}, "on", "off"]},
        {"if": [{"<": [{"var": ["bucket", None]}, 2500]}, "on", "off"]},
        {"if": [{">=": [2500, {"var": "bucket"}]}, "on", "off"]},
        {"if": [{"and": [True, {"<": [{"var": ["bucket"]}, 2500]}]}, "on", "off"]},
        {"fractional": [["on", 25], ["off", 75]]},
        {"if": [{"log": "x"}, "on", "off"]},
        deep(40),
    ],
)
def test_snapshot__refuses_rules_that_fail_open(rule):
    """A rule that lets everybody in where an attribute is missing, or that we do not allow, is refused whole."""
    snapshots = Snapshots()
    snapshots.offer(*packed(document()))

    with pytest.raises(BadSnapshotError):
        snapshots.offer(*packed(document(2, rule=flag(rule))))

    assert snapshots.current.version == 1


def test_snapshot__bucket_with_default():
    """With its default the same rule is taken, and keeps out who has no bucket."""
    rule = flag({"if": [{"<": [{"var": ["bucket", 10000]}, 2500]}, "on", "off"]})
    snapshot = Snapshot.parse(json.dumps(document(rule=rule)).encode())

    assert snapshot.resolve("boolean", FLAG, False, EvaluationContext("x", {"bucket": 100})).value is True
    assert snapshot.resolve("boolean", FLAG, False, EvaluationContext("x", {})).value is False


def test_unpack__damage():
    """Wrong hash, cut or foreign bytes, another version, another form: all refused."""
    version, sha, body = packed(document())
    wrong_form = [
        [],
        {"version": 1},
        {"version": "1", "flags": {"flags": {}}, "admissions": {}},
        {"version": True, "flags": {"flags": {}}, "admissions": {}},
        document(rule={"state": "MAYBE", "variants": {"on": True}}),
        document(rule={"variants": {"on": True}}),
        document(records={"enterprises/x": {"stage": "s"}}),
        document(records={"enterprises/x": {"state": 1}}),
        document(records={"enterprises/x": "ACTIVE"}),
        document(records=[]),
    ]

    for args in [
        (version, "0" * 64, body),
        (version, sha, body[:-5]),
        (version, sha, b"no zlib"),
        (2, sha, body),
        *[
            (1, hashlib.sha256(json.dumps(t).encode()).hexdigest(), zlib.compress(json.dumps(t).encode()))
            for t in wrong_form
        ],
    ]:
        with pytest.raises(BadSnapshotError):
            unpack(*args)


def test_offer__only_newer():
    """An older or equal version changes nothing, unless the service itself went back."""
    snapshots = Snapshots()

    assert snapshots.offer(*packed(document(5)))
    assert not snapshots.offer(*packed(document(5)))
    assert not snapshots.offer(*packed(document(4)))
    assert not snapshots.offer(*packed(document(3)), instead_of=4)
    assert snapshots.current.version == 5
    assert snapshots.offer(*packed(document(3)), instead_of=5)
    assert snapshots.current.version == 3


def test_context__always_complete():
    """A rule finds every name, also of an enterprise that nobody knows."""
    assert context_of("enterprises/x", None).attributes["admission"] == {"state": "NONE", "stage": ""}
