"""Serves `apps.proto`."""

import grpc
from numerator.accounts.v1 import apps_pb2 as pb
from numerator.accounts.v1 import apps_pb2_grpc as pb_grpc

from services.accounts.rpc import convert
from services.accounts.store import revocations as revocation_rows
from services.chassis.database import Database
from services.chassis.rpc.call import current_call

_MOST_REVOCATIONS = 1_000
"""In one answer."""


class AppServicer(pb_grpc.AppServiceServicer):
    """Serves `numerator.accounts.v1.AppService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ListRevocations(
        self, request: pb.ListRevocationsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevocationsResponse:
        with self._database.transaction(current_call().scope) as tx:
            found = revocation_rows.list_revocations(tx, request.since, limit=_MOST_REVOCATIONS + 1)
        return pb.ListRevocationsResponse(
            revocations=map(convert.revocation, found[:_MOST_REVOCATIONS]),
            more=len(found) > _MOST_REVOCATIONS,
        )
