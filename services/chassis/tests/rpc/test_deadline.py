"""M8 where the effects are: a transaction neither begins nor commits for a caller whose time is over."""

import time

import pytest

from services.chassis.database import PLATFORM
from services.chassis.deadline import Deadline, current_deadline, work_until
from services.chassis.errors import Kind, ServiceError


@pytest.fixture
def database(make_database, tmp_path):
    """A fresh schema without tables of its own."""
    return make_database("chassistest", tmp_path)


def test_deadline__counts_down_and_ends():
    """What is left shrinks to 0.0; a caller that has gone leaves nothing at once."""
    assert 0.9 < Deadline(time.monotonic() + 1).remaining() <= 1
    assert Deadline(time.monotonic() - 1).remaining() == 0.0
    assert Deadline(time.monotonic() + 1, cancelled=lambda: True).remaining() == 0.0
    assert current_deadline() is None


def test_transaction__does_not_begin_after_the_deadline(database):
    """Work whose time is over gets DEADLINE_EXCEEDED instead of a transaction."""
    with work_until(Deadline(time.monotonic() - 0.1)), pytest.raises(ServiceError) as refused:  # noqa: SIM117
        with database.transaction(PLATFORM):
            pytest.fail("a transaction began")

    assert refused.value.kind is Kind.DEADLINE_EXCEEDED


def test_transaction__of_a_caller_that_went_leaves_nothing(database):
    """A transaction that is done when nobody waits any more is rolled back."""
    gone = []

    def work():
        with database.transaction(PLATFORM) as tx:
            tx.append_change("things", "t", {})
            gone.append(True)

    with (
        work_until(Deadline(time.monotonic() + 10, lambda: bool(gone))),
        pytest.raises(ServiceError) as refused,
    ):
        work()

    assert refused.value.kind is Kind.DEADLINE_EXCEEDED
    assert refused.value.before_commit
    with database.transaction(PLATFORM) as tx:
        assert tx.last_change("things") == 0
