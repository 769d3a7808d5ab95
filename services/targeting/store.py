"""Every SQL statement of targeting: model objects in and out."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from pyroaring import BitMap

from services.chassis.database import Transaction
from services.chassis.names import enterprise_of
from services.targeting.model import Audience, AudienceState, Person, Post

PEOPLE = "people"
"""
The change log that the index follows: `people`, whose profiles it reads again by their numbers, and `withdrawn` names. A change
is small whatever stands in the profiles, so that a follower that is behind needs little memory.
"""


def save_people(tx: Transaction, people: Mapping[str, Person]) -> int:
    """
    Store these people by name and tell the index; returns how many are new or changed.

    A number is drawn only for a new person, so that sending a file again leaves no gaps.
    """
    documents = {name: _document(person) for name, person in people.items()}
    prints = {name: _fingerprint(document) for name, document in documents.items()}
    known = tx.execute(
        "select person, fingerprint from profiles where person = any(%s)", (sorted(people),)
    ).fetchall()
    same = {row["person"] for row in known if bytes(row["fingerprint"]) == prints[row["person"]]}
    # One order for all, or two files with the same people would deadlock.
    changed = sorted(set(people) - same)
    if not changed:
        return 0
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
    numbers = tx.execute("select number from profiles where person = any(%s)", (changed,)).fetchall()
    tx.append_change(PEOPLE, "profiles", {"people": [row["number"] for row in numbers]})
    return len(changed)


def withdraw(tx: Transaction, person: str) -> bool:
    """Store a withdrawal and tell the index. False when it was made before."""
    stored = tx.execute(
        "insert into withdrawals (person, withdrawal_time) values (%s, %s) on conflict do nothing",
        (person, tx.now),
    )
    if stored.rowcount:
        tx.append_change(PEOPLE, "withdrawals", {"withdrawn": [person]})
    return stored.rowcount == 1


def withdrawal_time(tx: Transaction, person: str) -> datetime | None:
    """When a person withdrew; None when they did not."""
    row = tx.execute("select withdrawal_time from withdrawals where person = %s", (person,)).fetchone()
    return row["withdrawal_time"] if row else None


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


def people_numbered(tx: Transaction, numbers: Sequence[int]) -> list[tuple[int, Person]]:
    """The people with these numbers."""
    rows = tx.execute(
        "select number, person, document from profiles where number = any(%s)", (list(numbers),)
    )
    return [(row["number"], _person(row["person"], row["document"])) for row in rows.fetchall()]


def withdrawn(tx: Transaction) -> list[str]:
    """Everybody who withdrew."""
    return [row["person"] for row in tx.execute("select person from withdrawals").fetchall()]


def insert_audience(tx: Transaction, audience: Audience) -> None:
    """Store a new audience."""
    tx.execute(
        """
        insert into audiences (enterprise, name, display_name, definition, state, create_time)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (
            enterprise_of(audience.name),
            audience.name,
            audience.display_name,
            audience.definition,
            audience.state,
            audience.create_time,
        ),
    )


def archive_audience(tx: Transaction, name: str) -> None:
    """Take an audience out of use; its people are forgotten."""
    tx.execute(
        "update audiences set state = 'ARCHIVED', members = null where enterprise = %s and name = %s",
        (enterprise_of(name), name),
    )


def save_build(tx: Transaction, audience: Audience, members: BitMap) -> None:
    """Store a new version of an audience that was locked in this transaction."""
    tx.execute(
        """
        update audiences set state = %s, size = %s, version = %s, build_time = %s, members = %s
        where enterprise = %s and name = %s
        """,
        (
            audience.state,
            audience.size,
            audience.version,
            audience.build_time,
            members.serialize(),
            enterprise_of(audience.name),
            audience.name,
        ),
    )


def get_audience(tx: Transaction, name: str) -> Audience | None:
    """An audience."""
    found = audiences_named(tx, [name])
    return found.get(name)


def lock_audience(tx: Transaction, name: str) -> Audience | None:
    """An audience, locked until the transaction ends."""
    tx.execute(
        "select from audiences where enterprise = %s and name = %s for update", (enterprise_of(name), name)
    )
    return get_audience(tx, name)


def audiences_named(tx: Transaction, names: Iterable[str]) -> dict[str, Audience]:
    """Those of these audiences that exist."""
    rows = tx.execute(
        """
        select name, display_name, definition, state, size, version, create_time, build_time
        from audiences where enterprise = any(%s) and name = any(%s)
        """,
        _keys(names),
    )
    return {row["name"]: _audience(row) for row in rows.fetchall()}


def members_of(tx: Transaction, names: Iterable[str]) -> dict[str, BitMap]:
    """The people of the newest versions of these audiences, as far as they have one."""
    rows = tx.execute(
        "select name, members from audiences where enterprise = any(%s) and name = any(%s) and members is not null",
        _keys(names),
    )
    return {row["name"]: BitMap.deserialize(bytes(row["members"])) for row in rows.fetchall()}


def list_audiences(
    tx: Transaction, enterprise: str, *, limit: int, before: tuple[str, str] | None = None
) -> list[Audience]:
    """An enterprise's audiences, newest first, after the one with this creation time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        """
        select name, display_name, definition, state, size, version, create_time, build_time
        from audiences where enterprise = %s and (create_time, name) < (%s::timestamptz, %s)
        order by create_time desc, name desc limit %s
        """,
        (enterprise, time, name, limit),
    )
    return [_audience(row) for row in rows.fetchall()]


def _keys(names: Iterable[str]) -> tuple[list[str | None], list[str]]:
    """What finds rows by their primary key: the enterprises of these names, and the names."""
    wanted = sorted(set(names))
    return list({enterprise_of(name) for name in wanted}), wanted


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
        **{**row, "definition": bytes(row["definition"]), "state": AudienceState(row["state"])},
    )
