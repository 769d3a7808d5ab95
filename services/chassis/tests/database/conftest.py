"""What the database's tests share: a schema with a tenant table, and a server of their own to be unkind to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local.postgres import Postgres
from services.chassis.clock import FixedClock
from services.chassis.testing.databases import Databases, TemporaryDatabase
from services.chassis.testing.servers import free_ports

MIGRATIONS = Path(__file__).parent / "migrations"


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """A fresh database with the schema `sample`."""
    return make_database("sample", MIGRATIONS, clock=clock)


@pytest.fixture
def admin(database: TemporaryDatabase) -> Iterator[psycopg.Connection]:
    """The administrator's connection to `database`; sees behind row-level security."""
    with psycopg.connect(database.admin_url, autocommit=True, options="-c search_path=sample") as connection:
        yield connection


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL that only this test uses, so that it may be stopped and killed."""
    server = Postgres(tmp_path / "postgres", *free_ports(1))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_database(own_server: Postgres) -> Iterator[TemporaryDatabase]:
    """A database on `own_server`, with the schema `sample`."""
    databases = Databases(own_server.url)
    database = databases.make("sample", MIGRATIONS)
    yield database
    database.close()
