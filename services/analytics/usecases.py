"""Taking facts in: load, decide, save; each in the transaction that it is given."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.analytics import metrics, store
from services.analytics.model import Fact, Kind, Post, event_id
from services.chassis.database import Transaction
from services.chassis.json_lines import MOST_PROBLEMS, LineProblem

_PAGE = 10_000
"""Ids in one question."""


@dataclass
class Report:
    """What became of a file of engagement, so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[LineProblem] = field(default_factory=list)
    parents: Counter[str] = field(default_factory=Counter)
    """The events that accepted ones answer; the file may hold them anywhere."""
    orphans: int = 0

    def reject(self, problem: LineProblem) -> None:
        """Count a line that was skipped; the first ones are told one by one."""
        self.rejected[problem.reason] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


def take_in(
    tx: Transaction, enterprise: str, lines: Sequence[tuple[int, Fact | LineProblem]], report: Report
) -> None:
    """
    Take in a part of a file, in its order, and report: the lines by number, each a fact or what is wrong with it.

    Where the file is cut into parts makes no difference: a line is judged by what came before it.
    """
    store.lock(tx, enterprise)
    rejected = report.rejected.copy()
    posts = store.posts_known(tx, enterprise, {fact.post for _, fact in lines if isinstance(fact, Fact)})
    sound: list[Fact] = []
    for number, fact in lines:
        if isinstance(fact, LineProblem):
            report.reject(fact)
        elif fact.kind is Kind.POST:
            posts.setdefault(fact.post, Post(fact.post, fact.time))
            sound.append(fact)
        elif (post := posts.get(fact.post)) is None:
            problem = f"post: {fact.post} was neither sent before nor published by us"
            report.reject(LineProblem(number, "UNKNOWN_POST", problem))
        elif fact.time < post.time:
            problem = f"time: is before the post's own, {post.time.isoformat()}"
            report.reject(LineProblem(number, "TIME_BEFORE_POST", problem))
        elif post.publication:
            sound.append(fact._replace(publication=post.publication, account=post.account))
        else:
            sound.append(fact)
    accepted = _new(tx, enterprise, sound)
    report.accepted += len(accepted)
    report.duplicates += len(sound) - len(accepted)
    report.parents.update(fact.parent for fact in accepted if fact.parent)
    store.save_posts(tx, enterprise, [posts[fact.post] for fact in accepted if fact.kind is Kind.POST])
    metrics.rejected(tx, report.rejected - rejected, duplicates=len(sound) - len(accepted))
    _append(tx, enterprise, accepted)


def count_orphans(tx: Transaction, enterprise: str, report: Report) -> None:
    """At a file's end: count the facts whose parent is not known even now."""
    parents = list(report.parents)
    for begin in range(0, len(parents), _PAGE):
        part = parents[begin : begin + _PAGE]
        known = store.ids_known(tx, enterprise, [event_id(parent) for parent in part])
        report.orphans += sum(report.parents[parent] for parent in part if event_id(parent) not in known)


def remember_post(tx: Transaction, enterprise: str, fact: Fact) -> None:
    """A post of ours is on its network: engagement can be about it from now on."""
    store.save_posts(tx, enterprise, [Post(fact.post, fact.time, fact.publication, fact.account)])
    remember(tx, enterprise, [fact])


def remember(tx: Transaction, enterprise: str, facts: Iterable[Fact]) -> None:
    """Facts that the platform itself tells; known ones change nothing."""
    _append(tx, enterprise, _new(tx, enterprise, facts))


def _append(tx: Transaction, enterprise: str, facts: Sequence[Fact]) -> None:
    if facts:
        store.append_facts(tx, enterprise, facts)
        metrics.taken_in(tx, facts)


def _new(tx: Transaction, enterprise: str, facts: Iterable[Fact]) -> list[Fact]:
    """Those that were not known before, each once: the first word stands."""
    first: dict[str, Fact] = {}
    for fact in facts:
        first.setdefault(fact.id, fact)
    known = store.claim_ids(tx, enterprise, first)
    return [fact for fact in first.values() if fact.id not in known]
