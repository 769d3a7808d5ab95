"""`AuditService`: what was done, and the proof of it."""

import json
from pathlib import Path

import grpc
from numerator.rollout.v1 import audit_pb2 as pb
from numerator.rollout.v1 import audit_pb2_grpc as pb_grpc

from services.chassis.database import Database, Transaction
from services.chassis.timestamps import stamp
from services.rollout import audit
from services.rollout.rpc import Servicer, page


class AuditServicer(Servicer, pb_grpc.AuditServiceServicer):
    """Serves `numerator.rollout.v1.AuditService`; `anchors` is the directory outside the database."""

    def __init__(self, database: Database, anchors: Path | None) -> None:
        super().__init__(database)
        self._anchors = anchors

    def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditEventsResponse:
        def find(tx: Transaction) -> pb.ListAuditEventsResponse:
            found, token = page(
                request,
                (int,),
                lambda limit, after: audit.list_events(
                    tx, request.rollout or None, limit=limit, after=int(after[0]) if after else None
                ),
                lambda each: (each.sequence,),
            )
            return pb.ListAuditEventsResponse(events=[_event(each) for each in found], next_page_token=token)

        return self.read(find)

    def VerifyAudit(
        self, request: pb.VerifyAuditRequest, context: grpc.ServicerContext
    ) -> pb.VerifyAuditResponse:
        def verify(tx: Transaction) -> pb.VerifyAuditResponse:
            found = audit.verify(tx, self._anchors)
            newest = audit.list_events(tx, None, limit=1)
            return pb.VerifyAuditResponse(
                ok=found.ok,
                checked_count=found.checked,
                anchored_count=found.anchored,
                head=newest[0].hash if newest else "",
                mistakes=[pb.AuditMistake(sequence=each.sequence, what=each.what) for each in found.mistakes],
            )

        return self.read(verify)


def _event(it: audit.AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        sequence=it.sequence,
        time=stamp(it.time),
        actor=it.actor,
        cause=it.cause,
        rollout=it.rollout,
        enterprise=it.enterprise or "",
        detail=json.dumps(it.detail, ensure_ascii=False, sort_keys=True),
        snapshot_version=it.snapshot_version,
        hash=it.hash,
        previous_hash=it.previous_hash,
    )
