"""The story that must always work, in containers."""

import time

from deploy.compose.stack import Stack
from deploy.demo.people import consent
from deploy.sandbox.users import PASSWORD
from tests.compose.conftest import Note
from tests.compose.outside import Outside


def test_story__from_inside__is_told_to_its_end(
    stack: Stack, up_seconds: float, record_property: Note
) -> None:
    """As `make compose-demo` plays it: by a container, over the balancer."""
    began = time.monotonic()
    told = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "story")

    memory = stack.memory()
    most = sorted(memory.items(), key=lambda each: -each[1])[:4]
    record_property("1. From nothing until all is healthy", f"{up_seconds:.0f} s")
    record_property("1. The whole story on it", f"{time.monotonic() - began:.0f} s")
    record_property(
        "1. Memory of all containers",
        f"{sum(memory.values()) / 1e9:.2f} GB in {len(memory)}; most (MB): "
        + ", ".join(f"{name} {used / 1e6:.0f}" for name, used in most),
    )
    assert "23. The partner leaves, and the company looks at who did what" in told
    assert "✗" not in told


def test_story__weibo__an_account_is_bound_and_let_go(outside: Outside) -> None:
    """The sandbox network is a Weibo as well, and the stack knows the app that it is there."""
    accounts = f"/v1/{outside.story.enterprise}/accounts"
    started = outside.call(
        "POST", f"{accounts}:startBinding", {"network": "weibo", "server": outside.network}
    )
    handed = consent(started["authorizationUrl"], "li-na", PASSWORD)
    bound = outside.call(
        "POST", f"{accounts}:completeBinding", {"state": handed["state"], "code": handed["code"]}
    )
    ended = outside.call("DELETE", f"/v1/{bound['name']}")

    assert (bound["network"], bound["state"], ended["state"]) == ("weibo", "ACTIVE", "REVOKED")
    assert bound["tokenExpireTime"]


def test_story__a_publication__is_on_each_account_once(outside: Outside) -> None:
    """From outside, through the published ports."""
    text = "From outside the containers"
    name = outside.publish(text)
    outside.story.await_deliveries(name)

    seen = {account: times for (account, said), times in outside.published().items() if said == text}
    assert list(seen.values()) == [1, 1, 1, 1]
