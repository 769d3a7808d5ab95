"""Deliveries, the order in which they go out, and what was tried."""

from collections.abc import Collection
from datetime import datetime
from typing import LiteralString

from services.chassis.database import Transaction
from services.publishing.model.accounts import Account
from services.publishing.model.callers import ITSELF, Caller
from services.publishing.model.deliveries import Delivery, DeliveryState, Doubt, Restoration, Rule
from services.publishing.store.accounts import to_account
from services.publishing.store.rows import Row


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


_HELD: LiteralString = """
select d.*, case when d.state = 'QUEUED' and d.due_time <= %(now)s then freeze_of(d.enterprise, d.account) end as freeze
from deliveries d left join places p on (p.enterprise, p.account) = (d.enterprise, d.account)
where d.enterprise = %(enterprise)s and (%(reach)s::text[] is null or p.groups && %(reach)s)
"""
"""Deliveries as people see them: those on accounts within reach, each with the oldest freeze that holds it."""


def delivery(tx: Transaction, enterprise: str, name: str, caller: Caller = ITSELF) -> Delivery | None:
    """One delivery, if the caller reaches its account."""
    row = tx.execute(
        _HELD + "and d.name = %(name)s",
        {"enterprise": enterprise, "name": name, "now": tx.now, **caller.params},
    ).fetchone()
    return to_delivery(row) if row else None


def lock_delivery(tx: Transaction, enterprise: str, name: str) -> Delivery | None:
    """One delivery, which nobody else can change until the transaction ends."""
    row = tx.execute(
        "select * from deliveries where enterprise = %s and name = %s for update", (enterprise, name)
    ).fetchone()
    return to_delivery(row) if row else None


def lock_deliveries(tx: Transaction, enterprise: str, publication: str) -> list[Delivery]:
    """All deliveries of a publication, which nobody else can change until the transaction ends."""
    rows = tx.execute(
        "select * from deliveries where enterprise = %s and publication = %s order by account for update",
        (enterprise, publication),
    )
    return [to_delivery(row) for row in rows]


def deliveries(  # noqa: PLR0917 -- as the other lists
    tx: Transaction, enterprise: str, publication: str, after: str, limit: int, caller: Caller = ITSELF
) -> list[Delivery]:
    """A publication's deliveries by account, those after the account `after`, as far as the caller reaches."""
    rows = tx.execute(
        _HELD
        + """
        and d.publication = %(publication)s and d.account > %(after)s order by d.account limit %(limit)s
        """,
        {
            "enterprise": enterprise,
            "publication": publication,
            "after": after,
            "limit": limit,
            "now": tx.now,
            **caller.params,
        },
    )
    return [to_delivery(row) for row in rows]


def lock_expired(tx: Transaction, limit: int) -> list[Delivery]:
    """Deliveries whose lease has run out. Passes over those that somebody works on."""
    rows = tx.execute(
        """
        select * from deliveries where state in ('SENDING', 'UNCONFIRMED') and lease_until < %s
        order by lease_until limit %s for update skip locked
        """,
        (tx.now, limit),
    )
    return [to_delivery(row) for row in rows]


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
    return [to_delivery(row) for row in rows]


def lock_heads(tx: Transaction, limit: int) -> list[tuple[Account, Delivery]]:
    """
    The next delivery of each account that has one due and none under way.

    An account's line is locked first and read afterwards, in a statement of its own, so that what is read is
    newer than the lock: two senders never take from the same line, and none takes from one that is frozen.
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
          and freeze_of(a.enterprise, a.name) is null
        order by head.due_time
        limit %(limit)s for update of a skip locked
        """,
        {"now": tx.now, "limit": limit},
    ).fetchall()
    free = join_sending(tx, {line["enterprise"] for line in lines})
    known = {
        (line["enterprise"], line["name"]): to_account(line) for line in lines if line["enterprise"] in free
    }
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
          and freeze_of(line.enterprise, line.account) is null
        """,
        {"enterprises": [key[0] for key in known], "names": [key[1] for key in known], "now": tx.now},
    )
    return [(known[row["enterprise"], row["account"]], to_delivery(row)) for row in heads]


def join_sending(tx: Transaction, enterprises: Collection[str]) -> set[str]:
    """
    Begin to make deliveries of these enterprises SENDING; returns those for which it is allowed, which it is not
    while somebody freezes. Read afterwards, in another statement, what is frozen. See `freezes`.
    """
    rows = tx.execute(
        """
        select enterprise from unnest(%s::text[]) as asked (enterprise)
        where pg_try_advisory_xact_lock_shared(hashtext(current_schema() || ' sending'), hashtext(enterprise))
        """,
        (sorted(enterprises),),
    )
    return {row["enterprise"] for row in rows}


def frozen(tx: Transaction, deliveries: Collection[Delivery]) -> set[str]:
    """The names of those of these deliveries whose accounts are frozen."""
    rows = tx.execute(
        """
        select d.name from unnest(%s::text[], %s::text[], %s::text[]) as d (name, enterprise, account)
        where freeze_of(d.enterprise, d.account) is not null
        """,
        (
            [each.name for each in deliveries],
            [each.enterprise for each in deliveries],
            [each.account for each in deliveries],
        ),
    )
    return {row["name"] for row in rows}


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
        select min(greatest(due_time, coalesce(next_time, due_time))) as time from deliveries d
        where state = 'QUEUED' and due_time <= %(now)s and greatest(due_time, coalesce(next_time, due_time)) <= %(now)s
          and freeze_of(d.enterprise, d.account) is null
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


def to_delivery(row: Row) -> Delivery:
    """A row of the table, with the column `freeze` where that was read."""
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
        freeze=row.get("freeze") or "",
    )


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
    return [to_delivery(row) for row in rows]
