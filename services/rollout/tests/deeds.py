"""Everything that can be done to rollouts, as data, so that tests can draw it at random; and all that must be so afterwards."""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
from hypothesis import strategies as st
from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import admissions_pb2, changes_pb2, flags_pb2, serving_pb2
from numerator.rollout.v1 import rollout_pb2 as pb
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from services.chassis import events as messages
from services.chassis.database import PLATFORM, Transaction
from services.chassis.errors import ServiceError
from services.chassis.testing.outcomes import reason_of
from services.chassis.testing.rpc import member, operator
from services.rollout import audit, decision, measurements, scheduler, serving, store
from services.rollout.decision import decide
from services.rollout.guardrails import Sample
from services.rollout.model import EDITION_FLAG, Record, Rollout
from services.rollout.plan import Plan
from services.rollout.tests.populations import METRIC, TIERS, check_decided, plans
from services.rollout.tests.world import EDITION, OTHER, World, enterprise

PANEL = "rollouts/panel"
ROLLOUTS = {EDITION: EDITION_FLAG, PANEL: "panel"}
"""The rollouts that deeds are about, and their flags; the second may require the first."""
VERBS = (
    "Arm", "Start", "Advance", "Jump", "Pause", "Resume", "Rollback", "Restart", "Complete", "Archive", "Kill", "Unkill",
)  # fmt: skip
ENTERPRISES = 6
STAGES = ("s0", "s1", "s2", "s3")


@dataclass(frozen=True)
class Deed:
    """One thing to do: which of `Doing`'s methods, with what."""

    what: str
    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.what}{self.values}"


@dataclass
class Doing:
    """Does deeds on the service, from the API, as the scheduler and the guardrails do, and as accounts and analytics tell."""

    world: World
    tokens: list[str] = field(default_factory=list)
    invitations: list[str] = field(default_factory=list)

    def do(self, deed: Deed) -> str:
        """Do it; returns the reason for which it was refused, "" when it was not."""
        try:
            getattr(self, deed.what)(*deed.values)
        except grpc.RpcError as error:
            return reason_of(error)
        except ServiceError as error:
            return error.reason
        return ""

    # The API

    def apply(self, plan: Plan) -> None:
        self.world.apply(plan.text)

    def verb(self, name: str, verb: str, etag: str, options: Mapping[str, Any]) -> None:
        current = self.world.get(name).etag if etag else ""
        known = str(int(current) - 1) if etag == "stale" else current
        self.world.do(verb, name, etag=known, **options)

    def onward(self, name: str) -> None:
        """Whatever comes next, with the approval that it may need."""
        rollout = self.world.get(name)
        self.do(Deed("approve", (name, rollout.stage or "start")))
        self.do(next_deed(rollout))

    def approve(self, name: str, gate: str) -> None:
        self.world.do("Approve", name, by=OTHER, gate=gate)

    def admit(self, name: str, number: int) -> None:
        self.world.admit("AdmitEnterprise", number, name)

    def revoke(self, name: str, number: int) -> None:
        self.world.admit("RevokeAdmission", number, name)

    def enlist(self, name: str, number: int, kind: str, minutes: int) -> None:
        entry = admissions_pb2.ListEntry(enterprise=enterprise(number), kind=kind, reason="a test")
        if minutes:
            entry.expire_time.FromDatetime(self.world.clock.now() + timedelta(minutes=minutes))
        request = admissions_pb2.SetListEntryRequest(parent=name, entry=entry)
        self.world.as_(operator()).admissions.SetListEntry(request)

    def strike(self, name: str, number: int) -> None:
        request = admissions_pb2.DeleteListEntryRequest(parent=name, enterprise=enterprise(number))
        self.world.as_(operator()).admissions.DeleteListEntry(request)

    def invite(self, name: str, number: int, minutes: int) -> None:
        invitation = admissions_pb2.Invitation(enterprise=enterprise(number) if number else "")
        if minutes:
            invitation.expire_time.FromDatetime(self.world.clock.now() + timedelta(minutes=minutes))
        made = self.world.as_(operator()).admissions.CreateInvitation(
            admissions_pb2.CreateInvitationRequest(parent=name, invitation=invitation)
        )
        self.tokens.append(made.token)
        self.invitations.append(made.name)

    def uninvite(self, index: int) -> None:
        name = (
            self.invitations[index % len(self.invitations)]
            if self.invitations
            else f"{EDITION}/invitations/none"
        )
        self.world.as_(operator()).admissions.RevokeInvitation(
            admissions_pb2.RevokeInvitationRequest(name=name)
        )

    def accept(self, number: int, index: int) -> None:
        token = self.tokens[index % len(self.tokens)] if self.tokens else "none"
        request = admissions_pb2.AcceptInvitationRequest(token=token)
        self.world.as_(member(enterprise(number))).edition.AcceptInvitation(request)

    def join(self, number: int) -> None:
        stub = self.world.as_(member(enterprise(number))).edition
        stub.JoinWaitlist(admissions_pb2.JoinWaitlistRequest())

    def leave(self, number: int) -> None:
        stub = self.world.as_(member(enterprise(number))).edition
        stub.LeaveWaitlist(admissions_pb2.LeaveWaitlistRequest())

    def attributes(self, number: int, tier: str) -> None:
        request = admissions_pb2.SetEnterpriseAttributesRequest(
            enterprise=enterprise(number), attributes={"tier": tier} if tier else {}
        )
        self.world.as_(operator()).admissions.SetEnterpriseAttributes(request)

    def flag(self, percent: int) -> None:
        document = json.dumps({"flags": {"banner": {"percent": f"{percent}%"}}})
        self.world.as_(operator()).flags.ApplyFlags(flags_pb2.ApplyFlagsRequest(document=document))

    def propose(self, plan: Plan, minutes: int) -> None:
        proposed = changes_pb2.ChangeRequest(plan=plan.text, reason="a test")
        if minutes:
            proposed.schedule_time.FromDatetime(self.world.clock.now() + timedelta(minutes=minutes))
        request = changes_pb2.CreateChangeRequestRequest(
            parent=f"rollouts/{plan.rollout}", change_request=proposed
        )
        self.world.as_(operator()).changes.CreateChangeRequest(request)

    def agree(self, name: str) -> None:
        """Another operator approves the newest change request."""
        newest = self.world.changes(name)[:1]
        for change in newest:
            request = changes_pb2.ApproveChangeRequestRequest(
                name=change.name, content_hash=change.content_hash
            )
            self.world.as_(OTHER).changes.ApproveChangeRequest(request)

    def put(self, name: str) -> None:
        """Put the newest change request in force."""
        for change in self.world.changes(name)[:1]:
            self.world.as_(operator()).changes.ApplyChangeRequest(
                changes_pb2.ApplyChangeRequestRequest(name=change.name)
            )

    # Events

    def tell(self, number: int, verified: bool, late: int) -> None:
        self.world.tell(number, verified=verified, late=timedelta(minutes=late))

    def use(self, name: str, number: int, stage: str) -> None:
        self.world.use(number, stage=stage, flag=ROLLOUTS[name])

    def measure(self, bad: int) -> None:
        """Analytics tells of the last minute: everybody's calls, so many of a hundred of them bad."""
        now = self.world.clock.now().replace(second=0, microsecond=0)
        with self.world.database.transaction(PLATFORM) as tx:
            measurements.record(
                tx,
                METRIC,
                through=now,
                window_start=now - timedelta(minutes=1),
                samples={enterprise(number): Sample(100, bad) for number in range(1, ENTERPRISES + 1)},
            )

    # The clock

    def tick(self, minutes: int) -> None:
        """Time passes, and the scheduler does what there is to do, guardrails included."""
        self.world.clock.advance(timedelta(minutes=minutes))
        with self.world.database.transaction(PLATFORM) as tx:
            scheduler.expire(tx)
            scheduler.apply_due_changes(tx)
            names = [rollout.name for rollout in scheduler.rollouts(tx)]
        for name in names:
            with self.world.database.transaction(PLATFORM) as tx:
                scheduler.step(tx, name, look_every=timedelta(seconds=15))


def next_deed(rollout: pb.Rollout) -> Deed:
    """What a person would do next with a rollout; to one that is archived, nothing that is possible."""
    at_last = rollout.stage == rollout.stages[-1].id
    verb = {
        pb.Rollout.RUNNING: "Complete" if at_last else "Advance",
        pb.Rollout.PAUSED: "Resume",
        pb.Rollout.ROLLED_BACK: "Restart",
        pb.Rollout.COMPLETED: "Rollback",
    }.get(rollout.state, "Start")
    return Deed("verb", (rollout.name, verb, "", {"skip_hold": True} if verb == "Advance" else {}))


_names = st.sampled_from([EDITION, EDITION, EDITION, PANEL])
_numbers = st.integers(1, ENTERPRISES)


def _deed(what: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[Deed]:
    return st.builds(Deed, st.just(what), st.tuples(*values))


@st.composite
def _some_plan(draw: st.DrawFn, rollouts: st.SearchStrategy[str] = _names) -> Plan:
    name = draw(rollouts)
    options: dict[str, Any] = {}
    if name == PANEL and draw(st.booleans()):
        options["requires"] = (EDITION_FLAG,)
    return draw(
        plans(
            rollout=name.removeprefix("rollouts/"), flag=ROLLOUTS[name], tenants=ENTERPRISES, moves=True,
            **options,
        )
    )  # fmt: skip


_etags = st.sampled_from(["", "", "", "now", "stale"])
_options = {
    "Advance": st.fixed_dictionaries({"skip_hold": st.booleans()}),
    "Jump": st.fixed_dictionaries({"stage": st.sampled_from(STAGES)}),
    "Rollback": st.fixed_dictionaries({"to_start": st.booleans()}),
}
VERB = st.sampled_from(VERBS).flatmap(
    lambda verb: _deed("verb", _names, st.just(verb), _etags, _options.get(verb, st.just({})))
)
ONWARD = _deed("onward", _names)
PLAN = _deed("apply", _some_plan())
APPROVAL = _deed("approve", _names, st.sampled_from(["start", *STAGES]))
CHANGE = st.one_of(
    _deed("propose", _some_plan(), st.sampled_from([0, 0, 30])), _deed("agree", _names), _deed("put", _names)
)
ONE = st.one_of(
    _deed("admit", _names, _numbers),
    _deed("revoke", _names, _numbers),
    _deed("enlist", _names, _numbers, st.sampled_from(["ALLOW", "DENY"]), st.sampled_from([0, 0, 20])),
    _deed("strike", _names, _numbers),
    _deed("invite", _names, st.sampled_from([0, 1, 2]), st.sampled_from([0, 0, 20])),
    _deed("accept", _numbers, st.integers(0, 9)),
    _deed("uninvite", st.integers(0, 9)),
    _deed("join", _numbers),
    _deed("leave", _numbers),
    _deed("attributes", _numbers, st.sampled_from([*TIERS, ""])),
)
EVENT = st.one_of(
    _deed("tell", _numbers, st.sampled_from([True, True, False]), st.sampled_from([0, 0, 0, 90])),
    _deed("use", _names, _numbers, st.sampled_from(STAGES)),
)
FLAG = _deed("flag", st.sampled_from([10, 20]))
TIME = _deed("tick", st.sampled_from([0, 1, 20, 45, 120]))
MEASURE = _deed("measure", st.sampled_from([0, 0, 50]))
ANY = st.one_of(
    ONWARD, ONWARD, VERB, PLAN, APPROVAL, CHANGE, ONE, ONE, EVENT, EVENT, FLAG, TIME, TIME, MEASURE
)


@st.composite
def _beginning(draw: st.DrawFn) -> list[Deed]:
    strangers = draw(st.sets(_numbers, max_size=2))
    return [
        *(Deed("apply", (draw(_some_plan(st.just(name))),)) for name in ROLLOUTS),
        *(Deed("tell", (number, number not in strangers, 0)) for number in range(1, ENTERPRISES + 1)),
        Deed("approve", (EDITION, "start")),
        Deed("verb", (EDITION, "Start", "", {})),
    ]


BEGINNING = _beginning()
"""Both rollouts, all enterprises, most of them verified, and the first rollout started."""


# What is served


@dataclass
class Reader:
    """
    What a gateway does, in few lines: it takes the admissions that it is told, and asks where there is a gap.

    Attributes:
        key: version and token of what it has.
        asked: how often it had to ask.
    """

    key: tuple[int, str] = (0, "")
    records: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    enterprises: dict[str, tuple[bool, dict[str, str]]] = field(default_factory=dict)
    asked: int = 0

    def hear(self, told: events.AdmissionsChanged, ask: Callable[..., Any]) -> None:
        """Take what the broker brings."""
        if self.key == (told.version, told.token):
            return
        follows = self.key == (told.from_version, told.from_token)
        if follows and (told.records or told.enterprises):
            self._take(told)
            self.key = (told.version, told.token)
        else:
            self.ask(ask)

    def ask(self, ask: Callable[..., Any]) -> None:
        """Ask for what is newer, page by page; what was had when the first page was made is what is known to be complete."""
        self.asked += 1
        page = first = ask(serving_pb2.GetAdmissionsRequest(since=self.key[0], token=self.key[1]))
        if first.whole:
            self.records, self.enterprises = {}, {}
        self._take(first)
        while page.more:
            page = ask(
                serving_pb2.GetAdmissionsRequest(since=self.key[0], token=self.key[1], cursor=page.cursor)
            )
            self._take(page)
        self.key = (first.version, first.token)

    def _take(self, told: Any) -> None:
        for each in told.records:
            self.records[each.flag, each.enterprise] = (each.state, each.stage, each.reason, each.queue_key)
        for each in told.enterprises:
            self.enterprises[each.enterprise] = (each.verified, dict(each.attributes))


@dataclass
class Checking:
    """Everything that must be so between deeds; see `check`."""

    world: World
    anchors: Path
    listener: Reader = field(default_factory=Reader)
    asker: Reader = field(default_factory=Reader)
    heard: int = 0
    seats: dict[tuple[str, str], int] = field(default_factory=dict)

    def check(self) -> None:
        """Fail unless what is stored, what was told, what is served and what was written down agree with each other."""
        with self.world.database.transaction(PLATFORM) as tx:
            rollouts = store.all_rollouts(tx)
            decided = {rollout.name: self._decided(tx, rollout) for rollout in rollouts}
            document = self._snapshot(tx, rollouts)
            self._streams(tx)
            verified = audit.verify(tx, self.anchors)
        assert verified.ok, verified.mistakes
        self._flags(document, rollouts, decided)

    def _decided(self, tx: Transaction, rollout: Rollout) -> list[Record]:
        """The records are what deciding all of them anew comes to, though many were decided one by one."""
        known, first = store.records(tx, rollout)
        records = list(known.values())
        assert not first, "an enterprise is on no list"
        if not rollout.killed:  # a kill decides nothing, until it is taken back
            check_decided(rollout, records)
            assert decide(rollout, records, now=tx.now) == records
        assert not any(decision.ineligible(rollout.plan, each) for each in records if each.is_active)
        for each in records:
            if each.seat is not None:
                assert self.seats.setdefault((rollout.name, each.enterprise), each.seat) == each.seat
        anchors = tx.execute(
            "select stage from anchors where rollout = %s order by number", (rollout.name,)
        ).fetchall()
        if rollout.stage:
            assert anchors, "a stage that no rollback leads out of"
            assert anchors[0]["stage"] == ""
        assert rollout.anchors == len(anchors)
        return records

    def _snapshot(self, tx: Transaction, rollouts: list[Rollout]) -> dict[str, Any]:
        """The newest snapshot says what is stored, and each was told, in order."""
        version, sha256, packed = serving.get_snapshot(tx) or (0, "", b"")
        told = all_told(tx, events.SnapshotPublished)
        assert [each.version for _, each in told] == list(range(1, version + 1))
        if not told:
            return {"flags": {"flags": {}}}
        newest = told[-1][1]
        assert (newest.sha256, newest.document) == (sha256, packed)
        text = zlib.decompress(packed)
        assert hashlib.sha256(text).hexdigest() == sha256
        document: dict[str, Any] = json.loads(text)
        assert document == serving.compile_document(version, rollouts, serving.all_flags(tx))
        return document

    def _streams(self, tx: Transaction) -> None:
        """Who listens, who asks for what is newer, and who asks for everything know what is stored."""

        def ask(request: serving_pb2.GetAdmissionsRequest) -> serving_pb2.GetAdmissionsResponse:
            return serving.admissions_since(tx, request)

        for sequence, told in all_told(tx, events.AdmissionsChanged, after=self.heard):
            self.heard = sequence
            assert (told.from_version, told.version) == (told.version - 1, told.version)
            self.listener.hear(told, ask)
        self.asker.ask(ask)
        newcomer = Reader()
        newcomer.ask(ask)
        rows = tx.execute(
            "select r.flag, a.enterprise, a.state, a.stage, a.reason, a.queue_key"
            " from admissions a join rollouts r on r.name = a.rollout"
        )
        records = {(row["flag"], row["enterprise"]): tuple(row.values())[2:] for row in rows.fetchall()}
        known = tx.execute("select enterprise, verified, attributes from enterprises").fetchall()
        enterprises = {row["enterprise"]: (row["verified"], row["attributes"]) for row in known}
        newest = serving.admissions_version(tx)
        for reader in (self.listener, self.asker, newcomer):
            assert reader.records == records
            assert reader.enterprises == enterprises
            assert reader.key == (newest.number, newest.token)

    def _flags(
        self, document: dict[str, Any], rollouts: list[Rollout], decided: dict[str, list[Record]]
    ) -> None:
        """The compiled flags let in who is ACTIVE, where nothing that they need is killed, and nobody else; and so it was told."""
        engine = FlagdCore()
        engine.set_flags(json.dumps(document["flags"]))
        by_flag = {rollout.flag: rollout for rollout in rollouts}
        active = {
            rollout.flag: {r.enterprise for r in decided[rollout.name] if r.is_active} for rollout in rollouts
        }

        def on(flag: str, name: str) -> bool:
            rollout = by_flag[flag]
            return (
                not rollout.killed
                and name in active[flag]
                and all(on(each, name) for each in rollout.plan.requires)
            )

        for number in range(1, ENTERPRISES + 2):
            name = enterprise(number)
            records = {flag: self.listener.records.get((flag, name), ("NONE", "")) for flag in by_flag}
            verified, attributes = self.listener.enterprises.get(name, (False, {}))
            context = {
                **attributes,
                "enterprise": name,
                "verified": verified,
                "bucket": {},
                "admissions": {
                    by_flag[flag].id: {"state": each[0], "stage": each[1]} for flag, each in records.items()
                },
            }
            for flag in by_flag:
                details = engine.resolve_boolean_value(flag, False, EvaluationContext(name, context))
                assert details.value is on(flag, name)
        told: dict[str, set[str]] = {rollout.name: set() for rollout in rollouts}
        with self.world.database.transaction(PLATFORM) as tx:
            moves = [
                *all_told(tx, events.AdmissionGranted), *all_told(tx, events.AdmissionSuspended),
                *all_told(tx, events.AdmissionRevoked),
            ]  # fmt: skip
        for _, each in sorted(moves, key=lambda move: move[0]):
            granted = isinstance(each, events.AdmissionGranted)
            assert (each.enterprise in told[each.rollout]) is not granted
            (told[each.rollout].add if granted else told[each.rollout].discard)(each.enterprise)
        assert told == {rollout.name: active[rollout.flag] for rollout in rollouts}


def all_told(tx: Transaction, kind: type[Any], after: int = 0) -> list[tuple[int, Any]]:
    """The events of a class, each with its number in the outbox."""
    rows = tx.execute(
        "select sequence, content_type, body from outbox where type = %s and sequence > %s order by sequence",
        (messages.event_type(kind), after),
    )
    return [
        (row["sequence"], messages.decode(row["content_type"], bytes(row["body"]), kind))
        for row in rows.fetchall()
    ]


def wipe(world: World) -> None:
    """Empty all tables of the service."""
    with world.database.transaction(PLATFORM) as tx:
        tables = tx.execute(
            "select relname from pg_class where relnamespace = 'rollout'::regnamespace and relkind = 'r'"
            " and relname <> 'chassis_migrations'"
        ).fetchall()
    names = ", ".join(f"rollout.{row['relname']}" for row in tables)
    with psycopg.connect(world.database.admin_url, autocommit=True) as connection:
        connection.execute(f"truncate {names} restart identity cascade")  # type: ignore[call-overload]
