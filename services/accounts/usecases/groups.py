"""The account tree: its groups, and the places and labels of accounts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from numerator.events.v1 import accounts_pb2 as events

from services.accounts import store
from services.accounts.model import Account, check_etag
from services.accounts.model.groups import (
    GROUP_NAME,
    MOST_GROUPS,
    Group,
    Path,
    check_beside,
    group_id,
    group_limit_reached,
    group_not_empty,
    moved_path,
    path_within,
)
from services.accounts.store import accounts as account_rows
from services.accounts.store import groups as rows
from services.chassis.database import Telling, Transaction
from services.chassis.errors import ServiceError, invalid, not_found
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.reach import Reach

R = TypeVar("R", "PlaceRow", "LabelRow")

MOST_TOLD = 1000
"""How many places one event tells."""


def create_group(
    tx: Transaction, enterprise: str, *, display_name: str, into: str, actor: str, reach: Reach
) -> Group:
    """
    Make a group in the group `into` (a name), or in none.

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`) or FAILED_PRECONDITION (`GROUP_TOO_DEEP`, `GROUP_LIMIT_REACHED`).
    """
    store.get_enterprise(tx, enterprise)
    rows.lock_tree(tx, enterprise)
    path = path_within(_reached(tx, enterprise, into, "parent_group", reach), new_id())
    if rows.count_groups(tx, enterprise) >= MOST_GROUPS:
        raise group_limit_reached()
    name = GROUP_NAME.format(enterprise=enterprise.rpartition("/")[2], group=path[-1])
    group = Group(name, display_name, path, create_time=tx.now, update_time=tx.now)
    rows.insert_group(tx, group)
    _audit(tx, actor, "group.created", group.name, display_name=display_name, into=into)
    return group


def get_group(tx: Transaction, name: str, *, reach: Reach) -> Group:
    """The group. Raises NOT_FOUND."""
    group = rows.get_group(tx, enterprise_of(name) or "", GROUP_NAME.parse(name)["group"])
    reach.check(name, group.path)
    return group


def rename_group(
    tx: Transaction, name: str, *, display_name: str, etag: str, actor: str, reach: Reach
) -> Group:
    """Give a group another name for people. Raises NOT_FOUND, PERMISSION_DENIED or ABORTED (`ETAG_MISMATCH`)."""
    rows.lock_tree(tx, enterprise_of(name) or "")
    before = get_group(tx, name, reach=reach)
    check_etag(etag, before.revision)
    group = before.renamed(display_name, tx.now)
    rows.update_group(tx, group)
    _audit(tx, actor, "group.renamed", name, display_name=display_name)
    return group


def move_group(tx: Transaction, name: str, *, into: str, etag: str, actor: str, reach: Reach) -> Group:
    """
    Move a group and all below it into the group `into` (a name), or into none, and tell where the accounts in it are.

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`), ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION (`GROUP_CYCLE`,
    `GROUP_TOO_DEEP`).
    """
    enterprise = enterprise_of(name) or ""
    rows.lock_tree(tx, enterprise)
    before = get_group(tx, name, reach=reach)
    check_beside(reach, before.path[:-1])
    target = _reached(tx, enterprise, into, "parent_group", reach)
    check_etag(etag, before.revision)
    if target == before.path[:-1]:
        return before
    below = rows.contents(tx, before)
    group = before.moved(target, height=max(map(len, below)) - len(before.path) + 1, now=tx.now)
    rows.move_groups(tx, before, group)
    _audit(tx, actor, "group.moved", name, before=before.parent or "", after=group.parent or "")
    places: dict[str, Path] = {}
    for path, accounts in below.items():
        places |= dict.fromkeys(accounts, moved_path(path, before=before.path, after=group.path))
    _tell(tx, enterprise, places)
    return group


def delete_group(tx: Transaction, name: str, *, etag: str, actor: str, reach: Reach) -> None:
    """
    Forget an empty group, and the grants in it.

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`), ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION (`GROUP_NOT_EMPTY`).
    """
    enterprise = enterprise_of(name) or ""
    rows.lock_tree(tx, enterprise)
    group = get_group(tx, name, reach=reach)
    check_beside(reach, group.path[:-1])
    check_etag(etag, group.revision)
    if not rows.is_empty(tx, group):
        raise group_not_empty(name)
    # Tokens that carry the grants may live on: nothing is below the group, and its id never comes again.
    rows.delete_group(tx, group)
    _audit(tx, actor, "group.deleted", name, display_name=group.display_name)


def update_account(
    tx: Transaction, name: str, *, labels: Iterable[str], etag: str, actor: str, reach: Reach
) -> Account:
    """
    Set an account's labels.

    Raises NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`), ABORTED (`ETAG_MISMATCH`) or INVALID_ARGUMENT (`TOO_MANY`).
    """
    before = store.lock_account(tx, name)
    reach.check(name, before.path)
    check_etag(etag, before.revision)
    account = before.labelled(labels, tx.now)
    if account is not before:
        account_rows.update_places_and_labels(tx, [account])
        _audit(tx, actor, "account.labelled", name, labels=account.labels)
    return account


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """Where an account is to be: the name of a group; empty for none."""

    account: str
    group: str
    etag: str


@dataclass(frozen=True, slots=True)
class LabelRow:
    """Which labels an account is to carry, too, and which not any more."""

    account: str
    add: Sequence[str]
    remove: Sequence[str]
    etag: str


@dataclass(frozen=True, slots=True)
class RowResult:
    """What came of a row: the account after it, or why nothing was done."""

    row: PlaceRow | LabelRow
    outcome: Account | ServiceError


def place_accounts(
    tx: Transaction, enterprise: str, wanted: Sequence[PlaceRow], *, actor: str, reach: Reach
) -> list[RowResult]:
    """
    Put accounts into groups, each by itself, and tell where they are. Results are in the order of the rows.

    A row fails with NOT_FOUND, PERMISSION_DENIED (`OUT_OF_REACH`), ABORTED (`ETAG_MISMATCH`) or `ROW_REPEATED`.
    Raises NOT_FOUND for the enterprise.
    """
    store.get_enterprise(tx, enterprise)
    rows.hold_tree(tx, enterprise)
    names = {row.group for row in wanted if row.group and GROUP_NAME.matches(row.group)}
    found = rows.get_groups(tx, enterprise, {GROUP_NAME.parse(name)["group"] for name in names})

    def place(row: PlaceRow, before: Account) -> Account:
        if not row.group:
            check_beside(reach, ())
            return before.placed((), tx.now)
        group = found.get(group_id(row.group, enterprise, "group"))
        if group is None:
            raise not_found(row.group)
        reach.check(row.group, group.path)
        return before.placed(group.path, tx.now)

    results, changed = _each(tx, enterprise, wanted, place, reach)
    for account in changed:
        _audit(tx, actor, "account.placed", account.name, group=account.group or "")
    _tell(tx, enterprise, {account.name: account.path for account in changed})
    return results


def label_accounts(
    tx: Transaction, enterprise: str, wanted: Sequence[LabelRow], *, actor: str, reach: Reach
) -> list[RowResult]:
    """Give labels to accounts and take them away; as `place_accounts`, and `TOO_MANY` for too many labels."""
    store.get_enterprise(tx, enterprise)

    def label(row: LabelRow, before: Account) -> Account:
        return before.labelled(
            [*(each for each in before.labels if each not in row.remove), *row.add], tx.now
        )

    results, changed = _each(tx, enterprise, wanted, label, reach)
    for account in changed:
        _audit(tx, actor, "account.labelled", account.name, labels=account.labels)
    return results


def _each(
    tx: Transaction,
    enterprise: str,
    wanted: Sequence[R],
    change: Callable[[R, Account], Account],
    reach: Reach,
) -> tuple[list[RowResult], list[Account]]:
    """What comes of `change` for each row's account, and the accounts that it changed, kept."""
    known = account_rows.lock_accounts(tx, enterprise, {row.account for row in wanted})
    seen: set[str] = set()
    results, changed = [], []
    for row in wanted:
        try:
            before = _account_of(row, known, seen, reach)
            account = change(row, before)
        except ServiceError as error:
            results.append(RowResult(row, error))
            continue
        results.append(RowResult(row, account))
        if account is not before:
            changed.append(account)
    account_rows.update_places_and_labels(tx, changed)
    return results, changed


def _account_of(
    row: PlaceRow | LabelRow, known: Mapping[str, Account], seen: set[str], reach: Reach
) -> Account:
    if row.account in seen:
        raise invalid("account", "is in a row before: give each account one row", reason="ROW_REPEATED")
    seen.add(row.account)
    account = known.get(row.account)
    if account is None:
        raise not_found(row.account)
    reach.check(account.name, account.path)
    check_etag(row.etag, account.revision)
    return account


def _reached(tx: Transaction, enterprise: str, name: str, field: str, reach: Reach) -> Path:
    """The path of the group that something is to be put into, which the caller must reach; empty for none."""
    if not name:
        check_beside(reach, ())
        return ()
    group = rows.get_group(tx, enterprise, group_id(name, enterprise, field))
    reach.check(name, group.path)
    return group.path


def _tell(tx: Transaction, enterprise: str, places: Mapping[str, Path]) -> None:
    """Tell where accounts are. Call it under the tree's lock, when it is so."""
    if not places:
        return
    version = rows.next_placement(tx)
    placements = [
        events.AccountsPlaced.Placement(account=account, groups=path) for account, path in places.items()
    ]
    tx.emit_all(
        Telling(
            events.AccountsPlaced(
                enterprise=enterprise,
                placements=placements[start : start + MOST_TOLD],
                placement_version=version,
            ),
            subject=enterprise,
        )
        for start in range(0, len(placements), MOST_TOLD)
    )


def _audit(tx: Transaction, actor: str, action: str, subject: str, **detail: str | Sequence[str]) -> None:
    store.audit(
        tx, enterprise=enterprise_of(subject) or "", actor=actor, action=action, subject=subject, **detail
    )
