"""Ordinary flags: how they are written, every mistake by its place, and what gateways are given."""

import json
from typing import Any

import pytest
from numerator.rollout.v1 import flags_pb2 as pb

from services.chassis.buckets import bucket_of
from services.chassis.errors import ServiceError
from services.chassis.testing.rpc import gateway, member, operator
from services.rollout import flags
from services.rollout.tests.world import FLAG, World, enterprise, plan, refusal, refused

BOOLEAN = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}


def apply(world: World, document: str, **fields: Any) -> pb.ApplyFlagsResponse:
    """Flags, set by an operator."""
    return world.as_(operator()).flags.ApplyFlags(pb.ApplyFlagsRequest(document=document, **fields))


def served(world: World) -> dict[str, Any]:
    """The flags that gateways are given."""
    return world.document()["flags"]["flags"]


def listed(world: World, size: int = 50) -> list[str]:
    """The keys of all flags, page by page."""
    names, token = [], ""
    while True:
        page = world.as_(operator()).flags.ListFlags(pb.ListFlagsRequest(page_size=size, page_token=token))
        names += [each.name.removeprefix("flags/") for each in page.flags]
        token = page.next_page_token
        if not token:
            return names


# How they are written


def test_parse__yaml_and_json__say_the_same() -> None:
    """Words that YAML would take for truth values are the texts that they are, and defaults are filled in."""
    written = """
    flags:
      panel: {percent: 25%}
      theme:
        variants: {dark: '#000', light: '#fff', off: no}
        defaultVariant: off
        targeting: {if: [{"==": [{var: plan}, yes]}, dark, off]}
        metadata: {owner: web, since: 2026-01-15, size: 1.5}
      quiet: {state: DISABLED}
    """
    same = {
        "flags": {
            "panel": {"percent": "25%"},
            "theme": {
                "variants": {"dark": "#000", "light": "#fff", "off": "no"},
                "defaultVariant": "off",
                "targeting": {"if": [{"==": [{"var": "plan"}, "yes"]}, "dark", "off"]},
                "metadata": {"owner": "web", "since": "2026-01-15", "size": 1.5},
            },
            "quiet": {"state": "DISABLED"},
        }
    }

    parsed = flags.parse(written)

    assert parsed == flags.parse(json.dumps(same))
    assert parsed["theme"] == {"state": "ENABLED", **same["flags"]["theme"]}
    assert parsed["quiet"] == {**BOOLEAN, "state": "DISABLED"}
    inside = {"<": [{"var": ["bucket.panel", 10_000]}, 2500]}
    assert parsed["panel"] == {**BOOLEAN, "targeting": {"if": [inside, "on", "off"]}}


@pytest.mark.parametrize(
    ("percent", "basis_points"), [("0%", 0), ("0.5%", 50), ("12.34%", 1234), ("100%", 10_000)]
)
def test_parse__percent__is_exact(percent: str, basis_points: int) -> None:
    """To the basis point."""
    rule = flags.parse(f"flags: {{a: {{percent: {percent}}}}}")["a"]["targeting"]

    assert rule["if"][0]["<"][1] == basis_points


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("{percent: 101%}", {"percent": "must be a share as 25% or 0.5%"}),
        ("{percent: 0.125%}", {"percent": "must be a share as 25% or 0.5%"}),
        ("{percent: 25}", {"percent": "must be a share as 25% or 0.5%"}),
        ("{percent: 5%, targeting: {}}", {"percent": "stands for variants and targeting: leave them out"}),
        ("{state: ON}", {"state": "must be ENABLED or DISABLED"}),
        ("{state: [ENABLED]}", {"state": "must be ENABLED or DISABLED"}),
        ("{variants: {}}", {"variants": "must name at least one variant, as {on: true, off: false}"}),
        ("{variants: [on]}", {"variants": "must name at least one variant, as {on: true, off: false}"}),
        ("{variants: {1: a}}", {"variants": "must name at least one variant, as {on: true, off: false}"}),
        (
            "{variants: {a: 1, b: true}, defaultVariant: a}",
            {"variants": "must all be of one type"},
        ),
        ("{variants: {a: 1, b: 2}}", {"defaultVariant": "must be one of a, b"}),
        ("{variants: {a: 1}, defaultVariant: c}", {"defaultVariant": "must be one of a"}),
        ("{defaultVariant: maybe}", {"defaultVariant": "must be one of on, off"}),
        ("{defaultVariant: [on]}", {"defaultVariant": "must be one of on, off"}),
        ("{metadata: text}", {"metadata": "must be a mapping of texts, numbers and booleans"}),
        ("{metadata: {a: [1]}}", {"metadata": "must be a mapping of texts, numbers and booleans"}),
        (
            "{colour: red, size: 1}",
            dict.fromkeys(
                ("colour", "size"),
                "is not known; a flag has defaultVariant, metadata, percent, state, targeting, variants",
            ),
        ),
        ("{targeting: on}", {"targeting": 'must be a predicate, as {"==": [{var: verified}, true]}'}),
        (
            "{targeting: {if: [{fractional: [a, 50]}, on, off]}}",
            {"targeting.if[0].fractional": "is no operator that is allowed"},
        ),
        (
            '{targeting: {if: [{"<": [{var: bucket.a}, 2500]}, on, off]}}',
            {"targeting.if[0].<[0].var": "must be [bucket.a, 10000]: without a bucket nobody is within a share"},
        ),
        ("[a]", {"": "must be a mapping"}),
    ],
)  # fmt: skip
def test_parse__a_mistake__is_named_by_its_place(flag: str, wrong: dict[str, str]) -> None:
    """What is wrong, where, and what would be right."""
    with pytest.raises(ServiceError) as refused:
        flags.parse(f"flags: {{good: {{}}, bad: {flag}}}")

    told = {each.field: each.description for each in refused.value.violations}
    assert told.keys() == {f"flags.bad.{place}".rstrip(".") for place in wrong}
    for place, text in wrong.items():
        assert told[f"flags.bad.{place}".rstrip(".")].startswith(text)


def test_parse__mistakes_of_several_flags__are_told_at_once() -> None:
    """All of them, not the first."""
    with pytest.raises(ServiceError) as refused:
        flags.parse(
            "flags: {a: {state: ON}, '!': {}, c: {percent: x, state: OFF}, 4: {}, d.e: {percent: 5%}}"
        )

    assert [each.field for each in refused.value.violations] == [
        "flags.a.state", "flags", "flags.c.state", "flags.c.percent", "flags", "flags.d.e.percent"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "must be a mapping, as flags:"),
        ("flags: {}", "must be a mapping, as flags:"),
        ("flags: [a]", "must be a mapping, as flags:"),
        ("flags: {a: {}\nb: c", "line 2: "),
        ("flags:\n  a: {}\n  a: {}", "line 3: has a twice: keep one"),
        ("flags:\n  a: {variants: {on: true, on: false}}", "line 2: has on twice: keep one"),
        ('{"flags": {"a": {}, "a": {}}}', "has a twice: keep one"),
        ("flags: &f\n  a: &v {}\n  b: *v", "line 3: has an alias (*): write the value out"),
        ('{"flags": {"a": {"metadata": {"b": NaN}}}}', "must be JSON or YAML with values that JSON has"),
        ('{"flags": {"a": {"metadata": {"b": 1e999}}}}', "must be JSON or YAML with values that JSON has"),
        ('{"flags": {"a": {"metadata": {"b": "\\ud800"}}}}', "must be JSON or YAML with values that JSON has"),
        ('{"flags": {"a": {"metadata": {"b": "\\u0000"}}}}', "must not have the character NUL"),
        ("flags: {a: {metadata: {b: !!binary aGk=}}}", "must be JSON or YAML with values that JSON has"),
        ("flags: {a: !!python/name:os.system x}", "line 1: could not determine a constructor"),
        ("[" * 20_000, "must be JSON or YAML with values that JSON has"),
        ("flags: {a: {}}" + " " * flags.MOST_YAML, "must be JSON, or YAML of at most 256 KiB"),
        (json.dumps({"flags": {f"f{n}": {} for n in range(5001)}}), "must have at most 5000 flags"),
    ],
)  # fmt: skip
def test_parse__no_document_of_flags__is_refused(document: str, text: str) -> None:
    """Broken, doubled, without end, or not to be stored: in words, and by the line where there is one."""
    with pytest.raises(ServiceError) as refused:
        flags.parse(document)

    assert [each.field for each in refused.value.violations] == ["document"]
    assert refused.value.violations[0].description.startswith(text)


# What is done with them


def test_apply__serves_them_and_tells_what_changed(world: World) -> None:
    """Only what differs from before is told; the same again makes no snapshot; a flag's bucket is its own."""
    first = apply(world, "flags: {panel: {percent: 25%}, theme: {state: DISABLED}}")
    version = world.snapshot().version
    same = apply(world, "flags: {theme: {state: DISABLED}}")

    assert (list(first.changed), list(first.deleted)) == (["panel", "theme"], [])
    assert (list(same.changed), list(same.deleted)) == ([], [])
    assert world.snapshot().version == version
    assert served(world)["theme"]["state"] == "DISABLED"
    assert world.document()["buckets"] == {"panel": "flags/panel"}
    assert bucket_of("flags/panel", enterprise(1)) != bucket_of("flags/theme", enterprise(1))
    assert list(apply(world, "flags: {theme: {}, new: {}}").changed) == ["theme", "new"]
    assert listed(world) == listed(world, size=1) == ["new", "panel", "theme"]


def test_apply__prune__deletes_what_is_not_there(world: World) -> None:
    """Without it, what is not named stays."""
    apply(world, "flags: {a: {}, b: {}, c: {}}")

    pruned = apply(world, "flags: {b: {}, d: {}}", prune=True)

    assert (list(pruned.changed), list(pruned.deleted)) == (["d"], ["a", "c"])
    assert served(world).keys() == {"b", "d"}


def test_apply__validate_only__stores_nothing(world: World) -> None:
    """It tells what would be, and mistakes as if it were meant."""
    apply(world, "flags: {a: {}, b: {}}")
    before = world.everything()

    tried = apply(world, "flags: {b: {state: DISABLED}}", prune=True, validate_only=True, request_id="r1")

    assert (list(tried.changed), list(tried.deleted)) == (["b"], ["a"])
    assert world.everything() == before
    wrong = refused(apply, world, "flags: {b: {state: ON}}", validate_only=True)
    assert wrong.fields == {"flags.b.state": "INVALID"}


def test_apply__a_rollouts_flag__is_refused(world: World) -> None:
    """It is the plan's to change; and no rollout takes a flag that is an ordinary one."""
    world.create()
    apply(world, "flags: {ordinary: {}}")

    told = refused(apply, world, f"flags: {{{FLAG}: {{}}, other: {{}}}}")
    taken = refused(world.create, "rollouts/other", flag="ordinary")

    assert (told.reason, told.text) == (
        "FLAG_OF_A_ROLLOUT",
        f"a rollout serves {FLAG}: change its plan instead",
    )
    assert (taken.reason, taken.text) == (
        "FLAG_TAKEN",
        "the flag ordinary is taken: it is an ordinary flag: delete that one first",
    )
    assert listed(world) == ["ordinary"]


def test_delete__flag__is_served_no_more(world: World) -> None:
    """The answer is what it was; a second time there is nothing."""
    apply(world, "flags: {a: {}, b: {}}")
    stub = world.as_(operator()).flags

    gone = stub.DeleteFlag(pb.DeleteFlagRequest(name="flags/a", request_id="r1"))

    assert (gone.name, json.loads(gone.definition)) == ("flags/a", BOOLEAN)
    assert served(world).keys() == {"b"}
    assert stub.DeleteFlag(pb.DeleteFlagRequest(name="flags/a", request_id="r1")) == gone
    assert refusal(stub.DeleteFlag, pb.DeleteFlagRequest(name="flags/a")) == "NOT_FOUND"


def test_required__flag__stays(world: World) -> None:
    """What a plan requires is neither deleted nor pruned."""
    apply(world, "flags: {binding: {}, b: {}}")
    world.create(requires="[binding]")

    deleted = refused(world.as_(operator()).flags.DeleteFlag, pb.DeleteFlagRequest(name="flags/binding"))
    pruned = refusal(apply, world, "flags: {b: {}}", prune=True)

    assert (deleted.reason, deleted.text) == ("FLAG_REQUIRED", "rollouts/edition requires binding")
    assert pruned == "FLAG_REQUIRED"
    assert listed(world) == ["b", "binding"]


@pytest.mark.parametrize(
    ("requires", "reason"), [("[nowhere]", "FLAG_UNKNOWN"), ("[other-flag]", "FLAGS_CIRCULAR")]
)
def test_requires__unknown_or_in_a_circle__is_refused(world: World, requires: str, reason: str) -> None:
    """A plan builds on flags that there are, and none builds on itself, however long the way round."""
    apply(world, "flags: {leaf: {}}")
    world.create(requires="[leaf]")
    world.create("rollouts/middle", flag="middle-flag", requires=f"[{FLAG}]")
    world.create("rollouts/other", flag="other-flag", requires="[middle-flag, leaf]")

    told = refused(world.apply, plan(requires=requires))

    assert told.fields == {"requires[0]": reason}


def test_callers__are_operators(world: World) -> None:
    """Nobody else sees or sets flags."""
    for principal in (member(enterprise(1)), gateway()):
        stub = world.as_(principal).flags
        assert refusal(stub.ListFlags, pb.ListFlagsRequest()) == "CALLER_NOT_ALLOWED"
        assert (
            refusal(stub.ApplyFlags, pb.ApplyFlagsRequest(document="flags: {a: {}}")) == "CALLER_NOT_ALLOWED"
        )
