"""
How much one caller may ask for: bytes of a body, requests a second, requests at the same time, requests a minute in a stage.

Counted in memory, per process, and forgotten at a restart. That protects the services behind us; it is no quota that
anybody is billed by.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from starlette.types import Receive

from gateway import metrics
from gateway.errors import Problem
from gateway.serving import RolloutStage

_MINUTE = 60.0
_MOST_KEYS = 100_000


class ClientGoneError(Exception):
    """The client has closed the connection; nobody reads an answer."""


class TokenBuckets:
    """
    One token bucket per key.

    The keys used longest ago are forgotten when there are too many, and begin with a full bucket again.

    Attributes:
        rate, burst: tokens a second, and the most that a bucket holds. May be changed at any time.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> timedelta | None:
        """Take a token. None when there was one, else how long it takes until there is."""
        now = self._clock()
        tokens, at = self._buckets.pop(key, (self.burst, now))
        tokens = min(self.burst, tokens + (now - at) * self.rate)
        taken = tokens >= 1
        self._buckets[key] = (tokens - 1 if taken else tokens, now)
        if len(self._buckets) > _MOST_KEYS:
            self._buckets.popitem(last=False)
        return None if taken else timedelta(seconds=(1 - tokens) / self.rate)


class RequestLimits:
    """Requests a second per credential and per tenant, and requests in progress per tenant."""

    def __init__(self, *, credential_rate: float, tenant_rate: float, tenant_concurrency: int) -> None:
        self._credentials = TokenBuckets(credential_rate, 2 * credential_rate)
        self._tenants = TokenBuckets(tenant_rate, 2 * tenant_rate)
        self._most = tenant_concurrency
        self._running: Counter[str] = Counter()

    @contextmanager
    def request(self, credential: str, tenant: str) -> Iterator[None]:
        """Hold a place for one request. Raises 429 `RATE_LIMITED` or `TOO_MANY_AT_ONCE`."""
        limits = (("credential", self._credentials, credential), ("tenant", self._tenants, tenant))
        for limit, buckets, key in limits:
            wait = buckets.take(key)
            if wait is not None:
                metrics.limited.add(1, {"limit": limit})
                raise Problem(
                    429, "RATE_LIMITED", f"{key} asks more often than is allowed; slow down", retry_after=wait
                )
        if self._running[tenant] >= self._most:
            metrics.limited.add(1, {"limit": "concurrency"})
            raise Problem(
                429,
                "TOO_MANY_AT_ONCE",
                f"{tenant} has {self._most} requests in progress, which is the most; wait for one to end",
                metadata={"limit": str(self._most)},
                retry_after=timedelta(seconds=1),
            )
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]


class StageRates:
    """
    Requests a minute of each enterprise, as the stage of a flag's rollout allows them.

    Attributes:
        gateways: how many gateways share the limit; each allows its part.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flags: dict[str, TokenBuckets] = {}
        self.gateways = 1

    def take(self, flag: str, enterprise: str, stage: RolloutStage) -> None:
        """Count a request. Raises 429 `STAGE_RATE_LIMITED`."""
        allowed = stage.limits.requests_per_minute
        if not allowed:
            return
        buckets = self._flags.get(flag)
        if buckets is None:
            buckets = self._flags[flag] = TokenBuckets(0, 0, self._clock)
        part = allowed / self.gateways
        buckets.rate, buckets.burst = part / _MINUTE, max(1.0, part)
        wait = buckets.take(enterprise)
        if wait is not None:
            metrics.limited.add(1, {"limit": "stage"})
            raise Problem(
                429,
                "STAGE_RATE_LIMITED",
                f"the stage {stage.stage} of {stage.rollout} allows {enterprise} {allowed} requests a minute",
                metadata={"feature": flag, "stage": stage.stage, "limit": str(allowed)},
                retry_after=wait,
            )


class Body:
    """A request's body, read in pieces and never more than `limit` bytes of it."""

    def __init__(self, receive: Receive, limit: int, declared: str | None) -> None:
        """Raises 413 at once when the client already declares too much, before a byte is asked for."""
        self._receive = receive
        self._limit = limit
        self._count = 0
        self._more = True
        if declared is not None and declared.isdecimal() and int(declared) > limit:
            raise self._too_large()

    async def piece(self) -> bytes | None:
        """The next bytes, or None at the end. Raises 413 at the first byte over, ClientGoneError when it breaks off."""
        if not self._more:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._count += len(piece)
        if self._count > self._limit:
            raise self._too_large()
        return piece

    async def whole(self) -> bytes:
        """All of it."""
        pieces = []
        while (piece := await self.piece()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def _too_large(self) -> Problem:
        return Problem(
            413,
            "BODY_TOO_LARGE",
            f"the body of this route may have {self._limit} bytes",
            metadata={"limit": str(self._limit)},
            # The rest of the body is not read: the connection is of no use any more.
            headers={"connection": "close"},
        )
