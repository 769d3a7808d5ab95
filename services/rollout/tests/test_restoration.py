"""A database that was restored from a backup: the audit trail goes on, and what was lost of it is not hidden."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import shared_keys
from services.rollout import audit
from services.rollout.audit import AuditEvent, Restored, Verification
from services.rollout.tests.tampering import write_trail

ROOT = Path(__file__).resolve().parents[3]
SINCE = datetime(2026, 1, 15, 11, tzinfo=UTC)
HEAD, ANCHORED = 25, 40
"""The newest event in the backup, and the newest that was anchored."""


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """Where forty events were anchored."""
    return tmp_path / "anchors"


@pytest.fixture
def database(
    make_database: Callable[..., TemporaryDatabase], clock: FixedClock, anchors: Path
) -> Iterator[TemporaryDatabase]:
    """As it was in the backup, which knows fewer events than were anchored."""
    database = make_database("rollout", clock=clock)
    write_trail(database, anchors, ANCHORED, random.Random(1))
    as_superuser(database, "delete from audit_events where sequence > %s", HEAD)
    audit.anchor_to(anchors)
    yield database
    audit.anchor_to(None)


def as_superuser(database: TemporaryDatabase, sql: str, *values: object) -> None:
    """What the service itself may not do."""
    with psycopg.connect(database.admin_url, options=f"-c search_path={database.schema}") as connection:
        connection.execute(sql, values)


def restored(database: TemporaryDatabase, anchors: Path | None) -> Restored:
    """What the command does."""
    with database.transaction(PLATFORM) as tx:
        return audit.restored(tx, anchors, since=SINCE)


def verify(database: TemporaryDatabase, anchors: Path) -> Verification:
    """Verify the trail."""
    with database.transaction(PLATFORM) as tx:
        return audit.verify(tx, anchors)


def newest(database: TemporaryDatabase) -> AuditEvent:
    """The newest event."""
    with database.transaction(PLATFORM) as tx:
        return audit.list_events(tx, None, limit=1)[0]


def written(folder: Path) -> dict[str, bytes]:
    """The files of a folder that hold anything."""
    return {path.name: text for path in folder.glob("*.jsonl") if (text := path.read_bytes())}


def test_restored__the_trail_is_right_again_and_says_so(database: TemporaryDatabase, anchors: Path) -> None:
    """Verifying complains of a cut tail before, and of nothing after; the event tells from where to where events are gone."""
    assert [each.what for each in verify(database, anchors).mistakes] == [
        f"is the last, but events up to {ANCHORED} were anchored"
    ]

    assert restored(database, anchors) == Restored(HEAD, ANCHORED)

    assert verify(database, anchors) == Verification(HEAD + 1, HEAD + 1, HEAD + 1, ())
    event = newest(database)
    assert (event.actor, event.cause) == ("restore", "database.restored")
    assert event.detail == {
        "backup_time": "2026-01-15T11:00:00+00:00",
        "head": HEAD,
        "anchored": ANCHORED,
        "aside": "20260115T120000.000000Z",
    }


def test_restored__what_is_put_aside_is_kept_as_it_was(database: TemporaryDatabase, anchors: Path) -> None:
    """The only word of the lost events is still there, and nothing else was moved."""
    before = written(anchors)

    restored(database, anchors)

    assert written(anchors / str(newest(database).detail["aside"])) == before


def test_restored__forged_backup__is_found(database: TemporaryDatabase, anchors: Path) -> None:
    """Anchors of what the backup holds stay, so that restoring is no way to rewrite it."""
    as_superuser(database, "update audit_events set actor = 'clients/nobody' where sequence = 7")

    restored(database, anchors)

    assert {each.sequence for each in verify(database, anchors).mistakes} >= {7}


def test_restored__again__puts_nothing_aside(database: TemporaryDatabase, anchors: Path) -> None:
    """It may be repeated, also when there was nothing to be put aside in the first place."""
    restored(database, anchors)

    assert restored(database, anchors) == Restored(HEAD + 1, HEAD + 1)

    assert newest(database).detail["aside"] == ""
    assert len([path for path in anchors.iterdir() if path.is_dir()]) == 1
    assert verify(database, anchors).ok


def test_restored__without_anchors__is_written_down(database: TemporaryDatabase) -> None:
    """A platform that anchors nowhere has nothing to put aside."""
    assert restored(database, None) == Restored(HEAD, HEAD)

    assert newest(database).cause == "database.restored"


def test_restored__as_the_command__is_what_an_ops_person_runs(
    database: TemporaryDatabase, anchors: Path
) -> None:
    """With the service's own settings; it tells what was lost."""
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**conninfo_to_dict(database.url))
    environment = {
        "ROLLOUT_DATABASE_URL": url,
        "ROLLOUT_GRPC_ADDRESS": "127.0.0.1:0",
        "ROLLOUT_AUDIT_ANCHORS": str(anchors),
        "AMQP_URL": "amqp://127.0.0.1:1",
        "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
    }

    done = subprocess.run(
        [sys.executable, "-m", "services.rollout", "restored", "--since", SINCE.isoformat()],
        cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert (
        done.stdout
        == f"rollout: the audit trail goes on after event {HEAD}; events {HEAD + 1} to {ANCHORED} are lost\n"
    )
    assert verify(database, anchors).ok
