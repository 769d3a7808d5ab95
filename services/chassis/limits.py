"""How much an enterprise may have of something in its stage of a rollout (docs/adr/0010)."""

from collections.abc import Callable

from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import Principal


class StageLimitError(ServiceError):
    """The enterprise has as much as its stage allows, or would have more. To repeat the call does not help."""

    def __init__(self, limit: str, *, allowed: int, used: int, wanted: int, remedy: str) -> None:
        super().__init__(
            Kind.FAILED_PRECONDITION,
            reason="STAGE_LIMIT_REACHED",
            message=f"{used} of the {allowed} {limit} that your stage allows are in use, and this needs {wanted} more: "
            f"{remedy}, or wait for the next stage: GET /v1/edition",
            metadata={"limit": limit, "allowed": str(allowed), "used": str(used), "wanted": str(wanted)},
        )


def check_stage_limit(
    caller: Principal, limit: str, count: Callable[[], int], *, remedy: str, wanted: int = 1
) -> None:
    """
    Raise StageLimitError when `wanted` more of what `limit` names are more than the caller's stage allows.

    Args:
        caller: carries the limits; without this one everything is allowed, and nothing is counted.
        limit: as `bound_accounts`.
        count: how many the enterprise has. For an exact limit it first takes a lock of the enterprise, in the
            transaction that makes the further ones.
        remedy: what the caller can do about it, as "unbind an account".
        wanted: how many the call would make.
    """
    allowed = caller.limits.get(limit, 0)
    if allowed and (used := count()) + wanted > allowed:
        raise StageLimitError(limit, allowed=allowed, used=used, wanted=wanted, remedy=remedy)
