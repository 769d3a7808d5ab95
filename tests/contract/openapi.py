"""
`/openapi.json` is true: schemathesis makes requests of it and finds every answer in it, and none of 500 and above.

Schemathesis lives in a virtual environment of its own, because it has many dependencies that nothing else here needs.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.local.stubs import ROOT
from tests.contract.calls import PATTERNS
from tests.contract.tenants import Tenant, everybody_admitted, make_tenant, shape_of
from tests.world import World

VERSION = "4.32.5"
TOOL = ROOT / ".local" / "tools" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
SECONDS = 400
"""How long all runs together may take; in full size, four times as long."""

FRESH_SECONDS = 30.0
"""How old the tool's copy of a caller's token may be."""

HOOKS = f"""
from pathlib import Path

import schemathesis


@schemathesis.auth(refresh_interval={FRESH_SECONDS:g})
class Token:
    def get(self, case, context):
        return Path("token").read_text()

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {{data}}"
"""
"""Runs in the tool: who it is there is written anew while it runs, since tokens live for ten minutes only."""

UNREACHABLE = frozenset(
    {
        "POST /oauth2/token",  # takes a client's secret
        "GET /invitations/{enterprise}/{token}",  # takes the token of an invitation
        "POST /v1/edition/invitations:accept",  # the same
        "GET /ofrep/v1/events",  # takes a token of its own, from an evaluation of flags
    }
)
"""Operations that ask for a secret which no generated request has."""

ROLLOUT = "fuzz"
MISSING = ("missing", "☃ %00")
"""Ids that nothing has."""

NASTY = (
    "\u202eevil",
    "\ufeff",
    "a\u0301" * 5,
    "𝕏😀",
    "\u0000",
    "'; drop table x; --",
    "../../etc/passwd",
    "%00",
    "9" * 40,
)
"""Texts that go wrong easily, mixed in with the generated ones."""


@dataclass
class Result:
    """
    What came of it.

    Attributes:
        statuses: how often each was answered.
        unreached: operations of which no request got past the question who may do it, and to what.
        failures: what was found, each with the request that shows it.
        seed: makes the same requests again.
    """

    seed: int
    operations: int = 0
    offered: int = 0
    cases: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    unreached: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        by_class = Counter({f"{status // 100}xx": 0 for status in self.statuses})
        for status, count in self.statuses.items():
            by_class[f"{status // 100}xx"] += count
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(by_class.items()))
        return (
            f"{self.cases:,} cases on {self.operations} of {self.offered} operations in {self.seconds:.0f} s: "
            f"{len(self.failures)} failures ({told}), {len(self.unreached)} operations not reached; seed {self.seed}"
        )


def measure(world: World, *, seed: int, full: bool = False) -> Result:
    """
    Try every operation as a caller who may call it, mostly with names of what exists.

    Args:
        world: prepared, and with profiles taken in. What is broken in it is made for that, and stays.
        seed: of the generated requests.
        full: some four times as many requests, among them all that are just beyond what the schema allows.
    """
    document = (
        httpx.get(f"{world.platform.url('gateway')}/openapi.json", timeout=30).raise_for_status().json()
    )
    result = Result(seed, offered=sum(1 for _ in _operations(document)))
    began = time.monotonic()
    with everybody_admitted(world):
        _make_rollout(world)
        tenant, target = make_tenant(world, "TOPIC"), make_tenant(world, "ENTERPRISE_PAGE")
        for caller, token in _callers(world, tenant).items():
            known = _known(target if caller == "operator" else tenant)
            run = _Run(
                url=world.platform.url("gateway"),
                document=_narrowed(document, known),
                operations=[name for name, security in _operations(document) if _who(security) == caller],
                texts=[*NASTY, *(name for names in tenant.names.values() for name in names)],
                token=token,
                full=full,
            )
            _add(run.run(seed, began + SECONDS * (4 if full else 1)), result)
    result.seconds = time.monotonic() - began
    return result


def _make_rollout(world: World) -> None:
    """A rollout of its own: the edition's is needed by everybody else."""
    plan = f"rollout: {ROLLOUT}\nflag: {ROLLOUT}\nstages: [{{ring: first}}, {{ring: second}}]\n"
    world.story.operator.post("/v1/rollouts:apply", {"plan": plan})


def _operations(document: Mapping[str, Any]) -> Iterable[tuple[str, Sequence[Mapping[str, list[str]]]]]:
    """The operations' ids, each with what it asks of its caller."""
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and "operationId" in operation:
                yield operation["operationId"], operation.get("security", [{}])


def _who(security: Sequence[Mapping[str, list[str]]]) -> str:
    """Who calls an operation: nobody in particular, a member, the network's systems, or the platform's staff."""
    if {} in security or not security:
        return "nobody"
    if any("bearer" in each for each in security):
        return "member"
    return "network" if any(each.get("oauth2") for each in security) else "operator"


def _callers(world: World, tenant: Tenant) -> dict[str, Callable[[], str]]:
    """Gives each caller's token at the moment."""
    public, places = world.story.public, world.story.places
    return {
        "nobody": lambda: "",
        "member": lambda: tenant.owner.token,
        "network": lambda: public.client("network", places.network_secret).token,
        "operator": lambda: public.client("operator", places.operator_secret).token,
    }


def _known(tenant: Tenant) -> dict[str, list[str]]:
    """The ids that stand in paths, by the parameters' names."""
    known: dict[str, list[str]] = {"rollout": [ROLLOUT], "key": [ROLLOUT], "user": ["fuzz-1"]}
    for pattern in PATTERNS.values():
        for name in tenant.names.get(shape_of(pattern), ()):
            if pattern.endswith("}"):
                known.setdefault(pattern.rpartition("{")[2].rstrip("}"), []).append(name.rpartition("/")[2])
    return known


def _narrowed(document: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> Any:
    """
    The document with the ids in paths bound to some that exist and some that do not: random ones never lead anywhere.

    `requestId` is left out: with an `Idempotency-Key` beside it, nearly all requests would be refused for that alone.
    """
    narrowed = json.loads(json.dumps(document))
    for path in narrowed["paths"].values():
        for operation in path.values():
            operation["parameters"] = [
                each for each in operation.get("parameters", []) if each["name"] != "requestId"
            ]
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": [*known.get(parameter["name"], ()), *MISSING]}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"].get("properties", {}).pop("requestId", None)
    return narrowed


@dataclass(frozen=True)
class _Run:
    """One run of the tool, as one caller."""

    url: str
    document: Any
    operations: Sequence[str]
    texts: Sequence[str]
    token: Callable[[], str]
    full: bool

    def run(self, seed: int, deadline: float) -> Result:
        """What came of it. Raises TimeoutError when it is not done at the deadline, a time of the monotonic clock."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "openapi.json").write_text(json.dumps(self.document), encoding="utf-8")
            (place / "schemathesis.toml").write_text(self._configuration(), encoding="utf-8")
            (place / "hooks.py").write_text(HOOKS, encoding="utf-8")
            status = self._attack(place, seed, deadline)
            said = (place / "said").read_text(encoding="utf-8")
            if not (place / "report.json").exists():
                raise RuntimeError(f"schemathesis ended with {status}:\n{said[-3000:]}")
            report = json.loads((place / "report.json").read_text(encoding="utf-8"))
            failures = [json.dumps(each, ensure_ascii=False) for each in report["failures"]]
            if status and not failures:
                failures.append(said)  # the tool's own trouble, as a request without an answer
            told = _statuses(place / "events.ndjson")
            return Result(
                seed,
                operations=report["operations"]["tested"],
                cases=report["test_cases"]["generated"],
                statuses=sum(told.values(), Counter()),
                unreached=[name for name, statuses in told.items() if not statuses.keys() - _KEPT_OUT],
                failures=failures,
            )

    def _attack(self, place: Path, seed: int, deadline: float) -> int:
        """Run the tool in its folder, and keep its token fresh. Returns its exit status."""
        command = [
            tool(), "run", "openapi.json", "--url", self.url, "--phases", "coverage,fuzzing",
            "--checks", ",".join(CHECKS), "--max-examples", "6" if self.full else "2", "--seed", str(seed),
            "--continue-on-failure", "--generation-database", "none", "--no-color", "--warnings", "off",
            "--report", "json,ndjson", "--report-json-path", "report.json", "--report-ndjson-path", "events.ndjson",
            *(argument for name in self.operations for argument in ("--include-operation-id", name)),
        ]  # fmt: skip
        self._write_token(place)
        with (
            (place / "said").open("wb") as said,
            subprocess.Popen(command, cwd=place, stdout=said, stderr=subprocess.STDOUT) as running,
        ):
            while time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    return running.wait(FRESH_SECONDS)
                self._write_token(place)
            running.kill()
        raise TimeoutError(f"schemathesis took too long for {len(self.operations)} operations")

    def _write_token(self, place: Path) -> None:
        """All at once: the tool may be reading it."""
        (place / "token.new").write_text(self.token(), encoding="utf-8")
        (place / "token.new").replace(place / "token")

    def _configuration(self) -> str:
        """What the command line cannot say: whose requests, texts that go wrong easily, and streams that have no end."""
        hooks = 'hooks = "hooks.py"' if self.token() else ""
        texts = json.dumps(self.texts, ensure_ascii=False)  # TOML takes JSON's escapes, but no surrogates
        narrow = (
            "" if self.full else 'phases.coverage = { generation.mode = "positive", unexpected-methods = [] }'
        )
        return f"""
            {hooks}
            {narrow}
            request-timeout = 10.0
            max-stream-events = 1
            operations = [{{ include-path-regex = "(:watch|/events)$", request-timeout = 2.0, generation.max-examples = 1 }}]
            dictionaries.texts.values = {texts}
            generation.dictionaries.string = {{ dictionary = "texts", probability = 0.1 }}
        """


_KEPT_OUT = frozenset({401, 403, 404})


def _add(part: Result, whole: Result) -> None:
    whole.operations += part.operations
    whole.cases += part.cases
    whole.statuses += part.statuses
    whole.unreached += part.unreached
    whole.failures += part.failures


def _statuses(events: Path) -> dict[str, Counter[int]]:
    """How often each operation was answered with which status."""
    found: dict[str, Counter[int]] = {}
    with events.open(encoding="utf-8") as file:
        for line in file:
            scenario = json.loads(line).get("ScenarioFinished")
            if scenario:
                interactions = scenario["recorder"].get("interactions", {}).values()
                found.setdefault(scenario["recorder"]["label"], Counter()).update(
                    each["response"]["status_code"] for each in interactions if each.get("response")
                )
    return found


def tool() -> Path:
    """The tool, installed when it is not there in the right version."""
    program = TOOL / "bin" / "st"
    if (
        not any(TOOL.glob(f"lib/python3.*/site-packages/schemathesis-{VERSION}.dist-info"))
        or not program.exists()
    ):
        subprocess.run([sys.executable, "-m", "venv", "--clear", TOOL], check=True)
        subprocess.run(
            [TOOL / "bin" / "python", "-m", "pip", "install", "--quiet", f"schemathesis=={VERSION}"],
            check=True,
        )
    return program
