"""Thousands of enterprises stay where they are, and nobody waits long for a decision."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.testing.databases import TemporaryDatabase
from services.rollout.tests.crowd import Sides, speeds, stickiness


def check(sides: Sides) -> None:
    """Fail when anybody changed sides, or nobody ever came in."""
    assert sides == replace(sides, widened=0, restarted=0, told_again=0, replayed=0, pulled=0, rehashed=0)
    first, second, third, last = (inside / sides.tenants for inside in sides.inside)
    # 5 %, 25 % and 60 % of those who are not of the control group; then everybody.
    assert first == pytest.approx(0.045, abs=0.03)
    assert second == pytest.approx(0.225, abs=0.06)
    assert third == pytest.approx(0.54, abs=0.06)
    assert last == 1


def test_stickiness__nobody_changes_sides(make_database: Callable[..., TemporaryDatabase]) -> None:
    """By widening, a restart, a repetition, a replay, or another implementation of the hash."""
    check(stickiness(make_database("rollout"), 500))


@pytest.mark.slow
def test_stickiness__of_ten_thousand(make_database: Callable[..., TemporaryDatabase]) -> None:
    """The same, with as many as the platform is meant for."""
    check(stickiness(make_database("rollout", statement_timeout=timedelta(minutes=1))))


@pytest.mark.slow
def test_speeds__of_ten_thousand(make_database: Callable[..., TemporaryDatabase]) -> None:
    """`make verify-rollout` holds a quiet machine to 5 s, 20 ms and 100 ms; a busy one gets a few times that."""
    found = speeds(make_database("rollout", statement_timeout=timedelta(minutes=1)))

    assert found.start < 20
    assert found.verification < 0.1
    assert found.kill < 0.5
