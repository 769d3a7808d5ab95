"""The columnar store: what it answers equals a plain count, and what it holds is the log, once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.analytics import columns as columns_module
from services.analytics.columns import Columns
from services.analytics.model import DIMENSIONS, METRICS, Fact, Kind, Question
from services.analytics.tests import plain
from services.analytics.tests.world import NOON, fact, new_enterprise
from services.chassis.database import Change
from services.chassis.errors import ServiceError
from services.chassis.testing.servers import ROOT

FOR_EVER = 1 << 62
ODD = [
    "",
    "p",
    "P",
    "it's",
    "a\\b",
    "\\N",
    "\\'",
    "tab\tnew\nline\r",
    "{x:String}",
    "']",
    "a,b",
    "越野车🚙",
    "%s",
    "\x01",
    "--",
]


def change(sequence: int, facts: Sequence[Fact], enterprise: str = "enterprises/x") -> Change:
    """A change of the log, as the store writes it."""
    rows = [[*each[:2], each.time.isoformat(), *each[3:]] for each in facts]
    return Change(
        sequence, enterprise, json.dumps({"columns": Fact._fields, "rows": rows}).encode(), enterprise
    )


def ask(
    columns: Columns, question: Question, enterprise: str = "enterprises/x", **options: int
) -> list[plain.Row]:
    """The whole answer."""
    given = {"until": FOR_EVER, "limit": 100_000, "offset": 0, "timeout": 30} | options
    return columns.ask(enterprise, question, **given)


def count(columns: Columns) -> float:
    """How many facts there are."""
    return ask(columns, Question(("reposts",)))[0][1][0]


TEXTS = st.sampled_from(ODD)
FACTS = st.lists(
    st.builds(
        Fact,
        id=st.text(max_size=3),
        kind=st.sampled_from(Kind),
        time=st.integers(0, 30 * 60 * 48).map(
            lambda steps: NOON + timedelta(seconds=2 * steps, microseconds=steps % 3)
        ),
        post=TEXTS,
        person=TEXTS,
        publication=TEXTS,
        account=TEXTS,
        placement=TEXTS,
        campaign=TEXTS,
        value=st.integers(0, 100).map(float),
    ),
    max_size=40,
)
MOMENTS = st.none() | st.integers(-10, 200_000).map(lambda n: NOON + timedelta(seconds=n, microseconds=n % 4))
TIMES = st.integers(0, 30).map(lambda n: (NOON + timedelta(minutes=n)).strftime("%Y-%m-%dT%H:%M:%SZ"))
FILTERS = st.lists(
    st.tuples(
        st.sampled_from(list(DIMENSIONS)),
        st.lists(TEXTS | TIMES | st.sampled_from([str(kind) for kind in Kind]), min_size=1, max_size=4).map(
            tuple
        ),
    ),
    max_size=2,
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    facts=FACTS,
    dimensions=st.lists(st.sampled_from(list(DIMENSIONS)), max_size=3, unique=True),
    filters=FILTERS,
    times=st.tuples(MOMENTS, MOMENTS),
)
@example([fact("r", post=text) for text in ODD], ["post"], [("post", tuple(ODD))], (None, None))
def test_ask__any_question__as_a_plain_count(columns: Columns, facts, dimensions, filters, times) -> None:
    """All numbers, by any dimensions, under any filters and times, with texts that are odd in SQL, JSON and ClickHouse."""
    start, end = times
    if start and end and start >= end:
        start, end = end, None
    question = Question(tuple(METRICS), tuple(dimensions), tuple(filters), start, end)
    enterprise = new_enterprise()
    columns.apply([change(_next(columns), facts, enterprise)])

    assert ask(columns, question, enterprise) == [
        (key, pytest.approx(values)) for key, values in plain.answer(facts, question)
    ]


def _next(columns: Columns) -> int:
    assert columns._newest is not None
    return columns._newest + 1


def test_ask__of_an_enterprise__sees_no_other(columns: Columns) -> None:
    """Facts of others do not count, whatever is asked."""
    columns.apply([change(1, [fact("a")], "enterprises/a"), change(2, [fact("b")], "enterprises/b")])

    assert ask(columns, Question(("reposts",), ("kind",)), "enterprises/a") == [(["repost"], [1])]
    assert ask(columns, Question(("reposts",), ("kind",)), "enterprises/c") == []


def test_ask__pages__are_of_one_moment(columns: Columns) -> None:
    """More than 10,000 rows in pages, while others come in between: each once, none missing, none of the new ones."""
    first = [fact(f"r{n}", post=f"p{n * 7919 % 20_011:05d}") for n in range(20_011)]
    columns.apply([change(number, first[number::10]) for number in range(1, 10)])
    columns.apply([change(10, first[0::10])])

    seen: list[str] = []
    for page in range(7):
        rows = ask(columns, Question(("reposts",), ("post",)), until=10, limit=3_000, offset=3_000 * page)
        seen += [key[0] for key, _ in rows]
        columns.apply([change(11 + page, [fact(f"new{page}", post=f"p{page * 3_000:05d}x")])])

    assert seen == sorted(each.post for each in first)


def test_ask__too_long_or_too_large__says_so(columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that takes more time or memory than it may is a typed error, and spoils no later answer."""
    columns.apply([change(1, [fact(f"r{n}", post=f"p{n}", person=f"u{n}") for n in range(50_000)])])
    question = Question(("engaged_people",), ("post", "minute", "kind"))

    with pytest.raises(ServiceError) as too_long:
        ask(columns, question, timeout=0.000_001)
    monkeypatch.setattr(columns_module, "_MOST_BYTES", 1 << 20)
    with pytest.raises(ServiceError) as too_large:
        ask(columns, question)

    assert too_long.value.reason == too_large.value.reason == "QUESTION_TOO_LARGE"
    assert count(columns) == 50_000


def test_ask__before_the_log_is_known__is_unavailable(tmp_path: Path) -> None:
    """While nothing is open yet there are no numbers, rather than zeros."""
    columns = Columns(tmp_path)
    try:
        with pytest.raises(ServiceError) as refused:
            count(columns)
    finally:
        columns.close()

    assert refused.value.reason == "FACTS_UNAVAILABLE"


def test_ask__while_facts_come_in__waits_for_none(columns: Columns) -> None:
    """A long question holds up neither the facts nor the next question."""
    with columns._reader(1), columns._reader(1), columns._reader(1):
        columns.apply([change(1, [fact("r")])])
        assert count(columns) == 1


def test_ask__all_connections_busy__is_unavailable(columns: Columns) -> None:
    """Whoever cannot be answered in time is told to come again."""
    with ExitStack() as stack:
        for _ in range(columns_module._SIDE_BY_SIDE):
            stack.enter_context(columns._reader(1))
        with pytest.raises(ServiceError) as refused:
            ask(columns, Question(("reach",)), timeout=0.05)

    assert refused.value.reason == "FACTS_UNAVAILABLE"
    assert count(columns) == 0


def test_apply__again__changes_nothing(columns: Columns) -> None:
    """Changes that are in are passed over, also when they come among new ones."""
    changes = [change(number, [fact(f"r{number}")]) for number in range(1, 6)]
    columns.apply(changes[:3])

    columns.apply(changes[:2])
    columns.apply(changes)

    assert count(columns) == 5


def test_apply__a_page_of_the_log__is_one_part(columns: Columns) -> None:
    """So it is in as a whole or not at all, whenever the process dies."""
    columns.apply(
        [change(n, [fact(f"r{n}-{m}", person="x" * 60) for m in range(5_000)]) for n in range(1, 13)]
    )

    with columns._connected() as connection:
        inserted = columns_module._rows(
            connection, "select rows from system.parts where table = 'facts' and level = 0"
        )
    assert inserted == [[60_000]]


def test_apply__a_version_with_fewer_columns__leaves_them_empty(columns: Columns) -> None:
    """The log names its columns: what an older version of ours wrote is read by a newer one."""
    old = {"columns": ["id", "kind", "time"], "rows": [["r1", "repost", "2026-01-15T12:00:00+00:00"]]}
    columns.apply(
        [
            Change(1, "enterprises/x", json.dumps(old).encode(), "enterprises/x"),
            change(2, [fact("r2", post="p")]),
        ]
    )

    assert ask(columns, Question(("reposts",), ("post",))) == [([""], [1]), (["p"], [1])]


def test_apply__store_cannot_write__is_tried_again(columns: Columns) -> None:
    """What fails is UNAVAILABLE, tells no rows, and the same changes work when the store does."""
    missing = {"columns": ["id", "kind", "nowhere"], "rows": [["r1", "repost", ""]]}
    changes = [
        change(1, [fact("r0")]),
        Change(2, "enterprises/x", json.dumps(missing).encode(), "enterprises/x"),
    ]
    with pytest.raises(ServiceError) as refused:
        columns.apply(changes)
    with columns._connected() as connection:
        connection.query("alter table facts add column nowhere String")

    columns.apply(changes)

    assert refused.value.reason == "FACTS_UNAVAILABLE"
    assert "r1" not in str(refused.value)
    assert count(columns) == 2


def test_open__goes_on_where_its_rows_end(tmp_path: Path) -> None:
    """Closed and opened, it knows what it has."""
    columns = Columns(tmp_path)
    columns.open("log", 0)
    columns.apply([change(7, [fact("r")])])
    columns.close()
    again = Columns(tmp_path)
    try:
        assert again.open("log", 9) == 7
        assert count(again) == 1
    finally:
        again.close()


@pytest.mark.parametrize(
    ("log", "newest", "schema"), [("other", 9, ""), ("log", 6, ""), ("log", 9, " , more String")]
)
def test_open__what_is_not_of_this_log__is_thrown_away(
    columns: Columns, monkeypatch: pytest.MonkeyPatch, log: str, newest: int, schema: str
) -> None:
    """Another database's facts, those of a later state of it, and those in columns of another version."""
    columns.apply([change(7, [fact("r")])])
    monkeypatch.setattr(columns_module, "_COLUMNS", columns_module._COLUMNS + schema)

    assert columns.open(log, newest) == 0

    columns.apply([change(1, [fact("r"), fact("s")])])
    assert count(columns) == 2


def test_folder__belongs_to_one_process(columns: Columns, tmp_path: Path) -> None:
    """A second process that opens it ends with an error instead of spoiling it."""
    program = f"from services.analytics.columns import Columns; from pathlib import Path; Columns(Path({str(tmp_path / 'store')!r}))"
    second = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, timeout=60
    )

    assert second.returncode != 0
    assert count(columns) == 0
