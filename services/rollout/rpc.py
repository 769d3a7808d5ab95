"""The gRPC face of rollout: proto to model and back, nothing else."""

from collections.abc import Callable, Sequence

import grpc
from google.protobuf.message import Message
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.database import Database, Transaction
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp
from services.rollout import store, usecases
from services.rollout.model import ROLLOUT_NAME, Record, Rollout, Stage, next_step


class RolloutServicer(pb_grpc.RolloutServiceServicer):
    """Serves `numerator.rollout.v1.RolloutService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def CreateRollout(self, request: pb.CreateRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        name = ROLLOUT_NAME.format(rollout=request.rollout_id)
        stages = [Stage(stage.id, stage.basis_points, stage.quota) for stage in request.rollout.stages]

        def create(tx: Transaction) -> Rollout:
            return usecases.create_rollout(tx, name=name, flag=request.rollout.flag, stages=stages)

        return self._write(request, create)

    def GetRollout(self, request: pb.GetRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        with self._database.transaction(current_call().scope) as tx:
            return _rollouts(tx, [usecases.get_rollout(tx, request.name)])[0]

    def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: grpc.ServicerContext
    ) -> pb.ListRolloutsResponse:
        size, after = page_size(request.page_size), decode_token(request.page_token, query=request)
        with self._database.transaction(current_call().scope) as tx:
            found = store.list_rollouts(
                tx, limit=size + 1, before=(str(after[0]), str(after[1])) if after else None
            )
            rollouts = _rollouts(tx, found[:size])
        token = ""
        if len(found) > size:
            last = found[size - 1]
            token = encode_token((last.create_time.isoformat(), last.name), query=request)
        return pb.ListRolloutsResponse(rollouts=rollouts, next_page_token=token)

    def StartRollout(self, request: pb.StartRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.start(tx, request.name, request.etag))

    def AdvanceRollout(self, request: pb.AdvanceRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.advance(tx, request.name, request.etag))

    def RollbackRollout(
        self, request: pb.RollbackRolloutRequest, context: grpc.ServicerContext
    ) -> pb.Rollout:
        return self._write(
            request, lambda tx: usecases.rollback(tx, request.name, request.etag, request.reason)
        )

    def PauseRollout(self, request: pb.PauseRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.pause(tx, request.name, request.etag, request.reason))

    def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.resume(tx, request.name, request.etag))

    def KillRollout(self, request: pb.KillRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.kill(tx, request.name, request.etag, request.reason))

    def UnkillRollout(self, request: pb.UnkillRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._write(request, lambda tx: usecases.unkill(tx, request.name, request.etag))

    def ListAdmissions(
        self, request: pb.ListAdmissionsRequest, context: grpc.ServicerContext
    ) -> pb.ListAdmissionsResponse:
        size, after = page_size(request.page_size), decode_token(request.page_token, query=request)
        with self._database.transaction(current_call().scope) as tx:
            rollout = usecases.get_rollout(tx, request.parent)
            found = store.page_records(
                tx, rollout, limit=size + 1, after=(int(after[0]), int(after[1])) if after else None
            )
        return pb.ListAdmissionsResponse(
            admissions=[_admission(record) for record in found[:size]],
            next_page_token=encode_token(store.listing_key(found[size - 1]), query=request)
            if len(found) > size
            else "",
        )

    def GetEdition(self, request: pb.GetEditionRequest, context: grpc.ServicerContext) -> pb.Edition:
        call = current_call()
        enterprise = call.principal.enterprise or ""
        with self._database.transaction(call.scope) as tx:
            edition = usecases.edition_of(tx, enterprise)
        record = edition.record
        return pb.Edition(
            admitted=edition.admitted,
            state=pb.Admission.State.Value(record.state) if record else pb.Admission.STATE_UNSPECIFIED,
            stage=record.stage if record and edition.admitted else "",
            reason=edition.reason,
            next_step=next_step(edition.reason, enterprise),
            position=record.position if record else 0,
            snapshot_version=edition.snapshot_version,
            enterprise=enterprise,
        )

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.Snapshot:
        with self._database.transaction(current_call().scope) as tx:
            newest = store.get_snapshot(tx)
        if newest is None:
            return pb.Snapshot()
        version, sha256, document = newest
        return pb.Snapshot(
            version=version, sha256=sha256, document=b"" if request.if_newer == version else document
        )

    def _write(self, request: Message, change: Callable[[Transaction], Rollout]) -> pb.Rollout:
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: _rollouts(tx, [change(tx)])[0])


def _rollouts(tx: Transaction, rollouts: Sequence[Rollout]) -> list[pb.Rollout]:
    counts = store.count_admissions(tx, [each.name for each in rollouts])
    return [_rollout(each, *counts.get(each.name, (0, 0))) for each in rollouts]


def _rollout(rollout: Rollout, admitted: int, waiting: int) -> pb.Rollout:
    return pb.Rollout(
        name=rollout.name,
        flag=rollout.flag,
        stages=[pb.Stage(id=s.id, basis_points=s.basis_points, quota=s.quota) for s in rollout.stages],
        state=pb.Rollout.State.Value(rollout.state),
        stage=rollout.current_stage.id if rollout.current_stage else "",
        killed=rollout.killed,
        admitted_count=admitted,
        waiting_count=waiting,
        etag=rollout.etag,
        create_time=stamp(rollout.create_time),
        update_time=stamp(rollout.update_time),
    )


def _admission(record: Record) -> pb.Admission:
    return pb.Admission(
        enterprise=record.enterprise,
        state=pb.Admission.State.Value(record.state),
        stage=record.stage,
        reason=record.reason,
        position=record.position,
        bucket=record.bucket,
        admit_time=stamp(record.admit_time) if record.admit_time else None,
    )
