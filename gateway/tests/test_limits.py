"""What a stage allows an enterprise in a minute."""

import pytest

from gateway.errors import Problem
from gateway.limits import StageRates
from gateway.serving import RolloutStage, StageLimits
from services.chassis.testing.measures import counted

FLAG = "enterprise-beta"
X = "enterprises/x"


class Seconds:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def rates(seconds):
    return StageRates(seconds)


def stage(allowed):
    return RolloutStage(
        rollout="enterprise-edition",
        stage="private-beta",
        state="RUNNING",
        killed=False,
        failMode="LAST_GOOD",
        limits=StageLimits(requestsPerMinute=allowed),
    )


def passed(rates, allowed, tries=1000, who=X, flag=FLAG):
    """How many of so many requests at once get through."""
    for count in range(tries):
        try:
            rates.take(flag, who, stage(allowed))
        except Problem:
            return count
    return tries


def test_stage__so_many_a_minute(rates, seconds):
    """A minute's worth at once, then as they come; who comes too early is told when to come back."""
    assert passed(rates, 30) == 30
    with counted(1, "numerator_gateway_limited_total", limit="stage"), pytest.raises(Problem) as refused:
        rates.take(FLAG, X, stage(30))
    assert (refused.value.status, refused.value.reason) == (429, "STAGE_RATE_LIMITED")
    assert refused.value.retry_after.total_seconds() == pytest.approx(2)
    seconds.now += 2
    assert passed(rates, 30) == 1
    seconds.now += 3600
    assert passed(rates, 30) == 30


def test_stage__each_enterprise_and_flag_has_its_own(rates):
    """One that asks too often costs no other anything."""
    assert passed(rates, 5) == 5
    assert passed(rates, 5, who="enterprises/y") == 5
    assert passed(rates, 5, flag="other") == 5


def test_stage__without_a_limit(rates):
    """0 is no limit."""
    assert passed(rates, 0) == 1000


def test_stage__shared_by_gateways(rates, seconds):
    """Each of three gateways allows a third, also when there are three all at once; at least one request gets through."""
    rates.gateways = 3
    assert passed(rates, 30) == 10
    seconds.now += 6
    assert passed(rates, 30) == 1
    assert passed(rates, 1, who="enterprises/y") == 1
    rates.gateways = 1
    seconds.now += 60
    assert passed(rates, 30) == 30
    seconds.now += 60
    rates.gateways = 3
    assert passed(rates, 30) == 10


def test_stage__that_widens(rates, seconds):
    """A stage's new limit counts from the next request; what was used up before stays used up."""
    assert passed(rates, 10) == 10
    assert passed(rates, 100) == 0
    seconds.now += 60
    assert passed(rates, 100) == 100
