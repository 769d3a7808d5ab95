"""Publishing's worker: events to use cases, nothing else."""

from datetime import timedelta

from numerator.events.v1.accounts_pb2 import (
    AccountBound,
    AccountReauthRequired,
    AccountsPlaced,
    AccountTokenRefreshed,
    AccountUnbound,
)
from numerator.events.v1.publishing_pb2 import PublicationScheduled

from services.chassis.database import PLATFORM, Database, Transaction, purge, purge_changes
from services.chassis.errors import invalid
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.chassis.names import enterprise_of
from services.publishing import metrics, usecases
from services.publishing.failpoints import FailPoints
from services.publishing.model.accounts import ACCOUNT, Account, AccountState
from services.publishing.model.publications import PUBLICATION
from services.publishing.settings import Settings

MAX_CHARACTERS = 500
"""What a Mastodon server takes unless it says otherwise."""

CHANGES_KEPT = timedelta(days=1)
"""How long a watcher may stay away and still miss nothing."""


class Worker:
    """Follows the accounts service, and makes the deliveries of what was scheduled."""

    name = "publishing"

    def __init__(self, settings: Settings) -> None:
        self._fail_points = FailPoints(settings.fail_point)

    @event_handler(AccountBound)
    def on_account_bound(self, tx: Transaction, event: Event[AccountBound]) -> None:
        told = event.message
        account = Account(
            name=told.account,
            enterprise=_enterprise(told.account),
            network=told.network,
            server=told.server.rstrip("/"),
            software=told.software,
            network_account_id=told.network_account_id,
            handle=told.handle,
            state=AccountState.ACTIVE,
            max_characters=MAX_CHARACTERS,
            bind_time=event.time,
            sealed_token=told.sealed_token,
            token_version=told.token_version,
        )
        usecases.bind_account(tx, account, event.time)
        usecases.place_accounts(tx, account.enterprise, [(account.name, told.groups)], told.placement_version)

    @event_handler(AccountsPlaced)
    def on_accounts_placed(self, tx: Transaction, event: Event[AccountsPlaced]) -> None:
        placed = [(each.account, each.groups) for each in event.message.placements]
        if any(_enterprise(account) != event.message.enterprise for account, _ in placed):
            raise invalid("placements", "must be accounts of the same enterprise")
        usecases.place_accounts(tx, event.message.enterprise, placed, event.message.placement_version)

    @event_handler(AccountTokenRefreshed)
    def on_account_token_refreshed(self, tx: Transaction, event: Event[AccountTokenRefreshed]) -> None:
        told = event.message
        usecases.refresh_token(
            tx,
            _enterprise(told.account),
            told.account,
            told.sealed_token,
            version=told.token_version,
            told=event.time,
        )

    @event_handler(AccountReauthRequired)
    def on_account_reauth_required(self, tx: Transaction, event: Event[AccountReauthRequired]) -> None:
        name = event.message.account
        usecases.set_account_state(tx, _enterprise(name), name, AccountState.REAUTH_REQUIRED, event.time)

    @event_handler(AccountUnbound)
    def on_account_unbound(self, tx: Transaction, event: Event[AccountUnbound]) -> None:
        name = event.message.account
        usecases.set_account_state(tx, _enterprise(name), name, AccountState.UNBOUND, event.time)

    @event_handler(PublicationScheduled)
    def on_publication_scheduled(self, tx: Transaction, event: Event[PublicationScheduled]) -> None:
        PUBLICATION.parse(event.message.publication, "publication")
        usecases.materialise(tx, str(enterprise_of(event.message.publication)), event.message.publication)
        self._fail_points.reach("deliveries_materialised")

    @every(10)
    def measure(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            metrics.read(tx)

    @every(1)
    def lift_expired_freezes(self, database: Database) -> None:
        while True:
            with database.transaction(PLATFORM) as tx:
                lifted = usecases.lift_expired(tx)
            if not lifted:
                return

    @every(3600)
    def purge(self, database: Database) -> None:
        """Remove what has served its time, a batch per transaction."""
        while True:
            with database.transaction(PLATFORM) as tx:
                removed = purge(tx, tx.now)
                for log in (usecases.DELIVERIES, usecases.INTERACTIONS, usecases.FREEZES):
                    removed += purge_changes(tx, log, tx.now - CHANGES_KEPT)
            if not removed:
                return


def _enterprise(account: str) -> str:
    ACCOUNT.parse(account, "account")
    return str(enterprise_of(account))
