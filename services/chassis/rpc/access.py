"""Who may call a method, from `(numerator.options.v1.access)`, and for which tenant."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from numerator.options.v1 import options_pb2

from services.chassis.database.scope import PLATFORM, PUBLIC, Scope, Tenant
from services.chassis.errors import Kind, ServiceError, not_found
from services.chassis.names import enterprise_of
from services.chassis.principal import Principal
from services.chassis.rpc.paths import field_at, path_fields, value_at

DEFAULT_DEADLINE_SECONDS = 5.0
_OVER_ALL = frozenset({"OPERATOR", "GATEWAY"})


def full_name(method: MethodDescriptor) -> str:
    """`package.Service/Method`, as logs, metrics and traces name a method."""
    return f"{method.containing_service.full_name}/{method.name}"


def deadline_of(method: MethodDescriptor) -> float:
    """How long a call of this method may take, in seconds."""
    return method.GetOptions().Extensions[options_pb2.access].deadline_seconds or DEFAULT_DEADLINE_SECONDS


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a caller of one method needs."""

    method: str
    callers: frozenset[str]
    roles: frozenset[str]
    scope: str
    name_fields: tuple[str, ...]

    @classmethod
    def of(cls, method: MethodDescriptor) -> "AccessRule":
        """
        Raises ValueError for a method that does not say who may call it: it would be open or dead by
            accident.
        """
        access = method.GetOptions().Extensions[options_pb2.access]
        callers = {options_pb2.Caller.Name(each) for each in access.callers} - {"CALLER_UNSPECIFIED"}
        if not callers:
            raise ValueError(
                f"{full_name(method)} has no (numerator.options.v1.access).callers: say who may call it"
            )
        fields = dict.fromkeys([*path_fields(method), "name", "parent"])
        return cls(
            method=full_name(method),
            callers=frozenset(callers),
            roles=frozenset(options_pb2.Role.Name(each) for each in access.roles),
            scope=access.scope,
            name_fields=tuple(field for field in fields if _is_text(method, field)),
        )

    def admit(self, principal: Principal) -> None:
        """
        Raises UNAUTHENTICATED `CREDENTIALS_MISSING` for nobody where somebody is needed, else
        PERMISSION_DENIED with `CALLER_NOT_ALLOWED`, `ROLE_MISSING` or `SCOPE_MISSING`.
        """
        if "ANONYMOUS" in self.callers:
            return
        if principal.kind == "ANONYMOUS":
            raise ServiceError(
                Kind.UNAUTHENTICATED, "CREDENTIALS_MISSING", "log in, or send a client's access token"
            )
        if principal.kind not in self.callers:
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "CALLER_NOT_ALLOWED",
                f"{self.method} is for {_one_of(self.callers)}, not for {principal.kind}",
                metadata={"method": self.method, "callers": _one_of(self.callers), "caller": principal.kind},
            )
        if principal.kind == "MEMBER" and self.roles and not self.roles & principal.roles:
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "ROLE_MISSING",
                f"{self.method} needs the role {_one_of(self.roles)}",
                metadata={"method": self.method, "roles": _one_of(self.roles)},
            )
        if principal.kind == "CLIENT" and self.scope and self.scope not in principal.scopes:
            raise ServiceError(
                Kind.PERMISSION_DENIED,
                "SCOPE_MISSING",
                f"{self.method} needs the scope {self.scope}",
                metadata={"method": self.method, "scope": self.scope},
            )

    def tenant(self, principal: Principal, request: Message | None, *, check: bool) -> Scope:
        """
        Whose rows the call may see.

        Raises NOT_FOUND when the request names a resource of an enterprise that is not the caller's, as if it
        did not exist; `check=False` leaves that to row-level security.
        """
        named = list(self._names(request)) if request is not None else []
        if check and principal.enterprise and "ANONYMOUS" not in self.callers:
            for name, enterprise in named:
                if enterprise != principal.enterprise:
                    raise not_found(name)
        if not check and principal.enterprise:
            # What row-level security must hold against: the caller's own scope, whatever the request names.
            return Tenant(principal.enterprise)
        whose = named[0][1] if named else principal.enterprise
        if whose:
            return Tenant(whose)
        return PLATFORM if principal.kind in _OVER_ALL else PUBLIC

    def _names(self, request: Message) -> Iterable[tuple[str, str]]:
        for path in self.name_fields:
            value = str(value_at(request, path))
            enterprise = enterprise_of(value)
            if enterprise:
                yield value, enterprise


def _one_of(names: frozenset[str]) -> str:
    return " or ".join(sorted(names))


def _is_text(method: MethodDescriptor, path: str) -> bool:
    field = field_at(method.input_type, path)
    return field is not None and field.type == field.TYPE_STRING and not field.is_repeated
