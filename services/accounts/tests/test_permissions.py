"""Who may do what: the decision against a plain reference, what may be granted, and what is said about it."""

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from numerator.options.v1 import options_pb2

from services.accounts.model import Role
from services.accounts.model.groups import Group, Path, moved_path, path_within
from services.accounts.model.permissions import (
    LONGEST_AGENCY_GRANT,
    RIGHTS,
    Holding,
    check_granter,
    check_lifetime,
    decide,
    explain,
    rights_of,
)
from services.chassis.errors import ServiceError
from services.chassis.principal import Principal
from services.chassis.rpc.access import AccessRule
from services.chassis.testing.servers import ROOT

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENTERPRISE = "enterprises/e"
MEMBER = f"{ENTERPRISE}/members/m"

Parents = Mapping[str, str | None]
"""The reference's tree: each group's parent."""
Given = tuple[str, str | None, datetime | None]
"""The reference's grant: role, group (None: everywhere), end (None: never)."""


def is_within(parents: Parents, group: str | None, above: str) -> bool:
    """The reference: whether a group is another one or below it."""
    return group is not None and (group == above or is_within(parents, parents[group], above))


def may(parents: Parents, place: str | None, given: Sequence[Given], roles: frozenset[str]) -> bool:
    """The reference: whether one of the grants allows what needs one of the roles, with an account at a place, now."""
    for role, group, end in given:
        if (
            role in roles
            and (end is None or end > NOW)
            and (group is None or is_within(parents, place, group))
        ):
            return True
    return False


def random_tree(rng: random.Random) -> tuple[dict[str, str | None], dict[str, Path]]:
    """A tree that has grown and been moved about: as the reference keeps it, and as the model does."""
    parents: dict[str, str | None] = {}
    groups: dict[str, Group] = {}
    for number in range(rng.randint(1, 14)):
        name, into = f"g{number}", rng.choice([None, *parents])
        parents[name] = into
        path = path_within(groups[into].path if into else (), name)
        groups[name] = Group(f"{ENTERPRISE}/accountGroups/{name}", name, path, NOW, NOW)
    for _ in range(rng.randint(0, 6)):
        moving, into = rng.choice(list(parents)), rng.choice([None, *parents])
        try:
            before, after = (
                groups[moving],
                groups[moving].moved(groups[into].path if into else (), height=1, now=NOW),
            )
        except ServiceError:
            continue
        parents[moving] = into
        for name, group in groups.items():
            if moving in group.path:
                path = moved_path(group.path, before=before.path, after=after.path)
                groups[name] = Group(group.name, name, path, NOW, NOW)
    return parents, {name: group.path for name, group in groups.items()}


def random_grants(rng: random.Random, parents: Parents) -> list[Given]:
    """Up to six grants, of which some have ended, one at this very moment."""
    ends = [None, NOW - HOUR, NOW, NOW + timedelta(microseconds=1), NOW + HOUR]
    places = [*parents, *parents, None]
    return [
        (rng.choice(list(Role)).value, rng.choice(places), rng.choice(ends)) for _ in range(rng.randint(0, 6))
    ]


def compare(seed: int) -> int:
    """One random tree with grants, all accounts' places and rights; how many decisions were compared."""
    rng = random.Random(seed)
    parents, paths = random_tree(rng)
    given = random_grants(rng, parents)
    holdings = [Holding(*each) for each in given]
    carried = rights_of(holdings, NOW)
    everywhere = frozenset(role for role, group, end in given if group is None and (end is None or end > NOW))
    principal = Principal("MEMBER", MEMBER, ENTERPRISE, roles=everywhere, grants=carried.grants)
    titles = {name: name for name in parents}
    compared = 0
    for right, known in RIGHTS.items():
        roles = frozenset(known.roles)
        rule = AccessRule(
            "x.X/X", frozenset({"MEMBER"}), roles, right, per_group=True, own=False, name_fields=()
        )
        for place in (None, *parents):
            path = paths[place] if place else ()
            expected = may(parents, place, given, roles)
            by_token = is_admitted(rule, principal) and rule.reach(principal).covers(path)
            told = explain(MEMBER, holdings, right, account="@a", path=path, titles=titles, now=NOW)
            decided = (decide(holdings, roles, path, NOW) is not None, by_token, told.by is not None)
            assert decided == (expected,) * 3, (seed, right, place, given, parents)
            assert told.sentence.startswith("may not " if not expected else "may ")
            compared += 1
    return compared


def is_admitted(rule: AccessRule, principal: Principal) -> bool:
    """Whether the call comes to its handler at all."""
    try:
        rule.admit(principal)
    except ServiceError:
        return False
    return True


def test_decide__is_what_a_plain_reference_says() -> None:
    """A thousand random trees with grants: the decision, what tokens carry, and the explanation."""
    assert sum(map(compare, range(1_000))) > 10_000


@pytest.mark.slow
def test_decide__is_what_a_plain_reference_says_of_ten_thousand() -> None:
    """The same of 10,000 others."""
    assert sum(map(compare, range(1_000, 11_000))) > 100_000


def test_decide__names_what_lasts_longest() -> None:
    """Of two that allow it the later end, and none before any."""
    short, long, ever = (Holding("EDITOR", "g", end) for end in (NOW + HOUR, NOW + 2 * HOUR, None))
    assert decide([short, long], ["EDITOR"], ["g"], NOW) is long
    assert decide([short, ever, long], ["EDITOR"], ["g"], NOW) is ever


def test_rights_of__end_with_the_first() -> None:
    """Only what holds in groups, by role; the earliest end among it; what has ended is neither."""
    held = [
        Holding("ADMIN", None, NOW + HOUR),
        Holding("EDITOR", "a", NOW + 3 * HOUR),
        Holding("EDITOR", "b", NOW + 2 * HOUR),
        Holding("EDITOR", "c", NOW),
        Holding("ANALYST", "c"),
    ]
    rights = rights_of(held, NOW)
    assert rights.grants == {"EDITOR": frozenset("ab"), "ANALYST": frozenset("c")}
    assert rights.ends == NOW + 2 * HOUR
    assert rights_of(held[-1:], NOW).ends is None


@pytest.mark.parametrize(
    ("held", "role", "path", "reason"),
    [
        (Holding("ADMIN"), Role.ADMIN, (), None),
        (Holding("ADMIN"), Role.OWNER, ("a",), "ROLE_TOO_WIDE"),
        (Holding("OWNER"), Role.OWNER, ("a",), None),
        (Holding("ADMIN", "a"), Role.EDITOR, ("a", "b"), None),
        (Holding("ADMIN", "b"), Role.EDITOR, ("a",), "ROLE_TOO_WIDE"),
        (Holding("EDITOR", "a"), Role.ANALYST, ("a",), "ROLE_TOO_WIDE"),
        (Holding("ADMIN", "a", NOW + HOUR), Role.EDITOR, ("a",), None),
        (Holding("ADMIN", "a", NOW + HOUR / 2), Role.EDITOR, ("a",), "GRANT_TOO_LONG"),
        (Holding("ADMIN", "a", NOW), Role.EDITOR, ("a",), "ROLE_TOO_WIDE"),
    ],
)
def test_check_granter__gives_no_more_than_is_held(
    held: Holding, role: Role, path: Path, reason: str | None
) -> None:
    """As wide, there, and for as long: here for one hour."""
    if reason is None:
        check_granter([held], role, path, NOW + HOUR, NOW)
        return
    with pytest.raises(ServiceError) as refused:
        check_granter([held], role, path, NOW + HOUR, NOW)
    assert reason in {refused.value.reason, *(each.reason for each in refused.value.violations)}


@pytest.mark.parametrize(
    ("member", "end", "reason"),
    [
        (MEMBER, None, None),
        (MEMBER, NOW + 10 * LONGEST_AGENCY_GRANT, None),
        (MEMBER, NOW, "PAST"),
        ("enterprises/agency/members/m", None, "REQUIRED"),
        ("enterprises/agency/members/m", NOW + LONGEST_AGENCY_GRANT, None),
        ("enterprises/agency/members/m", NOW + LONGEST_AGENCY_GRANT + HOUR, "GRANT_TOO_LONG"),
        ("enterprises/agency/members/m", NOW - HOUR, "PAST"),
    ],
)
def test_check_lifetime__ends_for_agencies(member: str, end: datetime | None, reason: str | None) -> None:
    """Another enterprise's member holds nothing without an end, nor for more than a year."""
    if reason is None:
        check_lifetime(ENTERPRISE, member, end, NOW)
        return
    with pytest.raises(ServiceError) as refused:
        check_lifetime(ENTERPRISE, member, end, NOW)
    assert refused.value.violations[0].reason == reason


def test_explain__says_what_allows_or_what_is_missing() -> None:
    """In a sentence; a client needs the scope itself."""
    titles = {"hq": "HQ", "north": "North", "south": "South"}
    held = [Holding("ANALYST"), Holding("EDITOR", "south"), Holding("EDITOR", "north", NOW + HOUR)]

    def told(path: Path, now: datetime, subject: str = MEMBER) -> str:
        return explain(
            subject, held, "publications.write", account="@x", path=path, titles=titles, now=now
        ).sentence

    assert told(("hq", "north"), NOW) == "may publish on @x because EDITOR in North until 2026-01-15T13:00Z"
    assert told(("hq", "north"), NOW + HOUR) == (
        "may not publish on @x: needs OWNER or ADMIN or EDITOR in North, in HQ, in the whole enterprise; holds ANALYST in the whole "
        "enterprise; EDITOR in South; EDITOR in North which ended at 2026-01-15T13:00Z"
    )
    assert "needs publications.write in the whole enterprise; holds" in told(
        (), NOW, f"{ENTERPRISE}/clients/c"
    )


def test_explain__knows_the_rights_that_concern_accounts() -> None:
    """Others are refused."""
    with pytest.raises(ServiceError) as refused:
        explain(MEMBER, [], "audiences.write", account="@x", path=(), titles={}, now=NOW)
    assert refused.value.violations[0].reason == "RIGHT_UNKNOWN"


@pytest.mark.parametrize("right", RIGHTS)
def test_rights__are_what_the_contracts_ask_for(right: str) -> None:
    """For each scope the widest that a method asks members for; what everybody may do names none."""
    contracts = FileDescriptorSet.FromString((ROOT / ".local/stubs/numerator/descriptors.binpb").read_bytes())
    accesses = [
        method.options.Extensions[options_pb2.access]
        for file in contracts.file
        for service in file.service
        for method in service.method
    ]
    asked = {
        frozenset(options_pb2.Role.Name(role) for role in access.roles) or frozenset(Role) - {Role.LIMITED}
        for access in accesses
        if access.scope == right and options_pb2.MEMBER in access.callers
    }
    assert RIGHTS[right].roles in asked
    assert frozenset().union(*asked) == RIGHTS[right].roles
