"""Partner apps, and the platform's own clients: what they come in with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret, new_secret, secret_matches
from services.accounts.model import (
    CLIENT_NAME,
    NETWORK_SCOPES,
    Client,
    Identity,
    check_etag,
    credentials_invalid,
)
from services.accounts.model.clients import ClientRights, check_grace
from services.accounts.model.groups import group_name
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.store import clients as client_rows
from services.accounts.store import groups as group_rows
from services.accounts.store.revocations import read_time, revoke
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal

NETWORK = "enterprises/network"
"""The network itself, as an enterprise: its systems are clients like any other, and own nothing here."""


def create_client(
    tx: Transaction, enterprise: str, *, display_name: str, rights: ClientRights, caller: Principal
) -> tuple[Client, SecretStr]:
    """
    Keep a new client. Its secret is returned this once, and not kept.

    Nobody gives a client more than they hold: only who holds OWNER or ADMIN in the whole enterprise gets here, and these may do
    all that a client can be given.

    Raises INVALID_ARGUMENT (see `ClientRights.check`) or NOT_FOUND.
    """
    store.get_enterprise(tx, enterprise)
    _check_rights(tx, enterprise, rights)
    secret = new_secret()
    name = CLIENT_NAME.format(enterprise=enterprise.rpartition("/")[2], client=new_id())
    client = Client(name, display_name, rights, create_time=tx.now)
    client_rows.insert_client(tx, client, hash_secret(secret))
    _audit(tx, client, "client.created", caller, **_told(rights))
    return client, secret


def update_client(
    tx: Transaction,
    name: str,
    *,
    display_name: str | None,
    rights: ClientRights | None,
    etag: str,
    caller: Principal,
) -> Client:
    """
    Change a client's name or rights, if they are given. Access tokens with other rights are refused.

    Raises INVALID_ARGUMENT (see `ClientRights.check`), NOT_FOUND, ABORTED (`ETAG_MISMATCH`).
    """
    if rights is not None:
        _check_rights(tx, enterprise_of(name) or "", rights)
    before = client_rows.lock_client(tx, name)
    check_etag(etag, before.revision)
    after = replace(
        before,
        display_name=before.display_name if display_name is None else display_name,
        rights=rights or before.rights,
    )
    if after == before:
        return before
    after = replace(after, revision=before.revision + 1)
    client_rows.update_client(tx, after)
    _audit(tx, after, "client.updated", caller, display_name=after.display_name, **_told(after.rights))
    if after.rights != before.rights:
        _refuse_tokens(tx, after)
    return after


def rotate_secret(
    tx: Transaction, name: str, *, grace: timedelta, etag: str, caller: Principal
) -> tuple[Client, SecretStr]:
    """
    Give a client a new secret, returned this once; the present one works on for `grace`, and none before that.

    Raises INVALID_ARGUMENT (`GRACE_TOO_LONG`), NOT_FOUND, ABORTED (`ETAG_MISMATCH`).
    """
    check_grace(grace)
    before = client_rows.lock_client(tx, name)
    check_etag(etag, before.revision)
    secret = new_secret()
    after = replace(
        before,
        old_secret_end_time=tx.now + grace if grace else None,
        old_secret_use_time=None,
        revision=before.revision + 1,
    )
    client_rows.replace_secret(tx, after, hash_secret(secret))
    _audit(tx, after, "client.secret_rotated", caller, grace=f"{grace.total_seconds():.0f}s")
    if not grace or before.old_secret_end_time:
        _refuse_tokens(tx, after)
    return after, secret


def end_grace(tx: Transaction, name: str, *, etag: str, caller: Principal) -> Client:
    """End the grace of a rotation, if there is one. Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`)."""
    before = client_rows.lock_client(tx, name)
    check_etag(etag, before.revision)
    if not before.old_secret_end_time:
        return before
    after = replace(before, old_secret_end_time=None, old_secret_use_time=None, revision=before.revision + 1)
    client_rows.forget_old_secret(tx, after)
    _audit(tx, after, "client.secret_grace_ended", caller)
    _refuse_tokens(tx, after)
    return after


def delete_client(tx: Transaction, name: str, *, etag: str, caller: Principal) -> None:
    """Forget a client, and refuse its access tokens. Raises NOT_FOUND or ABORTED (`ETAG_MISMATCH`)."""
    client = client_rows.lock_client(tx, name)
    check_etag(etag, client.revision)
    client_rows.delete_client(tx, name)
    _audit(tx, client, "client.deleted", caller)
    _refuse_tokens(tx, client)


@dataclass(frozen=True, slots=True)
class KnownClient:
    """A client of the platform, and what is kept of its secret."""

    identity: Identity
    secret_hash: bytes


def platform_clients(*, operators: Mapping[str, SecretStr], network: SecretStr) -> Mapping[str, KnownClient]:
    """
    The clients that no enterprise made, by client id: `operators` (the platform's staff, by name) and `network` (the
    network's own systems). Their secrets come from the settings, so that there is always a first one who may come in.
    """
    staff = {
        name: KnownClient(Identity("OPERATOR", f"clients/{name}"), hash_secret(secret))
        for name, secret in operators.items()
    }
    return staff | {
        "network": KnownClient(
            Identity("CLIENT", f"{NETWORK}/clients/network", NETWORK, scopes=NETWORK_SCOPES),
            hash_secret(network),
        ),
    }


def authenticate_client(
    tx: Transaction, platform: Mapping[str, KnownClient], client_id: str, secret: SecretStr
) -> Identity:
    """Which client this is. Raises UNAUTHENTICATED (`CREDENTIALS_INVALID`)."""
    of_platform = platform.get(client_id)
    if of_platform:
        if not secret_matches(of_platform.secret_hash, secret):
            raise credentials_invalid()
        return replace(of_platform.identity, authenticate_time=read_time(tx))
    client, kept = client_rows.find_client(tx, client_id) or (None, None)
    present = secret_matches(kept.present if kept else None, secret)
    old = secret_matches(kept.old if kept else None, secret)
    if client is None or not (present or old):
        raise credentials_invalid()
    client_rows.note_use(tx, client, old_secret=old)
    return Identity(
        "CLIENT",
        client.name,
        enterprise_of(client.name),
        scopes=client.rights.scopes,
        grants=client.rights.grants,
        authenticate_time=read_time(tx),
    )


def _check_rights(tx: Transaction, enterprise: str, rights: ClientRights) -> None:
    rights.check()
    if rights.grants:
        group_rows.hold_tree(tx, enterprise)  # no group goes before the grants are saved
        missing = rights.groups - group_rows.get_groups(tx, enterprise, rights.groups).keys()
        if missing:
            raise not_found(group_name(enterprise, sorted(missing)) or "")


def _refuse_tokens(tx: Transaction, client: Client) -> None:
    revoke(tx, client.name, until=tx.now + LONGEST_TOKEN)


def _audit(
    tx: Transaction, client: Client, action: str, caller: Principal, **detail: str | Sequence[str]
) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(client.name) or "",
        actor=caller.subject,
        action=action,
        subject=client.name,
        **detail,
    )


def _told(rights: ClientRights) -> dict[str, Sequence[str]]:
    """Rights for the audit trail."""
    granted = [f"{scope} in {group}" for scope, groups in rights.grants.items() for group in groups]
    return {"scopes": sorted(rights.scopes), "grants": sorted(granted)}
