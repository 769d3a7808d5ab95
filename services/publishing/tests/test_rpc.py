"""The service over gRPC, as the gateway calls it."""

import queue
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.publishing.v1 import publishing_pb2 as pb
from numerator.publishing.v1 import publishing_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import Tenant
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member, operator
from services.publishing import usecases
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account
from services.publishing.tests.test_interactions import make_notification
from services.publishing.tests.test_usecases import bind, lease, posted, record


@pytest.fixture
def stub(server: RunningServer) -> pb_grpc.PublishingServiceStub:
    """The service as the company's owner calls it."""
    return pb_grpc.PublishingServiceStub(server.as_(member(ENTERPRISE)))


def create(stub: pb_grpc.PublishingServiceStub, text: str = "Hello", **fields: Any) -> pb.Publication:
    publication = pb.Publication(text=text, **fields)
    return stub.CreatePublication(pb.CreatePublicationRequest(parent=ENTERPRISE, publication=publication))


def materialise(database: TemporaryDatabase, name: str) -> None:
    with database.transaction(Tenant(ENTERPRISE)) as tx:
        usecases.materialise(tx, ENTERPRISE, name)


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code()


def test_publication__from_draft_to_done(
    database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub
) -> None:
    """Create, plan, schedule, deliver: what comes back is what was said."""
    bind(database, make_account(1), make_account(2), make_account(3))
    draft = create(
        stub,
        variants=[pb.Variant(accounts=[make_account(2).name], text="Other")],
        exclude_accounts=[make_account(3).name],
    )
    entries = stub.PlanPublication(pb.PlanPublicationRequest(name=draft.name)).entries
    scheduled = stub.SchedulePublication(pb.SchedulePublicationRequest(name=draft.name))
    materialise(database, draft.name)
    for number, assignment in enumerate(lease(database)):
        record(database, assignment, posted(number))
    done = stub.GetPublication(pb.GetPublicationRequest(name=draft.name))
    deliveries = stub.ListDeliveries(pb.ListDeliveriesRequest(parent=draft.name)).deliveries

    assert draft.state == pb.Publication.DRAFT
    assert [(entry.rule, entry.text) for entry in entries] == [
        (pb.PlanEntry.SAME, "Hello"), (pb.PlanEntry.VARIANT, "Other"), (pb.PlanEntry.EXCLUDED, ""),
    ]  # fmt: skip
    assert scheduled.state == pb.Publication.SCHEDULED
    assert scheduled.schedule_time.ToDatetime(NOON.tzinfo) == NOON
    assert (done.state, done.delivery_counts.published) == (pb.Publication.DONE, 2)
    assert [(each.state, each.text) for each in deliveries] == [
        (pb.Delivery.PUBLISHED, "Hello"), (pb.Delivery.PUBLISHED, "Other"),
    ]  # fmt: skip
    assert stub.GetDelivery(pb.GetDeliveryRequest(name=deliveries[0].name)) == deliveries[0]


def test_create__same_request_id__one_effect(
    database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub
) -> None:
    """A repeated request gets the reply of the first."""
    request = pb.CreatePublicationRequest(
        parent=ENTERPRISE, publication=pb.Publication(text="Hello"), request_id="r1"
    )

    first, again = stub.CreatePublication(request), stub.CreatePublication(request)

    assert first == again
    assert len(stub.ListPublications(pb.ListPublicationsRequest(parent=ENTERPRISE)).publications) == 1


def test_create__wrong_fields__are_told(stub: pb_grpc.PublishingServiceStub) -> None:
    """The caller hears which fields to mend."""
    assert code(lambda: create(stub, " ")) is grpc.StatusCode.INVALID_ARGUMENT
    foreign = ["enterprises/other/accounts/a"]
    assert code(lambda: create(stub, accounts=foreign)) is grpc.StatusCode.INVALID_ARGUMENT


def test_schedule__past__is_refused(database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub) -> None:
    """The reason is for programs."""
    bind(database, make_account(1))
    past = Timestamp()
    past.FromDatetime(NOON - timedelta(seconds=1))
    name = create(stub).name

    with pytest.raises(grpc.RpcError) as raised:
        stub.SchedulePublication(pb.SchedulePublicationRequest(name=name, schedule_time=past))

    assert error_from_rpc(raised.value).reason == "INVALID_ARGUMENT"


def test_list__pages__hold_everything_once(
    database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub, clock: FixedClock
) -> None:
    """Newest first, across pages; equal times do not lose any."""
    names = []
    for number in range(7):
        names.append(create(stub, f"Post {number}").name)
        clock.advance(timedelta(seconds=number % 2))
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListPublicationsRequest(parent=ENTERPRISE, page_size=3, page_token=token)
        page = stub.ListPublications(request)
        found += [each.name for each in page.publications]
        token = page.next_page_token
        if not token:
            break

    assert sorted(found) == sorted(names)
    assert len(found) == 7
    assert found[0] == names[-1]


def test_cancel__before_it_is_sent__nothing_goes_out(
    database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub
) -> None:
    """Cancelling again changes nothing; what is done cannot be cancelled."""
    bind(database, make_account(1))
    name = create(stub).name
    stub.SchedulePublication(pb.SchedulePublicationRequest(name=name))
    materialise(database, name)

    cancelled = stub.CancelPublication(pb.CancelPublicationRequest(name=name))
    again = stub.CancelPublication(pb.CancelPublicationRequest(name=name))

    assert cancelled.state == again.state == pb.Publication.CANCELLED
    assert cancelled.delivery_counts.cancelled == 1
    assert lease(database) == []


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        (member("enterprises/other"), grpc.StatusCode.NOT_FOUND),
        (member(ENTERPRISE, ["ANALYST"]), grpc.StatusCode.PERMISSION_DENIED),
        (member(ENTERPRISE, ["RESPONDER"]), grpc.StatusCode.PERMISSION_DENIED),
        (client(ENTERPRISE, ["publications.read"]), grpc.StatusCode.PERMISSION_DENIED),
        (operator(), grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_cancel__not_allowed__is_refused(
    server: RunningServer, stub: pb_grpc.PublishingServiceStub, principal: Any, expected: grpc.StatusCode
) -> None:
    """Another enterprise finds nothing; the wrong role or scope is refused."""
    name = create(stub).name
    other = pb_grpc.PublishingServiceStub(server.as_(principal))

    assert code(lambda: other.CancelPublication(pb.CancelPublicationRequest(name=name))) is expected


def test_watch_deliveries__changes__come_without_a_gap(
    database: TemporaryDatabase, stub: pb_grpc.PublishingServiceStub
) -> None:
    """First each delivery as it is, then each change; a reader that comes back misses nothing."""
    bind(database, make_account(1), make_account(2))
    name = create(stub).name
    stub.SchedulePublication(pb.SchedulePublicationRequest(name=name))
    materialise(database, name)
    seen: queue.Queue[pb.WatchDeliveriesResponse] = queue.Queue()
    stream = stub.WatchDeliveries(pb.WatchDeliveriesRequest(parent=name), timeout=30)
    follow(stream, seen)
    begin = [seen.get(timeout=10) for _ in range(2)]

    first, second = lease(database)
    changes = [seen.get(timeout=10) for _ in range(2)]
    stream.cancel()
    record(database, first, posted(1))
    record(database, second, posted(2))
    again = stub.WatchDeliveries(
        pb.WatchDeliveriesRequest(parent=name, after_sequence=changes[-1].sequence), timeout=30
    )
    missed = [next(again), next(again)]
    again.cancel()

    assert {each.delivery.state for each in begin} == {pb.Delivery.QUEUED}
    assert {each.delivery.name for each in changes} == {each.delivery.name for each in begin}
    assert [each.delivery.state for each in missed] == [pb.Delivery.PUBLISHED] * 2


def test_interactions__come_in_and_are_answered(
    database: TemporaryDatabase, server: RunningServer, stub: pb_grpc.PublishingServiceStub
) -> None:
    """A watcher sees the question at once; a responder answers it; it is answered when the post is there."""
    bind(database, make_account(1))
    seen: queue.Queue[pb.WatchInteractionsResponse] = queue.Queue()
    stream = stub.WatchInteractions(pb.WatchInteractionsRequest(parent=ENTERPRISE), timeout=30)
    begun = follow(stream, seen)
    begun.wait(10)
    stub.ListInteractions(pb.ListInteractionsRequest(parent=ENTERPRISE))
    with database.transaction(Tenant(ENTERPRISE)) as tx:
        usecases.record_notifications(tx, make_account(1), [make_notification()], "", "n1")
    responder = pb_grpc.PublishingServiceStub(server.as_(member(ENTERPRISE, ["RESPONDER"])))

    question = seen.get(timeout=10).interaction
    answering = responder.AnswerInteraction(pb.AnswerInteractionRequest(name=question.name, text="Come!"))
    (assignment,) = lease(database)
    record(database, assignment, posted(9))
    after = [seen.get(timeout=10).interaction.state for _ in range(2)]
    stream.cancel()

    assert (question.kind, question.text) == (pb.Interaction.COMMENT, "How much is it?")
    assert answering.state == pb.Interaction.ANSWERING
    assert after[-1] == pb.Interaction.ANSWERED
    listed = stub.ListInteractions(pb.ListInteractionsRequest(parent=ENTERPRISE)).interactions
    assert [each.name for each in listed] == [question.name]
    answer = stub.GetDelivery(pb.GetDeliveryRequest(name=listed[0].answer))
    assert (answer.state, answer.network_post_id) == (pb.Delivery.PUBLISHED, "post9")


def follow(stream: Any, seen: queue.Queue[Any]) -> threading.Event:
    """Read a stream in a thread, until it is cancelled; the event is set when the server has begun to answer."""
    begun = threading.Event()

    def read() -> None:
        try:
            stream.initial_metadata()
            begun.set()
            for each in stream:
                seen.put(each)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.CANCELLED  # noqa: PT017

    threading.Thread(target=read, daemon=True).start()
    return begun
