"""Webhooks: endpoints and their secrets, messages, deliveries and attempts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.accounts.model.webhooks import (
    Attempt,
    Delivery,
    DeliveryState,
    DisabledBy,
    Endpoint,
    EndpointState,
    GivenUp,
)
from services.accounts.store.rows import After, Row, only
from services.accounts.store.secrets import Sealed, WrappedKey
from services.chassis.database import Transaction
from services.chassis.errors import not_found
from services.chassis.names import enterprise_of

SECRET = "signing_secret"  # noqa: S105 -- what the seal calls it
"""The field of a secret. Its resource is `secret_resource`."""


def secret_resource(endpoint: str, version: int) -> str:
    """What the seal calls the row of a secret."""
    return f"{endpoint}/secrets/{version}"


# Endpoints

_ENDPOINT = """
    select e.*, (select max(expire_time) from webhook_secrets s
                 where s.enterprise = e.enterprise and s.endpoint = e.name and s.expire_time > %(now)s) as old_secret_expire_time
    from webhook_endpoints e where e.enterprise = %(enterprise)s
"""


def insert_endpoint(tx: Transaction, endpoint: Endpoint) -> None:
    """Keep a new endpoint."""
    tx.execute(
        """
        insert into webhook_endpoints
          (enterprise, name, url, event_types, description, state, revision, create_time, update_time)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(endpoint.name),
            endpoint.name,
            endpoint.url,
            sorted(endpoint.event_types),
            endpoint.description,
            endpoint.state,
            endpoint.revision,
            endpoint.create_time,
            endpoint.update_time,
        ),
    )


def lock_and_count_endpoints(tx: Transaction, enterprise: str) -> int:
    """How many endpoints an enterprise has; nobody adds one before this transaction ends. Raises NOT_FOUND."""
    only(
        tx.execute("select from enterprises where enterprise = %s for no key update", (enterprise,)),
        enterprise,
    )
    found = tx.execute("select count(*) from webhook_endpoints where enterprise = %s", (enterprise,))
    return int(only(found, enterprise)["count"])


def get_endpoint(tx: Transaction, name: str) -> Endpoint:
    """An endpoint. Raises NOT_FOUND."""
    found = tx.execute(
        _ENDPOINT + "and e.name = %(name)s",
        {"enterprise": enterprise_of(name), "name": name, "now": tx.now},
    )
    return _endpoint(only(found, name))


def lock_endpoint(tx: Transaction, name: str) -> Endpoint:
    """An endpoint that nobody else changes, and to which nothing is added, before this transaction ends. Raises NOT_FOUND."""
    found = tx.execute(
        _ENDPOINT + "and e.name = %(name)s for no key update of e",
        {"enterprise": enterprise_of(name), "name": name, "now": tx.now},
    )
    return _endpoint(only(found, name))


def list_endpoints(tx: Transaction, enterprise: str, *, after: After, limit: int) -> list[Endpoint]:
    """An enterprise's endpoints, oldest first."""
    rows = tx.execute(
        _ENDPOINT
        + "and (e.create_time, e.name) > (%(time)s, %(name)s) order by e.create_time, e.name limit %(limit)s",
        {"enterprise": enterprise, "now": tx.now, "time": after[0], "name": after[1], "limit": limit},
    )
    return [_endpoint(row) for row in rows]


def save_endpoint(tx: Transaction, endpoint: Endpoint) -> None:
    """
    Keep an endpoint as somebody or an attempt has changed it.

    When it is disabled, what waits for it is FAILED, and a sender that works for it works in vain.
    """
    enterprise = enterprise_of(endpoint.name)
    disabled = endpoint.state is EndpointState.DISABLED
    if disabled:
        tx.execute(
            """
            update webhook_deliveries set state = 'FAILED', reason = %s, due_time = null
            where enterprise = %s and endpoint = %s and state = 'PENDING'
            """,
            (GivenUp.ENDPOINT_DISABLED, enterprise, endpoint.name),
        )
    tx.execute(
        """
        update webhook_endpoints set
          url = %(url)s, event_types = %(event_types)s, description = %(description)s, state = %(state)s,
          disabled_by = %(disabled_by)s, failures = %(failures)s, failing_since = %(failing_since)s,
          rest_until = %(rest_until)s, revision = %(revision)s, update_time = %(update_time)s,
          fence = fence + (%(disabled)s)::int,
          lease_until = case when %(disabled)s then null else lease_until end,
          due_time = case when %(disabled)s then null else due_time end
        where enterprise = %(enterprise)s and name = %(name)s
        """,
        {
            "enterprise": enterprise,
            "name": endpoint.name,
            "url": endpoint.url,
            "event_types": sorted(endpoint.event_types),
            "description": endpoint.description,
            "state": endpoint.state,
            "disabled_by": endpoint.disabled_by,
            "failures": endpoint.failures,
            "failing_since": endpoint.failing_since,
            "rest_until": endpoint.rest_until,
            "revision": endpoint.revision,
            "update_time": endpoint.update_time,
            "disabled": disabled,
        },
    )


def delete_endpoint(tx: Transaction, name: str) -> None:
    """Forget an endpoint with its secrets and deliveries. Raises NOT_FOUND."""
    deleted = tx.execute(
        "delete from webhook_endpoints where enterprise = %s and name = %s", (enterprise_of(name), name)
    )
    if deleted.rowcount == 0:
        raise not_found(name)


def count_endpoints(tx: Transaction) -> list[tuple[str, int]]:
    """How many endpoints there are: ENABLED, FAILING (enabled, and failing), or DISABLED."""
    rows = tx.execute(
        """
        select case when state = 'ENABLED' and failures > 0 then 'FAILING' else state end as state, count(*)
        from webhook_endpoints group by 1
        """
    )
    return [(row["state"], row["count"]) for row in rows]


def longest_due(tx: Transaction, *, failing: bool) -> datetime | None:
    """Since when something has been due for an endpoint of these; None when nothing is. Needs the platform's scope."""
    (row,) = tx.execute(
        """
        select min(due_time) as due from webhook_endpoints
        where state = 'ENABLED' and due_time <= %s and (failures > 0) = %s
        """,
        (tx.now, failing),
    ).fetchall()
    due: datetime | None = row["due"]
    return due


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(
        name=row["name"],
        url=row["url"],
        event_types=frozenset(row["event_types"]),
        description=row["description"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        state=EndpointState(row["state"]),
        disabled_by=DisabledBy(row["disabled_by"]) if row["disabled_by"] else None,
        failures=row["failures"],
        failing_since=row["failing_since"],
        rest_until=row["rest_until"],
        old_secret_expire_time=row["old_secret_expire_time"],
        revision=row["revision"],
    )


# Secrets


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret as it is kept, and the data key that opens it."""

    endpoint: str
    version: int
    sealed: bytes
    key: WrappedKey


def next_secret_version(tx: Transaction, endpoint: str) -> int:
    """The version of an endpoint's next secret. The endpoint must be locked."""
    found = tx.execute(
        "select coalesce(max(version), 0) + 1 as next from webhook_secrets where enterprise = %s and endpoint = %s",
        (enterprise_of(endpoint), endpoint),
    )
    return int(only(found, endpoint)["next"])


def save_secret(tx: Transaction, endpoint: str, version: int, sealed: Sealed, old_until: datetime) -> None:
    """Keep an endpoint's new secret. The one before it signs until `old_until`, and those before that are forgotten."""
    place = (enterprise_of(endpoint), endpoint)
    tx.execute(
        "delete from webhook_secrets where enterprise = %s and endpoint = %s and version < %s",
        (*place, version - 1),
    )
    tx.execute(
        "update webhook_secrets set expire_time = %s where enterprise = %s and endpoint = %s",
        (old_until, *place),
    )
    tx.execute(
        """
        insert into webhook_secrets (enterprise, endpoint, version, key_version, sealed) values (%s, %s, %s, %s, %s)
        """,
        (*place, version, sealed.key_version, sealed.sealed),
    )


def lock_secrets(tx: Transaction, endpoints: Sequence[str]) -> list[SealedSecret]:
    """The secrets that sign for these endpoints, newest first; their keys stay until this transaction ends."""
    rows = tx.execute(
        """
        select s.endpoint, s.version, s.sealed, k.version as key_version, k.master_key, k.wrapped
        from webhook_secrets s join data_keys k on k.enterprise = s.enterprise and k.version = s.key_version
        where (s.enterprise, s.endpoint) in (select * from unnest(%s::text[], %s::text[]))
          and (s.expire_time is null or s.expire_time > %s)
        order by s.version desc for share of s
        """,
        (list(map(enterprise_of, endpoints)), list(endpoints), tx.now),
    )
    return [
        SealedSecret(
            row["endpoint"],
            row["version"],
            row["sealed"],
            WrappedKey(row["key_version"], row["master_key"], row["wrapped"]),
        )
        for row in rows
    ]


# Messages and deliveries


def lock_interested(tx: Transaction, enterprise: str, event_type: str) -> list[str]:
    """The endpoints that want an event, by name; nobody changes them before this transaction ends."""
    rows = tx.execute(
        """
        select name from webhook_endpoints
        where enterprise = %s and state = 'ENABLED' and (event_types = '{}' or %s = any (event_types))
        order by name for no key update
        """,
        (enterprise, event_type),
    )
    return [row["name"] for row in rows]


def insert_deliveries(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    """Keep deliveries of one event, and have them sent. Their endpoints must be locked."""
    first = deliveries[0]
    enterprise = enterprise_of(first.name)
    tx.execute(
        """
        insert into webhook_messages (enterprise, id, type, time, payload, create_time) values (%s, %s, %s, %s, %s, %s)
        """,
        (enterprise, first.webhook_id, first.event_type, first.event_time, first.payload, first.create_time),
    )
    tx.executemany(
        """
        insert into webhook_deliveries (enterprise, name, endpoint, message, state, due_time, create_time)
        values (%s, %s, %s, %s, 'PENDING', %s, %s)
        """,
        [
            (enterprise, each.name, each.endpoint, each.webhook_id, each.due_time, each.create_time)
            for each in deliveries
        ],
    )
    _wake(tx, [each.endpoint for each in deliveries])


def _wake(tx: Transaction, endpoints: Sequence[str]) -> None:
    """Have senders look at endpoints: now, or when they have rested."""
    tx.execute(
        """
        update webhook_endpoints
        set due_time = least(coalesce(due_time, 'infinity'), greatest(%(now)s, coalesce(rest_until, %(now)s)))
        where (enterprise, name) in (select * from unnest(%(enterprises)s::text[], %(names)s::text[]))
        """,
        {
            "now": tx.now,
            "enterprises": list(map(enterprise_of, endpoints)),
            "names": list(endpoints),
        },
    )


_DELIVERY = """
    select d.*, m.type, m.time as event_time, m.payload
    from webhook_deliveries d join webhook_messages m on m.enterprise = d.enterprise and m.id = d.message
    where d.enterprise = %(enterprise)s
"""


def get_delivery(tx: Transaction, name: str) -> Delivery:
    """A delivery. Raises NOT_FOUND."""
    found = tx.execute(_DELIVERY + "and d.name = %(name)s", {"enterprise": enterprise_of(name), "name": name})
    return _delivery(only(found, name))


def list_deliveries(
    tx: Transaction,
    enterprise: str,
    *,
    endpoint: str,
    state: DeliveryState | None,
    before: After | None,
    limit: int,
) -> list[Delivery]:
    """An enterprise's deliveries, newest first; to one endpoint unless it is empty, in one state unless it is None."""
    rows = tx.execute(
        _DELIVERY
        + """
          and (%(endpoint)s = '' or d.endpoint = %(endpoint)s) and (%(state)s::text is null or d.state = %(state)s)
          and (%(time)s::timestamptz is null or (d.create_time, d.name) < (%(time)s, %(name)s))
        order by d.create_time desc, d.name desc limit %(limit)s
        """,
        {
            "enterprise": enterprise,
            "endpoint": endpoint,
            "state": state,
            "time": before[0] if before else None,
            "name": before[1] if before else "",
            "limit": limit,
        },
    )
    return [_delivery(row) for row in rows]


def list_attempts(tx: Transaction, delivery: str) -> list[Attempt]:
    """What was tried, oldest first."""
    rows = tx.execute(
        """
        select time, make_interval(secs => millis / 1000.0) as duration, status, error from webhook_attempts
        where enterprise = %s and delivery = %s order by sequence
        """,
        (enterprise_of(delivery), delivery),
    )
    return [Attempt(**row) for row in rows]


def replay_delivery(tx: Transaction, delivery: Delivery) -> None:
    """Have a delivery sent again, from the beginning. Its endpoint must be locked."""
    tx.execute(
        """
        update webhook_deliveries set state = 'PENDING', reason = '', tries = 0, due_time = %s
        where enterprise = %s and name = %s
        """,
        (tx.now, enterprise_of(delivery.name), delivery.name),
    )
    _wake(tx, [delivery.endpoint])


def replay_deliveries(
    tx: Transaction, endpoint: str, start: datetime, end: datetime, states: Iterable[DeliveryState]
) -> int:
    """Have what an endpoint was told of in a span of time sent again, if it is in these states; returns how many."""
    replayed = tx.execute(
        """
        update webhook_deliveries d set state = 'PENDING', reason = '', tries = 0, due_time = %s
        from webhook_messages m
        where d.enterprise = %s and d.endpoint = %s and d.state = any (%s)
          and m.enterprise = d.enterprise and m.id = d.message and m.time >= %s and m.time < %s
        """,
        (tx.now, enterprise_of(endpoint), endpoint, list(states), start, end),
    ).rowcount
    if replayed:
        _wake(tx, [endpoint])
    return replayed


def purge(tx: Transaction, before: datetime) -> int:
    """
    Forget the oldest messages made before a moment, with their deliveries; needs the platform's scope.

    Returns how many: not more than 5,000, so that it does not take long.
    """
    return tx.execute(
        """
        delete from webhook_messages where (enterprise, id) in (
          select enterprise, id from webhook_messages where create_time < %s order by create_time limit 5000
        )
        """,
        (before,),
    ).rowcount


def _delivery(row: Row) -> Delivery:
    return Delivery(
        name=row["name"],
        endpoint=row["endpoint"],
        webhook_id=row["message"],
        event_type=row["type"],
        event_time=row["event_time"],
        payload=row["payload"],
        create_time=row["create_time"],
        due_time=row["due_time"],
        state=DeliveryState(row["state"]),
        reason=row["reason"],
        tries=row["tries"],
    )


# Leases


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send to an endpoint; its outcome counts while no later lease has a larger fence."""

    endpoint: Endpoint
    fence: int


def lease_endpoints(tx: Transaction, *, failing: bool, until: datetime, limit: int) -> list[Lease]:
    """Endpoints for which something is due, longest due first, for nobody else; needs the platform's scope."""
    rows = tx.execute(
        """
        with due as (
          select enterprise, name from webhook_endpoints
          where state = 'ENABLED' and due_time <= %(now)s and (lease_until is null or lease_until <= %(now)s)
            and (failures > 0) = %(failing)s
          order by due_time limit %(limit)s for no key update skip locked
        )
        update webhook_endpoints e set lease_until = %(until)s, fence = fence + 1
        from due where e.enterprise = due.enterprise and e.name = due.name
        returning e.*, null::timestamptz as old_secret_expire_time
        """,
        {"now": tx.now, "until": until, "failing": failing, "limit": limit},
    )
    return [Lease(_endpoint(row), row["fence"]) for row in rows]


def due_deliveries(tx: Transaction, endpoints: Sequence[str], most: int) -> list[Delivery]:
    """What is due for these endpoints, at most so many for each, longest due first; needs the platform's scope."""
    rows = tx.execute(
        """
        select d.*, m.type, m.time as event_time, m.payload
        from unnest(%(enterprises)s::text[], %(names)s::text[]) as leased (enterprise, name)
        cross join lateral (
          select * from webhook_deliveries
          where enterprise = leased.enterprise and endpoint = leased.name and state = 'PENDING' and due_time <= %(now)s
          order by due_time limit %(most)s
        ) d
        join webhook_messages m on m.enterprise = d.enterprise and m.id = d.message
        order by d.due_time
        """,
        {
            "enterprises": list(map(enterprise_of, endpoints)),
            "names": list(endpoints),
            "now": tx.now,
            "most": most,
        },
    )
    return [_delivery(row) for row in rows]


def next_due(tx: Transaction, *, failing: bool) -> datetime | None:
    """When the next endpoint is due, or its lease ends if that is later; needs the platform's scope."""
    row = tx.execute(
        """
        select min(greatest(due_time, coalesce(lease_until, due_time))) as due from webhook_endpoints
        where state = 'ENABLED' and due_time is not null and (failures > 0) = %s
        """,
        (failing,),
    ).fetchone()
    return row["due"] if row else None


def lock_leased(tx: Transaction, lease: Lease) -> Endpoint | None:
    """The endpoint of a lease as it is now, locked; None when the lease is no longer good."""
    row = tx.execute(
        _ENDPOINT + "and e.name = %(name)s and e.fence = %(fence)s for no key update of e",
        {
            "enterprise": enterprise_of(lease.endpoint.name),
            "name": lease.endpoint.name,
            "fence": lease.fence,
            "now": tx.now,
        },
    ).fetchone()
    return _endpoint(row) if row else None


def save_attempts(tx: Transaction, made: Sequence[tuple[Delivery, Attempt]]) -> None:
    """Keep attempts, and what became of their deliveries."""
    tx.executemany(
        "insert into webhook_attempts (enterprise, delivery, time, status, millis, error) values (%s, %s, %s, %s, %s, %s)",
        [
            (
                enterprise_of(delivery.name),
                delivery.name,
                attempt.time,
                attempt.status,
                round(attempt.duration.total_seconds() * 1000),
                attempt.error,
            )
            for delivery, attempt in made
        ],
    )
    tx.executemany(
        """
        update webhook_deliveries set state = %s, reason = %s, tries = %s, due_time = %s where enterprise = %s and name = %s
        """,
        [
            (each.state, each.reason, each.tries, each.due_time, enterprise_of(each.name), each.name)
            for each, _attempt in made
        ],
    )


def release(tx: Transaction, endpoint: Endpoint) -> datetime | None:
    """
    Give a lease back: the endpoint is due with its next delivery, but not before it has rested.

    Returns when that is; None when nothing waits.
    """
    row = tx.execute(
        """
        update webhook_endpoints e set
          lease_until = null,
          due_time = (
            select greatest(min(d.due_time), %(rest)s::timestamptz) from webhook_deliveries d
            where d.enterprise = e.enterprise and d.endpoint = e.name and d.state = 'PENDING' having count(*) > 0
          )
        where enterprise = %(enterprise)s and name = %(name)s returning due_time
        """,
        {"enterprise": enterprise_of(endpoint.name), "name": endpoint.name, "rest": endpoint.rest_until},
    ).fetchone()
    return row["due_time"] if row else None
