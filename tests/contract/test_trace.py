"""A post can be followed from the request to the network, and the trace betrays nothing."""

import pytest

from tests.contract.trace import CHAIN, trace_post
from tests.otlp import Receiver
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_trace__leads_from_the_gateway_to_the_network(world: World, receiver: Receiver) -> None:
    """One trace has all hops as a chain of parents, lacks no parent, and holds no token and no text."""
    traced = trace_post(world, receiver)

    print(traced.tree())
    assert traced.traces == 1
    assert traced.hops == CHAIN
    assert not traced.orphans
    assert not traced.betrayed
