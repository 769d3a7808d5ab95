"""One post, one trace: from the gateway's request to the call that puts it on the network."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from deploy.otel.exports import LogLine, Span, tree
from deploy.otel.store import Store
from tests.world import World


class Hop(NamedTuple):
    """A place that the trace must pass: which process, and what kind of span."""

    service: str
    kind: str
    name: str


CHAIN = (
    Hop("gateway-http", "SERVER", "POST /v1/{name=enterprises/*/publications/*}:schedule"),
    Hop("gateway-http", "CLIENT", "numerator.publishing.v1.PublishingService/SchedulePublication"),
    Hop("publishing-api", "SERVER", "numerator.publishing.v1.PublishingService/SchedulePublication"),
    Hop("publishing-worker", "PRODUCER", "send publishing.publication.scheduled"),
    Hop("publishing-worker", "CONSUMER", "process publishing.on_publication_scheduled"),
    Hop("publishing-sender", "CLIENT", "publish mastodon"),
)
"""Gateway, gRPC, api, outbox and RabbitMQ, worker, network: each span is a child of the one before."""


@dataclass(frozen=True)
class Traced:
    """
    The trace of one post.

    Attributes:
        traces: in how many traces there are spans of events about the publication or its deliveries.
        spans: of the trace.
        path: the spans of `CHAIN`, from the network back to the gateway, following parents; as far as it goes.
        orphans: spans of the trace whose parent is not in it, the root aside.
        betrayed: the spans and logs, of whatever trace, that hold a secret or the post's text.
    """

    traces: int
    spans: Sequence[Span]
    path: Sequence[Span]
    orphans: Sequence[Span]
    betrayed: Sequence[Span | LogLine]

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The path, from the gateway to the network."""
        return tuple(Hop(span.service, span.kind, span.name) for span in reversed(self.path))

    @property
    def whole(self) -> bool:
        """Whether it is one trace that passes all hops, lacks no parent, and betrays nothing."""
        return self.traces == 1 and self.hops == CHAIN and not self.orphans and not self.betrayed

    def tree(self) -> str:
        """The trace as text."""
        return tree(self.spans)


def trace_post(world: World, store: Store, seconds: float = 30) -> Traced:
    """
    Publish a post on one account and follow its trace.

    Args:
        world: prepared; its platform exports to a receiver.
        store: what that receiver keeps.
        seconds: how long to wait for the export of the whole trace.
    """
    owner, enterprise = world.story.owner, world.story.enterprise
    text = f"canary {uuid4()}"
    publication = owner.post(
        f"/v1/{enterprise}/publications", {"text": text, "accounts": [world.story.accounts["brand"]]}
    )
    owner.post(f"/v1/{publication['name']}:schedule")
    world.story.await_deliveries(publication["name"])
    unspeakable = [text, *_secrets(world)]
    deadline = time.monotonic() + seconds
    while True:
        traced = look(store, publication["name"], unspeakable)
        if traced.whole or time.monotonic() > deadline:
            return traced
        time.sleep(0.2)  # between two looks; the deadline ends them


def look(store: Store, publication: str, unspeakable: Sequence[str]) -> Traced:
    """The trace of a publication as far as it was exported, and which exports hold one of the unspeakable words."""
    every = store.spans()
    traces = {
        s.trace for s in every if s.attributes.get("numerator.event.subject", "").startswith(publication)
    }
    spans = [span for span in every if span.trace in traces]
    by_id = {span.id: span for span in spans}
    path = [span for span in spans if Hop(span.service, span.kind, span.name) == CHAIN[-1]][:1]
    while path and path[-1].parent in by_id:
        path.append(by_id[path[-1].parent])
    exported: list[Span | LogLine] = [*every, *store.logs()]
    return Traced(
        traces=len(traces),
        spans=spans,
        path=path,
        orphans=[span for span in spans if span.parent and span.parent not in by_id],
        betrayed=[each for each in exported if any(word in str(each) for word in unspeakable)],
    )


def _secrets(world: World) -> Iterator[str]:
    """What must not leave a process: the platform's keys, a member's session, the network's tokens."""
    for file in world.platform.keys.folder.iterdir():
        yield from (line for line in file.read_text().splitlines() if line and "-----" not in line)
    yield world.story.owner.token
    with (world.platform.home / "sandbox" / "state.jsonl").open(encoding="utf-8") as file:
        for entry in map(json.loads, file):
            yield from (entry[key] for key in ("value", "client_secret") if key in entry)
