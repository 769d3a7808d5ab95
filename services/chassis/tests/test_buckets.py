"""The frozen buckets."""

import pytest

from services.chassis.buckets import BUCKETS, bucket_of


@pytest.mark.parametrize(
    ("salt", "enterprise", "bucket"),
    [
        ("rollouts/enterprise-edition", "enterprises/tianshan", 4110),
        ("rollouts/enterprise-edition", "enterprises/a", 6890),
        ("rollouts/enterprise-edition", "enterprises/b", 3520),
        ("rollouts/enterprise-edition", "enterprises/long-name-0001", 127),
        ("flags/panel", "enterprises/tianshan", 1545),
        ("flags/panel", "enterprises/a", 913),
        ("新浪", "enterprises/天山", 457),
        ("", "", 1685),
    ],
)
def test_bucket__golden_vectors(salt, enterprise, bucket):
    """An enterprise's bucket is the same for ever, whatever library computes it."""
    assert bucket_of(salt, enterprise) == bucket


def test_bucket__spreads_evenly():
    """A quarter of the buckets holds a quarter of the enterprises, within what chance allows; all are in range."""
    buckets = [bucket_of("s", f"enterprises/{n}") for n in range(10_000)]

    assert 2_300 < sum(bucket < 2_500 for bucket in buckets) < 2_700
    assert 0 <= min(buckets) <= max(buckets) < BUCKETS
