"""Every SQL statement of publishing; model objects in and out. All of it runs in the caller's transaction."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.publishing.model.accounts import Account, AccountState
from services.publishing.model.deliveries import Delivery, DeliveryState, Doubt, Restoration, Rule
from services.publishing.model.interactions import Interaction, InteractionKind, InteractionState
from services.publishing.model.publications import PlanEntry, Publication, PublicationState, Variant

Row = dict[str, Any]

# ---------------------------------------------------------------------------------------------- accounts


def save_account(tx: Transaction, account: Account, event_time: datetime) -> None:
    """Keep an account as an event tells it, unless a later event was applied."""
    tx.execute(
        """
        insert into accounts (enterprise, name, network, server, software, network_account_id, handle,
          state, max_characters, sealed_token, bind_time, event_time, poll_time)
        values (%(enterprise)s, %(name)s, %(network)s, %(server)s, %(software)s, %(network_account_id)s,
          %(handle)s, %(state)s, %(max_characters)s, %(sealed_token)s, %(bind_time)s, %(event_time)s,
          %(event_time)s)
        on conflict (enterprise, name) do update set
          network = excluded.network, server = excluded.server, software = excluded.software,
          network_account_id = excluded.network_account_id, handle = excluded.handle, state = excluded.state,
          sealed_token = excluded.sealed_token, event_time = excluded.event_time
        where accounts.event_time <= excluded.event_time
        """,
        {
            "enterprise": account.enterprise,
            "name": account.name,
            "network": account.network,
            "server": account.server,
            "software": account.software,
            "network_account_id": account.network_account_id,
            "handle": account.handle,
            "state": account.state,
            "max_characters": account.max_characters,
            "sealed_token": account.sealed_token,
            "bind_time": account.bind_time,
            "event_time": event_time,
        },
    )


def set_account_state(
    tx: Transaction, enterprise: str, name: str, state: AccountState, event_time: datetime
) -> None:
    """Move an account to another state, unless a later event was applied. An unbound one keeps no token."""
    tx.execute(
        """
        update accounts set state = %(state)s, event_time = %(event_time)s,
          sealed_token = case when %(state)s = 'UNBOUND' then ''::bytea else sealed_token end
        where enterprise = %(enterprise)s and name = %(name)s and event_time <= %(event_time)s
        """,
        {"state": state, "event_time": event_time, "enterprise": enterprise, "name": name},
    )


def suspend_account(tx: Transaction, account: Account) -> None:
    """Stop using an account, unless it has got another token meanwhile."""
    tx.execute(
        """
        update accounts set state = 'REAUTH_REQUIRED'
        where enterprise = %s and name = %s and state = 'ACTIVE' and sealed_token = %s
        """,
        (account.enterprise, account.name, account.sealed_token),
    )


def accounts(tx: Transaction, enterprise: str) -> list[Account]:
    """All accounts of an enterprise that were ever bound, in the order of their names."""
    rows = tx.execute("select * from accounts where enterprise = %s order by name", (enterprise,))
    return [_account(row) for row in rows]


def account(tx: Transaction, enterprise: str, name: str) -> Account | None:
    """One account."""
    row = tx.execute(
        "select * from accounts where enterprise = %s and name = %s", (enterprise, name)
    ).fetchone()
    return _account(row) if row else None


def lease_polls(tx: Transaction, interval: timedelta, limit: int) -> list[tuple[Account, str]]:
    """Accounts whose notifications are to be read now, with their cursors; for `interval` they are yours."""
    rows = tx.execute(
        """
        with due as (
          select enterprise, name from accounts where state = 'ACTIVE' and poll_time <= %(now)s
          order by poll_time limit %(limit)s for update skip locked
        )
        update accounts set poll_time = %(next)s from due
        where (accounts.enterprise, accounts.name) = (due.enterprise, due.name)
        returning accounts.*
        """,
        {"now": tx.now, "next": tx.now + interval, "limit": limit},
    )
    return [(_account(row), row["notifications_cursor"]) for row in rows]


def move_cursor(tx: Transaction, account: Account, before: str, after: str) -> bool:
    """Note how far an account's notifications are read; False if somebody else has read on meanwhile."""
    moved = tx.execute(
        """
        update accounts set notifications_cursor = %s
        where enterprise = %s and name = %s and notifications_cursor = %s
        """,
        (after, account.enterprise, account.name, before),
    )
    return moved.rowcount == 1


def _account(row: Row) -> Account:
    return Account(
        name=row["name"],
        enterprise=row["enterprise"],
        network=row["network"],
        server=row["server"],
        software=row["software"],
        network_account_id=row["network_account_id"],
        handle=row["handle"],
        state=AccountState(row["state"]),
        max_characters=row["max_characters"],
        bind_time=row["bind_time"],
        sealed_token=row["sealed_token"],
    )


# ------------------------------------------------------------------------------------------ publications


def insert_publication(tx: Transaction, publication: Publication) -> None:
    """Keep a new publication."""
    tx.execute(
        """
        insert into publications (enterprise, name, text, variants, accounts, exclude_accounts, schedule_time,
          state, plan, interaction, create_time, update_time)
        values (%(enterprise)s, %(name)s, %(text)s, %(variants)s, %(accounts)s, %(exclude_accounts)s,
          %(schedule_time)s, %(state)s, %(plan)s, %(interaction)s, %(create_time)s, %(update_time)s)
        """,
        {
            "enterprise": publication.enterprise,
            "name": publication.name,
            "text": publication.text,
            "variants": Jsonb(
                [{"accounts": each.accounts, "text": each.text} for each in publication.variants]
            ),
            "accounts": list(publication.accounts),
            "exclude_accounts": list(publication.exclude_accounts),
            "interaction": publication.interaction,
            "create_time": publication.create_time,
            **_progress(publication),
        },
    )


def update_publication(tx: Transaction, publication: Publication) -> None:
    """Keep a publication's new state, time and frozen plan."""
    tx.execute(
        """
        update publications set schedule_time = %(schedule_time)s, state = %(state)s, plan = %(plan)s,
          update_time = %(update_time)s
        where enterprise = %(enterprise)s and name = %(name)s
        """,
        {"enterprise": publication.enterprise, "name": publication.name, **_progress(publication)},
    )


def _progress(publication: Publication) -> Row:
    plan = [
        {"account": entry.account, "handle": entry.handle, "rule": entry.rule, "text": entry.text}
        for entry in publication.plan
    ]
    return {
        "schedule_time": publication.schedule_time,
        "state": publication.state,
        "plan": Jsonb(plan),
        "update_time": publication.update_time,
    }


def lock_publication(tx: Transaction, enterprise: str, name: str) -> Publication | None:
    """A publication that nobody else can change or materialise until the transaction ends."""
    tx.execute(
        "select 1 from publications where enterprise = %s and name = %s for update", (enterprise, name)
    )
    return publication(tx, enterprise, name)


_PUBLICATIONS: LiteralString = """
select p.*, (
  select jsonb_object_agg(counted.state, counted.count) from (
    select d.state, count(*) from deliveries d
    where d.enterprise = p.enterprise and d.publication = p.name group by d.state
  ) counted
) as counts
from publications p
"""


def publication(tx: Transaction, enterprise: str, name: str) -> Publication | None:
    """One publication with its deliveries counted."""
    row = tx.execute(_PUBLICATIONS + "where p.enterprise = %s and p.name = %s", (enterprise, name)).fetchone()
    return _publication(row) if row else None


def publications(
    tx: Transaction, enterprise: str, after: tuple[datetime, str] | None, limit: int
) -> list[Publication]:
    """Publications of an enterprise's own, newest first, older than `after` (create time and name)."""
    rows = tx.execute(
        _PUBLICATIONS
        + """
        where p.enterprise = %(enterprise)s and p.interaction = ''
          and (%(time)s::timestamptz is null or (p.create_time, p.name) < (%(time)s, %(name)s))
        order by p.create_time desc, p.name desc limit %(limit)s
        """,
        {"enterprise": enterprise, **_after(after), "limit": limit},
    )
    return [_publication(row) for row in rows]


def _after(after: tuple[datetime, str] | None) -> Row:
    time, name = after or (None, None)
    return {"time": time, "name": name}


def _publication(row: Row) -> Publication:
    return Publication(
        name=row["name"],
        enterprise=row["enterprise"],
        text=row["text"],
        variants=tuple(Variant(tuple(each["accounts"]), each["text"]) for each in row["variants"]),
        accounts=tuple(row["accounts"]),
        exclude_accounts=tuple(row["exclude_accounts"]),
        schedule_time=row["schedule_time"],
        state=PublicationState(row["state"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
        plan=tuple(
            PlanEntry(each["account"], each["handle"], Rule(each["rule"]), each["text"])
            for each in row["plan"]
        ),
        interaction=row["interaction"],
        counts={DeliveryState(state): count for state, count in (row["counts"] or {}).items()},
    )


# -------------------------------------------------------------------------------------------- deliveries


def insert_delivery(tx: Transaction, delivery: Delivery) -> bool:
    """Keep a new delivery; False if it is there already."""
    inserted = tx.execute(
        """
        insert into deliveries (enterprise, name, publication, account, text, rule, key, in_reply_to, state,
          reason, attempts, tries, doubt_since, doubt_over, doubt_resend, cancel_requested, fence, due_time,
          network_post_id, url, traceparent, create_time, update_time)
        values (%(enterprise)s, %(name)s, %(publication)s, %(account)s, %(text)s, %(rule)s, %(key)s,
          %(in_reply_to)s, %(state)s, %(reason)s, %(attempts)s, %(tries)s, %(doubt_since)s, %(doubt_over)s,
          %(doubt_resend)s, %(cancel_requested)s, %(fence)s, %(due_time)s, %(network_post_id)s, %(url)s,
          %(traceparent)s, %(create_time)s, %(update_time)s)
        on conflict (enterprise, name) do nothing
        """,
        {
            "publication": delivery.publication,
            "account": delivery.account,
            "text": delivery.text,
            "rule": delivery.rule,
            "key": delivery.key,
            "in_reply_to": delivery.in_reply_to,
            "due_time": delivery.due_time,
            "traceparent": delivery.traceparent,
            "create_time": delivery.create_time,
            **_delivery_progress(delivery),
        },
    )
    return inserted.rowcount == 1


def update_delivery(tx: Transaction, delivery: Delivery) -> None:
    """Keep what became of a delivery that this transaction has locked."""
    tx.execute(
        """
        update deliveries set state = %(state)s, reason = %(reason)s, attempts = %(attempts)s,
          attempt_time = %(attempt_time)s, tries = %(tries)s, doubt_since = %(doubt_since)s,
          doubt_over = %(doubt_over)s, doubt_resend = %(doubt_resend)s,
          cancel_requested = %(cancel_requested)s, fence = %(fence)s, lease_until = %(lease_until)s,
          next_time = %(next_time)s,
          network_post_id = %(network_post_id)s, url = %(url)s, publish_time = %(publish_time)s,
          update_time = %(update_time)s
        where enterprise = %(enterprise)s and name = %(name)s
        """,
        _delivery_progress(delivery),
    )


def _delivery_progress(delivery: Delivery) -> Row:
    return {
        "enterprise": delivery.enterprise,
        "name": delivery.name,
        "state": delivery.state,
        "reason": delivery.reason,
        "attempts": delivery.attempts,
        "attempt_time": delivery.attempt_time,
        "tries": delivery.tries,
        "doubt_since": delivery.doubt.since if delivery.doubt else None,
        "doubt_over": delivery.doubt.over if delivery.doubt else None,
        "doubt_resend": delivery.doubt.resend if delivery.doubt else None,
        "cancel_requested": delivery.cancel_requested,
        "fence": delivery.fence,
        "lease_until": delivery.lease_until,
        "next_time": delivery.next_time,
        "network_post_id": delivery.network_post_id,
        "url": delivery.url,
        "publish_time": delivery.publish_time,
        "update_time": delivery.update_time,
    }


def delivery(tx: Transaction, enterprise: str, name: str) -> Delivery | None:
    """One delivery."""
    row = tx.execute(
        "select * from deliveries where enterprise = %s and name = %s", (enterprise, name)
    ).fetchone()
    return _delivery(row) if row else None


def lock_delivery(tx: Transaction, enterprise: str, name: str) -> Delivery | None:
    """One delivery, which nobody else can change until the transaction ends."""
    row = tx.execute(
        "select * from deliveries where enterprise = %s and name = %s for update", (enterprise, name)
    ).fetchone()
    return _delivery(row) if row else None


def lock_deliveries(tx: Transaction, enterprise: str, publication: str) -> list[Delivery]:
    """All deliveries of a publication, which nobody else can change until the transaction ends."""
    rows = tx.execute(
        "select * from deliveries where enterprise = %s and publication = %s order by account for update",
        (enterprise, publication),
    )
    return [_delivery(row) for row in rows]


def deliveries(tx: Transaction, enterprise: str, publication: str, after: str, limit: int) -> list[Delivery]:
    """A publication's deliveries by account, those after the account `after`."""
    rows = tx.execute(
        """
        select * from deliveries where enterprise = %s and publication = %s and account > %s
        order by account limit %s
        """,
        (enterprise, publication, after, limit),
    )
    return [_delivery(row) for row in rows]


def lock_expired(tx: Transaction, limit: int) -> list[Delivery]:
    """Deliveries whose lease has run out. Passes over those that somebody works on."""
    rows = tx.execute(
        """
        select * from deliveries where state in ('SENDING', 'UNCONFIRMED') and lease_until < %s
        order by lease_until limit %s for update skip locked
        """,
        (tx.now, limit),
    )
    return [_delivery(row) for row in rows]


def lock_unconfirmed(tx: Transaction, limit: int) -> list[Delivery]:
    """Unconfirmed deliveries that can be looked into now. Passes over those that somebody works on."""
    rows = tx.execute(
        """
        select d.* from deliveries d join accounts a on (a.enterprise, a.name) = (d.enterprise, d.account)
        where d.state = 'UNCONFIRMED' and d.lease_until is null and d.next_time <= %s and a.state = 'ACTIVE'
        order by d.next_time limit %s for update of d skip locked
        """,
        (tx.now, limit),
    )
    return [_delivery(row) for row in rows]


def lock_heads(tx: Transaction, limit: int) -> list[tuple[Account, Delivery]]:
    """
    The next delivery of each account that has one due and none under way.

    An account's line is locked first and read afterwards, in a statement of its own, so that what is read is
    newer than the lock: two senders never take from the same line.
    """
    lines = tx.execute(
        """
        select a.* from accounts a
        cross join lateral (
          select d.due_time, d.next_time from deliveries d
          where (d.enterprise, d.account) = (a.enterprise, a.name) and d.state = 'QUEUED'
          order by d.due_time, d.ordinal limit 1
        ) head
        where head.due_time <= %(now)s and (head.next_time is null or head.next_time <= %(now)s)
          and not exists (
            select 1 from deliveries d
            where (d.enterprise, d.account) = (a.enterprise, a.name) and d.state in ('SENDING', 'UNCONFIRMED')
          )
        order by head.due_time
        limit %(limit)s for update of a skip locked
        """,
        {"now": tx.now, "limit": limit},
    ).fetchall()
    known = {(line["enterprise"], line["name"]): _account(line) for line in lines}
    heads = tx.execute(
        """
        select head.* from unnest(%(enterprises)s::text[], %(names)s::text[]) as line (enterprise, account)
        cross join lateral (
          select * from deliveries d
          where (d.enterprise, d.account) = (line.enterprise, line.account) and d.state = 'QUEUED'
          order by d.due_time, d.ordinal limit 1 for update
        ) head
        where head.due_time <= %(now)s and (head.next_time is null or head.next_time <= %(now)s)
          and not exists (
            select 1 from deliveries d
            where (d.enterprise, d.account) = (line.enterprise, line.account)
              and d.state in ('SENDING', 'UNCONFIRMED')
          )
        """,
        {"enterprises": [key[0] for key in known], "names": [key[1] for key in known], "now": tx.now},
    )
    return [(known[row["enterprise"], row["account"]], _delivery(row)) for row in heads]


def count_open_deliveries(tx: Transaction) -> dict[str, int]:
    """How many deliveries have not ended, by state."""
    rows = tx.execute(
        """
        select state, count(*) as count from deliveries where state in ('SENDING', 'UNCONFIRMED') group by state
        union all select 'QUEUED', count(*) from deliveries where state = 'QUEUED'
        """
    )
    return {row["state"]: row["count"] for row in rows}


def oldest_due(tx: Transaction) -> datetime | None:
    """Since when the oldest delivery waits that is due and may be sent; None when none waits."""
    row = tx.execute(
        """
        select min(greatest(due_time, coalesce(next_time, due_time))) as time from deliveries
        where state = 'QUEUED' and due_time <= %(now)s and greatest(due_time, coalesce(next_time, due_time)) <= %(now)s
        """,
        {"now": tx.now},
    ).fetchone()
    return row["time"] if row else None


def next_due(tx: Transaction) -> datetime | None:
    """When the next delivery can be taken up that cannot be yet; None if nothing waits for a time."""
    row = tx.execute(
        """
        select least(
          (select min(greatest(due_time, coalesce(next_time, due_time))) from deliveries
           where state = 'QUEUED' and greatest(due_time, coalesce(next_time, due_time)) > %(now)s),
          (select min(coalesce(lease_until, next_time)) from deliveries
           where state in ('SENDING', 'UNCONFIRMED') and coalesce(lease_until, next_time) > %(now)s)
        ) as time
        """,
        {"now": tx.now},
    ).fetchone()
    time: datetime | None = row["time"] if row else None
    return time


def claimed_posts(tx: Transaction, account: Account, delivery: str, posts: Collection[str]) -> set[str]:
    """Which of these posts on the account's server are known to be other deliveries'."""
    rows = tx.execute(
        """
        select d.network_post_id from deliveries d
        join accounts a on (a.enterprise, a.name) = (d.enterprise, d.account)
        where d.enterprise = %s and a.server = %s and d.name <> %s and d.network_post_id = any(%s)
        """,
        (account.enterprise, account.server, delivery, list(posts)),
    )
    return {row["network_post_id"] for row in rows}


def delivery_of_post(tx: Transaction, enterprise: str, account: str, post_id: str) -> str:
    """The delivery that made a post of an account; empty if none did."""
    row = tx.execute(
        "select name from deliveries where enterprise = %s and account = %s and network_post_id = %s",
        (enterprise, account, post_id),
    ).fetchone()
    return str(row["name"]) if row else ""


def _delivery(row: Row) -> Delivery:
    since, over, resend = row["doubt_since"], row["doubt_over"], row["doubt_resend"]
    return Delivery(
        name=row["name"],
        enterprise=row["enterprise"],
        publication=row["publication"],
        account=row["account"],
        text=row["text"],
        rule=Rule(row["rule"]),
        key=row["key"],
        due_time=row["due_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        in_reply_to=row["in_reply_to"],
        state=DeliveryState(row["state"]),
        reason=row["reason"],
        attempts=row["attempts"],
        attempt_time=row["attempt_time"],
        tries=row["tries"],
        doubt=Doubt(since, over, resend) if since else None,
        cancel_requested=row["cancel_requested"],
        fence=row["fence"],
        lease_until=row["lease_until"],
        next_time=row["next_time"],
        network_post_id=row["network_post_id"],
        url=row["url"],
        publish_time=row["publish_time"],
        traceparent=row["traceparent"],
    )


# ---------------------------------------------------------------------------------------------- attempts


def begin_attempt(tx: Transaction, delivery: Delivery, step: str) -> None:
    """Log that an attempt or a look-up begins, under the delivery's new fence."""
    tx.execute(
        "insert into attempts (enterprise, delivery, fence, step, begin_time) values (%s, %s, %s, %s, %s)",
        (delivery.enterprise, delivery.name, delivery.fence, step, tx.now),
    )


def end_attempt(tx: Transaction, delivery: Delivery, outcome: str, reason: str) -> None:
    """Log what came of the attempt under this fence; the first word about it stays."""
    tx.execute(
        """
        update attempts set end_time = %s, outcome = %s, reason = %s
        where enterprise = %s and delivery = %s and fence = %s and end_time is null
        """,
        (tx.now, outcome, reason, delivery.enterprise, delivery.name, delivery.fence),
    )


# ------------------------------------------------------------------------------------------ restorations


def insert_restoration(tx: Transaction, restoration: Restoration) -> None:
    """Keep that the database was restored."""
    tx.execute(
        "insert into restorations (since, until) values (%s, %s) on conflict do nothing",
        (restoration.since, restoration.until),
    )


def restorations(tx: Transaction, after: datetime) -> list[Restoration]:
    """The restorations after a time, oldest first."""
    rows = tx.execute("select since, until from restorations where until > %s order by until", (after,))
    return [Restoration(row["since"], row["until"]) for row in rows]


def lock_unsure(tx: Transaction, restoration: Restoration, limit: int) -> list[Delivery]:
    """Deliveries that have not ended, were due by a restoration, and are not in doubt over all of its time."""
    rows = tx.execute(
        """
        select * from deliveries
        where (state = 'QUEUED' or state in ('SENDING', 'UNCONFIRMED')) -- an index for each
          and due_time <= %(until)s
          and (doubt_since is null or doubt_since > %(since)s or doubt_over < %(until)s)
        order by due_time limit %(limit)s for update
        """,
        {"since": restoration.since, "until": restoration.until, "limit": limit},
    )
    return [_delivery(row) for row in rows]


# ------------------------------------------------------------------------------------------ interactions


def insert_interaction(tx: Transaction, interaction: Interaction) -> bool:
    """Keep a new interaction; False if it is there already."""
    inserted = tx.execute(
        """
        insert into interactions (enterprise, name, account, kind, state, acct, author, author_display_name,
          author_followers, post_id, our_post_id, text, url, delivery, answer, interaction_time, create_time,
          update_time)
        values (%(enterprise)s, %(name)s, %(account)s, %(kind)s, %(state)s, %(acct)s, %(author)s,
          %(author_display_name)s, %(author_followers)s, %(post_id)s, %(our_post_id)s, %(text)s, %(url)s,
          %(delivery)s, %(answer)s, %(interaction_time)s, %(create_time)s, %(update_time)s)
        on conflict (enterprise, name) do nothing
        """,
        {
            "enterprise": interaction.enterprise,
            "name": interaction.name,
            "account": interaction.account,
            "kind": interaction.kind,
            "state": interaction.state,
            "acct": interaction.acct,
            "author": interaction.author,
            "author_display_name": interaction.author_display_name,
            "author_followers": interaction.author_followers,
            "post_id": interaction.post_id,
            "our_post_id": interaction.our_post_id,
            "text": interaction.text,
            "url": interaction.url,
            "delivery": interaction.delivery,
            "answer": interaction.answer,
            "interaction_time": interaction.interaction_time,
            "create_time": interaction.create_time,
            "update_time": interaction.update_time,
        },
    )
    return inserted.rowcount == 1


def update_interaction(tx: Transaction, interaction: Interaction) -> None:
    """Keep an interaction's new state and answer."""
    tx.execute(
        """
        update interactions set state = %s, answer = %s, update_time = %s
        where enterprise = %s and name = %s
        """,
        (
            interaction.state,
            interaction.answer,
            interaction.update_time,
            interaction.enterprise,
            interaction.name,
        ),
    )


def link_interactions(tx: Transaction, delivery: Delivery) -> None:
    """Link what people said about a post before we knew that it was this delivery's."""
    tx.execute(
        """
        update interactions set delivery = %s
        where enterprise = %s and account = %s and our_post_id = %s and delivery = '' and our_post_id <> ''
        """,
        (delivery.name, delivery.enterprise, delivery.account, delivery.network_post_id),
    )


def interaction(tx: Transaction, enterprise: str, name: str) -> Interaction | None:
    """One interaction."""
    row = tx.execute(
        "select * from interactions where enterprise = %s and name = %s", (enterprise, name)
    ).fetchone()
    return _interaction(row) if row else None


def count_open_interactions(tx: Transaction) -> dict[str, int]:
    """How many interactions are not answered, by state."""
    rows = tx.execute(
        "select state, count(*) as count from interactions where state <> 'ANSWERED' group by state"
    )
    return {row["state"]: row["count"] for row in rows}


def lock_interaction(tx: Transaction, enterprise: str, name: str) -> Interaction | None:
    """One interaction, which nobody else can change until the transaction ends."""
    row = tx.execute(
        "select * from interactions where enterprise = %s and name = %s for update", (enterprise, name)
    ).fetchone()
    return _interaction(row) if row else None


def lock_answered_interaction(tx: Transaction, delivery: Delivery) -> Interaction | None:
    """The interaction that a delivery answers, locked; None if it answers none."""
    row = tx.execute(
        "select * from interactions where enterprise = %s and answer = %s for update",
        (delivery.enterprise, delivery.name),
    ).fetchone()
    return _interaction(row) if row else None


def interactions(
    tx: Transaction, enterprise: str, after: tuple[datetime, str] | None, limit: int
) -> list[Interaction]:
    """An enterprise's interactions, newest first, older than `after` (create time and name)."""
    rows = tx.execute(
        """
        select * from interactions
        where enterprise = %(enterprise)s
          and (%(time)s::timestamptz is null or (create_time, name) < (%(time)s, %(name)s))
        order by create_time desc, name desc limit %(limit)s
        """,
        {"enterprise": enterprise, **_after(after), "limit": limit},
    )
    return [_interaction(row) for row in rows]


def _interaction(row: Row) -> Interaction:
    return Interaction(
        name=row["name"],
        enterprise=row["enterprise"],
        account=row["account"],
        kind=InteractionKind(row["kind"]),
        state=InteractionState(row["state"]),
        acct=row["acct"],
        author=row["author"],
        author_display_name=row["author_display_name"],
        author_followers=row["author_followers"],
        post_id=row["post_id"],
        our_post_id=row["our_post_id"],
        text=row["text"],
        url=row["url"],
        delivery=row["delivery"],
        answer=row["answer"],
        interaction_time=row["interaction_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
