"""Buckets: the place of an enterprise in 0..9999, by which shares are cut. Frozen, and the same in services and gateways."""

import mmh3

BUCKETS = 10_000
"""Buckets are basis points: 0 to 9999."""


def bucket_of(salt: str, enterprise: str) -> int:
    """
    The enterprise's bucket, for ever: MurmurHash3 x86 32 (seed 0) of `salt:enterprise` in UTF-8, scaled.

    Golden vectors guard it. The same salt gives the same bucket on purpose; with another salt it is independent.
    """
    return (mmh3.hash(f"{salt}:{enterprise}", 0, signed=False) * BUCKETS) >> 32
