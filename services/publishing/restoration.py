"""
`python -m services.publishing restored --since <time>`: after a backup was restored, and before any sender starts.

The database is older than the networks then. What it takes for unsent may have been sent.
"""

from argparse import ArgumentParser

from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Database
from services.chassis.process import moment
from services.publishing import usecases
from services.publishing.model.deliveries import Restoration
from services.publishing.settings import Settings

_BATCH = 1000


def run(settings: Settings, options: list[str]) -> None:
    """Put in doubt what may have been sent, unknown to the backup. May be repeated, also after an interruption."""
    parser = ArgumentParser(prog="python -m services.publishing restored")
    parser.add_argument("--since", type=moment, required=True, help="when the backup was made")
    parser.add_argument(
        "--until",
        type=moment,
        default=SystemClock().now(),
        help="when the last sender had stopped; if not now",
    )
    times = parser.parse_args(options)
    if times.since > times.until:
        parser.error("--since must be before --until")
    restoration = Restoration(times.since, times.until + settings.policy.server_margin)
    database = Database(settings.database_url.get_secret_value(), schema="publishing")
    doubted, more = 0, 1
    while more:
        with database.transaction(PLATFORM) as tx:
            more = usecases.restored(tx, restoration, _BATCH)
        doubted += more
    database.close()
    print(f"publishing: {doubted} deliveries will be looked for before they are sent")  # noqa: T201 -- a command's answer
