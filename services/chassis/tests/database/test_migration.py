"""Migrations: once each, in order, by whoever comes first; and never in halves."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from services.chassis.database import PLATFORM, Database, MigrationError, migrate
from services.chassis.errors import Kind, ServiceError
from services.chassis.testing.servers import free_ports


@pytest.fixture
def empty(postgres_url):
    """An empty database, by its administrator's URL."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield make_conninfo(postgres_url, dbname=name)
        server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def files(tmp_path):
    """Writes the service's migrations."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name.lstrip('_')}.sql").write_text(text)
        return tmp_path

    return write


def query(url, statement):
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def test_migrate__applies_each_file_once(empty, files):
    """The chassis' files and then the service's are applied in order, and never again."""
    folder = files(_0001_a="create table a (id int);", _0002_b="alter table a add b int;")

    assert migrate(empty, "sample", folder, "pw") == ["0001_chassis.sql", "0001_a.sql", "0002_b.sql"]
    assert migrate(empty, "sample", folder, "pw") == []

    files(_0003_c="alter table a add c int;")
    assert migrate(empty, "sample", folder, "pw") == ["0003_c.sql"]


def test_migrate__many_at_once(empty, files):
    """Of processes that migrate at the same time one applies each file; schemas do not get in each other's way."""
    folder = files(_0001_a="create table a (id int);")
    schemas = ["one", "two", "three"] * 3

    with ThreadPoolExecutor(len(schemas)) as pool:
        applied = list(pool.map(lambda schema: migrate(empty, schema, folder, "pw"), schemas))

    assert sorted(map(len, applied)) == [0] * 6 + [2] * 3


def test_migrate__refuses_an_edited_file(empty, files):
    """A file that was applied must stay as it was."""
    migrate(empty, "sample", files(_0001_a="create table a (id int);"), "pw")

    with pytest.raises(MigrationError, match=r"sample/0001_a.sql was changed"):
        migrate(empty, "sample", files(_0001_a="create table a (id bigint);"), "pw")


def test_migrate__leaves_no_half_of_a_file(empty, files):
    """When a statement fails nothing of its file is kept, what came before is, and the next try goes on there."""
    folder = files(_0001_a="create table a (id int);", _0002_b="create table b (id int); select 1 / 0;")

    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty, "sample", folder, "pw")
    assert query(empty, "select to_regclass('sample.a')::text, to_regclass('sample.b')::text") == [
        ("sample.a", None)
    ]

    files(_0002_b="create table b (id int);")
    assert migrate(empty, "sample", folder, "pw") == ["0002_b.sql"]


def test_migrate__changes_rows_of_all_tenants(empty, files):
    """A file that changes rows is not held back by row-level security, which binds the owner too."""
    folder = files(
        _0001_a="""
            create table a (enterprise text not null, n int);
            select chassis_tenant_table('a');
            insert into a values ('enterprises/x', 1), ('enterprises/y', 2);
        """
    )
    migrate(empty, "sample", folder, "pw")
    files(_0002_b="update a set n = n * 10;")
    migrate(empty, "sample", folder, "pw")

    assert query(empty, "select n from sample.a order by n") == [(10,), (20,)]


@pytest.mark.parametrize("name", ["first", "1_a", "0001-a", "0001_A"])
def test_migrate__refuses_a_file_it_cannot_number(empty, files, name):
    """A file with a name of another form would be left out without a word."""
    with pytest.raises(MigrationError, match="NNNN_what_it_does"):
        migrate(empty, "sample", files(**{f"_{name}": "select 1"}), "pw")


def test_migrate__refuses_two_files_of_one_number(empty, files):
    """Two branches that took the same number are noticed."""
    with pytest.raises(MigrationError, match="a number of its own"):
        migrate(empty, "sample", files(_0001_a="select 1", _0001_b="select 1"), "pw")


@pytest.mark.parametrize("schema", ["", "Sample", "a-b", "1a", "a" * 60, 'a"; drop schema public'])
def test_migrate__refuses_odd_schema_names(schema, tmp_path):
    """A schema's name becomes roles and channels, so it is a plain word."""
    with pytest.raises(MigrationError, match="schema name"):
        migrate("postgresql://nowhere", schema, tmp_path, "pw")


def test_migrate__refuses_a_role_that_is_above_row_level_security(empty, files):
    """An application role with too many rights would make all policies void."""
    role = f"strong_{secrets.token_hex(4)}"
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute(f"create role {role} login bypassrls")

    with pytest.raises(MigrationError, match="row-level security"):
        migrate(empty, role, files(), "pw")


def test_migrate__refuses_a_folder_that_is_not_there(tmp_path):
    """A wrong path is no service without tables."""
    with pytest.raises(MigrationError, match="does not exist"):
        migrate("postgresql://nowhere", "sample", tmp_path / "missing", "pw")


def test_migrate__sets_the_password(empty, files):
    """The application logs in with the password of the latest migration."""
    schema = f"s_{secrets.token_hex(4)}"
    migrate(empty, schema, files(), "old")
    migrate(empty, schema, files(), 'it\'s "new" %s \\')

    database = Database(make_conninfo(empty, user=schema, password='it\'s "new" %s \\'), schema=schema)
    with database.transaction(PLATFORM) as tx:
        assert tx.execute("select count(*) as n from outbox").fetchone() == {"n": 0}
    database.close()
    with pytest.raises(ServiceError):
        Database(make_conninfo(empty, user=schema, password="old"), schema=schema).check()


def test_migrate__by_an_administrator_who_is_no_superuser(empty, postgres_url, files):
    """A managed database gives no superuser; a role that may create roles and owns the database is enough."""
    manager = f"manager_{secrets.token_hex(4)}"
    name = psycopg.conninfo.conninfo_to_dict(empty)["dbname"]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"create role {manager} login createrole password 'm'")
        admin.execute(f"alter database {name} owner to {manager}")
    url = make_conninfo(empty, user=manager, password="m")
    folder = files(_0001_a="create table a (enterprise text not null); select chassis_tenant_table('a');")

    assert len(migrate(url, f"s_{manager}", folder, "pw")) == 2
    assert migrate(url, f"s_{manager}", folder, "pw") == []


def test_migrate__says_that_the_database_does_not_come_up(tmp_path):
    """Nobody waits for a database for ever."""
    (port,) = free_ports(1)
    with pytest.raises(ServiceError) as caught:
        migrate(
            f"postgresql://x@127.0.0.1:{port}/x", "sample", tmp_path, "pw", patience=timedelta(seconds=0.5)
        )
    assert caught.value.kind is Kind.UNAVAILABLE
