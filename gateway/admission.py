"""
Who is in the edition: a lookup in memory, never a decision of ours.

The rollout service decides admissions; `gateway.serving` has them. The flag's rule is asked through OpenFeature with what is
known of the enterprise as context, once for each enterprise and serving. Whatever is missing, unknown or odd is "not admitted".
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

from openfeature import api
from openfeature.contrib.hook.opentelemetry import TracingHook
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider
from openfeature.provider.metadata import Metadata

from gateway import metrics
from gateway.errors import Problem
from gateway.flags import failed
from gateway.serving import ACTIVE, Admission, Decision, Knowledge, RolloutStage, Serving

T = TypeVar("T")

_MOST_MEMOS = 100_000
_RETRY = timedelta(seconds=2)
_STALE = "ADMISSIONS_STALE"


class AdmissionProvider(AbstractProvider):
    """Our OpenFeature provider: answers from what is served now, and with the default where nothing is."""

    def __init__(self, knowledge: Knowledge) -> None:
        super().__init__()
        self._knowledge = knowledge

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
        serving = self._knowledge.serving
        if serving is None:
            return failed(default, ErrorCode.PROVIDER_NOT_READY, "no flags or admissions yet")
        return serving.resolve(kind, flag, default, context)


class Admissions:
    """Answers whether an enterprise may use what a flag guards."""

    def __init__(self, knowledge: Knowledge, *, domain: str) -> None:
        """Registers our provider for the OpenFeature domain."""
        self._knowledge = knowledge
        # `set_provider` would return before the provider is ready, and answer with defaults meanwhile.
        api.set_provider_and_wait(AdmissionProvider(knowledge), domain=domain)
        self.client = api.get_client(domain=domain)
        """For evaluations with telemetry: each leaves a `feature_flag.evaluation` on the current span."""
        self.client.add_hooks([TracingHook(exclude_exceptions=True)])

    def decide(self, flag: str, enterprise: str) -> Decision:
        """Whether `enterprise` is admitted. Raises 503 `ADMISSIONS_UNKNOWN` while nothing is known at all."""
        return self._decide(self.serving(), flag, enterprise)

    def require(self, flag: str, enterprise: str | None) -> Decision:
        """
        Let an admitted enterprise pass.

        Raises 403 `NOT_ADMITTED` with the reason and the next step; 503 `ADMISSIONS_UNKNOWN` when what is known does not
        suffice.
        """
        if enterprise is None:
            _count("REFUSED", "NO_ENTERPRISE")
            raise Problem(
                403,
                "NOT_ADMITTED",
                "this needs an enterprise that is admitted; log in",
                metadata={"feature": flag},
            )
        serving = self.serving()
        decision = self._decide(serving, flag, enterprise)
        if decision.admitted:
            _count("ADMITTED", "")
            return decision
        _count("REFUSED", decision.reason)
        if decision.reason == _STALE:
            raise _unknown()
        raise _not_admitted(serving, flag, enterprise, decision)

    def serving(self) -> Serving:
        """What decisions are made from now. Raises 503 `ADMISSIONS_UNKNOWN` while nothing is known at all."""
        serving = self._knowledge.serving
        if serving is None:
            _count("REFUSED", "ADMISSIONS_UNKNOWN")
            raise _unknown()
        return serving

    def _decide(self, serving: Serving, flag: str, enterprise: str) -> Decision:
        known = serving.memo.get((flag, enterprise))
        if known is not None:
            return known
        record = serving.admissions.record(flag, enterprise)
        rollout = serving.snapshot.rollouts.get(flag)
        details = self.client.get_boolean_details(flag, False, serving.context_of(enterprise))
        admitted = details.value is True and not (rollout and rollout.killed)
        reason = "" if admitted else _reason(record, rollout, details.reason)
        decision = Decision(admitted, reason, record, rollout)
        definition = serving.snapshot.flags.get(flag)
        if len(serving.memo) < _MOST_MEMOS and (definition is None or definition.lasting):
            serving.memo[flag, enterprise] = decision
        return decision


def _reason(record: Admission | None, rollout: RolloutStage | None, why: str | None) -> str:
    """Why an enterprise is not in: what it can do something about comes before what it cannot."""
    if why == Reason.STALE:
        return _STALE
    if record is None:
        return "NOT_ON_THE_LIST"
    if record.state != ACTIVE:
        return record.reason
    killed = why == Reason.DISABLED or (rollout and rollout.killed)
    return "EDITION_KILLED" if killed else "PREREQUISITE_OFF"


def _count(outcome: str, reason: str) -> None:
    metrics.admissions.add(1, {"outcome": outcome, "reason": reason})


def _unknown() -> Problem:
    return Problem(
        503,
        "ADMISSIONS_UNKNOWN",
        "the gateway does not know for sure who is admitted; try again",
        retry_after=_RETRY,
    )


def _not_admitted(serving: Serving, flag: str, enterprise: str, decision: Decision) -> Problem:
    standing = serving.standing(flag, enterprise, decision)
    place = f", place {standing.position} on the waitlist" if standing.position else ""
    return Problem(
        403,
        "NOT_ADMITTED",
        f"{enterprise} is not admitted to {flag}: {standing.reason}{place}. {standing.next_step}".strip(),
        metadata={"feature": flag, "enterprise": enterprise, "reason": standing.reason},
        extensions={
            "admission": {
                "state": standing.state,
                "stage": standing.stage,
                "reason": standing.reason,
                "position": standing.position,
                "nextStep": standing.next_step,
            }
        },
    )
