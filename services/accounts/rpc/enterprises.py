"""Serves `enterprises.proto`."""

import grpc
from numerator.accounts.v1 import accounts_pb2
from numerator.accounts.v1 import enterprises_pb2 as pb
from numerator.accounts.v1 import enterprises_pb2_grpc as pb_grpc

from services.accounts import store
from services.accounts.model import VerificationStep
from services.accounts.model.enterprises import ReviewNote
from services.accounts.rpc import after, convert, page
from services.accounts.store import review_notes as note_rows
from services.accounts.usecases import enterprises
from services.chassis.database import Database
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class EnterpriseServicer(pb_grpc.EnterpriseServiceServicer):
    """Serves `numerator.accounts.v1.EnterpriseService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def UpdateEnterprise(
        self, request: pb.UpdateEnterpriseRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.Enterprise:
        call = current_call()

        def update() -> accounts_pb2.Enterprise:
            return convert.enterprise(
                enterprises.update_enterprise(
                    tx,
                    request.name,
                    display_name=request.display_name if request.HasField("display_name") else None,
                    industry=request.industry if request.HasField("industry") else None,
                    region=request.region if request.HasField("region") else None,
                    second_factor_required=request.second_factor_required
                    if request.HasField("second_factor_required")
                    else None,
                    etag=request.etag,
                    caller=call.principal,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, update)

    def ClassifyEnterprise(
        self, request: pb.ClassifyEnterpriseRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.Enterprise:
        call = current_call()

        def classify() -> accounts_pb2.Enterprise:
            return convert.enterprise(
                enterprises.classify_enterprise(
                    tx,
                    request.name,
                    tier=request.tier,
                    attributes=request.attributes,
                    etag=request.etag,
                    actor=call.principal.subject,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, classify)

    def RestoreVerification(
        self, request: pb.RestoreVerificationRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.Enterprise:
        call = current_call()

        def restore() -> accounts_pb2.Enterprise:
            return convert.enterprise(
                enterprises.advance_verification(
                    tx,
                    request.name,
                    VerificationStep.RESTORE,
                    actor=call.principal.subject,
                    note=request.note,
                    etag=request.etag,
                )
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, restore)

    def CreateReviewNote(
        self, request: pb.CreateReviewNoteRequest, context: grpc.ServicerContext
    ) -> pb.ReviewNote:
        call = current_call()

        def write() -> pb.ReviewNote:
            return _note(
                enterprises.write_review_note(tx, request.parent, request.text, author=call.principal.subject)
            )

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, write)

    def ListReviewNotes(
        self, request: pb.ListReviewNotesRequest, context: grpc.ServicerContext
    ) -> pb.ListReviewNotesResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = note_rows.list_notes(tx, request.parent, after=after(request), limit=size + 1)
        items, token = page(found, size, request)
        return pb.ListReviewNotesResponse(review_notes=map(_note, items), next_page_token=token)


def _note(note: ReviewNote) -> pb.ReviewNote:
    return pb.ReviewNote(
        name=note.name, author=note.author, text=note.text, create_time=convert.time(note.create_time)
    )
