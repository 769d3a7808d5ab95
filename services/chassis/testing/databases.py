"""Fresh databases for tests, and a check of what row-level security must hold."""

import hashlib
import secrets
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from services.chassis.clock import Clock
from services.chassis.database import PLATFORM, Database, migrate
from services.chassis.database.migration import prepare_server
from services.chassis.testing.servers import ROOT

PASSWORD = "test"  # noqa: S105 of databases that live for one test

_CHASSIS_MIGRATIONS = ROOT / "services" / "chassis" / "database" / "migrations"
# Their keys are random ids of ours, so that nobody can probe for another tenant's.
_CHASSIS_INDEXES = frozenset({"outbox_pkey", "outbox_id_key", "changes_pkey"})
_CHASSIS_GLOBAL_ROWS = frozenset({"outbox", "changes"})


class TemporaryDatabase(Database):
    """
    A database of one test, migrated; see `Database`.

    Attributes:
        url: of the application role, as the service's processes get it.
        admin_url: of the server's administrator, for looking behind row-level security.

    """

    def __init__(
        self,
        url: str,
        admin_url: str,
        *,
        schema: str,
        clock: Clock | None,
        max_size: int,
        statement_timeout: timedelta,
    ) -> None:
        super().__init__(
            url, schema=schema, clock=clock, max_size=max_size, statement_timeout=statement_timeout
        )
        self.url = url
        self.admin_url = admin_url


class Databases:
    """Makes databases on one server, each a copy of a template that is migrated once for its schema."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._run_id = secrets.token_bytes(8)
        self._templates: set[str] = set()
        self._made: dict[str, TemporaryDatabase] = {}

    def make(
        self,
        schema: str,
        migrations: Path | None = None,
        *,
        clock: Clock | None = None,
        max_size: int = 8,
        statement_timeout: timedelta = timedelta(seconds=5),
    ) -> TemporaryDatabase:
        """A fresh database with a schema made by `services/<schema>/migrations`, or by the files given."""
        folder = migrations or ROOT / "services" / schema / "migrations"
        template = self._template(schema, folder)
        name = f"test_{secrets.token_hex(8)}"
        with self._connect() as server:
            _create(server, name, template)
            prepare_server(server, name, schema, PASSWORD)
        admin_url = self._url(name)
        database = TemporaryDatabase(
            make_conninfo(admin_url, user=schema, password=PASSWORD),
            admin_url,
            schema=schema,
            clock=clock,
            max_size=max_size,
            statement_timeout=statement_timeout,
        )
        self._made[name] = database
        return database

    def drop_all(self) -> None:
        """Close and drop what was made, but for the templates."""
        for database in self._made.values():
            database.close()
        self._drop(self._made)
        self._made.clear()

    def drop_templates(self) -> None:
        """Drop the templates."""
        self._drop(self._templates)
        self._templates.clear()

    def _template(self, schema: str, folder: Path) -> str:
        """The template, named by all that is in it and by this run."""
        text = hashlib.sha256(self._run_id)
        for path in [*sorted(_CHASSIS_MIGRATIONS.glob("*.sql")), *sorted(folder.glob("*.sql"))]:
            text.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        name = f"template_{schema}_{text.hexdigest()[:12]}"
        if name not in self._templates:
            with self._connect() as server:
                _create(server, name, "template1")
            self._templates.add(name)
            migrate(self._url(name), schema, folder, PASSWORD)
        return name

    def _drop(self, names: Collection[str]) -> None:
        if names:
            with self._connect() as server:
                for name in names:
                    server.execute(
                        sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
                    )

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._server_url, autocommit=True, connect_timeout=5)

    def _url(self, name: str) -> str:
        return make_conninfo(self._server_url, dbname=name)


def _create(server: psycopg.Connection, name: str, template: str) -> None:
    # Files are copied as they are, not page by page through the log: half the work, also when dropped.
    statement = sql.SQL("create database {} template {} strategy file_copy")
    server.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


def assert_tenant_tables_safe(
    database: Database, *, unique_without_enterprise: Collection[str] = (), global_rows: Collection[str] = ()
) -> None:
    """
    Fail unless each table of the schema that has a column `enterprise` keeps tenants apart.

    It must be under row-level security, also for its owner, with a policy; each unique key must hold the
    enterprise, or its violation tells that another tenant's row exists; and the column must not be null,
    unless the table is meant to hold rows of nobody. A view must be `security_invoker`, or it shows all rows.

    Args:
        database: of the service.
        unique_without_enterprise: the unique indexes that may lack it, as those over random ids of our own
            making.
        global_rows: the tables whose rows may belong to no enterprise.

    """
    indexes = [*_CHASSIS_INDEXES, *unique_without_enterprise]
    with database.transaction(PLATFORM) as tx:
        tables = tx.execute(
            """
            select c.relname as name, a.attnotnull as filled,
                   c.relrowsecurity and c.relforcerowsecurity as forced,
                   exists (select from pg_policy p where p.polrelid = c.oid) as ruled
            from pg_class c
            join pg_attribute a on a.attrelid = c.oid and a.attname = 'enterprise' and not a.attisdropped
            where c.relnamespace = %s::regnamespace and c.relkind in ('r', 'p')
            """,
            (database.schema,),
        ).fetchall()
        loose = tx.execute(
            """
            select i.indexrelid::regclass::text as name
            from pg_index i
            join pg_class c on c.oid = i.indrelid
            join pg_attribute a on a.attrelid = c.oid and a.attname = 'enterprise' and not a.attisdropped
            join pg_class x on x.oid = i.indexrelid
            where c.relnamespace = %s::regnamespace and c.relkind in ('r', 'p')
              and i.indisunique and not (a.attnum = any ((i.indkey::int2[])[0 : i.indnkeyatts - 1]))
              and not (x.relname = any (%s))
            """,
            (database.schema, indexes),
        ).fetchall()
        views = tx.execute(
            """
            select relname as name from pg_class
            where relnamespace = %s::regnamespace
              and (relkind = 'm'
                   or relkind = 'v' and not coalesce(reloptions @> '{security_invoker=true}', false))
            """,
            (database.schema,),
        ).fetchall()
    nullable = {*_CHASSIS_GLOBAL_ROWS, *global_rows}
    problems = [
        *(
            f"table {row['name']}: select chassis_tenant_table('{row['name']}')"
            for row in tables
            if not row["forced"]
        ),
        *(f"table {row['name']}: has no policy" for row in tables if not row["ruled"]),
        *(
            f"table {row['name']}: enterprise must be not null"
            for row in tables
            if not row["filled"] and row["name"] not in nullable
        ),
        *(f"unique index {row['name']}: must include enterprise" for row in loose),
        *(f"view {row['name']}: must be made with (security_invoker = true)" for row in views),
    ]
    assert not problems, "\n".join(problems)
