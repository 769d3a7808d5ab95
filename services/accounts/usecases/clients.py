"""Partner apps, and the platform's own clients: what they come in with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret, new_secret, secret_matches
from services.accounts.model import (
    CLIENT_NAME,
    NETWORK_SCOPES,
    Client,
    Identity,
    check_scopes,
    credentials_invalid,
)
from services.accounts.model.revocations import LONGEST_TOKEN
from services.accounts.store.revocations import read_time, revoke
from services.chassis.database import Transaction
from services.chassis.ids import new_id
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal

NETWORK = "enterprises/network"
"""The network itself, as an enterprise: its systems are clients like any other, and own nothing here."""


def create_client(
    tx: Transaction, enterprise: str, *, display_name: str, scopes: frozenset[str], caller: Principal
) -> tuple[Client, SecretStr]:
    """
    Keep a new client. Its secret is returned this once, and not kept.

    Raises INVALID_ARGUMENT (`SCOPE_UNKNOWN`) or NOT_FOUND.
    """
    check_scopes(scopes)
    store.get_enterprise(tx, enterprise)
    secret = new_secret()
    name = CLIENT_NAME.format(enterprise=enterprise.rpartition("/")[2], client=new_id())
    client = Client(name, display_name, scopes, create_time=tx.now)
    store.insert_client(tx, client, hash_secret(secret))
    store.audit(
        tx,
        enterprise=enterprise,
        actor=caller.subject,
        action="client.created",
        subject=name,
        scopes=sorted(scopes),
    )
    return client, secret


def delete_client(tx: Transaction, name: str, *, caller: Principal) -> None:
    """Forget a client, and refuse its access tokens. Raises NOT_FOUND."""
    store.delete_client(tx, name)
    store.audit(
        tx,
        enterprise=enterprise_of(name) or "",
        actor=caller.subject,
        action="client.deleted",
        subject=name,
    )
    revoke(tx, name, until=tx.now + LONGEST_TOKEN)


@dataclass(frozen=True, slots=True)
class KnownClient:
    """A client and what is kept of its secret."""

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
    known = platform.get(client_id) or _client_of_an_enterprise(tx, client_id)
    matches = secret_matches(known.secret_hash if known else None, secret)
    if known is None or not matches:
        raise credentials_invalid()
    return replace(known.identity, authenticate_time=read_time(tx))


def _client_of_an_enterprise(tx: Transaction, client_id: str) -> KnownClient | None:
    found = store.find_client(tx, client_id)
    if found is None:
        return None
    client, secret_hash = found
    identity = Identity("CLIENT", client.name, enterprise_of(client.name), scopes=client.scopes)
    return KnownClient(identity, secret_hash)
