"""The account tree: its rules, and the tree as it is kept."""

import random
from datetime import UTC, datetime

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import groups_pb2
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.model.groups import MOST_DEPTH, Group
from services.accounts.store import accounts as account_rows
from services.accounts.store import groups as group_rows
from services.accounts.store.rows import BEGINNING
from services.accounts.tests.test_concurrency import at_once
from services.accounts.tests.trees import Tree
from services.accounts.tests.world import World, field_reasons_of, reason_of
from services.accounts.usecases import groups as usecases
from services.chassis.database import Tenant
from services.chassis.errors import ServiceError
from services.chassis.reach import EVERYTHING
from services.chassis.testing.databases import assert_tenant_tables_safe
from services.chassis.testing.rpc import client

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
PATHS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True).map(tuple)


def group(path: tuple[str, ...]) -> Group:
    return Group(f"enterprises/e/accountGroups/{path[-1]}", path[-1], path, NOW, NOW)


@given(
    PATHS,
    st.lists(st.sampled_from("abcdefgh"), max_size=MOST_DEPTH, unique=True).map(tuple),
    st.integers(1, 12),
)
def test_moved__goes_where_it_may(path: tuple[str, ...], into: tuple[str, ...], height: int) -> None:
    """Directly into the other group; never into itself or below, and never so that its lowest level is too low."""
    before = group(path)
    if path[-1] in into or len(into) + height > MOST_DEPTH:
        with pytest.raises(ServiceError) as refused:
            before.moved(into, height=height, now=NOW)
        assert refused.value.reason == ("GROUP_CYCLE" if path[-1] in into else "GROUP_TOO_DEEP")
        return
    after = before.moved(into, height=height, now=NOW)
    assert after.path == (*into, path[-1])
    assert (after.name, after.revision) == (before.name, before.revision + 1)


def test_tables__keep_tenants_apart(world: World) -> None:
    """Groups and grants are under row-level security, with the enterprise in every unique key."""
    assert_tenant_tables_safe(world.database, unique_without_enterprise=("members_email", "accounts_held"))


def test_create_group__has_a_path(world: World) -> None:
    """From the root to itself; and the answer of a repetition is the same group."""
    tree = Tree.of(world)
    found = tree.as_owner.GetAccountGroup(groups_pb2.GetAccountGroupRequest(name=tree.groups["outlet"]))
    assert list(found.path) == tree.path("hq", "north", "outlet")
    assert found.parent_group == tree.groups["north"]
    again = tree.grow("shop", "south", request_id="r")
    assert tree.grow("shop", "south", request_id="r") == again
    assert len(world.rows("account_groups")) == 5


def test_list_groups__filters(world: World) -> None:
    """By parent, by subtree, and page by page without loss."""
    tree = Tree.of(world)

    def titles(**fields: object) -> list[str]:
        request = groups_pb2.ListAccountGroupsRequest(parent=tree.company.name, **fields)
        return [each.display_name for each in tree.as_owner.ListAccountGroups(request).account_groups]

    assert titles() == ["Hq", "North", "South", "Outlet"]
    assert titles(parent_group=tree.groups["hq"]) == ["North", "South"]
    assert titles(within=tree.groups["north"]) == ["North", "Outlet"]
    paged, token = [], ""
    while True:
        answer = tree.as_owner.ListAccountGroups(
            groups_pb2.ListAccountGroupsRequest(parent=tree.company.name, page_size=3, page_token=token)
        )
        paged += [each.display_name for each in answer.account_groups]
        token = answer.next_page_token
        if not token:
            break
    assert paged == titles()


def test_rename__needs_the_group_as_it_was_seen(world: World) -> None:
    """A stale etag is refused."""
    tree = Tree.of(world)
    seen = tree.as_owner.GetAccountGroup(groups_pb2.GetAccountGroupRequest(name=tree.groups["north"]))
    request = groups_pb2.UpdateAccountGroupRequest(name=seen.name, display_name="Nord", etag=seen.etag)
    renamed = tree.as_owner.UpdateAccountGroup(request)
    assert (renamed.display_name, renamed.path) == ("Nord", seen.path)
    with pytest.raises(grpc.RpcError) as refused:
        tree.as_owner.UpdateAccountGroup(request)
    assert reason_of(refused.value) == "ETAG_MISMATCH"


def test_move__takes_all_below_along(world: World) -> None:
    """Paths, filters and what is told are of the new place; the accounts themselves, and their etags, are as before."""
    tree = Tree.of(world)
    accounts = {
        name: tree.bind(name, place) for name, place in {"a": "outlet", "b": "north", "c": "south"}.items()
    }
    tree.move("north", "south")
    outlet = tree.as_owner.GetAccountGroup(groups_pb2.GetAccountGroupRequest(name=tree.groups["outlet"]))
    assert list(outlet.path) == tree.path("hq", "south", "north", "outlet")
    assert tree.listed(group=tree.groups["south"]) == {"a", "b", "c"}
    assert tree.listed(group=tree.groups["north"]) == {"a", "b"}
    (told,) = world.told(events.AccountsPlaced)
    assert told.enterprise == tree.company.name
    assert {each.account: list(each.groups) for each in told.placements} == {
        accounts["a"].name: tree.path("hq", "south", "north", "outlet"),
        accounts["b"].name: tree.path("hq", "south", "north"),
    }
    same = world.as_(tree.company.owner).GetAccount(pb.GetAccountRequest(name=accounts["a"].name))
    assert same == accounts["a"]
    bound = world.told(events.AccountBound)
    assert list(bound[0].groups) == tree.path("hq", "north", "outlet")
    assert told.placement_version > max(each.placement_version for each in bound)


def test_move__to_where_it_is_changes_nothing(world: World) -> None:
    """No event, no new etag."""
    tree = Tree.of(world)
    tree.bind("a", "outlet")
    assert tree.move("north", "hq").etag == "r1"
    assert not world.told(events.AccountsPlaced)


def test_move__out_of_all_groups_makes_a_root(world: World) -> None:
    """The parent is gone."""
    tree = Tree.of(world)
    moved = tree.move("north")
    assert (moved.parent_group, list(moved.path)) == ("", tree.path("north"))


@pytest.mark.parametrize(("title", "parent"), [("hq", "outlet"), ("north", "north"), ("north", "outlet")])
def test_move__makes_no_cycle(world: World, title: str, parent: str) -> None:
    """Neither into itself nor below."""
    tree = Tree.of(world)
    with pytest.raises(grpc.RpcError) as refused:
        tree.move(title, parent)
    assert reason_of(refused.value) == "GROUP_CYCLE"


def test_depth__is_limited_for_the_lowest_level(world: World) -> None:
    """Twelve levels: a thirteenth is not made, and a subtree is not moved so that it would have one."""
    tree = Tree.of(world)
    below = "outlet"
    for level in range(4, MOST_DEPTH + 1):
        tree.grow(f"level {level}", below)
        below = f"level {level}"
    for refused_call in (lambda: tree.grow("too deep", below), lambda: tree.move("north", "south")):
        with pytest.raises(grpc.RpcError) as refused:
            refused_call()
        assert reason_of(refused.value) == "GROUP_TOO_DEEP"


def test_delete__is_for_empty_groups(world: World) -> None:
    """Not while there are groups or accounts in it; unbound accounts are in it, too."""
    tree = Tree.of(world)
    account = tree.bind("a", "outlet")

    def delete(title: str) -> None:
        tree.as_owner.DeleteAccountGroup(groups_pb2.DeleteAccountGroupRequest(name=tree.groups[title]))

    for title in ("north", "outlet"):
        with pytest.raises(grpc.RpcError) as refused:
            delete(title)
        assert reason_of(refused.value) == "GROUP_NOT_EMPTY"
    tree.place({account.name: ""})
    delete("outlet")
    delete("north")
    assert {row["display_name"] for row in world.rows("account_groups")} == {"Hq", "South"}
    assert [row["subject"] for row in world.audited("group.deleted")] == [
        tree.groups["outlet"],
        tree.groups["north"],
    ]


def test_limit__is_of_an_enterprise(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group more than there may be is refused."""
    tree = Tree.of(world)
    monkeypatch.setattr(usecases, "MOST_GROUPS", 4)
    with pytest.raises(grpc.RpcError) as refused:
        tree.grow("more")
    assert reason_of(refused.value) == "GROUP_LIMIT_REACHED"


def test_moves__that_would_make_a_cycle_together(world: World) -> None:
    """Two groups moved into each other at the same moment: one move is refused, ten times."""
    tree = Tree.of(world)
    for _ in range(10):
        outcomes = at_once([lambda: tree.move("north", "south"), lambda: tree.move("south", "north")])
        assert outcomes == {"OK": 1, "GROUP_CYCLE": 1}
        tree.move("north", "hq")
        tree.move("south", "hq")


def test_moves__and_places_at_once_tell_what_is_so(world: World) -> None:
    """Whoever takes the newest event of each account knows where it is."""
    tree = Tree.of(world)
    accounts = [tree.bind(f"a{number}", "outlet").name for number in range(6)]
    at_once(
        [lambda to=to: tree.move("outlet", to) for to in ("south", "north", "hq", "south")]
        + [lambda one=one, to=to: tree.place({one: to}) for one in accounts for to in ("south", "outlet", "")]
    )
    newest: dict[str, tuple[int, list[str]]] = {}
    for told in world.told(events.AccountsPlaced):
        for each in told.placements:
            newest[each.account] = max(
                newest.get(each.account, (0, [])), (told.placement_version, list(each.groups))
            )
    with world.database.transaction(Tenant(tree.company.name)) as tx:
        for account in accounts:
            assert newest[account][1] == list(account_rows.get_account(tx, account).path)


def test_tree__is_what_a_plain_dict_says(world: World) -> None:
    """Two hundred random groups and moves: the same refusals, paths and subtrees as a dict of parents gives."""
    company, rng = world.register(), random.Random(7)
    parents: dict[str, str | None] = {}

    def above(name: str | None) -> list[str]:
        return [] if name is None else [*above(parents[name]), name]

    def below(name: str) -> set[str]:
        return {name}.union(*(below(child) for child, parent in parents.items() if parent == name))

    def depth(name: str) -> int:
        return max(len(above(each)) for each in below(name)) - len(above(name)) + 1

    everybody = {"actor": "a", "reach": EVERYTHING}
    with world.database.transaction(Tenant(company.name)) as tx:
        for _ in range(200):
            into = rng.choice([None, *parents])
            if len(parents) < 40 or rng.random() < 0.3:
                if len(above(into)) < MOST_DEPTH:
                    made = usecases.create_group(
                        tx, company.name, display_name="x", into=into or "", **everybody
                    )
                    parents[made.name] = into
                continue
            moving = rng.choice(list(parents))
            expected = None
            if into is not None and into in below(moving):
                expected = "GROUP_CYCLE"
            elif len(above(into)) + depth(moving) > MOST_DEPTH:
                expected = "GROUP_TOO_DEEP"
            if expected:
                with pytest.raises(ServiceError) as refused:
                    usecases.move_group(tx, moving, into=into or "", etag="", **everybody)
                assert refused.value.reason == expected
            else:
                usecases.move_group(tx, moving, into=into or "", etag="", **everybody)
                parents[moving] = into
        for name in parents:
            kept = usecases.get_group(tx, name, reach=EVERYTHING)
            assert list(kept.path) == [each.rpartition("/")[2] for each in above(name)]
            found = group_rows.list_groups(
                tx, company.name, parent=None, within=kept.path[-1], reach=None, after=BEGINNING, limit=500
            )
            assert {each.name for each in found} == below(name)


def test_list_accounts__filters(world: World) -> None:
    """By subtree, label, network and state, and by all at once."""
    tree = Tree.of(world)
    bound = {
        name: tree.bind(name, place)
        for name, place in {"a": "outlet", "b": "north", "c": "south", "d": ""}.items()
    }
    owner = world.as_(tree.company.owner)
    for name in "abc":
        owner.UpdateAccount(pb.UpdateAccountRequest(name=bound[name].name, labels=["brand"]))
    owner.UnbindAccount(pb.UnbindAccountRequest(name=bound["b"].name))
    assert tree.listed() == {"a", "b", "c", "d"}
    assert tree.listed(group=tree.groups["hq"]) == {"a", "b", "c"}
    assert tree.listed(group=tree.groups["north"], label="brand", state=pb.Account.ACTIVE) == {"a"}
    assert tree.listed(network="mastodon", state=pb.Account.REVOKED) == {"b"}
    assert tree.listed(network="weibo") == tree.listed(label="dealer") == set()


def test_names__of_other_groups_are_refused(world: World) -> None:
    """A malformed name is a wrong field; another enterprise's group is not found, as one that does not exist."""
    tree, other = Tree.of(world), Tree.of(world, world.register(email="owner@kunlun.example"))
    with pytest.raises(grpc.RpcError) as refused:
        tree.listed(group=f"{tree.company.name}/accounts/x")
    assert field_reasons_of(refused.value) == {"group": "NAME_MALFORMED"}
    for name in (
        other.groups["hq"],
        f"{tree.company.name}/accountGroups/none",
        "enterprises/none/accountGroups/x",
    ):
        tree.groups["theirs"] = name
        calls = [
            lambda name=name: tree.listed(group=name),
            lambda: tree.move("north", "theirs"),
            lambda: tree.move("theirs", "north"),
            lambda: tree.grow("x", "theirs"),
            lambda: tree.bind("x", "theirs"),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert (refused.value.code(), reason_of(refused.value)) == (
                grpc.StatusCode.NOT_FOUND,
                "NOT_FOUND",
            )


def test_reach__ends_at_the_group(world: World) -> None:
    """Who administers one group sees and changes what is in it and below, and not where it is itself."""
    tree = Tree.of(world)
    north = tree.holder("ADMIN", "north")
    stub = tree.as_(north)
    listed = stub.ListAccountGroups(groups_pb2.ListAccountGroupsRequest(parent=tree.company.name))
    assert [each.display_name for each in listed.account_groups] == ["North", "Outlet"]
    stub.UpdateAccountGroup(groups_pb2.UpdateAccountGroupRequest(name=tree.groups["north"], display_name="N"))
    made = stub.CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(
            parent=tree.company.name, display_name="Desk", parent_group=tree.groups["outlet"]
        )
    )
    stub.DeleteAccountGroup(groups_pb2.DeleteAccountGroupRequest(name=made.name))
    tree.groups["desk"] = made.name
    outcomes = {
        "its own place": lambda: tree.move("north", "", by=north),
        "out of it": lambda: tree.move("outlet", "", by=north),
        "into an unseen one": lambda: tree.move("outlet", "south", by=north),
        "an unseen one": lambda: tree.move("south", "outlet", by=north),
        "a root": lambda: stub.CreateAccountGroup(
            groups_pb2.CreateAccountGroupRequest(parent=tree.company.name, display_name="x")
        ),
        "itself away": lambda: stub.DeleteAccountGroup(
            groups_pb2.DeleteAccountGroupRequest(name=tree.groups["north"])
        ),
    }
    told = {}
    for what, call in outcomes.items():
        with pytest.raises(grpc.RpcError) as refused:
            call()
        told[what] = reason_of(refused.value)
    assert told == {
        "its own place": "OUT_OF_REACH",
        "out of it": "OUT_OF_REACH",
        "into an unseen one": "NOT_FOUND",
        "an unseen one": "NOT_FOUND",
        "a root": "OUT_OF_REACH",
        "itself away": "OUT_OF_REACH",
    }


def test_reach__of_roles_elsewhere_tells_what_is_missing(world: World) -> None:
    """Who sees everything is told that the right does not reach, not that there is nothing; readers change nothing."""
    tree = Tree.of(world)
    analyst = tree.holder("ADMIN", "north", everywhere=("ANALYST",))
    with pytest.raises(grpc.RpcError) as refused:
        tree.move("south", "north", by=analyst)
    assert reason_of(refused.value) == "OUT_OF_REACH"
    with pytest.raises(grpc.RpcError) as refused:
        tree.move("north", "", by=tree.holder("EDITOR", "hq"))
    assert reason_of(refused.value) == "ROLE_MISSING"


def test_clients__read_and_write_by_scope(world: World) -> None:
    """`accounts.read` lists, and does not create."""
    tree = Tree.of(world)
    reader = tree.as_(client(tree.company.name, ["accounts.read"]))
    listed = reader.ListAccountGroups(groups_pb2.ListAccountGroupsRequest(parent=tree.company.name))
    assert len(listed.account_groups) == 4
    with pytest.raises(grpc.RpcError) as refused:
        reader.CreateAccountGroup(
            groups_pb2.CreateAccountGroupRequest(parent=tree.company.name, display_name="x")
        )
    assert reason_of(refused.value) == "SCOPE_MISSING"
