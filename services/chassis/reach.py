"""How far a call's rights go: over all accounts of an enterprise, or over those of some groups."""

from collections.abc import Collection
from dataclasses import dataclass

from services.chassis.errors import Kind, ServiceError, not_found


@dataclass(frozen=True, slots=True)
class Reach:
    """
    Which accounts a call may see or change.

    Attributes:
        groups: ids of the groups within whose subtrees they are; None for all accounts of the enterprise.
        reads_all: whether the caller may see what it may not change.
    """

    groups: frozenset[str] | None = None
    reads_all: bool = True

    def covers(self, groups: Collection[str]) -> bool:
        """Whether an account that is in these `groups`, its own and all above it, is within reach."""
        return self.groups is None or not self.groups.isdisjoint(groups)

    def check(self, account: str, groups: Collection[str]) -> None:
        """
        Raise for an account out of reach, which is in these `groups`, its own and all above it.

        PERMISSION_DENIED (`OUT_OF_REACH`) for who may see it; NOT_FOUND, as if there were none, for anybody else.
        """
        if self.covers(groups):
            return
        if not self.reads_all:
            raise not_found(account)
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "OUT_OF_REACH",
            f"your rights to do this do not reach {account}: they hold for some groups of accounts only",
            metadata={"account": account},
        )


EVERYTHING = Reach()
"""All accounts of the enterprise."""
