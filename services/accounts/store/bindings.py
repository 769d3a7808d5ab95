"""Bindings between start and completion."""

from dataclasses import dataclass, fields
from datetime import datetime

from services.chassis.database import Transaction


@dataclass(frozen=True, slots=True)
class Binding:
    """
    A binding between its start and its completion.

    Attributes:
        state_hash: SHA-256 of the state.
        caller: who started it.
        claim_time: when it was completed, or tried to be; it works once.
        request_id: of the request that claimed it.
        account: what came of it.
        group_id: the id of the group that the account will be in; None for the one that it is in.
        invitation: the row whose invitation started it; "" when nobody was invited.
        browser_hash: SHA-256 of the secret of the browser that may complete it; None: who started it may.
    """

    enterprise: str
    state_hash: bytes
    caller: str
    network: str
    server: str
    redirect_uri: str
    labels: tuple[str, ...]
    key_version: int
    sealed_verifier: bytes
    expire_time: datetime
    claim_time: datetime | None = None
    request_id: str = ""
    account: str | None = None
    invitation: str = ""
    browser_hash: bytes | None = None
    group_id: str | None = None

    @property
    def name(self) -> str:
        """What the audit trail and the seal of the verifier call it."""
        return binding_name(self.enterprise, self.state_hash)


def binding_name(enterprise: str, state_hash: bytes) -> str:
    """What a binding with this state is called, whether there is one or not."""
    return f"{enterprise}/bindings/{state_hash.hex()}"


def insert_binding(tx: Transaction, binding: Binding) -> None:
    """Keep a binding that has begun."""
    tx.execute(
        """
        insert into bindings (enterprise, state_hash, caller, network, server, redirect_uri, labels, key_version,
                              sealed_verifier, expire_time, invitation, browser_hash, group_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            binding.enterprise,
            binding.state_hash,
            binding.caller,
            binding.network,
            binding.server,
            binding.redirect_uri,
            list(binding.labels),
            binding.key_version,
            binding.sealed_verifier,
            binding.expire_time,
            binding.invitation,
            binding.browser_hash,
            binding.group_id,
        ),
    )


def find_binding(tx: Transaction, enterprise: str, state_hash: bytes) -> Binding | None:
    """The binding with this state, locked."""
    row = tx.execute(
        "select * from bindings where enterprise = %s and state_hash = %s for update",
        (enterprise, state_hash),
    ).fetchone()
    if row is None:
        return None
    return Binding(
        **{each.name: row[each.name] for each in fields(Binding)} | {"labels": tuple(row["labels"])}
    )


def claim_binding(tx: Transaction, binding: Binding, request_id: str) -> None:
    """From now on the state does not work again."""
    tx.execute(
        "update bindings set claim_time = %s, request_id = %s where enterprise = %s and state_hash = %s",
        (tx.now, request_id, binding.enterprise, binding.state_hash),
    )


def complete_binding(tx: Transaction, binding: Binding, account: str) -> None:
    """Keep what came of a binding."""
    tx.execute(
        "update bindings set account = %s where enterprise = %s and state_hash = %s",
        (account, binding.enterprise, binding.state_hash),
    )


def end_bindings(tx: Transaction, enterprise: str, invitation: str) -> None:
    """What an invitation has started, and nobody has completed, works no more."""
    tx.execute(
        """
        update bindings set expire_time = %s
        where enterprise = %s and invitation = %s and claim_time is null and expire_time > %s
        """,
        (tx.now, enterprise, invitation, tx.now),
    )


def purge_bindings(tx: Transaction, before: datetime) -> int:
    """Forget bindings that expired before; needs the platform's scope. Returns how many."""
    return tx.execute("delete from bindings where expire_time < %s", (before,)).rowcount
