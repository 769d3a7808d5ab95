"""How far rights go."""

import pytest

from services.chassis.errors import Kind, ServiceError
from services.chassis.reach import EVERYTHING, Reach

ACCOUNT = "enterprises/e/accounts/a"


def test_reach__is_of_a_group_and_all_below_it():
    """An account is in its own group and in all above it."""
    reach = Reach(frozenset({"north", "outlet"}))

    assert reach.covers(["root", "north", "branch"])
    assert reach.covers(["root", "south", "outlet"])
    assert not reach.covers(["root", "south"])
    assert not reach.covers([])
    assert EVERYTHING.covers([])


@pytest.mark.parametrize(
    ("reads_all", "kind", "reason"),
    [(True, Kind.PERMISSION_DENIED, "OUT_OF_REACH"), (False, Kind.NOT_FOUND, "NOT_FOUND")],
)
def test_reach__tells_only_those_who_may_see(reads_all, kind, reason):
    """Who sees all accounts is told that the rights are missing; to anybody else there is no such account."""
    with pytest.raises(ServiceError) as refused:
        Reach(frozenset({"north"}), reads_all=reads_all).check(ACCOUNT, ["south"])

    assert (refused.value.kind, refused.value.reason) == (kind, reason)
