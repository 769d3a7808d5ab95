"""Whose rows a transaction sees."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """
    Whose rows a transaction sees; row-level security enforces it. Use `Tenant`, `PLATFORM` or `PUBLIC`.

    Attributes:
        name: `tenant`, `platform` or `public`.
        enterprise: the tenant, as `enterprises/x`; None unless `name` is `tenant`.

    """

    name: str
    enterprise: str | None = None


class Tenant(Scope):
    """The rows of one enterprise, named as `enterprises/x`."""

    def __init__(self, enterprise: str) -> None:
        if not enterprise.startswith("enterprises/"):
            raise ValueError(f"{enterprise!r} is not an enterprise's name, as enterprises/x")
        super().__init__("tenant", enterprise)


PLATFORM = Scope("platform")
"""The rows of all enterprises: for operators and for the system's own jobs."""

PUBLIC = Scope("public")
"""No enterprise's rows: for callers who belong to none."""
