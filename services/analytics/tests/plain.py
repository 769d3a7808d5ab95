"""The rules of docs/engagements.md and the meaning of each number once more, as plainly as can be: what ours must equal."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from services.analytics.model import Fact, Question

Row = tuple[list[str], list[float]]


@dataclass
class Plain:
    """What an enterprise's files hold, counted line by line."""

    posts: dict[str, datetime] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)

    def read(self, lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What becomes of a file of sound lines."""
        told: Counter[str] = Counter()
        parents = []
        for line in lines:
            own = f"post {line['post']}" if line["type"] == "post" else f"event {line['id']}"
            when = datetime.fromtimestamp(line["time"], UTC)
            if line["type"] == "post":
                self.posts.setdefault(line["post"], when)
            elif line["post"] not in self.posts:
                told["UNKNOWN_POST"] += 1
                continue
            elif when < self.posts[line["post"]]:
                told["TIME_BEFORE_POST"] += 1
                continue
            if own in self.ids:
                told["duplicates"] += 1
                continue
            self.ids.add(own)
            told["accepted"] += 1
            parents.append(line.get("parent"))
        told["orphans"] = sum(parent is not None and f"event {parent}" not in self.ids for parent in parents)
        return {name: count for name, count in told.items() if count}


ENGAGEMENT = {"repost", "comment", "mention", "favourite"}


def _people(facts: list[Fact], kinds: set[str]) -> float:
    return len({fact.person for fact in facts if fact.kind in kinds and fact.person})


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _measure(metric: str, facts: list[Fact]) -> float:
    kinds = Counter(str(fact.kind) for fact in facts)
    match metric:
        case "posts" | "reposts" | "comments" | "favourites" | "exposures" | "registrations" | "answers":
            return kinds[metric.removesuffix("s")]
        case "engagements":
            return sum(kinds[kind] for kind in ENGAGEMENT)
        case "engaged_people":
            return _people(facts, ENGAGEMENT)
        case "reach":
            return _people(facts, ENGAGEMENT | {"exposure"})
        case "response_seconds":
            return _mean([fact.value for fact in facts if fact.kind == "answer"])
    raise AssertionError(f"nobody has said yet what {metric} is")


def _value(fact: Fact, dimension: str) -> str:
    forms = {"minute": "%Y-%m-%dT%H:%M:00Z", "hour": "%Y-%m-%dT%H:00:00Z", "day": "%Y-%m-%dT00:00:00Z"}
    return fact.time.strftime(forms[dimension]) if dimension in forms else str(getattr(fact, dimension))


def answer(facts: Iterable[Fact], question: Question) -> list[Row]:
    """The answer to a question about these facts."""
    groups: defaultdict[tuple[str, ...], list[Fact]] = defaultdict(list)
    if not question.dimensions:
        groups[()] = []
    for fact in facts:
        if (
            all(_value(fact, dimension) in values for dimension, values in question.filters)
            and (question.start is None or fact.time >= question.start)
            and (question.end is None or fact.time < question.end)
        ):
            groups[tuple(_value(fact, dimension) for dimension in question.dimensions)].append(fact)
    # By bytes, as ClickHouse orders texts.
    return [
        (list(key), [float(_measure(metric, group)) for metric in question.metrics])
        for key, group in sorted(groups.items(), key=lambda each: [part.encode() for part in each[0]])
    ]
