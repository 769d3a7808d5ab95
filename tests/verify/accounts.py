"""`make verify-accounts`: measures every promise of accounts, and prints the table."""

from os import cpu_count, getloadavg
from typing import Annotated, Literal

import typer
from pydantic_settings import BaseSettings
from rich.console import Console

from services.chassis.logs import configure_logs
from tests.verify import accounts_parts as parts
from tests.verify.accounts_platform import platform
from tests.verify.table import Check, verify


class Size(BaseSettings):
    """How much is measured. `SIZE=full` takes far more, and longer."""

    size: Literal["ci", "full"] = "ci"

    def __call__(self, ci: int, full: int) -> int:
        """One of the two."""
        return ci if self.size == "ci" else full


def main(
    only: Annotated[list[int] | None, typer.Option(help="Only these of the six; may be given again.")] = None,
) -> None:
    """Measure it all, or a part."""
    # Senders run in this process: of thousands of posts only what goes wrong is told.
    configure_logs("verify", "accounts", "WARNING")
    size = Size()
    checks: list[tuple[int, str, Check]] = [
        (1, "The tree of 10,000 accounts", parts.tree),
        (1, "150 accounts bound, and planted tokens searched for", platform),
        (3, "Attacks on the vault", lambda: parts.attacks(size(10_000, 100_000))),
        (3, "Rotation under load", lambda: parts.rotation(size(5_000, 100_000), kills=size(10, 50))),
        (4, "OAuth misused", parts.misuse),
        (4, "Tokens mutated", parts.mutations),
        (4, "URLs that must not be reached", parts.forbidden_urls),
        (5, "The permission model", parts.permissions),
        (6, "Webhooks", lambda: parts.webhooks(size(1_000, 5_000))),
        (7, "Tokens refreshed once", lambda: parts.refreshes(size(500, 10_000))),
        (7, "Frozen before the next send", lambda: parts.freezes(size(20, 200))),
    ]
    Console().print(
        f"{size.size}; a load of {getloadavg()[0]:.1f} on {cpu_count()} cores before we begin",
        highlight=False,
    )
    wanted = [(f"{number}. {title}", check) for number, title, check in checks if not only or number in only]
    raise typer.Exit(verify("accounts", wanted))


if __name__ == "__main__":
    typer.run(main)
