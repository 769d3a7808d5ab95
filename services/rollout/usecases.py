"""What can be done with rollouts: load, decide, save, tell; each in the transaction that it is given."""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from numerator.events.v1 import rollout_pb2 as events

from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError, etag_mismatch, not_found
from services.rollout import model, store
from services.rollout.model import AdmissionState, Anchor, Reason, Record, Rollout, Stage


def create_rollout(tx: Transaction, *, name: str, flag: str, stages: Sequence[Stage]) -> Rollout:
    """Store a DRAFT. Its salt is its name: two rollouts put the same enterprise into different buckets."""
    model.check_stages(stages)
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
    _decide(tx, rollout)
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

    def widen(rollout: Rollout) -> Rollout:
        active = [r.enterprise for r in store.records(tx, rollout) if r.state is AdmissionState.ACTIVE]
        return model.advance(rollout, active)

    return _change(tx, name, etag, widen)


def rollback(tx: Transaction, name: str, etag: str, reason: str) -> Rollout:
    """Serve again what was served before the last widening."""
    before = _locked(tx, name, etag)
    after, anchor = model.rollback(before)
    after = _save(tx, after, anchor)
    stage = after.stages[anchor.stage].id
    tx.emit(events.RolloutRolledBack(rollout=name, stage=stage, reason=reason), subject=name)
    return after


def pause(tx: Transaction, name: str, etag: str) -> Rollout:
    """Let nobody new in."""
    return _change(tx, name, etag, model.pause)


def resume(tx: Transaction, name: str, etag: str) -> Rollout:
    """Let people in again, those first who became eligible meanwhile."""
    return _change(tx, name, etag, model.resume)


def kill(tx: Transaction, name: str, etag: str) -> Rollout:
    """Turn the flag off for everybody."""
    return _change(tx, name, etag, model.kill)


def unkill(tx: Transaction, name: str, etag: str) -> Rollout:
    """Serve again what was served."""
    return _change(tx, name, etag, model.unkill)


def remember_enterprise(tx: Transaction, enterprise: str, *, verified: bool | None) -> None:
    """
    Take in what accounts told of an enterprise and decide every rollout anew.

    The rollouts are locked first: decisions of one rollout come one after another, so that quotas are exact however many
    verifications arrive at once.
    """
    rollouts = store.lock_rollouts(tx)
    store.save_enterprise(tx, enterprise, verified=verified)
    for rollout in rollouts:
        _decide(tx, rollout)


@dataclass(frozen=True, slots=True)
class Edition:
    """What an enterprise may know of its own admission."""

    admitted: bool
    record: Record | None
    reason: Reason
    snapshot_version: int


def edition_of(tx: Transaction, enterprise: str) -> Edition:
    """Where an enterprise stands in the rollout of the edition."""
    snapshot = store.get_snapshot(tx)
    version = snapshot[0] if snapshot else 0
    rollout = store.rollout_of_flag(tx, model.EDITION_FLAG)
    record = store.get_record(tx, rollout, enterprise) if rollout else None
    if rollout is None or record is None:
        return Edition(False, None, Reason.ROLLOUT_NOT_RUNNING, version)
    if rollout.killed:
        return Edition(False, record, Reason.EDITION_KILLED, version)
    return Edition(record.state is AdmissionState.ACTIVE, record, record.reason, version)


def newest_snapshot(tx: Transaction) -> tuple[int, str, bytes]:
    """The newest snapshot: version, hash, document. The first one is made when it is first asked for: nobody is in."""
    found = store.get_snapshot(tx)
    if found is None:
        _publish_snapshot(tx)
        found = store.get_snapshot(tx)
    if found is None:
        raise AssertionError("a snapshot was just stored")
    return found


def compile_snapshot(version: int, serving: Sequence[tuple[Rollout, Sequence[Record]]]) -> dict[str, object]:
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
    rollout = store.lock_rollout(tx, name)
    if rollout is None:
        raise not_found(name)
    if etag and etag != rollout.etag:
        raise etag_mismatch()
    return rollout


def _save(tx: Transaction, rollout: Rollout, anchor: Anchor | None = None) -> Rollout:
    saved = replace(rollout, revision=rollout.revision + 1, update_time=tx.now)
    store.update_rollout(tx, saved)
    _decide(tx, saved, anchor)
    return saved


def _decide(tx: Transaction, rollout: Rollout, anchor: Anchor | None = None) -> None:
    """Decide a rollout's records anew, store and tell what changed, and publish a snapshot."""
    before = {record.enterprise: record for record in store.records(tx, rollout)}
    decided = model.decide(rollout, list(before.values()), now=tx.now, anchor=anchor)
    store.save_records(tx, rollout, decided)
    for record in decided:
        was = before[record.enterprise].state
        if record.state is AdmissionState.ACTIVE and was is not AdmissionState.ACTIVE:
            granted = events.AdmissionGranted(
                rollout=rollout.name, enterprise=record.enterprise, stage=record.stage
            )
            tx.emit(granted, subject=record.enterprise, enterprise=record.enterprise)
        elif record.state is AdmissionState.SUSPENDED and was is AdmissionState.ACTIVE:
            rests = events.AdmissionSuspended(
                rollout=rollout.name, enterprise=record.enterprise, reason=record.reason
            )
            tx.emit(rests, subject=record.enterprise, enterprise=record.enterprise)
    _publish_snapshot(tx)


def _publish_snapshot(tx: Transaction) -> None:
    version = store.next_snapshot_version(tx)
    rollouts = store.all_rollouts(tx)
    document = compile_snapshot(version, [(rollout, store.records(tx, rollout)) for rollout in rollouts])
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    sha256, packed = hashlib.sha256(text).hexdigest(), zlib.compress(text, 6)
    store.save_snapshot(tx, version, sha256, packed)
    tx.emit(
        events.SnapshotPublished(version=version, sha256=sha256, document=packed),
        subject="snapshots/newest",
        ordering_key="rollout.snapshots",
    )
