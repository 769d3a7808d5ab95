"""Every SQL statement of placement: model objects in and out."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.placement.model import CAP_WINDOW, Campaign, CampaignState, Module, Placement, Registration

STATE = "state"
"""
The change log that the engine follows. A change names what changed (`audience`, `campaign`, `person`), and the engine reads it
again; exposures are in the change itself.
"""

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


def save_enterprise_name(tx: Transaction, enterprise: str, display_name: str) -> None:
    """Remember the name that people see."""
    tx.execute(
        """
        insert into enterprise_names (enterprise, display_name) values (%s, %s)
        on conflict (enterprise) do update set display_name = excluded.display_name
        """,
        (enterprise, display_name),
    )


def enterprise_name(tx: Transaction, enterprise: str) -> str | None:
    """The name that people see."""
    row = tx.execute(
        "select display_name from enterprise_names where enterprise = %s", (enterprise,)
    ).fetchone()
    return row["display_name"] if row else None


# Pages


def insert_module(tx: Transaction, module: Module) -> None:
    """Store a new module."""
    tx.execute(_INSERT_MODULE, {"enterprise": tx.enterprise, **asdict(module)})


def get_module(tx: Transaction, name: str) -> Module | None:
    """A module."""
    row = tx.execute(
        "select * from modules where enterprise = %s and name = %s", (tx.enterprise, name)
    ).fetchone()
    return _module(row) if row else None


def delete_module(tx: Transaction, name: str) -> Module | None:
    """Take a module away; returns it as it was."""
    row = tx.execute(
        "delete from modules where enterprise = %s and name = %s returning *", (tx.enterprise, name)
    ).fetchone()
    return _module(row) if row else None


def list_modules(tx: Transaction, *, limit: int, after: tuple[int, str, str] | None = None) -> list[Module]:
    """The tenant's modules in the order of the page, after the one with this position, creation time and name."""
    position, time, name = after or (-1, "-infinity", "")
    rows = tx.execute(
        """
        select * from modules where enterprise = %s and (position, create_time, name) > (%s, %s::timestamptz, %s)
        order by position, create_time, name limit %s
        """,
        (tx.enterprise, position, time, name, limit),
    )
    return [_module(row) for row in rows.fetchall()]


def modules_shown(tx: Transaction, at: datetime) -> list[Module]:
    """The modules that the page shows at a moment, in its order."""
    rows = tx.execute(
        """
        select * from modules where enterprise = %s and start_time <= %s and end_time > %s
        order by position, create_time, name limit 100
        """,
        (tx.enterprise, at, at),
    )
    return [_module(row) for row in rows.fetchall()]


# Campaigns


def insert_campaign(tx: Transaction, campaign: Campaign) -> None:
    """Store a new campaign."""
    tx.execute(_INSERT_CAMPAIGN, {"enterprise": tx.enterprise, **asdict(campaign)})


def update_campaign(tx: Transaction, campaign: Campaign) -> None:
    """Store the state and the count of a campaign that was locked in this transaction."""
    tx.execute(
        "update campaigns set state = %s, registration_count = %s where enterprise = %s and name = %s",
        (campaign.state, campaign.registration_count, tx.enterprise, campaign.name),
    )


def get_campaign(tx: Transaction, name: str) -> Campaign | None:
    """A campaign."""
    row = tx.execute(
        "select * from campaigns where enterprise = %s and name = %s", (tx.enterprise, name)
    ).fetchone()
    return _campaign(row) if row else None


def lock_campaign(tx: Transaction, name: str) -> Campaign | None:
    """A campaign, locked until the transaction ends: its capacity is exact because registrations pass here one by one."""
    row = tx.execute(
        "select * from campaigns where enterprise = %s and name = %s for update", (tx.enterprise, name)
    ).fetchone()
    return _campaign(row) if row else None


def list_campaigns(tx: Transaction, *, limit: int, before: tuple[str, str] | None = None) -> list[Campaign]:
    """The tenant's campaigns, newest first, after the one with this creation time and name."""
    time, name = before or ("infinity", "")
    rows = tx.execute(
        """
        select * from campaigns where enterprise = %s and (create_time, name) < (%s::timestamptz, %s)
        order by create_time desc, name desc limit %s
        """,
        (tx.enterprise, time, name, limit),
    )
    return [_campaign(row) for row in rows.fetchall()]


def get_campaign_of_all(tx: Transaction, name: str) -> Campaign | None:
    """A campaign of any tenant; needs the scope PLATFORM."""
    row = tx.execute("select * from campaigns where name = %s", (name,)).fetchone()
    return _campaign(row) if row else None


def campaigns_of_all(tx: Transaction) -> list[Campaign]:
    """All live campaigns of all tenants; needs the scope PLATFORM."""
    return [_campaign(row) for row in tx.execute("select * from campaigns where state = 'LIVE'").fetchall()]


def insert_placement(tx: Transaction, placement: Placement) -> None:
    """Store a new placement."""
    row = {"enterprise": tx.enterprise, **asdict(placement), "creative": Jsonb(placement.creative)}
    tx.execute(_INSERT_PLACEMENT, row)


def placements_of(tx: Transaction, campaign: str) -> list[Placement]:
    """A campaign's placements, oldest first."""
    rows = tx.execute("select * from placements where campaign = %s order by create_time, name", (campaign,))
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
        (tx.enterprise, campaign, time, name, limit),
    )
    return [_placement(row) for row in rows.fetchall()]


# Audiences


def save_part(tx: Transaction, audience: str, version: int, part: int, members: bytes) -> None:
    """Keep a part of an audience as it came."""
    tx.execute(
        """
        insert into audience_parts (enterprise, audience, version, part, members) values (%s, %s, %s, %s, %s)
        on conflict do nothing
        """,
        (tx.enterprise, audience, version, part, members),
    )


def save_version(tx: Transaction, audience: str, version: int, parts: int) -> None:
    """Remember of how many parts a version consists."""
    tx.execute(
        "insert into audience_versions (enterprise, audience, version, parts) values (%s, %s, %s, %s) on conflict do nothing",
        (tx.enterprise, audience, version, parts),
    )


def promote_version(tx: Transaction, audience: str, version: int) -> bool:
    """Make a version the audience's current one if all of its parts are there and it is newer. Older ones go."""
    tx.execute(
        "insert into audiences (enterprise, name) values (%s, %s) on conflict do nothing",
        (tx.enterprise, audience),
    )
    tx.execute(
        "select from audiences where enterprise = %s and name = %s for update", (tx.enterprise, audience)
    )
    promoted = tx.execute(
        """
        update audiences set version = %(version)s
        where enterprise = %(enterprise)s and name = %(audience)s and version < %(version)s and exists (
            select from audience_versions v
            where v.enterprise = %(enterprise)s and v.audience = %(audience)s and v.version = %(version)s and v.parts = (
                select count(*) from audience_parts p
                where p.enterprise = %(enterprise)s and p.audience = %(audience)s and p.version = %(version)s))
        """,
        {"enterprise": tx.enterprise, "audience": audience, "version": version},
    )
    if not promoted.rowcount:
        return False
    for statement in (
        "delete from audience_parts where enterprise = %s and audience = %s and version < %s",
        "delete from audience_versions where enterprise = %s and audience = %s and version < %s",
    ):
        tx.execute(statement, (tx.enterprise, audience, version))
    return True


def archive_audience(tx: Transaction, audience: str) -> None:
    """Take an audience out of use."""
    tx.execute(
        """
        insert into audiences (enterprise, name, archived) values (%s, %s, true)
        on conflict (enterprise, name) do update set archived = true
        """,
        (tx.enterprise, audience),
    )


def audience_is_ready(tx: Transaction, audience: str) -> bool:
    """Whether a complete version is here, and the audience not archived."""
    row = tx.execute(
        "select from audiences where enterprise = %s and name = %s and version > 0 and not archived",
        (tx.enterprise, audience),
    ).fetchone()
    return row is not None


def audience_members(tx: Transaction, audience: str) -> list[bytes]:
    """The parts of an audience's current version, as they came; none when it is archived."""
    rows = tx.execute(
        """
        select p.members from audience_parts p
        join audiences a on a.enterprise = p.enterprise and a.name = p.audience and a.version = p.version
        where p.audience = %s and not a.archived order by p.part
        """,
        (audience,),
    )
    return [bytes(row["members"]) for row in rows.fetchall()]


def audiences_of_all(tx: Transaction) -> list[str]:
    """The audiences of all tenants that have people; needs the scope PLATFORM."""
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


def get_exposure(tx: Transaction, decision: str) -> datetime | None:
    """When a decision's exposure was recorded."""
    row = tx.execute(
        "select exposure_time from exposures where enterprise = %s and decision = %s",
        (tx.enterprise, decision),
    ).fetchone()
    return row["exposure_time"] if row else None


def count_exposures(tx: Transaction, placement: str, person: str) -> int:
    """
    How often a person has seen a placement in the last 24 hours.

    Others who count for the same pair wait until this transaction ends: the cap is exact however many reports come at once.
    """
    tx.execute("select pg_advisory_xact_lock(hashtextextended(%s || ' ' || %s, 0))", (placement, person))
    row = tx.execute(
        """
        select count(*) as count from exposures
        where enterprise = %s and placement = %s and person = %s and exposure_time > %s
        """,
        (tx.enterprise, placement, person, tx.now - CAP_WINDOW),
    ).fetchone()
    return int(row["count"]) if row else 0


def daily_cap(tx: Transaction, placement: str) -> int | None:
    """A placement's cap; None when there is no such placement."""
    row = tx.execute(
        "select daily_cap from placements where enterprise = %s and name = %s", (tx.enterprise, placement)
    ).fetchone()
    return row["daily_cap"] if row else None


def insert_exposure(tx: Transaction, decision: str, placement: str, person: str) -> None:
    """Store an exposure, now, and tell the engine."""
    tx.execute(
        "insert into exposures (enterprise, decision, placement, person, exposure_time) values (%s, %s, %s, %s, %s)",
        (tx.enterprise, decision, placement, person, tx.now),
    )
    tx.append_change(STATE, "exposure", {"exposures": [[placement, person, decision, tx.now.isoformat()]]})


def exposures_since(tx: Transaction, moment: datetime) -> list[tuple[str, str, str, datetime]]:
    """All tenants' exposures since a moment: placement, person, decision, time; needs the scope PLATFORM."""
    rows = tx.execute(
        "select placement, person, decision, exposure_time from exposures where exposure_time > %s", (moment,)
    )
    return [
        (row["placement"], row["person"], row["decision"], row["exposure_time"]) for row in rows.fetchall()
    ]


def get_registration(tx: Transaction, campaign: str, person: str) -> Registration | None:
    """A person's registration."""
    row = tx.execute(
        "select * from registrations where enterprise = %s and campaign = %s and person = %s",
        (tx.enterprise, campaign, person),
    ).fetchone()
    return _registration(row) if row else None


def insert_registration(tx: Transaction, registration: Registration) -> None:
    """Store a registration."""
    tx.execute(
        """
        insert into registrations (enterprise, campaign, person, name, display_name, placement, create_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            tx.enterprise,
            registration.campaign,
            registration.person,
            registration.name,
            registration.display_name,
            registration.placement,
            registration.create_time,
        ),
    )


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
        (tx.enterprise, campaign, time, name, limit),
    )
    return [_registration(row) for row in rows.fetchall()]


# Telling the engine


def tell_engine(tx: Transaction, kind: str, names: Sequence[str]) -> None:
    """Append that these `audiences`, `campaigns` or `withdrawn` people changed."""
    tx.append_change(STATE, kind, {kind: list(names)})


def last_change(tx: Transaction) -> int:
    """The newest change that the engine can follow."""
    return tx.last_change(STATE)


def _module(row: dict[str, Any]) -> Module:
    return Module(**{key: row[key] for key in Module.__slots__})


def _campaign(row: dict[str, Any]) -> Campaign:
    return Campaign(**{**{key: row[key] for key in Campaign.__slots__}, "state": CampaignState(row["state"])})


def _placement(row: dict[str, Any]) -> Placement:
    return Placement(**{key: row[key] for key in Placement.__slots__})


def _registration(row: dict[str, Any]) -> Registration:
    return Registration(**{key: row[key] for key in Registration.__slots__})
