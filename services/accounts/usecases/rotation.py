"""
Keys rotate while the service runs. All of it may be killed at any moment and be run again: it then goes on.

Rows are sealed anew in small batches, each row in the transaction that locks it, so that whoever reads a row with a lock finds
secret and key together. A data key is deleted when nothing is sealed by it any more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.accounts import store
from services.accounts.store import rotation, secrets
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import DataKey, VaultError
from services.chassis.database import PLATFORM, Database, Transaction

ACTOR = "rotation"
"""How the audit trail names who rotates."""

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Rotated:
    """
    What a rotation has done, this time.

    Attributes:
        keys: how many enterprises have only their new data key now.
        secrets: how many rows were sealed anew.
        failures: where secrets do not open, one for an enterprise; its old keys stay. Never what they are.
    """

    keys: int
    secrets: int
    failures: Sequence[str]


def rotate_master_key(database: Database, vault: Vault) -> int:
    """
    Wrap anew, by the newest master key, all that older ones have wrapped; they can be forgotten then.

    Returns how much that was. Raises VaultError when a master key is missing, or something does not open.
    """
    return sum(_rewrap(database, vault, table) for table in rotation.WRAPPED_TABLES)


def rotate_data_keys(database: Database, vault: Vault, enterprise: str | None = None) -> Rotated:
    """
    Give an enterprise, or all (None), a new data key, seal all secrets by it, and delete the older ones.

    Goes on with what was begun and did not end. Raises NOT_FOUND.
    """
    whose = enterprise or ""
    with database.transaction(PLATFORM) as tx:
        if enterprise:
            store.get_enterprise(tx, enterprise)
        begun = rotation.begin_rotation(tx, whose)
    keys, sealed, failures = 0, 0, list[str]()
    for name in _due(database, whose, begun):
        try:
            sealed += _rotate(database, vault, name, begun)
            keys += 1
        except VaultError as error:
            failures.append(str(error))
    if not failures:
        with database.transaction(PLATFORM) as tx:
            rotation.end_rotation(tx, whose)
    return Rotated(keys, sealed, failures)


def _rewrap(database: Database, vault: Vault, table: rotation.WrappedTable) -> int:
    """Returns how many rows were wrapped anew."""
    newest, wrapped = vault.kms.key_id, 0
    while True:
        with database.transaction(PLATFORM) as tx:
            rows = rotation.lock_wrapped(tx, table, newest, _BATCH)
            fresh = {
                row.id: vault.kms.wrap(vault.kms.unwrap(row.master_key, row.wrapped, *row.place), *row.place)
                for row in rows
            }
            rotation.rewrap(tx, table, newest, fresh)
            for row in rows:
                if row.owner:
                    _audit(tx, row.owner, "data_key.rewrapped", master_key=newest)
        wrapped += len(rows)
        if len(rows) < _BATCH:
            return wrapped


def _due(database: Database, whose: str, begun: datetime) -> Iterator[str]:
    after = ""
    while True:
        with database.transaction(PLATFORM) as tx:
            names = rotation.enterprises_to_rotate(tx, whose, begun, after=after, limit=_BATCH)
        if not names:
            return
        yield from names
        after = names[-1]


def _rotate(database: Database, vault: Vault, enterprise: str, begun: datetime) -> int:
    """Returns how many rows were sealed anew."""
    with database.transaction(PLATFORM) as tx:
        kept = secrets.newest_data_key(tx, enterprise)
        if kept is None or kept.wrapped is None:
            return 0
        if rotation.data_key_time(tx, enterprise, kept.version) <= begun:
            vault.new_key(tx, enterprise, kept.version + 1)
    with database.transaction(PLATFORM) as tx:
        kept = secrets.newest_data_key(tx, enterprise)
        if kept is None or kept.wrapped is None:
            return 0
        newest, older = vault.unwrap(enterprise, kept), rotation.older_versions(tx, enterprise, kept.version)
        opened = {
            version: vault.unwrap(enterprise, secrets.get_data_key(tx, enterprise, version))
            for version in older
        }
    sealed, deleted = 0, not older
    while not deleted:
        sealed += sum(_reseal(database, table, enterprise, newest, opened) for table in secrets.SEALED_TABLES)
        with database.transaction(PLATFORM) as tx:
            deleted = rotation.delete_data_keys(tx, enterprise, older)
            if deleted:
                _audit(tx, enterprise, "data_key.rotated", version=str(newest.version))
    return sealed


def _reseal(
    database: Database,
    table: secrets.SealedTable,
    enterprise: str,
    newest: DataKey,
    opened: Mapping[int, DataKey],
) -> int:
    """Seal anew, by the newest data key, the rows of a table that older ones have sealed. Returns how many."""
    sealed = 0
    while True:
        with database.transaction(PLATFORM) as tx:
            rows = rotation.lock_sealed(tx, table, enterprise, list(opened), _BATCH)
            for row in rows:
                fresh = {
                    column: newest.seal_bytes(
                        opened[row.key_version].open_bytes(secret, row.resource, table.fields[column]),
                        row.resource,
                        table.fields[column],
                    )
                    for column, secret in row.sealed.items()
                }
                rotation.reseal(
                    tx,
                    table,
                    newest.version,
                    rotation.SealedRow(row.id, row.resource, row.key_version, fresh),
                )
        sealed += len(rows)
        if len(rows) < _BATCH:
            return sealed


def _audit(tx: Transaction, enterprise: str, action: str, **detail: str) -> None:
    store.audit(tx, enterprise=enterprise, actor=ACTOR, action=action, subject=enterprise, **detail)
