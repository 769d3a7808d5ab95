"""Serves `audit.proto`."""

from datetime import UTC, datetime

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.accounts.v1 import audit_pb2 as pb
from numerator.accounts.v1 import audit_pb2_grpc as pb_grpc

from services.accounts import store
from services.accounts.store import trail
from services.chassis.database import Database
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp


class AuditLogServicer(pb_grpc.AuditLogServiceServicer):
    """Serves `numerator.accounts.v1.AuditLogService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ListAuditLogEntries(
        self, request: pb.ListAuditLogEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditLogEntriesResponse:
        size, after = page_size(request.page_size), decode_token(request.page_token, (int,), query=request)
        wanted = trail.Filter(
            actor=request.actor,
            action_prefix=request.action_prefix,
            subject=request.subject,
            start=_moment(request.start_time) if request.HasField("start_time") else None,
            end=_moment(request.end_time) if request.HasField("end_time") else None,
        )
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = trail.list_entries(
                tx, request.parent, wanted, before=int(after[0]) if after else None, limit=size + 1
            )
        entries, more = found[:size], len(found) > size
        return pb.ListAuditLogEntriesResponse(
            audit_log_entries=[_entry(request.parent, each) for each in entries],
            next_page_token=encode_token((entries[-1].sequence,), query=request) if more else "",
        )


def _entry(enterprise: str, model: trail.Entry) -> pb.AuditLogEntry:
    detail = Struct()
    detail.update(model.detail)
    return pb.AuditLogEntry(
        name=f"{enterprise}/auditLogEntries/{model.sequence}",
        time=stamp(model.time),
        actor=model.actor,
        action=model.action,
        subject=model.subject,
        detail=detail,
    )


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)
