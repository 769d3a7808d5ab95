"""Serves `grants.proto`."""

from datetime import UTC

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import grants_pb2 as pb
from numerator.accounts.v1 import grants_pb2_grpc as pb_grpc
from numerator.options.v1 import options_pb2

from services.accounts import store
from services.accounts.model import MEMBER_NAME
from services.accounts.model.groups import group_id, group_name
from services.accounts.model.permissions import Grant
from services.accounts.rpc import after, convert, page
from services.accounts.store import grants as grant_rows
from services.accounts.usecases import grants
from services.chassis.database import Database
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class GrantServicer(pb_grpc.GrantServiceServicer):
    """Serves `numerator.accounts.v1.GrantService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def CreateGrant(self, request: pb.CreateGrantRequest, context: grpc.ServicerContext) -> pb.Grant:
        call = current_call()
        MEMBER_NAME.parse(request.member, "member")
        ends = request.expire_time.ToDatetime(UTC) if request.HasField("expire_time") else None
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request,
                lambda: _grant(
                    grants.create_grant(
                        tx,
                        request.parent,
                        member=request.member,
                        role=convert.role(request.role),
                        group=request.group,
                        expire_time=ends,
                        caller=call.principal,
                        reach=call.reach,
                    )
                ),
            )

    def ListGrants(
        self, request: pb.ListGrantsRequest, context: grpc.ServicerContext
    ) -> pb.ListGrantsResponse:
        call, size = current_call(), page_size(request.page_size)
        group = group_id(request.group, request.parent, "group") if request.group else None
        with self._database.transaction(call.scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = grant_rows.list_grants(
                tx,
                request.parent,
                member=request.member or None,
                group=group,
                reach=call.reach.groups,
                after=after(request),
                limit=size + 1,
            )
        items, token = page(found, size, request)
        return pb.ListGrantsResponse(grants=map(_grant, items), next_page_token=token)

    def DeleteGrant(self, request: pb.DeleteGrantRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()

        def delete() -> Empty:
            grants.delete_grant(tx, request.name, caller=call.principal, reach=call.reach)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, delete)

    def ExplainAccess(
        self, request: pb.ExplainAccessRequest, context: grpc.ServicerContext
    ) -> pb.ExplainAccessResponse:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            told = grants.explain_access(tx, request.name, request.subject, request.right, reach=call.reach)
        if told.by is None:
            return pb.ExplainAccessResponse(allowed=False, explanation=told.sentence)
        by = told.by
        return pb.ExplainAccessResponse(
            allowed=True,
            explanation=told.sentence,
            held=by.right,
            group=group_name(request.name, [by.group] if by.group else []) or "",
            expire_time=convert.time(by.expire_time) if by.expire_time else None,
        )


def _grant(model: Grant) -> pb.Grant:
    return pb.Grant(
        name=model.name,
        member=model.member,
        role=options_pb2.Role.Value(model.role),
        group=model.group,
        expire_time=convert.time(model.expire_time) if model.expire_time else None,
        creator=model.creator,
        create_time=convert.time(model.create_time),
    )
