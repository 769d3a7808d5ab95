"""Second factors: time-based one-time passwords (RFC 6238), and recovery codes for the day when the telephone is gone."""

import base64
import secrets
from datetime import datetime

import pyotp
from pydantic import SecretStr

from services.chassis.errors import Kind, ServiceError

RECOVERY_CODES = 10
"""How many recovery codes a member gets."""

ISSUER = "Numerator"
"""What authenticator apps show beside the address."""

STEP_SECONDS = 30
_DRIFT = (0, -1, 1)
_RECOVERY_BYTES = 10
_RECOVERY_GROUP = 4


def new_seed() -> SecretStr:
    """160 random bits, in base32 as apps take them."""
    return SecretStr(pyotp.random_base32())


def otpauth_uri(seed: SecretStr, email: str) -> str:
    """What an authenticator app takes."""
    return pyotp.TOTP(seed.get_secret_value()).provisioning_uri(name=email, issuer_name=ISSUER)


def matching_step(seed: SecretStr, code: str, now: datetime, *, after: int) -> int | None:
    """
    The 30 seconds of which this is the code: the present ones or, for clocks that differ, those before or behind.

    None when it is wrong, or of no later step than `after`: each code works once.
    """
    otp = pyotp.TOTP(seed.get_secret_value(), interval=STEP_SECONDS)
    step = int(now.timestamp()) // STEP_SECONDS
    for drift in _DRIFT:
        matches = pyotp.utils.strings_equal(otp.generate_otp(step + drift), code)
        if matches and step + drift > after:
            return step + drift
    return None


def new_recovery_code() -> SecretStr:
    """80 random bits, to be read and typed: `abcd-efgh-ijkl-mnop`. So many that a fast hash will do to keep it."""
    text = base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower()
    return SecretStr("-".join(text[at : at + _RECOVERY_GROUP] for at in range(0, len(text), _RECOVERY_GROUP)))


def totp_required() -> ServiceError:
    """The password was right, and is not enough."""
    return ServiceError(
        Kind.UNAUTHENTICATED,
        "TOTP_REQUIRED",
        "log in with `totp` as well: a code of the authenticator app, or a recovery code",
    )


def totp_invalid() -> ServiceError:
    """The code is wrong, or was used."""
    return ServiceError(
        Kind.UNAUTHENTICATED, "TOTP_INVALID", "the code is wrong or was used: wait for the next one"
    )


def password_login_required(enterprise: str) -> ServiceError:
    """The enterprise asks all who act for it for a second factor of ours, and another's identity provider asks for none."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "PASSWORD_LOGIN_REQUIRED",
        f"{enterprise} asks for a second factor: to act for it, log in with password and code, not by your identity provider",
        metadata={"enterprise": enterprise},
    )


def enrollment_required() -> ServiceError:
    """The enterprise asks for a second factor, which the member has not set up."""
    return ServiceError(
        Kind.FAILED_PRECONDITION,
        "TOTP_ENROLLMENT_REQUIRED",
        "the enterprise requires a second factor: POST /v1/members:enrollTotp, then :confirmTotp, then log in",
    )


def totp_enabled() -> ServiceError:
    """There is a second factor already."""
    return ServiceError(
        Kind.FAILED_PRECONDITION, "TOTP_ENABLED", "the member has a second factor: disable it first"
    )


def totp_not_enrolled() -> ServiceError:
    """There is nothing to confirm."""
    return ServiceError(
        Kind.FAILED_PRECONDITION, "TOTP_NOT_ENROLLED", "begin with POST /v1/members:enrollTotp"
    )
