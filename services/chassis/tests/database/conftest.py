"""What the database's tests share: a schema with one tenant table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.chassis.clock import FixedClock
from services.chassis.testing.databases import TemporaryDatabase

MIGRATIONS = Path(__file__).parent / "migrations"


@pytest.fixture
def database(make_database: Callable[..., TemporaryDatabase], clock: FixedClock) -> TemporaryDatabase:
    """A fresh database with the schema `sample`."""
    return make_database("sample", MIGRATIONS, clock=clock)
