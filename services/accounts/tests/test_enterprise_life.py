"""An enterprise's own life, by gRPC: what it says of itself, what operators say of it."""

import pytest
from numerator.accounts.v1 import accounts_pb2
from numerator.accounts.v1 import enterprises_pb2 as pb
from numerator.accounts.v1.enterprises_pb2_grpc import EnterpriseServiceStub
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.tests.test_sessions import refused
from services.accounts.tests.world import World
from services.chassis.principal import Principal
from services.chassis.testing.rpc import member, operator

V = accounts_pb2.Enterprise.Verification


def enterprises(world: World, principal: Principal) -> EnterpriseServiceStub:
    return EnterpriseServiceStub(world.running.as_(principal))


def test_update__changes_what_is_given(world: World) -> None:
    """The rest stays; it is told once, and a stale etag is refused."""
    company = world.register()
    owner = enterprises(world, company.owner)
    seen = world.as_(company.owner).GetEnterprise(accounts_pb2.GetEnterpriseRequest(name=company.name))
    changed = owner.UpdateEnterprise(
        pb.UpdateEnterpriseRequest(name=company.name, display_name="Tianshan", region="", etag=seen.etag)
    )
    assert (changed.display_name, changed.industry, changed.region) == ("Tianshan", "automotive", "")
    same = owner.UpdateEnterprise(pb.UpdateEnterpriseRequest(name=company.name, display_name="Tianshan"))
    assert same == changed
    (told,) = world.told(events.EnterpriseChanged)
    assert (told.enterprise, told.display_name, told.region, told.verified) == (
        company.name,
        "Tianshan",
        "",
        False,
    )
    stale = pb.UpdateEnterpriseRequest(name=company.name, industry="x", etag=seen.etag)
    assert refused(owner.UpdateEnterprise, stale) == "ETAG_MISMATCH"
    empty = pb.UpdateEnterpriseRequest(name=company.name, display_name="")
    assert refused(owner.UpdateEnterprise, empty) == "INVALID_ARGUMENT"


def test_update__is_for_those_in_charge(world: World) -> None:
    """An ADMIN changes the name, and only an OWNER whether a second factor is required."""
    company = world.register()
    rename = pb.UpdateEnterpriseRequest(name=company.name, display_name="x")
    require = pb.UpdateEnterpriseRequest(name=company.name, second_factor_required=True)
    assert (
        refused(enterprises(world, member(company.name, ["EDITOR"])).UpdateEnterprise, rename)
        == "ROLE_MISSING"
    )
    assert refused(enterprises(world, member("enterprises/other")).UpdateEnterprise, rename) == "NOT_FOUND"
    admin = enterprises(world, member(company.name, ["ADMIN"]))
    assert admin.UpdateEnterprise(rename).display_name == "x"
    assert refused(admin.UpdateEnterprise, require) == "ROLE_MISSING"
    assert enterprises(world, company.owner).UpdateEnterprise(require).second_factor_required


def test_classify__travels_with_every_event(world: World) -> None:
    """Tier and attributes are replaced as a whole; members read them and do not set them."""
    company = world.register()
    staff = enterprises(world, operator())
    request = pb.ClassifyEnterpriseRequest(name=company.name, tier="gold", attributes={"sales_team": "west"})
    classified = staff.ClassifyEnterprise(request)
    assert (classified.tier, dict(classified.attributes)) == ("gold", {"sales_team": "west"})
    assert refused(enterprises(world, company.owner).ClassifyEnterprise, request) == "CALLER_NOT_ALLOWED"
    world.as_(company.owner).RequestVerification(accounts_pb2.RequestVerificationRequest(name=company.name))
    world.as_(operator()).VerifyEnterprise(accounts_pb2.VerifyEnterpriseRequest(name=company.name))
    for told in (world.told(events.EnterpriseChanged)[-1], world.told(events.EnterpriseVerified)[-1]):
        assert (told.tier, told.industry, dict(told.attributes)) == (
            "gold",
            "automotive",
            {"sales_team": "west"},
        )
    cleared = staff.ClassifyEnterprise(pb.ClassifyEnterpriseRequest(name=company.name))
    assert (cleared.tier, dict(cleared.attributes)) == ("", {})
    assert world.told(events.EnterpriseChanged)[-1].verified


@pytest.mark.parametrize(
    "attributes",
    [
        {"verified": "x"},
        {"tier": "x"},
        {"Sales": "x"},
        {"a b": "x"},
        {"a": "x" * 201},
        {f"k{n}": "x" for n in range(33)},
    ],
)
def test_classify__refuses_keys_of_ours_and_too_much(world: World, attributes: dict[str, str]) -> None:
    """Nothing is kept."""
    company = world.register()
    request = pb.ClassifyEnterpriseRequest(name=company.name, attributes=attributes)
    assert refused(enterprises(world, operator()).ClassifyEnterprise, request) == "INVALID_ARGUMENT"
    assert world.rows("enterprises")[0]["attributes"] == {}


def test_restore__gives_a_revoked_verification_back(world: World) -> None:
    """And nothing else: who was never verified cannot be restored."""
    company = world.register()
    staff, owner = world.as_(operator()), world.as_(company.owner)
    request = pb.RestoreVerificationRequest(name=company.name, note="Appeal granted")
    assert refused(enterprises(world, operator()).RestoreVerification, request) == "VERIFICATION_STATE"
    owner.RequestVerification(accounts_pb2.RequestVerificationRequest(name=company.name))
    staff.VerifyEnterprise(accounts_pb2.VerifyEnterpriseRequest(name=company.name))
    staff.RevokeVerification(accounts_pb2.RevokeVerificationRequest(name=company.name, note="x"))
    restored = enterprises(world, operator()).RestoreVerification(request)
    assert (restored.verification, restored.verification_note) == (V.VERIFIED, "Appeal granted")
    assert len(world.told(events.EnterpriseVerified)) == 2
    assert refused(enterprises(world, company.owner).RestoreVerification, request) == "CALLER_NOT_ALLOWED"


def test_review_notes__are_among_operators(world: World) -> None:
    """Listed in their order to operators; neither the enterprise nor the audit trail's detail shows the text."""
    company = world.register()
    staff = enterprises(world, operator())
    for text in ("Licence looks odd", "Called them: fine"):
        staff.CreateReviewNote(pb.CreateReviewNoteRequest(parent=company.name, text=text, request_id=text))
        staff.CreateReviewNote(pb.CreateReviewNoteRequest(parent=company.name, text=text, request_id=text))
    listing = pb.ListReviewNotesRequest(parent=company.name)
    assert {(each.text, each.author) for each in staff.ListReviewNotes(listing).review_notes} == {
        ("Licence looks odd", operator().subject),
        ("Called them: fine", operator().subject),
    }
    assert len(world.rows("review_notes")) == 2
    assert refused(enterprises(world, company.owner).ListReviewNotes, listing) == "CALLER_NOT_ALLOWED"
    assert "Licence" not in str(world.rows("audit"))
