"""
Tokens that expire are refreshed ahead of their end.

Single-flight: a refresh begins with a lease in the token's row, committed before the network is called, and only the outcome of
the newest lease counts. So however many processes find a token due, one call is made; and where a server lets a refresh
token work once only, it is never shown twice at the same time.

Who dies between the network's answer and our commit has lost the next token. When the lease has ended the same refresh token is
tried once more, after which either we have a token or the network says that it was used, and the account's holder is asked.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from numerator.events.v1 import accounts_pb2 as events
from pydantic import SecretStr

from services.accounts import metrics, store
from services.accounts.model.refreshes import LEASE, next_try
from services.accounts.networks import Application, Network, NetworkRefusedError, Renewal
from services.accounts.store import refreshes
from services.accounts.store.refreshes import Lease
from services.accounts.usecases.accounts import ask_again
from services.accounts.usecases.applications import Applications
from services.accounts.usecases.secrets import Vault
from services.accounts.usecases.tokens import hand_over, keep_token
from services.accounts.vault import VaultError
from services.chassis.database import PLATFORM, Database, Tenant, Transaction
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.chassis.names import enterprise_of

ACTOR = "refresh"
"""How the audit trail names us."""

AT_ONCE = 8
"""How many tokens one process refreshes at once: a server that does not answer holds up as many, for seconds."""

_APPLICATION_GONE = "APPLICATION_GONE"
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    """One refresh, ready to be made."""

    lease: Lease
    network: str
    application: Application
    refresh_token: SecretStr


class Refresher:
    """
    Refreshes tokens. Any number of processes may; one instance serves all threads.

    Args:
        database: opened before and after each call of a network, and not during it.
        networks: by their kind, as `mastodon`.
        redirect_uri: where networks send the holders' browsers back to; servers know us by it.
        vault: seals the enterprises' secrets.
        publishing_key: publishing's public key, to which tokens are sealed.
    """

    def __init__(
        self,
        database: Database,
        networks: Mapping[str, Network],
        *,
        redirect_uri: str,
        vault: Vault,
        publishing_key: X25519PublicKey,
    ) -> None:
        self._database = database
        self._networks = networks
        self._applications = Applications(networks, vault.kms, redirect_uri)
        self._vault = vault
        self._publishing_key = publishing_key

    def run(self) -> None:
        """Refresh all tokens that are due, several at once. What cannot be done now is tried later."""
        if not self.refresh_one():
            return
        threads = [threading.Thread(target=self._drain, daemon=True) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _drain(self) -> None:
        try:
            while self.refresh_one():
                pass
        except (ServiceError, psycopg.Error) as error:
            _log.warning("refresh.interrupted", error=repr(error))

    def refresh_one(self) -> bool:
        """Refresh a token that is due; False: there is none, or others are at it. Raises what the database raises."""
        with self._database.transaction(PLATFORM) as tx:
            held = refreshes.lease(tx, tx.now + LEASE)
            if held is None:
                return False
            try:
                task = self._prepare(tx, held)
            except VaultError as broken:
                # Its lease ends by itself: the key may only be missing in this process.
                _log.error("refresh.sealed", account=held.account, error=str(broken))
                return True
        outcome: Renewal | str
        if task is None:
            outcome = _APPLICATION_GONE
        else:
            try:
                outcome = self._networks[task.network].refresh(task.application, task.refresh_token)
            except NetworkRefusedError as refused:
                outcome = refused.reason
            except ServiceError as failed:
                self._put_off(held, failed.reason)
                return True
        with self._database.transaction(Tenant(enterprise_of(held.account) or "")) as tx:
            if task is not None and isinstance(outcome, Renewal):
                self._keep(tx, task, outcome)
            elif isinstance(outcome, str):
                self._give_up(tx, held, outcome)
        return True

    def _prepare(self, tx: Transaction, held: Lease) -> _Task | None:
        """None: the server does not know us any more as whom it gave the token to."""
        account = store.get_account(tx, held.account)
        application = self._applications.of_token(tx, account.network, account.server, held.client_id)
        if application is None:
            return None
        token = self._vault.open_token(
            tx, held.refresh, held.account, "refresh_token", actor=ACTOR, purpose="refresh"
        )
        return _Task(held, account.network, application, token)

    def _keep(self, tx: Transaction, task: _Task, renewal: Renewal) -> None:
        """Keep and tell the next token, unless the account was bound anew or unbound meanwhile: then it is dropped."""
        held = task.lease
        before = store.lock_account(tx, held.account)
        if not refreshes.end_lease(tx, held, None):
            _log.warning("refresh.too_late", account=held.account, fence=held.fence)
            return
        version = keep_token(
            tx,
            self._vault,
            held.account,
            held.client_id,
            renewal.token,
            refresh=renewal.refresh_token or task.refresh_token,
            expire_time=tx.now + renewal.life if renewal.life else None,
        )
        after = before.refreshed(tx.now)
        if after is not before:
            store.save_account(tx, after)
        _audit(tx, held, "token.refreshed")
        metrics.refresh(tx, "OK")
        sealed = hand_over(tx, self._publishing_key, held.account, renewal.token, actor=ACTOR)
        told = events.AccountTokenRefreshed(account=held.account, sealed_token=sealed, token_version=version)
        tx.emit(told, subject=held.account)

    def _put_off(self, held: Lease, reason: str) -> None:
        """Try again later what brought no answer; or, after the token's end and enough tries, give up."""
        with self._database.transaction(Tenant(enterprise_of(held.account) or "")) as tx:
            again = next_try(held.tries, tx.now, held.expire_time)
            if again is None:
                self._give_up(tx, held, reason)
                return
            store.lock_account(tx, held.account)
            if refreshes.end_lease(tx, held, again):
                _audit(tx, held, "token.refresh_failed", reason=reason)
                metrics.refresh(tx, reason)

    def _give_up(self, tx: Transaction, held: Lease, reason: str) -> None:
        """Ask the account's holder, once."""
        before = store.lock_account(tx, held.account)
        if not refreshes.end_lease(tx, held, None):
            return
        _audit(tx, held, "token.refresh_failed", reason=reason)
        metrics.refresh(tx, reason)
        ask_again(tx, before, actor=ACTOR, told=tx.now)


def _audit(tx: Transaction, held: Lease, action: str, **detail: str) -> None:
    store.audit(
        tx,
        enterprise=enterprise_of(held.account) or "",
        actor=ACTOR,
        action=action,
        subject=held.account,
        **detail,
    )
