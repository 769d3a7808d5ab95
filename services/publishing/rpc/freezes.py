"""`FreezeService`: the brake."""

from collections.abc import Sequence
from datetime import UTC

import grpc
from numerator.publishing.v1 import freezes_pb2 as pb
from numerator.publishing.v1 import freezes_pb2_grpc as pb_grpc
from numerator.publishing.v1 import publishing_pb2

from services.chassis.database import Transaction
from services.chassis.rpc.call import current_call
from services.publishing import store, usecases
from services.publishing.model.accounts import ACCOUNT
from services.publishing.model.freezes import FREEZE, Freeze, InFlight, OnLift
from services.publishing.model.publications import ENTERPRISE
from services.publishing.rpc import Servicer, enterprise_in, page, present_caller, timestamp


class FreezeServicer(Servicer, pb_grpc.FreezeServiceServicer):
    """Serves `numerator.publishing.v1.FreezeService`."""

    def CreateFreeze(self, request: pb.CreateFreezeRequest, context: grpc.ServicerContext) -> pb.Freeze:
        enterprise, caller, asked = (
            enterprise_in(ENTERPRISE, request.parent, "parent"),
            present_caller(),
            request.freeze,
        )

        def create(tx: Transaction) -> pb.Freeze:
            return _freeze(
                *usecases.create_freeze(
                    tx,
                    enterprise,
                    _target(asked, enterprise),
                    reason=asked.reason,
                    on_lift=OnLift.CANCEL if asked.on_lift == pb.Freeze.CANCEL else OnLift.SEND,
                    expire_time=asked.expire_time.ToDatetime(UTC) if asked.HasField("expire_time") else None,
                    caller=caller,
                )
            )

        return self._write(request, create)

    def GetFreeze(self, request: pb.GetFreezeRequest, context: grpc.ServicerContext) -> pb.Freeze:
        enterprise = enterprise_in(FREEZE, request.name)
        with self._database.transaction(current_call().scope) as tx:
            return _freeze(*usecases.get_freeze(tx, enterprise, request.name, present_caller()))

    def ListFreezes(
        self, request: pb.ListFreezesRequest, context: grpc.ServicerContext
    ) -> pb.ListFreezesResponse:
        enterprise, caller = enterprise_in(ENTERPRISE, request.parent, "parent"), present_caller()
        with self._database.transaction(current_call().scope) as tx:
            found, token = page(
                request,
                lambda after, limit: store.freezes(
                    tx, enterprise, after, limit, lifted=request.show_lifted, caller=caller
                ),
            )
        return pb.ListFreezesResponse(freezes=[_freeze(each) for each in found], next_page_token=token)

    def LiftFreeze(self, request: pb.LiftFreezeRequest, context: grpc.ServicerContext) -> pb.Freeze:
        enterprise, caller = enterprise_in(FREEZE, request.name), present_caller()
        return self._write(
            request, lambda tx: _freeze(usecases.lift_freeze(tx, enterprise, request.name, caller))
        )


def _target(freeze: pb.Freeze, enterprise: str) -> str:
    """What is to be frozen; empty for nothing."""
    match freeze.WhichOneof("target"):
        case "account":
            return freeze.account
        case "account_group":
            return freeze.account_group
        case "whole_enterprise" if freeze.whole_enterprise:
            return enterprise
        case _:
            return ""


def _freeze(freeze: Freeze, under_way: Sequence[InFlight] = ()) -> pb.Freeze:
    told = pb.Freeze(
        name=freeze.name,
        reason=freeze.reason,
        on_lift=pb.Freeze.OnLift.Value(freeze.on_lift),
        expire_time=timestamp(freeze.expire_time),
        state=pb.Freeze.LIFTED if freeze.lift_time else pb.Freeze.ACTIVE,
        creator=freeze.creator,
        create_time=timestamp(freeze.create_time),
        lifter=freeze.lifter,
        lift_time=timestamp(freeze.lift_time),
        in_flight=[
            pb.Freeze.InFlight(
                delivery=each.delivery,
                account=each.account,
                state=publishing_pb2.Delivery.State.Value(each.state),
                since_time=timestamp(each.since),
            )
            for each in under_way
        ],
    )
    if freeze.group_id:
        told.account_group = freeze.target
    elif ACCOUNT.matches(freeze.target):
        told.account = freeze.target
    else:
        told.whole_enterprise = True
    return told
