"""Transactions: commit, rollback, what they write beside the service's own rows."""

import pytest

from services.chassis.database import PLATFORM, Tenant

ACME = Tenant("enterprises/acme")


def test_transaction__commits_at_the_end(database):
    """What a block wrote is there for the next transaction."""
    with database.transaction(ACME) as tx:
        tx.execute("insert into notes (enterprise, id) values (%s, 'a')", (tx.enterprise,))

    with database.transaction(ACME) as tx:
        assert tx.execute("select id from notes").fetchall() == [{"id": "a"}]


def test_transaction__rolls_back_when_the_block_raises(database):
    """Nothing of a block that raised is kept."""
    with pytest.raises(KeyError), database.transaction(ACME) as tx:
        tx.execute("insert into notes (enterprise, id) values (%s, 'a')", (tx.enterprise,))
        raise KeyError

    with database.transaction(PLATFORM) as tx:
        assert tx.execute("select id from notes").fetchall() == []
