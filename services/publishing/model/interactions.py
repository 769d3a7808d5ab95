"""What people do with our posts, and how they are answered."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.chassis.errors import Kind, ServiceError, invalid
from services.chassis.ids import deterministic_id
from services.chassis.names import NamePattern
from services.publishing.model.accounts import Account, handle_of
from services.publishing.model.deliveries import Delivery, DeliveryState, Restoration, Rule
from services.publishing.model.publications import (
    PlanEntry,
    Publication,
    PublicationState,
    problems,
    refuse_problems,
)

INTERACTION = NamePattern("enterprises/{enterprise}/interactions/{interaction}")


class InteractionKind(StrEnum):
    """What a person did."""

    REPOST = "REPOST"
    COMMENT = "COMMENT"
    MENTION = "MENTION"
    FAVOURITE = "FAVOURITE"


class InteractionState(StrEnum):
    """Where an interaction stands."""

    NEW = "NEW"
    ANSWERING = "ANSWERING"
    ANSWERED = "ANSWERED"


@dataclass(frozen=True, slots=True)
class Notification:
    """
    What a network tells an account of.

    Attributes:
        network_id: the notification's id on the network.
        kind: what the person did; a comment is a MENTION here, until it is known whom it answers.
        acct: the person as that server writes them, without `@`: what a mention needs.
        author: the person as `user@server`.
        post_id: the post that the person wrote, or our post that they passed on or liked.
        answered_post_id: our post that the person's post answers; empty if it answers none of this account's.
        text: what the person wrote, as plain text; empty for reposts and favourites.

    """

    network_id: str
    kind: InteractionKind
    acct: str
    author: str
    author_display_name: str
    author_followers: int
    post_id: str
    answered_post_id: str
    text: str = field(repr=False)
    url: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Interaction:
    """What a person did with a post of ours, or said to one of our accounts."""

    name: str
    enterprise: str
    account: str
    kind: InteractionKind
    state: InteractionState
    acct: str
    author: str
    author_display_name: str
    author_followers: int
    post_id: str
    our_post_id: str
    text: str = field(repr=False)
    url: str
    interaction_time: datetime
    create_time: datetime
    update_time: datetime
    delivery: str = ""
    answer: str = ""


def new_interaction(account: Account, notification: Notification, now: datetime) -> Interaction:
    """
    The interaction that a notification tells of. Told twice it is the same one: what happened makes its name.

    What a person wrote is one interaction however many notifications tell of it.
    """
    wrote = notification.kind in {InteractionKind.COMMENT, InteractionKind.MENTION}
    identity = (
        deterministic_id(account.name, "post", notification.post_id)
        if wrote
        else deterministic_id(account.name, "notification", notification.network_id)
    )
    kind = notification.kind
    if wrote:
        kind = InteractionKind.COMMENT if notification.answered_post_id else InteractionKind.MENTION
    return Interaction(
        name=f"{account.enterprise}/interactions/{identity}",
        enterprise=account.enterprise,
        account=account.name,
        kind=kind,
        state=InteractionState.NEW,
        acct=notification.acct,
        author=notification.author,
        author_display_name=notification.author_display_name,
        author_followers=notification.author_followers,
        post_id=notification.post_id,
        our_post_id=notification.answered_post_id if wrote else notification.post_id,
        text=notification.text,
        url=notification.url,
        interaction_time=notification.time,
        create_time=now,
        update_time=now,
    )


def answer(
    interaction: Interaction, publication_name: str, text: str, account: Account | None, now: datetime
) -> tuple[Interaction, Publication]:
    """
    The interaction while its answer is on its way, and the publication, to one account, that is the answer.

    Raises:
        ServiceError: FAILED_PRECONDITION `INTERACTION_NOT_ANSWERABLE`, `INTERACTION_ANSWERED` or
            `PLAN_HAS_PROBLEMS`; INVALID_ARGUMENT for an empty text.

    """
    if not text.strip():
        raise invalid("text", "must not be empty", reason="TEXT_EMPTY")
    if interaction.kind not in {InteractionKind.COMMENT, InteractionKind.MENTION}:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "INTERACTION_NOT_ANSWERABLE",
            f"{interaction.name} is a {interaction.kind}: only a COMMENT or MENTION can be answered",
            metadata={"name": interaction.name, "kind": interaction.kind},
        )
    if interaction.state is not InteractionState.NEW:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "INTERACTION_ANSWERED",
            f"{interaction.name} is {interaction.state}: it takes one answer",
            metadata={"name": interaction.name, "state": interaction.state},
        )
    mention = f"@{interaction.acct}"
    addressed = text if text.startswith(f"{mention} ") else f"{mention} {text}"
    handle = handle_of(account) if account else ""
    entry = PlanEntry(interaction.account, handle, Rule.SAME, addressed, tuple(problems(addressed, account)))
    refuse_problems(interaction.name, [entry])
    publication = Publication(
        name=publication_name,
        enterprise=interaction.enterprise,
        text=addressed,
        variants=(),
        accounts=(interaction.account,),
        exclude_accounts=(),
        schedule_time=now,
        state=PublicationState.SCHEDULED,
        create_time=now,
        update_time=now,
        plan=(entry,),
        interaction=interaction.name,
    )
    return replace(interaction, state=InteractionState.ANSWERING, update_time=now), publication


def after_answer(interaction: Interaction, delivery: Delivery, now: datetime) -> Interaction:
    """The interaction after its answer ended: answered, or open again if the answer never went out."""
    state = InteractionState.ANSWERED if delivery.state is DeliveryState.PUBLISHED else InteractionState.NEW
    return replace(interaction, state=state, update_time=now)


def may_have_been_answered(interaction: Interaction, restoration: Restoration) -> bool:
    """Whether somebody may have answered an interaction before the database was restored, unknown to it."""
    return interaction.interaction_time <= restoration.until
