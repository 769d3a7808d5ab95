"""What came of a call: the reasons that a refused one carries, and the events that a successful one told."""

from typing import TypeVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.chassis import events
from services.chassis.database import PLATFORM, Database

M = TypeVar("M", bound=Message)


def reason_of(error: grpc.RpcError) -> str:
    """The reason of a refused call, as `NOT_FOUND`."""
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError("the error carries no ErrorInfo")


def field_reasons_of(error: grpc.RpcError) -> dict[str, str]:
    """The wrong fields of a refused call, each with its reason."""
    for detail in _details(error):
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return {each.field: each.reason for each in bad.field_violations}
    raise AssertionError("the error carries no BadRequest")


def told(database: Database, kind: type[M]) -> list[M]:
    """The events of a class in the outbox, oldest first."""
    with database.transaction(PLATFORM) as tx:
        rows = tx.execute(
            "select content_type, body from outbox where type = %s order by sequence",
            (events.event_type(kind),),
        ).fetchall()
    return [events.decode(row["content_type"], bytes(row["body"]), kind) for row in rows]


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no status"
    return list(status.details)
