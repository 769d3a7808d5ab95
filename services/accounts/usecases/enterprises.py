"""The life of an enterprise: registration and verification."""

from google.protobuf.message import Message
from numerator.events.v1 import accounts_pb2 as events

from services.accounts import metrics, store
from services.accounts.model import Enterprise, Member, VerificationStep, check_etag
from services.chassis.database import Transaction


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
    tx: Transaction, name: str, step: VerificationStep, *, actor: str, note: str, etag: str
) -> Enterprise:
    """
    Take a step of the verification, and tell when it changes who is verified.

    Raises NOT_FOUND, ABORTED (`ETAG_MISMATCH`) or FAILED_PRECONDITION (`VERIFICATION_STATE`).
    """
    before = store.lock_enterprise(tx, name)
    check_etag(etag, before.revision)
    after = before.after(step, note=note, now=tx.now)
    store.update_enterprise(tx, after)
    store.audit(
        tx,
        enterprise=name,
        actor=actor,
        action=f"verification.{after.verification.lower()}",
        subject=name,
        note=note,
    )
    metrics.verification(tx, after.verification)
    event = _told(after, step)
    if event is not None:
        tx.emit(event, subject=name)
    return after


def _told(enterprise: Enterprise, step: VerificationStep) -> Message | None:
    match step:
        case VerificationStep.VERIFY:
            return events.EnterpriseVerified(
                enterprise=enterprise.name,
                display_name=enterprise.display_name,
                industry=enterprise.industry,
                region=enterprise.region,
            )
        case VerificationStep.REVOKE:
            return events.EnterpriseVerificationRevoked(enterprise=enterprise.name)
        case _:
            return None
