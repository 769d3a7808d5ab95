"""
Every SQL statement of placement: model objects in and out.

A row's enterprise is that of its name, so a statement serves tenants and the platform alike; row-level security decides which
rows each of them sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.chassis.names import enterprise_of
from services.placement.model import (
    CAP_WINDOW,
    EXPOSURES_KEPT,
    Campaign,
    CampaignState,
    Creative,
    Enterprise,
    Module,
    Placement,
    Registration,
)

STATE = "state"
"""
The change log that the engine follows. A change names what changed (`audiences`, `campaigns`, `withdrawn`), and the engine reads
it again; exposures are in the change itself.
"""

_PURGED_AT_ONCE = 10_000

_INSERT_MODULE: LiteralString = """
    insert into modules (enterprise, name, title, body, link_url, start_time, end_time, position, create_time)
    values (%(enterprise)s, %(name)s, %(title)s, %(body)s, %(link_url)s, %(start_time)s, %(end_time)s, %(position)s,
            %(create_time)s)
"""
_INSERT_CAMPAIGN: LiteralString = """
    insert into campaigns (enterprise, name, display_name, start_time, end_time, capacity, state, create_time)
    values (%(enterprise)s, %(name)s, %(display_name)s, %(start_time)s, %(end_time)s, %(capacity)s, %(state)s,
            %(create_time)s)
"""
_INSERT_PLACEMENT: LiteralString = """
    insert into placements (enterprise, name, campaign, touchpoint, format, audience, relevance_floor, daily_cap, creative,
                            create_time)
    values (%(enterprise)s, %(name)s, %(campaign)s, %(touchpoint)s, %(format)s, %(audience)s, %(relevance_floor)s,
            %(daily_cap)s, %(creative)s, %(create_time)s)
"""
_INSERT_REGISTRATION: LiteralString = """
    insert into registrations (enterprise, campaign, person, name, display_name, placement, create_time)
    values (%(enterprise)s, %(campaign)s, %(person)s, %(name)s, %(display_name)s, %(placement)s, %(create_time)s)
"""

# Enterprises


def save_display_name(tx: Transaction, enterprise: str, display_name: str) -> None:
    """Remember the name that people see."""
    tx.execute(
        """
        insert into enterprises (enterprise, display_name) values (%s, %s)
        on conflict (enterprise) do update set display_name = excluded.display_name
        """,
        (enterprise, display_name),
    )


def save_verification(tx: Transaction, enterprise: str, verified: bool, since: datetime) -> None:  # noqa: FBT001
    """Remember whether an enterprise is verified, unless something newer is known."""
    tx.execute(
        """
        insert into enterprises as known (enterprise, verified, verification_time) values (%s, %s, %s)
        on conflict (enterprise) do update
            set verified = excluded.verified, verification_time = excluded.verification_time
            where known.verification_time is null or known.verification_time < excluded.verification_time
        """,
        (enterprise, verified, since),
    )


def get_enterprise(tx: Transaction, name: str) -> Enterprise | None:
    """An enterprise; None while its registration has not arrived."""
    row = tx.execute(
        "select display_name, verified from enterprises where enterprise = %s and display_name is not null",
        (name,),
    ).fetchone()
    return Enterprise(name, row["display_name"], row["verified"]) if row else None


# Pages


def insert_module(tx: Transaction, module: Module) -> None:
    """Store a new module."""
    tx.execute(_INSERT_MODULE, _row(module))


def get_module(tx: Transaction, name: str) -> Module | None:
    """A module."""
    row = tx.execute("select * from modules where enterprise = %s and name = %s", _key(name)).fetchone()
    return _module(row) if row else None


def delete_module(tx: Transaction, name: str) -> Module | None:
    """Take a module away; returns it as it was."""
    row = tx.execute(
        "delete from modules where enterprise = %s and name = %s returning *", _key(name)
    ).fetchone()
    return _module(row) if row else None


def list_modules(
    tx: Transaction, enterprise: str, *, limit: int, after: tuple[int, str, str] | None = None
) -> list[Module]:
    """An enterprise's modules in the order of the page, after the one with this position, creation time and name."""
    position, time, name = after or (-1, "-infinity", "")
    rows = tx.execute(
        """
        select * from modules where enterprise = %s and (position, create_time, name) > (%s, %s::timestamptz, %s)
        order by position, create_time, name limit %s
        """,
        (enterprise, position, time, name, limit),
    )
    return [_module(row) for row in rows.fetchall()]


def modules_shown(tx: Transaction, enterprise: str, *, limit: int) -> list[Module]:
    """The modules that the page shows now, in its order."""
    rows = tx.execute(
        """
        select * from modules where enterprise = %s and start_time <= %s and end_time > %s
        order by position, create_time, name limit %s
        """,
        (enterprise, tx.now, tx.now, limit),
    )
    return [_module(row) for row in rows.fetchall()]


def events_shown(tx: Transaction, enterprise: str, *, limit: int) -> list[tuple[Campaign, Placement]]:
    """The campaigns that are live now and have an event card, those that end first before the others, with their first card."""
    rows = tx.execute(
        """
        select * from campaigns c
        where enterprise = %s and state = 'LIVE' and start_time <= %s and end_time > %s
            and exists (select from placements p
                        where p.enterprise = c.enterprise and p.campaign = c.name and p.format = 'EVENT_CARD')
        order by end_time, name limit %s
        """,
        (enterprise, tx.now, tx.now, limit),
    )
    campaigns = [_campaign(row) for row in rows.fetchall()]
    rows = tx.execute(
        """
        select distinct on (campaign) * from placements
        where enterprise = %s and campaign = any(%s) and format = 'EVENT_CARD'
        order by campaign, create_time, name
        """,
        (enterprise, [campaign.name for campaign in campaigns]),
    )
    cards = {row["campaign"]: _placement(row) for row in rows.fetchall()}
    return [(campaign, cards[campaign.name]) for campaign in campaigns]


# Campaigns


def insert_campaign(tx: Transaction, campaign: Campaign) -> None:
    """Store a new campaign."""
    tx.execute(_INSERT_CAMPAIGN, _row(campaign))


def update_campaign(tx: Transaction, campaign: Campaign) -> None:
    """Store the state and the count of a campaign that was locked in this transaction."""
    tx.execute(
        "update campaigns set state = %s, registration_count = %s where enterprise = %s and name = %s",
        (campaign.state, campaign.registration_count, *_key(campaign.name)),
    )


def get_campaign(tx: Transaction, name: str) -> Campaign | None:
    """A campaign."""
    row = tx.execute("select * from campaigns where enterprise = %s and name = %s", _key(name)).fetchone()
    return _campaign(row) if row else None


def lock_campaign(tx: Transaction, name: str) -> Campaign | None:
    """A campaign, locked until the transaction ends: its capacity is exact because registrations pass here one by one."""
    row = tx.execute(
        "select * from campaigns where enterprise = %s and name = %s for update", _key(name)
    ).fetchone()
    return _campaign(row) if row else None


def list_campaigns(
    tx: Transaction, enterprise: str, *, limit: int, before: tuple[str, str] | None = None
) -> list[Campaign]:
    """An enterprise's campaigns, newest first, after the one with this creation time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        """
        select * from campaigns where enterprise = %s and (create_time, name) < (%s::timestamptz, %s)
        order by create_time desc, name desc limit %s
        """,
        (enterprise, time, name, limit),
    )
    return [_campaign(row) for row in rows.fetchall()]


def live_campaigns(tx: Transaction, enterprise: str | None = None) -> list[str]:
    """The names of the live campaigns whose flight is not over: an enterprise's, or all that the scope sees."""
    rows = tx.execute(
        """
        select name from campaigns
        where state = 'LIVE' and end_time > %s and (%s::text is null or enterprise = %s)
        """,
        (tx.now, enterprise, enterprise),
    )
    return [row["name"] for row in rows.fetchall()]


def lock_and_count_live_placements(tx: Transaction, enterprise: str | None) -> int:
    """
    How many placements of live campaigns the enterprise has whose flight is not over. Holds others who count them until
    the transaction ends: the limit is exact however many campaigns are started at once.

    A campaign whose flight has yet to begin counts: nobody is asked again when it does.
    """
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{enterprise} live_placements",))
    found = tx.execute(
        """
        select count(*) as live from campaigns c
        join placements p on p.enterprise = c.enterprise and p.campaign = c.name
        where c.enterprise = %s and c.state = 'LIVE' and c.end_time > %s
        """,
        (enterprise, tx.now),
    )
    return int(found.fetchall()[0]["live"])


def insert_placement(tx: Transaction, placement: Placement) -> None:
    """Store a new placement."""
    event_time = placement.creative.event_time
    creative = asdict(placement.creative) | {"event_time": event_time.isoformat() if event_time else None}
    tx.execute(_INSERT_PLACEMENT, _row(placement) | {"creative": Jsonb(creative)})


def placements_of(tx: Transaction, campaign: str) -> list[Placement]:
    """All placements of a campaign."""
    rows = tx.execute("select * from placements where enterprise = %s and campaign = %s", _key(campaign))
    return [_placement(row) for row in rows.fetchall()]


def list_placements(
    tx: Transaction, campaign: str, *, limit: int, after: tuple[str, str] | None = None
) -> list[Placement]:
    """A campaign's placements, oldest first, after the one with this creation time and name."""
    time, name = after or ("-infinity", "")
    rows = tx.execute(
        """
        select * from placements
        where enterprise = %s and campaign = %s and (create_time, name) > (%s::timestamptz, %s)
        order by create_time, name limit %s
        """,
        (*_key(campaign), time, name, limit),
    )
    return [_placement(row) for row in rows.fetchall()]


# Audiences


def save_part(tx: Transaction, audience: str, version: int, part: int, members: bytes) -> None:
    """Keep a part of an audience as it came, unless the audience is further already."""
    tx.execute(
        """
        insert into audience_parts (enterprise, audience, version, part, members)
        select %(enterprise)s, %(audience)s, %(version)s, %(part)s, %(members)s
        where not exists (select from audiences where enterprise = %(enterprise)s and name = %(audience)s
                          and version >= %(version)s)
        on conflict do nothing
        """,
        {
            "enterprise": enterprise_of(audience),
            "audience": audience,
            "version": version,
            "part": part,
            "members": members,
        },
    )


def save_version(tx: Transaction, audience: str, version: int, parts: int) -> None:
    """Remember of how many parts a version consists."""
    tx.execute(
        "insert into audience_versions (enterprise, audience, version, parts) values (%s, %s, %s, %s) on conflict do nothing",
        (*_key(audience), version, parts),
    )


def lock_audience(tx: Transaction, audience: str) -> None:
    """Hold others who keep parts of the audience until the transaction ends. Makes the audience when it is new."""
    tx.execute(
        "insert into audiences (enterprise, name) values (%s, %s) on conflict do nothing", _key(audience)
    )
    tx.execute("select from audiences where enterprise = %s and name = %s for update", _key(audience))


def promote_version(tx: Transaction, audience: str, version: int) -> bool:
    """Make a version the locked audience's current one if all of its parts are there and it is newer. Older ones go."""
    key = {"enterprise": enterprise_of(audience), "audience": audience, "version": version}
    promoted = tx.execute(
        """
        update audiences set version = %(version)s
        where enterprise = %(enterprise)s and name = %(audience)s and version < %(version)s and exists (
            select from audience_versions v
            where v.enterprise = %(enterprise)s and v.audience = %(audience)s and v.version = %(version)s and v.parts = (
                select count(*) from audience_parts p
                where p.enterprise = %(enterprise)s and p.audience = %(audience)s and p.version = %(version)s))
        """,
        key,
    )
    if not promoted.rowcount:
        return False
    for statement in (
        "delete from audience_parts where enterprise = %(enterprise)s and audience = %(audience)s and version < %(version)s",
        "delete from audience_versions where enterprise = %(enterprise)s and audience = %(audience)s and version < %(version)s",
    ):
        tx.execute(statement, key)
    return True


def archive_audience(tx: Transaction, audience: str) -> None:
    """Take an audience out of use."""
    tx.execute(
        """
        insert into audiences (enterprise, name, archived) values (%s, %s, true)
        on conflict (enterprise, name) do update set archived = true
        """,
        _key(audience),
    )


def audience_is_ready(tx: Transaction, audience: str) -> bool:
    """Whether a complete version is here, and the audience not archived."""
    row = tx.execute(
        "select from audiences where enterprise = %s and name = %s and version > 0 and not archived",
        _key(audience),
    ).fetchone()
    return row is not None


def audience_members(tx: Transaction, audience: str) -> list[bytes]:
    """The parts of an audience's current version, as they came; none when it is archived."""
    rows = tx.execute(
        """
        select p.members from audience_parts p
        join audiences a on a.enterprise = p.enterprise and a.name = p.audience and a.version = p.version
        where p.enterprise = %s and p.audience = %s and not a.archived order by p.part
        """,
        _key(audience),
    )
    return [bytes(row["members"]) for row in rows.fetchall()]


def ready_audiences(tx: Transaction) -> list[str]:
    """The names of all audiences that have people, as far as the scope sees them."""
    rows = tx.execute("select name from audiences where version > 0 and not archived")
    return [row["name"] for row in rows.fetchall()]


# People


def withdraw(tx: Transaction, person: str) -> bool:
    """Remember that a person wants no promotions. False when it was known."""
    stored = tx.execute("insert into withdrawals (person) values (%s) on conflict do nothing", (person,))
    return stored.rowcount == 1


def withdrawn(tx: Transaction) -> list[str]:
    """Everybody who wants no promotions."""
    return [row["person"] for row in tx.execute("select person from withdrawals").fetchall()]


def daily_cap(tx: Transaction, placement: str) -> int | None:
    """A placement's cap; None when there is no such placement."""
    row = tx.execute(
        "select daily_cap from placements where enterprise = %s and name = %s", _key(placement)
    ).fetchone()
    return row["daily_cap"] if row else None


def lock_exposures(tx: Transaction, placement: str, person: str) -> None:
    """
    Hold others who record that the person saw the placement until the transaction ends: the cap is exact however many come
    at once.
    """
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{placement} {person}",))


def get_exposure(tx: Transaction, placement: str, decision: str) -> datetime | None:
    """When the exposure of a decision on a placement was recorded."""
    row = tx.execute(
        "select exposure_time from exposures where enterprise = %s and decision = %s",
        (enterprise_of(placement), decision),
    ).fetchone()
    return row["exposure_time"] if row else None


def count_exposures(tx: Transaction, placement: str, person: str) -> int:
    """How often a person has seen a placement in the last 24 hours."""
    rows = tx.execute(
        """
        select count(*) as count from exposures
        where enterprise = %s and placement = %s and person = %s and exposure_time > %s
        """,
        (*_key(placement), person, tx.now - CAP_WINDOW),
    )
    return int(rows.fetchall()[0]["count"])


def insert_exposure(tx: Transaction, decision: str, placement: str, person: str) -> None:
    """Store an exposure, now, and tell the engine."""
    tx.execute(
        "insert into exposures (enterprise, decision, placement, person, exposure_time) values (%s, %s, %s, %s, %s)",
        (enterprise_of(placement), decision, placement, person, tx.now),
    )
    tx.append_change(STATE, "exposure", {"exposures": [[placement, person, decision, tx.now.isoformat()]]})


def exposures_counting(tx: Transaction) -> list[tuple[str, str, str, datetime]]:
    """All exposures that count against caps now, as far as the scope sees them: placement, person, decision, time."""
    rows = tx.execute(
        "select placement, person, decision, exposure_time from exposures where exposure_time > %s",
        (tx.now - CAP_WINDOW,),
    )
    return [
        (row["placement"], row["person"], row["decision"], row["exposure_time"]) for row in rows.fetchall()
    ]


def purge_exposures(tx: Transaction) -> int:
    """Remove some of the exposures that have served their time; returns how many."""
    deleted = tx.execute(
        """
        delete from exposures where ctid = any (array(
            select ctid from exposures where exposure_time < %s limit %s for update skip locked))
        """,
        (tx.now - EXPOSURES_KEPT, _PURGED_AT_ONCE),
    )
    return deleted.rowcount


def get_registration(tx: Transaction, campaign: str, person: str) -> Registration | None:
    """A person's registration."""
    row = tx.execute(
        "select * from registrations where enterprise = %s and campaign = %s and person = %s",
        (*_key(campaign), person),
    ).fetchone()
    return _registration(row) if row else None


def insert_registration(tx: Transaction, registration: Registration) -> None:
    """Store a registration."""
    tx.execute(_INSERT_REGISTRATION, _row(registration))


def list_registrations(
    tx: Transaction, campaign: str, *, limit: int, before: tuple[str, str] | None = None
) -> list[Registration]:
    """A campaign's registrations, newest first, after the one with this time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        """
        select * from registrations
        where enterprise = %s and campaign = %s and (create_time, name) < (%s::timestamptz, %s)
        order by create_time desc, name desc limit %s
        """,
        (*_key(campaign), time, name, limit),
    )
    return [_registration(row) for row in rows.fetchall()]


# Telling the engine


def tell_engine(tx: Transaction, kind: str, names: Sequence[str]) -> None:
    """Append that these `audiences`, `campaigns` or `withdrawn` people changed."""
    tx.append_change(STATE, kind, {kind: list(names)})


def last_change(tx: Transaction) -> int:
    """The newest change that the engine can follow."""
    return tx.last_change(STATE)


def _key(name: str) -> tuple[str | None, str]:
    """What finds a row by its primary key."""
    return enterprise_of(name), name


def _row(resource: Module | Campaign | Placement | Registration) -> dict[str, Any]:
    return {"enterprise": enterprise_of(resource.name), **asdict(resource)}


def _module(row: Mapping[str, Any]) -> Module:
    return Module(**{key: row[key] for key in Module.__slots__})


def _campaign(row: Mapping[str, Any]) -> Campaign:
    return Campaign(**{**{key: row[key] for key in Campaign.__slots__}, "state": CampaignState(row["state"])})


def _placement(row: Mapping[str, Any]) -> Placement:
    creative = row["creative"]
    event_time = creative["event_time"]
    shown = Creative(**{**creative, "event_time": datetime.fromisoformat(event_time) if event_time else None})
    return Placement(**{**{key: row[key] for key in Placement.__slots__}, "creative": shown})


def _registration(row: Mapping[str, Any]) -> Registration:
    return Registration(**{key: row[key] for key in Registration.__slots__})
