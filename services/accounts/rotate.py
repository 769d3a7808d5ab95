"""
`python -m services.accounts rotate [--master | --data-keys] [--enterprise <name>]`: keys rotate while the service runs.

Without options both kinds. May be killed and run again, and then goes on where it was.
"""

import sys
from argparse import ArgumentParser

from services.accounts.settings import Settings
from services.accounts.usecases.rotation import rotate_data_keys, rotate_master_key
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import VaultError
from services.chassis.database import Database
from services.chassis.errors import ServiceError


def run(settings: Settings, options: list[str]) -> None:
    """Rotate, and say what was done. Ends the process with a line and the code 1 when something was left over."""
    parser = ArgumentParser(prog="python -m services.accounts rotate")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--master", action="store_true", help="wrap all data keys by the newest master key")
    kinds.add_argument(
        "--data-keys", action="store_true", help="new data keys, and all secrets sealed by them"
    )
    parser.add_argument("--enterprise", help="only this one's data key, as enterprises/x")
    asked = parser.parse_args(options)
    if asked.enterprise and not asked.data_keys:
        parser.error("--enterprise goes with --data-keys: a master key is everybody's")
    vault = Vault(settings.open_master_keys())
    database = Database(settings.database_url.get_secret_value(), schema="accounts")
    try:
        if not asked.master:
            rotated = rotate_data_keys(database, vault, asked.enterprise)
            print(f"accounts: {rotated.keys} new data keys, {rotated.secrets} secrets sealed anew")  # noqa: T201 -- a command's answer
            if rotated.failures:
                sys.exit("\n".join(["accounts: these do not open, their old keys stay:", *rotated.failures]))
        if not asked.data_keys:
            wrapped = rotate_master_key(database, vault)
            print(f"accounts: {wrapped} keys wrapped anew by the master key {vault.kms.key_id}")  # noqa: T201
    except (ServiceError, VaultError) as failed:
        sys.exit(f"accounts: not finished, run it again: {failed}")
    finally:
        database.close()
