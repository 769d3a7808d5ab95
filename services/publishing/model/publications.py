"""Publications: what is to be said where, the plan that decides it account by account, and its freezing."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.chassis.errors import FieldViolation, Kind, ServiceError, invalid, invalid_fields
from services.chassis.ids import deterministic_id
from services.chassis.names import NamePattern
from services.publishing.model.accounts import ACCOUNT, NETWORKS, Account, AccountState, handle_of
from services.publishing.model.deliveries import (
    FINAL,
    Delivery,
    DeliveryState,
    Restoration,
    Rule,
    idempotency_key,
)

ENTERPRISE = NamePattern("enterprises/{enterprise}")
PUBLICATION = NamePattern("enterprises/{enterprise}/publications/{publication}")


class PublicationState(StrEnum):
    """Where a publication stands. From SCHEDULED on it follows from its deliveries."""

    DRAFT = "DRAFT"
    SCHEDULED = "SCHEDULED"
    PUBLISHING = "PUBLISHING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Variant:
    """Another text for some accounts."""

    accounts: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a text from an account: a code, and words with the way out."""

    reason: str
    description: str


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """What would happen on one account."""

    account: str
    handle: str
    rule: Rule
    text: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """
    The intention to say something on several accounts.

    Attributes:
        state: as stored: DRAFT, SCHEDULED or CANCELLED. `publication_state` derives the rest.
        plan: account, text and rule of each post, frozen when it was scheduled.
        interaction: the interaction that it answers; empty for a publication of its own.
        creator: who made it; empty for those from before this was kept.
        counts: how many deliveries are in which state.

    """

    name: str
    enterprise: str
    text: str
    variants: tuple[Variant, ...]
    accounts: tuple[str, ...]
    exclude_accounts: tuple[str, ...]
    schedule_time: datetime | None
    state: PublicationState
    create_time: datetime
    update_time: datetime
    plan: tuple[PlanEntry, ...] = ()
    interaction: str = ""
    creator: str = ""
    counts: dict[DeliveryState, int] = field(default_factory=dict)


def check_draft(publication: Publication) -> None:
    """
    Refuse a draft that cannot mean anything, with all wrong fields at once.

    Raises:
        ServiceError: INVALID_ARGUMENT.

    """
    wrong: list[FieldViolation] = []
    if not publication.text.strip():
        wrong.append(FieldViolation("publication.text", "must not be empty", "TEXT_EMPTY"))
    seen: set[str] = set()
    for number, variant in enumerate(publication.variants):
        path = f"publication.variants[{number}]"
        if not variant.text.strip():
            wrong.append(FieldViolation(f"{path}.text", "must not be empty", "TEXT_EMPTY"))
        if not variant.accounts:
            wrong.append(FieldViolation(f"{path}.accounts", "must name an account", "ACCOUNTS_EMPTY"))
        for account in variant.accounts:
            if account in seen:
                wrong.append(
                    FieldViolation(f"{path}.accounts", f"{account} is in two variants", "ACCOUNT_REPEATED")
                )
            seen.add(account)
        wrong += _foreign_accounts(publication, variant.accounts, f"{path}.accounts")
    wrong += _foreign_accounts(publication, publication.accounts, "publication.accounts")
    wrong += _foreign_accounts(publication, publication.exclude_accounts, "publication.exclude_accounts")
    if wrong:
        raise invalid_fields(wrong)


def _foreign_accounts(publication: Publication, accounts: Iterable[str], path: str) -> list[FieldViolation]:
    prefix = f"{publication.enterprise}/accounts/"
    return [
        FieldViolation(path, f"must be accounts of the same enterprise, as {prefix}…", "ACCOUNT_FOREIGN")
        for account in accounts
        if not (account.startswith(prefix) and ACCOUNT.matches(account))
    ]


def plan(publication: Publication, accounts: Collection[Account]) -> tuple[PlanEntry, ...]:
    """
    What appears on each account of the enterprise and on each that is named, in the order of names.

    Exclusion outranks inclusion; inclusion outranks variants, so a variant alone includes nobody.
    """
    bound = {account.name: account for account in accounts if account.state is not AccountState.UNBOUND}
    texts = {account: variant.text for variant in publication.variants for account in variant.accounts}
    named = {*publication.accounts, *publication.exclude_accounts, *texts}
    return tuple(
        _plan_account(publication, texts, name, bound.get(name)) for name in sorted(named | bound.keys())
    )


def _plan_account(
    publication: Publication, texts: dict[str, str], name: str, account: Account | None
) -> PlanEntry:
    handle = handle_of(account) if account else ""
    if name in publication.exclude_accounts:
        return PlanEntry(name, handle, Rule.EXCLUDED, "")
    if publication.accounts and name not in publication.accounts:
        return PlanEntry(name, handle, Rule.NOT_INCLUDED, "")
    rule = Rule.VARIANT if name in texts else Rule.SAME
    text = texts.get(name, publication.text)
    return PlanEntry(name, handle, rule, text, tuple(problems(text, account)))


def problems(text: str, account: Account | None) -> list[Problem]:
    """What keeps this text from this account."""
    if account is None or account.state is AccountState.UNBOUND:
        return [Problem("ACCOUNT_NOT_BOUND", "the account is not bound: bind it, or exclude it")]
    found = []
    if account.network not in NETWORKS:
        found.append(
            Problem(
                "NETWORK_UNSUPPORTED",
                f"nothing can be published on {account.network} yet: exclude the account",
            )
        )
    if account.state is AccountState.REAUTH_REQUIRED:
        found.append(
            Problem("REAUTH_REQUIRED", "the network no longer accepts our token: bind the account again")
        )
    if len(text) > account.max_characters:
        found.append(
            Problem(
                "TEXT_TOO_LONG",
                f"{len(text)} characters, and the server takes {account.max_characters}: shorten it",
            )
        )
    return found


def schedule(
    publication: Publication, entries: Sequence[PlanEntry], schedule_time: datetime | None, now: datetime
) -> Publication:
    """
    The publication with its plan frozen, going out at `schedule_time`, its own time, or at once.

    Raises:
        ServiceError: FAILED_PRECONDITION `PUBLICATION_NOT_DRAFT`, `PLAN_EMPTY` or `PLAN_HAS_PROBLEMS`;
            INVALID_ARGUMENT for a past time.

    """
    if publication.state is not PublicationState.DRAFT:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "PUBLICATION_NOT_DRAFT",
            f"{publication.name} is {publication_state(publication)}: only a DRAFT can be scheduled",
            metadata={"name": publication.name, "state": publication_state(publication)},
        )
    at = schedule_time or publication.schedule_time
    if at is not None and at < now:
        raise invalid("schedule_time", "must not be past; leave it out to publish at once", reason="PAST")
    included = tuple(entry for entry in entries if entry.text)
    if not included:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "PLAN_EMPTY",
            f"{publication.name} reaches no account: bind one, or mend accounts and exclude_accounts",
            metadata={"name": publication.name},
        )
    refuse_problems(publication.name, included)
    return replace(
        publication,
        state=PublicationState.SCHEDULED,
        schedule_time=at or now,
        plan=included,
        update_time=now,
    )


def refuse_problems(name: str, entries: Iterable[PlanEntry]) -> None:
    """
    Raise the first problems of a plan.

    Raises:
        ServiceError: FAILED_PRECONDITION `PLAN_HAS_PROBLEMS`.

    """
    bad = [entry for entry in entries if entry.problems]
    if bad:
        first = bad[0]
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "PLAN_HAS_PROBLEMS",
            f"{len(bad)} account(s) cannot take it, first {first.account}: {first.problems[0].description}",
            metadata={
                "name": name,
                "accounts": str(len(bad)),
                "account": first.account,
                "problem": first.problems[0].reason,
            },
        )


def cancel(publication: Publication, now: datetime) -> Publication:
    """
    The publication, cancelled.

    Raises:
        ServiceError: FAILED_PRECONDITION `PUBLICATION_DONE`.

    """
    if publication_state(publication) is PublicationState.DONE:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "PUBLICATION_DONE",
            f"{publication.name} is DONE: all of its deliveries have ended",
            metadata={"name": publication.name},
        )
    return replace(publication, state=PublicationState.CANCELLED, update_time=now)


def publication_state(publication: Publication) -> PublicationState:
    """The state that people see: what is stored, moved on by the deliveries."""
    if publication.state is not PublicationState.SCHEDULED or not publication.counts:
        return publication.state
    states = {state for state, count in publication.counts.items() if count}
    if states <= FINAL:
        return PublicationState.DONE
    return PublicationState.SCHEDULED if states == {DeliveryState.QUEUED} else PublicationState.PUBLISHING


def new_delivery(
    publication: Publication, entry: PlanEntry, now: datetime, *, traceparent: str, in_reply_to: str = ""
) -> Delivery:
    """The delivery of one entry of a frozen plan. Made twice it is the same one: the two make its name."""
    if publication.schedule_time is None:
        raise ValueError(f"{publication.name} is not scheduled")
    identity = deterministic_id(publication.name, entry.account)
    name = f"{publication.name}/deliveries/{identity}"
    return Delivery(
        name=name,
        enterprise=publication.enterprise,
        publication=publication.name,
        account=entry.account,
        text=entry.text,
        rule=entry.rule,
        key=idempotency_key(name, revision=1),
        due_time=publication.schedule_time,
        create_time=now,
        update_time=now,
        in_reply_to=in_reply_to,
        traceparent=traceparent,
    )


def may_have_gone_out(publication: Publication, restoration: Restoration) -> bool:
    """
    Whether a publication whose deliveries are made now may have had them before the database was restored.

    It is in the backup; and it was due by then, or was only a draft, which somebody may have scheduled meanwhile.
    """
    due = publication.schedule_time is not None and publication.schedule_time <= restoration.until
    return publication.create_time <= restoration.until and (
        due or publication.update_time > restoration.since
    )
