"""What accounts counts, and what its worker reads from the database for dashboards."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.accounts import store
from services.accounts.model import Verification
from services.chassis.database import Transaction
from services.chassis.errors import ServiceError
from services.chassis.metrics import Reading, counter

_logins = counter("numerator.accounts.logins", "Tries to log in, by members and by clients.")
_verifications = counter("numerator.accounts.verifications", "Steps of verifications, by where they led.")
_bindings = counter("numerator.accounts.bindings", "Bindings that were completed or refused.")
_enterprises = Reading("numerator.accounts.enterprises", "Enterprises by how far they are verified.")
_accounts = Reading("numerator.accounts.accounts", "Bound accounts by network and state.")


@contextmanager
def login(kind: str) -> Iterator[None]:
    """Count a try to log in, MEMBER or CLIENT: `OK`, or the reason of what the block raises."""
    try:
        yield
    except ServiceError as error:
        _logins.add(1, {"kind": kind, "outcome": error.reason})
        raise
    _logins.add(1, {"kind": kind, "outcome": "OK"})


def verification(tx: Transaction, state: Verification) -> None:
    """Count a step of a verification."""
    tx.after_commit(lambda: _verifications.add(1, {"state": state}))


def binding(tx: Transaction, network: str, outcome: str = "OK") -> None:
    """Count a binding that was completed, or refused for the reason `outcome`."""
    tx.after_commit(lambda: _bindings.add(1, {"network": network, "outcome": outcome}))


def read(tx: Transaction) -> None:
    """Read the gauges; needs the platform's scope."""
    counts = store.count_enterprises(tx)
    _enterprises.set((counts.get(state, 0), {"state": state}) for state in Verification)
    _accounts.set(
        (count, {"network": network, "state": state}) for network, state, count in store.count_accounts(tx)
    )
