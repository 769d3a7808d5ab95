"""Definitions of audiences: from the contract's tree of rules to the model's, with every part checked and named."""

from collections.abc import Iterator

from numerator.targeting.v1 import targeting_pb2 as pb

from services.chassis.errors import FieldViolation, invalid_fields
from services.targeting import words
from services.targeting.model import (
    AUDIENCE_NAME,
    All,
    AnyOf,
    Demographics,
    HasTrait,
    InAudience,
    Keywords,
    Not,
    Rule,
    Trait,
)

DEEPEST = 8
MOST_RULES = 100
_TRAITS = {"topics": Trait.TOPIC, "communities": Trait.COMMUNITY, "brands": Trait.BRAND}


def parse(definition: pb.Rule, field: str = "definition") -> Rule:
    """The rule. Raises INVALID_ARGUMENT with all that does not hold, each by its place in the tree."""
    problems: list[FieldViolation] = []
    rule = _rule(definition, field, 1, problems)
    if not problems and sum(1 for _ in _all_rules(rule)) > MOST_RULES:
        problems.append(FieldViolation(field, f"may have {MOST_RULES} rules in all", "DEFINITION_TOO_LARGE"))
    if problems:
        raise invalid_fields(problems)
    return rule


def audiences_in(rule: Rule) -> set[str]:
    """The names of the audiences to which the rule refers."""
    return {each.name for each in _all_rules(rule) if isinstance(each, InAudience)}


def _rule(rule: pb.Rule, field: str, depth: int, problems: list[FieldViolation]) -> Rule:
    kind = rule.WhichOneof("kind")
    here = f"{field}.{kind}"
    if depth > DEEPEST:
        problems.append(FieldViolation(field, f"may be {DEEPEST} deep", "DEFINITION_TOO_DEEP"))
        return All(())
    match kind:
        case "all" | "any":
            children: pb.RuleList = getattr(rule, kind)
            if not children.rules:
                problems.append(FieldViolation(f"{here}.rules", "needs at least one rule", "REQUIRED"))
            inner = tuple(
                _rule(c, f"{here}.rules[{n}]", depth + 1, problems) for n, c in enumerate(children.rules)
            )
            return All(inner) if kind == "all" else AnyOf(inner)
        case "not":
            return Not(_rule(getattr(rule, "not"), here, depth + 1, problems))
        case "demographics":
            return _demographics(rule.demographics, here, problems)
        case "topics" | "communities" | "brands":
            values: pb.Values = getattr(rule, kind)
            if not values.values or not all(values.values):
                problems.append(
                    FieldViolation(f"{here}.values", "needs at least one value, and no empty one", "REQUIRED")
                )
            return HasTrait(_TRAITS[kind], frozenset(value.casefold() for value in values.values))
        case "keywords":
            return _keywords(rule.keywords, here, problems)
        case "audience":
            if not AUDIENCE_NAME.matches(rule.audience):
                problems.append(
                    FieldViolation(here, f"must have the form {AUDIENCE_NAME.pattern}", "NAME_MALFORMED")
                )
            return InAudience(rule.audience)
        case _:
            problems.append(
                FieldViolation(
                    field,
                    "must say one of all, any, not, demographics, topics, communities, brands, keywords, audience",
                    "REQUIRED",
                )
            )
            return All(())


def _demographics(given: pb.Demographics, field: str, problems: list[FieldViolation]) -> Demographics:
    rule = Demographics(
        given.min_age,
        given.max_age,
        frozenset(gender.casefold() for gender in given.genders),
        frozenset(city.casefold() for city in given.cities),
    )
    if given.max_age and given.min_age > given.max_age:
        problems.append(FieldViolation(f"{field}.max_age", "must not be under min_age", "AGES_REVERSED"))
    problems += [
        FieldViolation(f"{field}.{values}", "must not have an empty value", "REQUIRED")
        for values in ("genders", "cities")
        if "" in getattr(rule, values)
    ]
    if rule == Demographics():
        problems.append(
            FieldViolation(field, "must say something: min_age, max_age, genders or cities", "REQUIRED")
        )
    return rule


def _keywords(given: pb.KeywordInterest, field: str, problems: list[FieldViolation]) -> Keywords:
    found = tuple(dict.fromkeys(words.normal(word) for word in given.words))
    if not found or not all(words.grams(word) for word in found):
        problems.append(
            FieldViolation(f"{field}.words", "needs at least one word of letters or digits", "REQUIRED")
        )
    return Keywords(found, given.min_posts or 1)


def _all_rules(rule: Rule) -> Iterator[Rule]:
    yield rule
    match rule:
        case All(rules) | AnyOf(rules):
            for each in rules:
                yield from _all_rules(each)
        case Not(inner):
            yield from _all_rules(inner)
