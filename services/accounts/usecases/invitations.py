"""
Binding by invitation: batches of accounts, each with a link for its holder.

A row's progress is kept in the transaction that makes it. So whatever stops in the middle, the same link goes on.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urljoin

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret, new_secret
from services.accounts.model import Account, BindingRefusedError, binding_refused, check_etag
from services.accounts.model.groups import GROUP_NAME
from services.accounts.model.invitations import (
    BATCH_NAME,
    ROW_NAME,
    BindingBatch,
    BindingRow,
    RowState,
    check_life,
    invitation_unknown,
)
from services.accounts.store import invitations as rows
from services.accounts.store.bindings import end_bindings
from services.accounts.store.groups import get_groups
from services.accounts.usecases.binding import Binder, Invited, Redirect, Started
from services.chassis.database import Database, Scope, Transaction, purge_changes
from services.chassis.errors import FieldViolation, ServiceError, invalid_fields, not_found
from services.chassis.ids import new_id
from services.chassis.limits import StageLimitError
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal

CHANGES_KEPT = timedelta(days=1)
"""For how long a watcher that comes back misses nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An account that is to be bound, as it is asked for."""

    network: str
    server: str
    labels: tuple[str, ...]
    group_id: str
    note: str
    external_key: str


class Invitation(NamedTuple):
    """A row, and the link of its invitation, which is shown once and not kept."""

    row: BindingRow
    link: str


class Bound(NamedTuple):
    """What a holder is told when all went well."""

    row: BindingRow
    account: Account
    enterprise: str
    """Its name for people."""


class Inviter:
    """
    Invites holders, and binds what they agree to. One instance serves all threads.

    Args:
        database: opened for each step; there is none open during a call of a network.
        binder: does the binding.
        redirect_uri: where networks send the holder's browser back to: a page of the gateway, whose origin the links have.
    """

    def __init__(self, database: Database, binder: Binder, *, redirect_uri: str) -> None:
        self._database = database
        self._binder = binder
        self._redirect_uri = redirect_uri

    def invite(
        self,
        tx: Transaction,
        caller: Principal,
        enterprise: str,
        *,
        display_name: str,
        wanted: Sequence[Wanted],
        life: timedelta | None,
    ) -> tuple[BindingBatch, list[Invitation]]:
        """
        Make a batch and its links.

        Raises NOT_FOUND, also for a group that there is not, or INVALID_ARGUMENT with all that is wrong.
        """
        store.get_enterprise(tx, enterprise)
        groups = {each.group_id for each in wanted if each.group_id}
        if missing := groups - get_groups(tx, enterprise, groups).keys():
            raise not_found(GROUP_NAME.format(enterprise=enterprise.rpartition("/")[2], group=min(missing)))
        expire_time = tx.now + check_life(life, "lifetime")
        wanted = self._checked(wanted)
        short = enterprise.rpartition("/")[2]
        batch_id = new_id()
        batch = BindingBatch(
            BATCH_NAME.format(enterprise=short, batch=batch_id), display_name, caller.subject, tx.now
        )
        invitations = []
        for position, each in enumerate(wanted, start=1):
            token = new_secret()
            row = BindingRow(
                name=ROW_NAME.format(enterprise=short, batch=batch_id, row=new_id()),
                batch=batch.name,
                position=position,
                network=each.network,
                server=each.server,
                labels=each.labels,
                group_id=each.group_id,
                note=each.note,
                external_key=each.external_key,
                token_hash=hash_secret(token),
                expire_time=expire_time,
                update_time=tx.now,
            )
            invitations.append(Invitation(row, self._link(enterprise, token)))
        rows.insert_batch(tx, batch, [each.row for each in invitations])
        _audit(tx, caller, "binding_batch.created", batch.name, rows=str(len(invitations)))
        return batch, invitations

    def renew(
        self, tx: Transaction, caller: Principal, name: str, *, life: timedelta | None, etag: str
    ) -> Invitation:
        """
        Make a new link for a row; the old one, and what was started with it, work no more.

        Raises NOT_FOUND, INVALID_ARGUMENT (`LIFETIME`), ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION
        (`INVITATION_CLOSED`).
        """
        expire_time = tx.now + check_life(life, "lifetime")
        row = rows.lock_row(tx, name)
        check_etag(etag, row.revision)
        token = new_secret()
        renewed = row.renewed(hash_secret(token), expire_time, tx.now)
        end_bindings(tx, enterprise_of(name) or "", name)
        _audit(tx, caller, "invitation.renewed", name)
        rows.save_row(tx, renewed)
        return Invitation(renewed, self._link(enterprise_of(name) or "", token))

    def cancel(self, tx: Transaction, caller: Principal, name: str) -> BindingBatch:
        """Cancel what is not bound of a batch; the batch. Raises NOT_FOUND."""
        batch = rows.lock_batch(tx, name)
        if batch.cancel_time is not None:
            return batch
        cancelled = rows.cancel_batch(tx, name)
        _audit(tx, caller, "binding_batch.cancelled", name, rows=str(len(cancelled)))
        return replace(batch, cancel_time=tx.now)

    def open(
        self, scope: Scope, gateway: Principal, enterprise: str, *, token: SecretStr, browser: str
    ) -> Started:
        """
        Start a binding for the holder of a link, whose browser has this secret.

        Raises BindingRefusedError (`INVITATION_…`), which is audited where there is such an invitation, and what
        `Binder.start` raises.
        """
        with self._database.transaction(scope) as tx:
            row = rows.lock_invited(tx, enterprise, hash_secret(token))
            if row is None:
                raise invitation_unknown()
            now = tx.now
        holder = replace(gateway, subject=row.name)
        try:
            row.check_open(now)
            started = self._binder.start(
                scope,
                holder,
                enterprise,
                network=row.network,
                server=row.server,
                labels=row.labels,
                group=row.group,
                invited=Invited(row.name, browser),
            )
        except ServiceError as refused:
            with self._database.transaction(scope) as tx:
                _audit(tx, holder, "invitation.refused", row.name, reason=refused.reason)
            raise
        with self._database.transaction(scope) as tx:
            rows.save_row(tx, rows.lock_row(tx, row.name).opened(tx.now))
            _audit(tx, holder, "invitation.opened", row.name)
        return started

    def complete(self, scope: Scope, gateway: Principal, enterprise: str, redirect: Redirect) -> Bound:
        """
        Complete what a holder has started, with what the network's redirect carried.

        Raises BindingRefusedError, StageLimitError, or what else `Binder.complete` raises; the row keeps why.
        """
        state_hash = hashlib.sha256(redirect.state.encode()).digest()
        with self._database.transaction(scope) as tx:
            binding = store.find_binding(tx, enterprise, state_hash)
            if binding is None or not binding.invitation:
                raise binding_refused(
                    "BINDING_STATE_INVALID", "no invitation has started this: open its link again"
                )
            row = rows.get_row(tx, binding.invitation)
        holder = replace(gateway, subject=row.name)

        def bound(tx: Transaction, account: Account) -> None:
            rows.save_row(tx, rows.lock_row(tx, row.name).bound(account.name, tx.now))

        try:
            account = self._binder.complete(
                scope, holder, enterprise, redirect, request_id=row.name, also=bound
            )
        except (BindingRefusedError, StageLimitError) as refused:
            # A stranger's browser, or a state that has done its work, says nothing of how the holder gets on.
            if refused.reason not in {"BINDING_STATE_INVALID", "BINDING_STATE_USED"}:
                with self._database.transaction(scope) as tx:
                    before = rows.lock_row(tx, row.name)
                    after = before.refused(refused.reason, tx.now)
                    if after is not before:
                        rows.save_row(tx, after)
            raise
        with self._database.transaction(scope) as tx:
            known = store.get_enterprise(tx, enterprise)
            return Bound(rows.get_row(tx, row.name), account, known.display_name)

    def _checked(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """The rows with their servers in normal form. Raises INVALID_ARGUMENT with all violations."""
        violations: list[FieldViolation] = []
        checked = []
        keys = Counter(each.external_key for each in wanted if each.external_key)
        for number, each in enumerate(wanted):
            try:
                checked.append(replace(each, server=self._binder.check_server(each.network, each.server)))
            except ServiceError as wrong:
                violations += [
                    replace(found, field=f"rows[{number}].{found.field}") for found in wrong.violations
                ]
            if keys[each.external_key] > 1:
                violations.append(
                    FieldViolation(
                        f"rows[{number}].external_key", "is that of another row too", "EXTERNAL_KEY_TWICE"
                    )
                )
        if violations:
            raise invalid_fields(violations)
        return checked

    def _link(self, enterprise: str, token: SecretStr) -> str:
        return urljoin(
            self._redirect_uri, f"/invitations/{enterprise.rpartition('/')[2]}/{token.get_secret_value()}"
        )


def expire(tx: Transaction) -> int:
    """Mark rows whose links were not used in time; needs the platform's scope. Returns how many, at most 1,000."""
    return rows.expire_rows(tx, 1_000)


def purge(tx: Transaction) -> int:
    """Forget old changes of rows, which watchers have seen; needs the platform's scope. Returns how many."""
    return purge_changes(tx, rows.ROWS, tx.now - CHANGES_KEPT)


def progress(
    tx: Transaction, enterprise: str, batches: Sequence[BindingBatch]
) -> list[Mapping[RowState, int]]:
    """How many rows of each batch are in each state."""
    found = rows.progress(tx, enterprise, [batch.name for batch in batches])
    return [found[batch.name] for batch in batches]


def _audit(tx: Transaction, caller: Principal, action: str, subject: str, **detail: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(subject) or "",
        actor=caller.subject,
        action=action,
        subject=subject,
        **detail,
    )
