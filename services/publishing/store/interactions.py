"""What people did with posts, or said to accounts."""

from datetime import datetime

from services.chassis.database import Transaction
from services.publishing.model.callers import ITSELF, Caller
from services.publishing.model.deliveries import Delivery
from services.publishing.model.interactions import Interaction, InteractionKind, InteractionState
from services.publishing.store.rows import Row, after_params


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
    tx: Transaction,
    enterprise: str,
    after: tuple[datetime, str] | None,
    limit: int,
    caller: Caller = ITSELF,
) -> list[Interaction]:
    """The interactions of accounts within the caller's reach, newest first, older than `after` (create time and name)."""
    rows = tx.execute(
        """
        select i.* from interactions i left join places p on (p.enterprise, p.account) = (i.enterprise, i.account)
        where i.enterprise = %(enterprise)s
          and (%(time)s::timestamptz is null or (i.create_time, i.name) < (%(time)s, %(name)s))
          and (%(reach)s::text[] is null or p.groups && %(reach)s)
        order by i.create_time desc, i.name desc limit %(limit)s
        """,
        {"enterprise": enterprise, **after_params(after), **caller.params, "limit": limit},
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
