"""
What gateways serve from: the snapshot (flags and stages) and the admissions; how both are compiled, versioned and told.

Has the SQL of its own tables beside it: it is one subject. `docs/rollouts.md` describes the document and the two streams.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import serving_pb2 as pb
from psycopg.types.json import Jsonb

from services.chassis.database import Transaction
from services.chassis.ids import new_id
from services.rollout.model import NEXT_STEPS, Record, Rollout

CHANGES = "rollout.serving"
"""The change log of both streams, for whoever follows them in this service."""

REPLICA_KEPT = timedelta(seconds=10)
"""A gateway that has not reported for so long does not serve any more."""

_MOST_TOLD = 2000
"""More changed records than this are asked for rather than told: an event is no bulk transport."""
_PAGE = 5000
_BEFORE_ALL = -1
"""Records that were made before there were versions have version 0."""
_RECORDS, _ENTERPRISES = "records", "enterprises"
_IS_IN = "ACTIVE"


def targeting(rollout: Rollout, rollouts: Mapping[str, Rollout], flags: Mapping[str, Any]) -> dict[str, Any]:
    """
    The rule of a rollout's flag: on for an ACTIVE record, where all that the plan requires is on too.

    A comparison with a word, never an order between numbers: what is missing is off.
    """
    return {"if": [{"and": [*_conditions(rollout.flag, rollouts, flags, ())]}, "on", "off"]}


def _conditions(
    flag: str, rollouts: Mapping[str, Rollout], flags: Mapping[str, Any], above: Sequence[str]
) -> Iterator[Any]:
    """What must hold for a flag to be on, as JsonLogic; `rollouts` and `flags` are by flag."""
    if flag in above:
        yield False  # requires itself: nobody gets through
    elif rollout := rollouts.get(flag):
        if rollout.killed and above:
            yield False
        yield {"==": [{"var": f"admissions.{rollout.id}.state"}, _IS_IN]}
        for required in rollout.plan.requires:
            yield from _conditions(required, rollouts, flags, (*above, flag))
    else:
        definition = flags.get(flag, {"state": "DISABLED"})
        on = [name for name, value in definition.get("variants", {}).items() if value is True]
        rule = definition.get("targeting") or definition.get("defaultVariant")
        yield False if definition["state"] != "ENABLED" else {"in": [rule, on]}


def served(rollout: Rollout) -> dict[str, Any]:
    """What a rollout's stage lets an enterprise do."""
    stage = rollout.current_stage
    limits = stage.limits if stage else None
    return {
        "stage": rollout.stage,
        "limits": {
            "requestsPerMinute": limits.requests_per_minute if limits else 0,
            "boundAccounts": limits.bound_accounts if limits else 0,
            "livePlacements": limits.live_placements if limits else 0,
        },
    }


def compile_document(
    version: int, rollouts: Iterable[Rollout], flags: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The snapshot's document; `flags` are the ordinary ones by key."""
    by_flag = {rollout.flag: rollout for rollout in rollouts}
    buckets = sorted({name for definition in flags.values() for name in bucket_names(definition)})
    return {
        "version": version,
        "flags": {
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {
                **flags,
                **{
                    flag: {
                        "state": "DISABLED" if rollout.killed else "ENABLED",
                        "variants": {"on": True, "off": False},
                        "defaultVariant": "off",
                        "targeting": targeting(rollout, by_flag, flags),
                        "metadata": {"rollout": rollout.id, "stage": rollout.stage},
                    }
                    for flag, rollout in by_flag.items()
                },
            },
        },
        "rollouts": {
            flag: {
                "rollout": rollout.id,
                "state": rollout.state.value,
                "killed": rollout.killed,
                "failMode": rollout.plan.fail_mode.value,
                **served(rollout),
            }
            for flag, rollout in by_flag.items()
        },
        "buckets": {name: f"flags/{name}" for name in buckets},
        "nextSteps": {reason.value: text for reason, text in NEXT_STEPS.items() if text},
    }


def bucket_names(rule: Any) -> Iterator[str]:
    """The buckets that a flag's definition asks for."""
    if isinstance(rule, dict):
        name = rule.get("var")
        path = name[0] if isinstance(name, list) and name else name
        if isinstance(path, str) and path.startswith("bucket."):
            yield path.removeprefix("bucket.")
        rule = list(rule.values())
    if isinstance(rule, list):
        for each in rule:
            yield from bucket_names(each)


# The snapshot


def publish(tx: Transaction, rollouts: Sequence[Rollout]) -> int:
    """Store and tell the next snapshot, unless it would say what the newest one says. Returns the newest version."""
    flags = all_flags(tx)
    newest = get_snapshot(tx)
    version, sha256, _ = newest or (0, "", b"")
    if _sha256(_document(version, rollouts, flags)) == sha256:
        return version
    document = _document(version + 1, rollouts, flags)
    sha256, packed = _sha256(document), zlib.compress(document)
    tx.execute(
        """
        insert into snapshots (version, sha256, document, time) values (%s, %s, %s, %s)
        on conflict (only_one) do update set version = excluded.version, sha256 = excluded.sha256,
               document = excluded.document, time = excluded.time
        """,
        (version + 1, sha256, packed, tx.now),
    )
    tx.emit(
        events.SnapshotPublished(version=version + 1, sha256=sha256, document=packed),
        subject="snapshots/newest",
        ordering_key="rollout.snapshots",
    )
    tx.append_change(CHANGES, "snapshot", {"version": version + 1})
    return version + 1


def get_snapshot(tx: Transaction) -> tuple[int, str, bytes] | None:
    """The newest snapshot: version, hash, compressed document."""
    row = tx.execute("select version, sha256, document from snapshots").fetchone()
    return (row["version"], row["sha256"], row["document"]) if row else None


def snapshot_version(tx: Transaction) -> tuple[int, datetime | None]:
    """The version of the newest snapshot and when it was made; 0 before the first."""
    row = tx.execute("select version, time from snapshots").fetchone()
    return (row["version"], row["time"]) if row else (0, None)


def _document(version: int, rollouts: Iterable[Rollout], flags: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A snapshot as its bytes: the same for the same content."""
    tree = compile_document(version, rollouts, flags)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _sha256(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


# The admissions


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the admissions, with the token that tells two histories apart."""

    number: int
    token: str
    time: datetime | None


def admissions_version(tx: Transaction) -> Version:
    """The newest; number 0 before the first."""
    row = tx.execute(
        "select version, token, time from admission_versions order by version desc limit 1"
    ).fetchone()
    return Version(row["version"], row["token"], row["time"]) if row else Version(0, "", None)


class Told:
    """
    What one transaction changes of the admissions: one version, made when first needed, and one event.

    Attributes:
        number: of the version.
    """

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._before = admissions_version(tx)
        self._records: list[pb.AdmissionRecord] = []
        self._enterprises: list[pb.EnterpriseRecord] = []
        self.number = self._before.number + 1

    def add_records(self, rollout: Rollout, changed: Iterable[Record]) -> None:
        """Records that were saved under this version."""
        self._records.extend(
            pb.AdmissionRecord(
                flag=rollout.flag,
                enterprise=record.enterprise,
                state=record.state,
                stage=record.stage,
                reason=record.reason,
                queue_key=record.queue_key,
            )
            for record in changed
        )

    def add_enterprise(self, enterprise: pb.EnterpriseRecord) -> None:
        """An enterprise of which something else is known now."""
        self._tx.execute(
            "update enterprises set version = %s where enterprise = %s", (self.number, enterprise.enterprise)
        )
        self._enterprises.append(enterprise)

    def tell(self) -> None:
        """Store the version and tell gateways, if anything changed."""
        if not self._records and not self._enterprises:
            return
        token = new_id()
        self._tx.execute(
            "insert into admission_versions (version, token, time) values (%s, %s, %s)",
            (self.number, token, self._tx.now),
        )
        few = len(self._records) <= _MOST_TOLD
        self._tx.emit(
            events.AdmissionsChanged(
                from_version=self._before.number,
                from_token=self._before.token,
                version=self.number,
                token=token,
                records=self._records if few else (),
                enterprises=self._enterprises if few else (),
            ),
            subject="admissions/newest",
            ordering_key="rollout.admissions",
        )
        self._tx.append_change(CHANGES, "admissions", {"version": self.number})


def admissions_since(tx: Transaction, request: pb.GetAdmissionsRequest) -> pb.GetAdmissionsResponse:
    """
    A page of what changed since the version that the caller has, or of everything where that version is none of ours.

    Records only move to newer versions, so a reader that follows the cursor to the end has seen all of them.
    """
    head = admissions_version(tx)
    known = tx.execute(
        "select 1 from admission_versions where version = %s and token = %s", (request.since, request.token)
    ).fetchone()
    since = request.since if known else _BEFORE_ALL
    part, *after = json.loads(request.cursor) if request.cursor else (_RECORDS, since, "", "")
    records = _records_after(tx, since, after) if part == _RECORDS else []
    cursor = [_RECORDS, *records[_PAGE - 1][1]] if len(records) > _PAGE else []
    enterprises: list[tuple[pb.EnterpriseRecord, list[Any]]] = []
    if not cursor:
        begin = after if part == _ENTERPRISES else [since, ""]
        enterprises = _enterprises_after(tx, begin)
        cursor = [_ENTERPRISES, *enterprises[_PAGE - 1][1]] if len(enterprises) > _PAGE else []
    return pb.GetAdmissionsResponse(
        version=head.number,
        token=head.token,
        whole=not known and not request.cursor,
        records=[record for record, _ in records[:_PAGE]],
        enterprises=[record for record, _ in enterprises[:_PAGE]],
        more=bool(cursor),
        cursor=json.dumps(cursor) if cursor else "",
    )


def _records_after(
    tx: Transaction, since: int, after: Sequence[Any]
) -> list[tuple[pb.AdmissionRecord, list[Any]]]:
    """A page of records and one more, each with its place."""
    rows = tx.execute(
        """
        select a.version, a.enterprise, r.flag, a.state, a.stage, a.reason, a.queue_key
        from admissions a join rollouts r on r.name = a.rollout
        where (a.version, a.enterprise, r.flag) > (%s, %s, %s) and a.version > %s
        order by a.version, a.enterprise, r.flag limit %s
        """,
        (*after, since, _PAGE + 1),
    )
    return [
        (pb.AdmissionRecord(**row), [version, row["enterprise"], row["flag"]])
        for row in rows
        for version in [row.pop("version")]
    ]


def _enterprises_after(tx: Transaction, after: Sequence[Any]) -> list[tuple[pb.EnterpriseRecord, list[Any]]]:
    """A page of enterprises and one more, each with its place."""
    rows = tx.execute(
        """
        select version, enterprise, verified, attributes from enterprises
        where version > %s or (version = %s and enterprise > %s and %s <> '') order by version, enterprise limit %s
        """,
        (after[0], after[0], after[1], after[1], _PAGE + 1),
    )
    return [
        (enterprise_record(**row), [version, row["enterprise"]])
        for row in rows
        for version in [row.pop("version")]
    ]


def enterprise_record(
    enterprise: str, *, verified: bool, attributes: Mapping[str, str]
) -> pb.EnterpriseRecord:
    """What rules may ask of an enterprise."""
    return pb.EnterpriseRecord(enterprise=enterprise, verified=verified, attributes=dict(attributes))


def everything(
    tx: Transaction,
) -> tuple[dict[str, Any], list[pb.AdmissionRecord], list[pb.EnterpriseRecord]]:
    """All that gateways serve from, at once: the document, the records, the enterprises; for flagd's protocol."""
    newest = get_snapshot(tx)
    document = json.loads(zlib.decompress(newest[2])) if newest else compile_document(0, (), {})
    records: list[pb.AdmissionRecord] = []
    enterprises: list[pb.EnterpriseRecord] = []
    page = pb.GetAdmissionsResponse(more=True)
    while page.more:
        page = admissions_since(tx, pb.GetAdmissionsRequest(cursor=page.cursor))
        records.extend(page.records)
        enterprises.extend(page.enterprises)
    return document, records, enterprises


# Ordinary flags


def all_flags(tx: Transaction) -> dict[str, dict[str, Any]]:
    """The ordinary flags by key."""
    rows = tx.execute("select key, definition from flags order by key")
    return {row["key"]: row["definition"] for row in rows}


def save_flags(tx: Transaction, changed: Mapping[str, Mapping[str, Any]], deleted: Sequence[str]) -> None:
    """Store changed flags and drop others."""
    tx.executemany(
        """
        insert into flags (key, definition, update_time) values (%s, %s, %s)
        on conflict (key) do update set definition = excluded.definition, update_time = excluded.update_time
        """,
        [(key, Jsonb(definition), tx.now) for key, definition in changed.items()],
    )
    tx.execute("delete from flags where key = any(%s)", (list(deleted),))


def page_flags(tx: Transaction, *, limit: int, after: str = "") -> list[dict[str, Any]]:
    """Ordinary flags by key: key, definition, update_time."""
    rows = tx.execute(
        "select key, definition, update_time from flags where key > %s order by key limit %s", (after, limit)
    )
    return rows.fetchall()


# Replicas


def save_replica(tx: Transaction, request: pb.ReportReplicaRequest) -> int:
    """Remember what a gateway serves; returns how many serve now."""
    if request.leaving:
        tx.execute("delete from replicas where replica = %s", (request.replica,))
    else:
        snapshot, admissions = snapshot_version(tx), admissions_version(tx)
        lags = [
            _lag(request.snapshot_time.ToDatetime(tx.now.tzinfo), *snapshot, request.snapshot_version),
            _lag(
                request.admissions_time.ToDatetime(tx.now.tzinfo),
                admissions.number, admissions.time, request.admissions_version,
            ),
        ]  # fmt: skip
        tx.execute(
            """
            insert into replicas (replica, snapshot_version, admissions_version, snapshot_lag, admissions_lag, report_time)
            values (%s, %s, %s, coalesce(%s, 0), coalesce(%s, 0), %s)
            on conflict (replica) do update set snapshot_version = excluded.snapshot_version,
                   admissions_version = excluded.admissions_version, report_time = excluded.report_time,
                   snapshot_lag = coalesce(%s, replicas.snapshot_lag),
                   admissions_lag = coalesce(%s, replicas.admissions_lag)
            """,
            (
                request.replica, request.snapshot_version, request.admissions_version, *lags, tx.now, *lags,
            ),
        )  # fmt: skip
    row = tx.execute(
        "select count(*) as count from replicas where report_time > %s", (tx.now - REPLICA_KEPT,)
    )
    count: int = row.fetchall()[0]["count"]
    return count


def _lag(served_since: datetime, newest: int, made: datetime | None, serves: int) -> int | None:
    """How many milliseconds after it was made the newest version was served; None while another one is."""
    if serves != newest or made is None:
        return None
    return max(0, int((served_since - made) / timedelta(milliseconds=1)))


def convergence(tx: Transaction) -> pb.Convergence:
    """Which gateways serve what."""
    snapshot, _ = snapshot_version(tx)
    admissions = admissions_version(tx).number
    rows = tx.execute(
        "select * from replicas where report_time > %s order by replica", (tx.now - REPLICA_KEPT,)
    )
    replicas = []
    for row in rows:
        replica = pb.Replica(
            replica=row["replica"],
            snapshot_version=row["snapshot_version"],
            admissions_version=row["admissions_version"],
            snapshot_lag_ms=row["snapshot_lag"],
            admissions_lag_ms=row["admissions_lag"],
            converged=(row["snapshot_version"], row["admissions_version"]) == (snapshot, admissions),
        )
        replica.report_time.FromDatetime(row["report_time"])
        replicas.append(replica)
    converged = [each for each in replicas if each.converged]
    return pb.Convergence(
        replicas=replicas,
        snapshot_version=snapshot,
        admissions_version=admissions,
        converged_count=len(converged),
        slowest_ms=max((max(each.snapshot_lag_ms, each.admissions_lag_ms) for each in converged), default=0),
    )


def forget_old(tx: Transaction) -> None:
    """Forget gateways that are gone, and versions that no gateway can still have."""
    tx.execute("delete from replicas where report_time < %s", (tx.now - timedelta(hours=1),))
    tx.execute(
        """
        delete from admission_versions
        where time < %s and version < (select max(version) from admission_versions)
        """,
        (tx.now - timedelta(days=1),),
    )
