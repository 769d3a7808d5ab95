"""Taking facts in: load, decide, save; each in the transaction that it is given."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from services.analytics import store
from services.analytics.model import Fact, Kind, Post
from services.chassis.database import Transaction
from services.chassis.json_lines import MOST_PROBLEMS, LineProblem


@dataclass
class Report:
    """What became of a file of engagement, so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[LineProblem] = field(default_factory=list)
    parents: Counter[str] = field(default_factory=Counter)
    """The parents that accepted facts answer, and were not known then; one may still come later in the file."""
    orphans: int = 0

    def reject(self, problem: LineProblem) -> None:
        """Count a line that was skipped; the first ones are told one by one."""
        self.rejected[problem.reason] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


def take_in(tx: Transaction, enterprise: str, lines: Sequence[tuple[int, Fact]], report: Report) -> None:
    """
    Take in a batch of a file's facts, and report.

    What was known before counts as a duplicate, whether it is right or not: the first word stands.
    """
    new_posts = {
        fact.post: Post(fact.post, fact.time) for _, fact in reversed(lines) if fact.kind is Kind.POST
    }
    known = new_posts | store.posts_known(tx, enterprise, (fact.post for _, fact in lines))
    sound: list[Fact] = []
    for number, fact in lines:
        post = known.get(fact.post)
        if post is None:
            report.reject(
                LineProblem(
                    number, "UNKNOWN_POST", f"post: {fact.post} was neither sent before nor published by us"
                )
            )
        elif fact.time < post.time and fact.kind is not Kind.POST:
            report.reject(
                LineProblem(
                    number, "TIME_BEFORE_POST", f"time: is before the post's own, {post.time.isoformat()}"
                )
            )
        else:
            sound.append(fact)
    new = store.claim_ids(tx, enterprise, [fact.id for fact in sound])
    accepted: dict[str, Fact] = {}
    for fact in sound:
        if fact.id in new and fact.id not in accepted:
            post = known[fact.post]
            accepted[fact.id] = fact if not post.publication else _ours(fact, post)
    report.accepted += len(accepted)
    report.duplicates += len(sound) - len(accepted)
    if not accepted:
        return
    store.save_posts(tx, enterprise, [Post(f.post, f.time) for f in accepted.values() if f.kind is Kind.POST])
    report.parents.update(fact.parent for fact in accepted.values() if fact.parent)
    store.append_facts(tx, enterprise, list(accepted.values()))


def count_orphans(tx: Transaction, enterprise: str, report: Report) -> None:
    """At a file's end: count the facts whose parent is not known even now."""
    parents = sorted(report.parents)
    for begin in range(0, len(parents), 10_000):
        part = parents[begin : begin + 10_000]
        known = store.ids_known(tx, enterprise, part)
        report.orphans += sum(report.parents[parent] for parent in part if parent not in known)


def remember_post(tx: Transaction, enterprise: str, fact: Fact) -> None:
    """A post of ours is on its network: engagement can be about it from now on."""
    store.save_posts(tx, enterprise, [Post(fact.post, fact.time, fact.publication, fact.account)])
    remember(tx, enterprise, [fact])


def remember(tx: Transaction, enterprise: str, facts: Iterable[Fact]) -> None:
    """Facts that the platform itself tells; known ones change nothing."""
    told = {fact.id: fact for fact in facts}
    new = store.claim_ids(tx, enterprise, list(told))
    if new:
        store.append_facts(tx, enterprise, [fact for fact in told.values() if fact.id in new])


def _ours(fact: Fact, post: Post) -> Fact:
    return replace(fact, publication=post.publication, account=post.account)
