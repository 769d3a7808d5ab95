"""Accounts' worker: events to use cases, and jobs. The launcher adds the relay of the outbox."""

from google.protobuf.message import Message
from numerator.events.v1.publishing_pb2 import AccountTokenRefused, DeliveryFailed, DeliveryPublished

from services.accounts import metrics
from services.accounts.model.webhooks import PUBLIC_EVENTS
from services.accounts.settings import Settings
from services.accounts.store.clients import purge_old_secrets
from services.accounts.store.identity_providers import purge_logins
from services.accounts.store.member_invitations import purge_invitations
from services.accounts.store.revocations import purge_revocations
from services.accounts.store.sessions import purge_sessions
from services.accounts.usecases import accounts, documents, health, invitations, sealing, webhooks
from services.accounts.usecases.refresh import Refresher
from services.accounts.usecases.secrets import Vault
from services.accounts.wiring import open_networks
from services.chassis.chain import AnchorFile
from services.chassis.database import PLATFORM, Database, Transaction, purge
from services.chassis.messaging.entrypoint import event_handler, every
from services.chassis.messaging.envelope import Event
from services.chassis.sealing import load_public_key


class Worker:
    """Hears from publishing which tokens no longer work, and from all services what partners are told of."""

    name = "accounts"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._networks = open_networks(settings)
        self._vault = Vault(settings.open_master_keys())
        self._publishing_key = load_public_key(settings.publishing_public_key)
        self._anchors = AnchorFile()
        self._anchors.begin(settings.audit_anchors)

    @event_handler(AccountTokenRefused)
    def on_account_token_refused(self, tx: Transaction, event: Event[AccountTokenRefused]) -> None:
        accounts.require_reauthorization(tx, event.message.account, actor="publishing", told=event.time)

    @event_handler(DeliveryPublished, DeliveryFailed)
    def on_delivery_ended(self, tx: Transaction, event: Event[DeliveryPublished | DeliveryFailed]) -> None:
        failed = isinstance(event.message, DeliveryFailed)
        health.count_delivery(tx, event.message.account, event.time, failed=failed)

    @event_handler(*PUBLIC_EVENTS)
    def on_public_event(self, tx: Transaction, event: Event[Message]) -> None:
        webhooks.tell(tx, event)

    @every(seconds=10)
    def measure(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            metrics.read(tx)

    @every(seconds=10)
    def expire_invitations(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            invitations.expire(tx)

    @every(seconds=2)
    def refresh_tokens(self, database: Database) -> None:
        Refresher(
            database,
            self._networks,
            redirect_uri=self._settings.binding_redirect_uri,
            vault=self._vault,
            publishing_key=self._publishing_key,
        ).run()

    @every(seconds=1)
    def seal_trail(self, database: Database) -> None:
        sealing.seal(database, self._anchors)

    @every(seconds=60)
    def watch_expiries(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            health.watch_expiries(tx)

    @every(seconds=600)
    def purge(self, database: Database) -> None:
        with database.transaction(PLATFORM) as tx:
            accounts.purge(tx)
            health.purge(tx)
            webhooks.purge(tx)
            purge_revocations(tx)
            purge_old_secrets(tx)
            purge_sessions(tx)
            purge_logins(tx)
            purge_invitations(tx)
            invitations.purge(tx)
            documents.erase_expired(tx)
            purge(tx, tx.now)
