"""Freezes: what they hold, what goes on, and what becomes of that which waited."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.publishing.v1 import freezes_pb2 as pb
from numerator.publishing.v1 import freezes_pb2_grpc as pb_grpc

from services.chassis.clock import FixedClock
from services.chassis.database import PLATFORM, Database
from services.chassis.principal import Principal
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.rpc import RunningServer, client, member, operator
from services.publishing import store, usecases
from services.publishing.model.deliveries import DeliveryState, Step, Timeline, Unknown
from services.publishing.model.freezes import FROZEN
from services.publishing.model.interactions import InteractionState
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account
from services.publishing.tests.test_interactions import make_notification
from services.publishing.tests.test_usecases import (
    POLICY,
    TENANT,
    bind,
    lease,
    outbox,
    posted,
    publish,
    read_deliveries,
    receive,
    record,
    states,
)
from services.publishing.worker import Worker

GROUPS = f"{ENTERPRISE}/accountGroups"
FIRST, SECOND = make_account(1).name, make_account(2).name


class Brake:
    """The service, as one caller uses it."""

    def __init__(self, server: RunningServer, principal: Principal) -> None:
        self.stub = pb_grpc.FreezeServiceStub(server.as_(principal))

    def freeze(self, **fields: Any) -> pb.Freeze:
        freeze = pb.Freeze(**({"reason": "A crisis"} | fields))
        return self.stub.CreateFreeze(pb.CreateFreezeRequest(parent=ENTERPRISE, freeze=freeze))

    def get(self, freeze: pb.Freeze) -> pb.Freeze:
        return self.stub.GetFreeze(pb.GetFreezeRequest(name=freeze.name))

    def lift(self, freeze: pb.Freeze) -> pb.Freeze:
        return self.stub.LiftFreeze(pb.LiftFreezeRequest(name=freeze.name))

    def list(self, **fields: Any) -> list[str]:
        return [
            each.name
            for each in self.stub.ListFreezes(pb.ListFreezesRequest(parent=ENTERPRISE, **fields)).freezes
        ]


@pytest.fixture
def brake(server: RunningServer) -> Brake:
    return Brake(server, member(ENTERPRISE))


def place(database: Database, account: str, *groups: str, version: int = 1) -> None:
    with database.transaction(TENANT) as tx:
        usecases.place_accounts(tx, ENTERPRISE, [(account, groups)], version)


def leased(database: Database) -> list[str]:
    return sorted(each.account.name for each in lease(database))


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, error_from_rpc(raised.value).reason


def test_freeze__one_account__others_go_on(database: TemporaryDatabase, brake: Brake) -> None:
    """Its due post waits, says why, and goes out when the freeze is lifted."""
    bind(database, make_account(1), make_account(2))
    publication = publish(database)

    freeze = brake.freeze(account=FIRST)
    sent = leased(database)
    held, _ = read_deliveries(database, publication)
    lifted = brake.lift(freeze)

    assert sent == [SECOND]
    assert (held.state, held.freeze) == (DeliveryState.QUEUED, freeze.name)
    assert (freeze.state, freeze.account, freeze.creator) == (
        pb.Freeze.ACTIVE, FIRST, f"{ENTERPRISE}/members/tester",
    )  # fmt: skip
    assert (lifted.state, lifted.lifter) == (pb.Freeze.LIFTED, f"{ENTERPRISE}/members/tester")
    assert leased(database) == [FIRST]


def test_freeze__group__holds_its_subtree_and_who_comes_into_it(
    database: TemporaryDatabase, brake: Brake
) -> None:
    """Also an account that is moved there later, until it is moved out again; a sibling is free."""
    bind(database, *(make_account(number) for number in (1, 2, 3)))
    place(database, FIRST, "hq", "north", "branch")
    place(database, SECOND, "hq", "south")
    brake.freeze(account_group=f"{GROUPS}/north")
    publish(database)

    place(database, SECOND, "hq", "north", version=2)
    assert leased(database) == [make_account(3).name]
    place(database, FIRST, "hq", "south", version=2)
    assert leased(database) == [FIRST]


def test_freeze__whole_enterprise__holds_what_is_bound_later(
    database: TemporaryDatabase, brake: Brake
) -> None:
    """Nothing goes out, from no account of the enterprise."""
    bind(database, make_account(1))
    brake.freeze(whole_enterprise=True)
    bind(database, make_account(2))
    publish(database)

    assert leased(database) == []


def test_freeze__in_flight__is_listed_until_it_has_ended(database: TemporaryDatabase, brake: Brake) -> None:
    """What was SENDING or in doubt may still appear; it ends as it ends."""
    bind(database, make_account(1), make_account(2), make_account(3))
    place(database, make_account(3).name, "elsewhere")
    publish(database)
    first, second, _ = sorted(lease(database), key=lambda each: each.account.name)
    record(database, second, Unknown("NO_REPLY"))
    place(database, FIRST, "here")
    place(database, SECOND, "here")

    freeze = brake.freeze(account_group=f"{GROUPS}/here")
    record(database, first, posted())

    assert [(each.delivery, each.account, each.state) for each in freeze.in_flight] == [
        (first.delivery.name, FIRST, 2), (second.delivery.name, SECOND, 5),
    ]  # fmt: skip
    assert all(each.since_time.ToDatetime(NOON.tzinfo) == NOON for each in freeze.in_flight)
    assert [each.delivery for each in brake.get(freeze).in_flight] == [second.delivery.name]
    assert not brake.get(brake.lift(freeze)).in_flight


def test_freeze__in_doubt__is_looked_up_and_not_sent_again(
    database: TemporaryDatabase, brake: Brake, clock: FixedClock
) -> None:
    """A resend under the same key is a send; reading the timeline is none. Surely absent, it waits as the others."""
    bind(database, make_account(1))
    publication = publish(database)
    (sending,) = lease(database)
    record(database, sending, Unknown("NO_REPLY"))
    freeze = brake.freeze(account=FIRST)

    clock.advance(POLICY.server_margin + POLICY.visibility_lag + POLICY.first_delay)
    (lookup,) = lease(database)
    with database.transaction(TENANT) as tx:
        usecases.record_lookup(tx, lookup, Timeline((), complete=True), tx.now, POLICY)

    assert lookup.step is Step.LOOK_UP  # although the network honours keys
    assert states(database, publication) == ["QUEUED"]
    assert lease(database) == []
    brake.lift(freeze)
    (again,) = lease(database)
    assert (again.step, again.delivery.key) == (Step.SEND, sending.delivery.key)


def test_freeze__answer_to_a_person__waits_too(database: TemporaryDatabase, brake: Brake) -> None:
    """It may be given, and goes out when the freeze is lifted."""
    bind(database, make_account(1))
    receive(database, make_account(1), [make_notification()])
    freeze = brake.freeze(account=FIRST)
    with database.transaction(TENANT) as tx:
        (question,) = store.interactions(tx, ENTERPRISE, None, 10)
        answering = usecases.answer_interaction(tx, ENTERPRISE, question.name, "Come!")

    assert answering.state is InteractionState.ANSWERING
    assert lease(database) == []
    brake.lift(freeze)
    assert leased(database) == [FIRST]


def test_freeze__two__hold_until_both_are_lifted(database: TemporaryDatabase, brake: Brake) -> None:
    """Lifting one does not open what another holds; lifting it again changes nothing."""
    bind(database, make_account(1))
    publish(database)
    one, all_ = brake.freeze(account=FIRST), brake.freeze(whole_enterprise=True)

    brake.lift(one)
    brake.lift(one)

    assert leased(database) == []
    assert brake.list() == [all_.name]
    assert brake.list(show_lifted=True) == [all_.name, one.name]
    brake.lift(all_)
    assert leased(database) == [FIRST]
    assert outbox(database)[-4:] == [
        "publishing.freeze.set", "publishing.freeze.set", "publishing.freeze.lifted", "publishing.freeze.lifted",
    ]  # fmt: skip


def test_lift__cancel__ends_what_became_due_and_keeps_the_rest(
    database: TemporaryDatabase, brake: Brake, clock: FixedClock
) -> None:
    """With the reason; what is due later goes out in its time."""
    bind(database, make_account(1))
    due = publish(database)
    later = publish(database, schedule_time=NOON + timedelta(hours=1))
    freeze = brake.freeze(account=FIRST, on_lift=pb.Freeze.CANCEL)

    brake.lift(freeze)

    (cancelled,) = read_deliveries(database, due)
    assert (cancelled.state, cancelled.reason) == (DeliveryState.CANCELLED, FROZEN)
    assert states(database, later) == ["QUEUED"]
    assert lease(database) == []
    clock.advance(timedelta(hours=1))
    assert leased(database) == [FIRST]


def test_freeze__expires__is_lifted_by_the_worker(
    database: TemporaryDatabase, brake: Brake, clock: FixedClock, worker: Worker
) -> None:
    """Not before its time, and with what it says about what waited."""
    bind(database, make_account(1))
    publication = publish(database)
    end = Timestamp()
    end.FromDatetime(NOON + timedelta(minutes=5))
    freeze = brake.freeze(account=FIRST, expire_time=end, on_lift=pb.Freeze.CANCEL)

    clock.advance(timedelta(minutes=5) - timedelta(microseconds=1))
    worker.lift_expired_freezes(database)
    assert brake.get(freeze).state == pb.Freeze.ACTIVE
    clock.advance(timedelta(microseconds=1))
    assert lease(database) == []  # nothing is sent between its end and its lifting
    worker.lift_expired_freezes(database)

    after = brake.get(freeze)
    assert (after.state, after.lifter) == (pb.Freeze.LIFTED, "")
    assert states(database, publication) == ["CANCELLED"]


def test_freeze__of_the_platform__only_operators_lift(
    database: TemporaryDatabase, server: RunningServer, brake: Brake
) -> None:
    """The platform's emergency brake is not released by those whom it brakes."""
    platform = Brake(server, operator())
    freeze = platform.freeze(whole_enterprise=True)

    assert refusal(lambda: brake.lift(freeze)) == ("PERMISSION_DENIED", "FREEZE_OF_PLATFORM")
    assert brake.get(freeze).state == pb.Freeze.ACTIVE
    assert platform.lift(freeze).state == pb.Freeze.LIFTED


def test_freeze__wrong_fields__are_told(database: TemporaryDatabase, brake: Brake) -> None:
    """No target, another enterprise's, no such account, no reason, a past end."""
    past = Timestamp()
    past.FromDatetime(NOON)

    assert refusal(brake.freeze)[0] == "INVALID_ARGUMENT"
    assert refusal(lambda: brake.freeze(whole_enterprise=False))[0] == "INVALID_ARGUMENT"
    assert refusal(lambda: brake.freeze(account="enterprises/other/accounts/a"))[0] == "INVALID_ARGUMENT"
    assert refusal(lambda: brake.freeze(account_group=FIRST.replace("accounts", "modules")))[0] == (
        "INVALID_ARGUMENT"
    )
    assert refusal(lambda: brake.freeze(account=FIRST))[0] == "NOT_FOUND"
    assert refusal(lambda: brake.freeze(whole_enterprise=True, reason=" "))[0] == "INVALID_ARGUMENT"
    assert refusal(lambda: brake.freeze(whole_enterprise=True, expire_time=past))[0] == "INVALID_ARGUMENT"


def granted(right: str, *groups: str) -> Principal:
    """An agency's member, with one role in some groups of its client."""
    return Principal("MEMBER", "enterprises/agency/members/m", ENTERPRISE, grants={right: frozenset(groups)})


def test_freeze__rights_in_a_group__reach_its_subtree_only(
    database: TemporaryDatabase, server: RunningServer, brake: Brake
) -> None:
    """Out of reach: as if there were none, for who sees nothing else; told, for who does."""
    bind(database, make_account(1), make_account(2))
    place(database, FIRST, "hq", "north", "branch")
    place(database, SECOND, "hq", "south")
    agency = Brake(server, granted("EDITOR", "north"))
    analyst = Brake(
        server,
        Principal(
            "MEMBER",
            f"{ENTERPRISE}/members/m",
            ENTERPRISE,
            roles=frozenset({"ANALYST"}),
            grants={"EDITOR": frozenset({"north"})},
        ),
    )

    own = [
        agency.freeze(account=FIRST),
        agency.freeze(account_group=f"{GROUPS}/north"),
        agency.freeze(account_group=f"{GROUPS}/branch"),
    ]
    for fields in (
        {"account": SECOND}, {"account_group": f"{GROUPS}/south"}, {"account_group": f"{GROUPS}/hq"},
        {"account_group": f"{GROUPS}/unknown"}, {"whole_enterprise": True},
    ):  # fmt: skip
        assert refusal(lambda given=fields: agency.freeze(**given))[0] == "NOT_FOUND"
        assert refusal(lambda given=fields: analyst.freeze(**given)) == ("PERMISSION_DENIED", "OUT_OF_REACH")
    above, beside = brake.freeze(account_group=f"{GROUPS}/hq"), brake.freeze(account=SECOND)

    assert agency.list() == [above.name, *(each.name for each in reversed(own))]
    assert analyst.list() == [beside.name, *agency.list()]
    assert refusal(lambda: agency.get(beside))[0] == "NOT_FOUND"
    assert refusal(lambda: agency.lift(beside))[0] == "NOT_FOUND"
    assert refusal(lambda: agency.lift(above))[0] == "NOT_FOUND"
    assert refusal(lambda: analyst.lift(above)) == ("PERMISSION_DENIED", "OUT_OF_REACH")
    assert agency.lift(own[0]).state == pb.Freeze.LIFTED


def test_freeze__in_flight_out_of_reach__is_not_shown(
    database: TemporaryDatabase, server: RunningServer, brake: Brake
) -> None:
    """Who reaches one account of a frozen enterprise hears what is under way on that one."""
    bind(database, make_account(1), make_account(2))
    place(database, FIRST, "north")
    publish(database)
    lease(database)
    freeze = brake.freeze(whole_enterprise=True)

    seen = Brake(server, granted("ANALYST", "north")).get(freeze)

    assert len(freeze.in_flight) == 2
    assert [each.account for each in seen.in_flight] == [FIRST]


@pytest.mark.parametrize(
    ("principal", "reason"),
    [
        (member(ENTERPRISE, ["RESPONDER"]), "ROLE_MISSING"),
        (member(ENTERPRISE, ["ANALYST"]), "ROLE_MISSING"),
        (client(ENTERPRISE, ["publications.read"]), "SCOPE_MISSING"),
        (granted("RESPONDER", "north"), "ROLE_MISSING"),
    ],
)
def test_freeze__not_allowed__is_refused(server: RunningServer, principal: Principal, reason: str) -> None:
    """Who may not publish may not stop publishing either."""
    brake = Brake(server, principal)

    assert refusal(lambda: brake.freeze(whole_enterprise=True)) == ("PERMISSION_DENIED", reason)


def test_freeze__same_request_id__one_effect(brake: Brake) -> None:
    """A repeated request gets the answer of the first, with what was in flight then."""
    request = pb.CreateFreezeRequest(
        parent=ENTERPRISE, freeze=pb.Freeze(whole_enterprise=True, reason="x"), request_id="r1"
    )

    assert brake.stub.CreateFreeze(request) == brake.stub.CreateFreeze(request)
    assert len(brake.list()) == 1


def test_oldest_due__frozen__does_not_count(database: TemporaryDatabase, brake: Brake) -> None:
    """Nobody is woken because a post waits that must wait."""
    bind(database, make_account(1))
    publish(database)
    brake.freeze(account=FIRST)

    with database.transaction(PLATFORM) as tx:
        assert store.oldest_due(tx) is None
        assert (store.count_frozen_accounts(tx), store.count_held(tx)) == (1, 1)
