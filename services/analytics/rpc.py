"""The gRPC face of analytics: proto to model and back, nothing else."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, islice

import grpc
from numerator.analytics.v1 import analytics_pb2 as pb
from numerator.analytics.v1 import analytics_pb2_grpc as pb_grpc

from services.analytics import guardrails, metrics, store, usecases
from services.analytics.columns import Columns
from services.analytics.model import METRICS, Guardrail, Question, Tally, fact_of_line
from services.chassis import json_lines
from services.chassis.database import Database, Follower
from services.chassis.errors import Kind, ServiceError, invalid, not_found
from services.chassis.metrics import timed
from services.chassis.paging import decode_token, encode_token, page_size, token_refused
from services.chassis.rpc.call import current_call

_BATCH = 5_000
"""Lines in one transaction."""
_FRESH_SECONDS = 2.0
"""How long a question waits for what was accepted before it was asked."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


class AnalyticsServicer(pb_grpc.AnalyticsServiceServicer):
    """Serves `numerator.analytics.v1.AnalyticsService`."""

    def __init__(
        self, database: Database, columns: Columns, follower: Follower, *, window: timedelta
    ) -> None:
        self._database = database
        self._columns = columns
        self._follower = follower
        self._window = window

    def IngestEngagements(
        self, request_iterator: Iterator[pb.IngestEngagementsRequest], context: grpc.ServicerContext
    ) -> pb.IngestEngagementsResponse:
        first = next(request_iterator, None)
        if first is None:
            raise invalid("parent", "is required", reason="REQUIRED")
        _refuse_others(first.parent)
        report = usecases.Report()
        chunks = (part.body.data for part in chain([first], request_iterator))
        lines = json_lines.read(chunks, fact_of_line)
        while part := list(islice(lines, _BATCH)):
            # Lines are taken in and reported together, or not at all.
            with self._database.transaction(current_call().scope) as tx:
                usecases.take_in(tx, first.parent, part, report)
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
        offset, until, fresh = self._page(request)
        with timed(metrics.query):
            rows = self._columns.ask(
                request.parent,
                question,
                until=until,
                limit=size + 1,
                offset=offset,
                timeout=current_call().remaining(),
            )
        response = pb.QueryMetricsResponse(
            rows=[pb.MetricRow(dimensions=dimensions, values=values) for dimensions, values in rows[:size]],
            next_page_token=encode_token((offset + size, until, fresh), query=request)
            if len(rows) > size
            else "",
        )
        if fresh:
            response.fresh_time.FromMicroseconds(fresh)
        return response

    def ListMetrics(
        self, request: pb.ListMetricsRequest, context: grpc.ServicerContext
    ) -> pb.ListMetricsResponse:
        size = page_size(request.page_size)
        offset = int((decode_token(request.page_token, (int,), query=request) or (0,))[0])
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

    def RecordUsage(
        self, request: pb.RecordUsageRequest, context: grpc.ServicerContext
    ) -> pb.RecordUsageResponse:
        def record() -> pb.RecordUsageResponse:
            guardrails.report(
                tx, _tallies(request.usages), request.through_time.ToDatetime(tzinfo=UTC), self._window
            )
            return pb.RecordUsageResponse()

        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, record, caller=request.replica)

    def _page(self, request: pb.QueryMetricsRequest) -> tuple[int, int, int]:
        """
        Where the page begins, the newest change that counts, and until when (in microseconds) everything accepted is in.

        The first page waits a little for what was accepted before it was asked for; the later ones are of the same moment.
        """
        patience = min(_FRESH_SECONDS, current_call().remaining() / 2)
        token = decode_token(request.page_token, (int, int, int), query=request)
        if token:
            offset, until, fresh = (int(each) for each in token)
            if min(offset, until, fresh) < 0 or fresh > _LAST:
                raise token_refused()
            if not self._follower.caught_up(until, patience):
                raise ServiceError(
                    Kind.UNAVAILABLE,
                    "FACTS_UNAVAILABLE",
                    "the numbers are being put together anew; try again",
                    retry_after=timedelta(seconds=1),
                )
            return offset, until, fresh
        with self._database.transaction(current_call().scope) as tx:
            newest, now = store.last_sequence(tx), tx.now
        complete = self._follower.caught_up(newest, patience)
        return 0, self._follower.position, (now - _EPOCH) // timedelta(microseconds=1) if complete else 0


def _refuse_others(enterprise: str) -> None:
    """Raise NOT_FOUND for another tenant's: the columnar store has no row-level security that would hide its facts."""
    if enterprise != current_call().scope.enterprise:
        raise not_found(enterprise)


def _tallies(usages: Iterable[pb.Usage]) -> Iterator[Tally]:
    for each in usages:
        where = each.time.ToDatetime(tzinfo=UTC), each.enterprise
        yield Tally(Guardrail.GATEWAY_ERRORS, *where, each.requests, each.server_errors)
        yield Tally(Guardrail.GATEWAY_LATENCY, *where, each.requests, each.slow)


def _moment(request: pb.QueryMetricsRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # the two names of time fields
        return None
    moment: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    return moment
