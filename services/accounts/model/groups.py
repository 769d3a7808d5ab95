"""The account tree: groups of accounts and of groups, and where they may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from services.chassis.errors import Kind, ServiceError, not_found
from services.chassis.names import NamePattern, enterprise_of
from services.chassis.reach import Reach

GROUP_NAME = NamePattern("enterprises/{enterprise}/accountGroups/{group}")

MOST_DEPTH = 12
"""How many groups an account can be in, one within the other."""
MOST_GROUPS = 10_000
"""How many groups an enterprise can have."""

Path = tuple[str, ...]
"""The ids of groups from the root to one of them; empty for what is in none."""


@dataclass(frozen=True, slots=True)
class Group:
    """
    A group of accounts, a node of the enterprise's tree.

    Attributes:
        path: the ids from the root to itself.
        revision: grows when it is renamed or moved itself.
    """

    name: str
    display_name: str
    path: Path
    create_time: datetime
    update_time: datetime
    revision: int = 1

    @property
    def parent(self) -> str | None:
        """The name of the group that it is in."""
        return group_name(self.name, self.path[:-1])

    def renamed(self, display_name: str, now: datetime) -> Self:
        """The group under another name for people."""
        return replace(self, display_name=display_name, update_time=now, revision=self.revision + 1)

    def moved(self, into: Path, *, height: int, now: datetime) -> Self:
        """
        The group in another one, or in none.

        Args:
            into: the path of the group that it will be in.
            height: how many levels it has, its own included.
            now: when.

        Raises:
            ServiceError: FAILED_PRECONDITION, `GROUP_CYCLE` or `GROUP_TOO_DEEP`.
        """
        group = self.path[-1]
        if group in into:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "GROUP_CYCLE",
                f"{self.name} cannot be moved into itself or into a group below it",
                metadata={"name": self.name},
            )
        return replace(
            self, path=path_within(into, group, height=height), update_time=now, revision=self.revision + 1
        )


def path_within(into: Path, group: str, *, height: int = 1) -> Path:
    """The path of a group in another one. Raises FAILED_PRECONDITION (`GROUP_TOO_DEEP`) when its lowest level is too low."""
    if len(into) + height > MOST_DEPTH:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "GROUP_TOO_DEEP",
            f"the tree would have {len(into) + height} levels here; it has at most {MOST_DEPTH}",
            metadata={"levels": str(len(into) + height), "most": str(MOST_DEPTH)},
        )
    return (*into, group)


def moved_path(path: Path, *, before: Path, after: Path) -> Path:
    """Where a group is, when one of those that it is in, or itself, has moved from `before` to `after`."""
    return after + path[len(before) :]


def group_id(name: str, enterprise: str, field: str) -> str:
    """
    The id of a group that a request of this enterprise names in `field`.

    Raises INVALID_ARGUMENT for another form of name, NOT_FOUND for a group of another enterprise.
    """
    group = GROUP_NAME.parse(name, field)["group"]
    if enterprise_of(name) != enterprise:
        raise not_found(name)
    return group


def group_name(within: str, path: Sequence[str]) -> str | None:
    """The name of the last group of a path, of the enterprise that a resource belongs to; None for an empty path."""
    return f"{enterprise_of(within)}/accountGroups/{path[-1]}" if path else None


def check_beside(reach: Reach, path: Path) -> None:
    """
    Check that rights reach what is directly in the group at the end of `path`, which the caller has not named.

    Raises PERMISSION_DENIED (`OUT_OF_REACH`).
    """
    if not reach.covers(path):
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "OUT_OF_REACH",
            "your rights hold for some groups only: what is directly in a group above them, or in none, is not theirs to change",
        )


def group_not_empty(name: str) -> ServiceError:
    """There are groups or accounts in it."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "GROUP_NOT_EMPTY",
        f"{name} still has groups or accounts in it: move them first",
        metadata={"name": name},
    )


def group_limit_reached() -> ServiceError:
    """The enterprise has as many groups as there may be."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "GROUP_LIMIT_REACHED",
        f"an enterprise has at most {MOST_GROUPS} groups: delete those that are empty",
        metadata={"most": str(MOST_GROUPS)},
    )
