"""
`python -m services.accounts audit verify`: whether the audit trail is what was written; ends with 1 when it is not.

`python -m services.accounts audit restored --since <time>`: after a backup was restored, before anybody changes anything. What is
put aside is kept, in a folder beside the other anchors.
"""

import sys
from argparse import ArgumentParser
from datetime import timedelta

from services.accounts.settings import Settings
from services.accounts.usecases import sealing
from services.chassis.database import PLATFORM, Database
from services.chassis.process import moment

_TIMEOUT = timedelta(minutes=10)


def run(settings: Settings, options: list[str]) -> None:
    """Verify, or go on after a restore, and say what came of it."""
    parser = ArgumentParser(prog="python -m services.accounts audit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "verify", help="compute the trail anew, and compare it with the anchors outside the database"
    )
    restoring = commands.add_parser(
        "restored", help="put aside the anchors of what a restored backup does not hold"
    )
    restoring.add_argument("--since", type=moment, required=True, help="when the backup was made")
    asked = parser.parse_args(options)
    url = settings.database_url.get_secret_value()
    database = Database(url, schema="accounts", statement_timeout=_TIMEOUT)
    try:
        with database.transaction(PLATFORM) as tx:
            if asked.command == "restored":
                head, anchored = sealing.restored(tx, settings.audit_anchors, since=asked.since)
                lost = (
                    f"seals {head + 1} to {anchored} are" if anchored > head else "no seal that we know of is"
                )
                print(f"accounts: the audit trail goes on after seal {head}; {lost} lost")  # noqa: T201 -- a command's answer
                return
            found = sealing.verify(tx, settings.audit_anchors)
    finally:
        database.close()
    lines = [f"seal {each.sequence or '-'}: {each.what}" for each in found.mistakes]
    said = f"{found.checked} seals computed anew, anchored up to {found.anchored} of {found.head}"
    if lines:
        sys.exit("\n".join([f"accounts: the audit trail is NOT as it was written: {said}", *lines]))
    print(f"accounts: the audit trail is as it was written: {said}")  # noqa: T201
