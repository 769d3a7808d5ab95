"""What can be done with rollouts: load, decide, save, tell, write down; each in the transaction that it is given."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from numerator.events.v1 import rollout_pb2 as events

from services.chassis.database import Telling, Transaction
from services.chassis.errors import Kind, ServiceError, etag_mismatch, invalid, not_found
from services.rollout import (
    audit,
    changes,
    decision,
    entries,
    measurements,
    metrics,
    serving,
    store,
    transitions,
)
from services.rollout import plan as plans
from services.rollout.model import (
    EDITION_FLAG,
    ROLLOUT_NAME,
    AdmissionState,
    Anchor,
    Cause,
    Reason,
    Record,
    Rollout,
    RolloutState,
    Source,
)
from services.rollout.plan import Difference, Plan
from services.rollout.transitions import Gate, Progress

ROLLOUTS = "rollouts"
"""The change log of rollouts, for whoever watches them."""


# Plans


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a plan came to; `needs_approvals`: how many others must approve it first, when it was only tried."""

    rollout: Rollout
    differences: tuple[Difference, ...]
    created: bool
    needs_approvals: int = 0


def apply_plan(
    tx: Transaction, plan: Plan, *, actor: str, etag: str = "", approved: bool = False, dry_run: bool = False
) -> Applied:
    """
    Make a rollout by its plan, or change it. The same plan again changes nothing.

    `approved`: a change request with enough approvals asks for it. `dry_run`: store nothing.
    """
    store.lock(tx)
    name = ROLLOUT_NAME.format(rollout=plan.rollout)
    before = store.get_rollout(tx, name)
    _check_required(tx, plan)
    if before is None:
        if etag:
            raise etag_mismatch()
        return Applied(
            _create(tx, name, plan, actor, dry_run=dry_run), tuple(plans.diff(None, plan)), created=True
        )
    if etag and etag != before.etag:
        raise etag_mismatch()
    differences = tuple(plans.diff(before.plan, plan))
    if before.plan.sha256 == plan.sha256:
        return Applied(before, differences, created=False)
    if (
        before.plan.approvals_to_change
        and before.state is not RolloutState.DRAFT
        and not (approved or dry_run)
    ):
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "CHANGE_NEEDS_APPROVAL",
            f"{name} asks for {before.plan.approvals_to_change} approvals of a change: propose it with CreateChangeRequest",
            metadata={"name": name, "approvals": str(before.plan.approvals_to_change)},
        )
    after = transitions.change_plan(before, plan, actor, store.anchored_stages(tx, name))
    if not dry_run:
        after = _save(
            tx, before, after, actor=actor, cause="plan.applied", narrows=True,
            detail={"differences": [f"{each.path}: {each.before} -> {each.after}" for each in differences]},
        )  # fmt: skip
        store.save_plan(tx, after)
        changes.void_gates(tx, name)
    needed = before.plan.approvals_to_change if dry_run and before.state is not RolloutState.DRAFT else 0
    return Applied(after, differences, created=False, needs_approvals=needed)


def _create(tx: Transaction, name: str, plan: Plan, actor: str, *, dry_run: bool) -> Rollout:
    """A DRAFT. Its salt is its name: two rollouts put the same enterprise into different buckets."""
    rollout = Rollout(
        name, plan.flag, name, plan, actor, create_time=tx.now, update_time=tx.now, state=RolloutState.DRAFT
    )
    taken = "another rollout serves it" if store.rollout_of_flag(tx, plan.flag) else ""
    if plan.flag in serving.all_flags(tx):
        taken = "it is an ordinary flag: delete that one first"
    if taken:
        raise ServiceError(
            Kind.ALREADY_EXISTS,
            "FLAG_TAKEN",
            f"the flag {plan.flag} is taken: {taken}",
            metadata={"name": name, "flag": plan.flag},
        )
    if dry_run:
        return rollout
    store.insert_rollout(tx, rollout)
    store.save_plan(tx, rollout)
    _decide(tx, rollout, actor=actor)
    _published(tx, rollout, actor=actor, cause="rollout.created", detail={"flag": plan.flag})
    return rollout


def _check_required(tx: Transaction, plan: Plan) -> None:
    """Raise INVALID_ARGUMENT for a required flag that nobody serves, or that requires this one in turn."""
    known = {rollout.flag: rollout.plan.requires for rollout in store.all_rollouts(tx)}
    known |= dict.fromkeys(serving.all_flags(tx), ())
    for index, required in enumerate(plan.requires):
        if required not in known:
            raise invalid(f"requires[{index}]", f"{required} is no flag", reason="FLAG_UNKNOWN")
        above, pending = set[str](), [required]
        while pending:
            flag = pending.pop()
            if flag == plan.flag:
                raise invalid(
                    f"requires[{index}]", f"{required} requires {plan.flag} in turn", reason="FLAGS_CIRCULAR"
                )
            if flag not in above:
                above.add(flag)
                pending.extend(known.get(flag, ()))


def get_rollout(tx: Transaction, name: str) -> Rollout:
    """A rollout. Raises NOT_FOUND."""
    rollout = store.get_rollout(tx, name)
    if rollout is None:
        raise not_found(name)
    return rollout


# Verbs


def arm(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Make it ready to start at its time."""
    return _change(
        tx, name, etag, lambda before: transitions.arm(before, _approvals(tx, before, transitions.START_GATE)),
        actor=actor, cause="rollout.armed",
    )  # fmt: skip


def start(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Enter the first stage and admit."""
    return _change(
        tx, name, etag,
        lambda before: transitions.start(before, _approvals(tx, before, transitions.START_GATE), tx.now),
        actor=actor, cause="rollout.started", widens=True,
    )  # fmt: skip


def advance(
    tx: Transaction, name: str, etag: str, actor: str, *, skip_hold: bool = False, reason: str = ""
) -> Rollout:
    """Widen by one stage and admit."""
    if skip_hold and not reason:
        raise invalid("reason", "say why the hold is passed over")

    def widen(before: Rollout) -> Rollout:
        return transitions.advance(before, gates_of(tx, before), tx.now, skip_hold=skip_hold)

    detail = {"skip_hold": skip_hold, "reason": reason} if skip_hold else {}
    return _change(tx, name, etag, widen, actor=actor, cause="rollout.advanced", detail=detail, widens=True)


def jump(tx: Transaction, name: str, etag: str, actor: str, *, stage: str, reason: str) -> Rollout:
    """Enter any stage."""

    def enter(before: Rollout) -> Rollout:
        approvals = {each.id: _approvals(tx, before, each.id) for each in before.plan.stages}
        return transitions.jump(before, stage, approvals, tx.now)

    return _change(
        tx, name, etag, enter, actor=actor, cause="rollout.jumped", detail={"reason": reason},
        widens=True, narrows=True,
    )  # fmt: skip


def rollback(
    tx: Transaction,
    name: str,
    etag: str,
    actor: str,
    reason: str,
    *,
    cause: Cause = Cause.USER,
    to_start: bool = False,
) -> Rollout:
    """
    Serve again what was served before the last widening, or before the first; and verify it before it is reported.

    Opens a review, as every act that nobody approved beforehand.
    """
    before = _locked(tx, name, etag)
    transitions.rollback(
        before, Anchor("", None, 0, {}), cause, reason
    )  # refuses before anything is taken away
    anchor = store.pop_anchor(tx, before, oldest=to_start)
    after = transitions.rollback(before, anchor, cause, reason)
    assert anchor is not None  # the transition refuses none
    after = _save(
        tx, before, after, actor=actor, cause="rollout.rolled_back", anchor=anchor, detail={"reason": reason}
    )
    _verify_rollback(tx, after, anchor)
    changes.void_gates(tx, name)  # what was approved then need not be so now
    tx.emit(events.RolloutRolledBack(rollout=name, stage=after.stage, reason=reason), subject=name)
    changes.open_review(
        tx, rollout=name, author=actor, reason=f"rollback: {reason}", base_version=after.plan_version
    )
    return after


def _verify_rollback(tx: Transaction, after: Rollout, anchor: Anchor) -> None:
    """Raise INTERNAL, and so undo everything, unless what is stored now is what was served at the anchor."""
    held, revoked = store.held(tx, after.name), store.revoked(tx, after.name)
    expected = {name: stage for name, stage in anchor.held.items() if name not in revoked}
    if held != expected or after.stage != anchor.stage:
        raise ServiceError(
            Kind.INTERNAL,
            "ROLLBACK_NOT_EXACT",
            f"{after.name} would not serve what it served before; nothing was changed. Kill it to switch it off",
            metadata={"name": after.name, "differing": str(len(held.items() ^ expected.items()))},
        )


def restart(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Go on from where a rollback left it."""
    return _change(
        tx,
        name,
        etag,
        lambda before: transitions.restart(before, tx.now),
        actor=actor,
        cause="rollout.restarted",
    )


def pause(
    tx: Transaction, name: str, etag: str, actor: str, reason: str, *, cause: Cause = Cause.USER
) -> Rollout:
    """Let nobody new in."""
    after = _change(
        tx, name, etag, lambda before: transitions.pause(before, cause, reason),
        actor=actor, cause="rollout.paused", detail={"reason": reason},
    )  # fmt: skip
    tx.emit(events.RolloutPaused(rollout=name, reason=reason), subject=name)
    return after


def resume(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Let people in again, also those who became eligible meanwhile."""
    after = _change(tx, name, etag, transitions.resume, actor=actor, cause="rollout.resumed")
    tx.emit(events.RolloutResumed(rollout=name), subject=name)
    return after


def complete(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Let everybody in who is eligible."""
    after = _change(tx, name, etag, transitions.complete, actor=actor, cause="rollout.completed", widens=True)
    tx.emit(events.RolloutCompleted(rollout=name), subject=name)
    return after


def archive(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Put it away."""
    return _change(tx, name, etag, transitions.archive, actor=actor, cause="rollout.archived")


def kill(tx: Transaction, name: str, etag: str, actor: str, reason: str) -> Rollout:
    """Turn the flag off for everybody. Records are not decided anew: nobody waits for that."""
    before = _locked(tx, name, etag)
    after = _stored(tx, before, transitions.kill(before, reason))
    _published(tx, after, actor=actor, cause="rollout.killed", detail={"reason": reason})
    tx.emit(events.RolloutKilled(rollout=name, reason=reason), subject=name)
    changes.open_review(
        tx, rollout=name, author=actor, reason=f"kill: {reason}", base_version=after.plan_version
    )
    return after


def unkill(tx: Transaction, name: str, etag: str, actor: str) -> Rollout:
    """Serve again what was served."""
    after = _change(tx, name, etag, transitions.unkill, actor=actor, cause="rollout.unkilled")
    tx.emit(events.RolloutUnkilled(rollout=name), subject=name)
    return after


def approve(tx: Transaction, name: str, etag: str, actor: str, gate: str) -> Rollout:
    """Approve the start, or that it leaves a stage, for the plan as it is."""
    rollout = _locked(tx, name, etag)
    known = [transitions.START_GATE, *(stage.id for stage in rollout.plan.stages)]
    if gate not in known:
        raise invalid("gate", f"must be one of {', '.join(known)}")
    changes.approve_gate(
        tx, rollout=name, gate=gate, content_hash=rollout.plan.sha256, approver=actor, author=rollout.author
    )
    audit.append(tx, actor=actor, cause="rollout.approved", rollout=name, detail={"gate": gate})
    tx.append_change(ROLLOUTS, name, {})
    return rollout


# One enterprise


def remember_enterprise(
    tx: Transaction,
    enterprise: str,
    *,
    verified: bool,
    told: datetime,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """
    Take in what accounts told of an enterprise at a moment, and decide on it in every rollout.

    `attributes` are what rules may ask besides; those that operators set here go before. None leaves them as they are.
    What is older than what is known changes nothing: events of one enterprise may come in any order.
    """
    store.lock(tx)
    if store.save_enterprise(tx, enterprise, verified=verified, told=told, attributes=attributes):
        _reconsider(tx, enterprise, actor="accounts")


_OURS = frozenset({"verified", "enterprise", "targetingKey", "bucket", "admissions"})
"""What rules may ask of an enterprise that nobody sets."""


def set_attributes(
    tx: Transaction, enterprise: str, attributes: Mapping[str, str], actor: str
) -> dict[str, Any]:
    """Replace what operators say of an enterprise, and decide on it in every rollout. Returns what is known."""
    for key in attributes:
        if key in _OURS or not key.isidentifier():
            raise invalid(f"attributes[{key}]", f"must be a word, and none of {', '.join(sorted(_OURS))}")
    store.lock(tx)
    if not store.save_attributes(tx, enterprise, dict(attributes)):
        raise not_found(enterprise)
    audit.append(
        tx,
        actor=actor,
        cause="enterprise.attributes_set",
        rollout="",
        enterprise=enterprise,
        detail=dict(attributes),
    )
    _reconsider(tx, enterprise, actor=actor)
    return store.get_enterprise(tx, enterprise) or {}


def admit(tx: Transaction, name: str, enterprise: str, actor: str, reason: str) -> Record:
    """Admit by hand: whatever the bucket, but not against eligibility and quota."""
    rollout = _locked(tx, name, "")
    record = record_of(tx, rollout, enterprise)
    if refused := decision.ineligible(rollout.plan, record):
        code = "DENIED" if refused is Reason.DENIED else "NOT_ELIGIBLE"
        raise _refused(code, rollout, enterprise, f"{enterprise} cannot be in: {refused.value}")
    if record.held:
        return record
    if rollout.state not in {RolloutState.RUNNING, RolloutState.COMPLETED} or rollout.killed:
        raise _refused("ROLLOUT_NOT_RUNNING", rollout, enterprise, "start or resume it first")
    quota = decision.quota_of(rollout)
    if quota and store.taken(tx, name, [enterprise]).held >= quota:
        raise _refused("QUOTA_FULL", rollout, enterprise, f"all {quota} places are taken; raise the quota")
    by_hand = replace(record, source=Source.MANUAL, state=AdmissionState.WAITLISTED)
    decided = _decide(tx, rollout, [enterprise], actor=actor, given={enterprise: by_hand})
    audit.append(
        tx,
        actor=actor,
        cause="admission.granted",
        rollout=name,
        enterprise=enterprise,
        detail={"reason": reason},
    )
    return decided[enterprise]


def revoke(tx: Transaction, name: str, enterprise: str, actor: str, reason: str) -> Record:
    """Take an admission away for good; its place goes to the next."""
    rollout = _locked(tx, name, "")
    record = record_of(tx, rollout, enterprise)
    out = replace(record, state=AdmissionState.REVOKED, reason=Reason.REVOKED, held=False, source=Source.NONE)
    # All of them: somebody gets the place.
    decided = _decide(tx, rollout, actor=actor, given={enterprise: out})
    audit.append(
        tx,
        actor=actor,
        cause="admission.revoked",
        rollout=name,
        enterprise=enterprise,
        detail={"reason": reason},
    )
    return decided[enterprise]


def set_entry(tx: Transaction, name: str, entry: entries.ListEntry, actor: str) -> None:
    """Put an enterprise on the allow or the deny list."""
    rollout = _locked(tx, name, "")
    record_of(tx, rollout, entry.enterprise)
    entries.set_entry(tx, name, entry)
    detail = {
        "list": entry.kind.value,
        "reason": entry.reason,
        "expire_time": entry.expire_time.isoformat() if entry.expire_time else None,
    }
    audit.append(
        tx, actor=actor, cause="list.entered", rollout=name, enterprise=entry.enterprise, detail=detail
    )
    _decide(tx, rollout, [entry.enterprise], actor=actor)


def delete_entry(tx: Transaction, name: str, enterprise: str, actor: str) -> entries.ListEntry:
    """Take an enterprise off its list."""
    rollout = _locked(tx, name, "")
    entry = entries.delete_entry(tx, name, enterprise)
    if entry is None:
        raise not_found(f"{name}/entries of {enterprise}")
    audit.append(tx, actor=actor, cause="list.left", rollout=name, enterprise=enterprise, detail={})
    _decide(tx, rollout, [enterprise], actor=actor)
    return entry


def create_invitation(
    tx: Transaction, name: str, actor: str, *, enterprise: str, note: str, expire_time: datetime | None
) -> tuple[entries.Invitation, str]:
    """Make an invitation; its token is in the answer and nowhere else."""
    _locked(tx, name, "")
    invitation, token = entries.invite(tx, name, enterprise=enterprise, note=note, expire_time=expire_time)
    audit.append(
        tx, actor=actor, cause="invitation.created", rollout=name, enterprise=enterprise or None,
        detail={"invitation": invitation.name, "expire_time": invitation.expire_time.isoformat()},
    )  # fmt: skip
    return invitation, token


def revoke_invitation(tx: Transaction, name: str, actor: str) -> entries.Invitation:
    """Make an invitation worthless."""
    store.lock(tx)
    invitation = entries.revoke_invitation(tx, name)
    if invitation is None:
        raise not_found(name)
    audit.append(
        tx, actor=actor, cause="invitation.revoked", rollout=invitation.rollout, detail={"invitation": name}
    )
    return invitation


# What an enterprise sees and does


@dataclass(frozen=True, slots=True)
class Edition:
    """What an enterprise may know of its own admission; `rollout` is None while the edition has none."""

    admitted: bool
    rollout: Rollout | None
    record: Record | None
    reason: Reason
    position: int
    on_waitlist: bool
    snapshot_version: int
    admissions_version: int


def edition_of(tx: Transaction, enterprise: str) -> Edition:
    """Where an enterprise stands in the rollout of the edition. Places are counted over all: needs the platform's scope."""
    versions = (serving.snapshot_version(tx)[0], serving.admissions_version(tx).number)
    rollout = store.rollout_of_flag(tx, EDITION_FLAG)
    if rollout is None:
        return Edition(False, None, None, Reason.ROLLOUT_NOT_RUNNING, 0, False, *versions)
    joined = entries.has_joined(tx, rollout.name, enterprise)
    record = store.records(tx, rollout, [enterprise])[0].get(enterprise)
    if record is None:
        return Edition(False, rollout, None, Reason.NOT_ON_THE_LIST, 0, joined, *versions)
    reason, place = closed_by(tx, rollout, record), store.position(tx, rollout.name, record)
    return Edition(reason is Reason.NONE, rollout, record, reason, place, joined, *versions)


def closed_by(tx: Transaction, rollout: Rollout, record: Record) -> Reason:
    """Why what the flag opens is closed to an enterprise, which may have a seat all the same; NONE when it is open."""
    if record.is_active and rollout.killed:
        return Reason.EDITION_KILLED
    if record.is_active and not _required_on(tx, rollout, record.enterprise):
        return Reason.PREREQUISITE_OFF
    return record.reason


def _required_on(tx: Transaction, rollout: Rollout, enterprise: str) -> bool:
    """Whether the rollouts that this one requires have the enterprise in; ordinary flags are the gateway's to ask."""
    for flag in rollout.plan.requires:
        required = store.rollout_of_flag(tx, flag)
        if required is None:
            continue
        record = store.records(tx, required, [enterprise])[0].get(enterprise)
        if (
            required.killed
            or record is None
            or not record.is_active
            or not _required_on(tx, required, enterprise)
        ):
            return False
    return True


def join_waitlist(tx: Transaction, enterprise: str, actor: str) -> Edition:
    """Join the waitlist of the edition, once."""
    rollout = _of_edition(tx)
    record_of(tx, rollout, enterprise)
    if entries.join(tx, rollout.name, enterprise):
        audit.append(
            tx, actor=actor, cause="waitlist.joined", rollout=rollout.name, enterprise=enterprise, detail={}
        )
        _decide(tx, rollout, [enterprise], actor=actor)
    return edition_of(tx, enterprise)


def leave_waitlist(tx: Transaction, enterprise: str, actor: str) -> Edition:
    """Leave the waitlist of the edition."""
    rollout = _of_edition(tx)
    if entries.leave(tx, rollout.name, enterprise):
        audit.append(
            tx, actor=actor, cause="waitlist.left", rollout=rollout.name, enterprise=enterprise, detail={}
        )
        _decide(tx, rollout, [enterprise], actor=actor)
    return edition_of(tx, enterprise)


def accept_invitation(tx: Transaction, token: str, enterprise: str, actor: str) -> Edition:
    """Accept an invitation, to whichever rollout it is."""
    store.lock(tx)
    invitation = entries.accept(tx, token, enterprise)
    rollout = get_rollout(tx, invitation.rollout)
    record_of(tx, rollout, enterprise)
    if invitation.accepted_by is None:
        audit.append(
            tx, actor=actor, cause="invitation.accepted", rollout=rollout.name, enterprise=enterprise,
            detail={"invitation": invitation.name},
        )  # fmt: skip
        _decide(tx, rollout, [enterprise], actor=actor)
    return edition_of(tx, enterprise)


def _of_edition(tx: Transaction) -> Rollout:
    store.lock(tx)
    rollout = store.rollout_of_flag(tx, EDITION_FLAG)
    if rollout is None:
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "ROLLOUT_NOT_RUNNING",
            "there is no rollout of the edition yet; try again later",
        )
    return rollout


# Ordinary flags


def apply_flags(
    tx: Transaction, definitions: Mapping[str, Mapping[str, Any]], *, actor: str, prune: bool, dry_run: bool
) -> tuple[list[str], list[str]]:
    """Set ordinary flags; returns the keys that changed and those that went. Raises FAILED_PRECONDITION (`FLAG_OF_A_ROLLOUT`)."""
    store.lock(tx)
    rollouts = store.all_rollouts(tx)
    if taken := {rollout.flag for rollout in rollouts} & definitions.keys():
        raise ServiceError(
            Kind.FAILED_PRECONDITION,
            "FLAG_OF_A_ROLLOUT",
            f"a rollout serves {', '.join(sorted(taken))}: change its plan instead",
            metadata={"flags": ",".join(sorted(taken))},
        )
    known = serving.all_flags(tx)
    changed = [key for key, definition in definitions.items() if known.get(key) != definition]
    deleted = sorted(known.keys() - definitions.keys()) if prune else []
    _check_unused(rollouts, deleted)
    if not dry_run and (changed or deleted):
        serving.save_flags(tx, {key: definitions[key] for key in changed}, deleted)
        version = serving.publish(tx, rollouts)
        audit.append(
            tx, actor=actor, cause="flags.applied", rollout="", snapshot_version=version,
            detail={"changed": changed[:100], "deleted": deleted[:100]},
        )  # fmt: skip
    return changed, deleted


def delete_flag(tx: Transaction, key: str, actor: str) -> dict[str, Any]:
    """Delete an ordinary flag; returns its definition. Raises NOT_FOUND, FAILED_PRECONDITION (`FLAG_REQUIRED`)."""
    store.lock(tx)
    definition = serving.all_flags(tx).get(key)
    if definition is None:
        raise not_found(f"flags/{key}")
    rollouts = store.all_rollouts(tx)
    _check_unused(rollouts, [key])
    serving.save_flags(tx, {}, [key])
    version = serving.publish(tx, rollouts)
    audit.append(
        tx, actor=actor, cause="flag.deleted", rollout="", snapshot_version=version, detail={"flag": key}
    )
    return definition


def _check_unused(rollouts: Iterable[Rollout], flags: Collection[str]) -> None:
    for rollout in rollouts:
        if used := set(rollout.plan.requires) & set(flags):
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "FLAG_REQUIRED",
                f"{rollout.name} requires {', '.join(sorted(used))}",
                metadata={"name": rollout.name},
            )


# Simulation


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a verb or a plan would come to: the rollout after it, and records before and after by enterprise."""

    after: Rollout
    before: Mapping[str, Record]
    records: Mapping[str, Record]


def simulate(
    tx: Transaction, rollout: Rollout | None, plan: Plan | None, *, verb: str, stage: str, actor: str
) -> Simulation:
    """
    Decide as the verb would, and store nothing. It is the decision of the verb itself: the same functions on the same records.

    Holds and approvals are not asked: the question is what would happen, not whether it may. A plan and a verb together are
    decided one after the other, as they would be done.
    """
    if rollout is None:
        if plan is None:
            raise invalid("name", "a rollout or a plan is needed")
        name = ROLLOUT_NAME.format(rollout=plan.rollout)
        rollout = Rollout(name, plan.flag, name, plan, actor, create_time=tx.now, update_time=tx.now)
    if plan is not None and plan.rollout != rollout.id:
        raise invalid("plan", f"must be a plan of {rollout.id}, as rollout: {rollout.id}")
    known, first = store.records(tx, rollout)
    before = known | {record.enterprise: record for record in first}
    after, decided = rollout, list(before.values())
    if plan is not None and plan.sha256 != rollout.plan.sha256:
        after = transitions.change_plan(rollout, plan, actor, store.anchored_stages(tx, rollout.name))
        decided = decision.decide(after, decided, now=tx.now, narrowed=rollout)
    anchor, narrowed = None, None
    match verb or _next_verb(after, changed=after is not rollout):
        case "start":
            after = transitions.start(after, after.plan.approvals_to_start, tx.now)
        case "advance":
            after = transitions.advance(after, (), tx.now)
        case "jump":
            approvals = {each.id: each.hold.approvals for each in after.plan.stages}
            after, narrowed = transitions.jump(after, stage, approvals, tx.now), after
        case "resume":
            after = transitions.resume(after)
        case "complete":
            after = transitions.complete(after)
        case "rollback":
            anchor = store.newest_anchor(tx, after)
            after = transitions.rollback(after, anchor, Cause.USER, "")
        case _:
            pass
    decided = decision.decide(after, decided, now=tx.now, anchor=anchor, narrowed=narrowed)
    return Simulation(after, before, {record.enterprise: record for record in decided})


def _next_verb(rollout: Rollout, *, changed: bool) -> str:
    """What comes next, for whoever asks without saying what."""
    if changed:
        return "now"
    last = rollout.index is not None and rollout.index + 1 == len(rollout.plan.stages)
    return {
        RolloutState.DRAFT: "start",
        RolloutState.ARMED: "start",
        RolloutState.RUNNING: "complete" if last else "advance",
        RolloutState.PAUSED: "resume",
    }.get(rollout.state, "now")


# Gates


def gates_of(tx: Transaction, rollout: Rollout) -> tuple[Gate, ...]:
    """What holds the rollout in its stage, or from its start."""
    analysis = measurements.last_analysis(tx, rollout.name, since=rollout.stage_time or tx.now)
    progress = Progress(
        exposures=measurements.count_exposures(tx, rollout.name, rollout.stage),
        approvals=_approvals(tx, rollout, rollout.stage or transitions.START_GATE),
        may_advance=analysis is not None and analysis.may_advance,
    )
    return transitions.gates(rollout, progress, tx.now)


def _approvals(tx: Transaction, rollout: Rollout, gate: str) -> int:
    return changes.gate_approvals(tx, rollout=rollout.name, gate=gate, content_hash=rollout.plan.sha256)


def climb(tx: Transaction, before: Rollout, climbed: Rollout, *, actor: str) -> Rollout:
    """Let a ramp take its next step."""
    return _save(tx, before, climbed, actor=actor, cause="rollout.climbed", detail={})


def publish(tx: Transaction) -> None:
    """Publish a snapshot if what is compiled now is not what was."""
    store.lock(tx)
    serving.publish(tx, store.all_rollouts(tx))


def reconsider(tx: Transaction, rollout: Rollout, enterprises: Sequence[str], *, actor: str) -> None:
    """Decide on some enterprises anew, because what is known of them has changed."""
    _decide(tx, rollout, enterprises, actor=actor)


# How every change is made


def _change(
    tx: Transaction,
    name: str,
    etag: str,
    transition: Callable[[Rollout], Rollout],
    *,
    actor: str,
    cause: str,
    detail: Mapping[str, Any] | None = None,
    widens: bool = False,
    narrows: bool = False,
) -> Rollout:
    before = _locked(tx, name, etag)
    after = transition(before)
    if widens:
        served = Anchor(before.stage, before.stage_time, before.basis_points, store.held(tx, name))
        store.push_anchor(tx, before, served)
    after = _save(tx, before, after, actor=actor, cause=cause, detail=detail or {}, narrows=narrows)
    if after.stage and after.stage != before.stage:
        tx.emit(events.StageEntered(rollout=name, stage=after.stage), subject=name)
    return after


def _locked(tx: Transaction, name: str, etag: str) -> Rollout:
    store.lock(tx)
    rollout = get_rollout(tx, name)
    if etag and etag != rollout.etag:
        raise etag_mismatch()
    return rollout


def _save(
    tx: Transaction,
    before: Rollout,
    after: Rollout,
    *,
    actor: str,
    cause: str,
    detail: Mapping[str, Any],
    anchor: Anchor | None = None,
    narrows: bool = False,
) -> Rollout:
    """Store a changed rollout, publish it, decide all its records anew, and write it down."""
    saved = _stored(tx, before, after)
    changed = audit.patch(_audited(before), _audited(saved))
    _published(tx, saved, actor=actor, cause=cause, detail={**detail, "changed": changed})
    _decide(tx, saved, actor=actor, anchor=anchor, narrowed=before if narrows else None)
    return get_rollout(tx, saved.name)


def _stored(tx: Transaction, before: Rollout, after: Rollout) -> Rollout:
    saved = replace(after, revision=before.revision + 1, update_time=tx.now)
    store.update_rollout(tx, saved)
    return saved


def _published(
    tx: Transaction, rollout: Rollout, *, actor: str, cause: str, detail: Mapping[str, Any]
) -> None:
    """Tell gateways first, before thousands of enterprises are decided, and write it down."""
    version = serving.publish(tx, store.all_rollouts(tx))
    audit.append(tx, actor=actor, cause=cause, rollout=rollout.name, detail=detail, snapshot_version=version)
    tx.append_change(ROLLOUTS, rollout.name, {})


def _audited(rollout: Rollout) -> dict[str, Any]:
    """What of a rollout the audit trail compares."""
    return {
        "state": rollout.state.value,
        "stage": rollout.stage,
        "basis_points": rollout.basis_points,
        "killed": rollout.killed,
        "cause": rollout.cause.value,
        "plan": {"version": rollout.plan_version, "sha256": rollout.plan.sha256},
    }


def _reconsider(tx: Transaction, enterprise: str, *, actor: str) -> None:
    """Decide on one enterprise in every rollout, and tell gateways what rules may ask of it."""
    version = serving.Told(tx)
    for rollout in store.all_rollouts(tx):
        _decide(tx, rollout, [enterprise], actor=actor, told=version)
    known = store.get_enterprise(tx, enterprise)
    if known:
        version.add_enterprise(
            serving.enterprise_record(enterprise, verified=known["verified"], attributes=known["attributes"])
        )
    version.tell()


def _decide(
    tx: Transaction,
    rollout: Rollout,
    enterprises: Sequence[str] | None = None,
    *,
    actor: str,
    given: Mapping[str, Record] | None = None,
    anchor: Anchor | None = None,
    narrowed: Rollout | None = None,
    told: "serving.Told | None" = None,
) -> dict[str, Record]:
    """
    Decide records anew, all or those of some `enterprises`; store and tell what changed. Returns them by enterprise.

    `given` are records as a use case wants them decided, instead of those that are stored. `told` collects what gateways are
    told, where several rollouts are decided in one transaction.
    """
    known, first = store.records(tx, rollout, enterprises)
    others = store.taken(tx, rollout.name, enterprises) if enterprises is not None else decision.Taken()
    asked = {**known, **{record.enterprise: record for record in first}, **(given or {})}
    decided = decision.decide(
        rollout, asked.values(), now=tx.now, others=others, anchor=anchor, narrowed=narrowed
    )
    changed = [record for record in decided if record != known.get(record.enterprise)]
    if changed:
        version = told or serving.Told(tx)
        store.save_records(tx, rollout, changed, version.number)
        version.add_records(rollout, changed)
        if told is None:
            version.tell()
        _tell_each(tx, rollout, known, changed)
        metrics.decided(tx, rollout.name, [(known.get(record.enterprise), record) for record in changed])
        _write_down(tx, rollout, known, changed, actor)
        tx.append_change(ROLLOUTS, rollout.name, {})
    return {record.enterprise: record for record in decided}


def _tell_each(
    tx: Transaction, rollout: Rollout, known: Mapping[str, Record], changed: Iterable[Record]
) -> None:
    told: list[Telling] = []
    for record in changed:
        name, was = record.enterprise, _was_active(known, record)
        if record.is_active and not was:
            granted = events.AdmissionGranted(rollout=rollout.name, enterprise=name, stage=record.stage)
            told.append(Telling(granted, name, name))
        elif was and not record.is_active:
            revoked = record.state is AdmissionState.REVOKED
            kind = events.AdmissionRevoked if revoked else events.AdmissionSuspended
            out = kind(rollout=rollout.name, enterprise=name, reason=record.reason)
            told.append(Telling(out, name, name))
    tx.emit_all(told)


def _write_down(
    tx: Transaction, rollout: Rollout, known: Mapping[str, Record], changed: Sequence[Record], actor: str
) -> None:
    """Who came in and who went out: one event for one enterprise, a list for few, numbers for many."""
    entered = [r.enterprise for r in changed if r.is_active and not _was_active(known, r)]
    left = [r.enterprise for r in changed if not r.is_active and _was_active(known, r)]
    if not entered and not left:
        return
    detail = {
        "entered": entered[:_LISTED],
        "entered_count": len(entered),
        "left": left[:_LISTED],
        "left_count": len(left),
    }
    one = changed[0].enterprise if len(changed) == 1 else None
    audit.append(
        tx, actor=actor, cause="admissions.decided", rollout=rollout.name, enterprise=one, detail=detail
    )


_LISTED = 100
"""How many enterprises an audit event names; more are counted."""


def _was_active(known: Mapping[str, Record], record: Record) -> bool:
    return record.enterprise in known and known[record.enterprise].is_active


def record_of(tx: Transaction, rollout: Rollout, enterprise: str) -> Record:
    """The record of an enterprise, made if there is none. Raises NOT_FOUND for one that nobody told of."""
    known, first = store.records(tx, rollout, [enterprise])
    found = known.get(enterprise) or next(iter(first), None)
    if found is None:
        raise not_found(enterprise)
    return found


def _refused(reason: str, rollout: Rollout, enterprise: str, text: str) -> ServiceError:
    return ServiceError(
        Kind.FAILED_PRECONDITION, reason, text, metadata={"name": rollout.name, "enterprise": enterprise}
    )
