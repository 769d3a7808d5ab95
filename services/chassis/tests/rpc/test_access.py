"""Who may call what, and for which tenant."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pytest

from services.chassis.database.scope import PLATFORM, PUBLIC, Tenant
from services.chassis.errors import Kind, ServiceError
from services.chassis.principal import METADATA_KEY, PrincipalSigner
from services.chassis.reach import Reach
from services.chassis.rpc.access import AccessRule
from services.chassis.rpc.call import current_call
from services.chassis.rpc.status import error_from_rpc
from services.chassis.testing.rpc import (
    Offer,
    anonymous,
    client,
    gateway,
    member,
    metadata_of,
    new_keys,
    operator,
    serving,
)

MINE, OTHERS = "enterprises/mine/things/t", "enterprises/others/things/t"


@pytest.fixture
def rules(greeter):
    """The access rules of the greeter's methods, by name."""
    return {method.name: AccessRule.of(method) for method in greeter.service.methods}


@pytest.fixture
def stub(greeter, offer):
    """A server whose every method answers, in `text`, with the scope of the call; called without a principal."""

    def answer(request, context):
        return greeter.pb.Thing(text=str(current_call().scope))

    with serving(offer(GetThing=answer, CreateThing=answer, ReadPage=answer)) as running:
        yield greeter.grpc.GreeterServiceStub(running.channel)


def _error(call, request, principal=None, metadata=()) -> ServiceError:
    with pytest.raises(grpc.RpcError) as failed:
        call(request, metadata=metadata_of(principal) if principal else metadata)
    return error_from_rpc(failed.value)


def test_method__without_callers_keeps_the_server_from_starting(greeter, offer):
    """A method that does not say who may call it is refused when the service is added."""
    servicer = greeter.grpc.OpenServiceServicer()

    with (
        pytest.raises(ValueError, match="OpenService/GetThing has no"),
        serving(Offer(greeter.grpc.add_OpenServiceServicer_to_server, servicer, greeter.open_service)),
    ):
        pass


@pytest.mark.parametrize(
    ("method", "principal", "reason"),
    [
        ("GetThing", member("enterprises/mine"), None),
        ("GetThing", member("enterprises/mine", []), "ROLE_MISSING"),
        ("GetThing", member("enterprises/mine", ["LIMITED"]), "ROLE_MISSING"),
        ("GetThing", operator(), None),
        ("GetThing", client("enterprises/mine", ["things.read"]), None),
        ("GetThing", client("enterprises/mine", ["things.write"]), "SCOPE_MISSING"),
        ("GetThing", gateway(), "CALLER_NOT_ALLOWED"),
        ("GetThing", anonymous(), "CREDENTIALS_MISSING"),
        ("CreateThing", member("enterprises/mine", ["ANALYST", "EDITOR"]), None),
        ("CreateThing", member("enterprises/mine", ["ANALYST"]), "ROLE_MISSING"),
        ("CreateThing", client("enterprises/mine", ["things.write"]), None),
        ("CreateThing", operator(), "CALLER_NOT_ALLOWED"),
        ("ReadPage", anonymous(), None),
        ("ReadPage", client("enterprises/mine"), None),
    ],
)
def test_admission__by_kind_role_and_scope(rules, method, principal, reason):
    """Each kind of caller needs what the contract says for it; anonymous methods are for everybody."""
    if reason is None:
        rules[method].admit(principal)
        return
    with pytest.raises(ServiceError) as refused:
        rules[method].admit(principal)
    assert refused.value.reason == reason
    assert refused.value.kind is (
        Kind.UNAUTHENTICATED if reason == "CREDENTIALS_MISSING" else Kind.PERMISSION_DENIED
    )


SOME = frozenset({"g1", "g2"})
"""Groups of accounts."""


@pytest.mark.parametrize(
    ("method", "principal", "reach"),
    [
        ("GetThing", member("enterprises/mine", ["ANALYST"]), Reach()),
        (
            "GetThing",
            replace(member("enterprises/mine", []), grants={"EDITOR": SOME}),
            Reach(SOME, reads_all=False),
        ),
        (
            "CreateThing",
            replace(member("enterprises/mine", ["ANALYST"]), grants={"EDITOR": SOME}),
            Reach(SOME, reads_all=True),
        ),
        (
            "GetThing",
            replace(member("enterprises/mine", ["LIMITED"]), grants={"EDITOR": SOME}),
            Reach(SOME, reads_all=False),
        ),
        (
            "CreateThing",
            replace(client("enterprises/mine"), grants={"things.write": SOME}),
            Reach(SOME, reads_all=False),
        ),
        ("CreateThing", replace(member("enterprises/mine", []), grants={"ANALYST": SOME}), None),
        ("GetThing", replace(client("enterprises/mine"), grants={"things.write": SOME}), None),
        ("GetThing", operator(), Reach()),
        ("ReadPage", anonymous(), Reach()),
    ],
)
def test_rights__for_some_groups_reach_these(rules, method, principal, reach):
    """They let in where the method looks at each account, and nowhere else."""
    per_group = replace(rules[method], per_group=True)

    if reach is None:
        with pytest.raises(ServiceError) as refused:
            per_group.admit(principal)
        assert refused.value.reason in {"ROLE_MISSING", "SCOPE_MISSING"}
        return
    per_group.admit(principal)
    assert per_group.reach(principal) == reach
    if reach.groups is not None:
        with pytest.raises(ServiceError, match="in the whole enterprise") as refused:
            rules[method].admit(principal)
        assert refused.value.kind is Kind.PERMISSION_DENIED


@pytest.mark.parametrize(
    "case",
    [
        ("GetThing", member("enterprises/mine"), {"name": MINE}, Tenant("enterprises/mine")),
        ("GetThing", operator(), {"name": OTHERS}, Tenant("enterprises/others")),
        ("ListThings", member("enterprises/mine"), {}, Tenant("enterprises/mine")),
        ("ListThings", operator(), {}, PLATFORM),
        ("ListThings", operator(), {"parent": "rollouts/r"}, PLATFORM),
        ("ListThings", gateway(), {}, PLATFORM),
        ("ReadPage", anonymous(), {"name": MINE}, Tenant("enterprises/mine")),
        ("ReadPage", anonymous(), {"name": "pages/p"}, PUBLIC),
        ("ReadPage", member("enterprises/mine"), {"name": OTHERS}, Tenant("enterprises/others")),
    ],
)
def test_scope__is_the_tenant_that_the_request_names(rules, greeter, case):
    """The request's enterprise, else the caller's, else all for the platform's own and none for nobody."""
    method, principal, fields, scope = case
    kind = greeter.pb.GetThingRequest if "name" in fields else greeter.pb.ListThingsRequest

    assert rules[method].tenant(principal, kind(**fields), check=True) == scope


def test_cross_tenant__is_not_found_as_if_it_did_not_exist(stub, greeter):
    """Another enterprise's resource answers word for word as one that does not exist."""
    request = greeter.pb.GetThingRequest(name=OTHERS)

    error = _error(stub.GetThing, request, member("enterprises/mine"))

    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "NOT_FOUND")
    assert error.message == f"{OTHERS} does not exist or is not yours"


def test_cross_tenant__parent_is_not_found(stub, greeter):
    """Nothing can be made in another enterprise either."""
    request = greeter.pb.CreateThingRequest(parent="enterprises/others", thing={}, tags=["t"], rank=1)

    assert (
        _error(stub.CreateThing, request, client("enterprises/mine", ["things.write"])).kind is Kind.NOT_FOUND
    )


def test_cross_tenant__without_the_check_the_scope_is_the_callers_own(greeter, offer):
    """With the check off, the call runs, in the caller's own scope: row-level security must hold by itself."""

    def answer(request, context):
        return greeter.pb.Thing(text=str(current_call().scope))

    with serving(offer(GetThing=answer), tenant_check=False) as running:
        stub = greeter.grpc.GreeterServiceStub(running.as_(member("enterprises/mine")))
        assert stub.GetThing(greeter.pb.GetThingRequest(name=OTHERS)).text == str(Tenant("enterprises/mine"))


def test_principal__bare_claims_are_not_believed(stub, greeter):
    """No principal, nonsense, and one signed by somebody else are UNAUTHENTICATED."""
    request = greeter.pb.GetThingRequest(name=MINE)
    forged = PrincipalSigner(new_keys().private).sign(operator(), datetime.now(UTC))

    for metadata, reason in [
        ((), "PRINCIPAL_MISSING"),
        (((METADATA_KEY, "OPERATOR"),), "PRINCIPAL_INVALID"),
        (((METADATA_KEY, forged),), "PRINCIPAL_INVALID"),
    ]:
        error = _error(stub.GetThing, request, metadata=metadata)
        assert (error.kind, error.reason) == (Kind.UNAUTHENTICATED, reason)


def test_checks__come_in_their_order(stub, greeter):
    """Who one is comes before what one may, that before whose it is, and that before what is wrong with the request."""
    wrong_and_others = greeter.pb.CreateThingRequest(parent="enterprises/others")
    wrong = greeter.pb.CreateThingRequest(parent="enterprises/mine")
    callers = [None, member("enterprises/mine", ["ANALYST"]), member("enterprises/mine")]

    kinds = [_error(stub.CreateThing, wrong_and_others, caller).kind for caller in callers]
    kinds.append(_error(stub.CreateThing, wrong, callers[-1]).kind)

    assert kinds == [Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED, Kind.NOT_FOUND, Kind.INVALID_ARGUMENT]


def test_every_method__is_closed_to_nobody_unless_it_says_so(rules):
    """Over all methods and callers: only what the contract lists is let in."""
    callers = [
        anonymous(),
        member("enterprises/mine"),
        client("enterprises/mine", ["things.read", "things.write"]),
        operator(),
        gateway(),
    ]
    allowed = set()
    for (name, rule), caller in itertools.product(rules.items(), callers):
        try:
            rule.admit(caller)
        except ServiceError:
            continue
        allowed.add((name, caller.kind))

    expected = {
        (name, kind)
        for name, rule in rules.items()
        for kind in (rule.callers if "ANONYMOUS" not in rule.callers else {each.kind for each in callers})
    }
    assert allowed == expected


def test_own__lets_every_member_in(rules):
    """What concerns the caller is open to LIMITED members; to callers without any role, and to others, as before."""
    own = replace(rules["GetThing"], own=True)

    own.admit(member("enterprises/mine", ["LIMITED"]))
    for principal, reason in [
        (member("enterprises/mine", []), "ROLE_MISSING"),
        (client("enterprises/mine"), "SCOPE_MISSING"),
        (anonymous(), "CREDENTIALS_MISSING"),
    ]:
        with pytest.raises(ServiceError) as refused:
            own.admit(principal)
        assert refused.value.reason == reason
