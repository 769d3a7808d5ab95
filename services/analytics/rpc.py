"""The gRPC face of analytics: proto to model and back, nothing else."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics import store, usecases
from services.analytics.columns import Columns
from services.analytics.model import METRICS, Fact, Question, fact_of_line
from services.chassis import json_lines
from services.chassis.database import Database, Follower
from services.chassis.errors import not_found
from services.chassis.json_lines import LineProblem
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call

_BATCH = 5_000
"""Lines in one transaction."""
_FRESH_SECONDS = 2.0
"""How long a question waits for what was accepted before it was asked."""


class AnalyticsServicer(pb_grpc.AnalyticsServiceServicer):
    """Serves `numerator.analytics.v1.AnalyticsService`."""

    def __init__(self, database: Database, columns: Columns, follower: Follower) -> None:
        self._database = database
        self._columns = columns
        self._follower = follower

    def IngestEngagements(
        self, request_iterator: Iterator[pb.IngestEngagementsRequest], context: grpc.ServicerContext
    ) -> pb.IngestEngagementsResponse:
        first = next(request_iterator)
        _refuse_others(first.parent)
        report = usecases.Report()
        chunks = (part.body.data for part in chain([first], request_iterator))
        lines = json_lines.read(chunks, fact_of_line)
        while part := list(islice(lines, _BATCH)):
            self._take_in(first.parent, part, report)
        with self._database.transaction(current_call().scope) as tx:
            usecases.count_orphans(tx, first.parent, report)
        return pb.IngestEngagementsResponse(
            accepted_count=report.accepted,
            duplicate_count=report.duplicates,
            rejected_count=report.rejected.total(),
            rejected_by_reason=report.rejected,
            orphan_count=report.orphans,
            problems=[
                pb.LineProblem(line=p.line, reason=p.reason, description=p.description)
                for p in report.problems
            ],
        )

    def _take_in(
        self, enterprise: str, part: Iterable[tuple[int, Fact | LineProblem]], report: usecases.Report
    ) -> None:
        """One transaction: its lines are taken in and reported together, or not at all."""
        current_call().check()
        facts: list[tuple[int, Fact]] = []
        for number, line in part:
            if isinstance(line, LineProblem):
                report.reject(line)
            else:
                facts.append((number, line))
        with self._database.transaction(current_call().scope) as tx:
            usecases.take_in(tx, enterprise, facts, report)

    def QueryMetrics(
        self, request: pb.QueryMetricsRequest, context: grpc.ServicerContext
    ) -> pb.QueryMetricsResponse:
        _refuse_others(request.parent)
        question = Question(
            metrics=tuple(request.metrics),
            dimensions=tuple(request.dimensions),
            filters=tuple((each.dimension, tuple(each.values)) for each in request.filters),
            start=_moment(request, "start_time"),
            end=_moment(request, "end_time"),
        )
        size = page_size(request.page_size, default=1_000, maximum=10_000)
        offset = int((decode_token(request.page_token, query=request) or (0,))[0])
        with self._database.transaction(current_call().scope) as tx:
            newest, fresh = store.last_sequence(tx), tx.now
        complete = self._follower.caught_up(newest, min(_FRESH_SECONDS, current_call().remaining() / 2))
        rows = self._columns.ask(request.parent, question, limit=size + 1, offset=offset)
        return pb.QueryMetricsResponse(
            rows=[pb.MetricRow(dimensions=dimensions, values=values) for dimensions, values in rows[:size]],
            next_page_token=encode_token((offset + size,), query=request) if len(rows) > size else "",
            fresh_time=_stamp(fresh) if complete else None,
        )

    def ListMetrics(
        self, request: pb.ListMetricsRequest, context: grpc.ServicerContext
    ) -> pb.ListMetricsResponse:
        size = page_size(request.page_size)
        offset = int((decode_token(request.page_token, query=request) or (0,))[0])
        found = list(METRICS.values())[offset : offset + size]
        return pb.ListMetricsResponse(
            metrics=[
                pb.Metric(name=m.name, version=m.version, description=m.description, unit=m.unit)
                for m in found
            ],
            next_page_token=encode_token((offset + size,), query=request)
            if offset + size < len(METRICS)
            else "",
        )


def _refuse_others(enterprise: str) -> None:
    """Raise NOT_FOUND for another tenant's: the columnar store has no row-level security that would hide its facts."""
    if enterprise != current_call().scope.enterprise:
        raise not_found(enterprise)


def _moment(request: pb.QueryMetricsRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # the two names of time fields
        return None
    moment: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    return moment


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
