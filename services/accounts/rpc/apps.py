"""Serves `apps.proto`."""

import grpc
from numerator.accounts.v1 import apps_pb2 as pb
from numerator.accounts.v1 import apps_pb2_grpc as pb_grpc
from numerator.accounts.v1.accounts_pb2 import Client

from services.accounts.rpc import convert
from services.accounts.store import clients as client_rows
from services.accounts.store import revocations as revocation_rows
from services.accounts.usecases import clients
from services.chassis.database import Database
from services.chassis.names import enterprise_of
from services.chassis.rpc.call import current_call

_MOST_REVOCATIONS = 1_000
"""In one answer."""


class AppServicer(pb_grpc.AppServiceServicer):
    """Serves `numerator.accounts.v1.AppService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def GetClient(self, request: pb.GetClientRequest, context: grpc.ServicerContext) -> Client:
        with self._database.transaction(current_call().scope) as tx:
            return convert.client(client_rows.get_client(tx, request.name))

    def UpdateClient(self, request: pb.UpdateClientRequest, context: grpc.ServicerContext) -> Client:
        call = current_call()
        enterprise = enterprise_of(request.name) or ""
        rights = convert.client_rights(request.rights, enterprise) if request.HasField("rights") else None

        def update() -> Client:
            return convert.client(
                clients.update_client(
                    tx,
                    request.name,
                    display_name=request.display_name if request.HasField("display_name") else None,
                    rights=rights,
                    etag=request.etag,
                    caller=call.principal,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, update)

    def RotateClientSecret(
        self, request: pb.RotateClientSecretRequest, context: grpc.ServicerContext
    ) -> Client:
        call = current_call()
        secret = ""

        def rotate() -> Client:
            nonlocal secret
            client, made = clients.rotate_secret(
                tx,
                request.name,
                grace=request.grace.ToTimedelta(),
                etag=request.etag,
                caller=call.principal,
            )
            secret = made.get_secret_value()
            return convert.client(client)

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, rotate)
        # Only now: what is kept for a repetition must not hold the secret.
        reply.secret = secret
        return reply

    def EndSecretGrace(self, request: pb.EndSecretGraceRequest, context: grpc.ServicerContext) -> Client:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return convert.client(
                clients.end_grace(tx, request.name, etag=request.etag, caller=call.principal)
            )

    def ListRevocations(
        self, request: pb.ListRevocationsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevocationsResponse:
        with self._database.transaction(current_call().scope) as tx:
            found = revocation_rows.list_revocations(tx, request.since, limit=_MOST_REVOCATIONS + 1)
        return pb.ListRevocationsResponse(
            revocations=map(convert.revocation, found[:_MOST_REVOCATIONS]),
            more=len(found) > _MOST_REVOCATIONS,
        )
