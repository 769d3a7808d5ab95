"""Every SQL statement of targeting: model objects in and out."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.targeting.model import Audience, AudienceState, Person, Post

PEOPLE = "people"
"""The change log that the index follows: profiles and withdrawals, in the order of their commits."""


def save_people(tx: Transaction, people: Mapping[str, Person]) -> list[tuple[int, Person]]:
    """
    Store these people by name; returns those that are new or changed, with their numbers.

    A number is drawn only for a new person, so that sending a file again leaves no gaps.
    """
    documents = {name: _document(person) for name, person in people.items()}
    prints = {name: _fingerprint(document) for name, document in documents.items()}
    known = tx.execute(
        "select person, fingerprint from profiles where person = any(%s)", (sorted(people),)
    ).fetchall()
    same = {row["person"] for row in known if bytes(row["fingerprint"]) == prints[row["person"]]}
    changed = sorted(
        set(people) - same
    )  # one order for all, or two files with the same people would deadlock
    existing = {row["person"] for row in known}
    tx.executemany(
        "update profiles set fingerprint = %s, document = %s, update_time = %s where person = %s",
        [(prints[n], Jsonb(documents[n]), tx.now, n) for n in changed if n in existing],
    )
    tx.executemany(
        """
        insert into profiles (fingerprint, document, update_time, person) values (%s, %s, %s, %s)
        on conflict (person) do update set fingerprint = excluded.fingerprint, document = excluded.document,
               update_time = excluded.update_time
        """,
        [(prints[n], Jsonb(documents[n]), tx.now, n) for n in changed if n not in existing],
    )
    numbers = tx.execute("select person, number from profiles where person = any(%s)", (changed,))
    return [(row["number"], people[row["person"]]) for row in numbers.fetchall()]


def append_people(tx: Transaction, people: Sequence[tuple[int, Person]]) -> int:
    """Tell the index of new and changed people; returns the change's sequence number."""
    body = {"people": [[number, person.name, _document(person)] for number, person in people]}
    return tx.append_change(PEOPLE, "profiles", body)


def withdraw(tx: Transaction, person: str) -> bool:
    """Store a withdrawal and tell the index. False when it was made before."""
    stored = tx.execute(
        "insert into withdrawals (person, update_time) values (%s, %s) on conflict do nothing",
        (person, tx.now),
    )
    if stored.rowcount:
        tx.append_change(PEOPLE, "withdrawals", {"withdrawn": [person]})
    return stored.rowcount == 1


def last_change(tx: Transaction) -> int:
    """The newest change that the index can follow."""
    return tx.last_change(PEOPLE)


def page_people(tx: Transaction, *, after: int, limit: int) -> list[tuple[int, Person]]:
    """People with their numbers, by number."""
    rows = tx.execute(
        "select number, person, document from profiles where number > %s order by number limit %s",
        (after, limit),
    )
    return [(row["number"], _person(row["person"], row["document"])) for row in rows.fetchall()]


def withdrawn(tx: Transaction) -> list[str]:
    """Everybody who withdrew."""
    return [row["person"] for row in tx.execute("select person from withdrawals").fetchall()]


def people_of_change(body: Mapping[str, Any]) -> tuple[list[tuple[int, Person]], list[str]]:
    """What a change of the log says: people to put, and people who withdrew."""
    people = [(number, _person(name, document)) for number, name, document in body.get("people", ())]
    return people, list(body.get("withdrawn", ()))


def insert_audience(tx: Transaction, audience: Audience) -> None:
    """Store a new audience."""
    tx.execute(
        """
        insert into audiences (enterprise, name, display_name, definition, state, create_time)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (
            tx.enterprise,
            audience.name,
            audience.display_name,
            audience.definition,
            audience.state,
            audience.create_time,
        ),
    )


def update_audience(tx: Transaction, audience: Audience) -> None:
    """Store an audience that was locked in this transaction."""
    tx.execute(
        """
        update audiences set state = %s, size = %s, version = %s, members = %s, build_time = %s
        where enterprise = %s and name = %s
        """,
        (
            audience.state,
            audience.size,
            audience.version,
            audience.members,
            audience.build_time,
            tx.enterprise,
            audience.name,
        ),
    )


def get_audience(tx: Transaction, name: str) -> Audience | None:
    """An audience."""
    row = tx.execute(
        "select * from audiences where enterprise = %s and name = %s", (tx.enterprise, name)
    ).fetchone()
    return _audience(row) if row else None


def lock_audience(tx: Transaction, name: str) -> Audience | None:
    """An audience, locked until the transaction ends."""
    row = tx.execute(
        "select * from audiences where enterprise = %s and name = %s for update", (tx.enterprise, name)
    ).fetchone()
    return _audience(row) if row else None


def audiences_named(tx: Transaction, names: Iterable[str]) -> dict[str, Audience]:
    """Those of these audiences that exist."""
    rows = tx.execute(
        "select * from audiences where enterprise = %s and name = any(%s)", (tx.enterprise, sorted(names))
    )
    return {row["name"]: _audience(row) for row in rows.fetchall()}


def list_audiences(tx: Transaction, *, limit: int, before: tuple[str, str] | None = None) -> list[Audience]:
    """The tenant's audiences, newest first, after the one with this creation time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        """
        select * from audiences where enterprise = %s and (create_time, name) < (%s::timestamptz, %s)
        order by create_time desc, name desc limit %s
        """,
        (tx.enterprise, time, name, limit),
    )
    return [_audience(row) for row in rows.fetchall()]


def _document(person: Person) -> dict[str, Any]:
    return {
        "gender": person.gender,
        "age": person.age,
        "city": person.city,
        "topics": sorted(person.topics),
        "communities": sorted(person.communities),
        "brands": sorted(person.brands),
        "posts": [[post.id, post.text] for post in person.posts],
    }


def _person(name: str, document: Mapping[str, Any]) -> Person:
    return Person(
        name,
        gender=document["gender"],
        age=document["age"],
        city=document["city"],
        topics=frozenset(document["topics"]),
        communities=frozenset(document["communities"]),
        brands=frozenset(document["brands"]),
        posts=tuple(Post(identifier, text) for identifier, text in document["posts"]),
    )


def _fingerprint(document: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


def _audience(row: dict[str, Any]) -> Audience:
    return Audience(
        name=row["name"],
        display_name=row["display_name"],
        definition=bytes(row["definition"]),
        state=AudienceState(row["state"]),
        size=row["size"],
        version=row["version"],
        members=None if row["members"] is None else bytes(row["members"]),
        create_time=row["create_time"],
        build_time=row["build_time"],
    )
