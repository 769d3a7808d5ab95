"""
What this gateway serves from: flags and stages (a snapshot), and who is in (admissions). docs/rollouts.md describes both.

Both are immutable, made off the event loop and swapped in together, by one assignment, as a `Serving`. So a request sees one
state of the world, and reads it without a lock.
"""

import hashlib
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from sys import intern
from threading import Lock
from typing import Any, TypeVar

from numerator.rollout.v1 import serving_pb2 as pb
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from gateway.flags import BadFlagError, Flag, failed
from services.chassis.buckets import bucket_of
from services.chassis.clock import Clock

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""The largest document that is unpacked."""
ACTIVE = "ACTIVE"
_NO_RECORD = frozenset({"", "NONE"})


class BadSnapshotError(ValueError):
    """The document is not what it says, or nothing that we can serve from. It is refused whole."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, alias_generator=to_camel)


class StageLimits(_Part):
    """What an enterprise may have in a stage; 0 is no limit."""

    requests_per_minute: int = Field(default=0, ge=0)
    bound_accounts: int = Field(default=0, ge=0)
    live_placements: int = Field(default=0, ge=0)

    def told(self) -> dict[str, int]:
        """What services are told of them: those that there are, and that services count."""
        limits = {"bound_accounts": self.bound_accounts, "live_placements": self.live_placements}
        return {name: most for name, most in limits.items() if most}


class RolloutStage(_Part):
    """Where the rollout of a flag stands, and what its stage lets an enterprise do."""

    rollout: str
    stage: str
    state: str
    killed: bool
    fail_mode: str
    limits: StageLimits = StageLimits()

    @property
    def closes(self) -> bool:
        """Whether nobody is in when knowledge is old."""
        return self.fail_mode != "LAST_GOOD"


class _FlagSet(BaseModel):
    flags: dict[str, Any]


class _Document(_Part):
    version: int = Field(ge=0)
    flags: _FlagSet
    rollouts: dict[str, RolloutStage]
    buckets: dict[str, str]
    next_steps: dict[str, str]


@lru_cache(maxsize=1_000)
def _in_context(state: str, stage: str) -> dict[str, str]:
    """An admission as rules see it. Shared: nobody changes it."""
    return {"state": state, "stage": stage}


class Snapshot:
    """
    Flags and stages at one version. Immutable.

    Attributes:
        version, sha256: of the document; 0 and "" before the first.
        flags: by key.
        rollouts: by the keys of their flags; `rollout_names` are theirs.
        outside: the admissions of an enterprise that has no record, by rollout, as rules see them.
        envelope: the document as it came.
    """

    def __init__(self, document: _Document, envelope: pb.Snapshot, before: "Snapshot | None" = None) -> None:
        """Raises BadSnapshotError. Flags that are in `before` as they are here are not compiled again."""
        known = before.flags if before else {}
        flags = {}
        for key, definition in document.flags.flags.items():
            flag = known.get(key)
            if flag is None or flag.definition != definition:
                try:
                    flag = Flag(key, definition)
                except BadFlagError as error:
                    raise BadSnapshotError(f"the flag {key}: {error}") from None
            flags[key] = flag
        self.version = document.version
        self.sha256 = envelope.sha256
        self.envelope = envelope
        self.flags: Mapping[str, Flag] = flags
        self.rollouts: Mapping[str, RolloutStage] = document.rollouts
        self.rollout_names = {flag: each.rollout for flag, each in document.rollouts.items()}
        self.outside = {name: _in_context("NONE", "") for name in self.rollout_names.values()}
        self._buckets = document.buckets
        self._next_steps = document.next_steps

    def buckets_of(self, enterprise: str) -> dict[str, int]:
        """The enterprise's buckets of ordinary flags, by name."""
        return {name: bucket_of(salt, enterprise) for name, salt in self._buckets.items()}

    def next_step(self, reason: str, enterprise: str) -> str:
        """What the enterprise can do about a reason, in words."""
        return self._next_steps.get(reason, "").replace("{enterprise}", enterprise)


def unpack(envelope: pb.Snapshot, before: Snapshot | None = None) -> Snapshot:
    """The snapshot in an envelope. Raises BadSnapshotError unless version, hash, form and every flag are right."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(envelope.document, MOST_BYTES)
    except zlib.error as error:
        raise BadSnapshotError(f"the document is not zlib: {error}") from None
    if not unpacker.eof:
        raise BadSnapshotError(f"the document is cut off, or longer than {MOST_BYTES} bytes")
    if hashlib.sha256(text).hexdigest() != envelope.sha256:
        raise BadSnapshotError("the document's hash is not the one that was told")
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        raise BadSnapshotError(f"the document has not the form of a snapshot: {error}") from None
    if document.version != envelope.version:
        raise BadSnapshotError(
            f"the document says version {document.version}, its envelope {envelope.version}"
        )
    return Snapshot(document, envelope, before)


NO_SNAPSHOT = Snapshot(
    _Document(version=0, flags=_FlagSet(flags={}), rollouts={}, buckets={}, nextSteps={}), pb.Snapshot()
)
"""What the rollout service serves before there is a flag: nobody is in."""


@dataclass(frozen=True, slots=True)
class Admission:
    """
    The record of an enterprise for a flag.

    Attributes:
        state: `ACTIVE` is in; `WAITLISTED`, `SUSPENDED` and whatever else is not.
        stage: the stage of the admission, as `private-beta`.
        reason: why it is not in, as `NOT_VERIFIED`.
        queue_key: the order on the waitlist; "" when it does not wait for a place.
    """

    state: str
    stage: str
    reason: str
    queue_key: str


@dataclass(frozen=True, slots=True)
class Enterprise:
    """What rules may ask of an enterprise."""

    verified: bool
    attributes: Mapping[str, str]


_UNKNOWN = Enterprise(verified=False, attributes={})
_NO_RECORDS: Mapping[str, Admission] = {}
# Of most records thousands are alike.
_shared = lru_cache(maxsize=1_000)(Admission)


class AdmissionTable:
    """Who is in, and what is known of enterprises, at one version. Immutable but for the waitlists that it sorts."""

    def __init__(
        self,
        version: int,
        token: str,
        records: Mapping[str, Mapping[str, Admission]],
        enterprises: Mapping[str, Enterprise],
        queues: Mapping[str, list[str]],
    ) -> None:
        """
        Args:
            version: of the admissions.
            token: tells apart two histories that have the same version, as after a restored backup.
            records: by enterprise and flag.
            enterprises: what is known of them, by name.
            queues: waitlists by flag, as far as they are known.
        """
        self.version = version
        self.token = token
        self._records = records
        self._enterprises = enterprises
        self._queues = dict(queues)

    @property
    def key(self) -> tuple[int, str]:
        """Version and token."""
        return self.version, self.token

    def records(self, enterprise: str) -> Mapping[str, Admission]:
        """The records of an enterprise, by flag."""
        return self._records.get(enterprise, _NO_RECORDS)

    def record(self, flag: str, enterprise: str) -> Admission | None:
        """The record, if there is one."""
        return self.records(enterprise).get(flag)

    def position(self, flag: str, enterprise: str) -> int:
        """The enterprise's place on the waitlist of the flag, from 1; 0 when it does not wait for a place."""
        record = self.record(flag, enterprise)
        if record is None or not record.queue_key:
            return 0
        queue = self._queues.get(flag)
        if queue is None:
            waiting = (records.get(flag) for records in self._records.values())
            queue = self._queues[flag] = sorted(each.queue_key for each in waiting if each and each.queue_key)
        return bisect_left(queue, record.queue_key) + 1

    def enterprise(self, name: str) -> Enterprise:
        """What is known of an enterprise; of one that nobody has told of: not verified, without attributes."""
        return self._enterprises.get(name, _UNKNOWN)

    @cached_property
    def attribute_names(self) -> frozenset[str]:
        """The names of all attributes that any enterprise has: ours, whoever else uses them."""
        return frozenset(name for each in self._enterprises.values() for name in each.attributes)

    def changed(
        self,
        version: int,
        token: str,
        records: Iterable[pb.AdmissionRecord],
        enterprises: Iterable[pb.EnterpriseRecord],
    ) -> "AdmissionTable":
        """The table at another version. What did not change is shared with this one."""
        after = dict(self._records)
        copied: dict[str, dict[str, Admission]] = {}
        flags = set()
        for each in records:
            enterprise, flag, queue_key = each.enterprise, intern(each.flag), each.queue_key
            mine = copied.get(enterprise)
            if mine is None:
                mine = copied[enterprise] = after[enterprise] = dict(self.records(enterprise))
            flags.add(flag)
            if each.state in _NO_RECORD:
                mine.pop(flag, None)
            else:
                make = Admission if queue_key else _shared
                mine[flag] = make(each.state, each.stage, each.reason, queue_key)
        known = self._enterprises
        told = {each.enterprise: Enterprise(each.verified, dict(each.attributes)) for each in enterprises}
        queues = {flag: queue for flag, queue in self._queues.copy().items() if flag not in flags}
        return AdmissionTable(version, token, after, {**known, **told} if told else known, queues)

    def all(self) -> pb.GetAdmissionsResponse:
        """Everything, as the rollout service would tell it to somebody who knows nothing."""
        return pb.GetAdmissionsResponse(
            version=self.version,
            token=self.token,
            whole=True,
            records=[
                pb.AdmissionRecord(
                    flag=flag,
                    enterprise=enterprise,
                    state=each.state,
                    stage=each.stage,
                    reason=each.reason,
                    queue_key=each.queue_key,
                )
                for enterprise, records in self._records.items()
                for flag, each in records.items()
            ],
            enterprises=[
                pb.EnterpriseRecord(enterprise=name, verified=each.verified, attributes=each.attributes)
                for name, each in self._enterprises.items()
            ],
        )


NO_ADMISSIONS = AdmissionTable(0, "", {}, {}, {})
"""What the rollout service serves before the first record."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Whether an enterprise may use what a flag guards.

    Attributes:
        reason: why not, as `NOT_ON_THE_LIST`; "" when it may.
        admission: its record; None: there is none.
        rollout: the flag's rollout and its stage; None for an ordinary flag.
    """

    admitted: bool
    reason: str
    admission: Admission | None
    rollout: RolloutStage | None


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Where an enterprise stands, as it is told.

    Attributes:
        state, stage: of its record; `NONE` and "" without one.
        reason: why it is not in; "" when it is.
        position: its place on the waitlist, from 1; 0 when it does not wait for a place.
        next_step: what to do, in words.
    """

    state: str
    stage: str
    reason: str
    position: int
    next_step: str


class Serving:
    """
    A snapshot and admissions that are served together. Immutable but for the memo of its decisions.

    Attributes:
        snapshot_time, admissions_time: since when each of them has been served.
        stale: whether we have not known for long that this is the newest.
        memo: decisions by flag and enterprise.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        admissions: AdmissionTable,
        *,
        snapshot_time: datetime,
        admissions_time: datetime,
        stale: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.admissions = admissions
        self.snapshot_time = snapshot_time
        self.admissions_time = admissions_time
        self.stale = stale
        self.memo: dict[tuple[str, str], Decision] = {}

    def context_of(self, enterprise: str) -> EvaluationContext:
        """What a rule can ask for. Every rollout is in it, so that a rule meets no null that it could misread."""
        known = self.admissions.enterprise(enterprise)
        admissions = dict(self.snapshot.outside)
        names = self.snapshot.rollout_names
        for flag, record in self.admissions.records(enterprise).items():
            if name := names.get(flag):
                admissions[name] = _in_context(record.state, record.stage)
        return EvaluationContext(
            enterprise,
            {
                **known.attributes,
                "enterprise": enterprise,
                "verified": known.verified,
                "bucket": self.snapshot.buckets_of(enterprise),
                "admissions": admissions,
            },
        )

    def resolve(
        self, kind: str, key: str, default: T, context: EvaluationContext | None
    ) -> FlagResolutionDetails[T]:
        """
        A flag's value; `default`, with an error code, where there is none.

        A flag that closes when knowledge is old gives the default then, with the reason STALE. What is old says so in its
        metadata: `stale: true`.
        """
        flag = self.snapshot.flags.get(key)
        if flag is None:
            return failed(default, ErrorCode.FLAG_NOT_FOUND, f"there is no flag {key}")
        rollout = self.snapshot.rollouts.get(key)
        if self.stale and rollout and rollout.closes:
            return FlagResolutionDetails(default, reason=Reason.STALE, flag_metadata={"stale": True})
        details = flag.resolve(kind, default, context)
        if self.stale:
            details.flag_metadata = {**details.flag_metadata, "stale": True}
        return details

    def evaluate(self, key: str, context: EvaluationContext) -> FlagResolutionDetails[Any]:
        """As `resolve`, for a caller that names no type and no default: the flag's own type, and its nothing."""
        flag = self.snapshot.flags.get(key)
        kind, nothing = (flag.kind, flag.nothing) if flag else ("object", None)
        return self.resolve(kind, key, nothing, context)

    def standing(self, flag: str, enterprise: str, decision: Decision) -> Standing:
        """Where the enterprise stands, after a decision of this serving."""
        record = decision.admission
        return Standing(
            state=record.state if record else "NONE",
            stage=record.stage if record else "",
            reason=decision.reason,
            position=self.admissions.position(flag, enterprise),
            next_step=self.snapshot.next_step(decision.reason, enterprise),
        )


class Knowledge:
    """
    The newest that this gateway knows, and for how long it has been known to be the newest.

    Written by any thread; `serving` is read without a lock.

    Attributes:
        serving: None until both snapshot and admissions are known.
    """

    def __init__(self, clock: Clock, stale_seconds: float) -> None:
        """`stale_seconds`: how old knowledge may be before it is stale."""
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._lock = Lock()
        self._snapshot: Snapshot | None = None
        self._admissions: AdmissionTable | None = None
        self._snapshot_time = self._admissions_time = clock.now()
        self._began = time.monotonic()
        self._snapshot_confirmed: float | None = None
        self._admissions_confirmed: float | None = None
        self._subscribers: list[Callable[[], object]] = []
        self.serving: Serving | None = None

    @property
    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    @property
    def admissions(self) -> AdmissionTable | None:
        return self._admissions

    def take_snapshot(
        self, snapshot: Snapshot, *, instead_of: Snapshot | None = None, newest: bool = True
    ) -> bool:
        """
        Serve a snapshot if it is newer than what we have; False when it is not.

        Args:
            snapshot: the new one.
            instead_of: one that the rollout service itself has gone back from (its database was restored): that one is
                replaced whatever the new version is.
            newest: whether it is known to be the newest there is.
        """
        with self._lock:
            current = self._snapshot
            if current and snapshot.version <= current.version and current is not instead_of:
                return False
            self._snapshot = snapshot
            self._snapshot_time = self._clock.now()
            if newest:
                self._snapshot_confirmed = time.monotonic()
            self._swap()
        self._tell()
        return True

    def take_admissions(
        self, admissions: AdmissionTable, *, instead_of: AdmissionTable | None, newest: bool = True
    ) -> bool:
        """
        Serve admissions that were made from others; False when we do not have those any more.

        Args:
            admissions: the new ones.
            instead_of: the ones that they follow; None: there were none.
            newest: whether they are known to be the newest there are.
        """
        with self._lock:
            if self._admissions is not instead_of:
                return False
            self._admissions = admissions
            self._admissions_time = self._clock.now()
            if newest:
                self._admissions_confirmed = time.monotonic()
            self._swap()
        self._tell()
        return True

    def confirm_snapshot(self) -> None:
        """Note that our snapshot is the newest."""
        self._snapshot_confirmed = time.monotonic()
        self.mark()

    def confirm_admissions(self) -> None:
        """Note that our admissions are the newest."""
        self._admissions_confirmed = time.monotonic()
        self.mark()

    def staleness(self) -> float:
        """Seconds since we last knew that we have the newest of both, or since the start if we never did."""
        return time.monotonic() - min(
            self._began if at is None else at for at in (self._snapshot_confirmed, self._admissions_confirmed)
        )

    def mark(self) -> None:
        """Let `serving` tell whether it is stale. To be called once in a while, because growing old makes no noise."""
        with self._lock:
            turned = self.serving is not None and self.serving.stale != self._stale()
            if turned:
                self._swap()
        if turned:
            self._tell()

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Have `callback` called after each change of `serving`, from whichever thread made it."""
        self._subscribers.append(callback)

    def _stale(self) -> bool:
        never = self._snapshot_confirmed is None or self._admissions_confirmed is None
        return never or self.staleness() > self._stale_seconds

    def _swap(self) -> None:
        if self._snapshot and self._admissions:
            self.serving = Serving(
                self._snapshot,
                self._admissions,
                snapshot_time=self._snapshot_time,
                admissions_time=self._admissions_time,
                stale=self._stale(),
            )

    def _tell(self) -> None:
        for callback in self._subscribers:
            callback()
