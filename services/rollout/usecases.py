"""What can be done with rollouts: load, decide, save, tell; each in the transaction that it is given."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from numerator.events.v1 import rollout_pb2 as events

from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError, etag_mismatch, not_found
from services.rollout import metrics, model, store
from services.rollout.model import AdmissionState, Anchor, Reason, Record, Rollout, Stage


def create_rollout(tx: Transaction, *, name: str, flag: str, stages: Sequence[Stage]) -> Rollout:
    """Store a DRAFT. Its salt is its name: two rollouts put the same enterprise into different buckets."""
    model.check_stages(stages)
    store.lock(tx)
    rollout = Rollout(
        name, flag or model.EDITION_FLAG, name, tuple(stages), create_time=tx.now, update_time=tx.now
    )
    if not store.insert_rollout(tx, rollout):
        raise ServiceError(
            Kind.ALREADY_EXISTS,
            "ROLLOUT_EXISTS",
            f"{name} exists, or another rollout serves the flag {rollout.flag}",
            metadata={"name": name, "flag": rollout.flag},
        )
    _publish_snapshot(tx, {rollout.name: _decide(tx, rollout)})
    return rollout


def get_rollout(tx: Transaction, name: str) -> Rollout:
    """A rollout. Raises NOT_FOUND."""
    rollout = store.get_rollout(tx, name)
    if rollout is None:
        raise not_found(name)
    return rollout


def start(tx: Transaction, name: str, etag: str) -> Rollout:
    """Enter the first stage and admit."""
    return _change(tx, name, etag, model.start)


def advance(tx: Transaction, name: str, etag: str) -> Rollout:
    """Widen by one stage and admit."""
    return _change(
        tx, name, etag, lambda rollout: model.advance(rollout, store.records(tx, rollout)[0].values())
    )


def rollback(tx: Transaction, name: str, etag: str, reason: str) -> Rollout:
    """Serve again what was served before the last widening."""
    after, anchor = model.rollback(_locked(tx, name, etag))
    after = _save(tx, after, anchor)
    stage = after.stages[anchor.stage].id
    tx.emit(events.RolloutRolledBack(rollout=name, stage=stage, reason=reason), subject=name)
    return after


def pause(tx: Transaction, name: str, etag: str, reason: str) -> Rollout:
    """Let nobody new in."""
    after = _change(tx, name, etag, model.pause)
    tx.emit(events.RolloutPaused(rollout=name, reason=reason), subject=name)
    return after


def resume(tx: Transaction, name: str, etag: str) -> Rollout:
    """Let people in again, also those who became eligible meanwhile."""
    after = _change(tx, name, etag, model.resume)
    tx.emit(events.RolloutResumed(rollout=name), subject=name)
    return after


def kill(tx: Transaction, name: str, etag: str, reason: str) -> Rollout:
    """Turn the flag off for everybody."""
    after = _change(tx, name, etag, model.kill)
    tx.emit(events.RolloutKilled(rollout=name, reason=reason), subject=name)
    return after


def unkill(tx: Transaction, name: str, etag: str) -> Rollout:
    """Serve again what was served."""
    after = _change(tx, name, etag, model.unkill)
    tx.emit(events.RolloutUnkilled(rollout=name), subject=name)
    return after


def remember_enterprise(tx: Transaction, enterprise: str, *, verified: bool, told: datetime) -> None:
    """
    Take in what accounts told of an enterprise at a moment, and decide every rollout anew.

    What is older than what is known changes nothing: events of one enterprise may come in any order.
    """
    store.lock(tx)
    if store.save_enterprise(tx, enterprise, verified=verified, told=told):
        _publish_snapshot(tx, {rollout.name: _decide(tx, rollout) for rollout in store.all_rollouts(tx)})


@dataclass(frozen=True, slots=True)
class Edition:
    """What an enterprise may know of its own admission."""

    admitted: bool
    record: Record | None
    reason: Reason
    snapshot_version: int


def edition_of(tx: Transaction, enterprise: str) -> Edition:
    """Where an enterprise stands in the rollout of the edition."""
    version = store.snapshot_version(tx)
    rollout = store.rollout_of_flag(tx, model.EDITION_FLAG)
    if rollout is None:
        return Edition(False, None, Reason.ROLLOUT_NOT_RUNNING, version)
    record = store.get_record(tx, rollout, enterprise)
    if record is None:
        return Edition(False, None, Reason.NOT_ON_THE_LIST, version)
    if record.state is AdmissionState.ACTIVE and rollout.killed:
        return Edition(False, record, Reason.EDITION_KILLED, version)
    return Edition(record.state is AdmissionState.ACTIVE, record, record.reason, version)


def compile_snapshot(version: int, serving: Sequence[tuple[Rollout, Iterable[Record]]]) -> dict[str, object]:
    """
    The document that gateways serve from: flags in flagd's format, and each flag's admissions.

    A flag is on for whoever has an ACTIVE record. A missing record, a missing state, or anything else is off: the
    comparison is with a word, never an order between numbers, where a missing value would count as small.
    """
    return {
        "version": version,
        "flags": {
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {
                rollout.flag: {
                    "state": "DISABLED" if rollout.killed else "ENABLED",
                    "variants": {"on": True, "off": False},
                    "defaultVariant": "off",
                    "targeting": {"if": [{"==": [{"var": "admission.state"}, "ACTIVE"]}, "on", "off"]},
                    "metadata": {
                        "rollout": rollout.name,
                        "stage": rollout.current_stage.id if rollout.current_stage else "",
                    },
                }
                for rollout, _ in serving
            },
        },
        "admissions": {
            rollout.flag: {
                record.enterprise: {
                    "state": record.state.value,
                    "stage": record.stage,
                    "reason": record.reason.value,
                    "position": record.position,
                    "nextStep": model.next_step(record.reason, record.enterprise),
                }
                for record in records
            }
            for rollout, records in serving
        },
    }


def _change(tx: Transaction, name: str, etag: str, transition: Callable[[Rollout], Rollout]) -> Rollout:
    before = _locked(tx, name, etag)
    after = _save(tx, transition(before))
    if after.current_stage and after.stage != before.stage:
        tx.emit(events.StageEntered(rollout=name, stage=after.current_stage.id), subject=name)
    return after


def _locked(tx: Transaction, name: str, etag: str) -> Rollout:
    store.lock(tx)
    rollout = get_rollout(tx, name)
    if etag and etag != rollout.etag:
        raise etag_mismatch()
    return rollout


def _save(tx: Transaction, rollout: Rollout, anchor: Anchor | None = None) -> Rollout:
    saved = replace(rollout, revision=rollout.revision + 1, update_time=tx.now)
    store.update_rollout(tx, saved)
    _publish_snapshot(tx, {saved.name: _decide(tx, saved, anchor)})
    return saved


def _decide(tx: Transaction, rollout: Rollout, anchor: Anchor | None = None) -> list[Record]:
    """Decide a rollout's records anew, and return them; store and tell what changed."""
    known, first = store.records(tx, rollout)
    decided = model.decide(rollout, [*known.values(), *first], now=tx.now, anchor=anchor)
    changed = [record for record in decided if record != known.get(record.enterprise)]
    store.save_records(tx, rollout, changed)
    metrics.decided(tx, rollout.name, [(known.get(record.enterprise), record) for record in changed])
    for record in changed:
        before = known.get(record.enterprise)
        was_in, is_in = (each and each.state is AdmissionState.ACTIVE for each in (before, record))
        if is_in and not was_in:
            granted = events.AdmissionGranted(
                rollout=rollout.name, enterprise=record.enterprise, stage=record.stage
            )
            tx.emit(granted, subject=record.enterprise, enterprise=record.enterprise)
        elif was_in and not is_in:
            suspended = events.AdmissionSuspended(
                rollout=rollout.name, enterprise=record.enterprise, reason=record.reason
            )
            tx.emit(suspended, subject=record.enterprise, enterprise=record.enterprise)
    return decided


def _publish_snapshot(tx: Transaction, decided: Mapping[str, Iterable[Record]]) -> None:
    """Store and tell the next snapshot, unless it would say what the newest one says; `decided` are records by rollout."""
    serving = [
        (rollout, decided.get(rollout.name) or store.records(tx, rollout)[0].values())
        for rollout in store.all_rollouts(tx)
    ]
    newest = store.get_snapshot(tx)
    version, sha256, _ = newest or (0, "", b"")
    if _sha256(_document(version, serving)) == sha256:
        return
    document = _document(version + 1, serving)
    sha256, packed = _sha256(document), zlib.compress(document)
    store.save_snapshot(tx, version + 1, sha256, packed)
    tx.emit(
        events.SnapshotPublished(version=version + 1, sha256=sha256, document=packed),
        subject="snapshots/newest",
        ordering_key="rollout.snapshots",
    )


def _document(version: int, serving: Sequence[tuple[Rollout, Iterable[Record]]]) -> bytes:
    """A snapshot as its bytes: the same for the same content."""
    tree = compile_snapshot(version, serving)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _sha256(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()
