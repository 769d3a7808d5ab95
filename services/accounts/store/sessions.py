"""Members' sessions, their refresh tokens, and tries to log in."""

from datetime import timedelta

from services.accounts.model.sessions import TRIES_KEPT, Device, Session, wait_after
from services.accounts.store.rows import After, Row
from services.chassis.database import Transaction
from services.chassis.names import enterprise_of


def insert_session(tx: Transaction, session: Session, token_hash: bytes) -> None:
    """Keep a new session and its first refresh token."""
    tx.execute(
        """
        insert into sessions (enterprise, id, member, acts_for, user_agent, address, create_time, use_time, expire_time,
                              by_provider)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(session.member),
            session.id,
            session.member,
            session.acts_for,
            session.device.user_agent,
            session.device.network,
            session.create_time,
            session.use_time,
            session.expire_time,
            session.by_provider,
        ),
    )
    _insert_token(tx, session, token_hash)


def lock_session(tx: Transaction, token_hash: bytes) -> tuple[Session, bool] | None:
    """
    The session of a refresh token, and whether that is still to be used. Nobody else uses or ends it before this transaction.

    Of all enterprises: needs the platform's scope.
    """
    row = tx.execute(
        """
        select sessions.*, refresh_tokens.use_time is null as fresh
        from sessions join refresh_tokens on (refresh_tokens.enterprise, refresh_tokens.session)
          = (sessions.enterprise, sessions.id)
        where refresh_tokens.hash = %s
        for update
        """,
        (token_hash,),
    ).fetchone()
    return (_session(row), row["fresh"]) if row else None


def use_session(tx: Transaction, session: Session, *, used: bytes, fresh: bytes) -> None:
    """Keep that a session was refreshed: its refresh token `used` is worth nothing any more, and the new one is `fresh`."""
    tx.execute(
        """
        update sessions set acts_for = %s, user_agent = %s, address = %s, use_time = %s, expire_time = %s
        where enterprise = %s and id = %s
        """,
        (
            session.acts_for,
            session.device.user_agent,
            session.device.network,
            session.use_time,
            session.expire_time,
            enterprise_of(session.member),
            session.id,
        ),
    )
    tx.execute(
        "update refresh_tokens set use_time = %s where enterprise = %s and hash = %s",
        (session.use_time, enterprise_of(session.member), used),
    )
    _insert_token(tx, session, fresh)


def list_sessions(tx: Transaction, member: str, *, after: After, limit: int) -> list[Session]:
    """A member's sessions, oldest first."""
    rows = tx.execute(
        """
        select * from sessions
        where enterprise = %s and member = %s and expire_time > %s
          and (create_time, member || '/sessions/' || id) > (%s, %s)
        order by create_time, id limit %s
        """,
        (enterprise_of(member), member, tx.now, *after, limit),
    )
    return [_session(row) for row in rows]


def delete_sessions(tx: Transaction, member: str, *, only: str = "", but: str = "") -> list[str]:
    """End a member's sessions, or `only` the one with this id, or all `but` this one. Returns the ids of those that ended."""
    rows = tx.execute(
        """
        delete from sessions
        where enterprise = %(enterprise)s and member = %(member)s
          and (%(only)s = '' or id = %(only)s) and (%(but)s = '' or id <> %(but)s)
        returning id
        """,
        {"enterprise": enterprise_of(member), "member": member, "only": only, "but": but},
    )
    return sorted(row["id"] for row in rows)


def count_sessions(tx: Transaction) -> int:
    """How many sessions there are; needs the platform's scope."""
    (row,) = tx.execute("select count(*) as count from sessions where expire_time > %s", (tx.now,)).fetchall()
    return int(row["count"])


def delete_provider_sessions(tx: Transaction, enterprise: str, member: str = "") -> list[tuple[str, str]]:
    """End the sessions that an enterprise's identity provider opened, for a member or for all; returns whose, and ids."""
    rows = tx.execute(
        """
        delete from sessions where enterprise = %(enterprise)s and by_provider and (%(member)s = '' or member = %(member)s)
        returning member, id
        """,
        {"enterprise": enterprise, "member": member},
    )
    return sorted((row["member"], row["id"]) for row in rows)


def has_session_from(tx: Transaction, member: str, network: str) -> bool:
    """Whether a member has a session that was last used from this network."""
    found = tx.execute(
        "select from sessions where enterprise = %s and member = %s and address = %s and expire_time > %s limit 1",
        (enterprise_of(member), member, network, tx.now),
    )
    return found.rowcount == 1


def count_try(tx: Transaction, key: bytes, free: int) -> timedelta | None:
    """
    Count a try to log in as one that failed, until `forget_tries`. Others with the same key wait for this transaction.

    Returns None when it may be made, else how long to wait; such a try is not counted.
    """
    tx.execute(
        """
        insert into login_tries (key, count, next_time, forget_time) values (%s, 0, %s, %s)
        on conflict do nothing
        """,
        (key, tx.now, tx.now + TRIES_KEPT),
    )
    row = tx.execute("select * from login_tries where key = %s for update", (key,)).fetchall()[0]
    if row["next_time"] > tx.now:
        wait: timedelta = row["next_time"] - tx.now
        return wait
    count = 1 if row["forget_time"] <= tx.now else row["count"] + 1
    tx.execute(
        "update login_tries set count = %s, next_time = %s, forget_time = %s where key = %s",
        (count, tx.now + wait_after(count, free), tx.now + TRIES_KEPT, key),
    )
    return None


def forget_tries(tx: Transaction, *keys: bytes) -> None:
    """Forget the tries with these keys, because one succeeded."""
    tx.execute("delete from login_tries where key = any (%s)", (sorted(keys),))


def purge_sessions(tx: Transaction) -> None:
    """Forget sessions that nobody used for long, and tries to log in; needs the platform's scope."""
    tx.execute("delete from sessions where expire_time <= %s", (tx.now,))
    tx.execute("delete from login_tries where forget_time <= %s", (tx.now,))


def _insert_token(tx: Transaction, session: Session, token_hash: bytes) -> None:
    tx.execute(
        "insert into refresh_tokens (enterprise, hash, session) values (%s, %s, %s)",
        (enterprise_of(session.member), token_hash, session.id),
    )


def _session(row: Row) -> Session:
    return Session(
        name=f"{row['member']}/sessions/{row['id']}",
        acts_for=row["acts_for"],
        device=Device(row["address"], row["user_agent"]),
        create_time=row["create_time"],
        use_time=row["use_time"],
        by_provider=row["by_provider"],
    )
