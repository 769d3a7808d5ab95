"""The story that must always work, in containers."""

from deploy.compose.stack import Stack
from tests.compose.outside import Outside


def test_story__from_inside__is_told_to_its_end(stack: Stack) -> None:
    """As `make compose-demo` plays it: by a container, over the balancer."""
    told = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "story")

    assert "15. Ops widens the stage, and takes it back" in told
    assert "✗" not in told


def test_story__a_publication__is_on_each_account_once(outside: Outside) -> None:
    """From outside, through the published ports."""
    text = "From outside the containers"
    name = outside.publish(text)
    outside.story.await_deliveries(name)

    seen = {account: times for (account, said), times in outside.published().items() if said == text}
    assert list(seen.values()) == [1, 1, 1, 1]
