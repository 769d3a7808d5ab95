"""
Another tenant's resource is answered for as one that does not exist: every method, every field that names a resource.

The calls are generated from the descriptors. They go straight to the services, as the gateway makes them, so that methods
without a route are called too, and no admission stands in between.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numerator.options.v1 import options_pb2

from deploy.demo.story import PASSWORD, ROLLOUT
from deploy.local.programs import SERVICES
from deploy.local.stubs import ROOT
from services.chassis.ids import new_id
from services.chassis.principal import Principal, PrincipalSigner
from services.chassis.testing.servers import free_ports
from tests.contract.calls import Answer, Caller, IdField, callers_of, http_route, id_fields, methods
from tests.contract.tenants import CLIENT_SCOPES, Tenant, everybody_admitted, make_tenant
from tests.world import World

_FLIGHT = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2036-01-01T00:00:00Z"}
_RULE = {"demographics": {"minAge": 18}}
_PLAN = "{rollout: x, flag: x, stages: [{ring: x}]}"

BODIES: Mapping[str, Any] = {
    "RegisterEnterprise": {"displayName": "X", "ownerEmail": "x@example.org", "ownerPassword": "long enough, is it not"},
    "CreateMember": {"displayName": "X", "role": "EDITOR", "password": "long enough, is it not"},
    "CreateClient": {"displayName": "X", "scopes": ["accounts.read"]},
    "CreateAccountGroup": {"displayName": "X"},
    "UpdateAccountGroup": {"displayName": "X"},
    "PlaceAccounts": {"rows": [{"account": "enterprises/x/accounts/x"}]},
    "LabelAccounts": {"rows": [{"account": "enterprises/x/accounts/x"}]},
    "CreateGrant": {"role": "EDITOR"},
    "ExplainAccess": {"subject": "enterprises/x/members/x", "right": "accounts.read"},
    "StartBinding": {"network": "mastodon"},
    "CreateBindingBatch": {"rows": [{"network": "mastodon", "server": "https://x.example"}]},
    "CreateWebhookEndpoint": {"url": "https://hooks.example/x", "eventTypes": ["placement.campaign.ended"]},
    "ReplayWebhookEndpoint": _FLIGHT,
    "CompleteBinding": {"state": "unknown", "code": "unknown"},
    "OpenSession": {"email": "x@example.org", "password": "x"},
    "RefreshSession": {"refreshToken": "x"},
    "StartLogin": {"browser": "x"},
    "CompleteLogin": {"state": "unknown", "code": "unknown"},
    "ChangePassword": {"oldPassword": PASSWORD, "newPassword": PASSWORD},
    "DisableTotp": {"password": PASSWORD},
    "CreateMemberInvitation": {"email": "x@example.org", "role": "EDITOR"},
    "AcceptMemberInvitation": {"token": "x", "displayName": "X", "password": "long enough, is it not"},
    "EnrollTotp": {"email": "x@example.org", "password": "x"},
    "CreateReviewNote": {"text": "x"},
    "UploadVerificationDocument": {"kind": "OTHER", "content": {"data": "JVBERi0xLjcK"}},
    "DownloadVerificationDocument": {"purpose": "x"},
    "ConfirmTotp": {"email": "x@example.org", "password": "x", "totp": "123456"},
    "AuthenticateClient": {"clientId": "x", "clientSecret": "x"},
    "ApplyPlan": {"plan": _PLAN},
    "SimulateRollout": {"name": f"rollouts/{ROLLOUT}", "verb": "now"},
    "JumpRollout": {"stage": "x", "reason": "x"},
    "RollbackRollout": {"reason": "x"},
    "PauseRollout": {"reason": "x"},
    "KillRollout": {"reason": "x"},
    "ApproveRollout": {"gate": "start"},
    "AdmitEnterprise": {"name": f"rollouts/{ROLLOUT}", "reason": "x"},
    "RevokeAdmission": {"name": f"rollouts/{ROLLOUT}", "reason": "x"},
    "ExplainAdmission": {"name": f"rollouts/{ROLLOUT}"},
    "SetListEntry": {"parent": f"rollouts/{ROLLOUT}", "entry": {"kind": "ALLOW", "reason": "x"}},
    "DeleteListEntry": {"parent": f"rollouts/{ROLLOUT}"},
    "CreateInvitation": {"parent": f"rollouts/{ROLLOUT}"},
    "SetEnterpriseAttributes": {"attributes": {"plan": "x"}},
    "ApplyFlags": {"document": "{flags: {x: {percent: 1%}}}"},
    "CreateChangeRequest": {"changeRequest": {"plan": _PLAN, "reason": "x"}},
    "EditChangeRequest": {"plan": _PLAN},
    "ApproveChangeRequest": {"contentHash": "x"},
    "RejectChangeRequest": {"reason": "x"},
    "ReportReplica": {"replica": "x", "snapshotVersion": 1, "admissionsVersion": 1},
    "CreatePublication": {"publication": {"text": "X"}},
    "AnswerInteraction": {"text": "X"},
    "CreateFreeze": {"freeze": {"wholeEnterprise": True, "reason": "x"}},
    "CreateAudience": {"audience": {"displayName": "X", "definition": _RULE}},
    "EstimateAudience": {"definition": _RULE},
    "CreateModule": {"module": {"title": "X", **_FLIGHT}},
    "CreateCampaign": {"campaign": {"displayName": "X", **_FLIGHT}},
    "CreatePlacement": {
        "placement": {"touchpoint": "TOPIC", "format": "EVENT_CARD", "creative": {"title": "X"}}
    },
    "Decide": {"user": "users/u1", "touchpoint": "HOME_FEED"},
    "DecideBatch": {"requests": [{"user": "users/u1", "touchpoint": "HOME_FEED"}]},
    "RecordExposure": {"token": "x"},
    "CreateRegistration": {"token": "x", "displayName": "X"},
    "QueryMetrics": {"metrics": ["reach"]},
    "IngestEngagements": {"body": {"data": "eyJ0eXBlIjoicG9zdCIsInBvc3QiOiJ4IiwidXNlciI6InUxIiwidGltZSI6IjIwMjYtMTEtMDFUMDg6MDA6MDBaIn0K"}},
}  # fmt: skip
"""
What requests need besides the names of resources, as proto-JSON.

That it is enough is shown by the controls, for what enterprises may call. The rest is to be refused whatever it says.
"""

ITEMS: Mapping[str, Any] = {
    "numerator.accounts.v1.Client.Grant": {"scope": "accounts.read"},
    "numerator.publishing.v1.Variant": {"text": "X"},
}
"""The same for the items of lists, by type."""

_LAST = ("Cancel", "End", "Delete", "Unbind", "Remove")
"""What ends something, in the order in which the controls do: what somebody else holds before who holds it."""

_ONE_KNOWS_NOTHING = frozenset(
    {"NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED", "INTERNAL"}
)


@dataclass
class Result:
    """
    What came of it.

    Attributes:
        checked: whether the application's check was at work.
        rpcs: methods called.
        routes: those of them that the gateway serves.
        fields: fields that name a tenant's resource.
        calls: calls made.
        compared: pairs of answers compared, one for another's resource and one for a missing one.
        leaks: differences between the two, and answers that hold something of the other tenant's.
        accepted: writes that were done under a name that is another's, or nobody's.
        unforeseen: calls answered with INTERNAL.
        changed: what is no longer as it was for the other tenant.
        blunt: controls that failed: the same call with the caller's own resources is refused, so the comparison says little.
        untried: fields that name what the tenants have none of, so that nothing was compared.
    """

    checked: bool = True
    rpcs: int = 0
    routes: int = 0
    fields: int = 0
    calls: int = 0
    compared: int = 0
    leaks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    unforeseen: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    blunt: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)

    @property
    def tight(self) -> bool:
        """Whether nothing leaked, was taken or changed, all was foreseen and tried, and every call would have worked at home."""
        return not any((self.leaks, self.accepted, self.unforeseen, self.changed, self.blunt, self.untried))

    def __str__(self) -> str:
        return (
            f"{self.rpcs} RPCs ({self.fields} fields that name a tenant's resource), {self.calls} calls, "
            f"{self.compared} comparisons: {len(self.leaks)} leaks, {len(self.accepted)} writes taken, {len(self.unforeseen)} unforeseen errors, "
            f"{len(self.changed)} changes; {len(self.blunt)} controls failed, {len(self.untried)} fields untried"
        )


def measure(world: World) -> tuple[Result, Result]:
    """
    Make two tenants with everything, and try one's resources as the other.

    First against api processes with the application's check turned off, which leaves tenants to row-level security; then, on
    the same data, as it is. The controls, which end what the intruder has, come last, and count for both.

    Args:
        world: prepared, and with profiles taken in.
    """
    with everybody_admitted(world):
        intruder, victim = make_tenant(world, "PROFILE"), make_tenant(world, "SEARCH")
    signer = PrincipalSigner(world.platform.keys.gateway.read_text())
    with unchecked(world) as addresses, closing(Caller(addresses, signer)) as caller:
        alone = _Trial(caller, world, intruder, victim).run()
    with closing(Caller({name: world.platform.url(name) for name in SERVICES}, signer)) as caller:
        trial = _Trial(caller, world, intruder, victim)
        checked = trial.run()
        checked.blunt = alone.blunt = trial.control()
    return checked, alone


@contextmanager
def unchecked(world: World) -> Iterator[Mapping[str, str]]:
    """The addresses of a second api process for each service, which leaves tenants to row-level security."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, port in ports.items():
                prefix = name.upper()
                own = {
                    f"{prefix}_GRPC_ADDRESS": f"127.0.0.1:{port}",
                    f"{prefix}_METRICS_PORT": "0",
                    f"{prefix}_TENANT_CHECK": "false",
                }
                if name == "analytics":
                    own["ANALYTICS_STORE_PATH"] = f"{folder}/columns"  # one process only may have it open
                if name == "rollout":
                    own["ROLLOUT_FLAGD_PORT"] = "0"
                with (Path(folder) / f"{name}.log").open("wb") as log:
                    running.append(
                        subprocess.Popen(
                            [sys.executable, "-m", f"services.{name}", "api"],
                            cwd=ROOT,
                            env={**world.platform.env(f"{name}-api"), **_PYTHON, **own},
                            stdout=log,
                            stderr=subprocess.STDOUT,
                        )
                    )
            for port in ports.values():
                _await_serving(port)
            yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(30)


_PYTHON = {"PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}"}


def _await_serving(port: int, seconds: float = 120) -> None:
    # Or a process that is slow to start is not asked again for most of a minute.
    often = [("grpc.max_reconnect_backoff_ms", 1000)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", often) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True
        )
        for each in watch:
            if each.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watch.cancel()


class _Trial:
    """One intruder, one victim, all methods."""

    def __init__(self, caller: Caller, world: World, intruder: Tenant, victim: Tenant) -> None:
        self._caller = caller
        self._server = world.platform.url("sandbox")
        self._intruder = intruder
        self._victim = victim
        self._result = Result()
        self._as_intruder = list(principals_of(intruder))

    def run(self) -> Result:
        self._result.checked = self._is_checked()
        before = self._holdings()
        for service, method in methods():
            self._result.rpcs += 1
            self._result.routes += http_route(method)
            fields = [each for each in id_fields(method) if each.shape.startswith("enterprises/")]
            self._result.fields += len(fields)
            if "ANONYMOUS" in callers_of(method):
                continue  # public: there is nothing to keep apart
            if not fields:
                self._ask(service, method, self._request(method))
            for each in fields:
                self._try(service, method, each)
        self._try_tokens()
        self._result.changed = [
            f"{what}: was {was}, is {now}"
            for (what, was), now in zip(before.items(), self._holdings().values(), strict=True)
            if was != now
        ]
        self._result.calls = self._caller.calls
        return self._result

    def _is_checked(self) -> bool:
        """The check comes before the validation: without it, a request that has nothing but another's name is invalid."""
        service, method = next(each for each in methods() if each[1].name == "CreateCampaign")
        request = message_factory.GetMessageClass(method.input_type)(parent=self._victim.enterprise)
        return self._caller.call(service, method, request, self._as_intruder[0]).code == "NOT_FOUND"

    def _try(self, service: str, method: MethodDescriptor, at: IdField) -> None:
        """Another's resource, and what does not exist, in one field."""
        if at.shape not in self._victim.names:
            self._result.untried.append(f"{method.name}, {at}: {at.shape}")
        for theirs in self._victim.names.get(at.shape, ()):
            nowhere, hybrid = _renamed(theirs, 0), self._at_home(theirs)
            pairs = [(theirs, nowhere)]
            if theirs.count("/") > 1 and at.shape.endswith("/*"):  # below an enterprise, and not its only one
                pairs += [(theirs, _renamed(theirs, -1)), (hybrid, _renamed(hybrid, -1))]
            for existing, missing in pairs:
                told = [
                    self._ask(service, method, self._request(method, at, name))
                    for name in (existing, missing)
                ]
                if (
                    len(at.path) == 1
                    and not _only_reads(method)
                    and any(a.code == "OK" for each in told for a in each)
                ):
                    self._result.accepted.append(f"{method.name}, {at} = {existing} or {missing}")
                self._compare(f"{method.name}, {at}", (existing, missing), told)

    def _try_tokens(self) -> None:
        """What is nobody's resource and has no name, but is for one enterprise only."""
        for name, at, theirs in (
            ("AcceptInvitation", "token", self._victim.invitation),
            ("CompleteBinding", "state", self._victim.state),
        ):
            service, method = next(each for each in methods() if each[1].name == name)
            told = []
            for token in (theirs, "of-nobody"):
                request: Any = self._request(method)
                setattr(request, at, token)
                told.append(self._ask(service, method, request))
            if any(answer.code == "OK" for answer in told[0]):
                self._result.accepted.append(f"{name}, another's {at}")
            self._compare(f"{name}, {at}", (theirs, "of-nobody"), told)

    def _compare(self, what: str, values: tuple[str, str], told: Sequence[Sequence[Answer]]) -> None:
        """The answers to two values must differ in nothing but the values."""
        self._result.compared += len(told[0])
        for kind, one, other in zip(("member", "client"), *told, strict=True):
            if one.without(_words(values[0])) != other.without(_words(values[1])):
                self._result.leaks.append(
                    f"{what} as {kind}, {values[0]}: {one.code} {one.text}; {values[1]}: {other.code} {other.text}"
                )

    def _ask(self, service: str, method: MethodDescriptor, request: Message) -> list[Answer]:
        """The answers to the intruder, as a member and as an app; none may hold more of the victim's than was sent."""
        sent = str(request)
        answers = []
        for principal in self._as_intruder:
            answer = self._caller.call(service, method, request, principal)
            seen = [word for word in self._victim.words if word in answer.text and word not in sent]
            if seen:
                self._result.leaks.append(f"{method.name}: the answer holds {seen}: {answer.text}")
            if answer.code in ("INTERNAL", "UNKNOWN"):
                self._result.unforeseen.append(f"{method.name}({sent.strip()}): {answer.text}")
            answers.append(answer)
        return answers

    def control(self) -> list[str]:
        """
        The same calls with the intruder's own resources, which work, so that the refusals were about whose they are.

        Returns those that do not.
        """
        blunt = []
        every = sorted(methods(), key=lambda each: _end(each[1]))
        for service, method in every:
            if not for_tenants(method):
                continue
            for at in [None, *(each for each in id_fields(method) if len(each.path) > 1)]:
                own = self._intruder.names.get(at.shape, [""])[0] if at else ""
                if at and not own:
                    continue
                answers = [
                    self._caller.call(service, method, self._request(method, at, own), principal)
                    for principal in self._as_intruder
                ]
                if all(answer.code in _ONE_KNOWS_NOTHING for answer in answers):
                    blunt.append(f"{method.name} {at or ''}: {answers[0].code} {answers[0].text}")
        return blunt

    def _holdings(self) -> dict[str, str]:
        """All that the victim can get and list."""
        found = {}
        member = next(principals_of(self._victim))
        for service, method in methods():
            if not (_only_reads(method) and method.name.startswith(("Get", "List"))):
                continue
            for at in id_fields(method):
                for name in self._victim.names.get(at.shape, ()):
                    request = message_factory.GetMessageClass(method.input_type)()
                    at.put(request, name, ITEMS)
                    answer = self._caller.call(service, method, request, member)
                    if answer.code == "OK":
                        found[f"{method.name}({name})"] = answer.text
        return found

    def _request(self, method: MethodDescriptor, at: IdField | None = None, name: str = "") -> Message:
        """A request that is right but for the name at one field."""
        request = right_request(method, self._intruder, self._server)
        if at:
            at.put(request, name, ITEMS)
        return request

    def _at_home(self, name: str) -> str:
        """Another's id under the intruder's name."""
        return self._intruder.enterprise + "/" + "/".join(name.split("/")[2:])


def right_request(method: MethodDescriptor, tenant: Tenant, server: str) -> Message:
    """A request with which a tenant may call a method, on its own resources; `server` is one to bind accounts on."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    json_format.ParseDict(BODIES.get(method.name, {}), request)
    if method.name == "CreateMember":
        request.email = f"{new_id()}@example.org"
    if method.name == "AcceptInvitation":
        request.token = tenant.invitation
    if method.name == "StartBinding":
        request.server = server
    if method.name == "CreateBindingBatch":
        request.rows[0].server = server
    for each in id_fields(method):
        if len(each.path) == 1 or str(each) == "placement.audience":
            names = tenant.names.get(each.shape, ())
            if names:
                each.put(request, names[0], ITEMS)
    right: Message = request
    return right


def principals_of(tenant: Tenant) -> Iterator[Principal]:
    """A member who may do everything, and an app with every scope there is for apps."""
    (member,) = tenant.names["enterprises/*/members/*"]
    (session,) = tenant.names["enterprises/*/members/*/sessions/*"]
    (client,) = tenant.names["enterprises/*/clients/*"]
    yield Principal(
        "MEMBER",
        member,
        tenant.enterprise,
        roles=frozenset({"OWNER"}),
        session=session.rpartition("/")[2],
    )
    yield Principal("CLIENT", client, tenant.enterprise, scopes=frozenset(CLIENT_SCOPES))


def _end(method: MethodDescriptor) -> int:
    """When the controls call a method: what ends nothing first."""
    return next((place for place, verb in enumerate(_LAST, start=1) if method.name.startswith(verb)), 0)


def _only_reads(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)


def for_tenants(method: MethodDescriptor) -> bool:
    """Whether a tenant's member or app may call it, and not everybody."""
    callers, scope = callers_of(method), method.GetOptions().Extensions[options_pb2.access].scope
    return "ANONYMOUS" not in callers and (
        "MEMBER" in callers or ("CLIENT" in callers and scope in CLIENT_SCOPES)
    )


def _renamed(name: str, begin: int) -> str:
    """A name that does not exist: of the same form, with new ids; only the last one for `begin` -1."""
    parts = name.split("/")
    for index in range(len(parts) - 1 if begin else 1, len(parts), 2):
        parts[index] = new_id()
    return "/".join(parts)


def _words(name: str) -> list[str]:
    return [name, *name.split("/")[1::2]]
