"""10,000 mutations of valid tokens: all are refused for what they are, none is accepted and none is an error of ours."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import Problem
from gateway.identity import AccessTokens
from gateway.keys import Keys
from gateway.ofrep_events import EventTokens
from gateway.revocations import Revocations
from gateway.tests.conftest import KEY, PRIVATE_PEM, PUBLIC_PEM, log_in
from gateway.tests.jwt_mutations import Target, attack, mutations
from services.chassis.clock import FixedClock
from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import Principal, PrincipalSigner, PrincipalVerifier

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
ISSUER = "http://gateway.test"
COUNT = 10_000
KINDS = 26
MEMBER = Principal(
    "MEMBER",
    "enterprises/x/members/m",
    "enterprises/x",
    roles=frozenset({"EDITOR"}),
    grants={"ADMIN": frozenset({"g"})},
)
KEYS = Keys(PRIVATE_PEM)
TOKENS = AccessTokens(KEYS, ISSUER, Revocations(FixedClock(NOW)))
ACCESS = TOKENS.issue(MEMBER, timedelta(minutes=10), NOW).token
PRINCIPAL = PrincipalSigner(PRIVATE_PEM).sign(MEMBER, NOW)
EVENTS = EventTokens(KEYS, ISSUER).issue(MEMBER, NOW)


def test_access_tokens__mutated():
    """Every one is a 401, and of every kind there were many."""
    assert TOKENS.verify(ACCESS, NOW) == MEMBER
    kinds: Counter[str] = Counter()
    target = Target(ACCESS, KEY.public_key(), KEY, strangers=(PRINCIPAL, EVENTS))
    for mutation in mutations(target, count=COUNT):
        with pytest.raises(Problem) as refused:
            TOKENS.authenticate(f"Bearer {mutation.token}", NOW)
        assert refused.value.status == 401, mutation
        kinds[mutation.kind] += 1
    assert (kinds.total(), len(kinds)) == (COUNT, KINDS)


def test_principals__mutated():
    """Services refuse what is not exactly a principal of the gateway's: UNAUTHENTICATED, whatever it is."""
    verifier = PrincipalVerifier(PUBLIC_PEM)
    assert verifier.verify(PRINCIPAL, NOW) == MEMBER
    kinds: Counter[str] = Counter()
    target = Target(PRINCIPAL, KEY.public_key(), KEY, strangers=(ACCESS, EVENTS))
    for mutation in mutations(target, count=COUNT):
        with pytest.raises(ServiceError) as refused:
            verifier.verify(mutation.token, NOW)
        assert refused.value.kind is Kind.UNAUTHENTICATED, mutation
        kinds[mutation.kind] += 1
    assert (kinds.total(), len(kinds)) == (COUNT, KINDS)


@pytest.mark.asyncio(loop_scope="session")
async def test_http__mutated(gateway):
    """Also through the whole gateway: always 401, and a reason that says so."""
    headers = await log_in(gateway)
    token = headers["authorization"].removeprefix("Bearer ")
    target = Target(token, KEY.public_key(), KEY, strangers=(PRINCIPAL, EVENTS))
    assert (await gateway.http.get("/v1/boxes/b", headers=headers)).status_code == 200

    outcomes = await attack(gateway.http, "/v1/boxes/b", mutations(target, count=1_000, seed=2))
    assert outcomes.total() == 1_000
    assert set(outcomes) == {(401, "CREDENTIALS_INVALID", ""), (401, "TOKEN_EXPIRED", "")}


def test_mutations__can_be_repeated():
    """The same seed, the same attack; another seed, another."""
    target = Target(ACCESS, KEY.public_key())
    one, same, other = (
        [
            (each.kind, each.token)
            for each in mutations(target, count=200, seed=seed)
            if each.kind.startswith("bent")
        ]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
