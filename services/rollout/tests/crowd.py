"""Ten thousand enterprises: whether any of them ever changes sides by itself, and how long it takes to decide on them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import serving_pb2

from services.chassis.buckets import BUCKETS, bucket_of
from services.chassis.database import PLATFORM, Database, Transaction
from services.chassis.testing.databases import TemporaryDatabase
from services.rollout import serving, store, usecases
from services.rollout.model import EDITION_FLAG, Rollout
from services.rollout.plan import parse
from services.rollout.tests.deeds import Reader, all_told

ROLLOUT, ACTOR = "rollouts/edition", "clients/operator"
PLAN = """
rollout: edition
control_share: 10%
stages:
  - {ring: 1, percent: 5%}
  - {ring: 2, percent: 25%}
  - {ring: 3, percent: 60%}
"""
ALL_AT_ONCE = "{rollout: edition, stages: [{ring: 1, hold: {time: 1h}}, {ring: 2}]}"


@dataclass(frozen=True, slots=True)
class Sides:
    """
    How many enterprises were on another side than they should be; 0 for all but `inside`.

    Attributes:
        tenants: how many there were.
        inside: how many were in, stage by stage; the last when the rollout was completed.
        widened: dropped out when the rollout widened.
        restarted: differ for a process that begins anew on the same database, and decides all of them again.
        told_again: changed when accounts told everything again, and late what was so before.
        replayed: differ for a gateway that takes all that was ever told, in its order.
        pulled: differ for a gateway that asks for everything.
        rehashed: have another bucket by the book (MurmurHash3 in plain Python) than by the library.
    """

    tenants: int
    inside: tuple[int, ...]
    widened: int
    restarted: int
    told_again: int
    replayed: int
    pulled: int
    rehashed: int


@dataclass(frozen=True, slots=True)
class Speeds:
    """How long decisions on so many `tenants` take, in seconds: at their start all of them come in; the others are medians."""

    tenants: int
    start: float
    verification: float
    kill: float


def stickiness(database: TemporaryDatabase, tenants: int = 10_000) -> Sides:
    """Lead so many enterprises through a rollout, on its empty database, and look who changes sides."""
    settle(database, tenants)
    act(database, lambda tx: usecases.apply_plan(tx, parse(PLAN), actor=ACTOR))
    inside: list[int] = []
    widened = 0
    served = set[str]()

    def widen(verb: Callable[[Transaction, str, str, str], Rollout]) -> None:
        nonlocal served, widened
        before = served
        act(database, lambda tx: verb(tx, ROLLOUT, "", ACTOR))
        served = sides(database)
        widened += len(before - served)
        inside.append(len(served))

    widen(usecases.start)
    widen(usecases.advance)
    names = [_name(number) for number in range(1, tenants + 1)]
    restarted = served ^ _restarted(database, names)
    _tell_again(database, names)
    told_again = served ^ sides(database)
    replayed, pulled = served ^ _replayed(database), served ^ _pulled(database)
    widen(usecases.advance)
    widen(usecases.complete)
    salts = (ROLLOUT, f"{ROLLOUT}/control")
    rehashed = {
        name for name in names for salt in salts if bucket_of(salt, name) != _bucket_by_the_book(salt, name)
    }
    return Sides(
        tenants,
        tuple(inside),
        widened,
        len(restarted),
        len(told_again),
        len(replayed),
        len(pulled),
        len(rehashed),
    )


def speeds(database: TemporaryDatabase, tenants: int = 10_000, times: int = 50) -> Speeds:
    """How long it takes to let so many in, to verify one more, and to kill; the last two so many `times`."""
    settle(database, tenants)
    act(database, lambda tx: usecases.apply_plan(tx, parse(ALL_AT_ONCE), actor=ACTOR))
    start = act(database, lambda tx: usecases.start(tx, ROLLOUT, "", ACTOR))

    def verify(number: int) -> Callable[[Transaction], object]:
        return lambda tx: usecases.remember_enterprise(
            tx, _name(tenants + number), verified=True, told=tx.now
        )

    verifications = [act(database, verify(number)) for number in range(1, times + 1)]
    kills = [act(database, lambda tx: usecases.kill(tx, ROLLOUT, "", ACTOR, "a test")) for _ in range(times)]
    return Speeds(tenants, start, median(verifications), median(kills))


def settle(database: Database, tenants: int) -> None:
    """So many verified enterprises."""
    act(
        database,
        lambda tx: tx.execute(
            """
            insert into enterprises (enterprise, verified, told_time)
            select 'enterprises/e' || number, true, %s from generate_series(1, %s) as number
            """,
            (tx.now, tenants),
        ),
    )


def act(database: Database, do: Callable[[Transaction], object]) -> float:
    """Do it in a transaction; returns how many seconds that took."""
    began = time.perf_counter()
    with database.transaction(PLATFORM) as tx:
        do(tx)
    return time.perf_counter() - began


def sides(database: Database) -> set[str]:
    """Who is in, by the records."""
    with database.transaction(PLATFORM) as tx:
        rows = tx.execute(
            "select enterprise from admissions where rollout = %s and state = 'ACTIVE'", (ROLLOUT,)
        )
        return {row["enterprise"] for row in rows}


def _restarted(database: TemporaryDatabase, names: list[str]) -> set[str]:
    """Who is in for a process that has just started, after it has decided on all of them again."""
    store._parse.cache_clear()
    fresh = Database(database.url, schema=database.schema)
    try:
        act(fresh, lambda tx: usecases.reconsider(tx, usecases.get_rollout(tx, ROLLOUT), names, actor=ACTOR))
        return sides(fresh)
    finally:
        fresh.close()


def _tell_again(database: Database, names: list[str]) -> None:
    """What accounts told comes again, and late what was so before."""

    def again(tx: Transaction) -> None:
        first = tx.execute("select min(told_time) as first from enterprises").fetchall()[0]["first"]
        for name in names:
            usecases.remember_enterprise(tx, name, verified=True, told=first)
            usecases.remember_enterprise(tx, name, verified=False, told=first - timedelta(days=1))

    act(database, again)


def _replayed(database: Database) -> set[str]:
    """Who is in for a gateway that takes all that was told."""
    reader = Reader()
    with database.transaction(PLATFORM) as tx:
        for _, each in all_told(tx, events.AdmissionsChanged):
            reader.hear(each, _ask(tx))
    return _inside(reader)


def _pulled(database: Database) -> set[str]:
    """Who is in for a gateway that asks for everything."""
    reader = Reader()
    with database.transaction(PLATFORM) as tx:
        reader.ask(_ask(tx))
    return _inside(reader)


def _ask(tx: Transaction) -> Callable[[serving_pb2.GetAdmissionsRequest], serving_pb2.GetAdmissionsResponse]:
    return lambda request: serving.admissions_since(tx, request)


def _inside(reader: Reader) -> set[str]:
    return {
        name
        for (flag, name), (state, *_) in reader.records.items()
        if (flag, state) == (EDITION_FLAG, "ACTIVE")
    }


def _bucket_by_the_book(salt: str, enterprise: str) -> int:
    """MurmurHash3 x86 32 with seed 0, as its author published it; scaled."""
    data, value = f"{salt}:{enterprise}".encode(), 0
    for start in range(0, len(data), 4):
        block = data[start : start + 4]
        mixed = int.from_bytes(block, "little") * 0xCC9E2D51 & 0xFFFFFFFF
        value ^= _rotated(mixed, 15) * 0x1B873593 & 0xFFFFFFFF
        if len(block) == 4:
            value = (_rotated(value, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    value ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = (value ^ value >> shift) * factor & 0xFFFFFFFF
    return ((value ^ value >> 16) * BUCKETS) >> 32


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & 0xFFFFFFFF


def _name(number: int) -> str:
    return f"enterprises/e{number}"
