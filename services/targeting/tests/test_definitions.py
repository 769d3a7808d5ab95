"""Definitions: what holds is read, what does not is told by its place in the tree."""

from typing import Any

import pytest

from services.chassis.errors import ServiceError
from services.targeting import definitions
from services.targeting.model import All, AnyOf, Demographics, HasTrait, InAudience, Keywords, Not, Trait
from services.targeting.tests.world import rule

AUDIENCE = "enterprises/tianshan/audiences/a1"


def problems(definition: dict[str, Any]) -> dict[str, str]:
    """The wrong places of a definition, with the reasons."""
    with pytest.raises(ServiceError) as refused:
        definitions.parse(rule(definition))
    return {each.field: each.reason for each in refused.value.violations}


def test_parse__reads_every_kind() -> None:
    """Values lose their case, words are brought to one form, and a default stands where nothing is said."""
    parsed = definitions.parse(
        rule(
            {
                "all": {
                    "rules": [
                        {
                            "demographics": {
                                "minAge": 25,
                                "maxAge": 45,
                                "genders": ["F"],
                                "cities": ["Chengdu"],
                            }
                        },
                        {"any": {"rules": [{"topics": {"values": ["Off-Road", "off-road"]}}]}},
                        {"not": {"brands": {"values": ["Tianshan"]}}},
                        {"communities": {"values": ["desert-club"]}},
                        {"keywords": {"words": ["ＳＵＶ", "suv", "Road  Trip"]}},
                        {"audience": AUDIENCE},
                    ]
                }
            }
        )
    )
    assert parsed == All(
        (
            Demographics(25, 45, frozenset({"f"}), frozenset({"chengdu"})),
            AnyOf((HasTrait(Trait.TOPIC, frozenset({"off-road"})),)),
            Not(HasTrait(Trait.BRAND, frozenset({"tianshan"}))),
            HasTrait(Trait.COMMUNITY, frozenset({"desert-club"})),
            Keywords(("suv", "road trip"), 1),
            InAudience(AUDIENCE),
        )
    )
    assert definitions.audiences_in(parsed) == {AUDIENCE}


def test_parse__tells_every_problem_at_once_by_its_place() -> None:
    """A client can point at each wrong rule of the tree."""
    definition = {
        "all": {
            "rules": [
                {},
                {"any": {}},
                {"not": {"topics": {}}},
                {"demographics": {"minAge": 40, "maxAge": 30, "cities": [""]}},
                {"demographics": {}},
                {"brands": {"values": ["volvo", ""]}},
                {"keywords": {"words": ["露营", "!?"]}},
                {"audience": "audiences/a1"},
            ]
        }
    }
    rules = "definition.all.rules"
    assert problems(definition) == {
        f"{rules}[0]": "REQUIRED",
        f"{rules}[1].any.rules": "REQUIRED",
        f"{rules}[2].not.topics.values": "REQUIRED",
        f"{rules}[3].demographics.cities": "REQUIRED",
        f"{rules}[3].demographics.max_age": "AGES_REVERSED",
        f"{rules}[4].demographics": "REQUIRED",
        f"{rules}[5].brands.values": "REQUIRED",
        f"{rules}[6].keywords.words": "REQUIRED",
        f"{rules}[7].audience": "NAME_MALFORMED",
    }


def test_parse__bounds_depth_and_number() -> None:
    """Eight deep and a hundred rules are taken; one more is not."""
    leaf = {"topics": {"values": ["camping"]}}

    def nested(depth: int) -> dict[str, Any]:
        return leaf if depth == 1 else {"not": nested(depth - 1)}

    assert isinstance(definitions.parse(rule(nested(8))), Not)
    assert problems(nested(9)) == {"definition" + ".not" * 8: "DEFINITION_TOO_DEEP"}
    definitions.parse(rule({"any": {"rules": [leaf] * 99}}))
    assert problems({"any": {"rules": [leaf] * 100}}) == {"definition": "DEFINITION_TOO_LARGE"}
