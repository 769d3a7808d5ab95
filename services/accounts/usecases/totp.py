"""Members' second factors: set up, asked for at each login, taken away."""

from dataclasses import replace

from pydantic import SecretStr

from services.accounts import store
from services.accounts.credentials import hash_secret
from services.accounts.model import Member
from services.accounts.model.totp import (
    RECOVERY_CODES,
    enrollment_required,
    matching_step,
    new_recovery_code,
    new_seed,
    otpauth_uri,
    password_login_required,
    totp_enabled,
    totp_invalid,
    totp_not_enrolled,
    totp_required,
)
from services.accounts.store import members as member_rows
from services.accounts.store import second_factors as rows
from services.accounts.usecases.login import Proof
from services.accounts.usecases.secrets import Vault
from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal

_SEED = "totp_seed"


def enroll(tx: Transaction, vault: Vault, proof: Proof) -> str:
    """
    Give a member a seed that is not asked for yet; returns the URI for the authenticator app, this once.

    Needs the platform's scope. Raises as `Proof.use` does, or FAILED_PRECONDITION (`TOTP_ENABLED`).
    """
    member = _prove(tx, proof)
    if member.totp_enabled:
        raise totp_enabled()
    seed = new_seed()
    rows.save_factor(tx, member.name, vault.seal(tx, seed, member.name, _SEED))
    _audit(tx, member.name, member.name, "totp.enrolled")
    return otpauth_uri(seed, member.email)


def confirm(tx: Transaction, vault: Vault, proof: Proof, code: str) -> list[SecretStr]:
    """
    Ask for codes from now on, which the first one shows to work; returns the recovery codes, this once.

    Needs the platform's scope. Raises as `Proof.use` does, FAILED_PRECONDITION (`TOTP_ENABLED`, `TOTP_NOT_ENROLLED`) or
    UNAUTHENTICATED (`TOTP_INVALID`).
    """
    member = _prove(tx, proof)
    if member.totp_enabled:
        raise totp_enabled()
    factor = rows.lock_factor(tx, member.name)
    if factor is None:
        raise totp_not_enrolled()
    _use_code(tx, vault, member.name, factor, code)
    codes = [new_recovery_code() for _ in range(RECOVERY_CODES)]
    rows.insert_recovery_codes(tx, member.name, [hash_secret(each) for each in codes])
    member_rows.save_member(tx, replace(member, totp_enabled=True))
    _audit(tx, member.name, member.name, "totp.enabled")
    return codes


def check(tx: Transaction, vault: Vault, member: Member, code: str) -> None:
    """
    Ask for a member's second factor at a login, if there is one: a code of the app, or a recovery code.

    Raises UNAUTHENTICATED (`TOTP_REQUIRED`, `TOTP_INVALID`).
    """
    factor = rows.lock_factor(tx, member.name) if member.totp_enabled else None
    if factor is None:
        return
    if not code:
        raise totp_required()
    if rows.use_recovery_code(tx, member.name, hash_secret(SecretStr(code.strip().lower()))):
        _audit(tx, member.name, member.name, "totp.recovery_code_used")
    else:
        _use_code(tx, vault, member.name, factor, code)


def check_enrolled(tx: Transaction, member: Member, enterprise: str) -> None:
    """Raises FAILED_PRECONDITION (`TOTP_ENROLLMENT_REQUIRED`) when the enterprise asks for a second factor, and there is none."""
    if not member.totp_enabled and store.get_enterprise(tx, enterprise).second_factor_required:
        raise enrollment_required()


def check_not_asked(tx: Transaction, enterprise: str) -> None:
    """Raises FAILED_PRECONDITION (`PASSWORD_LOGIN_REQUIRED`) when the enterprise asks for a second factor, and none was shown."""
    if store.get_enterprise(tx, enterprise).second_factor_required:
        raise password_login_required(enterprise)


def disable(tx: Transaction, name: str, *, actor: str) -> None:
    """Take a second factor away, if there is one. Raises NOT_FOUND."""
    member = member_rows.lock_member(tx, name)
    if not member.totp_enabled:
        return
    rows.delete_factor(tx, name)
    member_rows.save_member(tx, replace(member, totp_enabled=False))
    _audit(tx, name, actor, "totp.disabled")


def check_may_disable(caller: Principal) -> None:
    """Raises PERMISSION_DENIED (`ROLE_MISSING`) for whoever would take somebody else's away and is no OWNER."""
    if "OWNER" not in caller.roles:
        raise ServiceError(
            Kind.PERMISSION_DENIED,
            "ROLE_MISSING",
            "only an OWNER takes another member's second factor away",
            metadata={"roles": "OWNER"},
        )


def _prove(tx: Transaction, proof: Proof) -> Member:
    """The member, whom nobody else changes before this transaction ends."""
    member_rows.lock_member(tx, proof.name)
    return proof.use(tx)


def _use_code(tx: Transaction, vault: Vault, member: str, factor: rows.SecondFactor, code: str) -> None:
    seed = vault.open(tx, factor.seed, member, _SEED)
    step = matching_step(seed, code.replace(" ", ""), tx.now, after=factor.last_step)
    if step is None:
        raise totp_invalid()
    rows.use_step(tx, member, step)


def _audit(tx: Transaction, member: str, actor: str, action: str) -> None:
    store.audit(tx, enterprise=enterprise_of(member) or "", actor=actor, action=action, subject=member)
