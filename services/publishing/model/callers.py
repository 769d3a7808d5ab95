"""Who asks, and how far their rights go."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.chassis.errors import Kind, ServiceError, not_found
from services.chassis.reach import EVERYTHING, Reach

_NAMED = 20
"""How many accounts an error names."""


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks.

    Attributes:
        subject: by the principal's name; empty for the service itself.
        reach: which accounts they may see or change by what they ask.
        by_platform: whether they are an operator.

    """

    subject: str
    reach: Reach = EVERYTHING
    by_platform: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether they reach all accounts of the enterprise."""
        return self.reach.groups is None

    @property
    def params(self) -> dict[str, Any]:
        """For statements that show what concerns accounts within reach, and what the caller made: `reach`, `caller`."""
        groups = self.reach.groups
        return {"reach": None if groups is None else sorted(groups), "caller": self.subject}

    def sees(self, groups: Collection[str]) -> bool:
        """Whether what concerns an account in these groups may be shown."""
        return self.reach.covers(groups)

    def check(self, name: str, account: str, groups: Collection[str]) -> None:
        """
        Raise unless the caller may change what concerns one account, which is in these groups.

        NOT_FOUND for `name`, as they asked for it, or PERMISSION_DENIED `OUT_OF_REACH` for who sees all.
        """
        if not self.reach.reads_all and not self.reach.covers(groups):
            raise not_found(name)
        self.reach.check(account, groups)

    def check_all(
        self,
        name: str,
        accounts: Iterable[str],
        groups: Mapping[str, Collection[str]],
        *,
        told: Collection[str] = (),
    ) -> None:
        """
        Raise PERMISSION_DENIED `OUT_OF_REACH` unless all these accounts are within reach.

        Args:
            name: of what would be done on them.
            accounts: that it would be done on.
            groups: of these accounts; those in none may be left out.
            told: accounts that the caller has named. Who may not see all accounts is told of no others; and of
                those as if they did not exist: NOT_FOUND.

        """
        outside = [each for each in accounts if not self.reach.covers(groups.get(each, ()))]
        if not outside:
            return
        shown = outside
        if not self.reach.reads_all:
            for each in outside:
                if each in told:
                    raise not_found(each)
            shown = []
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "OUT_OF_REACH",
            f"{name} concerns {len(outside)} account(s) that your rights do not reach"
            + (f", as {shown[0]}" if shown else "")
            + ": they hold for some groups of accounts only. Name accounts of these groups",
            metadata={"name": name, "count": str(len(outside)), "accounts": ",".join(shown[:_NAMED])},
        )


ITSELF = Caller("")
"""The service, for what nobody asked for."""
