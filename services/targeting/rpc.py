"""The gRPC face of targeting: proto to model and back, nothing else."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

import grpc
from numerator.targeting.v1 import targeting_pb2 as pb
from numerator.targeting.v1 import targeting_pb2_grpc as pb_grpc

from services.chassis import json_lines
from services.chassis.database import PUBLIC, Database, Follower, Transaction
from services.chassis.json_lines import MOST_PROBLEMS, LineProblem
from services.chassis.metrics import timed
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp
from services.targeting import metrics, store, usecases
from services.targeting.index import Index
from services.targeting.model import Audience, Person, person_of_line, rounded

_BATCH = 1_000
"""Lines in one transaction."""


class TargetingServicer(pb_grpc.TargetingServiceServicer):
    """
    Serves `numerator.targeting.v1.TargetingService`.

    People belong to no tenant, so what is done with them has the scope PUBLIC, whoever does it.
    """

    def __init__(self, database: Database, index: Index, follower: Follower, minimum_audience: int) -> None:
        self._database = database
        self._index = index
        self._follower = follower
        self._minimum = minimum_audience

    def IngestProfiles(
        self, request_iterator: Iterator[pb.IngestProfilesRequest], context: grpc.ServicerContext
    ) -> pb.IngestProfilesResponse:
        lines = json_lines.read((part.body.data for part in request_iterator), person_of_line)
        report = pb.IngestProfilesResponse()
        while part := list(islice(lines, _BATCH)):
            current_call().check()
            people = [line for _, line in part if isinstance(line, Person)]
            with self._database.transaction(PUBLIC) as tx:
                changed = usecases.take_in(tx, people)
            report.accepted_count += len(people)
            report.unchanged_count += len(people) - changed
            problems = [line for _, line in part if isinstance(line, LineProblem)]
            metrics.taken_in(accepted=len(people), changed=changed, problems=problems)
            _report(report, problems)
        return report

    def WithdrawConsent(
        self, request: pb.WithdrawConsentRequest, context: grpc.ServicerContext
    ) -> pb.Consent:
        with self._database.transaction(PUBLIC) as tx:
            since = usecases.withdraw_consent(tx, request.name.removeprefix("users/"))
        return pb.Consent(name=request.name, promotions=False, update_time=stamp(since))

    def CreateAudience(self, request: pb.CreateAudienceRequest, context: grpc.ServicerContext) -> pb.Audience:
        given = request.audience

        def create(tx: Transaction) -> pb.Audience:
            return _audience(
                usecases.create_audience(tx, request.parent, given.display_name, given.definition)
            )

        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: create(tx))

    def GetAudience(self, request: pb.GetAudienceRequest, context: grpc.ServicerContext) -> pb.Audience:
        with self._database.transaction(current_call().scope) as tx:
            return _audience(usecases.get_audience(tx, request.name))

    def ListAudiences(
        self, request: pb.ListAudiencesRequest, context: grpc.ServicerContext
    ) -> pb.ListAudiencesResponse:
        size, after = (
            page_size(request.page_size),
            decode_token(request.page_token, (datetime, str), query=request),
        )
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.list_audiences(
                tx, request.parent, limit=size + 1, before=(str(after[0]), str(after[1])) if after else None
            )
        token = ""
        if len(found) > size:
            token = encode_token(
                (found[size - 1].create_time.isoformat(), found[size - 1].name), query=request
            )
        return pb.ListAudiencesResponse(
            audiences=[_audience(each) for each in found[:size]], next_page_token=token
        )

    def DeleteAudience(self, request: pb.DeleteAudienceRequest, context: grpc.ServicerContext) -> pb.Audience:
        with self._database.transaction(current_call().scope) as tx:
            return _audience(usecases.archive_audience(tx, request.name))

    def EstimateAudience(
        self, request: pb.EstimateAudienceRequest, context: grpc.ServicerContext
    ) -> pb.AudienceEstimate:
        self._catch_up()
        with timed(metrics.estimate), self._database.transaction(current_call().scope) as tx:
            found = usecases.estimate(tx, self._index, request.parent, request.definition, self._minimum)
        return pb.AudienceEstimate(
            size=found.size or 0,
            too_small=found.size is None,
            minimum_size=self._minimum,
            population=found.population,
            shares=[
                pb.Share(
                    dimension=s.dimension, value=s.value, size=s.size, fraction=s.size / (found.size or 1)
                )
                for s in found.shares
            ],
        )

    def BuildAudience(self, request: pb.BuildAudienceRequest, context: grpc.ServicerContext) -> pb.Audience:
        self._catch_up()

        def build(tx: Transaction) -> pb.Audience:
            return _audience(usecases.build_audience(tx, self._index, request.name, self._minimum))

        with timed(metrics.build), self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: build(tx))

    def SampleAudience(
        self, request: pb.SampleAudienceRequest, context: grpc.ServicerContext
    ) -> pb.SampleAudienceResponse:
        self._catch_up()
        count = page_size(request.page_size, default=5, maximum=20)
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.sample_audience(tx, self._index, request.name, count, self._minimum)
        return pb.SampleAudienceResponse(
            members=[pb.SampleMember(relevance=each.relevance, evidence=each.evidence) for each in found]
        )

    def _catch_up(self) -> None:
        """
        Let the index see what was accepted before this call, for half of the time that the call has. When it does not in
        time, as soon after a large file, the answer is a little older.
        """
        with self._database.transaction(PUBLIC) as tx:
            newest = store.last_change(tx)
        self._follower.caught_up(newest, current_call().remaining() / 2)


def _report(report: pb.IngestProfilesResponse, problems: list[LineProblem]) -> None:
    report.rejected_count += len(problems)
    for problem in problems[: MOST_PROBLEMS - len(report.problems)]:
        report.problems.add(line=problem.line, reason=problem.reason, description=problem.description)


def _audience(audience: Audience) -> pb.Audience:
    return pb.Audience(
        name=audience.name,
        display_name=audience.display_name,
        definition=pb.Rule.FromString(audience.definition),
        state=pb.Audience.State.Value(audience.state),
        size=rounded(audience.size),
        version=audience.version,
        create_time=stamp(audience.create_time),
        build_time=stamp(audience.build_time) if audience.build_time else None,
    )
