"""Row-level security (PG-4), and that a service's role reaches its own schema only (law 1)."""

import psycopg
import pytest
from psycopg import errors

from services.chassis.database import PLATFORM, PUBLIC, Tenant
from services.chassis.testing.databases import assert_tenant_tables_safe

ACME, OTHER = Tenant("enterprises/acme"), Tenant("enterprises/other")


@pytest.fixture
def notes(database):
    """A database in which each of two enterprises has one note."""
    for scope in (ACME, OTHER):
        with database.transaction(scope) as tx:
            tx.execute("insert into notes (enterprise, id) values (%s, 'n')", (tx.enterprise,))
    return database


def seen(database, scope):
    with database.transaction(scope) as tx:
        return [row["enterprise"] for row in tx.execute("select enterprise from notes order by enterprise")]


def test_scope__decides_which_rows_are_seen(notes):
    """A tenant sees its own rows, the platform all, the public none; no query needs to say so."""
    assert seen(notes, ACME) == ["enterprises/acme"]
    assert seen(notes, OTHER) == ["enterprises/other"]
    assert seen(notes, PLATFORM) == ["enterprises/acme", "enterprises/other"]
    assert seen(notes, PUBLIC) == []


def test_scope__another_tenants_rows_cannot_be_changed(notes):
    """Updates and deletes pass over rows that are not seen."""
    with notes.transaction(ACME) as tx:
        assert tx.execute("update notes set text = 'x' where enterprise = 'enterprises/other'").rowcount == 0
        assert tx.execute("delete from notes where enterprise = 'enterprises/other'").rowcount == 0


@pytest.mark.parametrize("scope", [ACME, PUBLIC])
@pytest.mark.parametrize(
    "statement",
    [
        "insert into notes (enterprise, id) values ('enterprises/other', 'm')",
        "update notes set enterprise = 'enterprises/other', id = 'm'",
    ],
)
def test_scope__rows_cannot_be_given_to_another_tenant(notes, scope, statement):
    """A row of another enterprise cannot be written."""
    if scope is PUBLIC and statement.startswith("update"):
        with notes.transaction(scope) as tx:
            assert tx.execute(statement).rowcount == 0
        return
    with pytest.raises(errors.InsufficientPrivilege), notes.transaction(scope) as tx:
        tx.execute(statement)


def test_scope__does_not_tell_that_another_tenants_row_exists(notes):
    """The same id as another tenant's is free: the enterprise is in the key."""
    with notes.transaction(Tenant("enterprises/third")) as tx:
        tx.execute("insert into notes (enterprise, id) values ('enterprises/third', 'n')")


def test_scope__is_gone_for_the_next_borrower(notes):
    """Nothing of a transaction's scope is left on its connection, after commit and after rollback."""
    assert seen(notes, ACME)
    with pytest.raises(KeyError), notes.transaction(PLATFORM):
        raise KeyError

    (connection,) = notes._idle
    assert connection.execute("select * from notes").fetchall() == []
    left = connection.execute(
        "select current_setting('numerator.enterprise', true) as e, current_setting('numerator.scope', true) as s"
    ).fetchone()
    assert left == {"e": "", "s": ""}


def test_scope__a_session_setting_would_leak(notes):
    """The control of the test above: with SET instead of a local setting, the next borrower does see rows."""
    with notes.connect() as connection:
        connection.execute("select set_config('numerator.enterprise', 'enterprises/acme', false)")
        assert len(connection.execute("select * from notes").fetchall()) == 1


def test_scope__nothing_set_sees_nothing(notes):
    """A session in which no scope was ever set sees no row and raises no error."""
    with notes.connect() as connection:
        assert connection.execute("select * from notes").fetchall() == []


def test_scope__an_empty_name_is_nobodys(notes):
    """A row that got an empty enterprise by mistake is not the public's, whose setting reads '' as well."""
    with notes.transaction(PLATFORM) as tx:
        tx.execute("insert into notes (enterprise, id) values ('', 'n')")

    assert seen(notes, PUBLIC) == []


def test_owner__is_under_the_policy_too(notes, admin):
    """The owner sees nothing without a scope, and all without FORCE (the control)."""
    admin.execute("set role sample_owner")
    assert admin.execute("select * from notes").fetchall() == []

    admin.execute("alter table notes no force row level security")
    assert len(admin.execute("select * from notes").fetchall()) == 2


def test_tenant__must_be_an_enterprise():
    """A scope for an empty or misread name is refused: '' would be nobody's setting."""
    with pytest.raises(ValueError, match="enterprises/x"):
        Tenant("")


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (id int)",
        "create temporary table mine (id int)",
        "create schema mine",
        "create table public.mine (id int)",
        "alter table notes disable row level security",
        "drop policy chassis_tenant on notes",
        "truncate notes",
        "set role sample_owner",
        "select * from neighbour.notes",
        "select * from neighbour.outbox",
        "select neighbour.chassis_append_change('l', 'k', null, '{}', null, now())",
        "update chassis_migrations set checksum = ''",
        "select * from pg_authid",
    ],
)
def test_role__may_only_read_and_write_its_rows(database, statement, tmp_path):
    """The application's role can change no structure, and reach no other service's schema."""
    from services.chassis.database import migrate

    (tmp_path / "0001_notes.sql").write_text("create table notes (id text);")
    migrate(database.admin_url, "neighbour", tmp_path, "other")

    with pytest.raises(errors.InsufficientPrivilege), database.transaction(PLATFORM) as tx:
        tx.execute(statement)


def test_view__needs_security_invoker(notes, admin):
    """A plain view shows all tenants' rows of a superuser's; one with security_invoker shows the caller's."""
    admin.execute("create view plain as select * from notes")
    admin.execute("create view safe with (security_invoker = true) as select * from notes")
    admin.execute("grant select on plain, safe to sample")

    with notes.transaction(ACME) as tx:
        assert tx.execute("select count(*) as n from plain").fetchone()["n"] == 2
        assert tx.execute("select count(*) as n from safe").fetchone()["n"] == 1


def test_assert_tenant_tables_safe__accepts_a_safe_schema(database):
    """The chassis' own tables and a table made by the rules pass."""
    assert_tenant_tables_safe(database)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("alter table notes disable row level security", "table notes: select chassis_tenant_table"),
        ("alter table notes no force row level security", "table notes: select chassis_tenant_table"),
        ("drop policy chassis_tenant on notes", "table notes: has no policy"),
        ("create unique index loose on notes (id)", "unique index loose: must include enterprise"),
        ("create unique index loose on notes (id) include (enterprise)", "unique index loose: must include"),
        ("create table bare (enterprise text not null)", "table bare: select chassis_tenant_table"),
        ("create view plain as select * from notes", "view plain: must be made with"),
        ("create materialized view kept as select * from notes", "view kept: must be made with"),
        (
            "alter table notes drop constraint notes_pkey; alter table notes alter enterprise drop not null",
            "table notes: enterprise must be not null",
        ),
    ],
)
def test_assert_tenant_tables_safe__finds_each_hole(database, admin, statement, complaint):
    """Each way to leave tenants unprotected is found, and named."""
    admin.execute(statement)

    with pytest.raises(AssertionError, match=complaint):
        assert_tenant_tables_safe(database)


def test_assert_tenant_tables_safe__takes_exceptions(database, admin):
    """What is meant can be said."""
    admin.execute("create unique index loose on notes (id)")
    assert_tenant_tables_safe(database, unique_without_enterprise=["loose"])


def test_tenant_table__with_global_rows(database, admin):
    """Rows of nobody are everybody's, where the table is made so."""
    admin.execute(
        """
        create table shared (enterprise text, id text);
        select chassis_tenant_table('shared', global_rows => true);
        grant select, insert on shared to sample
        """
    )
    for scope in (PUBLIC, ACME, OTHER):
        with database.transaction(scope) as tx:
            tx.execute("insert into shared values (%s, 'x')", (tx.enterprise,))

    with database.transaction(ACME) as tx:
        rows = tx.execute("select enterprise from shared order by enterprise nulls first").fetchall()
    assert [row["enterprise"] for row in rows] == [None, "enterprises/acme"]
    assert_tenant_tables_safe(database, global_rows=["shared"])


def test_role__cannot_log_in_with_another_password(database):
    """The application's role has a password."""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(database.url, password="wrong")
