"""What must not lead to a bound account: many ways to misuse the OAuth2 flow, each refused for its reason and written down."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from numerator.accounts.v1 import binding_pb2 as pb
from pydantic import SecretStr

from services.accounts.networks import (
    Application,
    Authorization,
    authorization_incomplete,
    authorization_mismatch,
    leads_elsewhere,
)
from services.accounts.tests.test_invitations import Campaign
from services.accounts.tests.world import OTHER_SERVER, SERVER, Company, FakeNetwork, World, reason_of
from services.chassis.testing.rpc import gateway, member

SERVERS_FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""What the gateway answers with 5xx."""


class StrictNetwork(FakeNetwork):
    """The made-up network, which also names itself in redirects, and can be told what to find wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: Exception | None = None
        """Raised at the exchange, as after a look at the token."""

    def register(self, server: str, redirect_uri: str) -> Application:
        return replace(super().register(server, redirect_uri), issuer=f"{server}/", names_issuer=True)

    def exchange(self, application: Application, *, code: str, verifier: SecretStr) -> Authorization:
        authorization = super().exchange(application, code=code, verifier=verifier)
        if self.wrong is not None:
            raise self.wrong
        return authorization


@dataclass
class Attack:
    """An enterprise, another one, and a network on which a holder agrees to what they start."""

    world: World
    network: StrictNetwork
    company: Company
    other: Company

    @property
    def campaign(self) -> Campaign:
        return Campaign(self.world, self.company)

    def agreed(self, company: Company | None = None, handle: str = "brand") -> tuple[str, str]:
        """The state and the code of a binding to which the holder has agreed."""
        started = self.world.start(company or self.company)
        return self.network.agree(started.authorization_url, handle)

    def complete(
        self, state: str, code: str = "", company: Company | None = None, iss: str = f"{SERVER}/", **more: Any
    ) -> None:
        self.world.complete(company or self.company, state, code, iss=iss, **more)

    def invited(self) -> pb.BindingRow:
        return self.campaign.invite().rows[0]

    def finish(self, state: str, code: str = "", **more: Any) -> None:
        """Complete what an invitation has started."""
        self.campaign.complete(state, code, **{"iss": f"{SERVER}/", **more})


@pytest.fixture
def attack(serve: Callable[..., World]) -> Attack:
    network = StrictNetwork()
    world = serve(network=network)
    other = world.register("Kunlun Tours", "owner@kunlun.example")
    return Attack(world, network, world.register(), other)


def state_reused(attack: Attack) -> None:
    agreed = attack.agreed()
    attack.complete(*agreed)
    attack.complete(*agreed)


def state_expired(attack: Attack) -> None:
    agreed = attack.agreed()
    attack.world.clock.advance(timedelta(minutes=10))
    attack.complete(*agreed)


def state_of_another_session(attack: Attack) -> None:
    colleague = replace(
        attack.company, owner=member(attack.company.name, ["OWNER"], f"{attack.company.name}/members/b")
    )
    attack.complete(*attack.agreed(), company=colleague)


def state_of_another_tenant(attack: Attack) -> None:
    attack.complete(*attack.agreed(), company=attack.other)


def state_missing(attack: Attack) -> None:
    attack.complete("", attack.agreed()[1])


def state_tampered(attack: Attack) -> None:
    state, code = attack.agreed()
    attack.complete(state[:-1] + ("A" if state[-1] != "A" else "B"), code)


def code_replayed(attack: Attack) -> None:
    _, code = agreed = attack.agreed()
    attack.complete(*agreed)
    attack.complete(attack.agreed()[0], code)


def code_of_another_verifier(attack: Attack) -> None:
    """A code that was given to another binding, injected into this one: PKCE holds it apart."""
    attack.complete(attack.agreed(handle="brand")[0], attack.agreed(handle="thief")[1])


def code_made_up(attack: Attack) -> None:
    attack.complete(attack.agreed()[0], "made-up")


def code_and_error(attack: Attack) -> None:
    state, code = attack.agreed()
    attack.complete(state, code, error="access_denied")


def denied(attack: Attack) -> None:
    attack.complete(attack.agreed()[0], error="access_denied")


def issuer_wrong(attack: Attack) -> None:
    attack.complete(*attack.agreed(), iss="https://thief.example/")


def issuer_missing(attack: Attack) -> None:
    attack.complete(*attack.agreed(), iss="")


def issuer_wrong_with_an_error(attack: Attack) -> None:
    attack.complete(attack.agreed()[0], error="access_denied", iss="https://thief.example/")


def scope_cut_down(attack: Attack) -> None:
    attack.network.wrong = authorization_incomplete(SERVER, "write:statuses")
    attack.complete(*attack.agreed())


def appkey_mismatch(attack: Attack) -> None:
    attack.network.wrong = authorization_mismatch(SERVER, "appkey")
    attack.complete(*attack.agreed())


def uid_mismatch(attack: Attack) -> None:
    attack.network.wrong = authorization_mismatch(SERVER, "uid")
    attack.complete(*attack.agreed())


def account_bound_elsewhere(attack: Attack) -> None:
    attack.complete(*attack.agreed(attack.other), company=attack.other)
    attack.complete(*attack.agreed())


def server_not_on_the_list(attack: Attack) -> None:
    attack.world.start(attack.company, server="http://169.254.169.254")


def server_of_another_network(attack: Attack) -> None:
    attack.world.start(attack.company, network="weibo")


def discovery_leads_elsewhere(attack: Attack) -> None:
    attack.network.failure = leads_elsewhere(OTHER_SERVER)
    attack.world.start(attack.company, server=OTHER_SERVER)


def invitation_used(attack: Attack) -> None:
    row = attack.invited()
    attack.finish(*attack.network.agree(attack.campaign.open(row.invitation_link), "brand"))
    attack.campaign.open(row.invitation_link)


def invitation_expired(attack: Attack) -> None:
    row = attack.invited()
    attack.world.clock.advance(timedelta(days=14))
    attack.campaign.open(row.invitation_link)


def invitation_cancelled(attack: Attack) -> None:
    made = attack.campaign.invite()
    attack.campaign.owner.CancelBindingBatch(pb.CancelBindingBatchRequest(name=made.batch.name))
    attack.campaign.open(made.rows[0].invitation_link)


def invitation_tampered(attack: Attack) -> None:
    link = attack.invited().invitation_link
    attack.campaign.open(link[:-2] + ("AA" if not link.endswith("AA") else "BB"))


def invitation_of_another_tenant(attack: Attack) -> None:
    """The right token with another enterprise's id in the link."""
    link = attack.invited().invitation_link
    token = urlsplit(link).path.rpartition("/")[2]
    attack.campaign.as_(gateway()).OpenInvitation(
        pb.OpenInvitationRequest(parent=attack.other.name, token=token, browser="browser")
    )


def browser_of_somebody_else(attack: Attack) -> None:
    """The attacker begins, agrees with an account of their own, and has the victim's browser complete."""
    row = attack.invited()
    agreed = attack.network.agree(attack.campaign.open(row.invitation_link, browser="attacker"), "thief")
    attack.finish(*agreed, browser="victim")


def state_of_an_invitation_by_the_api(attack: Attack) -> None:
    row = attack.invited()
    attack.complete(*attack.network.agree(attack.campaign.open(row.invitation_link), "brand"))


def state_of_the_api_by_an_invitation(attack: Attack) -> None:
    state, code = attack.agreed()
    request = pb.CompleteInvitationRequest(
        parent=attack.company.name, state=state, code=code, browser="browser"
    )
    attack.campaign.as_(gateway()).CompleteInvitation(request)


BINDING, INVITATION, NOBODYS = "binding.refused", "invitation.refused", ""

CASES: list[tuple[Callable[[Attack], None], str, str]] = [
    (state_reused, "BINDING_STATE_USED", BINDING),
    (state_expired, "BINDING_STATE_EXPIRED", BINDING),
    (state_of_another_session, "BINDING_STATE_INVALID", BINDING),
    (state_of_another_tenant, "BINDING_STATE_INVALID", BINDING),
    (state_missing, "INVALID_ARGUMENT", NOBODYS),
    (state_tampered, "BINDING_STATE_INVALID", BINDING),
    (code_replayed, "AUTHORIZATION_REFUSED", BINDING),
    (code_of_another_verifier, "AUTHORIZATION_REFUSED", BINDING),
    (code_made_up, "AUTHORIZATION_REFUSED", BINDING),
    (code_and_error, "INVALID_ARGUMENT", NOBODYS),
    (denied, "AUTHORIZATION_DENIED", BINDING),
    (issuer_wrong, "AUTHORIZATION_ISSUER", BINDING),
    (issuer_missing, "AUTHORIZATION_ISSUER", BINDING),
    (issuer_wrong_with_an_error, "AUTHORIZATION_ISSUER", BINDING),
    (scope_cut_down, "AUTHORIZATION_INCOMPLETE", BINDING),
    (appkey_mismatch, "AUTHORIZATION_MISMATCH", BINDING),
    (uid_mismatch, "AUTHORIZATION_MISMATCH", BINDING),
    (account_bound_elsewhere, "ACCOUNT_BOUND_ELSEWHERE", BINDING),
    (server_not_on_the_list, "INVALID_ARGUMENT", NOBODYS),
    (server_of_another_network, "INVALID_ARGUMENT", NOBODYS),
    (discovery_leads_elsewhere, "NETWORK_LEADS_ELSEWHERE", NOBODYS),
    (invitation_used, "INVITATION_USED", INVITATION),
    (invitation_expired, "INVITATION_EXPIRED", INVITATION),
    (invitation_cancelled, "INVITATION_CANCELLED", INVITATION),
    (invitation_tampered, "INVITATION_UNKNOWN", NOBODYS),
    (invitation_of_another_tenant, "INVITATION_UNKNOWN", NOBODYS),
    (browser_of_somebody_else, "BINDING_STATE_INVALID", BINDING),
    (state_of_an_invitation_by_the_api, "BINDING_STATE_INVALID", BINDING),
    (state_of_the_api_by_an_invitation, "BINDING_STATE_INVALID", NOBODYS),
]


@pytest.mark.parametrize(
    ("misuse", "reason", "audited"), [pytest.param(*case, id=case[0].__name__) for case in CASES]
)
def test_misuse__is_refused(
    attack: Attack, misuse: Callable[[Attack], None], reason: str, audited: str
) -> None:
    """With its own reason, by no fault of ours, audited where it concerns an account; and no account comes of it."""
    held = {state_reused, code_replayed, account_bound_elsewhere, invitation_used}
    with pytest.raises(grpc.RpcError) as refused:
        misuse(attack)
    assert reason_of(refused.value) == reason
    assert refused.value.code() not in SERVERS_FAULTS
    written = [
        (row["action"], row["detail"]["reason"])
        for row in attack.world.rows("audit")
        if "refused" in row["action"]
    ]
    assert written == ([(audited, reason)] if audited else [])
    # The first, right step of some cases binds one account.
    assert len(attack.world.rows("tokens")) == (1 if misuse in held else 0)


def test_redirect_uri__is_never_the_callers(attack: Attack) -> None:
    """There is no way to name one: it is the platform's in each request, and what is exchanged is what was asked with."""
    for request in (pb.OpenInvitationRequest, pb.CompleteInvitationRequest, pb.CreateBindingBatchRequest):
        assert not [field for field in request.DESCRIPTOR.fields_by_name if "redirect" in field]
    attack.complete(*attack.agreed())
    uris = {row["redirect_uri"] for table in ("bindings", "applications") for row in attack.world.rows(table)}
    assert len(uris) == 1
