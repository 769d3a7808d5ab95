"""Quotas, however many come at once: row 4 of `make verify-rollout`."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from uuid import uuid4

import aiohttp

from deploy.demo.client import Problem, eventually
from tests.verify.rollout_fleet import GATEWAYS, Fleet
from tests.verify.table import Row

COMPANIES = 200
QUOTAS = {"ring-1": 50, "ring-2": 120}
ROLLOUT = "verify-quotas"
PLAN = f"""
rollout: {ROLLOUT}
flag: {ROLLOUT}
eligible: {{and: [{{"==": [{{var: verified}}, true]}}, {{"==": [{{var: cohort}}, counted]}}]}}
stages:
  - {{ring: 1, quota: {QUOTAS["ring-1"]}}}
  - {{ring: 2, quota: {QUOTAS["ring-2"]}}}
"""
_REGISTERING = 8
_COME_AGAIN = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


@dataclass(frozen=True)
class Counted:
    """Who is in: by the service's own count, by its records, and as each gateway has it."""

    count: int
    inside: set[str]
    served: list[set[str]]

    def exactly(self, quota: int) -> bool:
        """Whether it is as many as that, and the same ones everywhere."""
        return self.count == len(self.inside) == quota and all(each == self.inside for each in self.served)

    def __str__(self) -> str:
        same = all(each == self.inside for each in self.served)
        at_gateways = ", ".join(str(len(each)) for each in self.served)
        return f"{self.count} in, at the gateways {at_gateways}, {'the same ones' if same else 'others'}"


def quotas(fleet: Fleet) -> Iterator[Row]:
    """Row 4: all companies are verified at the same moment, through all gateways."""
    with ThreadPoolExecutor(_REGISTERING) as pool:
        names = [name for name, _ in pool.map(lambda _: fleet.company(), range(COMPANIES))]
        list(pool.map(lambda name: _mark(fleet, name), names))
    fleet.apply(PLAN)
    fleet.do("start", ROLLOUT)
    most = asyncio.run(_verify_all(fleet, names))
    _settled(fleet, names)
    first = _counted(fleet, names)
    quota, wider_quota = QUOTAS.values()
    yield Row(
        f"quota of {quota}: {COMPANIES} verifications at once, through {len(GATEWAYS)} gateways",
        f"exactly {quota} in, never more, the same ones at each gateway",
        f"{first}; at most {most} at any look meanwhile",
        first.exactly(quota) and most <= quota,
    )
    fleet.do("advance", ROLLOUT)
    then = _counted(fleet, names)
    yield Row(
        f"quota of {wider_quota}: the wider stage",
        f"exactly {wider_quota} in, all of the first among them",
        f"{then}; {len(first.inside - then.inside)} lost their place",
        then.exactly(wider_quota) and first.inside <= then.inside,
    )
    fleet.do("rollback", ROLLOUT, reason="the measurement is over", toStart=True)
    fleet.do("archive", ROLLOUT)


def _mark(fleet: Fleet, name: str) -> None:
    """Set the cohort, as soon as rollout has heard of the company."""

    def marked() -> bool | None:
        try:
            fleet.operator.post(f"/v1/{name}:setRolloutAttributes", {"attributes": {"cohort": "counted"}})
        except Problem as problem:
            if problem.status != HTTPStatus.NOT_FOUND:
                raise
            return None
        return True

    eventually(marked, what=f"rollout's knowledge of {name}")


async def _verify_all(fleet: Fleet, names: Sequence[str]) -> int:
    """Verify them all at once; the most that were in at any look meanwhile."""
    headers = {"authorization": f"Bearer {fleet.operator.token}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def verify(number: int, name: str) -> None:
            url = f"{fleet.urls[number % len(fleet.urls)]}/v1/{name}:verify"
            key = {"idempotency-key": str(uuid4())}
            while True:
                async with session.post(url, json={"note": "papers seen"}, headers=key) as answer:
                    if answer.status not in _COME_AGAIN:
                        answer.raise_for_status()
                        return
                await asyncio.sleep(int(answer.headers["retry-after"]))  # it is told to

        verifying = asyncio.gather(*(verify(number, name) for number, name in enumerate(names)))
        most = 0
        while not verifying.done():
            async with session.get(f"{fleet.urls[0]}/v1/rollouts/{ROLLOUT}") as answer:
                most = max(most, (await answer.json())["admittedCount"])
        await verifying
    return most


def _settled(fleet: Fleet, names: Sequence[str]) -> None:
    """Wait until the service has heard of every verification."""

    def heard() -> bool | None:
        records = fleet.records(ROLLOUT)
        return all(records[name]["reason"] != "NOT_VERIFIED" for name in names) or None

    eventually(heard, what="the service's knowledge of all verifications", seconds=60)


def _counted(fleet: Fleet, names: Sequence[str]) -> Counted:
    fleet.converged()
    return Counted(
        fleet.rollout(ROLLOUT)["admittedCount"],
        fleet.active(ROLLOUT),
        [
            {name for name, (value,) in each.items() if value}
            for each in fleet.served_by_each([ROLLOUT], names)
        ],
    )
