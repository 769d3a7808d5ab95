"""Change requests."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import ago, coloured, pairs, table, when, word


def change(answer: Json) -> Iterator[RenderableType]:
    """A change request, but for what it changes."""
    kind = (
        "review of a kill or rollback"
        if answer["kind"] == "REVIEW"
        else f"changes plan v{answer['baseVersion']}"
    )
    yield Text.assemble((brief(answer["name"]), "bold"), "  ", coloured(word(answer["state"])), f"  {kind}")
    approvers = f": {', '.join(answer['approvers'])}" if answer["approvers"] else ""
    facts = [
        ("by", f"{answer['author']}, {ago(answer['createTime'])}"),
        ("why", answer["reason"]),
        ("approved", f"{len(answer['approvers'])} of {answer['approvalsNeeded']}{approvers}"),
    ]
    if "scheduleTime" in answer:
        facts.append(("applies", when(answer["scheduleTime"])))
    if answer["contentHash"]:
        facts.append(("hash", answer["contentHash"]))
    yield pairs(facts)


def changes(answer: Json) -> Iterator[RenderableType]:
    """Change requests, newest first."""
    yield table(
        ("change", "kind", "state", "approved", "by", "when", "why"),
        (
            (
                brief(each["name"]), each["kind"], coloured(word(each["state"])),
                f"{len(each['approvers'])}/{each['approvalsNeeded']}", each["author"], ago(each["createTime"]), each["reason"],
            )
            for each in answer["changeRequests"]
        ),
        none="there is no change request",
    )  # fmt: skip
