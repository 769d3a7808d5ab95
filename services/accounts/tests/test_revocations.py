"""What ends access tokens before they expire, by gRPC and in the store."""

import threading
from datetime import timedelta

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import apps_pb2
from numerator.accounts.v1.apps_pb2_grpc import AppServiceStub

from services.accounts.store import revocations
from services.accounts.tests.world import World, reason_of
from services.chassis.database import PLATFORM, PUBLIC
from services.chassis.testing.rpc import gateway, operator
from services.chassis.testing.waiting import eventually

HOUR = timedelta(hours=1)


def revoke(world: World, *subjects: str, life: timedelta = HOUR) -> None:
    for subject in subjects:
        with world.database.transaction(PUBLIC) as tx:
            revocations.revoke(tx, subject, until=tx.now + life)


def listed(world: World, since: int = 0) -> apps_pb2.ListRevocationsResponse:
    stub = AppServiceStub(world.running.as_(gateway()))
    return stub.ListRevocations(apps_pb2.ListRevocationsRequest(since=since))


def subjects(world: World, since: int = 0) -> list[str]:
    return [each.subject for each in listed(world, since).revocations]


def test_revocations__are_listed_in_their_order(world: World) -> None:
    """A gateway hears of each once, of a repeated one again, and of nothing that is in force no more."""
    revoke(world, "a", "b")
    known = listed(world).revocations
    assert [each.subject for each in known] == ["a", "b"]
    assert known[0].revoke_time.ToNanoseconds() < known[1].revoke_time.ToNanoseconds()
    assert subjects(world, known[-1].sequence) == []
    revoke(world, "a", life=2 * HOUR)
    assert subjects(world, known[-1].sequence) == ["a"]
    world.clock.advance(HOUR)
    assert subjects(world) == ["a"]
    with world.database.transaction(PLATFORM) as tx:
        revocations.purge_revocations(tx)
    assert [row["subject"] for row in world.rows("revocations")] == ["a"]


def test_revocations__come_in_pages(world: World) -> None:
    """However many there are, one answer is of bounded size."""
    with world.database.transaction(PLATFORM) as tx:
        for number in range(1_500):
            revocations.revoke(tx, f"s{number}", until=tx.now + HOUR)
    first = listed(world)
    second = listed(world, first.revocations[-1].sequence)
    assert (len(first.revocations), first.more) == (1_000, True)
    assert (len(second.revocations), second.more) == (500, False)


def test_revocations__are_all_told_after_a_restored_backup(world: World) -> None:
    """A gateway that knows a number that was never drawn here hears of everything."""
    revoke(world, "a", "b")
    assert subjects(world, since=1_000_000) == ["a", "b"]


def test_revocations__wait_for_each_other(world: World) -> None:
    """Whoever sees a number never finds a smaller one later: the next number is drawn after the commit before it."""
    began, ended = threading.Event(), threading.Event()

    def second() -> None:
        began.set()
        revoke(world, "second")
        ended.set()

    thread = threading.Thread(target=second)
    with world.database.transaction(PUBLIC) as tx:
        revocations.revoke(tx, "first", until=tx.now + HOUR)
        thread.start()
        began.wait(5)
        eventually(lambda: _waiting(world))
        assert not ended.is_set()
        assert subjects(world) == []
    thread.join(5)
    assert subjects(world) == ["first", "second"]


def _waiting(world: World) -> bool:
    with world.database.transaction(PLATFORM) as tx:
        found = tx.execute("select from pg_locks where locktype = 'advisory' and not granted")
        return bool(found.fetchall())


def test_read_time__is_before_a_revocation_of_what_was_read(world: World) -> None:
    """A client is authenticated while it is being deleted: either it is gone, or its token ends with the deletion."""
    company = world.register()
    owner = world.as_(company.owner)
    client = owner.CreateClient(
        pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["accounts.read"])
    )
    identity = world.as_(gateway()).AuthenticateClient(
        pb.AuthenticateClientRequest(client_id=client.name.rpartition("/")[2], client_secret=client.secret)
    )
    with world.database.transaction(PLATFORM) as tx:
        tx.execute("select from clients for share")
        before = revocations.read_time(tx)
        thread = threading.Thread(target=lambda: owner.DeleteClient(pb.DeleteClientRequest(name=client.name)))
        thread.start()
        eventually(lambda: _blocked(world))
    thread.join(5)
    (revocation,) = listed(world).revocations
    assert revocation.subject == client.name
    assert identity.authenticate_time.ToNanoseconds() < revocation.revoke_time.ToNanoseconds()
    assert before < revocation.revoke_time.ToDatetime(before.tzinfo)


def _blocked(world: World) -> bool:
    with world.database.transaction(PLATFORM) as tx:
        return bool(tx.execute("select from pg_locks where not granted").fetchall())


def test_list_revocations__is_for_gateways_only(world: World) -> None:
    """Who was revoked is nobody else's business, not even an operator's."""
    for caller in (operator(), world.register().owner):
        with pytest.raises(grpc.RpcError) as refused:
            AppServiceStub(world.running.as_(caller)).ListRevocations(apps_pb2.ListRevocationsRequest())
        assert reason_of(refused.value) == "CALLER_NOT_ALLOWED"
