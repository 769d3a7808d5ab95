"""Targeting's worker: tells what the api process decided, and cleans up. It handles no events yet."""

from datetime import timedelta

from services.chassis.database import PLATFORM, Database, purge_changes
from services.chassis.messaging.entrypoint import every
from services.targeting.store import PEOPLE

CHANGES_KEPT = timedelta(days=1)
"""How long changes of people stay in the log; the index loads the table at its start and needs only what came since."""


class Worker:
    """Relays the outbox, as every worker does."""

    name = "targeting"

    @every(3600)
    def purge_people_log(self, database: Database) -> None:
        removed = 1
        while removed:
            with database.transaction(PLATFORM) as tx:
                removed = purge_changes(tx, PEOPLE, tx.now - CHANGES_KEPT)
