"""Limits of a stage: what they allow, and what who meets one is told."""

from dataclasses import replace

import pytest

from services.chassis.errors import Kind
from services.chassis.limits import StageLimitError, check_stage_limit
from services.chassis.testing.rpc import member

CALLER = replace(member("enterprises/a"), limits={"live_placements": 5, "bound_accounts": 0})


@pytest.mark.parametrize(("used", "wanted"), [(0, 1), (4, 1), (2, 3), (0, 5)])
def test_limit__allows_all_of_it(used, wanted):
    """The last one is allowed, too."""
    check_stage_limit(CALLER, "live_placements", lambda: used, remedy="end a campaign", wanted=wanted)


@pytest.mark.parametrize(("used", "wanted"), [(5, 1), (3, 3), (9, 1), (0, 6)])
def test_limit__refuses_more_and_says_what_to_do(used, wanted):
    """All that the text mentions is in the metadata, and no time is named: to wait a second does not help."""
    with pytest.raises(StageLimitError) as refused:
        check_stage_limit(CALLER, "live_placements", lambda: used, remedy="end a campaign", wanted=wanted)

    error = refused.value
    assert (error.kind, error.reason, error.retry_after) == (
        Kind.FAILED_PRECONDITION,
        "STAGE_LIMIT_REACHED",
        None,
    )
    assert error.metadata == {
        "limit": "live_placements",
        "allowed": "5",
        "used": str(used),
        "wanted": str(wanted),
    }
    assert "end a campaign, or wait for the next stage: GET /v1/edition" in error.message


@pytest.mark.parametrize("limit", ["bound_accounts", "unheard_of"])
def test_limit__counts_nothing_without_one(limit):
    """0 and an absent limit are none: not even the lock is taken."""
    check_stage_limit(CALLER, limit, lambda: pytest.fail("counted"), remedy="do without")
