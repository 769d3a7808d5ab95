"""`ServingService` for gateways, and `FlagService` for operators."""

import json
import zlib

import grpc
from numerator.rollout.v1 import flags_pb2, flags_pb2_grpc
from numerator.rollout.v1 import serving_pb2 as pb
from numerator.rollout.v1 import serving_pb2_grpc as pb_grpc

from services.chassis.database import Transaction
from services.chassis.timestamps import stamp
from services.rollout import flags, measurements, serving, store, usecases
from services.rollout.rpc import Servicer, actor, page


class ServingServicer(Servicer, pb_grpc.ServingServiceServicer):
    """Serves `numerator.rollout.v1.ServingService`."""

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: grpc.ServicerContext) -> pb.Snapshot:
        newest = self.read(serving.get_snapshot)
        if newest is None:
            return pb.Snapshot()
        version, sha256, document = newest
        known = (request.if_newer, request.sha256) == (version, sha256)
        return pb.Snapshot(version=version, sha256=sha256, document=b"" if known else document)

    def GetAdmissions(
        self, request: pb.GetAdmissionsRequest, context: grpc.ServicerContext
    ) -> pb.GetAdmissionsResponse:
        return self.read(lambda tx: serving.admissions_since(tx, request))

    def ReportReplica(
        self, request: pb.ReportReplicaRequest, context: grpc.ServicerContext
    ) -> pb.ReportReplicaResponse:
        def report(tx: Transaction) -> pb.ReportReplicaResponse:
            if request.exposures:
                of_flag = {rollout.flag: rollout.name for rollout in store.all_rollouts(tx)}
                measurements.record_exposures(
                    tx,
                    [
                        measurements.Exposure(of_flag[each.flag], each.stage, each.enterprise, tx.now)
                        for each in request.exposures
                        if each.flag in of_flag
                    ],
                )
            return pb.ReportReplicaResponse(replica_count=serving.save_replica(tx, request))

        return self.read(report)

    def ShowSnapshot(
        self, request: pb.ShowSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.ShowSnapshotResponse:
        def show(tx: Transaction) -> pb.ShowSnapshotResponse:
            version, sha256, packed = serving.get_snapshot(tx) or (0, "", b"")
            return pb.ShowSnapshotResponse(
                version=version,
                sha256=sha256,
                document=zlib.decompress(packed).decode() if packed else "",
                admissions_version=serving.admissions_version(tx).number,
            )

        return self.read(show)

    def ListReplicas(self, request: pb.ListReplicasRequest, context: grpc.ServicerContext) -> pb.Convergence:
        return self.read(serving.convergence)


class FlagServicer(Servicer, flags_pb2_grpc.FlagServiceServicer):
    """Serves `numerator.rollout.v1.FlagService`."""

    def ApplyFlags(
        self, request: flags_pb2.ApplyFlagsRequest, context: grpc.ServicerContext
    ) -> flags_pb2.ApplyFlagsResponse:
        definitions, who = flags.parse(request.document), actor()

        def apply(tx: Transaction) -> flags_pb2.ApplyFlagsResponse:
            changed, deleted = usecases.apply_flags(
                tx, definitions, actor=who, prune=request.prune, dry_run=request.validate_only
            )
            return flags_pb2.ApplyFlagsResponse(changed=changed, deleted=deleted)

        return self.read(apply) if request.validate_only else self.write(request, apply)

    def ListFlags(
        self, request: flags_pb2.ListFlagsRequest, context: grpc.ServicerContext
    ) -> flags_pb2.ListFlagsResponse:
        def find(tx: Transaction) -> flags_pb2.ListFlagsResponse:
            found, token = page(
                request,
                (str,),
                lambda limit, after: serving.page_flags(
                    tx, limit=limit, after=str(after[0]) if after else ""
                ),
                lambda each: (each["key"],),
            )
            return flags_pb2.ListFlagsResponse(
                flags=[
                    flags_pb2.Flag(
                        name=f"flags/{each['key']}",
                        definition=json.dumps(each["definition"], ensure_ascii=False, sort_keys=True),
                        update_time=stamp(each["update_time"]),
                    )
                    for each in found
                ],
                next_page_token=token,
            )

        return self.read(find)

    def DeleteFlag(
        self, request: flags_pb2.DeleteFlagRequest, context: grpc.ServicerContext
    ) -> flags_pb2.Flag:
        key = request.name.removeprefix("flags/")

        def delete(tx: Transaction) -> flags_pb2.Flag:
            definition = usecases.delete_flag(tx, key, actor())
            return flags_pb2.Flag(
                name=request.name, definition=json.dumps(definition, ensure_ascii=False, sort_keys=True)
            )

        return self.write(request, delete)
