"""A post can be followed from the request to the network, and the trace betrays nothing."""

import pytest

from deploy.otel.exports import Span
from deploy.otel.receiver import Receiver
from deploy.otel.store import Store
from tests.contract.trace import CHAIN, look, trace_post
from tests.world import World


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trace__leads_from_the_gateway_to_the_network(world: World, receiver: Receiver) -> None:
    """One trace has all hops as a chain of parents, lacks no parent, and holds no token and no text."""
    traced = trace_post(world, receiver.store)

    print(traced.tree())
    assert traced.traces == 1
    assert traced.hops == CHAIN
    assert not traced.orphans
    assert not traced.betrayed


def exported(place: int, parent: str, **attributes: str) -> Span:
    hop = CHAIN[place]
    return Span("t", str(place), parent, hop.service, hop.name, hop.kind, place, attributes)


SUBJECT = {"numerator.event.subject": "enterprises/x/publications/y"}
WHOLE = [
    exported(0, ""),
    *(exported(n, str(n - 1), **(SUBJECT if n == 4 else {})) for n in range(1, len(CHAIN))),
]


@pytest.mark.parametrize(
    ("spans", "holds"),
    [
        (WHOLE, True),
        ([*WHOLE[:2], *WHOLE[3:]], False),
        ([*WHOLE, exported(5, "gone")], False),
        ([*WHOLE, exported(5, "4", note="a secret told")], False),
        ([*WHOLE, Span("other", "9", "", "x", "x", "SERVER", 9, SUBJECT)], False),
    ],
    ids=["whole", "a hop missing", "a parent missing", "a secret", "two traces"],
)
def test_look__finds_what_is_wrong(spans: list[Span], holds: bool) -> None:
    """A trace counts as whole only when nothing of it is missing, elsewhere, or unspeakable."""
    store = Store(traces=2, logs=0)
    store.add_spans(spans)

    traced = look(store, "enterprises/x/publications/y", ["secret"])

    assert traced.whole is holds
