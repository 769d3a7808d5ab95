"""The documents say what the code says: every reason of an error, every event."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from numerator.options.v1 import options_pb2

from gateway.catalogue import stub_files

ROOT = Path(__file__).resolve().parents[2]
REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
RAISED_AT = {"ServiceError": 1, "FieldViolation": 2, "Problem": 1, "BadLineError": 0, "_refused": 0}
"""The functions that make an error, and the place of the reason among their arguments."""


def nodes() -> Iterator[ast.AST]:
    """The syntax of all code of services and gateway, tests apart."""
    for folder in ("services", "gateway"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "tests" not in path.parts and "testing" not in path.parts:
                yield from ast.walk(ast.parse(path.read_text()))


def reasons_in_code() -> Iterator[str]:
    """Every reason that is written as a text where an error is made."""
    for node in nodes():
        if isinstance(node, ast.Call):
            yield from reasons_in_call(node)


def reasons_in_call(call: ast.Call) -> Iterator[str]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    place = RAISED_AT.get(name)
    given = [call.args[place]] if place is not None and len(call.args) > place else []
    given += [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    for node in given:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.fullmatch(node.value):
            yield node.value


def test_errors__every_reason_is_documented() -> None:
    """docs/errors.md has one row for each reason that the code gives, and none for a word that the code no longer knows."""
    documented = re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    words = {node.value for node in nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    assert len(documented) == len(set(documented))
    assert sorted(set(reasons_in_code()) - set(documented)) == []
    assert sorted(set(documented) - words) == []


def test_events__every_event_is_documented() -> None:
    """docs/events.md has a row for each event type of the contracts, and no other."""
    documented = re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE)
    types = {
        message.GetOptions().Extensions[options_pb2.event_type]
        for file in stub_files()
        for message in file.message_types_by_name.values()
    } - {""}

    assert set(documented) == types
