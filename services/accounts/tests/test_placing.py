"""Where accounts are and how they are labelled: one by one, by the thousand, and while they are bound."""

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import groups_pb2
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.tests.test_concurrency import at_once
from services.accounts.tests.trees import Tree
from services.accounts.tests.world import World, field_reasons_of, reason_of
from services.accounts.usecases import groups as usecases

Row = groups_pb2.LabelAccountsRequest.Row


def label(tree: Tree, *rows: Row, **fields: str) -> list[groups_pb2.RowResult]:
    """Change labels, as the owner."""
    request = groups_pb2.LabelAccountsRequest(parent=tree.company.name, rows=rows, **fields)
    return list(tree.as_owner.LabelAccounts(request).results)


def get(tree: Tree, account: pb.Account) -> pb.Account:
    """The account as it is now."""
    return tree.world.as_(tree.company.owner).GetAccount(pb.GetAccountRequest(name=account.name))


def test_update_account__sets_labels(world: World) -> None:
    """All of them, each once; a stale etag is refused, and what changes nothing leaves the etag."""
    tree = Tree.of(world)
    account, owner = tree.bind("a"), world.as_(tree.company.owner)
    request = pb.UpdateAccountRequest(
        name=account.name, labels=["dealer", "brand", "dealer"], etag=account.etag
    )
    changed = owner.UpdateAccount(request)
    assert (list(changed.labels), changed.etag) == (["dealer", "brand"], "r2")
    with pytest.raises(grpc.RpcError) as refused:
        owner.UpdateAccount(request)
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    request.etag = ""
    assert owner.UpdateAccount(request).etag == "r2"
    assert not owner.UpdateAccount(pb.UpdateAccountRequest(name=account.name)).labels


def test_place__does_what_can_be_done(world: World) -> None:
    """Each row has its own outcome, in the order of the request; the good ones are placed and told, in one event."""
    tree, other = Tree.of(world), Tree.of(world, world.register(email="owner@kunlun.example"))
    good, stale, none, there = (tree.bind(name) for name in ("good", "stale", "none", "there"))
    tree.place({there.name: "south"})
    theirs = other.bind("theirs", "hq")
    missing = f"{tree.company.name}/accountGroups/none"

    def row(account: str, group: str, etag: str = "") -> groups_pb2.PlaceAccountsRequest.Row:
        return groups_pb2.PlaceAccountsRequest.Row(account=account, group=group, etag=etag)

    north, south = tree.groups["north"], tree.groups["south"]
    rows = [
        row(good.name, north, good.etag),
        row(stale.name, north, "r9"),
        row(good.name, south),
        row(theirs.name, north),
        row(f"{tree.company.name}/accounts/x", north),
        row(none.name, missing),
        row(there.name, south),
        row(theirs.name, other.groups["north"]),
    ]
    done = tree.as_owner.PlaceAccounts(
        groups_pb2.PlaceAccountsRequest(parent=tree.company.name, rows=rows)
    ).results
    assert [each.account for each in done] == [each.account for each in rows]
    assert [(each.etag, each.error.kind, each.error.reason) for each in done] == [
        ("r2", "", ""),
        ("", "ABORTED", "ETAG_MISMATCH"),
        ("", "INVALID_ARGUMENT", "ROW_REPEATED"),
        ("", "NOT_FOUND", "NOT_FOUND"),
        ("", "NOT_FOUND", "NOT_FOUND"),
        ("", "NOT_FOUND", "NOT_FOUND"),
        ("r2", "", ""),
        ("", "INVALID_ARGUMENT", "ROW_REPEATED"),
    ]
    assert get(tree, good).group == north
    assert get(tree, stale).group == ""
    told = world.told(events.AccountsPlaced)[-1]
    assert [(each.account, list(each.groups)) for each in told.placements] == [
        (good.name, tree.path("hq", "north"))
    ]
    assert [row["subject"] for row in world.audited("account.placed")] == [there.name, good.name]


def test_place__again_answers_the_same(world: World) -> None:
    """With a request_id: done once, told once."""
    tree = Tree.of(world)
    account = tree.bind("a")
    first = tree.place({account.name: "north"}, request_id="r")
    assert tree.place({account.name: "north"}, request_id="r") == first
    assert get(tree, account).etag == "r2"
    assert len(world.told(events.AccountsPlaced)) == 1


def test_place__takes_a_thousand_rows(world: World) -> None:
    """And no more."""
    tree = Tree.of(world)
    rows = {f"{tree.company.name}/accounts/a{number}": "north" for number in range(1_000)}
    account = tree.bind("a")
    assert {each.error.reason for each in tree.place(rows)} == {"NOT_FOUND"}
    with pytest.raises(grpc.RpcError) as refused:
        tree.place({account.name: "north"} | rows)
    assert field_reasons_of(refused.value) == {"rows": "TOO_MANY"}


def test_place__tells_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event tells more places than its contract says; together they tell all."""
    tree = Tree.of(world)
    accounts = {tree.bind(f"a{number}").name for number in range(5)}
    monkeypatch.setattr(usecases, "MOST_TOLD", 2)
    tree.place(dict.fromkeys(accounts, "north"))
    told = world.told(events.AccountsPlaced)
    assert [len(each.placements) for each in told] == [2, 2, 1]
    assert {placed.account for each in told for placed in each.placements} == accounts


def test_place__stays_within_reach(world: World) -> None:
    """Who administers one group moves accounts about in it, and neither out of it nor into it."""
    tree = Tree.of(world)
    inside, outside = tree.bind("in", "north"), tree.bind("out", "south")
    north = tree.holder("ADMIN", "north")
    results = [
        tree.place({account.name: group}, by=by)[0].error.reason
        for account, group, by in [
            (inside, "outlet", north),
            (inside, "south", north),
            (inside, "", north),
            (outside, "north", north),
            (outside, "north", tree.holder("ADMIN", "north", everywhere=("ANALYST",))),
            (inside, "hq", tree.holder("ADMIN", "north", everywhere=("ANALYST",))),
        ]
    ]
    assert results == ["", "NOT_FOUND", "OUT_OF_REACH", "NOT_FOUND", "OUT_OF_REACH", "OUT_OF_REACH"]
    assert (get(tree, inside).group, get(tree, outside).group) == (
        tree.groups["outlet"],
        tree.groups["south"],
    )


def test_label__adds_and_removes(world: World) -> None:
    """In one row of many; twenty labels are the most, and who would have more keeps what it has."""
    tree = Tree.of(world)
    one, full = tree.bind("one", "north"), tree.bind("full")
    assert [each.error.reason for each in label(tree, Row(account=one.name, add=["a", "b"]))] == [""]
    many = [f"l{number}" for number in range(20)]
    results = label(
        tree,
        Row(account=one.name, add=["c", "b"], remove=["a"]),
        Row(account=full.name, add=many),
    )
    assert [each.etag for each in results] == ["r3", "r2"]
    assert list(get(tree, one).labels) == ["b", "c"]
    (refused,) = label(tree, Row(account=full.name, add=["more"]))
    assert refused.error.reason == "TOO_MANY"
    assert list(get(tree, full).labels) == many
    assert get(tree, one).group == tree.groups["north"]


def test_place_and_label__at_once_lose_nothing(world: World) -> None:
    """Eight changes of the same accounts at the same moment: all are in effect."""
    tree = Tree.of(world)
    accounts = [tree.bind(f"a{number}") for number in range(3)]
    outcomes = at_once(
        [lambda: tree.place({each.name: "north" for each in accounts})]
        + [
            lambda each=each: label(tree, *(Row(account=one.name, add=[each]) for one in reversed(accounts)))
            for each in "abcdefg"
        ]
    )
    assert outcomes == {"OK": 8}
    for account in accounts:
        now = get(tree, account)
        assert (now.group, sorted(now.labels), now.etag) == (tree.groups["north"], list("abcdefg"), "r9")


def test_bind__puts_into_a_group(world: World) -> None:
    """The one given at the start; bound again without one, it stays where it is; with another, it goes there."""
    tree = Tree.of(world)
    account = tree.bind("a", "north")
    assert account.group == tree.groups["north"]
    assert tree.bind("a").group == tree.groups["north"]
    assert tree.bind("a", "outlet").group == tree.groups["outlet"]
    told = world.told(events.AccountBound)
    assert [list(each.groups) for each in told] == [
        tree.path("hq", "north"),
        tree.path("hq", "north"),
        tree.path("hq", "north", "outlet"),
    ]
    versions = [each.placement_version for each in told]
    assert versions == sorted(set(versions))


def test_bind__into_a_group_that_is_gone_is_refused(world: World) -> None:
    """The holder agreed in vain; nothing is kept, and the trail says why."""
    tree = Tree.of(world)
    started = world.start(tree.company, group=tree.groups["outlet"])
    tree.as_owner.DeleteAccountGroup(groups_pb2.DeleteAccountGroupRequest(name=tree.groups["outlet"]))
    with pytest.raises(grpc.RpcError) as refused:
        world.complete(tree.company, *world.network.agree(started.authorization_url, "a"))
    assert reason_of(refused.value) == "BINDING_GROUP_GONE"
    assert not world.rows("accounts")
    assert [row["detail"]["reason"] for row in world.audited("binding.refused")] == ["BINDING_GROUP_GONE"]


def test_bind__stays_within_reach(world: World) -> None:
    """Who administers one group binds into it or below, and authorises nothing anew that is elsewhere."""
    tree = Tree.of(world)
    admin = world.as_(tree.holder("ADMIN", "north"))
    wanted = {"parent": tree.company.name, "network": "mastodon", "server": "https://social.example"}

    def start(group: str = "") -> pb.StartBindingResponse:
        return admin.StartBinding(pb.StartBindingRequest(**wanted, group=tree.groups.get(group, "")))

    def complete(started: pb.StartBindingResponse, handle: str) -> pb.Account:
        state, code = world.network.agree(started.authorization_url, handle)
        return admin.CompleteBinding(
            pb.CompleteBindingRequest(parent=tree.company.name, state=state, code=code)
        )

    assert complete(start("outlet"), "a").group == tree.groups["outlet"]
    with pytest.raises(grpc.RpcError) as refused:
        start()
    assert field_reasons_of(refused.value) == {"group": "GROUP_REQUIRED"}
    with pytest.raises(grpc.RpcError) as refused:
        start("south")
    assert reason_of(refused.value) == "NOT_FOUND"
    tree.bind("b", "south")
    with pytest.raises(grpc.RpcError) as refused:
        complete(start("north"), "b")
    assert reason_of(refused.value) == "OUT_OF_REACH"
    started = start("outlet")
    tree.move("outlet", "south")
    with pytest.raises(grpc.RpcError) as refused:
        complete(started, "c")
    assert reason_of(refused.value) == "OUT_OF_REACH"


def test_accounts__out_of_reach_are_as_none(world: World) -> None:
    """Not got, listed, labelled or unbound by who has rights elsewhere only; who sees all is told what is missing."""
    tree = Tree.of(world)
    inside, outside = tree.bind("in", "outlet"), tree.bind("out", "south")
    tree.bind("nowhere")
    north, reader = tree.holder("ADMIN", "north"), tree.holder("ADMIN", "north", everywhere=("ANALYST",))
    assert tree.listed(north) == {"in"}
    assert tree.listed(north, group=tree.groups["hq"]) == {"in"}
    assert tree.listed(north, group=tree.groups["south"]) == set()
    assert tree.listed(reader) == {"in", "out", "nowhere"}
    assert world.as_(north).GetAccount(pb.GetAccountRequest(name=inside.name)).handle == "in"
    told = []
    for caller in (north, reader):
        for call, request in [
            ("GetAccount", pb.GetAccountRequest(name=outside.name)),
            ("UpdateAccount", pb.UpdateAccountRequest(name=outside.name, labels=["x"])),
            ("UnbindAccount", pb.UnbindAccountRequest(name=outside.name)),
        ]:
            try:
                getattr(world.as_(caller), call)(request)
                told.append("OK")
            except grpc.RpcError as error:
                told.append(reason_of(error))
    assert told == ["NOT_FOUND"] * 3 + ["OK", "OUT_OF_REACH", "OUT_OF_REACH"]
    assert (
        world.as_(north).UnbindAccount(pb.UnbindAccountRequest(name=inside.name)).state == pb.Account.REVOKED
    )
