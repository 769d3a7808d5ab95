"""
Who is in the edition: a lookup in memory, never a decision of ours.

The rollout service decides admissions and publishes them with the flags as versioned snapshots. A snapshot is
immutable, made off the event loop and swapped in by one assignment. The flag's rule is asked through OpenFeature with
the enterprise's admission as context. Whatever is missing, unknown or odd is "not admitted".
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any, TypeVar

from openfeature import api
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode, OpenFeatureError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider
from openfeature.provider.metadata import Metadata

from gateway import metrics
from gateway.errors import Problem

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""The largest document that is unpacked."""
_RULE_DEPTH = 30
_OPERATORS = frozenset(
    {
        "and", "cat", "ends_with", "if", "in", "missing", "missing_some", "none", "or", "sem_ver", "some", "all",
        "starts_with", "substr", "var", "!", "!!", "!=", "!==", "==", "===", "<", "<=", ">", ">=",
    }
)  # fmt: skip
"""What a flag's rule may use. `fractional` is not among it: its buckets have moved twice with the engine's version."""
_ORDERS = frozenset({"<", "<=", ">", ">="})
_MOST_MEMOS = 100_000
_RETRY = timedelta(seconds=2)


class BadSnapshotError(ValueError):
    """The document is not what it says, or nothing that we can serve from. It is refused whole."""


@dataclass(frozen=True, slots=True)
class Admission:
    """
    The record of an enterprise in a rollout.

    Attributes:
        state: `ACTIVE` is in; `WAITLISTED`, `SUSPENDED` and whatever else is not.
        stage: the stage's id, as `private-beta`; "" outside of any.
        reason: why it is not in, as `NOT_VERIFIED`.
        position: the place on the waitlist, from 1; 0 when there is none.
        next_step: what to do, in words.
    """

    state: str
    stage: str
    reason: str
    position: int
    next_step: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an enterprise is admitted, by which record (None: there is none), and why."""

    admitted: bool
    admission: Admission | None
    reason: str


class Snapshot:
    """Flags and admissions of one version. Immutable but for the memo of its own answers."""

    def __init__(
        self, version: int, flags: Mapping[str, Any], admissions: Mapping[str, Mapping[str, Admission]]
    ) -> None:
        """Raises BadSnapshotError for flags that flagd's engine, or our rules for it, refuse."""
        for name, flag in flags.items():
            _check_rule(name, flag.get("targeting") if isinstance(flag, dict) else None, 0)
        self.version = version
        self._admissions = admissions
        self._flags = FlagdCore()
        try:
            # As text: the engine changes a dict that it is given.
            self._flags.set_flags(json.dumps({"flags": flags}))
        except (OpenFeatureError, TypeError, AttributeError) as error:
            raise BadSnapshotError(f"the flags are none: {error}") from error
        self.memo: dict[tuple[str, str], Decision] = {}

    @classmethod
    def parse(cls, document: bytes) -> "Snapshot":
        """The snapshot in a document. Raises BadSnapshotError."""
        try:
            tree = json.loads(document)
            version, flags, admissions = tree["version"], tree["flags"]["flags"], tree["admissions"]
            if type(version) is not int or not isinstance(flags, dict):
                raise BadSnapshotError("version or flags are missing")
            records = {
                flag: {enterprise: _admission(record) for enterprise, record in of_flag.items()}
                for flag, of_flag in admissions.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSnapshotError(f"the document has not the form of a snapshot: {error!r}") from error
        return cls(version, flags, records)

    def admission(self, flag: str, enterprise: str) -> Admission | None:
        return self._admissions.get(flag, {}).get(enterprise)

    def resolve(
        self, kind: str, flag: str, default: T, context: EvaluationContext | None
    ) -> FlagResolutionDetails[T]:
        """The flag's value by flagd's engine; `default` with an error code when it has none. Never raises."""
        try:
            details: FlagResolutionDetails[T] = getattr(self._flags, f"resolve_{kind}_value")(
                flag, default, context
            )
        except OpenFeatureError as error:
            return FlagResolutionDetails(
                default, reason=Reason.ERROR, error_code=error.error_code, error_message=error.error_message
            )
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            # The interpreter of rules raises whatever its operators stumble over.
            return FlagResolutionDetails(
                default, reason=Reason.ERROR, error_code=ErrorCode.GENERAL, error_message=repr(error)
            )
        return details


EMPTY = Snapshot(0, {}, {})
"""What the rollout service serves before the first rollout exists: nobody is in."""


class Snapshots:
    """The newest snapshot. Written by any thread, read without a lock."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.current: Snapshot | None = None

    def offer(self, version: int, sha256: str, packed: bytes, *, instead_of: int | None = None) -> bool:
        """
        Take a packed document if it is newer than what we have; False when it is not.

        `instead_of` is a version that the rollout service itself has gone back from (its database was restored):
        that one is replaced whatever the new version is.

        Raises:
            BadSnapshotError: the document is damaged. What we have stays.
        """
        snapshot = unpack(version, sha256, packed)
        return self.take(snapshot, instead_of=instead_of)

    def take(self, snapshot: Snapshot, *, instead_of: int | None = None) -> bool:
        """As `offer`, for a snapshot that is made already."""
        with self._lock:
            current = self.current
            newer = current is None or snapshot.version > current.version or current.version == instead_of
            if newer:
                self.current = snapshot
            return newer


def unpack(version: int, sha256: str, packed: bytes) -> Snapshot:
    """The snapshot in a zlib-packed document. Raises BadSnapshotError unless version and hash are as told."""
    try:
        unpacker = zlib.decompressobj()
        document = unpacker.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise BadSnapshotError(f"the document is not zlib: {error}") from error
    if not unpacker.eof:
        raise BadSnapshotError(f"the document is cut off, or longer than {MOST_BYTES} bytes")
    if hashlib.sha256(document).hexdigest() != sha256:
        raise BadSnapshotError("the document's hash is not the one that was told")
    snapshot = Snapshot.parse(document)
    if snapshot.version != version:
        raise BadSnapshotError(f"the document says version {snapshot.version}, its envelope {version}")
    return snapshot


class AdmissionProvider(AbstractProvider):
    """Our OpenFeature provider: answers from the newest snapshot, and with the default where there is none."""

    def __init__(self, snapshots: Snapshots) -> None:
        super().__init__()
        self._snapshots = snapshots

    def get_metadata(self) -> Metadata:
        return Metadata(name="numerator")

    # The client passes these by keyword: the names are part of the interface.
    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: FBT001 -- the interface says so
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        return self._resolve("boolean", flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve("string", flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve("integer", flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolve("float", flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self._resolve("object", flag_key, default_value, evaluation_context)

    def _resolve(
        self, kind: str, flag: str, default: T, context: EvaluationContext | None
    ) -> FlagResolutionDetails[T]:
        snapshot = self._snapshots.current
        if snapshot is None:
            return FlagResolutionDetails(
                default,
                reason=Reason.ERROR,
                error_code=ErrorCode.PROVIDER_NOT_READY,
                error_message="no snapshot yet",
            )
        return snapshot.resolve(kind, flag, default, context)


class Admissions:
    """Answers whether an enterprise may use what a flag guards."""

    def __init__(self, snapshots: Snapshots, *, domain: str) -> None:
        """Registers our provider for the OpenFeature domain."""
        self.snapshots = snapshots
        # `set_provider` would return before the provider is ready, and answer with defaults meanwhile.
        api.set_provider_and_wait(AdmissionProvider(snapshots), domain=domain)
        self._client = api.get_client(domain=domain)

    def decide(self, flag: str, enterprise: str) -> Decision:
        """Whether `enterprise` is admitted. Raises 503 `ADMISSIONS_UNKNOWN` while there is no snapshot at all."""
        snapshot = self.snapshots.current
        if snapshot is None:
            _count("REFUSED", "ADMISSIONS_UNKNOWN")
            raise Problem(
                503,
                "ADMISSIONS_UNKNOWN",
                "the gateway does not know yet who is admitted; try again",
                retry_after=_RETRY,
            )
        known = snapshot.memo.get((flag, enterprise))
        if known is not None:
            return known
        admission = snapshot.admission(flag, enterprise)
        details = self._client.get_boolean_details(flag, False, context_of(enterprise, admission))
        decision = Decision(details.value is True, admission, str(details.reason))
        if len(snapshot.memo) < _MOST_MEMOS:
            snapshot.memo[flag, enterprise] = decision
        return decision

    def require(self, flag: str, enterprise: str | None) -> None:
        """Let an admitted enterprise pass. Raises 403 `NOT_ADMITTED` with the reason and the next step, or 503."""
        if enterprise is None:
            _count("REFUSED", "NO_ENTERPRISE")
            raise Problem(
                403,
                "NOT_ADMITTED",
                "this needs an enterprise that is admitted; log in",
                metadata={"feature": flag},
            )
        decision = self.decide(flag, enterprise)
        if not decision.admitted:
            problem = _not_admitted(flag, enterprise, decision.admission)
            _count("REFUSED", problem.metadata["reason"])
            raise problem
        _count("ADMITTED", "")


def context_of(enterprise: str, admission: Admission | None) -> EvaluationContext:
    """What a flag's rule can ask for. Every name is always there: a rule meets no null that it could misread."""
    state, stage = (admission.state, admission.stage) if admission else ("NONE", "")
    return EvaluationContext(
        enterprise, {"enterprise": enterprise, "admission": {"state": state, "stage": stage}}
    )


def _count(outcome: str, reason: str) -> None:
    metrics.admissions.add(1, {"outcome": outcome, "reason": reason})


def _not_admitted(flag: str, enterprise: str, admission: Admission | None) -> Problem:
    if admission is None:
        admission = Admission(
            "NONE",
            "",
            "NOT_ON_THE_LIST",
            0,
            f"Ask for verification with POST /v1/{enterprise}:requestVerification.",
        )
    elif admission.state == "ACTIVE":
        admission = Admission(
            admission.state, admission.stage, "EDITION_KILLED", 0,
            "Nothing to do: the edition is switched off for everybody for the moment.",
        )  # fmt: skip
    place = f", place {admission.position} on the waitlist" if admission.position else ""
    return Problem(
        403,
        "NOT_ADMITTED",
        f"{enterprise} is not admitted to {flag}: {admission.reason}{place}. {admission.next_step}".strip(),
        metadata={"feature": flag, "enterprise": enterprise, "reason": admission.reason},
        extensions={
            "admission": {
                "state": admission.state,
                "stage": admission.stage,
                "reason": admission.reason,
                "position": admission.position,
                "nextStep": admission.next_step,
            }
        },
    )


def _admission(record: Any) -> Admission:
    fields = ("state", "stage", "reason", "nextStep")
    position = record.get("position", 0)
    texts = [record.get(field, "") for field in fields]
    if not all(isinstance(text, str) for text in texts) or type(position) is not int or not texts[0]:
        raise BadSnapshotError("an admission has a field of the wrong type, or no state")
    state, stage, reason, next_step = texts
    return Admission(state, stage, reason, position, next_step)


def _check_rule(flag: str, rule: Any, depth: int) -> None:
    """Refuse rules that the engine would run but that could admit by accident, or run for ever."""
    if depth > _RULE_DEPTH:
        raise BadSnapshotError(f"the rule of {flag} nests too deeply")
    if isinstance(rule, list):
        for each in rule:
            _check_rule(flag, each, depth + 1)
    if not isinstance(rule, dict):
        return
    for operator, operands in rule.items():
        if operator not in _OPERATORS:
            raise BadSnapshotError(f"the rule of {flag} uses {operator!r}, which is not allowed")
        listed = operands if isinstance(operands, list) else [operands]
        if operator in _ORDERS and any(map(_may_be_null, listed)):
            # JsonLogic counts null as 0: `bucket < 2500` without a default admits everybody who has no bucket.
            raise BadSnapshotError(f"the rule of {flag} orders a variable that has no default")
        if operator != "var":
            _check_rule(flag, operands, depth + 1)


def _may_be_null(operand: Any) -> bool:
    if not isinstance(operand, dict) or "var" not in operand:
        return False
    name = operand["var"]
    return not (isinstance(name, list) and len(name) > 1 and name[1] is not None)
