"""Two gateways know the same soon after a decision."""

import time

import httpx

from deploy.compose.stack import Stack
from deploy.demo.client import Json, eventually
from deploy.demo.story import ROLLOUT
from tests.compose.conftest import Note
from tests.compose.outside import Outside


def test_gateways__kill_switch__closes_both_within_seconds(
    stack: Stack, outside: Outside, record_property: Note
) -> None:
    """The kill switch, and taking it back, reach each gateway without the balancer in between."""
    gateways = [f"http://{address}:8080" for address in stack.addresses("gateway", "inside")]
    assert len(gateways) == 2

    def answers() -> set[int]:
        path = f"/v1/{outside.story.enterprise}/accounts"
        headers = {"Authorization": f"Bearer {outside.story.owner.token}"}
        return {httpx.get(url + path, headers=headers, timeout=10).status_code for url in gateways}

    def converge(verb: str, body: Json, status: int) -> float:
        outside.story.operator.post(f"/v1/rollouts/{ROLLOUT}:{verb}", body)
        began = time.monotonic()
        eventually(lambda: answers() == {status} or None, what=f"{status} at both", seconds=10)
        return time.monotonic() - began

    closed, opened = converge("kill", {"reason": "a test of the switch"}, 403), converge("unkill", {}, 200)
    record_property(
        "2. Two gateways converge", f"both closed after {closed:.2f} s, both open after {opened:.2f} s"
    )
