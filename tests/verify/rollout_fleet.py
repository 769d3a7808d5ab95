"""A platform with three gateways and thousands of enterprises, on which rollouts are measured."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import psycopg

from deploy.demo.client import Gateway, Json, eventually
from deploy.demo.story import PASSWORD
from deploy.local.platform import Platform
from deploy.local.probes import http_ok

HOME = Path(tempfile.gettempdir()) / "numerator-verify-rollout"
PORT_BASE = 8600
GATEWAYS = ("gateway", "gateway-2", "gateway-3")
ENTERPRISES = 10_000

_FURTHER_PORT, _FURTHER_METRICS_PORT = PORT_BASE + 60, PORT_BASE + 80
_TOKEN_SECONDS = 300.0
_AT_ONCE = 12
_UNLIMITED = {
    # One machine asks for thousands of enterprises.
    "GATEWAY_CREDENTIAL_RATE": "1000000",
    "GATEWAY_TENANT_CONCURRENCY": "1000",
    "GATEWAY_LOGIN_RATE": "1000",
    "GATEWAY_LOGIN_ADDRESS_RATE": "1000",
}

Sides = dict[str, tuple[Any, ...]]
"""The values of some flags, by enterprise."""


class Fleet:
    """
    The platform, and what an operator does with it.

    Attributes:
        platform: runs.
        urls: of the gateways.
        public: a caller without credentials, at the first of them.
    """

    def __init__(self) -> None:
        HOME.mkdir(parents=True, exist_ok=True)
        _platform().down()  # what an interrupted run has left
        shutil.rmtree(HOME)
        HOME.mkdir()
        self.platform = _platform()
        self.platform.up()
        self.urls = [
            f"http://{self.platform.programs[name].environment['GATEWAY_LISTEN']}" for name in GATEWAYS
        ]
        self.public = Gateway(self.urls[0])
        self._operators: list[Gateway] = []
        self._logged_in = 0.0

    def close(self) -> None:
        """Stop the platform. Its data and logs stay for a look."""
        self.platform.down()

    # ---- what an operator does

    def operators(self) -> list[Gateway]:
        """An operator at each gateway. Access tokens live for ten minutes: ask again for each use."""
        if not self._operators or time.monotonic() - self._logged_in > _TOKEN_SECONDS:
            secret = self.platform.keys.operator_secret.read_text()
            token = self.public.client("operator", secret).token
            self._operators = [Gateway(url, token) for url in self.urls]
            self._logged_in = time.monotonic()
        return self._operators

    @property
    def operator(self) -> Gateway:
        """An operator at the first gateway."""
        return self.operators()[0]

    def apply(self, plan: str) -> Json:
        """Put a plan in force; the rollout as it is then."""
        applied: Json = self.operator.post("/v1/rollouts:apply", {"plan": plan})["rollout"]
        return applied

    def do(self, verb: str, rollout: str, **body: Any) -> Json:
        """A verb of a rollout."""
        return self.operator.post(f"/v1/rollouts/{rollout}:{verb}", body)

    def rollout(self, rollout: str) -> Json:
        """A rollout."""
        return self.operator.get(f"/v1/rollouts/{rollout}")

    def records(self, rollout: str) -> dict[str, Json]:
        """All admissions of a rollout as the service has them, by enterprise."""
        found = self.operator.list(f"/v1/rollouts/{rollout}/admissions", "admissions", pageSize=500)
        return {each["enterprise"]: each for each in found}

    def active(self, rollout: str) -> set[str]:
        """Who is in, as the service has it."""
        return {name for name, record in self.records(rollout).items() if record["state"] == "ACTIVE"}

    def company(self) -> tuple[str, Gateway]:
        """A company that is registered and asks for verification: its name, and its owner."""
        email = f"{uuid4().hex}@example.org"
        account = {"displayName": "Measured", "ownerEmail": email, "ownerPassword": PASSWORD}
        name = str(self.public.post("/v1/enterprises", account)["name"])
        owner = self.public.login(email, PASSWORD)
        owner.post(f"/v1/{name}:requestVerification", {"note": "please"})
        return name, owner

    def remember(self, cohort: str, count: int) -> list[str]:
        """
        Enterprises that rollout knows and has verified, with the attribute `cohort`; their names.

        They are put into its table, as if accounts had told of them long ago: its events would take minutes.
        """
        names = [f"enterprises/{cohort}{number:05}" for number in range(count)]
        with psycopg.connect(self.platform.database_url) as connection:
            connection.execute("set search_path to rollout")
            connection.execute("select pg_advisory_xact_lock(hashtext('rollout'), hashtext('decisions'))")
            connection.execute(
                """
                with version as (
                  insert into admission_versions (version, token, time)
                  select coalesce(max(version), 0) + 1, %s, now() from admission_versions returning version
                )
                insert into enterprises (enterprise, verified, told_time, attributes, version)
                select name, true, now(), jsonb_build_object('cohort', %s::text), version
                from version, unnest(%s::text[]) as name
                on conflict do nothing
                """,
                (uuid4().hex, cohort, names),
            )
        return names

    # ---- what gateways serve

    def converged(self, seconds: float = 30) -> None:
        """Wait until all three gateways serve the newest of everything. Raises TimeoutError."""

        def done() -> bool | None:
            found = self.operator.get("/v1/replicas")
            return found["convergedCount"] == len(found.get("replicas", [])) == len(GATEWAYS) or None

        eventually(done, what="all gateways at the newest versions", seconds=seconds)

    def served(self, flags: Sequence[str], enterprises: Sequence[str]) -> Sides:
        """What the gateways say of flags, each gateway asked for a third of the enterprises."""
        thirds = [enterprises[number :: len(self.urls)] for number in range(len(self.urls))]
        return asyncio.run(self._ask(flags, zip(self.urls, thirds, strict=True)))

    def served_by_each(self, flags: Sequence[str], enterprises: Sequence[str]) -> list[Sides]:
        """What each gateway says of flags for all of the enterprises."""
        return [asyncio.run(self._ask(flags, [(url, enterprises)])) for url in self.urls]

    async def _ask(self, flags: Sequence[str], questions: Iterable[tuple[str, Sequence[str]]]) -> Sides:
        headers = {"authorization": f"Bearer {self.operator.token}"}
        queue = [(name, url) for url, names in questions for name in names]
        queue.sort()  # so that all gateways are asked at the same time
        answers: Sides = {}

        async def ask(session: aiohttp.ClientSession) -> None:
            while queue:
                name, url = queue.pop()
                body = {"context": {"targetingKey": name}}
                async with session.post(f"{url}/ofrep/v1/evaluate/flags", json=body) as answer:
                    answer.raise_for_status()
                    values = {each["key"]: each["value"] for each in (await answer.json())["flags"]}
                answers[name] = tuple(values[flag] for flag in flags)

        async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(ask(session))
        return answers


def differing(before: Sides, after: Sides) -> int:
    """How many enterprises changed sides."""
    return sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())


def _platform() -> Platform:
    """A platform whose supervisor runs two more gateways."""
    platform = Platform(HOME, PORT_BASE, extra_env=_UNLIMITED)
    first = platform.programs["gateway"]
    for number, name in enumerate(GATEWAYS[1:]):
        port = _FURTHER_PORT + number
        platform.programs[name] = replace(
            first,
            name=name,
            environment={
                **first.environment,
                "GATEWAY_LISTEN": f"127.0.0.1:{port}",
                "GATEWAY_METRICS_PORT": str(_FURTHER_METRICS_PORT + number),
                "GATEWAY_SNAPSHOT_FILE": str(HOME / f"{name}-snapshot.json"),
            },
            ready=partial(http_ok, port, "/readyz"),
        )
    return platform
