"""Rights that hold for some groups of accounts only: what a call sees, and what it may do."""

import queue
from typing import Any

import grpc
import pytest
from numerator.publishing.v1 import publishing_pb2 as pb
from numerator.publishing.v1 import publishing_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import Database
from services.chassis.errors import ServiceError
from services.chassis.principal import Principal
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member, operator
from services.publishing import usecases
from services.publishing.tests.fakes import ENTERPRISE, make_account
from services.publishing.tests.test_freezes import place
from services.publishing.tests.test_interactions import make_notification
from services.publishing.tests.test_rpc import create, follow, materialise
from services.publishing.tests.test_usecases import TENANT, bind, lease, posted, receive, record

NORTH, SOUTH = make_account(1).name, make_account(2).name


def granted(kind: str = "MEMBER", *, roles: Any = (), scopes: Any = (), **grants: str) -> Principal:
    """A caller whose rights hold in groups: a member of an agency, or an app of the enterprise's own."""
    subject = "enterprises/agency/members/m" if kind == "MEMBER" else f"{ENTERPRISE}/clients/crm"
    return Principal(
        kind,
        subject,
        ENTERPRISE,
        roles=frozenset(roles),
        scopes=frozenset(scopes),
        grants={right.replace("_", ".", 1): frozenset({group}) for right, group in grants.items()},
    )


AGENCY = granted(EDITOR="north")
APP = granted(
    "CLIENT",
    publications_write="north",
    publications_read="north",
    interactions_read="north",
    interactions_write="north",
)
BRANCH = granted(EDITOR="north", roles=["ANALYST"])
"""A member of the enterprise's own who reads everything, and edits for some."""


@pytest.fixture(autouse=True)
def accounts(database: TemporaryDatabase) -> None:
    """One account in the north, one in the south, one in no group."""
    bind(database, *(make_account(number) for number in (1, 2, 3)))
    place(database, NORTH, "hq", "north")
    place(database, SOUTH, "hq", "south")


@pytest.fixture
def owner(server: RunningServer) -> pb_grpc.PublishingServiceStub:
    return stub(server, member(ENTERPRISE))


@pytest.fixture(params=[AGENCY, APP, BRANCH], ids=["agency", "app", "branch"])
def editor(request: pytest.FixtureRequest) -> Principal:
    return request.param


def stub(server: RunningServer, principal: Principal) -> pb_grpc.PublishingServiceStub:
    return pb_grpc.PublishingServiceStub(server.as_(principal))


def refusal(call: Any) -> ServiceError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return error_from_rpc(raised.value)


def scheduled(database: Database, owner: pb_grpc.PublishingServiceStub, *accounts: str) -> str:
    name = create(owner, accounts=accounts).name
    owner.SchedulePublication(pb.SchedulePublicationRequest(name=name))
    materialise(database, name)
    return name


def test_publication__within_reach__from_draft_to_done(
    database: TemporaryDatabase, server: RunningServer, editor: Principal
) -> None:
    """Who has the right in a group does there what an owner does everywhere, and is noted as the one who did."""
    own = stub(server, editor)

    draft = create(own, accounts=[NORTH])
    own.SchedulePublication(pb.SchedulePublicationRequest(name=draft.name))
    materialise(database, draft.name)
    (delivery,) = own.ListDeliveries(pb.ListDeliveriesRequest(parent=draft.name)).deliveries
    cancelled = own.CancelPublication(pb.CancelPublicationRequest(name=draft.name))

    assert draft.creator == editor.subject
    assert own.GetDelivery(pb.GetDeliveryRequest(name=delivery.name)).account == NORTH
    assert cancelled.state == pb.Publication.CANCELLED


@pytest.mark.parametrize("fields", [{}, {"accounts": [NORTH, SOUTH]}, {"exclude_accounts": [SOUTH]}])
def test_create__reaches_further__is_refused(
    server: RunningServer, editor: Principal, fields: dict[str, Any]
) -> None:
    """All bound accounts are too many; accounts are named only to who may see them."""
    error = refusal(lambda: create(stub(server, editor), **fields))

    named = SOUTH in fields.get("accounts", ())
    if editor is BRANCH:
        assert (error.reason, error.metadata["accounts"].split(",")[0]) == (
            "OUT_OF_REACH",
            make_account(3).name if "exclude_accounts" in fields else SOUTH,
        )
    elif named:
        assert error.reason == "NOT_FOUND"
    else:
        assert (error.reason, error.metadata["accounts"]) == ("OUT_OF_REACH", "")


def test_plan_schedule_cancel__reach_further__are_refused(
    server: RunningServer, owner: pb_grpc.PublishingServiceStub, editor: Principal
) -> None:
    """A publication that one may see, because it has an account in one's group, is not one's to send or stop."""
    name, own = create(owner, accounts=[NORTH, SOUTH]).name, stub(server, editor)

    assert own.GetPublication(pb.GetPublicationRequest(name=name)).name == name
    calls = [
        lambda: own.SchedulePublication(pb.SchedulePublicationRequest(name=name)),
        lambda: own.CancelPublication(pb.CancelPublicationRequest(name=name)),
    ]
    if editor is not BRANCH:
        calls.append(lambda: own.PlanPublication(pb.PlanPublicationRequest(name=name)))
    expected = "OUT_OF_REACH" if editor is BRANCH else "NOT_FOUND"
    assert {refusal(call).reason for call in calls} == {expected}
    owner.SchedulePublication(pb.SchedulePublicationRequest(name=name))
    assert refusal(calls[1]).reason == expected
    assert owner.GetPublication(pb.GetPublicationRequest(name=name)).state == pb.Publication.SCHEDULED


def test_plan__within_reach__shows_nobody_elses_accounts(server: RunningServer) -> None:
    """The rows of accounts out of reach are left out, although they say only that nothing goes there."""
    own = stub(server, AGENCY)
    name = create(own, accounts=[NORTH]).name

    entries = own.PlanPublication(pb.PlanPublicationRequest(name=name)).entries

    assert [entry.account for entry in entries] == [NORTH]


@pytest.mark.parametrize("editor", [AGENCY, APP], indirect=True, ids=["agency", "app"])
def test_read__publications__only_what_concerns_ones_groups(
    database: TemporaryDatabase,
    server: RunningServer,
    owner: pb_grpc.PublishingServiceStub,
    editor: Principal,
) -> None:
    """Drafts and scheduled ones that have an account there; the rest does not exist."""
    own = stub(server, editor)
    seen = [
        create(owner).name,
        create(owner, accounts=[NORTH]).name,
        scheduled(database, owner, NORTH, SOUTH),
        create(own, accounts=[NORTH]).name,
    ]
    hidden = [
        create(owner, accounts=[SOUTH]).name,
        create(owner, exclude_accounts=[NORTH]).name,
        scheduled(database, owner, SOUTH),
    ]

    listed = own.ListPublications(pb.ListPublicationsRequest(parent=ENTERPRISE)).publications

    assert {each.name for each in listed} == set(seen)
    assert own.GetPublication(pb.GetPublicationRequest(name=seen[2])).name == seen[2]
    for name in hidden:
        for call in (
            lambda name=name: own.GetPublication(pb.GetPublicationRequest(name=name)),
            lambda name=name: own.PlanPublication(pb.PlanPublicationRequest(name=name)),
            lambda name=name: own.SchedulePublication(pb.SchedulePublicationRequest(name=name)),
            lambda name=name: own.CancelPublication(pb.CancelPublicationRequest(name=name)),
            lambda name=name: own.ListDeliveries(pb.ListDeliveriesRequest(parent=name)),
            lambda name=name: next(own.WatchDeliveries(pb.WatchDeliveriesRequest(parent=name))),
        ):
            assert refusal(call).reason == "NOT_FOUND"


def test_read__ones_own__also_after_the_group_was_lost(
    database: TemporaryDatabase, server: RunningServer
) -> None:
    """Who made a publication may read it, and not its deliveries elsewhere."""
    own = stub(server, AGENCY)
    name = scheduled(database, own, NORTH)
    place(database, NORTH, "hq", "south", version=2)

    assert own.GetPublication(pb.GetPublicationRequest(name=name)).creator == AGENCY.subject
    assert not own.ListDeliveries(pb.ListDeliveriesRequest(parent=name)).deliveries
    assert refusal(lambda: own.CancelPublication(pb.CancelPublicationRequest(name=name))).reason == (
        "NOT_FOUND"
    )


@pytest.mark.parametrize("principal", [BRANCH, operator(), client(ENTERPRISE, ["publications.read"])])
def test_read__everything__for_who_may(
    server: RunningServer, owner: pb_grpc.PublishingServiceStub, principal: Principal
) -> None:
    """A right in the whole enterprise is not made smaller by one in a group."""
    names = {create(owner, accounts=[account]).name for account in (NORTH, SOUTH)}

    listed = stub(server, principal).ListPublications(pb.ListPublicationsRequest(parent=ENTERPRISE))

    assert {each.name for each in listed.publications} == names


def test_deliveries__out_of_reach__are_left_out(
    database: TemporaryDatabase, server: RunningServer, owner: pb_grpc.PublishingServiceStub
) -> None:
    """In lists, streams and by name."""
    own = stub(server, AGENCY)
    name = scheduled(database, owner, NORTH, SOUTH)
    north, south = owner.ListDeliveries(pb.ListDeliveriesRequest(parent=name)).deliveries
    seen: queue.Queue[pb.WatchDeliveriesResponse] = queue.Queue()
    stream = own.WatchDeliveries(pb.WatchDeliveriesRequest(parent=name), timeout=30)
    follow(stream, seen)
    begin = seen.get(timeout=10)

    assignments = sorted(lease(database), key=lambda each: each.account.name, reverse=True)
    for number, assignment in enumerate(assignments):
        record(database, assignment, posted(number))
    changes = [seen.get(timeout=10).delivery for _ in range(2)]
    stream.cancel()

    listed = own.ListDeliveries(pb.ListDeliveriesRequest(parent=name)).deliveries
    assert [each.name for each in listed] == [north.name]
    assert {each.name for each in (begin.delivery, *changes)} == {north.name}
    assert refusal(lambda: own.GetDelivery(pb.GetDeliveryRequest(name=south.name))).reason == "NOT_FOUND"


def test_interactions__out_of_reach__are_left_out_and_not_answered(
    database: TemporaryDatabase,
    server: RunningServer,
    owner: pb_grpc.PublishingServiceStub,
    clock: FixedClock,
) -> None:
    """A responder of the north hears of the north's questions, and answers them."""
    own = stub(server, granted(RESPONDER="north"))
    seen: queue.Queue[pb.WatchInteractionsResponse] = queue.Queue()
    stream = own.WatchInteractions(pb.WatchInteractionsRequest(parent=ENTERPRISE), timeout=30)
    follow(stream, seen).wait(10)
    own.ListInteractions(pb.ListInteractionsRequest(parent=ENTERPRISE))
    receive(database, make_account(2), [make_notification()])
    receive(database, make_account(1), [make_notification()])
    everything = owner.ListInteractions(pb.ListInteractionsRequest(parent=ENTERPRISE)).interactions
    (south,) = [each.name for each in everything if each.account == SOUTH]

    first = seen.get(timeout=10).interaction
    stream.cancel()
    listed = own.ListInteractions(pb.ListInteractionsRequest(parent=ENTERPRISE)).interactions

    assert first.account == NORTH
    assert [each.name for each in listed] == [first.name]
    assert own.GetInteraction(pb.GetInteractionRequest(name=first.name)) == first
    assert refusal(lambda: own.GetInteraction(pb.GetInteractionRequest(name=south))).reason == "NOT_FOUND"
    answer = pb.AnswerInteractionRequest(name=south, text="Come!")
    assert refusal(lambda: own.AnswerInteraction(answer)).reason == "NOT_FOUND"
    assert refusal(lambda: stub(server, BRANCH).AnswerInteraction(answer)).reason == "OUT_OF_REACH"
    answered = own.AnswerInteraction(pb.AnswerInteractionRequest(name=first.name, text="Come!"))
    assert answered.state == pb.Interaction.ANSWERING


def test_place__older_event_later__changes_nothing(database: TemporaryDatabase) -> None:
    """A place is as the newest event says, and is kept although it was told before the account was."""
    place(database, make_account(9).name, "hq", "east", version=2)
    place(database, make_account(9).name, "hq", "west", version=1)
    bind(database, make_account(9))

    with database.transaction(TENANT) as tx:
        assert usecases.store.groups_of(tx, ENTERPRISE, make_account(9).name) == ("hq", "east")
