"""What was asked for, what was promised, and what came of it: the bookkeeping of Jepsen's total-queue checker."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """
    Three lists of ids, and what follows from comparing them.

    Attributes:
        attempted: asked for, whatever the answer.
        acknowledged: the answer was yes; from then on it must happen.
        seen: what the judge saw happen, and how often.
    """

    attempted: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> set[str]:
        """Promised and not seen."""
        return self.acknowledged - self.seen.keys()

    @property
    def duplicated(self) -> int:
        """How often something was seen again."""
        return self.seen.total() - len(self.seen)

    @property
    def unexpected(self) -> set[str]:
        """Seen though nobody asked for it."""
        return self.seen.keys() - self.attempted

    @property
    def recovered(self) -> set[str]:
        """Seen though the answer was lost; allowed."""
        return (self.seen.keys() & self.attempted) - self.acknowledged

    @property
    def flawless(self) -> bool:
        """Whether everything promised happened, all of it once, and nothing else."""
        return not (self.lost or self.duplicated or self.unexpected)

    def __str__(self) -> str:
        return (
            f"{len(self.attempted):,} attempted, {len(self.acknowledged):,} acknowledged, {self.seen.total():,} seen: "
            f"{len(self.lost)} lost, {self.duplicated} duplicated, {len(self.unexpected)} unexpected, "
            f"{len(self.recovered)} recovered"
        )
