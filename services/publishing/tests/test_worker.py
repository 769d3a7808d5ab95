"""The worker: events to use cases, and as a process that is killed while it makes deliveries."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from numerator.events.v1.accounts_pb2 import (
    AccountBound,
    AccountReauthRequired,
    AccountsPlaced,
    AccountTokenRefreshed,
    AccountUnbound,
)

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Tenant
from services.chassis.errors import ServiceError
from services.chassis.messaging.envelope import Event
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import shared_keys, telemetry
from services.publishing import store, usecases
from services.publishing.model.accounts import AccountState, NetworkClass
from services.publishing.settings import Settings
from services.publishing.tests.conftest import ROOT, url_of
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account
from services.publishing.worker import Worker

ACCOUNT = make_account(1).name
TENANT = Tenant(ENTERPRISE)


def event(message, seconds: int = 0) -> Event:
    return Event("e1", "t", ACCOUNT, ENTERPRISE, NOON + timedelta(seconds=seconds), message)


def test_account_bound__told__is_kept_as_its_server_is(database: TemporaryDatabase, worker: Worker) -> None:
    """The token stays sealed, and the software decides the network class."""
    told = AccountBound(
        account=ACCOUNT, network="mastodon", server="https://example.social/", software="gotosocial",
        network_account_id="01H", handle="tianshan", sealed_token=b"sealed",
    )  # fmt: skip

    with database.transaction(TENANT) as tx:
        worker.on_account_bound(tx, event(told))
        (account,) = store.accounts(tx, ENTERPRISE)

    assert (account.network_class, account.sealed_token) == (NetworkClass.B, b"sealed")
    assert (account.server, account.state) == ("https://example.social", AccountState.ACTIVE)
    assert "sealed'" not in repr(account)


def test_account_token_refreshed__in_any_order__the_newest_is_kept(
    database: TemporaryDatabase, worker: Worker
) -> None:
    """A refresh may be heard of before the binding that it follows, or late; it ends a suspension, and no unbinding."""
    bound = AccountBound(
        account=ACCOUNT,
        network="mastodon",
        server="https://example.social",
        sealed_token=b"1",
        token_version=1,
    )

    def refreshed(version: int) -> AccountTokenRefreshed:
        return AccountTokenRefreshed(account=ACCOUNT, sealed_token=b"%d" % version, token_version=version)

    found = []
    with database.transaction(TENANT) as tx:
        with pytest.raises(ServiceError):
            worker.on_account_token_refreshed(tx, event(refreshed(2), 2))
        worker.on_account_bound(tx, event(bound))
        for told, seconds in ((refreshed(3), 3), (refreshed(2), 2)):
            worker.on_account_token_refreshed(tx, event(told, seconds))
        worker.on_account_bound(tx, event(bound, 1))
        found.append(store.accounts(tx, ENTERPRISE)[0])
        usecases.suspend_account(tx, found[0])
        worker.on_account_token_refreshed(tx, event(refreshed(4), 4))
        found.append(store.accounts(tx, ENTERPRISE)[0])
        worker.on_account_reauth_required(tx, event(AccountReauthRequired(account=ACCOUNT), 6))
        worker.on_account_token_refreshed(tx, event(refreshed(5), 5))
        found.append(store.accounts(tx, ENTERPRISE)[0])
        worker.on_account_unbound(tx, event(AccountUnbound(account=ACCOUNT), 7))
        worker.on_account_token_refreshed(tx, event(refreshed(6), 6))
        found.append(store.accounts(tx, ENTERPRISE)[0])

    assert [(each.sealed_token, each.state) for each in found] == [
        (b"3", AccountState.ACTIVE), (b"4", AccountState.ACTIVE), (b"5", AccountState.REAUTH_REQUIRED),
        (b"", AccountState.UNBOUND),
    ]  # fmt: skip


def test_accounts_placed__told_in_any_order__are_where_the_newest_event_says(
    database: TemporaryDatabase, worker: Worker
) -> None:
    """A move may be heard of before the binding, or twice, or late; several accounts move in one event."""
    second = make_account(2).name
    moved = AccountsPlaced(
        enterprise=ENTERPRISE,
        placement_version=2,
        placements=[
            AccountsPlaced.Placement(account=second, groups=["hq", "south"]),
            AccountsPlaced.Placement(account=ACCOUNT, groups=["hq", "north"]),
        ],
    )
    bound = AccountBound(
        account=ACCOUNT,
        network="mastodon",
        server="https://example.social",
        groups=["hq"],
        placement_version=1,
    )
    out = AccountsPlaced(
        enterprise=ENTERPRISE, placements=[AccountsPlaced.Placement(account=second)], placement_version=3
    )

    with database.transaction(TENANT) as tx:
        for told in (moved, bound, out, moved):
            handle = worker.on_account_bound if told is bound else worker.on_accounts_placed
            handle(tx, event(told))
        found = store.places(tx, ENTERPRISE, [ACCOUNT, second])
        bound.placement_version = 4
        worker.on_account_bound(tx, event(bound))
        again = store.places(tx, ENTERPRISE, [ACCOUNT])

    assert found == {ACCOUNT: ("hq", "north"), second: ()}
    assert again == {ACCOUNT: ("hq",)}


def test_accounts_placed__of_another_enterprise__is_refused(
    database: TemporaryDatabase, worker: Worker
) -> None:
    """An event that moves somebody else's account becomes a dead letter."""
    told = AccountsPlaced(enterprise="enterprises/other", placements=[{"account": ACCOUNT}])

    with database.transaction(TENANT) as tx, pytest.raises(ServiceError):
        worker.on_accounts_placed(tx, event(told))


def test_account__reauthorised_and_unbound__follows(database: TemporaryDatabase, worker: Worker) -> None:
    """The read model follows what accounts tells."""
    states = []

    with database.transaction(TENANT) as tx:
        usecases.bind_account(tx, make_account(1), NOON)
        worker.on_account_reauth_required(tx, event(AccountReauthRequired(account=ACCOUNT), 1))
        states += [store.accounts(tx, ENTERPRISE)[0].state]
        worker.on_account_unbound(tx, event(AccountUnbound(account=ACCOUNT), 2))
        states += [store.accounts(tx, ENTERPRISE)[0].state]

    assert states == [AccountState.REAUTH_REQUIRED, AccountState.UNBOUND]


def test_account_bound__malformed_name__is_refused(database: TemporaryDatabase, worker: Worker) -> None:
    """An event that names no account becomes a dead letter, not a row."""
    with database.transaction(TENANT) as tx, pytest.raises(ServiceError):
        worker.on_account_bound(tx, event(AccountBound(account="accounts/1")))


def test_purge__old_changes__are_removed(
    database: TemporaryDatabase, worker: Worker, clock: FixedClock
) -> None:
    """Change logs do not grow for ever; fresh changes stay."""
    with database.transaction(TENANT) as tx:
        tx.append_change(usecases.DELIVERIES, "old", {})
    clock.advance(timedelta(days=2))
    with database.transaction(TENANT) as tx:
        tx.append_change(usecases.DELIVERIES, "new", {})

    worker.purge(database)

    with database.transaction(PLATFORM) as tx:
        assert [change.key for change in tx.changes(usecases.DELIVERIES, after=0)] == ["new"]


@pytest.mark.parametrize("spec", ["", "reply_read:kill", "reply_read:kill:/tmp/once"])
def test_settings__fail_point__is_refused_in_production(spec: str) -> None:
    """A process of production cannot be told to kill itself."""
    values = {
        "database_url": "postgresql://x",
        "amqp_url": "amqp://x",
        "principal_public_key": shared_keys().public,
        "fail_point": spec,
    }

    assert Settings(**values, environment="local").fail_point == spec
    if spec:
        with pytest.raises(ValueError, match="production"):
            Settings(**values, environment="production")


def test_settings__fail_point__unknown_is_refused() -> None:
    """A point that does not exist would never be reached, and the test behind it would prove nothing."""
    values = {
        "database_url": "postgresql://x",
        "amqp_url": "amqp://x",
        "principal_public_key": shared_keys().public,
    }

    with pytest.raises(ValueError, match="point:action"):
        Settings(**values, fail_point="nowhere:kill")


@pytest.mark.slow
def test_worker__killed_while_it_makes_deliveries__makes_each_once(
    make_database: Callable[..., TemporaryDatabase],
    amqp_url: str,
    eventually: Callable[..., object],
    tmp_path: Path,
) -> None:
    """From the outbox over the broker and back: the deliveries are there once, under the trace of the request."""
    database = make_database("publishing")
    environment = os.environ | {  # noqa: TID251  what a child process gets
        "PUBLISHING_DATABASE_URL": url_of(database.url), "DATABASE_ADMIN_URL": url_of(database.admin_url), "AMQP_URL": amqp_url,
        "PRINCIPAL_PUBLIC_KEY": shared_keys().public, "PUBLISHING_METRICS_PORT": "0",
        "PUBLISHING_FAIL_POINT": f"deliveries_materialised:kill:{tmp_path / 'once'}",
    }  # fmt: skip
    command = [sys.executable, "-m", "services.publishing"]
    subprocess.run([*command, "migrate"], cwd=ROOT, env=environment, check=True)
    with database.transaction(TENANT) as tx:
        for number in range(1, 5):
            usecases.bind_account(tx, make_account(number), tx.now)
    with telemetry().tracer.start_as_current_span("request") as span, database.transaction(TENANT) as tx:
        draft = usecases.create_publication(
            tx, ENTERPRISE, text="Hello", variants=(), accounts=(), exclude_accounts=(), schedule_time=None
        )
        usecases.schedule_publication(tx, ENTERPRISE, draft.name, None)
        trace_id = f"{span.get_span_context().trace_id:032x}"

    with subprocess.Popen([*command, "worker"], cwd=ROOT, env=environment) as doomed:
        assert doomed.wait(60) == -signal.SIGKILL
    with subprocess.Popen([*command, "worker"], cwd=ROOT, env=environment) as worker:
        try:
            eventually(lambda: len(_deliveries(database, draft.name)) == 4, 60)
        finally:
            worker.terminate()

    found = _deliveries(database, draft.name)
    assert {each.account for each in found} == {make_account(number).name for number in range(1, 5)}
    assert {each.traceparent.split("-")[1] for each in found} == {trace_id}


def _deliveries(database: TemporaryDatabase, publication: str) -> list:
    with database.transaction(TENANT) as tx:
        return store.deliveries(tx, ENTERPRISE, publication, "", 100)
