"""What `Stack` decides by itself; what it does to an engine is tested in tests/compose."""

import pytest

from deploy.compose.stack import Stack, StackError


class Stuck(Stack):
    """Of an engine that starts nothing; notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def containers(self, service: str) -> list[str]:
        return ["one", "two"]

    def compose(self, *arguments: str, **more: object) -> str:
        return ""

    def docker(self, *arguments: str) -> str:
        self.told.append(" ".join(arguments))
        return ""


def test_roll__no_new_container__stops_nobody() -> None:
    """A predecessor leaves only when there is a successor."""
    stack = Stuck()

    with pytest.raises(StackError, match="no new container"):
        stack.roll("gateway")

    assert stack.told == []
