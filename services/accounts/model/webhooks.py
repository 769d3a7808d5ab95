"""
Webhooks: who is told of what, how it is signed, when it is tried again, and when an endpoint is given up.

Requests are those of Standard Webhooks (github.com/standard-webhooks).
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf import json_format
from google.protobuf.message import Message
from numerator.events.v1 import accounts_pb2, placement_pb2, publishing_pb2, rollout_pb2, targeting_pb2
from pydantic import SecretStr

from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.events import event_type
from services.chassis.names import NamePattern

ENDPOINT_NAME = NamePattern("enterprises/{enterprise}/webhookEndpoints/{endpoint}")
DELIVERY_NAME = NamePattern("enterprises/{enterprise}/webhookDeliveries/{delivery}")

MAX_ENDPOINTS = 50
"""How many endpoints an enterprise may have."""

OVERLAP = timedelta(hours=24)
"""For how long the secret before a rotation also signs, where nothing else is said."""

KEPT = timedelta(days=30)
"""How long deliveries are kept, and can be replayed."""

RETRIES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    *(timedelta(hours=hours) for hours in (2, 5, 10, 14, 20, 24)),
)
"""The longest pause after the first, second, … failed attempt of a delivery. After one more failure it is given up."""

GIVEN_UP_AFTER = timedelta(days=5)
"""An endpoint that has taken nothing for so long is disabled."""

LONGEST_RETRY_AFTER = timedelta(hours=1)
"""The longest `Retry-After` that is heeded."""

PING = "test.ping"
"""The event type of what TestWebhookEndpoint sends."""

_SECRET_BYTES = 24
_PREFIX = "whsec_"
_FAILURES_BEFORE_REST = 3
_FIRST_REST, _LONGEST_REST = timedelta(seconds=5), timedelta(minutes=5)
_GONE = 410

PUBLIC_EVENTS: Mapping[type[Message], frozenset[str]] = {
    accounts_pb2.EnterpriseVerified: frozenset({"enterprise", "display_name", "industry", "region"}),
    accounts_pb2.EnterpriseVerificationRevoked: frozenset({"enterprise", "display_name", "industry", "region"}),
    accounts_pb2.AccountBound: frozenset(
        {"account", "network", "server", "software", "software_version", "network_account_id", "handle",
         "display_name", "labels", "groups"}
    ),
    accounts_pb2.EnterpriseChanged: frozenset({"enterprise", "display_name", "industry", "region", "verified"}),
    accounts_pb2.AccountsPlaced: frozenset({"enterprise", "placements"}),
    accounts_pb2.AccountTokenExpiring: frozenset({"account", "expire_time"}),
    accounts_pb2.AccountReauthRequired: frozenset({"account"}),
    accounts_pb2.AccountUnbound: frozenset({"account"}),
    accounts_pb2.WebhookEndpointDisabled: frozenset({"endpoint", "reason"}),
    rollout_pb2.AdmissionGranted: frozenset({"rollout", "enterprise", "stage"}),
    rollout_pb2.AdmissionSuspended: frozenset({"rollout", "enterprise", "reason"}),
    rollout_pb2.AdmissionRevoked: frozenset({"rollout", "enterprise", "reason"}),
    targeting_pb2.AudienceComputed: frozenset({"audience", "version", "size"}),
    placement_pb2.CampaignStarted: frozenset({"campaign"}),
    placement_pb2.CampaignEnded: frozenset({"campaign"}),
    placement_pb2.RegistrationCreated: frozenset({"registration", "placement", "user", "create_time"}),
    publishing_pb2.PublicationScheduled: frozenset({"publication", "schedule_time"}),
    publishing_pb2.DeliveryPublished: frozenset({"delivery", "account", "network_post_id", "url", "publish_time"}),
    publishing_pb2.DeliveryFailed: frozenset({"delivery", "account", "reason"}),
    publishing_pb2.DeliveryUnconfirmed: frozenset({"delivery", "account"}),
    publishing_pb2.FreezeSet: frozenset({"freeze", "target", "expire_time", "in_flight"}),
    publishing_pb2.FreezeLifted: frozenset({"freeze", "target", "cancelled"}),
    publishing_pb2.InteractionReceived: frozenset(
        {"interaction", "kind", "account", "delivery", "author", "author_followers", "interaction_time"}
    ),
    publishing_pb2.InteractionAnswered: frozenset({"interaction", "account", "interaction_time", "answer_time"}),
}  # fmt: skip
"""The events that partners are told of, and their fields that leave the platform. What is not listed stays here."""

EVENT_TYPES = frozenset(map(event_type, PUBLIC_EVENTS))
"""What an endpoint can ask for."""


class EndpointState(StrEnum):
    """Whether an endpoint is told of events."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class DisabledBy(StrEnum):
    """Why an endpoint is disabled."""

    USER = "USER"
    GONE = "GONE"
    FAILING = "FAILING"


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


class GivenUp(StrEnum):
    """Why a delivery FAILED."""

    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    ENDPOINT_DISABLED = "ENDPOINT_DISABLED"


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One request and what came of it.

    Attributes:
        status: 0 for no answer.
        error: why it failed, as `TIMEOUT` or `HTTP_STATUS`; empty when the endpoint took it.
        retry_after: how long the endpoint asks us to wait; None when it does not.
    """

    time: datetime
    duration: timedelta
    status: int
    error: str
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    Where an enterprise is told of events.

    Attributes:
        event_types: empty for all.
        disabled_by: why it is disabled; None while it is enabled.
        failures: how many attempts have failed since the last that did not.
        failing_since: when the first of these was.
        rest_until: no attempt is made before; None when it needs no rest.
        old_secret_expire_time: until when the secret before also signs.
        revision: grows with what people change.
    """

    name: str
    url: str
    event_types: frozenset[str]
    description: str
    create_time: datetime
    update_time: datetime
    state: EndpointState = EndpointState.ENABLED
    disabled_by: DisabledBy | None = None
    failures: int = 0
    failing_since: datetime | None = None
    rest_until: datetime | None = None
    old_secret_expire_time: datetime | None = None
    revision: int = 1

    def updated(
        self,
        now: datetime,
        *,
        url: str | None,
        event_types: frozenset[str] | None,
        description: str | None,
        state: EndpointState | None,
    ) -> "Endpoint":
        """With what somebody has changed; None for what stays. To enable it begins with a clean slate."""
        changed = replace(
            self,
            url=self.url if url is None else url,
            event_types=self.event_types if event_types is None else event_types,
            description=self.description if description is None else description,
            update_time=now,
            revision=self.revision + 1,
        )
        if state is EndpointState.ENABLED:
            return replace(
                changed, state=state, disabled_by=None, failures=0, failing_since=None, rest_until=None
            )
        if state is EndpointState.DISABLED and self.state is EndpointState.ENABLED:
            return replace(changed, state=state, disabled_by=DisabledBy.USER)
        return changed

    def after(self, attempt: Attempt, now: datetime, random: Callable[[], float]) -> "Endpoint":
        """What an attempt's outcome makes of it. `random` gives 0 to 1."""
        if not attempt.error:
            return replace(self, failures=0, failing_since=None, rest_until=None)
        failures, since = self.failures + 1, self.failing_since or attempt.time
        gone = attempt.status == _GONE
        if gone or now - since >= GIVEN_UP_AFTER:
            return replace(
                self,
                state=EndpointState.DISABLED,
                disabled_by=DisabledBy.GONE if gone else DisabledBy.FAILING,
                failures=failures,
                failing_since=since,
                rest_until=None,
                update_time=now,
            )
        rest = timedelta()
        if failures >= _FAILURES_BEFORE_REST:
            doublings = min(failures - _FAILURES_BEFORE_REST, 10)
            rest = _jittered(min(_FIRST_REST * 2**doublings, _LONGEST_REST), random)
        if attempt.retry_after is not None:
            rest = max(rest, min(attempt.retry_after, LONGEST_RETRY_AFTER))
        return replace(self, failures=failures, failing_since=since, rest_until=now + rest if rest else None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    One event for one endpoint.

    Attributes:
        webhook_id: the event's id.
        reason: why it FAILED; empty otherwise.
        tries: how many attempts were made since it was made or replayed.
        due_time: when the next attempt is due; None unless PENDING.
        payload: what is posted.
    """

    name: str
    endpoint: str
    webhook_id: str
    event_type: str
    event_time: datetime
    payload: str
    create_time: datetime
    due_time: datetime | None
    state: DeliveryState = DeliveryState.PENDING
    reason: str = ""
    tries: int = 0

    def after(self, attempt: Attempt, now: datetime, random: Callable[[], float]) -> "Delivery":
        """What an attempt's outcome makes of it. `random` gives 0 to 1."""
        tries = self.tries + 1
        if not attempt.error:
            return replace(self, state=DeliveryState.DELIVERED, tries=tries, due_time=None)
        if tries > len(RETRIES):
            return replace(
                self,
                state=DeliveryState.FAILED,
                reason=GivenUp.ATTEMPTS_EXHAUSTED,
                tries=tries,
                due_time=None,
            )
        return replace(self, tries=tries, due_time=now + _jittered(RETRIES[tries - 1], random))


def check_event_types(event_types: Iterable[str]) -> None:
    """Raises INVALID_ARGUMENT (`EVENT_TYPE_UNKNOWN`)."""
    if unknown := sorted(frozenset(event_types) - EVENT_TYPES):
        raise invalid(
            "event_types",
            f"{', '.join(unknown)}: not among {', '.join(sorted(EVENT_TYPES))}",
            reason="EVENT_TYPE_UNKNOWN",
        )


def endpoint_disabled(name: str) -> ServiceError:
    """Nothing is sent to an endpoint that is disabled."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "ENDPOINT_DISABLED",
        f"{name} is disabled: enable it first",
        metadata={"name": name},
    )


def too_many_endpoints() -> ServiceError:
    """The enterprise has as many endpoints as it may have."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "TOO_MANY_ENDPOINTS",
        f"an enterprise has at most {MAX_ENDPOINTS} endpoints: delete one first",
        metadata={"limit": str(MAX_ENDPOINTS)},
    )


def payload(message: Message, time: datetime) -> str:
    """What is posted of an event: its type, its time and its public fields."""
    public = PUBLIC_EVENTS[type(message)]
    shown = type(message)()
    shown.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        if field.name not in public:
            shown.ClearField(field.name)
    return _document(event_type(type(message)), time, json_format.MessageToDict(shown))


def ping(endpoint: str, time: datetime) -> str:
    """What is posted to try an endpoint."""
    return _document(PING, time, {"endpoint": endpoint})


def _document(kind: str, time: datetime, data: Mapping[str, object]) -> str:
    told = {"type": kind, "timestamp": time.astimezone(UTC).isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def new_signing_secret() -> SecretStr:
    """A fresh secret, `whsec_` and 192 random bits in base64."""
    return SecretStr(_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def signature_headers(
    signing: Iterable[SecretStr], webhook_id: str, time: datetime, body: bytes
) -> dict[str, str]:
    """The headers that prove who sends `body`, and when: with a signature by each of the secrets."""
    timestamp = str(int(time.timestamp()))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(secret, signed) for secret in signing),
    }


def _signature(secret: SecretStr, signed: bytes) -> str:
    key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _jittered(pause: timedelta, random: Callable[[], float]) -> timedelta:
    """Half of it at least, so that retries last for days, and all of it at most."""
    return pause * (0.5 + random() / 2)
