"""What rollout speaks of: rollouts, the enterprises that they concern, and the records of who is in. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from services.chassis.names import NamePattern

if TYPE_CHECKING:
    from services.rollout.plan import Plan, Stage

ROLLOUT_NAME = NamePattern("rollouts/{rollout}")
INVITATION_NAME = NamePattern("rollouts/{rollout}/invitations/{invitation}")
EDITION_FLAG = "enterprise-beta"
"""The flag that opens the edition."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "DRAFT"
    ARMED = "ARMED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ROLLED_BACK = "ROLLED_BACK"
    COMPLETED = "COMPLETED"
    ARCHIVED = "ARCHIVED"


class Cause(StrEnum):
    """Who or what stopped a rollout."""

    NONE = ""
    USER = "USER"
    GUARDRAIL = "GUARDRAIL"
    SIGNAL = "SIGNAL"
    SRM = "SRM"
    NO_DATA = "NO_DATA"
    INCONCLUSIVE = "INCONCLUSIVE"
    MULTIPLE_EXPOSURE = "MULTIPLE_EXPOSURE"


class AdmissionState(StrEnum):
    """Where an enterprise stands in a rollout."""

    WAITLISTED = "WAITLISTED"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"


class Source(StrEnum):
    """By what an enterprise came in."""

    NONE = ""
    MANUAL = "MANUAL"
    ALLOW = "ALLOW"
    INVITATION = "INVITATION"
    WAITLIST = "WAITLIST"
    SEGMENT = "SEGMENT"
    BUCKET = "BUCKET"


class Listed(StrEnum):
    """The list that an enterprise is on."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class Reason(StrEnum):
    """Why an enterprise is not in."""

    NONE = ""
    NOT_ON_THE_LIST = "NOT_ON_THE_LIST"
    DENIED = "DENIED"
    NOT_VERIFIED = "NOT_VERIFIED"
    VERIFICATION_REVOKED = "VERIFICATION_REVOKED"
    NOT_ELIGIBLE = "NOT_ELIGIBLE"
    ELIGIBILITY_LOST = "ELIGIBILITY_LOST"
    REVOKED = "REVOKED"
    NARROWED = "NARROWED"
    NOT_IN_AUDIENCE = "NOT_IN_AUDIENCE"
    NOT_IN_SHARE = "NOT_IN_SHARE"
    HELD_OUT = "HELD_OUT"
    QUOTA_FULL = "QUOTA_FULL"
    ROLLOUT_NOT_RUNNING = "ROLLOUT_NOT_RUNNING"
    STAGE_ROLLED_BACK = "STAGE_ROLLED_BACK"
    EDITION_KILLED = "EDITION_KILLED"
    PREREQUISITE_OFF = "PREREQUISITE_OFF"


_WAIT = "Nothing to do: you are admitted by itself when the stage widens. GET /v1/edition tells."
NEXT_STEPS: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.NONE: "",
        Reason.NOT_ON_THE_LIST: "Ask for verification with POST /v1/{enterprise}:requestVerification.",
        Reason.DENIED: "Talk to your contact at the platform: the edition is closed to you for the moment.",
        Reason.NOT_VERIFIED: "Ask for verification with POST /v1/{enterprise}:requestVerification. A verified enterprise "
        "is admitted by itself as soon as the stage has a place.",
        Reason.VERIFICATION_REVOKED: "Ask for verification again with POST /v1/{enterprise}:requestVerification. "
        "Your place is kept.",
        Reason.NOT_ELIGIBLE: "The edition is not for enterprises like yours yet. GET /v1/edition tells when that changes.",
        Reason.ELIGIBILITY_LOST: "You do not meet what the edition asks for any more. Your place is kept until you do.",
        Reason.REVOKED: "Talk to your contact at the platform: your admission was taken back.",
        Reason.NARROWED: "Nothing to do: the stage was narrowed, and you come first when it widens again.",
        Reason.NOT_IN_AUDIENCE: "Join the waitlist with POST /v1/edition/waitlist:join, or accept an invitation: the stage is "
        "for others first.",
        Reason.NOT_IN_SHARE: _WAIT,
        Reason.HELD_OUT: _WAIT,
        Reason.QUOTA_FULL: "Nothing to do: you are admitted in your turn when the stage widens. GET /v1/edition tells your "
        "place.",
        Reason.ROLLOUT_NOT_RUNNING: "Nothing to do: nobody is admitted just now. GET /v1/edition tells when that changes.",
        Reason.STAGE_ROLLED_BACK: "Nothing to do: the stage was taken back, and your place is kept until it opens again.",
        Reason.EDITION_KILLED: "Nothing to do: the edition is switched off for everybody for the moment.",
        Reason.PREREQUISITE_OFF: "Nothing to do: something that this builds on is not open to you yet.",
    }
)


def next_step(reason: Reason, enterprise: str) -> str:
    """What the enterprise can do about `reason`, in words."""
    return NEXT_STEPS[reason].replace("{enterprise}", enterprise)


@dataclass(frozen=True, slots=True)
class Rollout:
    """
    A staged rollout.

    Attributes:
        salt: what buckets are computed with; never changes.
        plan: the plan in force; `plan_version` counts from 1, `author` wrote it.
        stage: the id of the stage that it is in; "" before the first and when it is rolled back to its start.
        stage_time: when it entered that stage.
        basis_points: the share that the stage takes now; less than the stage's own while it ramps.
        cause: what stopped it, when it is PAUSED or ROLLED_BACK; `reason` says it in words.
        anchors: how many widenings can be rolled back.
        revision: grows with every change.
    """

    name: str
    flag: str
    salt: str
    plan: "Plan"
    author: str
    create_time: datetime
    update_time: datetime
    plan_version: int = 1
    state: RolloutState = RolloutState.DRAFT
    stage: str = ""
    stage_time: datetime | None = None
    basis_points: int = 0
    killed: bool = False
    cause: Cause = Cause.NONE
    reason: str = ""
    anchors: int = 0
    revision: int = 1

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.partition("/")[2]

    @property
    def index(self) -> int | None:
        """The place of the stage among the plan's, from 0; None in no stage."""
        return next((i for i, stage in enumerate(self.plan.stages) if stage.id == self.stage), None)

    @property
    def current_stage(self) -> "Stage | None":
        """The stage that it is in."""
        return None if self.index is None else self.plan.stages[self.index]

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class Anchor:
    """
    What a rollback restores: what was served before a widening.

    Attributes:
        stage: the stage then; "" before the first.
        held: who had a seat, with the stage of the admission.
    """

    stage: str
    stage_time: datetime | None
    basis_points: int
    held: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What is known of one enterprise in view of one rollout.

    Attributes:
        arrival: the order in which the rollout heard of enterprises.
        attributes: what predicates may ask, `verified` and `enterprise` among them.
        listed: the list that it is on.
        invited: the order in which it accepted an invitation; None if it did not.
        joined: the order in which it joined the waitlist; None if it did not.
        bucket: its place in 0..9999 for shares; `control_bucket` the one for the control group.
    """

    enterprise: str
    arrival: int
    bucket: int
    control_bucket: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    listed: Listed | None = None
    invited: int | None = None
    joined: int | None = None

    @property
    def verified(self) -> bool:
        """Whether its verification stands."""
        return self.attributes.get("verified") is True


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is decided of one enterprise in one rollout.

    Attributes:
        reason: why it is not in.
        source: by what it came in first.
        stage: the stage of its admission.
        seat: the order of the first admission; None before it. Kept for ever: a free place goes first to whoever had one.
        held: whether it counts against the quota: it is in, or would be but for its eligibility.
        queue_key: the order among those who wait for a place, smaller first; "" when it does not wait.
        admit_time: of the first admission.
    """

    subject: Subject
    state: AdmissionState = AdmissionState.WAITLISTED
    reason: Reason = Reason.NOT_VERIFIED
    source: Source = Source.NONE
    stage: str = ""
    seat: int | None = None
    held: bool = False
    queue_key: str = ""
    admit_time: datetime | None = None

    @property
    def enterprise(self) -> str:
        """Whose record it is."""
        return self.subject.enterprise

    @property
    def is_active(self) -> bool:
        """Whether it is in."""
        return self.state is AdmissionState.ACTIVE
