"""The rules of accounts."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.accounts.model import (
    CLIENT_SCOPES,
    NETWORK_SCOPES,
    VERIFICATION_STEPS,
    Account,
    AccountState,
    Enterprise,
    Profile,
    Role,
    Verification,
    VerificationStep,
    check_etag,
    check_grant,
    check_password,
    check_scopes,
    etag_of,
    normal_server,
)
from services.chassis.errors import ServiceError

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
ENTERPRISE = Enterprise("enterprises/a", "A", "", "", create_time=NOW, update_time=NOW)
PROFILE = Profile("1", "a", "A", "mastodon", "4.5")


def account(state: AccountState = AccountState.ACTIVE) -> Account:
    return Account(
        "enterprises/a/accounts/b",
        "mastodon",
        "https://social.example",
        PROFILE,
        ("brand",),
        NOW,
        NOW,
        NOW,
        state,
    )


@given(st.lists(st.sampled_from(VerificationStep)))
def test_verification__only_moves_as_the_table_says(steps: list[VerificationStep]) -> None:
    """Along any path: VERIFIED only after an operator's VERIFY of a request, or RESTORE of what was so; and a refused step changes nothing."""
    enterprise = ENTERPRISE
    for step in steps:
        expected = VERIFICATION_STEPS.get((enterprise.verification, step))
        if expected is None:
            with pytest.raises(ServiceError) as refused:
                enterprise.after(step, note="", now=LATER)
            assert refused.value.reason == "VERIFICATION_STATE"
            continue
        before, enterprise = enterprise, enterprise.after(step, note=step, now=LATER)
        assert enterprise.verification is expected
        assert enterprise.revision == before.revision + 1
        if enterprise.verification is Verification.VERIFIED:
            assert (before.verification, step) in {
                (Verification.PENDING, VerificationStep.VERIFY),
                (Verification.REVOKED, VerificationStep.RESTORE),
            }


def test_verification__every_state_can_be_left_and_reached() -> None:
    """No enterprise is stuck for ever, and no state is only on paper."""
    assert {state for state, _ in VERIFICATION_STEPS} == set(Verification)
    assert set(VERIFICATION_STEPS.values()) == set(Verification) - {Verification.NOT_REQUESTED}


STEPS = {
    "authorize": lambda it, now: it.authorized(PROFILE, (), now),
    "refuse": lambda it, now: it.refused(now, told=now),
    "unbind": lambda it, now: it.unbound(now),
}


@given(st.lists(st.sampled_from(sorted(STEPS))))
def test_account__follows_what_happens_to_it(steps: list[str]) -> None:
    """Whatever happens in whatever order: only its holder makes an account ACTIVE, and what is unbound stays so."""
    it, now = account(), NOW
    for step in steps:
        now += timedelta(seconds=1)
        before, it = it, STEPS[step](it, now)
        assert (it is before) == (it.revision == before.revision)
        match step:
            case "authorize":
                assert (it.state, it.authorize_time) == (AccountState.ACTIVE, now)
            case "unbind":
                assert it.state is AccountState.REVOKED
            case "refuse" if before.state is AccountState.ACTIVE:
                assert it.state is AccountState.REAUTH_REQUIRED
            case "refuse":
                assert it is before


def test_account__ignores_a_refusal_from_before_its_authorization() -> None:
    """A late message about the old token does not take the new one away."""
    fresh = account().authorized(PROFILE, (), LATER)
    assert fresh.refused(LATER, told=NOW) is fresh
    assert fresh.refused(LATER, told=LATER).state is AccountState.REAUTH_REQUIRED


def test_account__keeps_its_labels_unless_given_others() -> None:
    """To bind again does not lose labels."""
    assert account().authorized(PROFILE, (), LATER).labels == ("brand",)
    assert account().authorized(PROFILE, ("dealer",), LATER).labels == ("dealer",)


def test_check_grant__only_an_owner_makes_owners() -> None:
    """An ADMIN cannot raise anybody above himself."""
    check_grant(frozenset({"OWNER"}), Role.OWNER)
    check_grant(frozenset({"ADMIN"}), Role.ADMIN)
    with pytest.raises(ServiceError, match="OWNER"):
        check_grant(frozenset({"ADMIN"}), Role.OWNER)


def test_check_scopes__refuses_what_concerns_people() -> None:
    """No enterprise can give its app the network's own rights, nor rights that do not exist."""
    check_scopes(CLIENT_SCOPES)
    assert not CLIENT_SCOPES & NETWORK_SCOPES
    for scope in [*NETWORK_SCOPES, "everything", ""]:
        with pytest.raises(ServiceError) as refused:
            check_scopes(frozenset({scope, "accounts.read"}))
        assert refused.value.violations[0].reason == "SCOPE_UNKNOWN"


def test_check_password__wants_twelve_characters() -> None:
    """Eleven are too few; the message does not repeat them."""
    check_password("x" * 12, "password")
    with pytest.raises(ServiceError) as refused:
        check_password("y" * 11, "password")
    assert "yyy" not in refused.value.message


def test_check_etag__refuses_a_stale_one() -> None:
    """None at all is fine; the one of now is; any other is not."""
    check_etag("", 3)
    check_etag(etag_of(3), 3)
    for stale in (etag_of(2), "r", "3", "*"):
        with pytest.raises(ServiceError, match="stale"):
            check_etag(stale, 3)


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        ("https://social.example", "https://social.example"),
        ("HTTPS://Social.Example/", "https://social.example"),
        ("https://social.example:443", "https://social.example"),
        ("http://127.0.0.1:7401/", "http://127.0.0.1:7401"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_normal_server__has_one_form(given_as: str, kept_as: str) -> None:
    """One server, one spelling: otherwise it could be bound twice."""
    assert normal_server(given_as) == kept_as


@pytest.mark.parametrize(
    "malformed",
    [
        "social.example",
        "ftp://social.example",
        "https://",
        "https://user@social.example",
        "https://social.example@evil.example",
        "https://social.example/path",
        "https://social.example?x=1",
        "https://social.example#x",
        "https://social.example:99999",
        "https://social.example\\@evil.example",
        "https://social.example evil",
        "https://social.example\nevil",
        "https://[::1",
        "",
    ],
)
def test_normal_server__refuses_what_is_no_base_url(malformed: str) -> None:
    """Whatever could be read in two ways is not read at all."""
    with pytest.raises(ServiceError) as refused:
        normal_server(malformed)
    assert refused.value.violations[0].reason == "SERVER_MALFORMED"
