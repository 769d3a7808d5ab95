"""
Backups: what cannot be rebuilt, in one folder, and the way back.

That is PostgreSQL alone. The broker's definitions are code, and its messages are told anew from the outboxes; a gateway's
snapshot and analytics' columns are filled again at the start. The secrets are no part of it: whoever finds a backup
must not be able to open the tokens in it. Nor are the anchors of the audit trail: they tell whether a backup is what was written.
"""

import hashlib
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ValidationError

from deploy.compose.secrets import make_secrets
from deploy.compose.stack import Stack, StackError
from deploy.local.programs import SERVICES
from deploy.local.stubs import ROOT

TOLD_BEFORE = timedelta(hours=1)
"""What was told so long before a backup is told anew, because its handlers may not have had it when it was made."""

_DATABASE, _ROLES, _MANIFEST = "database.dump", "roles.sql", "manifest.json"
_KEYS = ("accounts-master-key", "publishing.pem")  # without them the tokens in the database are worth nothing
_STORES = ("postgres", "rabbitmq")
_ADMINISTRATOR = re.compile(r"^(CREATE|ALTER) ROLE postgres\b.*\n", re.MULTILINE)


class Manifest(BaseModel):
    """
    What a backup says of itself.

    Attributes:
        time: nothing that was committed before is missing.
        version: of the image, with the commit that it was built from.
        files: SHA-256 by name.
        keys: fingerprints of the secrets that belong to the data.

    """

    time: datetime
    version: str
    files: dict[str, str]
    keys: dict[str, str]


def back_up(stack: Stack, folder: Path) -> Manifest:
    """Write a backup of the running platform into a folder that is not there yet. Raises StackError."""
    if folder.exists():
        raise StackError(f"{folder} is there already: name a new folder for each backup")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(
        prefix=".unfinished-", dir=folder.parent, ignore_cleanup_errors=True
    ) as unfinished:
        fresh = Path(unfinished)
        time = _in_postgres(stack, "psql", "-qAtc", "select extract(epoch from now())", "numerator")
        _in_postgres(stack, "pg_dump", "--format=custom", "numerator", target=fresh / _DATABASE)
        roles = _in_postgres(stack, "pg_dumpall", "--globals-only", "--no-role-passwords")
        (fresh / _ROLES).write_text(_ADMINISTRATOR.sub("", roles))
        labels = stack.inspect(stack.settings.numerator_image)["Config"]["Labels"]
        manifest = Manifest(
            time=datetime.fromtimestamp(float(time), UTC),
            version=" ".join(labels[f"org.opencontainers.image.{name}"] for name in ("version", "revision")),
            files={name: _digest(fresh / name) for name in (_DATABASE, _ROLES)},
            keys=_fingerprints(stack.settings.numerator_secrets),
        )
        (fresh / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        fresh.rename(folder)
    return manifest


def restore(
    stack: Stack,
    folder: Path,
    *,
    replace: bool = False,
    told_since: datetime | None = None,
    tell: Callable[[str], None] = lambda _step: None,
) -> Manifest:
    """
    Make the platform's data what it was at a backup, and start it. Nothing that the backup holds is published twice.

    What the profiles add beside the platform goes on running meanwhile. When it fails, mend the cause and begin again
    with `replace`.

    Args:
        stack: the platform, running or not.
        folder: of the backup.
        replace: whether data that is there may be deleted.
        told_since: events sent since then are told anew; `TOLD_BEFORE` before the backup if left out.
        tell: hears of each step.

    Raises StackError: the backup is damaged or belongs to other secrets, data is there, or a step failed.
    """
    manifest = check(folder, stack.settings.numerator_secrets)
    make_secrets(stack.settings.numerator_secrets, stack.settings.sandbox_url)
    volumes = [f"{stack.project}_{store}" for store in _STORES]
    there = set(stack.docker("volume", "ls", "--quiet").split())
    if volumes[0] in there and not replace:
        raise StackError(f"the volume {volumes[0]} is there already: only --replace deletes the data in it")
    tell("removing what runs, and its data")
    Stack(stack.settings, profiles=()).compose("rm", "--stop", "--force", "--volumes")
    for volume in there.intersection(volumes):
        stack.docker("volume", "rm", volume)
    tell("restoring the database")
    stack.compose("up", "--detach", "--wait", "postgres")
    _in_postgres(stack, "psql", "--quiet", "--set=ON_ERROR_STOP=1", "numerator", source=folder / _ROLES)
    _in_postgres(
        stack, "pg_restore", "--exit-on-error", "--single-transaction", "--dbname=numerator",
        source=folder / _DATABASE,
    )  # fmt: skip
    # With nothing but the api processes: whoever handles events or sends posts must not begin before all of this is done.
    stack.compose("up", "--detach", "--wait", *(f"{service}-api" for service in SERVICES))
    tell("putting in doubt what may have been published since the backup")
    _run(stack, "publishing", "restored", manifest.time)
    tell("putting aside the anchors of audit events that are lost")
    _run(stack, "rollout", "restored", manifest.time)
    _run(stack, "accounts", "audit restored", manifest.time)
    tell("having events told anew")
    for service in SERVICES:
        _run(stack, service, "retell", told_since or manifest.time - TOLD_BEFORE)
    tell("starting")
    stack.up()
    return manifest


def check(folder: Path, secrets: Path) -> Manifest:
    """What a backup says of itself, if its files are whole and it belongs to these secrets. Raises StackError."""
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
        damaged = [name for name, digest in manifest.files.items() if _digest(folder / name) != digest]
    except (OSError, ValidationError) as error:
        raise StackError(f"{folder} is no backup: {error}") from None
    if damaged:
        raise StackError(
            f"{folder} is damaged: {', '.join(damaged)} is not what was written; take another backup"
        )
    foreign = sorted(dict(manifest.keys.items() - _fingerprints(secrets).items()))
    if foreign:
        raise StackError(
            f"{folder} belongs to other secrets: {', '.join(foreign)} must be the one of then. "
            f"Bring the copy of the secrets back to {secrets} first; without it the accounts' tokens cannot be opened"
        )
    return manifest


def _run(stack: Stack, service: str, command: str, since: datetime) -> None:
    """A command of a service, in its api's container. Raises StackError."""
    stack.compose(
        "exec", "--no-TTY", f"{service}-api",
        "python", "-m", f"services.{service}", *command.split(), "--since", since.isoformat(),
    )  # fmt: skip


def _in_postgres(stack: Stack, *command: str, source: Path | None = None, target: Path | None = None) -> str:
    """What a command in the database's container prints, unless that goes into a file. Raises StackError."""
    program, *options = command
    with ExitStack() as files:
        done = subprocess.run(
            ["docker", "compose", "exec", "--no-TTY", "postgres", program, "--username=postgres", *options],
            cwd=ROOT, env=stack.settings.variables(), check=False, stderr=subprocess.PIPE,
            stdin=files.enter_context(source.open("rb")) if source else subprocess.DEVNULL,
            stdout=files.enter_context(target.open("wb")) if target else subprocess.PIPE,
        )  # fmt: skip
    if done.returncode:
        raise StackError(f"{program} failed:\n{done.stderr.decode()[-4000:]}")
    return (done.stdout or b"").decode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprints(secrets: Path) -> dict[str, str]:
    """What tells keys apart and gives nothing of them away: they are random and long."""
    return {name: _digest(secrets / name) for name in _KEYS if (secrets / name).exists()}
