"""What is counted, and how each number is made; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from services.chassis.errors import invalid
from services.chassis.json_lines import BadLineError


class Kind(StrEnum):
    """What happened."""

    POST = "post"
    REPOST = "repost"
    COMMENT = "comment"
    MENTION = "mention"
    FAVOURITE = "favourite"
    EXPOSURE = "exposure"
    REGISTRATION = "registration"
    ANSWER = "answer"


ENGAGEMENT = (Kind.REPOST, Kind.COMMENT, Kind.MENTION, Kind.FAVOURITE)
"""What counts as engagement: people did something with a post, or named us."""

SENDABLE: Mapping[str, Kind] = {
    kind.value: kind for kind in (Kind.POST, Kind.REPOST, Kind.COMMENT, Kind.FAVOURITE)
}
"""What a file of engagement may hold."""


class Fact(NamedTuple):
    """
    One thing that happened, counted once by its id within an enterprise.

    A tuple, because a file has millions: its fields are the columns of the columnar store.

    Attributes:
        id: names what happened: a resource name, `post:…` for a post, `event:…` for a line of a file.
        time: UTC.
        post: the post that it is about; empty when it is about none.
        parent: the event that it answers, as a repost of a repost; empty: the post itself.
        person: who did it or saw it.
        value: a measure of its own: for an answer, the seconds that the person waited.
    """

    id: str
    kind: Kind
    time: datetime
    post: str = ""
    parent: str = ""
    person: str = ""
    publication: str = ""
    account: str = ""
    placement: str = ""
    campaign: str = ""
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Post:
    """A post that engagement can be about."""

    post: str
    time: datetime
    publication: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A number that can be asked for.

    Attributes:
        expression: ClickHouse SQL over the facts of a group.
    """

    name: str
    unit: str
    description: str
    expression: str = field(repr=False)
    version: int = 1


def _kinds(*kinds: Kind) -> str:
    return "kind in (" + ", ".join(f"'{kind}'" for kind in kinds) + ")"


def _people(*kinds: Kind) -> str:
    return f"uniqExactIf(person, person != '' and {_kinds(*kinds)})"


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "posts",
            "posts",
            "Posts that went out or were sent to us, each once.",
            f"countIf({_kinds(Kind.POST)})",
        ),
        Metric("reposts", "events", "How often a post was passed on.", f"countIf({_kinds(Kind.REPOST)})"),
        Metric("comments", "events", "How often people answered a post.", f"countIf({_kinds(Kind.COMMENT)})"),
        Metric(
            "favourites", "events", "How often people liked a post.", f"countIf({_kinds(Kind.FAVOURITE)})"
        ),
        Metric(
            "engagements",
            "events",
            "Reposts, comments, mentions and favourites together. An event counts once by its id.",
            f"countIf({_kinds(*ENGAGEMENT)})",
        ),
        Metric(
            "engaged_people",
            "people",
            "Different people with at least one engagement, counted exactly.",
            _people(*ENGAGEMENT),
        ),
        Metric(
            "exposures",
            "events",
            "How often a placement was seen, as the network reported it with the decision's token.",
            f"countIf({_kinds(Kind.EXPOSURE)})",
        ),
        Metric(
            "reach",
            "people",
            "Different people known to have seen something of ours: by a reported exposure or by an engagement. "
            "Nobody is estimated; who saw without a trace is not in it.",
            _people(Kind.EXPOSURE, *ENGAGEMENT),
        ),
        Metric(
            "registrations",
            "people",
            "Sign-ups to events, once per person and campaign.",
            f"countIf({_kinds(Kind.REGISTRATION)})",
        ),
        Metric(
            "answers",
            "events",
            "Questions and mentions answered on the network.",
            f"countIf({_kinds(Kind.ANSWER)})",
        ),
        Metric(
            "response_seconds",
            "seconds",
            "From a person's question to our visible answer, as a mean over answers. 0 without answers.",
            f"ifNotFinite(avgIf(value, {_kinds(Kind.ANSWER)}), 0)",
        ),
    )
}
"""Every number of the platform, by name. A changed meaning is a new version."""


class Source(StrEnum):
    """Where the numbers of guardrails come from. Each has its own word on until when everything is in."""

    EVENTS = "events"
    GATEWAYS = "gateways"


class Guardrail(StrEnum):
    """A number by which a rollout is stopped: how often something happened, and how often of these it was bad."""

    PUBLISH_ERRORS = "publish.error_rate"
    """Deliveries that ended, but for the cancelled; bad: they failed for good, whatever the reason."""
    BINDING_SUCCESS = "binding.success_rate"
    """Times that a network bound an account or refused its token; bad: it refused."""
    GATEWAY_ERRORS = "gateway.error_rate"
    """Requests of an enterprise's members and clients; bad: answered with a 5xx."""
    GATEWAY_LATENCY = "gateway.latency_over_300ms"
    """The same requests; bad: they took more than 300 ms. Streams and uploads are never bad."""


GUARDRAILS: Mapping[Source, tuple[Guardrail, ...]] = {
    Source.EVENTS: (Guardrail.PUBLISH_ERRORS, Guardrail.BINDING_SUCCESS),
    Source.GATEWAYS: (Guardrail.GATEWAY_ERRORS, Guardrail.GATEWAY_LATENCY),
}


class Tally(NamedTuple):
    """What was counted for one enterprise within one window of time, named by its beginning (UTC): in total, and bad."""

    metric: str
    window_start: datetime
    enterprise: str
    total: int
    bad: int


DIMENSIONS: Mapping[str, str] = {
    **{name: name for name in ("post", "publication", "account", "placement", "campaign")},
    "kind": "toString(kind)",
    "minute": "formatDateTime(toStartOfMinute(time), '%Y-%m-%dT%H:%i:%SZ', 'UTC')",
    "hour": "formatDateTime(toStartOfHour(time), '%Y-%m-%dT%H:%i:%SZ', 'UTC')",
    "day": "formatDateTime(toStartOfDay(time), '%Y-%m-%dT%H:%i:%SZ', 'UTC')",
}
"""What numbers can be grouped and filtered by, with the SQL of its value."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: metrics by dimensions, under filters, from `start` to `end`."""

    metrics: tuple[str, ...]
    dimensions: tuple[str, ...] = ()
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for index, metric in enumerate(self.metrics):
            if metric not in METRICS:
                raise invalid(
                    f"metrics[{index}]", f"must be one of {', '.join(METRICS)}", reason="UNKNOWN_METRIC"
                )
        for index, dimension in enumerate(self.dimensions):
            if dimension not in DIMENSIONS:
                raise invalid(
                    f"dimensions[{index}]",
                    f"must be one of {', '.join(DIMENSIONS)}",
                    reason="UNKNOWN_DIMENSION",
                )
        if len(set(self.dimensions)) < len(self.dimensions):
            raise invalid("dimensions", "must differ", reason="DIMENSION_REPEATED")
        for index, (dimension, _) in enumerate(self.filters):
            if dimension not in DIMENSIONS:
                raise invalid(
                    f"filters[{index}].dimension",
                    f"must be one of {', '.join(DIMENSIONS)}",
                    reason="UNKNOWN_DIMENSION",
                )
        if self.start and self.end and self.start >= self.end:
            raise invalid("end_time", "must be later than start_time", reason="TIME_RANGE_EMPTY")


_LONGEST_ID = 200
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def event_id(line_id: str) -> str:
    """The id of the fact that a line of a file tells, from the line's own."""
    return f"event:{line_id}"


def post_id(post: str) -> str:
    """The id of the fact that a post is there."""
    return f"post:{post}"


def fact_of_line(line: Mapping[str, Any]) -> Fact:
    """A line of a file of engagement (docs/engagements.md). Raises BadLineError, naming the field."""
    kind = SENDABLE.get(_text(line, "type"))
    if kind is None:
        raise BadLineError("BAD_VALUE", f"type: must be one of {', '.join(SENDABLE)}")
    post = _text(line, "post")
    return Fact(
        id=post_id(post) if kind is Kind.POST else event_id(_text(line, "id")),
        kind=kind,
        time=_time(line),
        post=post,
        parent="" if line.get("parent") is None else _text(line, "parent"),
        person=_text(line, "user"),
    )


def _text(line: Mapping[str, Any], field_name: str) -> str:
    value = line.get(field_name)
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable():
        return value
    if value is None:
        raise BadLineError("MISSING_FIELD", f"{field_name}: is missing")
    raise BadLineError(
        "BAD_VALUE", f"{field_name}: must be a text of 1 to {_LONGEST_ID} printable characters"
    )


def _time(line: Mapping[str, Any]) -> datetime:
    value = line.get("time")
    if value is None:
        raise BadLineError("MISSING_FIELD", "time: is missing")
    moment = _moment(value)
    if moment is None or moment.tzinfo is None or not _EARLIEST <= moment < _LATEST:
        raise BadLineError(
            "BAD_VALUE", "time: must be RFC 3339 with an offset, or Unix seconds, from 1970 to 2099"
        )
    return moment.astimezone(UTC)


def _moment(value: object) -> datetime | None:
    try:
        match value:
            case str():
                return datetime.fromisoformat(value)
            case bool():
                return None
            case int() | float():
                return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
