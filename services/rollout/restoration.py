"""
`python -m services.rollout restored --since <time>`: after a backup was restored, before anybody changes anything.

The database is older than the anchors of the audit trail then, and verifying it would rightly say that its end was cut off.
"""

from argparse import ArgumentParser

from services.chassis.database import PLATFORM, Database
from services.chassis.process import moment
from services.rollout import audit
from services.rollout.settings import Settings


def run(settings: Settings, options: list[str]) -> None:
    """
    Put aside the anchors of events that the database has lost, and write down that it was so. May be repeated.

    What is put aside is kept, in a folder beside the others: it is all that tells of those events.
    """
    parser = ArgumentParser(prog="python -m services.rollout restored")
    parser.add_argument("--since", type=moment, required=True, help="when the backup was made")
    since = parser.parse_args(options).since
    audit.anchor_to(settings.audit_anchors)
    database = Database(settings.database_url.get_secret_value(), schema="rollout")
    with database.transaction(PLATFORM) as tx:
        restored = audit.restored(tx, settings.audit_anchors, since=since)
    database.close()
    lost = (
        f"events {restored.head + 1} to {restored.anchored} are"
        if restored.lost
        else "no event that we know of is"
    )
    print(f"rollout: the audit trail goes on after event {restored.head}; {lost} lost")  # noqa: T201 -- a command's answer
