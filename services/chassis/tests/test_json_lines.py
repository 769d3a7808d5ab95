"""JSON Lines: every line is answered for, wherever the stream is cut."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.chassis import json_lines
from services.chassis.json_lines import LONGEST_LINE, BadLineError, LineProblem


def take(value: dict[str, Any]) -> int:
    if "n" not in value:
        raise BadLineError("MISSING_FIELD", "n is missing")
    return int(value["n"])


def test_read__numbers_and_reasons() -> None:
    """Bad lines are told by number and reason, good ones behind them count."""
    text = b'{"n": 1}\n\n{broken\n[1]\n{"m": 1}\n\xff\n{"n": NaN}\n{"n": 2}'

    found = list(json_lines.read([text], take))

    assert [(n, v if isinstance(v, int) else v.reason) for n, v in found] == [
        (1, 1),
        (3, "MALFORMED_JSON"),
        (4, "MALFORMED_JSON"),
        (5, "MISSING_FIELD"),
        (6, "MALFORMED_JSON"),
        (7, "BAD_VALUE"),
        (8, 2),
    ]


def test_read__too_long() -> None:
    """A line that is too long is one problem, and the next line counts, also when it comes in many parts."""
    chunks = [b'{"n": 1}\n{"n": "', *[b"x" * 1000] * (LONGEST_LINE // 1000 + 1), b'"}\n{"n": 3}\n']

    found = dict(json_lines.read(chunks, take))

    assert found[1] == 1
    assert isinstance(found[2], LineProblem)
    assert found[2].reason == "LINE_TOO_LONG"
    assert found[3] == 3


def test_read__depth_and_digits() -> None:
    """What would break a parser is a problem of its line."""
    found = list(
        json_lines.read(
            [b"[" * 60_000 + b"\n" + b'{"n": ' + b"9" * 10_000 + b"}\n", b'\xef\xbb\xbf{"n": 1}'], take
        )
    )

    assert [v.reason for _, v in found[:2]] == ["MALFORMED_JSON", "BAD_VALUE"]


@given(st.lists(st.integers(), max_size=20), st.data())
def test_read__any_cut(numbers: list[int], data: st.DataObject) -> None:
    """Wherever the bytes are cut into chunks, the same values come out."""
    text = b"\xef\xbb\xbf" + b"".join(json.dumps({"n": n}).encode() + b"\n" for n in numbers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    assert [v for _, v in json_lines.read(chunks, take)] == numbers
