"""Plans: what the documented example says, what each mistake tells, and what an edit changes."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Kind, ServiceError
from services.rollout.plan import (
    METRICS,
    Action,
    Audience,
    AudienceKind,
    FailMode,
    Guardrail,
    GuardrailKind,
    Hold,
    Limits,
    Narrowing,
    Plan,
    Policies,
    Segment,
    Stage,
    Window,
    Worse,
    diff,
    parse,
)

EXAMPLE = """\
rollout: enterprise-edition
flag: enterprise-beta            # unit: tenant, salt fixed at creation
eligible: {and: [{"==": [{var: verified}, true]}, {in: [{var: plan}, [enterprise, enterprise_plus]]}]}
requires: [account-binding-v2]
control_share: 10%               # eligible tenants kept out as the concurrent control
segments: {staff: [enterprises/a, enterprises/b], partners: {"==": [{var: plan}, partner]}}
stages:
  - {ring: 0-internal, audience: {segment: staff},    hold: {time: 4h}}
  - {ring: 1-partners, audience: {segment: partners}, hold: {time: 24h, exposures: 200}}
  - {ring: 2-invited,  audience: {waitlist: invited}, quota: 25, hold: {time: 48h, approvals: 1}}
  - {ring: 3, percent: 5%,  hold: {time: 72h, exposures: 2000}}
  - {ring: 4, percent: 25%, hold: {time: 72h, approvals: 2, window: "Mon-Thu 08-16"}}
  - {ring: 5, percent: 100%}
limits: {ring<=2: {requests_per_min: 30, bound_accounts: 20}, default: {requests_per_min: 120}}
breakers:   [{metric: publish.error_rate, max: 5%, windows: 2, min_samples: 200, action: rollback}]
guardrails: [{metric: publish.error_rate, worse: up, vs: control, alpha: 0.05, action: rollback},
             {metric: gateway.latency_over_300ms, worse: up, vs: control, alpha: 0.05, action: pause}]
signals:    [{metric: binding.success_rate, worse: down, action: pause, dry_run: true}]
on: {no_data: pause after 30m, srm: pause, inconclusive: pause}
"""

SMALLEST = "rollout: r\nstages: [{ring: 0}]\n"


def _violations(text):
    with pytest.raises(ServiceError) as raised:
        parse(text)
    assert raised.value.kind is Kind.INVALID_ARGUMENT
    return raised.value.violations


def _stage(keys, before=""):
    """A plan whose stage with these keys is in line 3."""
    return f"rollout: r\nstages:{before}\n  - {{{keys}}}\n"


def _top(keys):
    """A plan with further lines, from line 3 on."""
    return f"{SMALLEST}{keys}\n"


def test_example__says_what_is_documented():
    """The documented example, with segments written out, means exactly this."""
    early, late = Limits(requests_per_minute=30, bound_accounts=20), Limits(requests_per_minute=120)
    mondays_to_thursdays = Window(frozenset({0, 1, 2, 3}), time(8), time(16), ZoneInfo("UTC"))
    assert parse(EXAMPLE) == Plan(
        rollout="enterprise-edition",
        flag="enterprise-beta",
        eligible={
            "and": [{"==": [{"var": "verified"}, True]}, {"in": [{"var": "plan"}, ["enterprise", "enterprise_plus"]]}]
        },
        requires=("account-binding-v2",),
        control_share=1000,
        segments={
            "staff": Segment(tenants=frozenset({"enterprises/a", "enterprises/b"})),
            "partners": Segment(rule={"==": [{"var": "plan"}, "partner"]}),
        },
        stages=(
            Stage(
                "0-internal",
                Audience(AudienceKind.SEGMENT, segment="staff"),
                hold=Hold(timedelta(hours=4)),
                limits=early,
            ),
            Stage(
                "1-partners",
                Audience(AudienceKind.SEGMENT, segment="partners"),
                hold=Hold(timedelta(hours=24), exposures=200),
                limits=early,
            ),
            Stage(
                "2-invited",
                Audience(AudienceKind.INVITED),
                quota=25,
                hold=Hold(timedelta(hours=48), approvals=1),
                limits=early,
            ),
            Stage("ring-3", basis_points=500, hold=Hold(timedelta(hours=72), exposures=2000), limits=late),
            Stage(
                "ring-4",
                basis_points=2500,
                hold=Hold(timedelta(hours=72), approvals=2, window=mondays_to_thursdays),
                limits=late,
            ),
            Stage("ring-5", basis_points=10_000, limits=late),
        ),
        guardrails=(
            Guardrail(GuardrailKind.BREAKER, "publish.error_rate", Worse.UP, False, 0.05, 0.0, 200, 2, Action.ROLLBACK, False),
            Guardrail(GuardrailKind.GUARDRAIL, "publish.error_rate", Worse.UP, True, None, 0.05, 0, 1, Action.ROLLBACK, False),
            Guardrail(GuardrailKind.GUARDRAIL, "gateway.latency_over_300ms", Worse.UP, True, None, 0.05, 0, 1, Action.PAUSE, False),
            Guardrail(GuardrailKind.SIGNAL, "binding.success_rate", Worse.DOWN, True, None, 0.05, 0, 1, Action.PAUSE, True),
        ),
        policies=Policies(Action.PAUSE, timedelta(minutes=30), Action.PAUSE, Action.PAUSE, Narrowing.KEEP),
    )  # fmt: skip
    assert parse(EXAMPLE).text == EXAMPLE


def test_smallest__has_the_documented_defaults():
    """One stage is a plan: verified enterprises, all of them, when a person says so."""
    plan = parse(SMALLEST)
    assert plan == Plan(rollout="r", stages=(Stage("ring-0"),))
    assert plan.flag == "enterprise-beta"
    assert plan.eligible == {"==": [{"var": "verified"}, True]}
    assert plan.stages[0].hold.is_empty
    assert plan.policies == Policies(
        Action.PAUSE, timedelta(minutes=30), Action.PAUSE, Action.PAUSE, Narrowing.KEEP
    )


def test_rest_of_the_keys__are_understood():
    """The keys that the example does without."""
    plan = parse(
        _top(
            "start: 2026-12-01T09:00+01:00\n"
            "approvals: {start: 1, change: 2}\n"
            "fail_mode: closed\n"
            "narrowing: expel_newest_first\n"
            "on: {no_data: rollback, srm: warn}\n"
        ).replace(
            "{ring: 0}",
            "{ring: a, audience: {tenants: [enterprises/x]}}, {ring: b, audience: {waitlist: joined}},"
            "{ring: c, audience: everyone, percent: 0.25%, ramp: 1d12h, limits: {live_placements: 3},"
            ' hold: {window: "Sat-Mon,Wed 22:30-24 Asia/Shanghai"}}',
        )
    )
    tenants, joined, everyone = plan.stages
    assert tenants.audience == Audience(AudienceKind.TENANTS, tenants=frozenset({"enterprises/x"}))
    assert joined.audience == Audience(AudienceKind.JOINED)
    assert everyone == Stage(
        "c",
        basis_points=25,
        ramp=timedelta(hours=36),
        limits=Limits(live_placements=3),
        hold=Hold(window=Window(frozenset({5, 6, 0, 2}), time(22, 30), time(0), ZoneInfo("Asia/Shanghai"))),
    )
    assert plan.start_at == datetime(2026, 12, 1, 8, tzinfo=UTC)
    assert (plan.approvals_to_start, plan.approvals_to_change) == (1, 2)
    assert plan.fail_mode is FailMode.CLOSED
    assert plan.policies == Policies(
        Action.ROLLBACK, timedelta(minutes=30), Action.WARN, Action.PAUSE, Narrowing.EXPEL_NEWEST_FIRST
    )


@pytest.mark.parametrize(
    ("selectors", "limited"),
    [
        ("{ring<1: {bound_accounts: 7}}", [7, 0, 0]),
        ("{ring<=1: {bound_accounts: 7}}", [7, 7, 0]),
        ("{ring>1: {bound_accounts: 7}}", [0, 0, 7]),
        ("{ring>=1: {bound_accounts: 7}}", [0, 7, 7]),
        ("{ring==1: {bound_accounts: 7}}", [0, 7, 0]),
        ("{b: {bound_accounts: 7}}", [0, 7, 0]),
        ("{ring>=1: {bound_accounts: 7}, b: {bound_accounts: 8}, default: {bound_accounts: 9}}", [9, 7, 7]),
    ],
)
def test_limits__are_of_the_first_selector_that_a_stage_meets(selectors, limited):
    """Selectors count stages from 0, and the first that fits wins."""
    plan = parse(f"rollout: r\nstages: [{{ring: a}}, {{ring: b}}, {{ring: c}}]\nlimits: {selectors}\n")
    assert [stage.limits.bound_accounts for stage in plan.stages] == limited


def test_limits__of_a_stage_win():
    """A stage's own limits replace, and do not complete, what the selectors say."""
    plan = parse(
        _stage("ring: a, limits: {live_placements: 2}")
        + "limits: {default: {bound_accounts: 7, live_placements: 9}}"
    )
    assert plan.stages[0].limits == Limits(live_placements=2)


# One mistake each: a text, the line and the path that are told, and words of the description.
MISTAKES = [
    # of the text
    ("", 1, "plan", "is empty"),
    ("# nothing\n", 1, "plan", "is empty"),
    ("- a\n", 1, "plan", "must be a mapping"),
    (f"{SMALLEST}---\nrollout: s\n", 3, "plan", "another document"),
    (_top("segments: &all {}"), 3, "plan", "anchors (&) and aliases (*) are not allowed"),
    (_top("segments: *all"), 3, "plan", "anchors (&) and aliases (*) are not allowed"),
    ("rollout: r\nstages:\n\t- {ring: 0}\n", 3, "plan", "indented with a tab"),
    (_top("flag: [a"), 4, "plan", "is no YAML"),
    (_top("flag: \x07"), 3, "plan", r"has the character '\x07'"),
    (_top(r'flag: "\UFFFFFFFF"'), 3, "plan", "has an escape"),
    (_top("eligible: " + "[" * 101 + "]" * 101), 3, "plan", "nests deeper than 100"),
    (_top("# " + "x" * (256 << 10)), 1, "plan", "at most 256 KiB"),
    (_top("flag: !!python/name:os.system x"), 3, "flag", "must not have the tag"),
    # of keys and types
    (_top("stage: 3"), 3, "stage", "did you mean stages?"),
    (_top("rollout: again"), 3, "rollout", "is there twice, first in line 1"),
    (_top("? [a, b]\n: c"), 3, "plan", "a list or a mapping for a key"),
    ("stages: [{ring: 0}]\n", 1, "rollout", "is missing"),
    ("\nrollout: r\n", 2, "stages", "is missing"),
    (_top("flag:"), 3, "flag", "is empty"),
    (_top("flag: [a]"), 3, "flag", "must be a single value"),
    (_top("flag: Edition_2"), 3, "flag", "a-z, 0-9 and hyphen"),
    (_top("requires: account-binding"), 3, "requires", "must be a list"),
    (_top("requires: []"), 3, "requires", "is empty"),
    (_top("requires:\n- a\n- a"), 5, "requires[1]", "is there twice"),
    (_top("requires: [enterprise-beta]"), 3, "requires", "must not hold enterprise-beta"),
    (_top("control_share: 10"), 3, "control_share", "must be a percentage"),
    (_top("control_share: 51%"), 3, "control_share", "from 0% to 50%"),
    (_top("start: tomorrow"), 3, "start", "must be a time"),
    (_top("start: 2026-12-01T08:00"), 3, "start", "must say its zone"),
    (_top("start: 0001-01-01T00:00+14:00"), 3, "start", "must be a time"),
    (_top("approvals: {start: -1}"), 3, "approvals.start", "from 0 to 10"),
    (_top("approvals: 1"), 3, "approvals", "must be a mapping"),
    (_top("fail_mode: open"), 3, "fail_mode", "must be last_good or closed"),
    (_top("narrowing: expel"), 3, "narrowing", "must be keep or expel_newest_first or expel_all"),
    (_top("on: {no_data: pause in 30m}"), 3, "on.no_data", "as pause after 30m"),
    (_top("on: {no_data: pause after a while}"), 3, "on.no_data", "as pause after 30m"),
    (_top("on: {no_data: pause after 30}"), 3, "on.no_data", "must be a length of time"),
    (_top("on: {srm: stop}"), 3, "on.srm", "must be rollback or pause or warn"),
    # of predicates
    (_top("eligible: true"), 3, "eligible", "must be a predicate"),
    (_top("eligible: {'==': [\n{var: verified}, yes]}"), 4, "eligible.==[1]", "must be true or false"),
    (_top("eligible: {'<': [{var: risk}, .nan]}"), 3, "eligible.<[1]", "must be a number as in JSON"),
    (_top("eligible: {'<': [{var: risk}, 0x10]}"), 3, "eligible.<[1]", "must be a number as in JSON"),
    (_top("eligible:\n  fractional: [a]"), 4, "eligible.fractional", "is no operator that is allowed"),
    (_top("eligible: {'!': {missing: [a]}}"), 3, "eligible.!.missing", "is no operator that is allowed"),
    (_top("eligible:\n  and: []\n  or: []"), 4, "eligible", "exactly one operator"),
    (_top("eligible: {'<': [{var: bucket}, 5]}"), 3, "eligible.<[0].var", "must be [bucket, 10000]"),
    (_top("segments: {Staff: [enterprises/a]}"), 3, "segments.Staff", "must have a name"),
    (_top("segments: {staff: [\na]}"), 4, "segments.staff[0]", "must be the name of an enterprise"),
    (_top("segments: {staff: enterprises/a}"), 3, "segments.staff", "must be a list"),
    # of stages
    ("rollout: r\nstages: []\n", 2, "stages", "1 to 20 stages, not 0"),
    (f"rollout: r\nstages: [{', '.join(f'{{ring: {each}}}' for each in range(21))}]\n", 2, "stages", "not 21"),
    (_stage("rnig: 0, ring: 0"), 3, "stages[0].rnig", "did you mean ring?"),
    (_stage("percent: 5%"), 3, "stages[0].ring", "is missing"),
    (_stage("ring: 0_internal"), 3, "stages[0].ring", "a-z, 0-9 and hyphen"),
    (_stage("ring: ring-0", "\n  - {ring: 0}"), 4, "stages[1].ring", "the stage in line 3, too"),
    (_stage("ring: 0, percent: 5"), 3, "stages[0].percent", "must be a percentage"),
    (_stage("ring: 0, percent: 0%"), 3, "stages[0].percent", "from 0.01% to 100%"),
    (_stage("ring: 0, percent: 101%"), 3, "stages[0].percent", "from 0.01% to 100%"),
    (_stage("ring: 0, percent: 0.125%"), 3, "stages[0].percent", "must be a percentage"),
    (_stage("ring: 1, percent: 5%", "\n  - {ring: 0, percent: 25%}"), 4, "stages[1].percent", "at least 25%"),
    (_stage("ring: 1, quota: 5", "\n  - {ring: 0, quota: 6}"), 4, "stages[1].quota", "at least 6"),
    (_stage("ring: 0, quota: 0"), 3, "stages[0].quota", "from 1 to"),
    (_stage("ring: 0, quota: 1_000"), 3, "stages[0].quota", "must be a whole number"),
    (_stage("ring: 0, quota: 2.5"), 3, "stages[0].quota", "must be a whole number"),
    (_stage("ring: 0, ramp: 2h"), 3, "stages[0].ramp", "give percent, too"),
    (_stage("ring: 0, segment: staff"), 3, "stages[0].segment", "write audience: {segment: ...}"),
    (_stage("ring: 0, audience: staff"), 3, "stages[0].audience", "must be everyone"),
    (_stage("ring: 0, audience: {}"), 3, "stages[0].audience", "exactly one of"),
    (_stage("ring: 0, audience: {segment: a, waitlist: joined}"), 3, "stages[0].audience", "exactly one of"),
    (_stage("ring: 0, audience: {segment: a}"), 3, "stages[0].audience", "the segment a, which is not there"),
    (_stage("ring: 0, audience: {waitlist: all}"), 3, "stages[0].audience.waitlist", "invited or joined"),
    (_stage("ring: 0, audience: {tenants: [a]}"), 3, "stages[0].audience.tenants[0]", "as enterprises/a"),
    (_stage("ring: 0, hold: {}"), 3, "stages[0].hold", "is empty"),
    (_stage("ring: 0, hold: {time: 4}"), 3, "stages[0].hold.time", "as 30m, 4h"),
    (_stage("ring: 0, hold: {time: 0h}"), 3, "stages[0].hold.time", "as 30m, 4h"),
    (_stage("ring: 0, hold: {time: 900d}"), 3, "stages[0].hold.time", "up to 366d"),
    (_stage("ring: 0, hold: {exposures: 0}"), 3, "stages[0].hold.exposures", "from 1 to"),
    (_stage("ring: 0, hold: {approvals: 11}"), 3, "stages[0].hold.approvals", "from 1 to 10"),
    (_stage("ring: 0, hold: {window: Mo 08-16}"), 3, "stages[0].hold.window", "must be days, hours"),
    (_stage("ring: 0, hold: {window: Mon 16-08}"), 3, "stages[0].hold.window", "must end after it begins"),
    (_stage("ring: 0, hold: {window: Mon 25-26}"), 3, "stages[0].hold.window", "must be days, hours"),
    (_stage("ring: 0, hold: {window: Mon 08-16 Mars/Base}"), 3, "stages[0].hold.window", "a zone of"),
    (_stage("ring: 0, hold: {window: Mon 08-16 Europe}"), 3, "stages[0].hold.window", "a zone of"),
    # of limits
    (_top("limits: {default: {publish_per_min: 3}}"), 3, "limits.default.publish_per_min", "write requests_per_min"),
    (_top("limits: {default: {bound_accounts: many}}"), 3, "limits.default.bound_accounts", "whole number"),
    (_top("limits: {ring=2: {bound_accounts: 3}}"), 3, "limits.ring=2", "selects nothing"),
    (_top("limits: {ring>2: {bound_accounts: 3}}"), 3, "limits.ring>2", "selects no stage"),
    (_top("limits:\n  default: {}\n  ring<1: {}"), 5, "limits.ring<1", "put default last"),
    # of checks
    (_top("breakers: [{metric: publish.error_rate, action: warn}]"), 3, "breakers[0].max", "is missing"),
    (_top("breakers: [{max: 5%, action: warn}]"), 3, "breakers[0].metric", "is missing"),
    (_top("breakers: [{metric: publish.error_rate, max: 5%}]"), 3, "breakers[0].action", "is missing"),
    (_top("breakers: [{metric: error_rate, max: 5%, action: warn}]"), 3, "breakers[0].metric", "must be publish."),
    (_top("breakers: [{metric: binding.success_rate, max: 5%, action: warn}]"), 3, "breakers[0].metric", "falls"),
    (_top("breakers: [{metric: publish.error_rate, max: 5%, action: warn, worse: up}]"), 3, "breakers[0].worse", "only a max"),
    (_top("breakers: [{metric: publish.error_rate, max: 5%, action: warn, windows: 0}]"), 3, "breakers[0].windows", "from 1"),
    (_top("breakers: [{metric: publish.error_rate, max: 5%, action: warn, dry_run: yes}]"), 3, "breakers[0].dry_run", "true or false"),
    (
        _top("control_share: 9%\nguardrails: [{metric: publish.error_rate, worse: up, action: pause}]"),
        4, "guardrails[0].alpha", "is missing",
    ),
    (
        _top("control_share: 9%\nguardrails: [{metric: publish.error_rate, worse: up, alpha: 0.5, action: pause}]"),
        4, "guardrails[0].alpha", "below 0.5",
    ),
    (
        _top("control_share: 9%\nguardrails: [{metric: publish.error_rate, worse: up, alpha: .nan, action: pause}]"),
        4, "guardrails[0].alpha", "below 0.5",
    ),
    (
        _top("control_share: 9%\nguardrails: [{metric: publish.error_rate, worse: up, alpha: 0.3, action: pause}]"),
        4, "guardrails", "more than 0.2 together",
    ),
    (
        _top("control_share: 9%\nguardrails: [{metric: publish.error_rate, worse: down, alpha: 0.1, action: pause}]"),
        4, "guardrails[0].worse", "must be up for publish.error_rate",
    ),
    (
        _top("control_share: 9%\nsignals: [{metric: publish.error_rate, worse: up, max: 5%, action: pause}]"),
        4, "signals[0].max", "only breakers have one",
    ),
    (
        _top("control_share: 9%\nsignals: [{metric: publish.error_rate, worse: up, vs: before, action: pause}]"),
        4, "signals[0].vs", "must be control",
    ),
    (
        _top("signals: [{metric: publish.error_rate, worse: up, action: pause}]"),
        3, "signals", "add control_share",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "path", "words"), MISTAKES)
def test_mistake__is_told_once_with_line_path_and_remedy(text, line, path, words):
    """Each mistake is one violation, and nothing else is wrong because of it."""
    (violation,) = _violations(text)
    assert violation.field == path
    assert violation.description.startswith(f"line {line}: ")
    assert words in violation.description


def test_mistakes__are_told_together_in_the_order_of_lines():
    """Who mends a plan sees all that is wrong with it at once."""
    text = (
        EXAMPLE.replace("ring: 5", "rnig: 5")
        .replace(" 4h", " 4")
        .replace("max: 5%", "max: 5")
        .replace("10%", "ten")
    )
    assert [(each.field, each.description.split(":")[0]) for each in _violations(text)] == [
        ("control_share", "line 5"),
        ("stages[0].hold.time", "line 8"),
        ("stages[5].rnig", "line 13"),
        ("stages[5].ring", "line 13"),
        ("breakers[0].max", "line 15"),
    ]


def test_mistakes__are_not_told_without_end():
    """Of a text with a hundred thousand mistakes the first hundred are told, and soon."""
    assert len(_violations(_top("requires: [" + ", ".join(["A"] * 80_000) + "]"))) == 100


@given(st.text(max_size=200))
def test_parse__of_any_text_raises_nothing_but_what_is_documented(text):
    """Whatever somebody sends is a plan or a list of mistakes."""
    _parses_or_tells(text)


@given(st.data())
def test_parse__of_a_damaged_plan_raises_nothing_but_what_is_documented(data):
    """A plan with a piece cut out, doubled or overwritten is a plan or a list of mistakes."""
    start = data.draw(st.integers(0, len(EXAMPLE)))
    end = data.draw(st.integers(start, min(len(EXAMPLE), start + 40)))
    piece = data.draw(
        st.sampled_from(
            [
                "",
                EXAMPLE[start:end] * 2,
                "\n",
                ": ",
                "- ",
                "{",
                "]",
                '"',
                "!!x ",
                "? ",
                "%",
                "~",
                "0",
                "&a ",
                "\ud800",
            ]
        )
    )
    _parses_or_tells(EXAMPLE[:start] + piece + EXAMPLE[end:])


def _parses_or_tells(text):
    try:
        parse(text)
    except ServiceError as error:
        lines = (
            len(re.findall("[\n\r\x85\u2028\u2029]", text)) + 2
        )  # all that YAML takes for the end of a line
        for violation in error.violations:
            line = int(violation.description.removeprefix("line ").split(":")[0])
            assert 1 <= line <= lines
            assert violation.field
            violation.description.encode()
            violation.field.encode()


# What plans mean, spelled out again.

_ids = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
_tenants = st.frozensets(_ids.map("enterprises/{}".format), min_size=1, max_size=3)
_moments = st.integers(1_700_000_000, 1_900_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
_durations = st.integers(1, 366 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
_times = st.times().map(lambda each: each.replace(second=0, microsecond=0))
_rules = st.sampled_from(
    [
        {"==": [{"var": "verified"}, True]},
        {"<": [{"var": ["bucket", 10000]}, 2500]},
        {"in": [{"var": "plan"}, ["on", "1", "~", "2026-01-01", "0x1"]]},
        {"and": [{"==": [1.5, -3]}, {"!!": None}]},
    ]
)


@st.composite
def _windows(draw):
    start, end = sorted(draw(st.lists(_times, min_size=2, max_size=2, unique=True)))
    days = draw(st.frozensets(st.integers(0, 6), min_size=1))
    zone = ZoneInfo(draw(st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York"])))
    return Window(days, start, draw(st.sampled_from([end, time(0)])), zone)


_holds = st.builds(
    Hold,
    time=st.just(timedelta(0)) | _durations,
    exposures=st.integers(0, 9),
    approvals=st.integers(0, 9),
    window=st.none() | _windows(),
)


@st.composite
def _plans(draw):
    segments = draw(
        st.dictionaries(
            _ids, st.builds(Segment, tenants=_tenants) | st.builds(Segment, rule=_rules), max_size=3
        )
    )
    audiences = [
        st.sampled_from([Audience(), Audience(AudienceKind.INVITED), Audience(AudienceKind.JOINED)]),
        st.builds(Audience, st.just(AudienceKind.TENANTS), tenants=_tenants),
        *(st.just(Audience(AudienceKind.SEGMENT, segment=name)) for name in segments),
    ]
    ids = draw(st.lists(_ids, min_size=1, max_size=5, unique=True))
    sizes = st.lists(st.integers(1, 10_000), min_size=len(ids), max_size=len(ids)).map(sorted)
    stages = tuple(
        Stage(
            stage,
            draw(st.one_of(audiences)),
            share,
            draw(st.sampled_from([0, quota])),
            draw(_holds),
            draw(st.builds(Limits, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))),
            draw(st.just(timedelta(0)) | _durations),
        )
        for stage, share, quota in zip(ids, draw(sizes), draw(sizes), strict=True)
    )
    metric = draw(st.sampled_from(sorted(METRICS)))
    compared = st.builds(
        Guardrail, st.sampled_from([GuardrailKind.GUARDRAIL, GuardrailKind.SIGNAL]), st.just(metric),
        st.just(METRICS[metric]), st.just(True), st.none(), st.sampled_from([0.05, 0.001, 0.1]), st.integers(0, 9),
        st.integers(1, 9), st.sampled_from(Action), st.booleans(),
    )  # fmt: skip
    breakers = st.builds(
        Guardrail, st.just(GuardrailKind.BREAKER), st.just("gateway.error_rate"), st.just(Worse.UP), st.just(False),
        st.integers(1, 10_000).map(lambda each: each / 10_000), st.just(0.0), st.integers(1, 9), st.integers(1, 9),
        st.sampled_from(Action), st.booleans(),
    )  # fmt: skip
    order = list(GuardrailKind)
    guardrails = draw(st.lists(breakers, max_size=2)) + draw(st.lists(compared, max_size=2))
    start = draw(st.none() | _moments)
    return Plan(
        rollout=draw(_ids),
        stages=stages,
        flag=draw(_ids),
        eligible=draw(_rules),
        requires=tuple(f"{each}-needed-flag" for each in sorted(draw(st.sets(_ids, max_size=2)))),
        control_share=draw(st.integers(1, 5000)),
        segments=segments,
        guardrails=tuple(sorted(guardrails, key=lambda each: order.index(each.kind))),
        policies=draw(
            st.builds(
                Policies, st.sampled_from(Action), _durations, st.sampled_from(Action), st.sampled_from(Action),
                st.sampled_from(Narrowing),
            )
        ),
        start_at=start,
        approvals_to_start=draw(st.integers(0, 9)),
        approvals_to_change=draw(st.integers(0, 9)),
        fail_mode=draw(st.sampled_from(FailMode)),
    )  # fmt: skip


@given(_plans())
def test_outline__as_yaml_is_the_plan_again(plan):
    """Nothing of a plan is lost or changed when it is spelled out and read, in YAML or in JSON."""
    in_json = json.dumps(plan.outline)
    for text in (in_json, yaml.safe_dump(json.loads(in_json), sort_keys=False)):
        again = parse(text)
        assert again == plan
        assert again.sha256 == plan.sha256
        assert diff(plan, again) == []


@given(_plans(), _plans())
def test_diff__is_empty_only_for_plans_that_mean_the_same(one, other):
    """Whatever differs is told, and the hash says the same."""
    assert (diff(one, other) == []) == (one == other) == (one.sha256 == other.sha256)
    assert diff(None, one)


def test_sha256__tells_meaning_not_spelling():
    """Comments, spacing, order of keys and written-out defaults change nothing; a share does."""
    plan = parse(EXAMPLE)
    spelled = EXAMPLE.replace("72h", "3d").replace("  #", " # !").replace("5%,  hold", "5.0%, hold")
    assert parse(spelled + "narrowing: keep\n").sha256 == plan.sha256
    assert parse("\n".join(reversed(SMALLEST.splitlines()))).sha256 == parse(SMALLEST).sha256
    assert parse(EXAMPLE.replace("percent: 5%", "percent: 6%")).sha256 != plan.sha256


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("percent: 25%", "percent: 30%", ["stages[4].percent: 25% -> 30%"]),
        ("quota: 25, ", "", ["stages[2].quota: 25 -> none"]),
        ("enterprises/b", "enterprises/c", ["segments.staff: enterprises/b -> none", "segments.staff: none -> enterprises/c"]),
        (", partner]", ", ally]", ["segments.partners: {==: [{var: plan}, partner]} -> {==: [{var: plan}, ally]}"]),
        ("segment: staff", "tenants: [enterprises/a]",
         ["stages[0].audience.segment: staff -> none", "stages[0].audience.tenants: none -> enterprises/a"]),
        ("{time: 4h}", "{approvals: 1}", ["stages[0].hold.time: 4h -> none", "stages[0].hold.approvals: none -> 1"]),
        ("pause after 30m", "warn after 1h", ["on.no_data: pause after 30m -> warn after 1h"]),
        ("dry_run: true", "dry_run: false", ["signals[0].dry_run: true -> false"]),
        ("  - {ring: 5, percent: 100%}\n", "",
         ["stages[5]: {ring: ring-5, audience: everyone, percent: 100%, limits: {requests_per_min: 120}} -> none"]),
        ("  - {ring: 5,", "  - {ring: extra, percent: 50%, limits: {bound_accounts: 1}}\n  - {ring: 5,",
         ["stages[5]: none -> {ring: extra, audience: everyone, percent: 50%, limits: {bound_accounts: 1}}"]),
    ],
)  # fmt: skip
def test_diff__reads_as_a_person_would_tell_it(old, new, told):
    """Each edit is told where it was made and in the plan's own spelling; stages are known by their ids."""
    assert old in EXAMPLE
    assert [str(each) for each in diff(parse(EXAMPLE), parse(EXAMPLE.replace(old, new)))] == told


def test_diff__tells_that_stages_changed_places():
    """The order of stages matters, though each is the same."""
    plan = parse(EXAMPLE)
    first, second, *rest = plan.stages
    (difference,) = diff(plan, replace(plan, stages=(second, first, *rest)))
    assert str(difference).startswith("stages: 0-internal, 1-partners, ")
    assert " -> 1-partners, 0-internal, " in str(difference)


# Windows


@given(_windows(), _moments)
def test_window__opens_next_when_it_is_open_and_not_before(window, moment):
    """The next opening is not past, is open, and nothing is open before it."""
    window = replace(window, zone=ZoneInfo("Asia/Shanghai"))
    opening = window.next_open(moment)
    assert opening >= moment
    assert window.contains(opening)
    if opening > moment:
        assert not window.contains(moment)
        assert not window.contains(opening - timedelta(microseconds=1))
        assert not any(window.contains(moment + (opening - moment) * part / 50) for part in range(50))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        (datetime(2026, 11, 26, 8, tzinfo=UTC), True),  # a Thursday
        (datetime(2026, 11, 26, 15, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 26, 16, tzinfo=UTC), False),
        (datetime(2026, 11, 26, 7, 59, tzinfo=UTC), False),
        (datetime(2026, 11, 27, 12, tzinfo=UTC), False),
        (datetime(2026, 11, 26, 3, tzinfo=ZoneInfo("America/New_York")), True),
    ],
)
def test_window__has_its_start_and_not_its_end(moment, is_open):
    """08-16 is from 08:00:00 until just before 16:00, on the window's own clock."""
    window = parse(EXAMPLE).stages[4].hold.window
    assert window is not None
    assert window.contains(moment) is is_open


def test_window__keeps_local_hours_when_clocks_change():
    """09-10 in Berlin is 08:00 UTC in winter and 07:00 UTC in summer."""
    text = _stage('ring: 0, hold: {window: "Mon-Sun 09-10 Europe/Berlin"}')
    window = parse(text).stages[0].hold.window
    assert window is not None
    assert window.next_open(datetime(2026, 3, 28, 0, tzinfo=UTC)) == datetime(2026, 3, 28, 8, tzinfo=UTC)
    assert window.next_open(datetime(2026, 3, 29, 0, tzinfo=UTC)) == datetime(2026, 3, 29, 7, tzinfo=UTC)


def test_segment__has_those_it_names_or_describes():
    """A segment is a list or a predicate, and a predicate never takes in whom it knows nothing of."""
    segments = parse(EXAMPLE).segments
    assert segments["staff"].has("enterprises/a", {})
    assert not segments["staff"].has("enterprises/z", {"plan": "partner"})
    assert segments["partners"].has("enterprises/z", {"plan": "partner"})
    assert not segments["partners"].has("enterprises/z", {"plan": "enterprise"})
    assert not segments["partners"].has("enterprises/z", {})
