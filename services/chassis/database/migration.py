"""A service's schema, its two roles, and the numbered SQL files that make its tables."""

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from services.chassis.database.errors import unavailable

_CHASSIS = Path(__file__).parent / "migrations"
_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,50}")
_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LOCK = 0x6E756D65  # one for all services of a database: roles and the database's own rights are shared rows
_PATIENCE = timedelta(seconds=60)
_OPTIONS = "-c lock_timeout=60s -c statement_timeout=10min -c client_min_messages=warning"


class MigrationError(Exception):
    """The migrations cannot be applied as they are; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Migration:
    source: str
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate(
    admin_url: str, schema: str, migrations_dir: Path, app_password: str, *, patience: timedelta = _PATIENCE
) -> list[str]:
    """
    Bring a service's schema up to date. Safe to repeat, and to run from several processes at once.

    Makes the role `<schema>_owner` (cannot log in; owns everything) and the role `<schema>` (the
    application's: logs in with `app_password`, may read and write rows of this schema and nothing else), the
    schema itself, and applies the chassis' and then the service's files `NNNN_what.sql`, each once, each in a
    transaction of its own, as the owner, with the platform's sight of rows.

    Args:
        admin_url: of a role that may create roles and schemas in the database.
        schema: the service's schema, as `publishing`.
        migrations_dir: holds the service's files.
        app_password: of the application role; set anew each time.
        patience: how long to wait for the database to come up.

    Returns:
        The names of the files that were applied now.

    Raises:
        MigrationError: a file was changed after it was applied, or is named wrongly; the folder is missing;
            a role has too many rights.
        ServiceError: UNAVAILABLE when the database does not come up.

    """
    if not _SCHEMA.fullmatch(schema):
        raise MigrationError(f"{schema!r} is no schema name: a-z, 0-9 and _, at most 51")
    files = [*_files("chassis", _CHASSIS), *_files(schema, migrations_dir)]
    with _connect(admin_url, patience) as connection, _lock(connection):
        prepare_server(connection, connection.info.dbname, schema, app_password)
        _make_schema(connection, schema)
        return [file.name for file in files if _apply(connection, schema, file)]


def prepare_server(connection: psycopg.Connection, database: str, schema: str, app_password: str) -> None:
    """Make the roles, and set their rights on the database: what the server keeps outside, and no copy of it has."""
    _make_roles(connection, schema, app_password)
    _run(connection, "revoke temporary on database {database} from public", database=database)
    _run(connection, "grant connect on database {database} to {app}", database=database, app=schema)


def _files(source: str, folder: Path) -> list[_Migration]:
    if not folder.is_dir():
        raise MigrationError(f"{folder} does not exist: a schema without tables of its own has an empty one")
    migrations: dict[int, _Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        named = _FILE.fullmatch(path.name)
        if not named or int(named[1]) in migrations:
            raise MigrationError(f"{path}: must be named NNNN_what_it_does.sql, with a number of its own")
        migrations[int(named[1])] = _Migration(source, int(named[1]), path.name, path.read_text("utf-8"))
    return list(migrations.values())


def _connect(url: str, patience: timedelta) -> psycopg.Connection:
    conninfo = make_conninfo(url, connect_timeout=5, application_name="numerator-migrate", options=_OPTIONS)
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            return psycopg.connect(conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise unavailable() from error
        time.sleep(0.2)


@contextmanager
def _lock(connection: psycopg.Connection) -> Iterator[None]:
    """One migration of this database at a time. Ends with the connection, however that ends."""
    connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (_LOCK,))


def _run(connection: psycopg.Connection, statement: LiteralString, **names: str) -> None:
    connection.execute(
        sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()})
    )


def _make_roles(connection: psycopg.Connection, app: str, password: str) -> None:
    owner = f"{app}_owner"
    for role, login in ((owner, sql.SQL("nologin")), (app, sql.SQL("login"))):
        if connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("create role {} {}").format(sql.Identifier(role), login))
    # Hashed here, so that the password itself comes into no log of the server.
    hashed = connection.pgconn.encrypt_password(password.encode(), app.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(app), hashed))
    too_much = connection.execute(
        """
        select from pg_roles
        where rolname = %(app)s
          and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb
               or pg_has_role(%(app)s, %(owner)s, 'member'))
        """,
        {"app": app, "owner": owner},
    )
    if too_much.fetchone() is not None:
        raise MigrationError(f"role {app} could pass by row-level security: drop it, or take its rights away")
    # To act as the owner, an administrator who is no superuser must be a member of it.
    superuser = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone()
    if superuser == (False,):
        _run(connection, "grant {owner} to current_user", owner=owner)


def _make_schema(connection: psycopg.Connection, schema: str) -> None:
    owner = f"{schema}_owner"
    _run(connection, "create schema if not exists {schema} authorization {owner}", schema=schema, owner=owner)
    _run(connection, "revoke all on schema public from public")
    with connection.transaction():
        _run(connection, "set local role {owner}", owner=owner)
        _run(connection, "grant usage on schema {schema} to {schema}", schema=schema)
        for rights in (
            "grant select, insert, update, delete on tables",
            "grant usage on sequences",
        ):
            _run(
                connection,
                "alter default privileges in schema {schema} " + rights + " to {schema}",
                schema=schema,
            )
        made = connection.execute("select to_regclass(%s)", (f"{schema}.chassis_migrations",)).fetchone()
        if made == (None,):
            _run(
                connection,
                """
                create table {schema}.chassis_migrations (
                  source text not null,
                  number int not null,
                  name text not null,
                  checksum text not null,
                  apply_time timestamptz not null default now(),
                  primary key (source, number)
                );
                revoke all on {schema}.chassis_migrations from {schema}
                """,
                schema=schema,
            )


def _apply(connection: psycopg.Connection, schema: str, file: _Migration) -> bool:
    """Whether the file was applied now, not before."""
    with connection.transaction():
        _run(connection, "set local role {owner}", owner=f"{schema}_owner")
        _run(connection, "set local search_path = {schema}", schema=schema)
        applied = connection.execute(
            "select checksum from chassis_migrations where source = %s and number = %s",
            (file.source, file.number),
        ).fetchone()
        if applied == (file.checksum,):
            return False
        if applied is not None:
            raise MigrationError(
                f"{file.source}/{file.name} was changed after it was applied: restore it, and add a new file"
            )
        # The owner is under row-level security too: a file that changes rows means those of all enterprises.
        connection.execute("select set_config('numerator.scope', 'platform', true)")
        connection.execute(file.text)
        connection.execute(
            "insert into chassis_migrations (source, number, name, checksum) values (%s, %s, %s, %s)",
            (file.source, file.number, file.name, file.checksum),
        )
    return True
