"""Serves `groups.proto`."""

from collections.abc import Iterable

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import groups_pb2 as pb
from numerator.accounts.v1 import groups_pb2_grpc as pb_grpc

from services.accounts import store
from services.accounts.model import etag_of
from services.accounts.model.groups import Group
from services.accounts.rpc import after, convert, page
from services.accounts.store import groups as group_rows
from services.accounts.usecases import groups
from services.accounts.usecases.groups import LabelRow, PlaceRow, RowResult
from services.chassis.database import Database
from services.chassis.errors import ServiceError
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class GroupServicer(pb_grpc.GroupServiceServicer):
    """Serves `numerator.accounts.v1.GroupService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def CreateAccountGroup(
        self, request: pb.CreateAccountGroupRequest, context: grpc.ServicerContext
    ) -> pb.AccountGroup:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request,
                lambda: _group(
                    groups.create_group(
                        tx,
                        request.parent,
                        display_name=request.display_name,
                        into=request.parent_group,
                        actor=call.principal.subject,
                        reach=call.reach,
                    )
                ),
            )

    def GetAccountGroup(
        self, request: pb.GetAccountGroupRequest, context: grpc.ServicerContext
    ) -> pb.AccountGroup:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return _group(groups.get_group(tx, request.name, reach=call.reach))

    def ListAccountGroups(
        self, request: pb.ListAccountGroupsRequest, context: grpc.ServicerContext
    ) -> pb.ListAccountGroupsResponse:
        call, size = current_call(), page_size(request.page_size)
        with self._database.transaction(call.scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = group_rows.list_groups(
                tx,
                request.parent,
                parent=group_rows.find_id(tx, request.parent, request.parent_group, "parent_group"),
                within=group_rows.find_id(tx, request.parent, request.within, "within"),
                reach=call.reach.groups,
                after=after(request),
                limit=size + 1,
            )
        items, token = page(found, size, request)
        return pb.ListAccountGroupsResponse(account_groups=map(_group, items), next_page_token=token)

    def UpdateAccountGroup(
        self, request: pb.UpdateAccountGroupRequest, context: grpc.ServicerContext
    ) -> pb.AccountGroup:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request,
                lambda: _group(
                    groups.rename_group(
                        tx,
                        request.name,
                        display_name=request.display_name,
                        etag=request.etag,
                        actor=call.principal.subject,
                        reach=call.reach,
                    )
                ),
            )

    def MoveAccountGroup(
        self, request: pb.MoveAccountGroupRequest, context: grpc.ServicerContext
    ) -> pb.AccountGroup:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request,
                lambda: _group(
                    groups.move_group(
                        tx,
                        request.name,
                        into=request.parent_group,
                        etag=request.etag,
                        actor=call.principal.subject,
                        reach=call.reach,
                    )
                ),
            )

    def DeleteAccountGroup(
        self, request: pb.DeleteAccountGroupRequest, context: grpc.ServicerContext
    ) -> Empty:
        call = current_call()

        def delete() -> Empty:
            groups.delete_group(
                tx, request.name, etag=request.etag, actor=call.principal.subject, reach=call.reach
            )
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def PlaceAccounts(
        self, request: pb.PlaceAccountsRequest, context: grpc.ServicerContext
    ) -> pb.PlaceAccountsResponse:
        call = current_call()
        wanted = [PlaceRow(each.account, each.group, each.etag) for each in request.rows]

        def place() -> pb.PlaceAccountsResponse:
            done = groups.place_accounts(
                tx, request.parent, wanted, actor=call.principal.subject, reach=call.reach
            )
            return pb.PlaceAccountsResponse(results=_results(done))

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, place)

    def LabelAccounts(
        self, request: pb.LabelAccountsRequest, context: grpc.ServicerContext
    ) -> pb.LabelAccountsResponse:
        call = current_call()
        wanted = [LabelRow(each.account, each.add, each.remove, each.etag) for each in request.rows]

        def label() -> pb.LabelAccountsResponse:
            done = groups.label_accounts(
                tx, request.parent, wanted, actor=call.principal.subject, reach=call.reach
            )
            return pb.LabelAccountsResponse(results=_results(done))

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, label)


def _group(model: Group) -> pb.AccountGroup:
    return pb.AccountGroup(
        name=model.name,
        display_name=model.display_name,
        parent_group=model.parent or "",
        path=model.path,
        create_time=convert.time(model.create_time),
        update_time=convert.time(model.update_time),
        etag=etag_of(model.revision),
    )


def _results(done: Iterable[RowResult]) -> Iterable[pb.RowResult]:
    for each in done:
        if isinstance(each.outcome, ServiceError):
            error = pb.RowError(
                kind=each.outcome.kind.name, reason=_reason(each.outcome), message=each.outcome.message
            )
            yield pb.RowResult(account=each.row.account, error=error)
        else:
            yield pb.RowResult(account=each.row.account, etag=etag_of(each.outcome.revision))


def _reason(error: ServiceError) -> str:
    """The reason; of one wrong field, the field's own."""
    return error.violations[0].reason if error.violations else error.reason
