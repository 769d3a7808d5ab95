"""Enterprises, by gRPC: registration and verification."""

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.tests.world import PASSWORD, World, field_reasons_of, reason_of
from services.chassis.testing.rpc import anonymous, client, member, operator

V = pb.Enterprise.Verification


def registration(**fields: str) -> pb.RegisterEnterpriseRequest:
    wanted = {
        "display_name": "Tianshan Motors",
        "owner_email": "owner@tianshan.example",
        "owner_password": PASSWORD,
    } | fields
    return pb.RegisterEnterpriseRequest(**wanted)


def test_register__makes_an_enterprise_that_nobody_has_verified(world: World) -> None:
    """The answer says what was asked for, the event says the same, and the owner can read it."""
    company = world.register()
    found = world.as_(company.owner).GetEnterprise(pb.GetEnterpriseRequest(name=company.name))
    assert (found.display_name, found.industry, found.region) == ("Tianshan Motors", "automotive", "xinjiang")
    assert found.verification == V.NOT_REQUESTED
    assert found.create_time == found.update_time
    assert [event.enterprise for event in world.told(events.EnterpriseRegistered)] == [company.name]


def test_register__is_repeated_without_a_second_enterprise(world: World) -> None:
    """The same request id gives the same answer; with another request it is refused."""
    first = world.as_(anonymous()).RegisterEnterprise(registration(request_id="r-1"))
    again = world.as_(anonymous()).RegisterEnterprise(registration(request_id="r-1"))
    assert again == first
    assert len(world.rows("enterprises")) == 1
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(anonymous()).RegisterEnterprise(registration(request_id="r-1", display_name="Other"))
    assert reason_of(refused.value) == "IDEMPOTENCY_KEY_REUSED"


def test_register__lets_strangers_choose_the_same_request_id(world: World) -> None:
    """Anonymous callers share no name space: two people's `1` are two requests."""
    one = world.as_(anonymous()).RegisterEnterprise(registration(request_id="1"))
    other = world.as_(anonymous()).RegisterEnterprise(registration(request_id="1", owner_email="b@b.example"))
    assert one.name != other.name


def test_register__refuses_an_address_that_is_taken(world: World) -> None:
    """In whatever spelling, and nothing of the second enterprise stays."""
    world.register()
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(anonymous()).RegisterEnterprise(registration(owner_email="Owner@Tianshan.example"))
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(refused.value) == "EMAIL_TAKEN"
    assert len(world.rows("enterprises")) == 1


@pytest.mark.parametrize(
    ("fields", "wrong", "reason"),
    [
        ({"owner_password": "too short"}, "owner_password", "PASSWORD_TOO_SHORT"),
        ({"owner_email": "nobody"}, "owner_email", "INVALID"),
        ({"display_name": ""}, "display_name", "REQUIRED"),
        ({"display_name": "x" * 201}, "display_name", "INVALID"),
    ],
)
def test_register__names_what_is_wrong(world: World, fields: dict[str, str], wrong: str, reason: str) -> None:
    """The field and the reason; nothing is kept."""
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(anonymous()).RegisterEnterprise(registration(**fields))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field_reasons_of(refused.value) == {wrong: reason}
    assert not world.rows("enterprises")


def test_verification__is_asked_for_granted_and_taken_back(world: World) -> None:
    """The whole way, with the notes, the events and the audit trail."""
    company = world.register()
    owner, staff = world.as_(company.owner), world.as_(operator())

    asked = owner.RequestVerification(pb.RequestVerificationRequest(name=company.name, note="Licence 650100"))
    assert (asked.verification, asked.verification_note) == (V.PENDING, "Licence 650100")
    rejected = staff.RejectEnterprise(pb.RejectEnterpriseRequest(name=company.name, note="Unreadable"))
    assert (rejected.verification, rejected.verification_note) == (V.REJECTED, "Unreadable")
    owner.RequestVerification(pb.RequestVerificationRequest(name=company.name))
    verified = staff.VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name, note="papers seen"))
    assert verified.verification == V.VERIFIED
    revoked = staff.RevokeVerification(
        pb.RevokeVerificationRequest(name=company.name, note="Licence expired")
    )
    assert revoked.verification == V.REVOKED

    assert [event.enterprise for event in world.told(events.EnterpriseVerified)] == [company.name]
    assert [e.enterprise for e in world.told(events.EnterpriseVerificationRevoked)] == [company.name]
    decided = [row["action"] for row in world.rows("audit") if row["action"].startswith("verification.")]
    assert decided == [
        f"verification.{step}" for step in ("pending", "rejected", "pending", "verified", "revoked")
    ]


def test_verification__refuses_a_step_that_is_not_next(world: World) -> None:
    """Nobody is verified who has not asked; the state stays."""
    company = world.register()
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(operator()).VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "VERIFICATION_STATE"
    assert world.rows("enterprises")[0]["verification"] == "NOT_REQUESTED"


def test_verification__refuses_a_stale_etag(world: World) -> None:
    """An operator decides on what he has seen."""
    company = world.register()
    seen = world.as_(company.owner).GetEnterprise(pb.GetEnterpriseRequest(name=company.name))
    world.as_(company.owner).RequestVerification(
        pb.RequestVerificationRequest(name=company.name, etag=seen.etag)
    )
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(operator()).VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name, etag=seen.etag))
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert reason_of(refused.value) == "ETAG_MISMATCH"


def test_verification__happens_once_for_one_request(world: World) -> None:
    """A repetition gets the first answer, although the step itself is no longer possible."""
    company = world.register()
    request = pb.RequestVerificationRequest(name=company.name, request_id="r-1")
    first = world.as_(company.owner).RequestVerification(request)
    assert world.as_(company.owner).RequestVerification(request) == first
    assert len(world.audited("verification.pending")) == 1


def test_verification__is_decided_by_operators_only(world: World) -> None:
    """Neither an owner nor a partner app verifies; an analyst does not even ask."""
    company = world.register()
    for caller in (company.owner, client(company.name, ["accounts.write"]), anonymous()):
        with pytest.raises(grpc.RpcError) as refused:
            world.as_(caller).VerifyEnterprise(pb.VerifyEnterpriseRequest(name=company.name))
        assert refused.value.code() in {
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
        }
    with pytest.raises(grpc.RpcError) as refused:
        world.as_(member(company.name, ["ANALYST"])).RequestVerification(
            pb.RequestVerificationRequest(name=company.name)
        )
    assert reason_of(refused.value) == "ROLE_MISSING"


def test_list_enterprises__pages_and_filters(world: World) -> None:
    """Every enterprise once, oldest first, whatever the size of the pages; a token serves its own query only."""
    names = [world.register(email=f"owner-{i}@x.example").name for i in range(5)]
    asking = names[1::2]
    for name in asking:
        world.as_(member(name)).RequestVerification(pb.RequestVerificationRequest(name=name))
    staff = world.as_(operator())

    def all_of(**query: int) -> list[str]:
        found, token = [], ""
        while True:
            page = staff.ListEnterprises(pb.ListEnterprisesRequest(page_size=2, page_token=token, **query))
            assert len(page.enterprises) <= 2
            found += [each.name for each in page.enterprises]
            token = page.next_page_token
            if not token:
                return found

    # They registered at the same instant of a clock that stands still, so their names decide.
    assert all_of() == sorted(names)
    assert all_of(verification=V.PENDING) == sorted(asking)

    token = staff.ListEnterprises(pb.ListEnterprisesRequest(page_size=2)).next_page_token
    with pytest.raises(grpc.RpcError) as refused:
        staff.ListEnterprises(pb.ListEnterprisesRequest(page_token=token, verification=V.PENDING))
    assert field_reasons_of(refused.value) == {"page_token": "PAGE_TOKEN_INVALID"}
