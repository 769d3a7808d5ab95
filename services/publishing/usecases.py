"""What publishing does. Each function loads, decides by the model, saves and tells, in one transaction."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.events.v1 import publishing_pb2 as events

from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.ids import new_id
from services.chassis.telemetry import capture_context
from services.publishing import metrics, store
from services.publishing.model import deliveries, freezes, interactions, publications
from services.publishing.model.accounts import ACCOUNT, Account, AccountState
from services.publishing.model.callers import ITSELF, Caller
from services.publishing.model.deliveries import (
    Delivery,
    DeliveryState,
    NotRead,
    Policy,
    Restoration,
    SendOutcome,
    Step,
    Timeline,
)
from services.publishing.model.freezes import Freeze, InFlight, OnLift
from services.publishing.model.interactions import Interaction, InteractionState, Notification
from services.publishing.model.publications import PlanEntry, Publication, PublicationState, Variant

DELIVERIES = "deliveries"
"""The change log of deliveries. Senders wake by it, and watchers follow it."""
INTERACTIONS = "interactions"
"""The change log of interactions."""
FREEZES = "freezes"
"""The change log of freezes that were lifted. Senders wake by it."""

RESTORATIONS_HEEDED = timedelta(days=7)
"""How long after a restoration it is heeded by what is told, scheduled or answered anew."""

# ------------------------------------------------------------------------------------------ publications


def create_publication(
    tx: Transaction,
    enterprise: str,
    *,
    text: str,
    variants: Sequence[Variant],
    accounts: Sequence[str],
    exclude_accounts: Sequence[str],
    schedule_time: datetime | None,
    caller: Caller = ITSELF,
) -> Publication:
    """A new draft. Raises INVALID_ARGUMENT, NOT_FOUND for another tenant's enterprise, and as `Caller.check_all`."""
    if enterprise != tx.enterprise:
        raise not_found(enterprise)
    publication = Publication(
        name=f"{enterprise}/publications/{new_id()}",
        enterprise=enterprise,
        text=text,
        variants=tuple(variants),
        accounts=tuple(accounts),
        exclude_accounts=tuple(exclude_accounts),
        schedule_time=schedule_time,
        state=PublicationState.DRAFT,
        create_time=tx.now,
        update_time=tx.now,
        creator=caller.subject,
    )
    publications.check_draft(publication)
    if not caller.everywhere:
        _plan_within_reach(tx, publication, caller)
    store.insert_publication(tx, publication)
    return publication


def get_publication(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Publication:
    """A publication that the caller sees. Raises NOT_FOUND."""
    publication = store.publication(tx, enterprise, name, caller)
    if publication is None:
        raise not_found(name)
    return publication


def plan_publication(
    tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF
) -> tuple[PlanEntry, ...]:
    """
    What a publication would do if it were scheduled now, on the accounts that the caller sees.

    Raises NOT_FOUND, and as `Caller.check_all`.
    """
    entries = _plan_within_reach(tx, get_publication(tx, enterprise, name, caller), caller)
    if caller.everywhere:
        return entries
    groups = store.places(tx, enterprise, [entry.account for entry in entries])
    return tuple(entry for entry in entries if caller.sees(groups.get(entry.account, ())))


def schedule_publication(
    tx: Transaction, enterprise: str, name: str, schedule_time: datetime | None, caller: Caller = ITSELF
) -> Publication:
    """
    Schedule a draft. Its deliveries are made by our own worker, from the event.

    Raises NOT_FOUND, and as `Caller.check_all` and `publications.schedule`.
    """
    draft = store.lock_publication(tx, enterprise, name, caller)
    if draft is None:
        raise not_found(name)
    entries = _plan_within_reach(tx, draft, caller)
    scheduled = publications.schedule(draft, entries, schedule_time, tx.now)
    store.update_publication(tx, scheduled)
    tx.emit(
        events.PublicationScheduled(publication=name, schedule_time=_timestamp(scheduled.schedule_time)),
        subject=name,
    )
    return scheduled


def _plan_within_reach(tx: Transaction, publication: Publication, caller: Caller) -> tuple[PlanEntry, ...]:
    """The publication's plan as it would be now. Raises unless the caller reaches all accounts that it goes to."""
    entries = publications.plan(publication, store.accounts(tx, publication.enterprise))
    _check_reach(tx, publication, entries, caller)
    return entries


def _check_reach(
    tx: Transaction, publication: Publication, entries: Sequence[PlanEntry], caller: Caller
) -> None:
    if caller.everywhere:
        return
    going = [entry.account for entry in entries if entry.text]
    named = {*publication.accounts, *(each for variant in publication.variants for each in variant.accounts)}
    caller.check_all(publication.name, going, store.places(tx, publication.enterprise, going), told=named)


def materialise(tx: Transaction, enterprise: str, name: str) -> int:
    """Make a scheduled publication's deliveries, those that are not there yet; returns how many were made."""
    publication = store.lock_publication(tx, enterprise, name)
    if publication is None or publication.state is not PublicationState.SCHEDULED:
        return 0
    gone_out = [each for each in _restorations(tx) if publications.may_have_gone_out(publication, each)]
    made = 0
    for entry in publication.plan:
        delivery = publications.new_delivery(publication, entry, tx.now, traceparent=capture_context())
        made += _insert_delivery(tx, reduce(deliveries.in_doubt, gone_out, delivery))
    return made


def cancel_publication(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Publication:
    """
    Cancel a publication: what waits never starts, what is in doubt is not sent again.

    Raises NOT_FOUND, and as `Caller.check_all` and `publications.cancel`.
    """
    publication = store.lock_publication(tx, enterprise, name, caller)
    if publication is None:
        raise not_found(name)
    if publication.plan:
        _check_reach(tx, publication, publication.plan, caller)
    elif not caller.everywhere:
        _plan_within_reach(tx, publication, caller)
    cancelled = publications.cancel(publication, tx.now)
    if publication.state is not PublicationState.CANCELLED:
        store.update_publication(tx, cancelled)
        for delivery in store.lock_deliveries(tx, enterprise, name):
            _save(tx, delivery, deliveries.request_cancel(delivery, tx.now))
    return get_publication(tx, enterprise, name, caller)


# -------------------------------------------------------------------------------------------- deliveries


def get_delivery(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Delivery:
    """A delivery that the caller sees. Raises NOT_FOUND."""
    delivery = store.delivery(tx, enterprise, name, caller)
    if delivery is None:
        raise not_found(name)
    return delivery


@dataclass(frozen=True, slots=True)
class Assignment:
    """
    A delivery that a sender has leased.

    Attributes:
        delivery: as it is on record, under its new fence.
        account: where it goes.
        step: SEND to send it, LOOK_UP to read the account's timeline.

    """

    delivery: Delivery
    account: Account
    step: Step


def lease(tx: Transaction, policy: Policy, limit: int) -> list[Assignment]:
    """
    Take up to `limit` deliveries for a sender; needs the scope PLATFORM. When this has committed, all that is
    to be sent is on record as SENDING.

    First, deliveries whose sender died become UNCONFIRMED. Then those in doubt are taken, then those due; of these
    what a backup was too old to know becomes UNCONFIRMED too, and is taken next time. On frozen accounts what is in doubt
    is looked up, and nothing is sent.
    """
    for dead in store.lock_expired(tx, limit):
        _give_up(tx, dead, policy)
    doubtful = store.lock_unconfirmed(tx, limit)
    free = store.join_sending(tx, {delivery.enterprise for delivery in doubtful}) if doubtful else set()
    frozen = store.frozen(tx, doubtful) if doubtful else set()
    assignments = [
        assignment
        for delivery in doubtful
        if (
            assignment := _look_into(
                tx, delivery, policy, frozen=delivery.name in frozen or delivery.enterprise not in free
            )
        )
    ]
    room = limit - len(assignments)
    for account, delivery in store.lock_heads(tx, room) if room else []:
        if delivery.doubt:
            _save(tx, delivery, deliveries.find_out(delivery, tx.now))
        elif account.state is AccountState.ACTIVE:
            assignments.append(_begin(tx, delivery, account, Step.SEND, policy))
        else:
            reason = "ACCOUNT_NOT_BOUND" if account.state is AccountState.UNBOUND else "REAUTH_REQUIRED"
            _save(tx, delivery, deliveries.fail(delivery, reason, tx.now))
    return assignments


def _give_up(tx: Transaction, delivery: Delivery, policy: Policy) -> None:
    store.end_attempt(tx, delivery, "ABANDONED", "NO_REPLY")
    if delivery.state is DeliveryState.SENDING:
        _save(tx, delivery, deliveries.abandoned(delivery, tx.now, policy))
    else:
        _save(tx, delivery, replace(delivery, fence=delivery.fence + 1, lease_until=None, next_time=tx.now))


def _look_into(tx: Transaction, delivery: Delivery, policy: Policy, *, frozen: bool) -> Assignment | None:
    account = store.account(tx, delivery.enterprise, delivery.account)
    if account is None:
        raise not_found(delivery.account)
    step = deliveries.next_step(delivery, account.network_class, tx.now, policy, frozen=frozen)
    match step:
        case Step.SEND | Step.LOOK_UP:
            return _begin(tx, delivery, account, step, policy)
        case Step.WAIT:
            store.update_delivery(
                tx, replace(delivery, next_time=delivery.doubt.over if delivery.doubt else None)
            )
        case Step.PARK:
            store.update_delivery(tx, replace(delivery, next_time=None))
    return None


def _begin(tx: Transaction, delivery: Delivery, account: Account, step: Step, policy: Policy) -> Assignment:
    begin = deliveries.begin_lookup if step is Step.LOOK_UP else deliveries.begin_attempt
    begun = begin(delivery, tx.now, policy)
    store.begin_attempt(tx, begun, step)
    _save(tx, delivery, begun)
    return Assignment(begun, account, step)


def record_attempt(
    tx: Transaction, assignment: Assignment, outcome: SendOutcome, policy: Policy
) -> Delivery | None:
    """
    Record what came of sending; None if the lease was lost meanwhile, or the outcome is on record already.

    A network that no longer takes the token stops the whole account, and no other.
    """
    delivery = _still_leased(tx, assignment)
    if delivery is None:
        return None
    reason = "" if isinstance(outcome, deliveries.Posted) else outcome.reason
    store.end_attempt(tx, delivery, type(outcome).__name__.upper(), reason)
    after = deliveries.after_attempt(delivery, outcome, tx.now, policy)
    _save(tx, delivery, after)
    if reason == deliveries.REAUTH_REQUIRED:
        suspend_account(tx, assignment.account)
    return after


def record_lookup(
    tx: Transaction, assignment: Assignment, read: Timeline | NotRead, began: datetime, policy: Policy
) -> Delivery | None:
    """Record what reading the account's timeline told; None as for `record_attempt`."""
    delivery = _still_leased(tx, assignment)
    if delivery is None:
        return None
    posts = read.posts if isinstance(read, Timeline) else ()
    claimed = store.claimed_posts(
        tx, assignment.account, delivery.name, [post.network_post_id for post in posts]
    )
    after = deliveries.after_lookup(delivery, read, claimed, began, tx.now, policy)
    store.end_attempt(tx, delivery, type(read).__name__.upper(), after.reason)
    _save(tx, delivery, after)
    if isinstance(read, NotRead) and read.reason == deliveries.REAUTH_REQUIRED:
        suspend_account(tx, assignment.account)
    return after


def _still_leased(tx: Transaction, assignment: Assignment) -> Delivery | None:
    known = assignment.delivery
    delivery = store.lock_delivery(tx, known.enterprise, known.name)
    if delivery is None or delivery.fence != known.fence or delivery.lease_until is None:
        return None
    return delivery


def restored(tx: Transaction, restoration: Restoration, limit: int) -> int:
    """
    Heed that the database was restored from a backup; needs the scope PLATFORM, and that no sender runs.

    What may have been sent, unknown to the backup, will be looked for before it is sent; also deliveries that are made
    later, of what the backup holds. Call it again, in a new transaction, until it returns 0: it puts at most `limit`
    deliveries in doubt.
    """
    store.insert_restoration(tx, restoration)
    unsure = store.lock_unsure(tx, restoration, limit)
    for delivery in unsure:
        store.update_delivery(tx, deliveries.restored(delivery, restoration))
    return len(unsure)


def _restorations(tx: Transaction) -> list[Restoration]:
    return store.restorations(tx, tx.now - RESTORATIONS_HEEDED)


def _insert_delivery(tx: Transaction, delivery: Delivery) -> bool:
    inserted = store.insert_delivery(tx, delivery)
    if inserted:
        _note(tx, delivery)
    return inserted


def _save(tx: Transaction, before: Delivery, after: Delivery) -> None:
    """Keep a delivery's new state, with all that others have to hear of it, in the same transaction."""
    store.update_delivery(tx, after)
    if after.state is before.state:
        return
    match after.state:
        case DeliveryState.PUBLISHED:
            store.link_interactions(tx, after)
            _emit(
                tx,
                after,
                events.DeliveryPublished(
                    delivery=after.name,
                    account=after.account,
                    network_post_id=after.network_post_id,
                    url=after.url,
                    publish_time=_timestamp(after.publish_time),
                ),
            )
        case DeliveryState.FAILED:
            _emit(
                tx,
                after,
                events.DeliveryFailed(delivery=after.name, account=after.account, reason=after.reason),
            )
        case DeliveryState.UNCONFIRMED:
            _emit(tx, after, events.DeliveryUnconfirmed(delivery=after.name, account=after.account))
        case _:
            pass
    _note(tx, after)
    if after.state in deliveries.FINAL:
        metrics.ended(tx, after)
        _end_answer(tx, after)


def _emit(
    tx: Transaction,
    delivery: Delivery,
    event: events.DeliveryPublished | events.DeliveryFailed | events.DeliveryUnconfirmed,
) -> None:
    tx.emit(event, subject=delivery.name, enterprise=delivery.enterprise)


def _note(tx: Transaction, delivery: Delivery) -> None:
    tx.append_change(
        DELIVERIES, delivery.name, {"publication": delivery.publication}, enterprise=delivery.enterprise
    )


# ----------------------------------------------------------------------------------------------- freezes


def create_freeze(
    tx: Transaction,
    enterprise: str,
    target: str,
    *,
    reason: str,
    on_lift: OnLift,
    expire_time: datetime | None,
    caller: Caller,
) -> tuple[Freeze, list[InFlight]]:
    """
    Freeze accounts. When this has committed, no sender begins to send from them; what is under way is returned.

    Args:
        tx: the transaction.
        enterprise: whose accounts.
        target: an account, a group of accounts, or the enterprise.
        reason: why.
        on_lift: what becomes of what waits, when it is lifted.
        expire_time: when it is lifted by itself; None for never.
        caller: who sets it; their rights must reach all of the target.

    Raises:
        ServiceError: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED `OUT_OF_REACH`; UNAVAILABLE `DATABASE_BUSY` when
            a sender that hangs in the middle of its transaction stands in the way.

    """
    if enterprise != tx.enterprise:
        raise not_found(enterprise)
    freeze = Freeze(
        name=f"{enterprise}/freezes/{new_id()}",
        enterprise=enterprise,
        target=target,
        reason=reason,
        on_lift=on_lift,
        creator=caller.subject,
        by_platform=caller.by_platform,
        create_time=tx.now,
        expire_time=expire_time,
    )
    freezes.check(freeze)
    if ACCOUNT.matches(target) and store.account(tx, enterprise, target) is None:
        raise not_found(target)
    _check_target(tx, freeze, caller, asked=target)
    store.stop_sending(tx, enterprise)
    store.insert_freeze(tx, freeze)
    under_way = store.in_flight(tx, freeze, caller)
    tx.emit(
        events.FreezeSet(
            freeze=freeze.name,
            target=target,
            creator=freeze.creator,
            expire_time=_timestamp(expire_time),
            in_flight=len(under_way),
        ),
        subject=freeze.name,
    )
    return freeze, under_way


def get_freeze(tx: Transaction, enterprise: str, name: str, caller: Caller) -> tuple[Freeze, list[InFlight]]:
    """A freeze that the caller sees, with what of its accounts is under way now. Raises NOT_FOUND."""
    freeze = store.freeze(tx, enterprise, name, caller)
    if freeze is None:
        raise not_found(name)
    return freeze, store.in_flight(tx, freeze, caller)


def lift_freeze(tx: Transaction, enterprise: str, name: str, caller: Caller) -> Freeze:
    """
    Lift a freeze, or find it lifted.

    Raises:
        ServiceError: NOT_FOUND, PERMISSION_DENIED `OUT_OF_REACH` or `FREEZE_OF_PLATFORM`.

    """
    freeze = store.lock_freeze(tx, enterprise, name)
    if freeze is None:
        raise not_found(name)
    _check_target(tx, freeze, caller, asked=name)
    if freeze.lift_time is not None:
        return freeze
    return _lift(tx, freeze, freezes.lift(freeze, caller.subject, tx.now, by_platform=caller.by_platform))


def lift_expired(tx: Transaction) -> bool:
    """Lift one freeze whose time is over; needs the scope PLATFORM. False if there is none."""
    freeze = store.lock_expired_freeze(tx)
    if freeze is None:
        return False
    _lift(tx, freeze, freezes.lift(freeze, ITSELF.subject, tx.now, by_platform=True))
    return True


def _lift(tx: Transaction, freeze: Freeze, lifted: Freeze) -> Freeze:
    held = store.lock_held(tx, freeze) if freeze.on_lift is OnLift.CANCEL else []
    for delivery in held:
        _save(tx, delivery, freezes.cancel_held(delivery, tx.now))
    store.end_freeze(tx, lifted)
    tx.emit(
        events.FreezeLifted(
            freeze=lifted.name, target=lifted.target, lifter=lifted.lifter, cancelled=len(held)
        ),
        subject=lifted.name,
        enterprise=lifted.enterprise,
    )
    tx.append_change(FREEZES, lifted.name, {}, enterprise=lifted.enterprise)
    return lifted


def _check_target(tx: Transaction, freeze: Freeze, caller: Caller, *, asked: str) -> None:
    """Raise unless the caller's rights reach all of a freeze's target; `asked` is the name that they have given."""
    group = freeze.group_id
    if group is not None:
        # Nobody has told us of a group without accounts: it is reached by its own id only.
        for path in store.paths_to(tx, freeze.enterprise, group) or [(group,)]:
            caller.check(asked, freeze.target, path)
    else:
        caller.check(asked, freeze.target, store.groups_of(tx, freeze.enterprise, freeze.target))


# ---------------------------------------------------------------------------------------------- accounts


def place_accounts(
    tx: Transaction, enterprise: str, placed: Iterable[tuple[str, Collection[str]]], version: int
) -> None:
    """Keep where accounts are in the tree of groups, each with its groups from the root; the largest version is right."""
    store.save_places(tx, enterprise, placed, version)


def bind_account(tx: Transaction, account: Account, event_time: datetime) -> None:
    """Keep an account that was bound, or bound anew."""
    store.save_account(tx, account, event_time)


def refresh_token(
    tx: Transaction, enterprise: str, name: str, sealed_token: bytes, *, version: int, told: datetime
) -> None:
    """Use the next token of an account; nothing changes where its token is newer. Raises NOT_FOUND: nobody has told of it yet."""
    if store.account(tx, enterprise, name) is None:
        raise not_found(name)
    store.refresh_token(tx, enterprise, name, sealed_token, version=version, told=told)


def set_account_state(
    tx: Transaction, enterprise: str, name: str, state: AccountState, event_time: datetime
) -> None:
    """Keep what the accounts service tells of an account. Its waiting deliveries fail when they are due."""
    store.set_account_state(tx, enterprise, name, state, event_time)


def suspend_account(tx: Transaction, account: Account) -> None:
    """Stop using an account whose token the network refused, until it has another one, and tell; once for each token."""
    if store.suspend_account(tx, account):
        tx.emit(
            events.AccountTokenRefused(account=account.name),
            subject=account.name,
            enterprise=account.enterprise,
        )


# ------------------------------------------------------------------------------------------ interactions


def get_interaction(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Interaction:
    """An interaction of an account within the caller's reach. Raises NOT_FOUND."""
    interaction = store.interaction(tx, enterprise, name)
    if interaction is None or not caller.sees(store.groups_of(tx, enterprise, interaction.account)):
        raise not_found(name)
    return interaction


def lease_polls(
    tx: Transaction, networks: Collection[str], interval: timedelta, limit: int
) -> list[tuple[Account, str]]:
    """Accounts of these networks whose notifications a sender is to read now, with their cursors; needs the scope PLATFORM."""
    return store.lease_polls(tx, networks, interval, limit)


def record_notifications(
    tx: Transaction, account: Account, notifications: Sequence[Notification], cursor: str, new_cursor: str
) -> int:
    """Keep what a network told an account of, each thing once; returns how many interactions are new."""
    new = 0
    for notification in notifications:
        interaction = interactions.new_interaction(account, notification, tx.now)
        if interaction.our_post_id:
            delivery = store.delivery_of_post(tx, account.enterprise, account.name, interaction.our_post_id)
            interaction = replace(interaction, delivery=delivery)
        if store.insert_interaction(tx, interaction):
            new += 1
            _tell_received(tx, interaction)
    store.move_cursor(tx, account, cursor, new_cursor)
    return new


def answer_interaction(
    tx: Transaction, enterprise: str, name: str, text: str, caller: Caller = ITSELF
) -> Interaction:
    """
    Answer an interaction, by a publication to one account that is due at once.

    Raises NOT_FOUND, and as `Caller.check` and `interactions.answer`.
    """
    interaction = store.lock_interaction(tx, enterprise, name)
    if interaction is None:
        raise not_found(name)
    caller.check(name, interaction.account, store.groups_of(tx, enterprise, interaction.account))
    account = store.account(tx, enterprise, interaction.account)
    answering, publication = interactions.answer(
        interaction, f"{enterprise}/publications/{new_id()}", text, account, tx.now
    )
    delivery = publications.new_delivery(
        publication,
        publication.plan[0],
        tx.now,
        traceparent=capture_context(),
        in_reply_to=interaction.post_id,
    )
    for restoration in _restorations(tx):
        if interactions.may_have_been_answered(interaction, restoration):
            delivery = deliveries.in_doubt(delivery, restoration, resend=False)
    answering = replace(answering, answer=delivery.name)
    store.insert_publication(tx, replace(publication, creator=caller.subject))
    store.update_interaction(tx, answering)
    _insert_delivery(tx, delivery)
    _note_interaction(tx, answering)
    return answering


def _end_answer(tx: Transaction, delivery: Delivery) -> None:
    """If a delivery that has ended was an answer, the interaction is answered, or open again."""
    interaction = store.lock_answered_interaction(tx, delivery)
    if interaction is None:
        return
    after = interactions.after_answer(interaction, delivery, tx.now)
    store.update_interaction(tx, after)
    if after.state is InteractionState.ANSWERED:
        metrics.answered(tx, after, delivery.publish_time)
        tx.emit(
            events.InteractionAnswered(
                interaction=after.name,
                account=after.account,
                interaction_time=_timestamp(after.interaction_time),
                answer_time=_timestamp(delivery.publish_time),
            ),
            subject=after.name,
            enterprise=after.enterprise,
        )
    _note_interaction(tx, after)


def _tell_received(tx: Transaction, interaction: Interaction) -> None:
    tx.emit(
        events.InteractionReceived(
            interaction=interaction.name,
            kind=events.InteractionKind.Value(interaction.kind),
            account=interaction.account,
            delivery=interaction.delivery,
            author=interaction.author,
            author_followers=interaction.author_followers,
            interaction_time=_timestamp(interaction.interaction_time),
        ),
        subject=interaction.name,
        enterprise=interaction.enterprise,
    )
    _note_interaction(tx, interaction)


def _note_interaction(tx: Transaction, interaction: Interaction) -> None:
    tx.append_change(INTERACTIONS, interaction.name, {}, enterprise=interaction.enterprise)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
