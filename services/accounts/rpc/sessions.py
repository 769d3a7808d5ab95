"""Serves `sessions.proto`."""

import grpc
from google.protobuf.empty_pb2 import Empty
from numerator.accounts.v1 import sessions_pb2 as pb
from numerator.accounts.v1 import sessions_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.accounts import metrics
from services.accounts.model.members import MEMBER_NAME
from services.accounts.model.sessions import SESSION_NAME, Device, Session
from services.accounts.rpc import after, convert, page
from services.accounts.store import members as member_rows
from services.accounts.store import sessions as session_rows
from services.accounts.usecases import sessions
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Database
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call


class SessionServicer(pb_grpc.SessionServiceServicer):
    """Serves `numerator.accounts.v1.SessionService`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def OpenSession(self, request: pb.OpenSessionRequest, context: grpc.ServicerContext) -> pb.OpenedSession:
        with metrics.login("MEMBER"):
            return opened(
                sessions.open_session(
                    self._database,
                    self._vault,
                    email=request.email,
                    password=SecretStr(request.password),
                    totp=request.totp,
                    acts_for=request.acts_for,
                    device=Device.of(request.address, request.user_agent),
                )
            )

    def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: grpc.ServicerContext
    ) -> pb.OpenedSession:
        return opened(
            sessions.refresh_session(
                self._database,
                SecretStr(request.refresh_token),
                acts_for=request.acts_for,
                device=Device.of(request.address, request.user_agent),
            )
        )

    def ListSessions(
        self, request: pb.ListSessionsRequest, context: grpc.ServicerContext
    ) -> pb.ListSessionsResponse:
        call = current_call()
        MEMBER_NAME.parse(request.parent, "parent")
        sessions.check_may_manage(call.principal, request.parent)
        size = page_size(request.page_size)
        with self._database.transaction(call.scope) as tx:
            member_rows.read_member(tx, request.parent)
            found = session_rows.list_sessions(tx, request.parent, after=after(request), limit=size + 1)
        items, token = page(found, size, request)
        return pb.ListSessionsResponse(
            sessions=[_session(each, current=call.principal.session) for each in items], next_page_token=token
        )

    def EndSession(self, request: pb.EndSessionRequest, context: grpc.ServicerContext) -> Empty:
        call = current_call()
        SESSION_NAME.parse(request.name)

        def end() -> Empty:
            sessions.end_session(tx, request.name, caller=call.principal)
            return Empty()

        with self._database.transaction(call.scope) as tx:
            return tx.once(request, end)

    def EndSessions(
        self, request: pb.EndSessionsRequest, context: grpc.ServicerContext
    ) -> pb.EndSessionsResponse:
        call = current_call()
        MEMBER_NAME.parse(request.parent, "parent")
        with self._database.transaction(call.scope) as tx:
            ended = sessions.end_sessions(
                tx, request.parent, caller=call.principal, keep_current=request.keep_current
            )
        return pb.EndSessionsResponse(ended_count=ended)


def opened(model: sessions.Opened) -> pb.OpenedSession:
    """A session that was opened, with its refresh token."""
    return pb.OpenedSession(
        session=_session(model.session, current=model.session.id),
        identity=convert.identity(model.identity),
        refresh_token=model.refresh_token.get_secret_value(),
        rights_end_time=convert.time(model.rights_end) if model.rights_end else None,
    )


def _session(session: Session, *, current: str) -> pb.Session:
    return pb.Session(
        name=session.name,
        acts_for=session.acts_for,
        user_agent=session.device.user_agent,
        address=session.device.network,
        create_time=convert.time(session.create_time),
        use_time=convert.time(session.use_time),
        expire_time=convert.time(session.expire_time),
        current=session.id == current,
        by_provider=session.by_provider,
    )
