"""Seals over the audit trail: appending waits for nobody, and no superuser changes anything unseen."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from services.accounts import audit, store
from services.accounts.store import seals
from services.accounts.tests.workers import make_settings
from services.accounts.usecases import sealing
from services.chassis.chain import GENESIS, AnchorFile, Verification
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Tenant, Transaction
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import url_of

Connection = psycopg.Connection[dict[str, object]]
BANKS = [f"enterprises/bank-{number}" for number in range(3)]
ENTRIES = 60


def write(tx: Transaction, enterprise: str, number: int = 0) -> None:
    """An entry."""
    store.audit(
        tx, enterprise=enterprise, actor="clients/ada", action="account.bound", subject=f"{enterprise}/accounts/a{number}",
        server="https://social.example", labels=["brand", "版"],
    )  # fmt: skip


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """An empty trail."""
    return make_database("accounts", clock=clock)


@pytest.fixture
def anchors(tmp_path: Path) -> AnchorFile:
    """Where this process anchors."""
    file = AnchorFile()
    file.begin(tmp_path / "anchors")
    return file


@pytest.fixture
def trail(database: TemporaryDatabase, clock: FixedClock, anchors: AnchorFile) -> TemporaryDatabase:
    """Sixty entries of three enterprises under twenty seals, a minute apart."""
    for number in range(ENTRIES):
        enterprise = BANKS[number % 3]
        with database.transaction(Tenant(enterprise)) as tx:
            write(tx, enterprise, number)
        if number % 3 == 2:
            sealing.seal(database, anchors)
            clock.advance(timedelta(minutes=1))
    return database


def verify(database: TemporaryDatabase, tmp_path: Path) -> Verification:
    """The trail, verified."""
    with database.transaction(PLATFORM) as tx:
        return sealing.verify(tx, tmp_path / "anchors")


@contextmanager
def superuser(database: TemporaryDatabase) -> Iterator[Connection]:
    """Somebody for whom neither triggers nor policies hold; what they do is taken back."""
    options = "-c search_path=accounts -c session_replication_role=replica"
    with (
        psycopg.connect(database.admin_url, row_factory=dict_row, options=options) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


def found(
    connection: Connection, database: TemporaryDatabase, clock: FixedClock, tmp_path: Path
) -> Verification:
    """What verifying finds after a superuser's work."""
    tx = Transaction(connection, schema=database.schema, scope=PLATFORM, now=clock.now())
    return sealing.verify(tx, tmp_path / "anchors")


def reseal(connection: Connection, database: TemporaryDatabase, clock: FixedClock) -> None:
    """Compute the whole chain anew: in itself it is then without a flaw."""
    tx = Transaction(connection, schema=database.schema, scope=PLATFORM, now=clock.now())
    chain, previous = list(seals.all_seals(tx)), GENESIS
    tx.execute("close audit_chain")
    kept = {row["sequence"] for row in tx.execute("select sequence from audit")}
    sealed: set[int] = set()
    tx.execute("delete from audit_seals")
    for number, link in enumerate(chain, 1):
        entries = [each for each in link.entries if each in kept]
        if number == len(chain):
            entries += sorted(kept - sealed - set(entries))
        sealed |= set(entries)
        anew = replace(link, number=number, entries=entries, previous_hash=previous, hash="")
        previous = sealing.hash_of(anew, seals.entries_of(tx, entries))
        seals.insert_seal(tx, replace(anew, hash=previous))


def edit(connection: Connection, place: int, dice: random.Random) -> None:
    """Change one column of one entry."""
    change = dice.choice(
        ["actor = 'clients/eve'", "action = 'account.unbound'", "subject = subject || 'x'", "enterprise = 'enterprises/other'",
         "detail = detail || '{\"server\": \"x\"}'", "time = time + interval '1 microsecond'"]
    )  # fmt: skip
    connection.execute(f"update audit set {change} where sequence = %s", (place,))  # type: ignore[arg-type]  # made of constants


def delete(connection: Connection, place: int, dice: random.Random) -> None:
    """Take one entry out."""
    connection.execute("delete from audit where sequence = %s", (place,))


def insert(connection: Connection, place: int, dice: random.Random) -> None:
    """Put one entry in, as if it had always been there."""
    connection.execute(
        """
        insert into audit (enterprise, sequence, time, actor, action, subject, detail) overriding system value
        select enterprise, %s, time, 'clients/eve', action, subject, detail from audit where sequence = %s
        """,
        (dice.choice([place + 10_000, -place]), place),
    )


def swap(connection: Connection, place: int, dice: random.Random) -> None:
    """Let two entries change places."""
    other = dice.choice([each for each in range(1, ENTRIES + 1) if each != place])
    for before, after in ((place, -1), (other, place), (-1, other)):
        connection.execute(
            "create temporary table moved on commit drop as select * from audit where sequence = %s",
            (before,),
        )
        connection.execute("delete from audit where sequence = %s", (before,))
        connection.execute(
            """
            insert into audit (enterprise, sequence, time, actor, action, subject, detail) overriding system value
            select enterprise, %s, time, actor, action, subject, detail from moved
            """,
            (after,),
        )
        connection.execute("drop table moved")


def cut(connection: Connection, place: int, dice: random.Random) -> None:
    """Take an entry and all behind it out, with their seals."""
    connection.execute("delete from audit_seals where %s <= any (entries)", (place,))
    connection.execute(
        "delete from audit where sequence not in (select unnest(entries) from audit_seals)",
    )


@pytest.mark.parametrize("kind", [edit, delete, insert, swap, cut])
def test_forgery__by_a_superuser__is_found(
    trail: TemporaryDatabase, clock: FixedClock, tmp_path: Path, kind: Callable[..., None]
) -> None:
    """At twelve random places, at the first and at the last; with all seals computed anew, and without."""
    dice = random.Random(kind.__name__)
    for place in [1, ENTRIES, *dice.sample(range(2, ENTRIES), 12)]:
        for resealed in (False, True):
            with superuser(trail) as connection:
                kind(connection, place, dice)
                if resealed:
                    reseal(connection, trail, clock)
                assert found(connection, trail, clock, tmp_path).mistakes, (place, resealed)
    assert verify(trail, tmp_path).ok


def test_forgery__that_lets_itself_be_sealed__is_found(
    trail: TemporaryDatabase, clock: FixedClock, anchors: AnchorFile, tmp_path: Path
) -> None:
    """An entry of last week that comes now is sealed as all, and says to be older than the seal before."""
    with psycopg.connect(trail.admin_url, options="-c search_path=accounts") as connection:
        connection.execute(
            "insert into audit (enterprise, time, actor, action, subject, detail) values ('enterprises/x', %s, 'a', 'b', 'c', '{}')",
            (clock.now() - timedelta(days=7),),
        )
    sealing.seal(trail, anchors)
    (mistake,) = verify(trail, tmp_path).mistakes
    assert (mistake.sequence, "older than the seal before" in mistake.what) == (21, True)


def test_forgery__of_the_chain_and_the_queue__is_found(
    trail: TemporaryDatabase, clock: FixedClock, tmp_path: Path
) -> None:
    """Seals that are gone, or say another time, or cover an entry twice; and entries that never come to be sealed."""
    statements = [
        "delete from audit_seals where number = 7",
        "delete from audit_seals",
        "update audit_seals set time = 'infinity' where number = 7",
        "update audit_seals set entries = entries || entries where number = 7",
        "update audit_seals set entries = '{}' where number = 7",
        "insert into audit_unsealed select enterprise, sequence from audit limit 1",
        "update audit_seals set number = 21 where number = 20",
    ]
    for statement in statements:
        with superuser(trail) as connection:
            connection.execute(statement)  # type: ignore[arg-type]  # constants
            assert found(connection, trail, clock, tmp_path).mistakes, statement


def test_seal__waits_for_nobody_and_covers_all(
    database: TemporaryDatabase, clock: FixedClock, anchors: AnchorFile, tmp_path: Path
) -> None:
    """An entry of a transaction that commits late comes under a later seal, though its number is smaller."""
    with database.transaction(Tenant(BANKS[0])) as slow:
        write(slow, BANKS[0])
        with database.transaction(Tenant(BANKS[1])) as quick:
            write(quick, BANKS[1])
        sealing.seal(database, anchors)
    sealing.seal(database, anchors)
    with database.transaction(PLATFORM) as tx:
        covered = [list(each.entries) for each in seals.all_seals(tx)]
    assert covered == [[2], [1]]
    assert verify(database, tmp_path) == Verification(2, 2, 2, ())


def test_seal__many_entries_and_none(
    database: TemporaryDatabase, clock: FixedClock, anchors: AnchorFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many under one seal, in as many seals as it takes; and one a minute where nothing comes."""
    monkeypatch.setattr(sealing, "MOST", 4)
    with database.transaction(Tenant(BANKS[0])) as tx:
        for number in range(10):
            write(tx, BANKS[0], number)
    for _ in range(4):
        sealing.seal(database, anchors)
        clock.advance(timedelta(seconds=30))
    with database.transaction(PLATFORM) as tx:
        assert [len(each.entries) for each in seals.all_seals(tx)] == [4, 4, 2, 0]
    assert anchors.newest == 4


def test_seal__by_another_process_at_the_same_time__is_left_to_it(
    database: TemporaryDatabase, anchors: AnchorFile
) -> None:
    """There is one chain."""
    with database.transaction(PLATFORM) as tx:
        assert seals.hold_seals(tx)
        sealing.seal(database, anchors)
        assert seals.newest_seal(tx) is None


def test_unsealed__for_long__is_told(trail: TemporaryDatabase, clock: FixedClock, tmp_path: Path) -> None:
    """Whoever should seal does not."""
    with trail.transaction(Tenant(BANKS[0])) as tx:
        write(tx, BANKS[0])
    assert verify(trail, tmp_path).ok
    clock.advance(timedelta(minutes=3))
    assert "wait for a seal since" in verify(trail, tmp_path).mistakes[0].what


def test_role__of_the_service__neither_changes_the_trail_nor_its_seals(trail: TemporaryDatabase) -> None:
    """The database refuses, whatever a bug wants."""
    for statement in (
        "update audit_seals set hash = ''",
        "delete from audit_seals",
        "truncate audit_seals",
        "update audit set actor = ''",
        "delete from audit",
    ):
        with pytest.raises(psycopg.Error), trail.transaction(PLATFORM) as tx:
            tx.execute(statement)


def test_command__says_what_it_finds(
    trail: TemporaryDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends with 1 when the trail is not what was written; after a restore it goes on."""
    settings = make_settings(url_of(trail.url), tmp_path / "anchors")
    audit.run(settings, ["verify"])
    assert "is as it was written: 20 seals computed anew, anchored up to 20 of 20" in capsys.readouterr().out
    with psycopg.connect(
        trail.admin_url, options="-c search_path=accounts -c session_replication_role=replica"
    ) as admin:
        admin.execute("delete from audit_seals where number > 18")
        admin.execute("delete from audit where sequence > 54")
    with pytest.raises(SystemExit, match=r"NOT as it was written.*\n.*events up to 20 were anchored"):
        audit.run(settings, ["verify"])
    audit.run(settings, ["restored", "--since", "2026-01-15T12:00:00Z"])
    assert "goes on after seal 18; seals 19 to 20 are lost" in capsys.readouterr().out
    with trail.transaction(PLATFORM) as tx:
        assert sealing.verify(tx, tmp_path / "anchors").ok
