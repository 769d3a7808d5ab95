"""
How fast the account tree is: moves, checks of permissions, and filtered lists, in an enterprise with thousands of accounts.

`python -m services.accounts.tests.measure_tree URL` prints the figures of a database with the schema of accounts.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

from services.accounts.model import ACCOUNT_NAME, Account, Enterprise, Profile, Role
from services.accounts.model.groups import GROUP_NAME, Group, Path
from services.accounts.model.permissions import Grant, decide
from services.accounts.store import accounts as account_rows
from services.accounts.store import grants as grant_rows
from services.accounts.store import groups as group_rows
from services.accounts.store.enterprises import insert_enterprise
from services.accounts.store.rows import BEGINNING
from services.accounts.usecases import groups as usecases
from services.chassis.clock import SystemClock
from services.chassis.database import Database, Tenant, Transaction
from services.chassis.ids import new_id
from services.chassis.reach import EVERYTHING, Reach

_PROVINCES, _BRANCHES, _OUTLETS = 20, 10, 4
_ROLES = frozenset({"OWNER", "ADMIN", "EDITOR"})


@dataclass(frozen=True, slots=True)
class Figure:
    """
    How long something took, in milliseconds.

    Attributes:
        count: how often it was done.
        p50: half of the times took no longer.
        p99: 99 of 100 times took no longer.
    """

    count: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was measured, each from the opening of its transaction to the end of its commit.

    Attributes:
        accounts: how many there were.
        groups: how many groups they were in, on four levels.
        move_branch: a branch, 5 groups, into another province; places of its accounts told.
        move_province: a province, 51 groups, out of the headquarters or into it again.
        check: whether a member with ten grants may publish on an account: its place and the member's grants read, and decided.
        check_reach: the same by a token: the account read, and compared with the token's groups.
        list_subtree: 50 accounts of a province.
        list_reach: 50 accounts with a label, of a member who has ten branches.
        list_branch: 50 accounts of a branch, which has fewer or hardly more.
    """

    accounts: int
    groups: int
    move_branch: Figure
    move_province: Figure
    check: Figure
    check_reach: Figure
    list_subtree: Figure
    list_reach: Figure
    list_branch: Figure


@dataclass(frozen=True, slots=True)
class _Tree:
    enterprise: str
    root: Group
    provinces: list[Group]
    branches: list[Group]
    outlets: list[Group]
    accounts: list[str]

    @property
    def groups(self) -> list[Group]:
        return [self.root, *self.provinces, *self.branches, *self.outlets]


def measure(database: Database, accounts: int = 10_000) -> Figures:
    """
    Measure, in a new enterprise with so many accounts in 1,021 groups.

    Args:
        database: with the schema of accounts, of the application role: so row-level security is paid for.
        accounts: how many.
    """
    rng = random.Random(1)
    enterprise = f"enterprises/measure-{new_id()}"

    @contextmanager
    def opened() -> Iterator[Transaction]:
        with database.transaction(Tenant(enterprise)) as tx:
            yield tx

    with opened() as tx:
        tree = _plant(tx, enterprise, accounts)
    member = "enterprises/agency/members/m"
    granted = rng.sample(tree.branches, 10)
    with opened() as tx:
        _grant(tx, enterprise, member, granted)
    reach = Reach(frozenset(each.path[-1] for each in granted))

    def move(groups: list[Group], targets: list[Group | None]) -> Callable[[], None]:
        def once() -> None:
            group, into = rng.choice(groups), rng.choice(targets)
            with opened() as tx:
                usecases.move_group(
                    tx, group.name, into=into.name if into else "", etag="", actor="measure", reach=EVERYTHING
                )

        return once

    def check() -> None:
        with opened() as tx:
            account = account_rows.get_account(tx, rng.choice(tree.accounts))
            decide(grant_rows.granted(tx, member, enterprise), _ROLES, account.path, tx.now)

    def check_reach() -> None:
        with opened() as tx:
            reach.covers(account_rows.get_account(tx, rng.choice(tree.accounts)).path)

    def listed(**filters: Callable[[], object]) -> Callable[[], None]:
        def once() -> None:
            wanted = {name: make() for name, make in filters.items()}
            with opened() as tx:
                account_rows.list_accounts(tx, enterprise, **wanted, after=BEGINNING, limit=51)

        return once

    return Figures(
        accounts=accounts,
        groups=len(tree.groups),
        check=_timed(check, 1_000),
        check_reach=_timed(check_reach, 1_000),
        list_subtree=_timed(listed(within=lambda: rng.choice(tree.provinces).path[-1]), 300),
        list_reach=_timed(listed(reach=lambda: reach.groups, label=lambda: "brand"), 300),
        list_branch=_timed(listed(within=lambda: rng.choice(tree.branches).path[-1]), 300),
        move_branch=_timed(move(tree.branches, [*tree.provinces]), 300),
        move_province=_timed(move(tree.provinces, [tree.root, None]), 200),
    )


def _plant(tx: Transaction, enterprise: str, accounts: int) -> _Tree:
    now, short = tx.now, enterprise.rpartition("/")[2]
    insert_enterprise(tx, Enterprise(enterprise, "Measured", "", "", create_time=now, update_time=now))

    def group(into: Path) -> Group:
        path = (*into, new_id())
        made = Group(GROUP_NAME.format(enterprise=short, group=path[-1]), "A group", path, now, now)
        group_rows.insert_group(tx, made)
        return made

    root = group(())
    provinces = [group(root.path) for _ in range(_PROVINCES)]
    branches = [group(each.path) for each in provinces for _ in range(_BRANCHES)]
    outlets = [group(each.path) for each in branches for _ in range(_OUTLETS)]
    names = []
    for number in range(accounts):
        name = ACCOUNT_NAME.format(enterprise=short, account=new_id())
        profile = Profile(f"{short}-{number}", f"a{number}", f"A {number}", "mastodon", "4.5.0")
        time_bound = now - timedelta(seconds=number)
        account_rows.save_account(
            tx,
            Account(
                name=name,
                network="mastodon",
                server="https://social.example",
                profile=profile,
                labels=("brand",) if number % 2 else ("dealer",),
                create_time=time_bound,
                update_time=time_bound,
                authorize_time=time_bound,
                path=[*branches, *outlets][number % (len(branches) + len(outlets))].path,
            ),
        )
        names.append(name)
    return _Tree(enterprise, root, provinces, branches, outlets, names)


def _grant(tx: Transaction, enterprise: str, member: str, groups: list[Group]) -> None:
    for each in groups:
        grant_rows.insert_grant(
            tx,
            Grant(
                name=f"{enterprise}/grants/{new_id()}",
                member=member,
                role=Role.EDITOR,
                path=each.path,
                expire_time=tx.now + timedelta(days=30),
                creator="measure",
                create_time=tx.now,
            ),
        )


def _timed(do: Callable[[], None], count: int) -> Figure:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        do()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return Figure(count, p50=taken[count // 2], p99=taken[ceil(count * 0.99) - 1])


if __name__ == "__main__":
    measured = measure(Database(sys.argv[1], schema="accounts", clock=SystemClock()))
    for name in Figures.__dataclass_fields__:
        sys.stdout.write(f"{name}: {getattr(measured, name)}\n")
