"""What the contracts promise: rows 5, 6 and 7 of `make verify-story`."""

from collections.abc import Iterator
from random import SystemRandom

from rich.console import Console

from deploy.otel.receiver import receiving
from tests.contract import cross_tenant as tenants
from tests.contract import openapi as document
from tests.contract.trace import CHAIN, trace_post
from tests.verify.table import Row
from tests.world import World, fresh_world

CASES = 2_000
TRACE_PORT_BASE = 7850


def cross_tenant(world: World) -> Iterator[Row]:
    """Row 5: with the application's check, and with row-level security alone."""
    world.story.ingest_profiles()
    for came, how in zip(tenants.measure(world), ("checked", "row-level security alone"), strict=True):
        yield Row(
            f"every RPC with another tenant's ids, {how}",
            "answered as for a missing one; nothing of the other's told or changed",
            str(came),
            came.tight and came.checked is (how == "checked"),
        )


def one_trace() -> Iterator[Row]:
    """Row 6, on a platform of its own that exports what it does."""
    with (
        receiving() as receiver,
        fresh_world("verify-trace", TRACE_PORT_BASE, **receiver.environment) as world,
    ):
        world.prepare()
        traced = trace_post(world, receiver.store)
    Console().print(traced.tree(), highlight=False, markup=False, soft_wrap=True)
    yield Row(
        "a post, from the gateway to the network",
        f"one trace, a chain of {len(CHAIN)} spans: gateway, publishing api, outbox, RabbitMQ, worker, network",
        f"{traced.traces} trace of {len(traced.spans)} spans, {len(traced.orphans)} without their parent; the chain has "
        f"{len(traced.hops)}; {len(traced.betrayed)} exports hold a secret or the text",
        traced.whole,
    )


def openapi(world: World) -> Iterator[Row]:
    """Row 7, as nobody in particular, as a member, as the network and as the platform's staff."""
    world.story.ingest_profiles()
    came = document.measure(world, seed=SystemRandom().getrandbits(31), full=True)
    yield Row(
        "schemathesis against /openapi.json, with credentials",
        f"{CASES:,} cases; no 5xx, no undocumented status, every answer as documented",
        str(came),
        came.cases >= CASES
        and came.operations == came.offered
        and not came.failures
        and document.UNREACHABLE.issuperset(came.unreached),
    )
