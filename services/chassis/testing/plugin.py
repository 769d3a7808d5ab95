"""
The fixtures of all tests, loaded by the root's conftest.py.

PostgreSQL and RabbitMQ are real, and a test that needs one fails where there is none. Each run of pytest
starts its own, on free ports, when a test first asks; `TEST_DATABASE_URL` and `TEST_AMQP_URL` name others.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO

import pytest
import structlog

from services.chassis.clock import FixedClock
from services.chassis.logs import configure_logs
from services.chassis.testing.databases import Databases, TemporaryDatabase
from services.chassis.testing.servers import Servers
from services.chassis.testing.settings import TestSettings
from services.chassis.testing.waiting import eventually as wait_until_true


@pytest.fixture(scope="session")
def test_servers() -> Iterator[Servers]:
    """The servers that this run has started."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL server, by its administrator's URL."""
    given = TestSettings().database_url
    if given:
        return given.get_secret_value()
    servers: Servers = request.getfixturevalue("test_servers")
    return servers.postgres().url


@pytest.fixture(scope="session")
def amqp_url(request: pytest.FixtureRequest) -> str:
    """A RabbitMQ server. Its exchanges and queues stay for the whole run: give each test names of its own."""
    given = TestSettings().amqp_url
    if given:
        return given.get_secret_value()
    servers: Servers = request.getfixturevalue("test_servers")
    return servers.rabbitmq().url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """Makes databases for `make_database`."""
    databases = Databases(postgres_url)
    yield databases
    databases.drop_templates()


@pytest.fixture
def make_database(databases: Databases) -> Iterator[Callable[..., TemporaryDatabase]]:
    """Makes fresh, migrated databases: `make_database("publishing")`; see `Databases.make`."""
    yield databases.make
    databases.drop_all()


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands at noon of 15 January 2026, UTC, until the test moves it."""
    return FixedClock(datetime(2026, 1, 15, 12, tzinfo=UTC))


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`eventually(predicate, timeout=10)`: polls until the predicate is true, and fails when it never is."""
    return wait_until_true


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """All that is logged, at the level DEBUG, as processes write it; whatever other tests have made of logging."""
    root, stream = logging.getLogger(), StringIO()
    handlers, level, structured = root.handlers, root.level, structlog.get_config()
    monkeypatch.setattr("sys.stdout", stream)
    configure_logs("test", "api", "DEBUG")
    yield stream.getvalue
    structlog.configure(**structured)
    root.handlers = handlers
    root.setLevel(level)
