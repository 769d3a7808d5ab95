"""Roles in groups: who gives them to whom, what they hold and until when, and what is said about it."""

from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from google.protobuf.message import Message
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import grants_pb2, groups_pb2, members_pb2
from numerator.accounts.v1.members_pb2_grpc import MemberServiceStub
from numerator.options.v1 import options_pb2

from services.accounts.store import grants as grant_rows
from services.accounts.tests.test_concurrency import at_once
from services.accounts.tests.trees import AGENCY, Tree
from services.accounts.tests.world import World, field_reasons_of, reason_of
from services.chassis.database import PLATFORM, PUBLIC, Tenant
from services.chassis.principal import Principal
from services.chassis.testing.rpc import member


def held(tree: Tree, who: str = AGENCY) -> tuple[dict[str, frozenset[str]], object]:
    """What somebody's token would say now, and until when it may live."""
    with tree.world.database.transaction(PLATFORM) as tx:
        rights = grant_rows.rights_of(tx, who, tree.company.name, tree.world.clock.now())
    return dict(rights.grants), rights.ends


def test_grant__holds_until_it_ends(world: World) -> None:
    """An agency's member has the role in the group, and from the very moment of its end nothing."""
    tree = Tree.of(world)
    made = tree.grant(AGENCY, "EDITOR", "north", days=1)
    tree.grant(AGENCY, "ANALYST", "hq", days=2)
    end = world.clock.now() + timedelta(days=1)
    assert (made.member, made.role, made.group) == (AGENCY, options_pb2.EDITOR, tree.groups["north"])
    editor, analyst = frozenset({tree.id("north")}), frozenset({tree.id("hq")})
    assert held(tree) == ({"EDITOR": editor, "ANALYST": analyst}, end)
    world.clock.advance(timedelta(days=1))
    assert held(tree) == ({"ANALYST": analyst}, end + timedelta(days=1))
    world.clock.advance(timedelta(days=1))
    assert held(tree) == ({}, None)


def test_grant__is_the_enterprises_own(world: World) -> None:
    """Seen in its own enterprise's scope, and in no other: not in the agency's either."""
    tree = Tree.of(world)
    tree.grant(AGENCY, "EDITOR", "north", days=1)
    for scope, rows in [(Tenant(tree.company.name), 1), (Tenant("enterprises/agency"), 0), (PUBLIC, 0)]:
        with world.database.transaction(scope) as tx:
            assert len(tx.execute("select from grants").fetchall()) == rows
            seen = tx.execute("select from account_groups").fetchall()
        assert bool(seen) == bool(rows)
    spy = world.register(email="owner@kunlun.example")
    made = tree.grants_as(tree.company.owner).ListGrants(
        grants_pb2.ListGrantsRequest(parent=tree.company.name)
    )
    for call, request in [
        ("ListGrants", grants_pb2.ListGrantsRequest(parent=tree.company.name)),
        ("DeleteGrant", grants_pb2.DeleteGrantRequest(name=made.grants[0].name)),
    ]:
        with pytest.raises(grpc.RpcError) as refused:
            getattr(tree.grants_as(spy.owner), call)(request)
        assert reason_of(refused.value) == "NOT_FOUND"


def test_grant__once_and_again(world: World) -> None:
    """The same role in the same group is not granted twice while it holds; a repetition is no second one."""
    tree = Tree.of(world)
    first = tree.grant(AGENCY, "EDITOR", "north", days=1, request_id="r")
    assert tree.grant(AGENCY, "EDITOR", "north", days=1, request_id="r") == first
    with pytest.raises(grpc.RpcError) as refused:
        tree.grant(AGENCY, "EDITOR", "north", days=5)
    assert reason_of(refused.value) == "GRANT_EXISTS"
    world.clock.advance(timedelta(days=1))
    assert tree.grant(AGENCY, "EDITOR", "north", days=5).name != first.name
    assert len(world.rows("grants")) == 1


def test_grant__at_once_is_given_once(world: World) -> None:
    """Eight administrators press the button."""
    tree = Tree.of(world)
    outcomes = at_once(lambda: tree.grant(AGENCY, "EDITOR", "north", days=1) for _ in range(8))
    assert outcomes == {"OK": 1, "GRANT_EXISTS": 7}


def test_grant__is_refused(world: World) -> None:
    """Without an end for an agency; to nobody; in no group; by who does not hold as much."""
    tree = Tree.of(world)
    li = tree.hire("li@tianshan.example")
    tree.grant(li, "ADMIN", "north", days=10)
    admin = tree.holder("ADMIN", "north", subject=li)
    missing = f"{tree.company.name}/members/none"
    wrong = [
        ({"expire_time": "REQUIRED"}, lambda: tree.grant(AGENCY, "EDITOR", "north")),
        ({"expire_time": "PAST"}, lambda: tree.grant(AGENCY, "EDITOR", "north", days=0)),
        ({"expire_time": "GRANT_TOO_LONG"}, lambda: tree.grant(AGENCY, "EDITOR", "north", days=367)),
        ({"expire_time": "GRANT_TOO_LONG"}, lambda: tree.grant(li, "EDITOR", "north", days=11, by=admin)),
        ({"expire_time": "GRANT_TOO_LONG"}, lambda: tree.grant(li, "EDITOR", "north", by=admin)),
        ({"role": "ROLE_UNSUITABLE"}, lambda: tree.grant(li, "LIMITED", "north")),
        ({"member": "NAME_MALFORMED"}, lambda: tree.grant("enterprises/agency", "EDITOR", "north", days=1)),
    ]
    for violations, call in wrong:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert field_reasons_of(refused.value) == violations
    refusals = [
        ("NOT_FOUND", lambda: tree.grant(missing, "EDITOR", "north")),
        ("NOT_FOUND", lambda: tree.grant(li, "EDITOR", f"{tree.company.name}/accountGroups/x")),
        ("ROLE_TOO_WIDE", lambda: tree.grant(li, "OWNER", "north", by=admin, days=1)),
        ("NOT_FOUND", lambda: tree.grant(li, "EDITOR", "south", by=admin, days=1)),
        ("NOT_FOUND", lambda: tree.grant(li, "EDITOR", "hq", by=admin, days=1)),
        ("ROLE_MISSING", lambda: tree.grant(li, "EDITOR", "north", by=tree.holder("EDITOR", "hq"), days=1)),
        ("ROLE_TOO_WIDE", lambda: tree.grant(li, "OWNER", "hq", by=member(tree.company.name, ["ADMIN"]))),
    ]
    for reason, call in refusals:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert reason_of(refused.value) == reason
    assert len(world.rows("grants")) == 1


def test_grant__below_ones_own(world: World) -> None:
    """Who administers a group, be it an agency's member, gives roles in it and below, for as long as they have it."""
    tree = Tree.of(world)
    li = tree.hire("li@tianshan.example")
    tree.grant(AGENCY, "ADMIN", "north", days=10)
    admin = tree.holder("ADMIN", "north")
    made = tree.grant(li, "EDITOR", "outlet", days=9, by=admin)
    assert made.creator == AGENCY
    tree.grant(li, "ADMIN", "north", days=10, by=admin)
    world.clock.advance(timedelta(days=10))
    with pytest.raises(grpc.RpcError) as refused:
        tree.grant(li, "ANALYST", "outlet", days=1, by=admin)
    assert reason_of(refused.value) == "ROLE_TOO_WIDE"


def test_grants__are_limited_for_one_member(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into a token is not granted."""
    tree = Tree.of(world)
    monkeypatch.setattr(grant_rows, "MOST_GRANTS", 2)
    for group in ("north", "south"):
        tree.grant(AGENCY, "EDITOR", group, days=1)
    with pytest.raises(grpc.RpcError) as refused:
        tree.grant(AGENCY, "EDITOR", "hq", days=1)
    assert reason_of(refused.value) == "GRANT_LIMIT_REACHED"
    assert len(world.rows("grants")) == 2


def test_list_grants__filters(world: World) -> None:
    """By member and by group; who administers one group sees the grants in it and below."""
    tree = Tree.of(world)
    li = tree.hire("li@tianshan.example")
    for who, role, group in [(li, "EDITOR", "hq"), (AGENCY, "EDITOR", "outlet"), (li, "ANALYST", "south")]:
        tree.grant(who, role, group, days=1)

    def groups(by: Principal | None = None, **fields: str) -> list[str]:
        request = grants_pb2.ListGrantsRequest(parent=tree.company.name, **fields)
        found = tree.grants_as(by or tree.company.owner).ListGrants(request).grants
        return [title for each in found for title, name in tree.groups.items() if name == each.group]

    assert groups() == ["hq", "outlet", "south"]
    assert groups(member=li) == ["hq", "south"]
    assert groups(group=tree.groups["outlet"]) == ["outlet"]
    assert groups(tree.holder("ADMIN", "north")) == ["outlet"]


def test_delete_grant__ends_it_at_once(world: World) -> None:
    """Nothing is held, and the member's tokens of before are revoked; who could not have granted it cannot take it."""
    tree = Tree.of(world)
    made = tree.grant(AGENCY, "OWNER", "north", days=1)
    request = grants_pb2.DeleteGrantRequest(name=made.name)
    for caller, reason in [
        (tree.holder("ADMIN", "south"), "NOT_FOUND"),
        (member(tree.company.name, ["ADMIN"]), "ROLE_TOO_WIDE"),
    ]:
        with pytest.raises(grpc.RpcError) as refused:
            tree.grants_as(caller).DeleteGrant(request)
        assert reason_of(refused.value) == reason
    tree.grants_as(tree.company.owner).DeleteGrant(request)
    assert held(tree) == ({}, None)
    assert [row["subject"] for row in world.rows("revocations")] == [AGENCY]
    assert [row["action"] for row in world.rows("audit") if row["subject"] == made.name] == [
        "grant.created",
        "grant.deleted",
    ]


def test_limited__sees_its_branch_and_nothing_else(world: World) -> None:
    """A LIMITED member reaches accounts by grants alone, and of the enterprise's other business only themselves."""
    tree = Tree.of(world)
    inside, outside = tree.bind("inside", "outlet"), tree.bind("outside", "south")
    li = tree.hire("li@tianshan.example", "LIMITED")
    tree.grant(li, "EDITOR", "north")
    limited = tree.holder("EDITOR", "north", subject=li, everywhere=("LIMITED",))
    assert tree.listed(limited) == {"inside"}
    as_limited, members = world.as_(limited), MemberServiceStub(world.running.as_(limited))
    assert as_limited.GetAccount(pb.GetAccountRequest(name=inside.name)).handle == "inside"
    assert as_limited.GetEnterprise(pb.GetEnterpriseRequest(name=tree.company.name)).name == tree.company.name
    assert members.GetMember(members_pb2.GetMemberRequest(name=li)).role == options_pb2.LIMITED
    refusals = [
        ("NOT_FOUND", lambda: as_limited.GetAccount(pb.GetAccountRequest(name=outside.name))),
        ("ROLE_MISSING", lambda: as_limited.ListMembers(pb.ListMembersRequest(parent=tree.company.name))),
        (
            "ROLE_MISSING",
            lambda: members.GetMember(members_pb2.GetMemberRequest(name=tree.company.owner.subject)),
        ),
    ]
    for reason, call in refusals:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert reason_of(refused.value) == reason


def test_delete_group__ends_the_grants_in_it(world: World) -> None:
    """They go with it."""
    tree = Tree.of(world)
    tree.grant(AGENCY, "EDITOR", "outlet", days=1)
    tree.as_owner.DeleteAccountGroup(groups_pb2.DeleteAccountGroupRequest(name=tree.groups["outlet"]))
    assert held(tree) == ({}, None)
    assert not world.rows("grants")


def explain(tree: Tree, account: pb.Account, who: str, right: str) -> grants_pb2.ExplainAccessResponse:
    """Why, as the owner is told."""
    return tree.grants_as(tree.company.owner).ExplainAccess(
        grants_pb2.ExplainAccessRequest(name=account.name, subject=who, right=right)
    )


def test_explain__names_the_grant(world: World) -> None:
    """By which role in which group, and until when; a move of the group changes it."""
    tree = Tree.of(world)
    account = tree.bind("brand", "outlet")
    made = tree.grant(AGENCY, "EDITOR", "north", days=1)
    told = explain(tree, account, AGENCY, "publications.write")
    assert (told.allowed, told.held, told.group) == (True, "EDITOR", tree.groups["north"])
    assert told.expire_time == made.expire_time
    end = (world.clock.now() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%MZ")
    north = f"North ({tree.groups['north']})"
    assert told.explanation == f"may publish on @brand because EDITOR in {north} until {end}"
    tree.move("outlet", "south")
    told = explain(tree, account, AGENCY, "publications.write")
    assert (told.allowed, told.held) == (False, "")
    assert f"holds EDITOR in {north} until {end}" in told.explanation


def test_explain__knows_roles_and_scopes_everywhere(world: World) -> None:
    """A colleague's own role; a client's scopes; nobody is told about who does not exist."""
    tree = Tree.of(world)
    account = tree.bind("brand")
    li = tree.hire("li@tianshan.example", "RESPONDER")
    assert explain(tree, account, li, "interactions.write").explanation == (
        "may answer for @brand because RESPONDER in the whole enterprise"
    )
    assert not explain(tree, account, li, "publications.write").allowed
    crm = world.as_(tree.company.owner).CreateClient(
        pb.CreateClientRequest(parent=tree.company.name, display_name="CRM", scopes=["accounts.read"])
    )
    assert explain(tree, account, crm.name, "accounts.read").held == "accounts.read"
    assert not explain(tree, account, crm.name, "accounts.write").allowed
    assert explain(tree, account, AGENCY, "accounts.read").explanation.endswith("holds nothing")
    for who in (f"{tree.company.name}/members/none", f"{tree.company.name}/clients/none"):
        with pytest.raises(grpc.RpcError) as refused:
            explain(tree, account, who, "accounts.read")
        assert reason_of(refused.value) == "NOT_FOUND"


def test_explain__stays_within_reach(world: World) -> None:
    """Who administers one group asks about accounts in it."""
    tree = Tree.of(world)
    inside, outside = tree.bind("in", "outlet"), tree.bind("out", "south")
    asked = tree.grants_as(tree.holder("ADMIN", "north"))
    assert not asked.ExplainAccess(
        grants_pb2.ExplainAccessRequest(name=inside.name, subject=AGENCY, right="accounts.read")
    ).allowed
    with pytest.raises(grpc.RpcError) as refused:
        asked.ExplainAccess(
            grants_pb2.ExplainAccessRequest(name=outside.name, subject=AGENCY, right="accounts.read")
        )
    assert reason_of(refused.value) == "NOT_FOUND"


def calls(company: str, account: str, group: str, grant: str) -> list[tuple[str, Message]]:
    """One call of each method of groups and grants that names something of an enterprise."""
    place, label = groups_pb2.PlaceAccountsRequest, groups_pb2.LabelAccountsRequest
    return [
        ("CreateAccountGroup", groups_pb2.CreateAccountGroupRequest(parent=company, display_name="x")),
        ("GetAccountGroup", groups_pb2.GetAccountGroupRequest(name=group)),
        ("ListAccountGroups", groups_pb2.ListAccountGroupsRequest(parent=company)),
        ("UpdateAccountGroup", groups_pb2.UpdateAccountGroupRequest(name=group, display_name="x")),
        ("MoveAccountGroup", groups_pb2.MoveAccountGroupRequest(name=group)),
        ("DeleteAccountGroup", groups_pb2.DeleteAccountGroupRequest(name=group)),
        ("PlaceAccounts", place(parent=company, rows=[place.Row(account=account)])),
        ("LabelAccounts", label(parent=company, rows=[label.Row(account=account, add=["x"])])),
        (
            "CreateGrant",
            grants_pb2.CreateGrantRequest(
                parent=company, member=f"{company}/members/x", role=options_pb2.EDITOR, group=group
            ),
        ),
        ("ListGrants", grants_pb2.ListGrantsRequest(parent=company)),
        ("DeleteGrant", grants_pb2.DeleteGrantRequest(name=grant)),
        (
            "ExplainAccess",
            grants_pb2.ExplainAccessRequest(name=account, subject=AGENCY, right="accounts.read"),
        ),
    ]


@pytest.mark.parametrize("tenant_check", [True, False])
def test_calls__answer_as_if_others_did_not_exist(serve: Callable[..., World], *, tenant_check: bool) -> None:
    """Every method, with the check of the calls and with row-level security alone: NOT_FOUND, and nothing changes."""
    world = serve(tenant_check=tenant_check)
    tree, spy = Tree.of(world), world.register(email="owner@kunlun.example").owner
    account, grant = tree.bind("brand", "outlet"), tree.grant(AGENCY, "EDITOR", "outlet", days=1)
    tables = ("account_groups", "accounts", "grants", "audit")
    before = [world.rows(table, tree.company.name) for table in tables]
    none = "enterprises/none"
    for names in [
        (tree.company.name, account.name, tree.groups["outlet"], grant.name),
        (none, f"{none}/accounts/x", f"{none}/accountGroups/x", f"{none}/grants/x"),
    ]:
        for method, request in calls(*names):
            stub = tree.as_(spy) if hasattr(tree.as_(spy), method) else tree.grants_as(spy)
            with pytest.raises(grpc.RpcError) as refused:
                getattr(stub, method)(request)
            told = (method, refused.value.code(), reason_of(refused.value))
            assert told == (method, grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert [world.rows(table, tree.company.name) for table in tables] == before
