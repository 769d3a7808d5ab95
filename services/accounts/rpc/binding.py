"""Serves `binding.proto`."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

import grpc
from numerator.accounts.v1 import binding_pb2 as pb
from numerator.accounts.v1 import binding_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.accounts import store
from services.accounts.model import etag_of
from services.accounts.model.groups import group_id
from services.accounts.model.invitations import BindingBatch, BindingRow, RowState
from services.accounts.rpc import after, convert, page
from services.accounts.store import invitations as rows
from services.accounts.usecases.binding import Redirect
from services.accounts.usecases.invitations import Inviter, Wanted, progress
from services.chassis.database import Database, Scope, Transaction
from services.chassis.names import enterprise_of
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call

_ALL_ROWS = 1_000


class BindingServicer(pb_grpc.BindingServiceServicer):
    """Serves `numerator.accounts.v1.BindingService`."""

    def __init__(self, database: Database, inviter: Inviter) -> None:
        self._database = database
        self._inviter = inviter

    # What enterprises ask

    def CreateBindingBatch(
        self, request: pb.CreateBindingBatchRequest, context: grpc.ServicerContext
    ) -> pb.CreateBindingBatchResponse:
        call = current_call()
        links: list[str] = []

        def create() -> pb.CreateBindingBatchResponse:
            batch, invitations = self._inviter.invite(
                tx,
                call.principal,
                request.parent,
                display_name=request.display_name,
                wanted=[
                    _wanted(row, request.parent, f"rows[{number}].group")
                    for number, row in enumerate(request.rows)
                ],
                life=_life(request),
            )
            links.extend(each.link for each in invitations)
            return pb.CreateBindingBatchResponse(
                batch=_batch(batch, progress(tx, request.parent, [batch])[0]),
                rows=[_row(each.row) for each in invitations],
            )

        with self._database.transaction(call.scope) as tx:
            reply = tx.once(request, create)
        # Only now: what is kept for a repetition must not hold the links.
        for row, link in zip(reply.rows, links, strict=False):
            row.invitation_link = link
        return reply

    def GetBindingBatch(
        self, request: pb.GetBindingBatchRequest, context: grpc.ServicerContext
    ) -> pb.BindingBatch:
        with self._database.transaction(current_call().scope) as tx:
            return _batch_now(tx, rows.get_batch(tx, request.name))

    def ListBindingBatches(
        self, request: pb.ListBindingBatchesRequest, context: grpc.ServicerContext
    ) -> pb.ListBindingBatchesResponse:
        size = page_size(request.page_size)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = rows.list_batches(tx, request.parent, after=after(request), limit=size + 1)
            items, token = page(found, size, request)
            counts = progress(tx, request.parent, items)
        return pb.ListBindingBatchesResponse(
            binding_batches=map(_batch, items, counts), next_page_token=token
        )

    def ListBindingRows(
        self, request: pb.ListBindingRowsRequest, context: grpc.ServicerContext
    ) -> pb.ListBindingRowsResponse:
        size, key = page_size(request.page_size), decode_token(request.page_token, (int,), query=request)
        state = RowState(pb.BindingRow.State.Name(request.state)) if request.state else None
        with self._database.transaction(current_call().scope) as tx:
            rows.get_batch(tx, request.parent)
            found = rows.list_rows(
                tx, request.parent, state=state, after=int(key[0]) if key else 0, limit=size + 1
            )
        token = encode_token((found[size - 1].position,), query=request) if len(found) > size else ""
        return pb.ListBindingRowsResponse(rows=map(_row, found[:size]), next_page_token=token)

    def CancelBindingBatch(
        self, request: pb.CancelBindingBatchRequest, context: grpc.ServicerContext
    ) -> pb.BindingBatch:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return _batch_now(tx, self._inviter.cancel(tx, call.principal, request.name))

    def RenewInvitation(
        self, request: pb.RenewInvitationRequest, context: grpc.ServicerContext
    ) -> pb.BindingRow:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            renewed = self._inviter.renew(
                tx, call.principal, request.name, life=_life(request), etag=request.etag
            )
        reply = _row(renewed.row)
        reply.invitation_link = renewed.link
        return reply

    def WatchBindingBatch(
        self, request: pb.WatchBindingBatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchBindingBatchResponse]:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            batch = _batch_now(tx, rows.get_batch(tx, request.name))
            begin = tx.last_change(rows.ROWS)
            found = rows.list_rows(tx, request.name, state=None, after=0, limit=_ALL_ROWS)
        if not request.after_sequence:
            for row in found:
                yield pb.WatchBindingBatchResponse(sequence=begin, batch=batch, row=_row(row))
        for change in self._database.watch(
            rows.ROWS,
            call.scope,
            after=request.after_sequence or begin,
            timeout=call.remaining(),
            active=lambda: call.remaining() > 0,
        ):
            if isinstance(change.body, dict) and change.body["batch"] == request.name:
                yield self._changed(call.scope, request.name, change.key, change.sequence)

    def _changed(self, scope: Scope, batch: str, row: str, sequence: int) -> pb.WatchBindingBatchResponse:
        with self._database.transaction(scope) as tx:
            return pb.WatchBindingBatchResponse(
                sequence=sequence,
                batch=_batch_now(tx, rows.get_batch(tx, batch)),
                row=_row(rows.get_row(tx, row)),
            )

    # What the gateway asks for holders

    def OpenInvitation(
        self, request: pb.OpenInvitationRequest, context: grpc.ServicerContext
    ) -> pb.OpenInvitationResponse:
        call = current_call()
        started = self._inviter.open(
            call.scope,
            call.principal,
            request.parent,
            token=SecretStr(request.token),
            browser=request.browser,
        )
        return pb.OpenInvitationResponse(
            authorization_url=started.authorization_url, expire_time=convert.time(started.expire_time)
        )

    def CompleteInvitation(
        self, request: pb.CompleteInvitationRequest, context: grpc.ServicerContext
    ) -> pb.CompleteInvitationResponse:
        call = current_call()
        bound = self._inviter.complete(
            call.scope,
            call.principal,
            request.parent,
            Redirect(request.state, request.code, request.error, request.iss, request.browser),
        )
        return pb.CompleteInvitationResponse(
            row=_row(bound.row),
            handle=bound.account.profile.handle,
            enterprise_display_name=bound.enterprise,
        )


def _wanted(row: pb.CreateBindingBatchRequest.Row, enterprise: str, field: str) -> Wanted:
    return Wanted(
        network=row.network,
        server=row.server,
        labels=tuple(dict.fromkeys(row.labels)),
        group_id=group_id(row.group, enterprise, field) if row.group else "",
        note=row.note,
        external_key=row.external_key,
    )


def _life(request: pb.CreateBindingBatchRequest | pb.RenewInvitationRequest) -> timedelta | None:
    return request.lifetime.ToTimedelta() if request.HasField("lifetime") else None


def _batch_now(tx: Transaction, batch: BindingBatch) -> pb.BindingBatch:
    return _batch(batch, progress(tx, enterprise_of(batch.name) or "", [batch])[0])


def _batch(model: BindingBatch, counts: Mapping[RowState, int]) -> pb.BindingBatch:
    return pb.BindingBatch(
        name=model.name,
        display_name=model.display_name,
        progress=pb.BindingBatch.Progress(
            total=sum(counts.values()), **{state.lower(): count for state, count in counts.items()}
        ),
        creator=model.creator,
        create_time=convert.time(model.create_time),
        cancel_time=convert.time(model.cancel_time) if model.cancel_time else None,
    )


def _row(model: BindingRow) -> pb.BindingRow:
    """A row, without its link."""
    return pb.BindingRow(
        name=model.name,
        network=model.network,
        server=model.server,
        labels=model.labels,
        group=model.group,
        note=model.note,
        external_key=model.external_key,
        state=pb.BindingRow.State.Value(model.state),
        reason=model.reason,
        account=model.account or "",
        expire_time=convert.time(model.expire_time),
        update_time=convert.time(model.update_time),
        etag=etag_of(model.revision),
    )
