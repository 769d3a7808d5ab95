"""Serves `vault.proto`."""

import grpc
from numerator.accounts.v1 import vault_pb2 as pb
from numerator.accounts.v1 import vault_pb2_grpc as pb_grpc

from services.accounts.usecases.shredding import shred
from services.chassis.database import Database
from services.chassis.rpc.call import current_call


class VaultServicer(pb_grpc.VaultServiceServicer):
    """Serves `numerator.accounts.v1.VaultService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ShredSecrets(
        self, request: pb.ShredSecretsRequest, context: grpc.ServicerContext
    ) -> pb.ShredSecretsResponse:
        shredded = shred(
            self._database,
            request.name,
            confirmation=request.confirmation,
            actor=current_call().principal.subject,
            reason=request.reason,
        )
        return pb.ShredSecretsResponse(
            shredded_key_count=shredded.keys, unbound_account_count=shredded.accounts
        )
