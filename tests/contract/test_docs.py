"""The documents say what the code says: every reason of an error, every event, every key of a plan."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from numerator.options.v1 import options_pb2

from gateway.catalogue import stub_files
from services.chassis.errors import Kind
from services.rollout import plan
from services.rollout.plan import parser

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


def reasons_in_contracts() -> Iterator[tuple[str, str]]:
    """Each reason that a comment of a method names behind what the method returns, with its file."""
    for path in sorted((ROOT / "protos" / "numerator").rglob("*.proto")):
        for comment in re.findall(r"// Returns ((?:.|\n *// )*?)\n *(?://\n|rpc )", path.read_text()):
            yield from ((path.name, each) for each in re.findall(r"`([A-Z][A-Z0-9_]+)`", comment))


def test_errors__every_reason_of_the_contracts_is_documented() -> None:
    """What the comments of the protos promise has a row in docs/errors.md."""
    documented = set(
        re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    )
    promised = {each for each in reasons_in_contracts() if each[1] not in Kind.__members__}

    assert ("rollout.proto", "HOLD_NOT_MET") in promised
    assert sorted(each for each in promised if each[1] not in documented) == []


def plans() -> dict[str, str]:
    """The plans in the documents, by where they stand."""
    found = {path.name: path.read_text() for path in (ROOT / "docs" / "examples").glob("*.yaml")}
    blocks = re.findall(r"```yaml\n(rollout: .*?)```", (ROOT / "docs" / "rollouts.md").read_text(), re.DOTALL)
    return found | {f"rollouts.md, plan {number}": block for number, block in enumerate(blocks, start=1)}


@pytest.mark.parametrize("where", plans())
def test_plans__in_the_documents__have_no_mistake(where: str) -> None:
    """Whoever copies one begins with a plan that can be applied."""
    assert plan.parse(plans()[where]).stages


def test_plans__the_documented_one__has_every_key() -> None:
    """A key that is new is shown where people look for it."""
    shown = yaml.load(
        plans()["rollouts.md, plan 1"], yaml.BaseLoader
    )  # texts as they are: `on` is no truth value
    text = (ROOT / "docs" / "rollouts.md").read_text()

    assert [key for key in parser._KEYS if key not in shown and f"`{key}: " not in text] == []
    assert {key for stage in shown["stages"] for key in stage} == set(parser._STAGE_KEYS)
    assert {key for stage in shown["stages"] for key in stage.get("limits", {})} == set(parser._LIMIT_KEYS)
    assert set(re.findall(r"`([a-z]+\.[a-z0-9_]+)`", text.partition("Metrics: ")[2][:200])) >= set(
        plan.METRICS
    )
