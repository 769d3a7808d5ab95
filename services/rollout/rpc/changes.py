"""`ChangeService`: plans that others have to approve."""

from datetime import UTC, datetime

import grpc
from numerator.rollout.v1 import changes_pb2 as pb
from numerator.rollout.v1 import changes_pb2_grpc as pb_grpc

from services.chassis.database import Transaction
from services.chassis.timestamps import stamp
from services.rollout import changes, plan, usecases
from services.rollout.rpc import Servicer, actor, page


class ChangeServicer(Servicer, pb_grpc.ChangeServiceServicer):
    """Serves `numerator.rollout.v1.ChangeService`."""

    def CreateChangeRequest(
        self, request: pb.CreateChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        asked, proposed, who = request.change_request, plan.parse(request.change_request.plan), actor()
        time = asked.schedule_time.ToDatetime(UTC) if asked.HasField("schedule_time") else None

        def propose(tx: Transaction) -> pb.ChangeRequest:
            rollout = usecases.get_rollout(tx, request.parent)
            return _change(
                changes.propose(
                    tx, rollout=rollout, plan=proposed, author=who, reason=asked.reason, schedule_time=time
                )
            )

        return self.write(request, propose)

    def GetChangeRequest(
        self, request: pb.GetChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        return self.read(lambda tx: _change(changes.get(tx, request.name)))

    def ListChangeRequests(
        self, request: pb.ListChangeRequestsRequest, context: grpc.ServicerContext
    ) -> pb.ListChangeRequestsResponse:
        def find(tx: Transaction) -> pb.ListChangeRequestsResponse:
            usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (datetime, str),
                lambda limit, after: changes.page(
                    tx, request.parent, limit=limit, before=(str(after[0]), str(after[1])) if after else None
                ),
                lambda each: (each.create_time.isoformat(), each.name),
            )
            return pb.ListChangeRequestsResponse(
                change_requests=[_change(each) for each in found], next_page_token=token
            )

        return self.read(find)

    def EditChangeRequest(
        self, request: pb.EditChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        proposed, who = plan.parse(request.plan), actor()
        return self.write(
            request,
            lambda tx: _change(
                changes.edit(tx, request.name, actor=who, plan=proposed, reason=request.reason)
            ),
        )

    def ApproveChangeRequest(
        self, request: pb.ApproveChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        return self.write(
            request,
            lambda tx: _change(
                changes.approve(tx, request.name, actor=actor(), content_hash=request.content_hash)
            ),
        )

    def RejectChangeRequest(
        self, request: pb.RejectChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        return self.write(
            request,
            lambda tx: _change(changes.reject(tx, request.name, actor=actor(), reason=request.reason)),
        )

    def CancelChangeRequest(
        self, request: pb.CancelChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        return self.write(request, lambda tx: _change(changes.cancel(tx, request.name, actor=actor())))

    def ApplyChangeRequest(
        self, request: pb.ApplyChangeRequestRequest, context: grpc.ServicerContext
    ) -> pb.ChangeRequest:
        return self.write(
            request,
            lambda tx: _change(
                changes.apply(tx, request.name, actor=actor(), apply_plan=usecases.apply_plan)
            ),
        )


def _change(it: changes.ChangeRequest) -> pb.ChangeRequest:
    return pb.ChangeRequest(
        name=it.name,
        kind=pb.ChangeRequest.Kind.Value(it.kind),
        state=pb.ChangeRequest.State.Value(it.state),
        plan=it.plan,
        reason=it.reason,
        author=it.author,
        content_hash=it.content_hash,
        base_version=it.base_version,
        approvers=it.approvers,
        approvals_needed=it.approvals_needed,
        schedule_time=stamp(it.schedule_time) if it.schedule_time else None,
        create_time=stamp(it.create_time),
        update_time=stamp(it.update_time),
    )
