"""The life of an enterprise: registration and verification."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message
from numerator.events.v1 import accounts_pb2 as events

from services.accounts import metrics, store
from services.accounts.model import (
    ENTERPRISE_NAME,
    Enterprise,
    Member,
    Verification,
    VerificationStep,
    check_etag,
)
from services.accounts.model.enterprises import REVIEW_NOTE_NAME, ReviewNote, check_attributes
from services.accounts.store import review_notes as note_rows
from services.accounts.usecases import documents
from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.ids import new_id
from services.chassis.principal import Principal


def register_enterprise(
    tx: Transaction, enterprise: Enterprise, owner: Member, password_hash: str
) -> Enterprise:
    """Keep a new enterprise and its first member, and tell. Raises ALREADY_EXISTS (`EMAIL_TAKEN`)."""
    store.insert_enterprise(tx, enterprise)
    store.insert_member(tx, owner, password_hash)
    store.audit(
        tx,
        enterprise=enterprise.name,
        actor=owner.name,
        action="enterprise.registered",
        subject=enterprise.name,
    )
    tx.emit(
        events.EnterpriseRegistered(
            enterprise=enterprise.name,
            display_name=enterprise.display_name,
            industry=enterprise.industry,
            region=enterprise.region,
        ),
        subject=enterprise.name,
    )
    return enterprise


def advance_verification(
    tx: Transaction,
    name: str,
    step: VerificationStep,
    *,
    actor: str,
    note: str,
    etag: str,
    rests_on: Sequence[str] = (),
) -> Enterprise:
    """
    Take a step of the verification, and tell when it changes who is verified.

    `rests_on` are the documents on whose strength an operator verifies or rejects.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION (`VERIFICATION_STATE`, `DOCUMENT_ERASED`).
    """
    before = store.lock_enterprise(tx, name)
    check_etag(etag, before.revision)
    after = before.after(step, note=note, now=tx.now)
    store.update_enterprise(tx, after)
    documents.follow_verification(tx, name, step, after.verification, rests_on)
    store.audit(
        tx,
        enterprise=name,
        actor=actor,
        action=f"verification.{after.verification.lower()}",
        subject=name,
        note=note,
        documents=sorted(set(rests_on)),
    )
    metrics.verification(tx, after.verification)
    event = _told(after, step)
    if event is not None:
        tx.emit(event, subject=name)
    return after


def update_enterprise(
    tx: Transaction,
    name: str,
    *,
    display_name: str | None,
    industry: str | None,
    region: str | None,
    second_factor_required: bool | None,
    etag: str,
    caller: Principal,
) -> Enterprise:
    """
    Change what an enterprise says of itself, and tell; None leaves a value as it is.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`) or PERMISSION_DENIED (`ROLE_MISSING`).
    """
    before = store.lock_enterprise(tx, name)
    check_etag(etag, before.revision)
    given = {
        "display_name": display_name,
        "industry": industry,
        "region": region,
        "second_factor_required": second_factor_required,
    }
    changes: dict[str, Any] = {
        field: value
        for field, value in given.items()
        if value is not None and value != getattr(before, field)
    }
    if "second_factor_required" in changes and "OWNER" not in caller.roles:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_MISSING",
            "only an OWNER changes whether a second factor is required",
            metadata={"roles": "OWNER"},
        )
    if not changes:
        return before
    return _save(
        tx,
        replace(before, **changes),
        actor=caller.subject,
        action="enterprise.updated",
        fields=sorted(changes),
    )


def classify_enterprise(
    tx: Transaction, name: str, *, tier: str, attributes: Mapping[str, str], etag: str, actor: str
) -> Enterprise:
    """
    Replace what operators say of an enterprise, and tell.

    Raises INVALID_ARGUMENT, NOT_FOUND or ABORTED (`ETAG_MISMATCH`).
    """
    check_attributes(attributes)
    before = store.lock_enterprise(tx, name)
    check_etag(etag, before.revision)
    after = replace(before, tier=tier, attributes=dict(attributes))
    if after == before:
        return before
    return _save(
        tx, after, actor=actor, action="enterprise.classified", tier=tier, attributes=sorted(attributes)
    )


def write_review_note(tx: Transaction, enterprise: str, text: str, *, author: str) -> ReviewNote:
    """Keep a note for other operators. Raises NOT_FOUND."""
    store.get_enterprise(tx, enterprise)
    note = ReviewNote(
        REVIEW_NOTE_NAME.format(**ENTERPRISE_NAME.parse(enterprise, "parent"), review_note=new_id()),
        author,
        text,
        create_time=tx.now,
    )
    note_rows.insert_note(tx, note)
    store.audit(
        tx, enterprise=enterprise, actor=author, action="enterprise.review_note_written", subject=note.name
    )
    return note


def _save(
    tx: Transaction, changed: Enterprise, *, actor: str, action: str, **detail: str | list[str]
) -> Enterprise:
    after = replace(changed, revision=changed.revision + 1, update_time=tx.now)
    store.update_enterprise(tx, after)
    store.audit(tx, enterprise=after.name, actor=actor, action=action, subject=after.name, **detail)
    tx.emit(
        events.EnterpriseChanged(verified=after.verification is Verification.VERIFIED, **_said(after)),
        subject=after.name,
        enterprise=after.name,
    )
    return after


def _told(enterprise: Enterprise, step: VerificationStep) -> Message | None:
    match step:
        case VerificationStep.VERIFY | VerificationStep.RESTORE:
            return events.EnterpriseVerified(**_said(enterprise))
        case VerificationStep.REVOKE:
            return events.EnterpriseVerificationRevoked(**_said(enterprise))
        case _:
            return None


def _said(enterprise: Enterprise) -> dict[str, Any]:
    """What every event on an enterprise says of it."""
    return {
        "enterprise": enterprise.name,
        "display_name": enterprise.display_name,
        "industry": enterprise.industry,
        "region": enterprise.region,
        "tier": enterprise.tier,
        "attributes": enterprise.attributes,
    }
