"""`AdmissionService` for operators and `EditionService` for enterprises."""

from datetime import UTC, datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.rollout.v1 import admissions_pb2 as pb
from numerator.rollout.v1 import admissions_pb2_grpc as pb_grpc

from services.chassis.database import Transaction
from services.chassis.errors import invalid
from services.chassis.names import NamePattern
from services.chassis.timestamps import stamp
from services.rollout import decision, entries, serving, store, usecases
from services.rollout.model import Listed, Reason, next_step
from services.rollout.rpc import Servicer, actor, convert, own_enterprise, page

_ENTERPRISE = NamePattern("enterprises/{enterprise}")


class AdmissionServicer(Servicer, pb_grpc.AdmissionServiceServicer):
    """Serves `numerator.rollout.v1.AdmissionService`."""

    def ListAdmissions(
        self, request: pb.ListAdmissionsRequest, context: grpc.ServicerContext
    ) -> pb.ListAdmissionsResponse:
        def find(tx: Transaction) -> pb.ListAdmissionsResponse:
            rollout = usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (int, int, str),
                lambda limit, after: store.page_records(
                    tx,
                    rollout,
                    limit=limit,
                    after=(int(after[0]), int(after[1]), str(after[2])) if after else None,
                ),
                store.listing_key,
            )
            places = store.positions(tx, rollout.name, found)
            return pb.ListAdmissionsResponse(
                admissions=[convert.admission(each, places[each.enterprise]) for each in found],
                next_page_token=token,
            )

        return self.read(find)

    def ExplainAdmission(
        self, request: pb.ExplainAdmissionRequest, context: grpc.ServicerContext
    ) -> pb.ExplainAdmissionResponse:
        enterprise = _enterprise(request.enterprise)

        def explain(tx: Transaction) -> pb.ExplainAdmissionResponse:
            rollout = usecases.get_rollout(tx, request.name)
            record = usecases.record_of(tx, rollout, enterprise)
            steps = decision.explain(rollout, record, store.taken(tx, rollout.name, []).held)
            reason = usecases.closed_by(tx, rollout, record)
            if record.is_active and rollout.plan.requires and not rollout.killed:
                required = ", ".join(rollout.plan.requires)
                steps.append(decision.Step("PREREQUISITES_ON", reason is Reason.NONE, f"requires {required}"))
            return pb.ExplainAdmissionResponse(
                admission=convert.admission(record, store.position(tx, rollout.name, record)),
                steps=[
                    pb.DecisionStep(rule=each.rule, holds=each.holds, detail=each.detail) for each in steps
                ],
                admitted=reason is Reason.NONE,
                next_step=next_step(reason, enterprise),
                plan_version=rollout.plan_version,
                snapshot_version=serving.snapshot_version(tx)[0],
                admissions_version=serving.admissions_version(tx).number,
                attributes={key: str(value) for key, value in record.subject.attributes.items()},
            )

        return self.read(explain)

    def AdmitEnterprise(
        self, request: pb.AdmitEnterpriseRequest, context: grpc.ServicerContext
    ) -> pb.Admission:
        enterprise = _enterprise(request.enterprise)
        return self.write(
            request,
            lambda tx: convert.admission(
                usecases.admit(tx, request.name, enterprise, actor(), request.reason), 0
            ),
        )

    def RevokeAdmission(
        self, request: pb.RevokeAdmissionRequest, context: grpc.ServicerContext
    ) -> pb.Admission:
        enterprise = _enterprise(request.enterprise)
        return self.write(
            request,
            lambda tx: convert.admission(
                usecases.revoke(tx, request.name, enterprise, actor(), request.reason), 0
            ),
        )

    def SetListEntry(self, request: pb.SetListEntryRequest, context: grpc.ServicerContext) -> pb.ListEntry:
        asked = request.entry
        if asked.kind == pb.ListEntry.KIND_UNSPECIFIED:
            raise invalid("entry.kind", "must be ALLOW or DENY")
        entry = entries.ListEntry(
            _enterprise(asked.enterprise, "entry.enterprise"),
            Listed(pb.ListEntry.Kind.Name(asked.kind)),
            asked.reason,
            _moment(asked.expire_time) if asked.HasField("expire_time") else None,
        )

        def put(tx: Transaction) -> pb.ListEntry:
            usecases.set_entry(tx, request.parent, entry, actor())
            return _entry(entry)

        return self.write(request, put)

    def DeleteListEntry(
        self, request: pb.DeleteListEntryRequest, context: grpc.ServicerContext
    ) -> pb.ListEntry:
        enterprise = _enterprise(request.enterprise)
        return self.write(
            request, lambda tx: _entry(usecases.delete_entry(tx, request.parent, enterprise, actor()))
        )

    def ListListEntries(
        self, request: pb.ListListEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListListEntriesResponse:
        def find(tx: Transaction) -> pb.ListListEntriesResponse:
            usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (str,),
                lambda limit, after: entries.page_entries(
                    tx, request.parent, limit=limit, after=str(after[0]) if after else ""
                ),
                lambda each: (each.enterprise,),
            )
            return pb.ListListEntriesResponse(entries=[_entry(each) for each in found], next_page_token=token)

        return self.read(find)

    def CreateInvitation(
        self, request: pb.CreateInvitationRequest, context: grpc.ServicerContext
    ) -> pb.Invitation:
        asked = request.invitation
        enterprise = _enterprise(asked.enterprise, "invitation.enterprise") if asked.enterprise else ""
        expire_time = _moment(asked.expire_time) if asked.HasField("expire_time") else None
        made: list[str] = []

        def create(tx: Transaction) -> pb.Invitation:
            invitation, token = usecases.create_invitation(
                tx, request.parent, actor(), enterprise=enterprise, note=asked.note, expire_time=expire_time
            )
            made.append(token)
            return _invitation(invitation, tx.now)

        reply = self.write(request, create)
        # Not kept with the reply: a repeated request is answered without the token, which is told once.
        reply.token = made[0] if made else ""
        return reply

    def ListInvitations(
        self, request: pb.ListInvitationsRequest, context: grpc.ServicerContext
    ) -> pb.ListInvitationsResponse:
        def find(tx: Transaction) -> pb.ListInvitationsResponse:
            usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (datetime, str),
                lambda limit, after: entries.page_invitations(
                    tx, request.parent, limit=limit, before=(str(after[0]), str(after[1])) if after else None
                ),
                lambda each: (each.create_time.isoformat(), each.name),
            )
            return pb.ListInvitationsResponse(
                invitations=[_invitation(each, tx.now) for each in found], next_page_token=token
            )

        return self.read(find)

    def RevokeInvitation(
        self, request: pb.RevokeInvitationRequest, context: grpc.ServicerContext
    ) -> pb.Invitation:
        return self.write(
            request, lambda tx: _invitation(usecases.revoke_invitation(tx, request.name, actor()), tx.now)
        )

    def SetEnterpriseAttributes(
        self, request: pb.SetEnterpriseAttributesRequest, context: grpc.ServicerContext
    ) -> pb.EnterpriseAttributes:
        enterprise = _enterprise(request.enterprise)

        def put(tx: Transaction) -> pb.EnterpriseAttributes:
            known = usecases.set_attributes(tx, enterprise, request.attributes, actor())
            return pb.EnterpriseAttributes(
                enterprise=enterprise, verified=known["verified"], attributes=known["attributes"]
            )

        return self.write(request, put)


class EditionServicer(Servicer, pb_grpc.EditionServiceServicer):
    """Serves `numerator.rollout.v1.EditionService`."""

    def GetEdition(self, request: pb.GetEditionRequest, context: grpc.ServicerContext) -> pb.Edition:
        enterprise = own_enterprise()
        return self.read(lambda tx: _edition(usecases.edition_of(tx, enterprise), enterprise))

    def JoinWaitlist(self, request: pb.JoinWaitlistRequest, context: grpc.ServicerContext) -> pb.Edition:
        enterprise = own_enterprise()
        return self.write(
            request, lambda tx: _edition(usecases.join_waitlist(tx, enterprise, actor()), enterprise)
        )

    def LeaveWaitlist(self, request: pb.LeaveWaitlistRequest, context: grpc.ServicerContext) -> pb.Edition:
        enterprise = own_enterprise()
        return self.write(
            request, lambda tx: _edition(usecases.leave_waitlist(tx, enterprise, actor()), enterprise)
        )

    def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: grpc.ServicerContext
    ) -> pb.Edition:
        enterprise = own_enterprise()

        def accept(tx: Transaction) -> pb.Edition:
            return _edition(usecases.accept_invitation(tx, request.token, enterprise, actor()), enterprise)

        return self.write(request, accept)


def _edition(it: usecases.Edition, enterprise: str) -> pb.Edition:
    record, stage = it.record, it.rollout.current_stage if it.rollout else None
    return pb.Edition(
        admitted=it.admitted,
        state=pb.Admission.State.Value(record.state) if record else pb.Admission.STATE_UNSPECIFIED,
        stage=record.stage if record and it.admitted else "",
        reason=it.reason,
        next_step=next_step(it.reason, enterprise),
        position=it.position,
        snapshot_version=it.snapshot_version,
        admissions_version=it.admissions_version,
        enterprise=enterprise,
        limits=convert.limits(stage.limits) if stage and it.admitted else None,
        on_waitlist=it.on_waitlist,
    )


def _enterprise(name: str, field: str = "enterprise") -> str:
    if not _ENTERPRISE.matches(name):
        raise invalid(field, "must be as enterprises/{enterprise}")
    return name


def _entry(it: entries.ListEntry) -> pb.ListEntry:
    return pb.ListEntry(
        enterprise=it.enterprise,
        kind=pb.ListEntry.Kind.Value(it.kind),
        reason=it.reason,
        expire_time=stamp(it.expire_time) if it.expire_time else None,
    )


def _invitation(it: entries.Invitation, now: datetime) -> pb.Invitation:
    return pb.Invitation(
        name=it.name,
        enterprise=it.enterprise,
        state=pb.Invitation.State.Value(it.state(now)),
        expire_time=stamp(it.expire_time),
        accepted_by=it.accepted_by or "",
        create_time=stamp(it.create_time),
        note=it.note,
    )


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)
