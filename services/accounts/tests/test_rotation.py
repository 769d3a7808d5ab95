"""Keys rotate while the service runs, go on after a kill, and leave nothing that old keys open."""

import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from psycopg import sql

from services.accounts.store.rotation import WRAPPED_TABLES
from services.accounts.store.secrets import SEALED_TABLES
from services.accounts.tests.vault_plants import keep_token, plant, read_token
from services.accounts.tests.vault_rotations import left, rotate, rotate_under_load
from services.accounts.tests.world import World
from services.accounts.usecases import rotation
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys, VaultError
from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM
from services.chassis.testing.databases import TemporaryDatabase

Make = Callable[..., TemporaryDatabase]
ENTERPRISE = "enterprises/bank"
ACCOUNT = f"{ENTERPRISE}/accounts/a0"


@pytest.fixture
def vault() -> Vault:
    """A vault with one master key."""
    return Vault(MasterKeys(MasterKey(os.urandom(32))))


def versions(database: TemporaryDatabase, enterprise: str = ENTERPRISE) -> list[int]:
    """The versions of an enterprise's data key that there are."""
    with database.transaction(PLATFORM) as tx:
        rows = tx.execute(
            "select version from data_keys where enterprise = %s order by version", (enterprise,)
        )
        return [row["version"] for row in rows]


def read(database: TemporaryDatabase, vault: Vault, account: str = ACCOUNT) -> str:
    """An account's token."""
    with database.transaction(PLATFORM) as tx:
        return read_token(tx, vault, account)


def test_registry__names_every_secret_of_the_schema(make_database: Make) -> None:
    """Whatever column is called sealed or wrapped is rotated, by its data key or by the master key."""
    with make_database("accounts").transaction(PLATFORM) as tx:
        columns = tx.execute(
            """
            select table_name || '.' || column_name as name from information_schema.columns
            where table_schema = 'accounts' and data_type = 'bytea' and column_name ~ 'sealed|wrapped'
            """
        )
        found = {row["name"] for row in columns}
    known = {f"{table.name}.{column}" for table in SEALED_TABLES for column in table.fields}
    assert found == known | {f"{table.name}.{table.column}" for table in WRAPPED_TABLES}


def test_registry__has_an_index_and_a_foreign_key_for_each_table(make_database: Make) -> None:
    """So that a key which is still needed cannot be deleted, and looking for what it sealed is quick."""
    with make_database("accounts").transaction(PLATFORM) as tx:
        for table in SEALED_TABLES:
            indexes = tx.execute("select indexdef from pg_indexes where tablename = %s", (table.name,))
            assert any("(enterprise, key_version)" in row["indexdef"] for row in indexes), table.name
            references = tx.execute(
                "select from pg_constraint where contype = 'f' and conrelid = %s::regclass and confrelid = 'data_keys'::regclass",
                (table.name,),
            )
            assert references.rowcount == 1, table.name


def test_rotate__data_keys__seals_all_secrets_anew(world: World) -> None:
    """Tokens and bindings under way open afterwards, and of the old key nothing is left."""
    company = world.register()
    vault = Vault(world.kms)
    account = world.bind(company, "brand")
    pending = world.start(company)
    before = [bytes(row["sealed"]) for row in world.rows("tokens")]

    rotated = rotation.rotate_data_keys(world.database, vault)

    assert (rotated.keys, rotated.secrets, rotated.failures) == (1, 3, [])
    assert versions(world.database, company.name) == [2]
    assert {row["key_version"] for table in ("tokens", "bindings") for row in world.rows(table)} == {2}
    assert [bytes(row["sealed"]) for row in world.rows("tokens")] != before
    assert read(world.database, vault, account.name).startswith("canary-token-brand")
    world.complete(company, *world.network.agree(pending.authorization_url, "dealer"))
    (audited,) = world.audited("data_key.rotated")
    assert (audited["actor"], audited["subject"], audited["detail"]) == (
        "rotation",
        company.name,
        {"version": "2"},
    )
    assert not world.rows("key_rotations")


def test_rotate__one_enterprise__leaves_the_others(make_database: Make, vault: Vault) -> None:
    """Only its key is new."""
    database = make_database("accounts")
    plant(database, vault, ENTERPRISE, 2)
    plant(database, vault, "enterprises/other", 2)
    assert rotation.rotate_data_keys(database, vault, ENTERPRISE).secrets == 2
    assert versions(database) == [2]
    assert versions(database, "enterprises/other") == [1]


def test_rotate__goes_on_with_the_version_that_was_begun(
    make_database: Make, clock: FixedClock, vault: Vault
) -> None:
    """What was sealed anew before the end is not sealed again, and there is no third version."""
    database = make_database("accounts", clock=clock)
    plant(database, vault, ENTERPRISE, 5)
    with database.transaction(PLATFORM) as tx:
        rotation.rotation.begin_rotation(tx, "")
    clock.advance(timedelta(seconds=1))
    with database.transaction(PLATFORM) as tx:
        vault.new_key(tx, ENTERPRISE, 2)
        keep_token(tx, vault, ACCOUNT, "canary-newer")
    rotated = rotation.rotate_data_keys(database, vault)
    assert (rotated.keys, rotated.secrets) == (1, 4)
    assert versions(database) == [2]
    assert read(database, vault) == "canary-newer"


def test_rotate__tells_what_does_not_open_and_keeps_its_key(make_database: Make, vault: Vault) -> None:
    """Other enterprises' keys rotate all the same, and the next run tries again."""
    database = make_database("accounts")
    plant(database, vault, ENTERPRISE, 2)
    plant(database, vault, "enterprises/other", 2)
    with database.transaction(PLATFORM) as tx:
        tx.execute("update tokens set sealed = 'broken' where account = %s", (ACCOUNT,))
    rotated = rotation.rotate_data_keys(database, vault)
    assert (rotated.keys, len(rotated.failures)) == (1, 1)
    assert ACCOUNT in rotated.failures[0]
    assert 1 in versions(database)
    assert versions(database, "enterprises/other") == [2]


def test_rotate__master_key__lets_the_old_one_be_forgotten(world: World) -> None:
    """Data keys and applications open under the new master key alone; with the old one alone nothing does."""
    company = world.register()
    account = world.bind(company, "brand")
    fresh = MasterKey(os.urandom(32))
    (old,) = world.kms._known.values()

    assert rotation.rotate_master_key(world.database, Vault(MasterKeys(fresh, old))) == 2

    assert read(world.database, Vault(MasterKeys(fresh)), account.name).startswith("canary-token-brand")
    with pytest.raises(VaultError, match="is not known"):
        read(world.database, Vault(MasterKeys(old)), account.name)
    assert {row["master_key"] for table in ("data_keys", "applications") for row in world.rows(table)} == {
        fresh.id
    }
    assert len(world.audited("data_key.rewrapped")) == 1
    assert rotation.rotate_master_key(world.database, Vault(MasterKeys(fresh))) == 0


def test_rotate__an_old_dump_without_the_old_master_key__opens_nothing(make_database: Make) -> None:
    """Also with all keys that there are after the rotation."""
    database, old, fresh = make_database("accounts"), MasterKey(os.urandom(32)), MasterKey(os.urandom(32))
    planted = plant(database, Vault(MasterKeys(old)), ENTERPRISE, 20)
    kept = {}
    with database.transaction(PLATFORM) as tx:
        for table in ("data_keys", "tokens"):
            kept[table] = tx.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall()
    rotation.rotate_data_keys(database, Vault(MasterKeys(fresh, old)))
    rotation.rotate_master_key(database, Vault(MasterKeys(fresh, old)))

    # The dump is restored beside what there is now: into the same database, over its rows.
    with database.transaction(PLATFORM) as tx:
        tx.execute("delete from tokens")
        for table, rows in kept.items():
            columns = list(rows[0])
            insert = sql.SQL("insert into {} ({}) values ({}) on conflict do nothing").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            )
            for row in rows:
                tx.execute(insert, list(row.values()))
    assert versions(database) == [1, 2]
    for account in planted:
        with pytest.raises(VaultError):
            read(database, Vault(MasterKeys(fresh)), account)
    assert read(database, Vault(MasterKeys(fresh, old))) == planted[ACCOUNT]


def test_rotate__under_load_with_kills__fails_no_read(make_database: Make) -> None:
    """Processes that rotate are killed at random points while tokens are read: all end on the new version."""
    measured = rotate_under_load(make_database("accounts"), tokens=500, kills=2, seed=5)
    assert not measured.failures
    assert measured.reads > 100
    assert (measured.left, measured.versions) == (0, [2])


def test_rotate__command(make_database: Make) -> None:
    """Says what it did, both kinds by default; and a master key that is missing is told with the code 1."""
    database, old, fresh = make_database("accounts"), os.urandom(32), os.urandom(32)
    plant(database, Vault(MasterKeys(MasterKey(old))), ENTERPRISE, 3)
    told, _ = (running := rotate(database, fresh + old)).communicate(timeout=60)
    assert running.returncode == 0, told
    assert "1 new data keys, 3 secrets sealed anew" in told
    assert f"0 keys wrapped anew by the master key {MasterKey(fresh).id}" in told
    assert left(database) == 0
    told, _ = (running := rotate(database, old, "--master")).communicate(timeout=60)
    assert running.returncode == 1
    assert "not finished" in told
    assert "is not known" in told
    told, _ = (running := rotate(database, old, "--master", "--enterprise", ENTERPRISE)).communicate(
        timeout=60
    )
    assert running.returncode == 2
