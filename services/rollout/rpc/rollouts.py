"""`RolloutService`: plans and verbs."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

import grpc
from google.protobuf.message import Message
from numerator.rollout.v1 import admissions_pb2
from numerator.rollout.v1 import rollout_pb2 as pb
from numerator.rollout.v1 import rollout_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM, Transaction
from services.chassis.errors import invalid
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp
from services.rollout import measurements, plan, scheduler, store, usecases
from services.rollout.model import Reason, Record, Rollout
from services.rollout.rpc import Servicer, actor, convert, page


class RolloutServicer(Servicer, pb_grpc.RolloutServiceServicer):
    """Serves `numerator.rollout.v1.RolloutService`."""

    def ApplyPlan(self, request: pb.ApplyPlanRequest, context: grpc.ServicerContext) -> pb.ApplyPlanResponse:
        asked, who = plan.parse(request.plan), actor()

        def apply(tx: Transaction) -> pb.ApplyPlanResponse:
            applied = usecases.apply_plan(
                tx, asked, actor=who, etag=request.etag, dry_run=request.validate_only
            )
            return pb.ApplyPlanResponse(
                rollout=convert.rollouts(tx, [applied.rollout])[0],
                differences=[
                    pb.Difference(path=each.path, before=each.before, after=each.after)
                    for each in applied.differences
                ],
                created=applied.created,
                needs_approvals=applied.needs_approvals,
            )

        return self.read(apply) if request.validate_only else self.write(request, apply)

    def GetRollout(self, request: pb.GetRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self.read(lambda tx: convert.rollouts(tx, [usecases.get_rollout(tx, request.name)])[0])

    def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: grpc.ServicerContext
    ) -> pb.ListRolloutsResponse:
        def find(tx: Transaction) -> pb.ListRolloutsResponse:
            found, token = page(
                request,
                (datetime, str),
                lambda limit, after: store.list_rollouts(
                    tx, limit=limit, before=(str(after[0]), str(after[1])) if after else None
                ),
                lambda each: (each.create_time.isoformat(), each.name),
            )
            return pb.ListRolloutsResponse(rollouts=convert.rollouts(tx, found), next_page_token=token)

        return self.read(find)

    def ListPlans(self, request: pb.ListPlansRequest, context: grpc.ServicerContext) -> pb.ListPlansResponse:
        def find(tx: Transaction) -> pb.ListPlansResponse:
            usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (int,),
                lambda limit, after: store.page_plans(
                    tx, request.parent, limit=limit, before=int(after[0]) if after else None
                ),
                lambda each: (each["version"],),
            )
            plans = [
                pb.PlanVersion(
                    version=each["version"],
                    plan=each["text"],
                    sha256=each["sha256"],
                    author=each["author"],
                    create_time=stamp(each["create_time"]),
                )
                for each in found
            ]
            return pb.ListPlansResponse(plans=plans, next_page_token=token)

        return self.read(find)

    def GetRolloutStatus(
        self, request: pb.GetRolloutStatusRequest, context: grpc.ServicerContext
    ) -> pb.RolloutStatus:
        return self.read(lambda tx: convert.status(tx, usecases.get_rollout(tx, request.name)))

    def ListAnalyses(
        self, request: pb.ListAnalysesRequest, context: grpc.ServicerContext
    ) -> pb.ListAnalysesResponse:
        def find(tx: Transaction) -> pb.ListAnalysesResponse:
            usecases.get_rollout(tx, request.parent)
            found, token = page(
                request,
                (int,),
                lambda limit, after: measurements.page_analyses(
                    tx, request.parent, limit=limit, before=int(after[0]) if after else None
                ),
                lambda each: (each.sequence,),
            )
            return pb.ListAnalysesResponse(
                analyses=[convert.analysis(each) for each in found], next_page_token=token
            )

        return self.read(find)

    def PreviewAnalysis(
        self, request: pb.PreviewAnalysisRequest, context: grpc.ServicerContext
    ) -> pb.Analysis:
        def preview(tx: Transaction) -> pb.Analysis:
            rollout = usecases.get_rollout(tx, request.name)
            found = scheduler.analyse(tx, rollout)
            return convert.analysis(measurements.KeptAnalysis(0, rollout.stage, tx.now, found))

        return self.read(preview)

    def WatchRollout(
        self, request: pb.WatchRolloutRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchRolloutResponse]:
        call = current_call()

        def look(tx: Transaction) -> tuple[int, pb.RolloutStatus]:
            return tx.last_change(usecases.ROLLOUTS), convert.status(
                tx, usecases.get_rollout(tx, request.name)
            )

        begin, status = self.read(look)
        if not request.after_sequence:
            yield pb.WatchRolloutResponse(sequence=begin, status=status)
        for change in self.database.watch(
            usecases.ROLLOUTS,
            PLATFORM,
            after=request.after_sequence or begin,
            timeout=call.remaining(),
            active=lambda: call.remaining() > 0,
        ):
            if change.key == request.name:
                yield pb.WatchRolloutResponse(sequence=change.sequence, status=self.read(look)[1])

    def SimulateRollout(
        self, request: pb.SimulateRolloutRequest, context: grpc.ServicerContext
    ) -> pb.SimulateRolloutResponse:
        asked = plan.parse(request.plan) if request.plan else None
        name = request.name or (f"rollouts/{asked.rollout}" if asked else "")
        if not name:
            raise invalid("name", "name a rollout, or give a plan")
        who = actor()

        def simulate(tx: Transaction) -> usecases.Simulation:
            rollout = usecases.get_rollout(tx, name) if request.name else store.get_rollout(tx, name)
            return usecases.simulate(tx, rollout, asked, verb=request.verb, stage=request.stage, actor=who)

        simulation = self.read(simulate)
        return _simulated(request, simulation)

    # Verbs

    def ArmRollout(self, request: pb.ArmRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.arm(tx, request.name, request.etag, actor()))

    def StartRollout(self, request: pb.StartRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.start(tx, request.name, request.etag, actor()))

    def AdvanceRollout(self, request: pb.AdvanceRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(
            request,
            lambda tx: usecases.advance(
                tx, request.name, request.etag, actor(), skip_hold=request.skip_hold, reason=request.reason
            ),
        )

    def JumpRollout(self, request: pb.JumpRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(
            request,
            lambda tx: usecases.jump(
                tx, request.name, request.etag, actor(), stage=request.stage, reason=request.reason
            ),
        )

    def RollbackRollout(
        self, request: pb.RollbackRolloutRequest, context: grpc.ServicerContext
    ) -> pb.Rollout:
        return self._verb(
            request,
            lambda tx: usecases.rollback(
                tx, request.name, request.etag, actor(), request.reason, to_start=request.to_start
            ),
        )

    def RestartRollout(self, request: pb.RestartRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.restart(tx, request.name, request.etag, actor()))

    def PauseRollout(self, request: pb.PauseRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(
            request, lambda tx: usecases.pause(tx, request.name, request.etag, actor(), request.reason)
        )

    def ResumeRollout(self, request: pb.ResumeRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.resume(tx, request.name, request.etag, actor()))

    def CompleteRollout(
        self, request: pb.CompleteRolloutRequest, context: grpc.ServicerContext
    ) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.complete(tx, request.name, request.etag, actor()))

    def ArchiveRollout(self, request: pb.ArchiveRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.archive(tx, request.name, request.etag, actor()))

    def KillRollout(self, request: pb.KillRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(
            request, lambda tx: usecases.kill(tx, request.name, request.etag, actor(), request.reason)
        )

    def UnkillRollout(self, request: pb.UnkillRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(request, lambda tx: usecases.unkill(tx, request.name, request.etag, actor()))

    def ApproveRollout(self, request: pb.ApproveRolloutRequest, context: grpc.ServicerContext) -> pb.Rollout:
        return self._verb(
            request, lambda tx: usecases.approve(tx, request.name, request.etag, actor(), request.gate)
        )

    def _verb(self, request: Message, do: Callable[[Transaction], Rollout]) -> pb.Rollout:
        return self.write(request, lambda tx: convert.rollouts(tx, [do(tx)])[0])


def _simulated(
    request: pb.SimulateRolloutRequest, simulation: usecases.Simulation
) -> pb.SimulateRolloutResponse:
    named = set(request.enterprises)
    shown = [
        record
        for enterprise, record in sorted(simulation.records.items())
        if (enterprise in named if named else _differs(simulation.before[enterprise], record))
    ]
    found, token = page(
        request,
        (str,),
        lambda limit, after: [each for each in shown if not after or each.enterprise > str(after[0])][:limit],
        lambda each: (each.enterprise,),
    )
    entering = [each for each in simulation.records.values() if _enters(simulation, each)]
    leaving = [
        each
        for name, each in simulation.records.items()
        if simulation.before[name].is_active and not each.is_active
    ]
    stage = simulation.after.current_stage
    return pb.SimulateRolloutResponse(
        admissions=[
            pb.SimulatedAdmission(
                enterprise=each.enterprise,
                before=_state(simulation.before[each.enterprise]),
                after=_state(each),
                rule=_rule(each),
                stage=each.stage,
                bucket=each.subject.bucket,
            )
            for each in found
        ],
        next_page_token=token,
        entering_count=len(entering),
        leaving_count=len(leaving),
        admitted_count=sum(each.is_active for each in simulation.records.values()),
        quota=stage.quota if stage else 0,
        stage=simulation.after.stage,
        by_rule=Counter(_rule(each) for each in simulation.records.values()),
    )


def _enters(simulation: usecases.Simulation, record: Record) -> bool:
    return record.is_active and not simulation.before[record.enterprise].is_active


def _differs(before: Record, after: Record) -> bool:
    return (before.state, before.stage) != (after.state, after.stage)


def _rule(record: Record) -> str:
    """What decides: by what it is in, or why it is not."""
    return record.source.value if record.is_active else (record.reason or Reason.NOT_ON_THE_LIST).value


def _state(record: Record) -> admissions_pb2.Admission.State.ValueType:
    return admissions_pb2.Admission.State.Value(record.state)
