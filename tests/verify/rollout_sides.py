"""Nobody changes sides: row 3 of `make verify-rollout`."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Self

import pika
import psycopg
from numerator.events.v1.accounts_pb2 import EnterpriseVerificationRevoked, EnterpriseVerified

from deploy.demo.client import eventually
from deploy.local.platform import Platform
from gateway.snapshots import ADMISSIONS_KEY, EXCHANGE, SNAPSHOT_KEY
from services.chassis.buckets import bucket_of
from services.chassis.ids import new_id
from services.chassis.testing.broker import Broker
from tests.verify.rollout_fleet import ENTERPRISES, GATEWAYS, Fleet, Sides, differing
from tests.verify.table import Row

ROLLOUT, SHARED = "verify-sides", "verify-share"
FLAGS = (ROLLOUT, SHARED)
"""One flag by admission, one by bucket alone."""
CONTROL, SHARE = 1_000, 3_000  # basis points
STAGES = {"ring-1": 1_000, "ring-2": 2_500, "ring-3": 5_000}
PLAN = f"""
rollout: {ROLLOUT}
flag: {ROLLOUT}
eligible: {{and: [{{"==": [{{var: verified}}, true]}}, {{"==": [{{var: cohort}}, many]}}]}}
control_share: {CONTROL // 100}%
stages:
  - {{ring: 1, percent: 10%}}
  - {{ring: 2, percent: 25%}}
  - {{ring: 3, percent: 50%}}
"""
TOLD_AGAIN = 300
OTHERS = ("openfeature-flagd-core==1.0.0", "mmh3<5")
"""Other major versions of what decides, which the platform must not depend on."""

_SERVICE = ("rollout-api", "rollout-worker")


def sides(fleet: Fleet) -> Iterator[Row]:
    """Row 3: the same enterprises on the same side, whatever happens to the platform."""
    many = fleet.remember("many", ENTERPRISES)
    with ExitStack() as stack:
        streams = stack.enter_context(Streams(fleet.platform))
        backups = Path(stack.enter_context(TemporaryDirectory()))
        fleet.operator.post(
            "/v1/flags:apply",
            {"document": json.dumps({"flags": {SHARED: {"percent": f"{SHARE // 100}%"}}})},
        )
        fleet.apply(PLAN)
        told, at_stage = [], {}
        for verb, stage in zip(("start", "advance", "advance"), STAGES, strict=True):
            fleet.do(verb, ROLLOUT)
            fleet.converged()
            at_stage[stage] = fleet.served(FLAGS, many)
            told.append(_compared(stage, at_stage))
            if stage == "ring-2":
                back_up(fleet.platform, backups / stage)
        wrong = sum(each.wrong for each in told)
        dropped = sum(each.dropped for each in told)
        yield Row(
            f"widened {' -> '.join(f'{share / 100:g} %' for share in STAGES.values())}: {len(many):,} enterprises",
            "0 drop out, 0 where their bucket does not put them",
            f"{dropped} drop out, {wrong} elsewhere; in: {' -> '.join(f'{each.inside:,}' for each in told)}",
            not dropped and not wrong,
        )
        before = at_stage["ring-3"]
        back_up(fleet.platform, backups / "ring-3")
        yield from _restarts(fleet, before)
        yield from _replay(fleet, streams, before)
        yield from _restored(fleet, backups, at_stage)
        yield from _other_libraries(fleet, before)
        fleet.do("rollback", ROLLOUT, reason="the measurement is over", toStart=True)
        fleet.do("archive", ROLLOUT)


def expected(share: int, enterprises: Iterable[str]) -> Sides:
    """Where the frozen buckets put enterprises that have never been in."""
    return {
        name: (
            bucket_of(f"rollouts/{ROLLOUT}", name) < share
            and bucket_of(f"rollouts/{ROLLOUT}/control", name) >= CONTROL,
            bucket_of(f"flags/{SHARED}", name) < SHARE,
        )
        for name in enterprises
    }


@dataclass(frozen=True)
class _Compared:
    inside: int
    wrong: int
    dropped: int


def _compared(stage: str, at_stage: dict[str, Sides]) -> _Compared:
    served = at_stage[stage]
    earlier = [sides for name, sides in at_stage.items() if name != stage]
    return _Compared(
        inside=sum(value for value, _ in served.values()),
        wrong=differing(expected(STAGES[stage], served), served),
        dropped=sum(sides[name][0] and not served[name][0] for sides in earlier for name in served),
    )


def _same(what: str, fleet: Fleet, before: Sides) -> Row:
    """The row that says how many changed sides."""
    changed = differing(before, fleet.served(FLAGS, list(before)))
    return Row(what, f"0 of {len(before):,} change sides", f"{changed} change sides", not changed)


# Restarts


def _restarts(fleet: Fleet, before: Sides) -> Iterator[Row]:
    platform = fleet.platform
    for program in (*_SERVICE, *GATEWAYS):
        platform.restart(program)
    fleet.converged()
    yield _same(f"restart of the service and of {len(GATEWAYS)} gateways", fleet, before)
    away = (*_SERVICE, "rabbitmq")
    for program in away:
        platform.stop(program)
    for program in GATEWAYS:
        platform.stop(program)
        platform.supervisor.start(program)
    # Not ready, because a service is away; but they serve what they have kept.
    eventually(
        lambda: _serve(fleet, next(iter(before))),
        what="the gateways' start without the service and the broker",
    )
    yield _same("gateways started without service and broker, from their files", fleet, before)
    for program in reversed(away):
        platform.start(program)
    platform.wait_ready(GATEWAYS)
    fleet.converged()


def _serve(fleet: Fleet, enterprise: str) -> bool | None:
    """Whether all gateways answer."""
    try:
        return bool(fleet.served_by_each(FLAGS, [enterprise]))
    except (OSError, ExceptionGroup):  # aiohttp's errors of connections are OSErrors
        return None


# Replay


class Streams:
    """Records both streams to gateways while it is open, and tells them again."""

    def __init__(self, platform: Platform) -> None:
        self._parameters = pika.URLParameters(platform.amqp_url)
        self._queue = f"verify-rollout-{new_id()}"
        self._told: list[tuple[str, pika.BasicProperties, bytes]] = []
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            channel.queue_declare(self._queue, durable=True, arguments={"x-expires": 3_600_000})
            for key in (SNAPSHOT_KEY, ADMISSIONS_KEY):
                channel.queue_bind(self._queue, EXCHANGE, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with pika.BlockingConnection(self._parameters) as connection:
            connection.channel().queue_delete(self._queue)

    def tell_again(self, stop: Event) -> int:
        """Everything in its order, then shuffled again and again until `stop`; returns how many messages."""
        dice, count = Random(1), 0
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            while (got := channel.basic_get(self._queue, auto_ack=True))[0] is not None:
                method, properties, body = got
                self._told.append((method.routing_key, properties, body))
            channel.queue_unbind(self._queue, EXCHANGE, SNAPSHOT_KEY)
            channel.queue_unbind(self._queue, EXCHANGE, ADMISSIONS_KEY)
            while not stop.is_set() or count < 2 * len(self._told):
                for key, properties, body in self._told:
                    channel.basic_publish(EXCHANGE, key, body, properties)
                    count += 1
                dice.shuffle(self._told)
                stop.wait(0.05)  # what all gateways have to unpack takes time of theirs
        return count


def _replay(fleet: Fleet, streams: Streams, before: Sides) -> Iterator[Row]:
    """Old messages of both streams while gateways are asked; and accounts' events again, some of them late."""
    stop, counts = Event(), list[int]()
    replay = Thread(target=lambda: counts.append(streams.tell_again(stop)))
    replay.start()
    try:
        row = _same("both streams told again, in order and shuffled, while gateways answer", fleet, before)
    finally:
        stop.set()
        replay.join()
    fleet.converged()
    yield replace(row, measured=f"{row.measured}; {counts[0]:,} messages", holds=row.holds and counts[0] > 0)
    told = _tell_accounts_again(fleet, list(before)[:TOLD_AGAIN])
    yield _same(
        f"accounts' events told again: {told:,}, twice each, among them late revocations", fleet, before
    )


def _tell_accounts_again(fleet: Fleet, enterprises: list[str]) -> int:
    """Verified as before, and revoked before that; how many events. Returns when the service has handled them."""
    ids = []
    earlier = datetime.now(UTC) - timedelta(days=1)
    with pika.BlockingConnection(pika.URLParameters(fleet.platform.amqp_url)) as connection:
        broker = Broker(connection, "rollout")
        for name in enterprises:
            for kind in (EnterpriseVerified, EnterpriseVerificationRevoked):
                ids.append(new_id())
                for _ in range(2):
                    broker.tell(kind(enterprise=name), name, subject=name, time=earlier, event_id=ids[-1])

    def handled() -> bool | None:
        with psycopg.connect(fleet.platform.database_url) as connection:
            found = connection.execute(
                "select count(*) from rollout.inbox where event_id = any (%s)", (ids,)
            ).fetchone()
        return bool(found and found[0] == len(ids)) or None

    eventually(handled, what="the handling of accounts' events", seconds=60)
    return len(ids)


# Restored databases


def back_up(platform: Platform, file: Path) -> None:
    """Everything that the service has in the database."""
    _postgres(platform, "pg_dump", "--format=custom", "--schema=rollout", f"--file={file}")


def restore(platform: Platform, file: Path) -> None:
    """The service as it was; gateways and all others go on meanwhile."""
    for program in _SERVICE:
        platform.stop(program)
    _postgres(platform, "pg_restore", "--clean", "--exit-on-error", "--single-transaction", f"{file}")
    for program in _SERVICE:
        platform.start(program)


def _postgres(platform: Platform, program: str, *arguments: str) -> None:
    if platform.postgres is None:
        raise RuntimeError("the database runs elsewhere: only one of our own is restored")
    database = f"--dbname={platform.database_url}"
    subprocess.run(
        [platform.postgres.bin / program, database, *arguments], check=True, capture_output=True, text=True
    )


def _restored(fleet: Fleet, backups: Path, at_stage: dict[str, Sides]) -> Iterator[Row]:
    """Back to before the last widening, and forth again."""
    restore(fleet.platform, backups / "ring-2")
    fleet.converged()
    seen = fleet.operator.get("/v1/audit:verify")
    row = _same("database restored from before the last widening", fleet, at_stage["ring-2"])
    missing = [f"event {each['sequence']} {each['what']}" for each in seen["mistakes"]] or [
        "nothing is missing"
    ]
    yield replace(
        row,
        target=f"{row.target}, compared with then; the trail tells of what is missing",
        measured=f"{row.measured}; the trail: {'; '.join(missing)}",
        holds=row.holds and not seen["ok"],
    )
    restore(fleet.platform, backups / "ring-3")
    fleet.converged()
    seen = fleet.operator.get("/v1/audit:verify")
    row = _same("the newest backup restored", fleet, at_stage["ring-3"])
    yield replace(
        row,
        target=f"{row.target}; the trail is whole",
        measured=f"{row.measured}; the trail is {'whole' if seen['ok'] else 'not whole'}",
        holds=row.holds and seen["ok"],
    )


# Other libraries


def _other_libraries(fleet: Fleet, before: Sides) -> Iterator[Row]:
    """The snapshot that gateways serve from, in the hands of other major versions of the engine and of the hash."""
    document = json.loads(fleet.operator.get("/v1/snapshot")["document"])
    question = {
        "flags": {"flags": {key: document["flags"]["flags"][key] for key in FLAGS}},
        "salts": {SHARED: document["buckets"][SHARED]},
        "contexts": [
            {
                "targetingKey": name,
                "enterprise": name,
                "verified": True,
                "cohort": "many",
                "admissions": {ROLLOUT: {"state": record["state"], "stage": record["stage"]}},
            }
            for name, record in fleet.records(ROLLOUT).items()
            if name in before
        ],
    }
    answer = json.loads(_in_another_environment(json.dumps(question)))
    buckets = differing(
        {name: tuple(values) for name, values in answer["buckets"].items()},
        {name: (bucket_of(f"flags/{SHARED}", name),) for name in before},
    )
    changed = differing(before, {name: tuple(values) for name, values in answer["sides"].items()})
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    yield Row(
        f"the same snapshot and admissions, decided by {versions}",
        f"0 of {len(before):,} change sides, 0 buckets differ",
        f"{changed} change sides, {buckets} buckets differ",
        not changed and not buckets,
    )


def _in_another_environment(question: str) -> str:
    """What `rollout_engine.py` answers where only OTHERS are installed. Raises subprocess.CalledProcessError."""
    with TemporaryDirectory() as place:
        python = Path(place) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        engine, hashes = OTHERS
        # The engine wants the newer hash, but only for shares of its own, which our rules never use.
        for wanted in ((engine,), ("--no-deps", hashes)):
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", *wanted], check=True, capture_output=True
            )
        script = Path(__file__).with_name("rollout_engine.py")
        done = subprocess.run([python, script], input=question, check=True, capture_output=True, text=True)
        return done.stdout
