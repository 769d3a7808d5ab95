"""Second factors, by gRPC: set up, asked for, used once, taken away."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerator.accounts.v1 import members_pb2 as pb
from numerator.accounts.v1 import sessions_pb2
from pydantic import SecretStr

from services.accounts.model.totp import STEP_SECONDS, matching_step, new_recovery_code
from services.accounts.tests.test_members import create, members
from services.accounts.tests.test_sessions import EMAIL, HOME, log_in, refresh, refused, sessions
from services.accounts.tests.world import PASSWORD, World
from services.chassis.database import PLATFORM
from services.chassis.testing.rpc import anonymous, gateway, member

# RFC 6238, appendix B, SHA-1: the last six digits of its codes.
SEED = SecretStr("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
VECTORS = [
    (59, "287082"),
    (1111111109, "081804"),
    (1111111111, "050471"),
    (1234567890, "005924"),
    (2000000000, "279037"),
    (20000000000, "353130"),
]


@pytest.mark.parametrize(("seconds", "code"), VECTORS)
def test_code__is_that_of_the_standard(seconds: int, code: str) -> None:
    """The vectors of RFC 6238."""
    step = seconds // STEP_SECONDS
    assert matching_step(SEED, code, datetime.fromtimestamp(seconds, UTC), after=0) == step
    assert matching_step(SEED, code, datetime.fromtimestamp(seconds, UTC), after=step) is None


@given(st.integers(1_000, 10**10), st.integers(-5, 5))
def test_code__counts_for_a_minute_and_a_half(now: int, drift: int) -> None:
    """One step early, one late, and not further; never twice."""
    step = now // STEP_SECONDS + drift
    code = pyotp.TOTP(SEED.get_secret_value()).generate_otp(step)
    found = matching_step(SEED, code, datetime.fromtimestamp(now, UTC), after=0)
    if abs(drift) <= 1:
        assert found is not None
        assert (
            matching_step(SEED, code, datetime.fromtimestamp(now, UTC), after=now // STEP_SECONDS + 1) is None
        )
    else:
        assert found != step


def test_recovery_code__can_be_typed() -> None:
    """Four groups of four small letters and digits, each time others."""
    codes = {new_recovery_code().get_secret_value() for _ in range(100)}
    assert len(codes) == 100
    assert all([len(part) for part in code.split("-")] == [4] * 4 and code == code.lower() for code in codes)


def enroll(world: World, email: str = EMAIL) -> pyotp.TOTP:
    answer = members(world, anonymous()).EnrollTotp(pb.EnrollTotpRequest(email=email, password=PASSWORD))
    uri = urlsplit(answer.otpauth_uri)
    assert (uri.scheme, uri.netloc, unquote(uri.path)) == ("otpauth", "totp", f"/Numerator:{email}")
    return pyotp.TOTP(parse_qs(uri.query)["secret"][0])


def confirm(world: World, code: str, email: str = EMAIL) -> list[str]:
    answer = members(world, anonymous()).ConfirmTotp(
        pb.ConfirmTotpRequest(email=email, password=PASSWORD, totp=code)
    )
    return list(answer.recovery_codes)


def code_of(world: World, app: pyotp.TOTP, steps: int = 0) -> str:
    return app.at(world.clock.now(), counter_offset=steps)


def log_in_with(
    world: World, code: str, password: str = PASSWORD, email: str = EMAIL
) -> sessions_pb2.OpenedSession:
    return sessions(world, gateway()).OpenSession(
        sessions_pb2.OpenSessionRequest(email=email, password=password, address=HOME, totp=code)
    )


def test_totp__is_asked_for_once_it_is_confirmed(world: World) -> None:
    """Before that a login goes as ever; after, the password alone is not enough, and the right code is."""
    company = world.register()
    app = enroll(world)
    log_in(world)
    assert refused(confirm, world, "000000") == "TOTP_INVALID"
    codes = confirm(world, code_of(world, app))
    assert len(set(codes)) == 10
    assert refused(log_in, world) == "TOTP_REQUIRED"
    assert refused(log_in_with, world, "", "wrong horse battery") == "CREDENTIALS_INVALID"
    assert (
        refused(log_in_with, world, code_of(world, app)) == "TOTP_INVALID"
    )  # it has confirmed: each works once
    world.clock.advance(timedelta(seconds=STEP_SECONDS))
    opened = log_in_with(world, code_of(world, app))
    assert refresh(world, opened.refresh_token).session.name == opened.session.name
    assert refused(log_in_with, world, code_of(world, app)) == "TOTP_INVALID"
    assert log_in_with(world, code_of(world, app, 1)).refresh_token  # a clock that is ahead
    assert (
        members(world, company.owner).GetMember(pb.GetMemberRequest(name=company.owner.subject)).totp_enabled
    )
    assert refused(enroll, world) == "TOTP_ENABLED"
    assert refused(confirm, world, "123456") == "TOTP_ENABLED"


def test_totp__secrets_are_sealed_or_hashed(world: World) -> None:
    """Neither seed nor recovery codes stand in any table."""
    world.register()
    app = enroll(world)
    codes = confirm(world, code_of(world, app))
    for table in ("second_factors", "recovery_codes", "audit", "outbox", "idempotency", "members"):
        kept = str(world.rows(table))
        for secret in (app.secret, *codes):
            assert secret not in kept


def test_recovery_codes__work_once_each(world: World) -> None:
    """In any case of letters, and it is written down."""
    world.register()
    codes = confirm(world, code_of(world, enroll(world)))
    assert log_in_with(world, f" {codes[3].upper()}").refresh_token
    assert refused(log_in_with, world, codes[3]) == "TOTP_INVALID"
    assert log_in_with(world, codes[4]).refresh_token
    assert len(world.audited("totp.recovery_code_used")) == 2
    assert len(world.rows("recovery_codes")) == 8


def test_guessing__of_codes_is_slowed_down(world: World) -> None:
    """Who knows the password cannot try codes without end, nor begin anew by a login without one."""
    world.register()
    confirm(world, code_of(world, enroll(world)))
    reasons = []
    for number in range(6):
        reasons.append(refused(log_in_with, world, f"{number:06}"))
        reasons.append(refused(log_in, world))
    assert reasons[-2:] == ["TOO_MANY_LOGINS"] * 2


def test_enrolling__begins_anew_until_it_is_confirmed(world: World) -> None:
    """A seed that nobody confirmed is replaced; without one there is nothing to confirm; a wrong password gets none."""
    world.register()
    assert refused(confirm, world, "123456") == "TOTP_NOT_ENROLLED"
    first, second = enroll(world), enroll(world)
    assert refused(confirm, world, code_of(world, first)) == "TOTP_INVALID"
    confirm(world, code_of(world, second))
    request = pb.EnrollTotpRequest(email=EMAIL, password="wrong")
    assert refused(members(world, anonymous()).EnrollTotp, request) == "CREDENTIALS_INVALID"


def test_disabling__needs_the_password_or_an_owner(world: World) -> None:
    """And is written down; to do it again changes nothing."""
    company = world.register()
    li, admin = create(world, company, "li"), create(world, company, "admin", "ADMIN")
    email = "li@x.example"
    confirm(world, code_of(world, enroll(world, email)), email)
    wrong = pb.DisableTotpRequest(name=li.subject, password="wrong")
    right = pb.DisableTotpRequest(name=li.subject, password=PASSWORD)
    without = pb.DisableTotpRequest(name=li.subject)
    assert refused(members(world, li).DisableTotp, wrong) == "CREDENTIALS_INVALID"
    assert refused(members(world, li).DisableTotp, without) == "CREDENTIALS_INVALID"
    assert refused(members(world, admin).DisableTotp, right) == "ROLE_MISSING"
    assert refused(members(world, member("enterprises/other")).DisableTotp, right) == "NOT_FOUND"
    assert refused(log_in, world, email=email) == "TOTP_REQUIRED"
    members(world, li).DisableTotp(right)
    members(world, li).DisableTotp(right)
    log_in(world, email=email)

    confirm(world, code_of(world, enroll(world, email)), email)
    members(world, company.owner).DisableTotp(without)
    log_in(world, email=email)
    assert [row["actor"] for row in world.audited("totp.disabled")] == [li.subject, company.owner.subject]
    assert not world.rows("second_factors")
    assert not world.rows("recovery_codes")


def test_enterprise__may_require_it(world: World) -> None:
    """Who has none gets no session and no further access token, and sets one up without either."""
    company = world.register()
    opened = log_in(world)
    with world.database.transaction(PLATFORM) as tx:
        tx.execute(
            "update enterprises set second_factor_required = true where enterprise = %s", (company.name,)
        )
    assert refused(log_in, world) == "TOTP_ENROLLMENT_REQUIRED"
    assert refused(refresh, world, opened.refresh_token) == "TOTP_ENROLLMENT_REQUIRED"
    app = enroll(world)
    confirm(world, code_of(world, app))
    assert refresh(world, opened.refresh_token).session.name == opened.session.name
    world.clock.advance(timedelta(seconds=STEP_SECONDS))
    log_in_with(world, code_of(world, app))
