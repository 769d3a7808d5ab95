"""Which gateways serve what."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.show.parts import ago, table, tick


def replicas(answer: Json) -> Iterator[RenderableType]:
    """Which gateways serve what."""
    yield convergence(answer)
    if answer["replicas"]:
        yield ""
        yield table(
            ("gateway", "", "snapshot", "after", "admissions", "after", "heard"),
            (
                (
                    each["replica"], tick(each["converged"]), f"v{each['snapshotVersion']}", f"{each['snapshotLagMs']} ms",
                    f"v{each['admissionsVersion']}", f"{each['admissionsLagMs']} ms", ago(each["reportTime"]),
                )
                for each in answer["replicas"]
            ),
        )  # fmt: skip


def convergence(answer: Json) -> Text:
    """How many gateways serve the newest versions, in some words."""
    found = answer.get("replicas", [])
    if not found:
        return Text("no gateway has reported lately", "red")
    counts = f"{answer['convergedCount']}/{len(found)} at v{answer['snapshotVersion']}"
    if answer["convergedCount"] == len(found):
        return Text(f"converged {counts} in {answer['slowestMs']} ms")
    behind = ", ".join(each["replica"] for each in found if not each["converged"])
    return Text(f"NOT converged: {counts}; behind: {behind}", "red")
